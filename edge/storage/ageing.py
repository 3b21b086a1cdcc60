"""Ageing: long-evicted studies go into the yearly files, some at a time (edge.store.folding).

In this order: a block with the rows of some studies is written, synced and read again; one transaction makes the
catalog refer to it; then the rows are deleted, in small transactions. Killed at any point, the next step goes on: what
is behind the last block that the catalog refers to is written again, what it refers to and still has is deleted.
A study to which something happens meanwhile stays in the catalog. After each pass all blocks are read again, one a
step: a file that was changed or damaged is reported (alert ledger-broken), and nothing more is folded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from edge.store import folding, unfolding
from edge.store.database import Store, Transaction
from edge.store.folded_files import Block, DamagedFold, FoldedFiles
from edge.store.folding import Folded, StudyPlace

log = logging.getLogger(__name__)

#: Studies that are considered in one step, instances that a block may have when it takes one more, and transactions
#: that delete in one step.
STUDIES, BLOCK_INSTANCES, DROPS = 200, 2000, 20
#: From the end of one pass through the studies to the next.
NEXT_PASS_SECONDS = 86400.0


class Ageing:
    """Folds old studies, step by step; one thread."""

    def __init__(
        self, db: Store, clock: Callable[[], float] = time.time, doubts_clock: Callable[[], bool] = lambda: False
    ) -> None:
        self._db, self._clock, self._doubts_clock = db, clock, doubts_clock
        self._files = FoldedFiles(db.path.parent)
        self._place: StudyPlace = folding.FIRST_PLACE
        self._next_at = 0.0
        self._unread: list[Block] = []  # blocks that this pass still has to read again
        self.damage = ""  # of the yearly files, until a restart; empty while all is well

    def step(self) -> bool:
        """Fold a little; False when nothing is to be done now. Raises OSError, StorageUnhealthy and Hindered."""
        if self._doubts_clock() or self.damage:
            return False
        try:
            return self._step() or self._read_again()
        except DamagedFold as error:
            log.critical("nothing more is moved into the yearly files: %s; `edge verify` says more", error)
            self.damage = str(error)
            return False

    def _read_again(self) -> bool:
        if self._unread:
            self._files.read_packed(self._unread.pop())
        return bool(self._unread)

    def _step(self) -> bool:
        with self._db.reading() as conn:
            half = folding.half_folded(conn)
        if half is not None:
            self._drop(half)
            return True
        now = self._clock()
        if now < self._next_at <= now + NEXT_PASS_SECONDS:
            return False
        with self._db.reading() as conn:
            found, place = folding.find_foldable(conn, now, self._place, STUDIES)
            records = self._records(conn, found)
            if not records and place is None:
                self._unread = folding.blocks(conn)
        if not records:
            self._place = place or folding.FIRST_PLACE
            self._next_at = now + NEXT_PASS_SECONDS if place is None else 0.0
            return place is not None
        self._fold(records)
        return True

    def _records(self, conn: Transaction, studies: list[int]) -> list[dict[str, Any]]:
        """Read the records of studies of one year, as many as a block takes."""
        found: list[dict[str, Any]] = []
        instances = 0
        for study in studies:
            if instances >= BLOCK_INSTANCES:
                break
            record = folding.record_of(conn, study)
            if not found or _year_of(record) == _year_of(found[0]):
                found.append(record)
                instances += len(folding.rows_of(record, "instance"))
        return found

    def _fold(self, records: list[dict[str, Any]]) -> None:
        year = _year_of(records[0])
        with self._db.reading() as conn:
            last = folding.last_block(conn, year)
        block = self._files.append(last, year, records)

        def refer(conn: Transaction) -> None:
            same = [
                each for each in records if not folding.has_changed(conn, each["study_id"], folding.last_seq_of(each))
            ]
            folding.refer(conn, block, same)

        self._db.write(refer)
        log.info("%d studies of %d are in %s", len(records), year, self._files.path(year).name)

    def _drop(self, half: Folded) -> None:
        for _ in range(DROPS):
            if not self._db.write(lambda conn: self._drop_some(conn, half)):
                return

    def _drop_some(self, conn: Transaction, half: Folded) -> bool:
        if not folding.is_folded(conn, half.study_uid):
            return False  # it has come again
        if folding.has_changed(conn, half.study_id, half.last_seq):
            unfolding.unfold(conn, folding.record_in(self._files, half))
            return False
        return folding.drop_some(conn, half)


def _year_of(record: dict[str, Any]) -> int:
    return time.gmtime(folding.rows_of(record, "study")[0]["last_received"]).tm_year
