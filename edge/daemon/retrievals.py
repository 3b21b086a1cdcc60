"""The daemon's part in queries and retrievals: converted copies, what must stay, what is on record."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edge.errors import EdgeError
from edge.model import Lease
from edge.monitor.live import QueryTally
from edge.outbound.copies import CopyMaker, CopySteps
from edge.query.asking import NotedQuery
from edge.scp.gateway_link import MadeCopy
from edge.spool import Spool
from edge.store import ledger
from edge.store.database import Store, Transaction
from edge.transform import Transcoder

log = logging.getLogger(__name__)

#: Conversions at a time; each has a process of its own.
RETRIEVAL_CONVERSIONS = 2
#: Questions that are kept between two times of writing down; of more only the number is.
MOST_QUERIES = 1000
OTHERS = "others"


class SpoolCopies:
    """See edge.scp.gateway_link.Copies. Thread-safe. A copy is a partial file: a crash leaves it to the next start.

    It has the patient of today, and is for a destination what a route would send there.
    """

    def __init__(
        self,
        transcoder: Transcoder,
        spool: Spool,
        find_object: Callable[[str], Lease | None],
        steps: Callable[[str], CopySteps],
    ) -> None:
        """`find_object`: what the catalog has at a path of the spool. `steps`: for a destination, empty: for others."""
        self._transcoder, self._spool, self._lock = transcoder, spool, threading.Lock()
        self._find_object, self._steps = find_object, steps
        self._threads = ThreadPoolExecutor(RETRIEVAL_CONVERSIONS, thread_name_prefix="convert retrieval")
        self._made: dict[int, tuple[Future[MadeCopy], Path]] = {}

    def start(self, path: str, target_syntax: str, destination: str) -> int:
        token = secrets.randbits(48)
        target = self._spool.incoming / f"retrieval-{token:012x}.part"
        given = path, target_syntax, target, destination
        with self._lock:
            self._made[token] = self._threads.submit(self._make, *given), target
        return token

    def _make(self, path: str, syntax: str, target: Path, destination: str) -> MadeCopy:
        """The copy; where nothing is to be changed, the object itself."""
        try:
            found = self._find_object(path)  # a receiving process asks: it names an object of the catalog, no other
            if found is None:
                return MadeCopy()
            copy = CopyMaker(self._spool, self._transcoder, self._steps(destination)).make(found, syntax)
            if copy is None:
                return MadeCopy(str(self._spool.path_of(path)), found.dataset_offset, found.size)
            os.rename(copy.path, target)
        except (EdgeError, OSError) as error:
            log.warning("a copy for a retrieval cannot be made: %s", error)
            return MadeCopy()
        return MadeCopy(str(target), copy.dataset_offset, copy.size, copy.sop_instance_uid)

    def find(self, token: int) -> MadeCopy | None:
        with self._lock:
            found = self._made.get(token)
        if found is None:
            return MadeCopy()
        return found[0].result() if found[0].done() else None

    def drop(self, token: int) -> None:
        with self._lock:
            found = self._made.pop(token, None)
        if found is not None:
            future, target = found
            if not future.cancel():
                future.add_done_callback(lambda _: target.unlink(missing_ok=True))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class SpoolReaders:
    """See edge.scp.gateway_link.Readers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._studies: Counter[int] = Counter()
        self._fetched: set[str] = set()

    def begin_fetch(self, study_uid: str) -> bool:
        with self._lock:
            if study_uid in self._fetched:
                return False
            self._fetched.add(study_uid)
            return True

    def end_fetch(self, study_uid: str) -> None:
        with self._lock:
            self._fetched.discard(study_uid)

    def note(self, studies: Sequence[int], is_begun: bool) -> None:
        with self._lock:
            for study in studies:
                self._studies[study] += 1 if is_begun else -1
                if self._studies[study] <= 0:
                    del self._studies[study]

    def is_read(self, study_id: int | None) -> bool:
        return study_id in self._studies


class QueryRegister:
    """What was asked, on its way into the ledger. Any thread may note."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: list[NotedQuery] = []
        self._others = 0
        self._tallies: dict[str, QueryTally] = {}

    def note(self, query: NotedQuery) -> None:
        with self._lock:
            known = self._tallies.get(query.what, QueryTally())
            self._tallies[query.what] = known.add(
                query.count, query.seconds, has_failed=query.status >> 12 in (0xA, 0xC)
            )
            if not query.is_recorded:
                return
            if len(self._noted) < MOST_QUERIES:
                self._noted.append(query)
            else:
                self._others += 1

    def tallies(self) -> dict[str, QueryTally]:
        """What was asked since the start, by its kind."""
        with self._lock:
            return dict(self._tallies)

    def take(self) -> Callable[[Transaction], None] | None:
        """The transaction that writes down what was asked since the last one, or None where nothing was."""
        with self._lock:
            noted, self._noted = self._noted, []
            others, self._others = self._others, 0
        if not noted:
            return None

        def work(conn: Transaction) -> None:
            for query in noted:
                _record(conn, query)
            if others:
                ledger.append(conn, noted[-1].at, ledger.QUERIED, OTHERS, [], payload={"times": others})

        return work


def _record(conn: Transaction, query: NotedQuery) -> None:
    payload = {
        "address": query.address,
        "what": query.what,
        "model": query.top,
        "syntax": query.syntax,
        "called": query.called_ae,
        "answers": query.count,
        "seconds": round(query.seconds, 3),
        "status": query.status,
        "left_out": list(query.left_out),
        **({"comment": query.comment} if query.comment else {}),
    }
    asked = {**payload, "identifier": query.identifier}
    ledger.append(conn, query.at, ledger.QUERIED, query.calling_ae, [], payload=asked)
    for study, count in query.sent.items():
        sent = {"address": query.address, "to": query.destination, "objects": count}
        ledger.append(conn, query.at, ledger.RETRIEVED, query.calling_ae, [], study_id=study, payload=sent)


def record_views(db: Store, who: str, address: str, access: str, studies: Sequence[int]) -> None:
    """Record that a caller of the web door is about to see studies."""
    payload = {"access": access, "address": address}

    def append_rows(conn: Transaction) -> None:
        for number in studies:
            ledger.append(conn, time.time(), ledger.VIEWED, who, [], study_id=number, payload=payload)

    db.write(append_rows)
