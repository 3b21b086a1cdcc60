"""Who was turned away, and why, gathered until it is written into the ledger.

Callers are strangers, and may come by the thousand: each caller has at most one row a minute with the number of its
attempts, and only so many callers have a row of their own in one minute; the rest share one. So a port scan, or a
scanner that tries again every second for a week, is told and fills no disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge import ledger
from edge.db import Connection

MINUTE = 60.0
#: So many callers have a row of their own in one minute.
MAX_CALLERS = 10
#: `who` of what has no AE title: no A-ASSOCIATE-RQ was read, or those beyond the first ten.
NOBODY = "unknown"


@dataclass(slots=True)
class _Tally:
    count: int
    first_at: float


#: Who called, from which address, and why it was refused.
_Caller = tuple[str, str, str]


class Refusals:
    """Thread-safe. `note` is for whoever refuses; `take` for the housekeeper, about once a second."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._waiting: dict[_Caller, _Tally] = {}
        self._others: _Tally | None = None
        self._told: set[_Caller] = set()  # have had their row in this minute
        self._minute_ends = 0.0

    def note(self, who: str, address: str, reason: str) -> None:
        """A caller was refused: its AE title as far as it is known, its address, and the reason in our own words."""
        caller, now = (who or NOBODY, address, reason), self._clock()
        with self._lock:
            tally = self._waiting.get(caller)
            if tally is None and len(self._waiting.keys() | self._told) >= MAX_CALLERS and caller not in self._told:
                tally = self._others = self._others or _Tally(0, now)
            elif tally is None:
                tally = self._waiting[caller] = _Tally(0, now)
            tally.count += 1

    def take(self, *, everything: bool = False) -> Callable[[Connection], None] | None:
        """The transaction that writes what is due into the ledger, or None where nothing is."""
        with self._lock:
            rows = self._due(everything)
        if not rows:
            return None

        def work(conn: Connection) -> None:
            for at, who, detail in rows:
                ledger.append(conn, at, ledger.REFUSED, who, [], detail=detail)

        return work

    def _due(self, everything: bool) -> list[tuple[float, str, str]]:
        rows = []
        over = self._monotonic() >= self._minute_ends
        if over:
            self._told.clear()
            self._minute_ends = self._monotonic() + MINUTE
        if self._others is not None and (over or everything):
            text = f"more callers than have rows of their own in one minute{_times(self._others.count)}"
            rows.append((self._others.first_at, NOBODY, text))
            self._others = None
        for caller in [each for each in self._waiting if everything or each not in self._told]:
            tally = self._waiting.pop(caller)
            self._told.add(caller)
            who, address, reason = caller
            rows.append((tally.first_at, who, f"from {address}: {reason}{_times(tally.count)}"))
        return rows


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""
