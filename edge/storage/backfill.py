"""Headers are read behind the answer, once: what queries need beyond routing, also of what was here before an upgrade.

One thread goes through the instances in the order of their arrival, a few at a time with a pause as long as the work,
and much longer while scanners send, so that none of them waits for it. Its place is in the catalog: after a restart it
goes on there. An image from before an upgrade that turns out to be of another patient than those before it in its study
is treated as if it came now: what is still to go is held, as [identity] says, and an alert says so.

Limits: what was evicted before has no header any more; such a study is found by what its row says. A file that cannot
be read is passed over and counted: the scrub reports it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from edge.errors import Unreadable
from edge.intake import Intake
from edge.intake.entries import fill_placement, note_mismatch
from edge.intake.policy import mismatch
from edge.model import InstanceHeader, ReasonCode
from edge.store import deliveries, header_progress, headers, kept_files, patients
from edge.store.database import CatalogRow, Store, Transaction
from edge.store.patients import Placement
from edge.worker import DONE, ThreadSpec, Worker

log = logging.getLogger(__name__)

#: A row of the catalog, its facts where they are missing, its compact header.
_Read = tuple[CatalogRow, InstanceHeader | None, tuple[bytes, bool]]

#: Instances of one transaction, and the shortest pause behind it.
BACKFILL_BATCH = 50
PAUSE_SECONDS = 0.05
#: While instances arrive, the pause is longer than the work by this factor: 3 % of a core.
PAUSE_WHILE_BUSY = 30
#: From one search for new instances to the next.
SEARCH_SECONDS = 5.0
BACKFILL_THREAD = ThreadSpec("backfill", __name__, "patients, headers, holds, ledger", "after its transaction")


class Backfill:
    """The thread. See the module's promise."""

    def __init__(self, db: Store, intake: Intake, clock: Callable[[], float] = time.time) -> None:
        self._db, self._intake, self._clock = db, intake, clock
        self.worker = Worker(BACKFILL_THREAD, self._pace)
        self._newest, self._is_busy = -1, False  # have instances arrived since the step before?

    def _pace(self) -> float:
        """A step, then a pause as long as it took, or longer while instances arrive."""
        if self._db.failure is not None:
            return DONE  # nothing can be recorded until a restart
        began = time.monotonic()
        if not self.step():
            return SEARCH_SECONDS
        worked = time.monotonic() - began
        return max(PAUSE_SECONDS, worked * PAUSE_WHILE_BUSY if self._is_busy else worked)

    def step(self) -> bool:
        """Read the next few headers; False when there are none left."""
        with self._db.reading() as conn:
            progress, after = header_progress.read_backfill(conn), header_progress.read_place(conn)
            rows, newest = kept_files.rows_after(conn, after, BACKFILL_BATCH), kept_files.newest(conn)
        self._is_busy, self._newest = 0 <= self._newest < newest, newest
        is_open = bool(progress) and progress.get("finished_at") is None
        if not rows and not is_open:
            return False
        last = progress["last"] if is_open else 0
        read: list[_Read] = []
        for row in rows:
            if row["study_id"] is not None and row["state"] in ("stored", "conflict"):
                try:
                    facts = self._intake.facts_of(row["path"]) if row["series_id"] is None else None
                    read.append((row, facts, self._intake.compact_header(row["path"])))
                except (Unreadable, OSError) as error:
                    log.warning("the header of instance %d cannot be read: %s", row["id"], type(error).__name__)
                    if row["id"] <= last:
                        progress["unreadable"] = progress.get("unreadable", 0) + 1
        place = rows[-1]["id"] if rows else after
        if is_open:
            progress["read"] = min(place, last)
            if not rows:
                progress |= {"read": last, "finished_at": self._clock()}
        self._db.write(lambda conn: self._enter(conn, read, place, progress if is_open else {}))
        return True

    def _enter(self, conn: Transaction, read: list[_Read], place: int, progress: dict[str, Any]) -> None:
        for row, facts, (small, is_whole) in read:
            if facts is not None and patients.find_placed(conn, row["id"]) is None:
                placed = fill_placement(conn, row["id"], row["study_id"], facts)
                if placed.is_mismatch:
                    self._differs(conn, row["id"], placed)
            headers.enter_header(conn, row["id"], small, is_whole=is_whole)
        headers.fold_names(conn, BACKFILL_BATCH)
        header_progress.keep_place(conn, place)
        if progress:
            header_progress.note_backfill(conn, progress)

    def _differs(self, conn: Transaction, instance: int, placed: Placement) -> None:
        """What is still to go is held; of what has gone, and what an association carries now, an alert says so."""
        policy, code = self._intake.policy, ReasonCode.NONE
        if policy.hold_mismatches and deliveries.hold_mismatch(conn, instance, mismatch(placed), stat=policy.hold_stat):
            code = ReasonCode.MISMATCH
        note_mismatch(conn, instance, placed, code, self._clock())
