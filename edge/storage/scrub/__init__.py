"""The scrub: everything in the spool is read again and compared with what was received, once a week.

One thread reads the files in the order of their arrival, at the rate that makes a week of the whole spool, from the
disk itself; it waits while the gateway is busy, unless it has fallen a day behind. Its place is kept in the catalog.
What it finds is repaired where a destination has the instance (edge.storage.repair), else it is lost: an alarm. What
was lost before is tried again at times, and what a retrieval met is examined at once. When a round ends, the catalog
itself is checked.

Limits: rot is found within a week, and before anything is sent (edge.dicom.wire compares a quick checksum); where the
disk's own cache hides it, later.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from edge.errors import Hindered
from edge.spool import Spool
from edge.storage import verify
from edge.storage.repair import Repairer
from edge.store import gateway_values, integrity, kept_files
from edge.store.database import Store, Transaction
from edge.store.gateway_values import recall
from edge.store.kept_files import FileRow
from edge.worker import DONE, ThreadSpec, Worker

log = logging.getLogger(__name__)

#: The whole spool is read once in this number of seconds, but never more slowly than LEAST_RATE bytes a second.
_ROUND_SECONDS = 7 * 86_400.0
LEAST_RATE = 256 << 10
#: So far behind the plan, it does not wait for a quiet moment any more.
BEHIND_SECONDS = 86_400.0
_BATCH = 50
#: Instances that were evicted are passed over: this number in one step, with this pause behind it.
_SPAN, _SPAN_SECONDS = 20_000, 1.0
_QUIET_SECONDS = 5.0
REST_SECONDS = 60.0
SAVE_SECONDS = 60.0
#: What is lost is tried again: the destination that has it may be back.
RETRY_SECONDS = 3600.0
#: Files that readers found damaged, and that are not examined yet; more are left to the round.
_MOST_DOUBTED = 1000
KEY = "scrub"
SCRUB_THREAD = ThreadSpec(
    "scrub", __name__, "its place, instances, ledger; spooled files", "after the file that it reads"
)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a round has come. Times are seconds since 1970."""

    started_at: float
    instance_id: int = 0  # the last one that was checked
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    finished_at: float | None = None
    catalog: tuple[str, ...] = ()  # what was wrong with it at the last look


def place(conn: Transaction) -> Place | None:
    """What is written down of the scrub's progress."""
    kept = recall(conn, KEY)
    if kept is None:
        return None
    found = json.loads(kept)
    return Place(**{**found, "catalog": tuple(found["catalog"])})


def rate(total_bytes: int) -> float:
    """Bytes a second that make a round of the whole spool."""
    return max(total_bytes / _ROUND_SECONDS, LEAST_RATE)


def seconds_behind(at: Place, total_bytes: int, now: float) -> float:
    """Seconds that a round is behind its plan; negative when it is ahead."""
    return (now - at.started_at) - at.bytes / rate(total_bytes)


class Scrub:
    """The thread. See the module's promise."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        repairer: Repairer,
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`busy`: is the gateway receiving or sending?"""
        self._db, self._spool, self._repairer, self._busy, self._clock = db, spool, repairer, busy, clock
        self.worker = Worker(SCRUB_THREAD, self.step)
        self._versions: frozenset[str] = frozenset()
        self._doubted: deque[str] = deque(maxlen=_MOST_DOUBTED)
        self._saved_at = self._retried_at = float("-inf")
        self.place = Place(clock())

    def start(self) -> None:
        with self._db.reading() as conn:
            self.place = place(conn) or self.place
        self._db.write(verify.remember_versions)
        self.worker.start()

    def stop(self) -> None:
        """End the thread, and record the place."""
        self.worker.stop()
        if self._db.failure is None:
            self._save()

    def examine(self, path: str) -> None:
        """Have one file of the spool examined soon: a reader found it damaged. Any thread."""
        if path not in self._doubted:
            self._doubted.append(path)
        self.worker.wake()

    def step(self) -> float:
        """Read the next few files; returns the seconds until the next step."""
        if self._db.failure is not None:
            return DONE  # nothing can be recorded until a restart
        self._examine_doubted()
        now = self._clock()
        if not 0 <= now - self._retried_at < RETRY_SECONDS:  # below 0: the clock was set back
            self._retried_at = now
            self._retry_lost()
        if self.place.finished_at is not None:
            if 0 <= now - self.place.started_at < _ROUND_SECONDS:
                return REST_SECONDS
            self.place = Place(now)
        with self._db.reading() as conn:
            upto = self.place.instance_id + _SPAN
            rows, newest = kept_files.kept_after(conn, self.place.instance_id, _BATCH, upto), kept_files.newest(conn)
            self._versions = verify.writing_versions(conn)
            _, total = kept_files.kept_count(conn)
        if not rows and upto < newest:
            self.place = replace(self.place, instance_id=upto)
            return _SPAN_SECONDS
        for row in rows:
            if self.worker.is_stopping or not self._may_read(total):
                return 0.0
            self._check_file(row)
            self.worker.pause(row.size / rate(total))
        if not rows:
            self._finish()
        if not 0 <= self._clock() - self._saved_at < SAVE_SECONDS:
            self._save()
        return 0.0

    def _may_read(self, total: int) -> bool:
        """Waits for a quiet moment; bounded."""
        self._examine_doubted()
        while self._busy() and seconds_behind(self.place, total, self._clock()) < BEHIND_SECONDS:
            if self.worker.pause(_QUIET_SECONDS):
                return False
            self._examine_doubted()
        return True

    def _examine_doubted(self) -> None:
        while self._doubted and not self.worker.is_stopping:
            path = self._doubted.popleft()
            try:
                with self._db.reading() as conn:
                    instance = kept_files.instance_at(conn, path)
                if instance is not None:
                    self._repairer.repair(instance)
            except Hindered:
                self._doubted.appendleft(path)
                raise

    def _check_file(self, row: FileRow) -> None:
        damage = verify.check_file(self._spool.path_of(row.path), row, self._versions)
        repaired = self._repairer.repair(row.instance_id) if damage else None
        if repaired and repaired.text:  # empty: it was evicted meanwhile
            log.error("instance %d was damaged: %s", row.instance_id, repaired.text)
        at = self.place
        self.place = replace(
            at,
            instance_id=row.instance_id,
            files=at.files + 1,
            bytes=at.bytes + row.size,
            damaged=at.damaged + bool(repaired and repaired.text),
        )

    def _retry_lost(self) -> None:
        with self._db.reading() as conn:
            rows = kept_files.lost_files(conn)
        for row in rows:
            if self.worker.is_stopping:
                return
            self._repairer.repair(row.instance_id)

    def _finish(self) -> None:
        """All files have been read: now the catalog's pages. Its rows are for `edge verify`: they take long."""
        with self._db.reading() as conn:
            found = integrity.check_pages(conn)
        if found:  # what is written on top of it could be lost with it
            self._db.fail(f"the catalog is damaged ({found[0]}): stop the gateway, `edge recover`, start it")
        self.place = replace(self.place, finished_at=self._clock(), catalog=tuple(found[: integrity.MOST]))
        state = self.place
        log.info("scrub: %d files read, %d bytes, %d damaged", state.files, state.bytes, state.damaged)
        if not found:
            self._save()

    def _save(self) -> None:
        state = json.dumps(asdict(self.place))
        self._db.write(lambda conn: gateway_values.remember(conn, KEY, state))
        self._saved_at = self._clock()
