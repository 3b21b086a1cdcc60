"""The custody ledger is verified by itself: a few rows at a time, from the first to the last, again and again.

Promise: a row that no longer follows from the one before it is found within a round; and a chain rebuilt while the
gateway runs within two, for each round remembers where the ledger ended and searches that row in the next. A round
takes ROUND_SECONDS, longer only where more than ROWS_A_SECOND would be needed. What was found stays so until a restart,
which begins with the first row.

Limits: rows cut off the end, and a chain rebuilt while the gateway was down, show at the centre (docs/central.md).
"""

from __future__ import annotations

import logging

from edge.store import ledger
from edge.store.database import Store, Transaction
from edge.store.ledger import Head
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

ROUND_SECONDS = 3_600.0
#: Rows in one look, and at most in a second: five milliseconds of one core for a thousand.
_BATCH, ROWS_A_SECOND = 1_000, 1_000
CHAIN_THREAD = ThreadSpec("chain", __name__, "nothing", "after the rows that it verifies")


class Chain:
    """The thread that follows the chain."""

    def __init__(self, db: Store) -> None:
        self._db, self._after = db, 0
        self._end, self._remembered = Head(0, b""), Head(0, b"")
        self.worker = Worker(CHAIN_THREAD, self.step)
        self.broken = ""  # how, in words; empty while all is well

    def step(self) -> float:
        """Verify the next rows; returns the seconds until the next look."""
        with self._db.reading() as conn:
            if self._after == 0:
                self._end = ledger.head(conn)
                self._look_back(conn)
            broken = ledger.check(conn, self._after, most=_BATCH)
        if broken is not None:
            self._note(f"row {broken.seq}: {broken.text}")
        self._after += _BATCH
        if self._after >= self._end.seq:
            self._after, self._remembered = 0, self._end
            return max(ROUND_SECONDS - self._seconds(self._end.seq), _BATCH / ROWS_A_SECOND)
        return self._seconds(_BATCH)

    def _seconds(self, rows: int) -> float:
        """How long this number of rows takes, for a round to be done in its time."""
        return max(rows / ROWS_A_SECOND, ROUND_SECONDS / 2 * rows / max(self._end.seq, 1))

    def _look_back(self, conn: Transaction) -> None:
        if self._remembered.seq and not ledger.has(conn, self._remembered):
            self._note(f"row {self._remembered.seq}: another one, or none, where the ledger had ended before")

    def _note(self, text: str) -> None:
        if not self.broken:
            log.critical("the custody ledger is not what was written: %s", text)
            self.broken = text
