"""Refusals on their way into the ledger: bounded, for callers are strangers and may come by the thousand.

edge.refusals tells the same refusal once a minute, with the number of times. Of what it tells, the first MOST_ROWS of a
minute have a row of their own, and the rest share one: a port scan is told, and fills no disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edge import ledger
from edge.db import Connection
from edge.refusals import Refusal

MINUTE = 60.0
MOST_ROWS = 10
#: `who` where a caller had not said it yet, and of those who share a row.
NOBODY = "unknown"
MAX_WHY = 300

#: When, who, and from where and why.
_Row = tuple[float, str, str]


class Register:
    """Decides what is written; one thread asks."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._minute_ends = 0.0
        self._rows = 0  # in this minute
        self._others, self._others_at = 0, 0.0

    def enter(self, refusals: Sequence[Refusal], *, last: bool = False) -> Callable[[Connection], None] | None:
        """The transaction that writes them down, or None where nothing is due. `last`: nothing waits for later."""
        rows = self._due(refusals, last)
        if not rows:
            return None

        def work(conn: Connection) -> None:
            for at, who, detail in rows:
                ledger.append(conn, at, ledger.REFUSED, who, [], detail=detail)

        return work

    def _due(self, refusals: Sequence[Refusal], last: bool) -> list[_Row]:
        rows: list[_Row] = []
        for each in refusals:
            if self._minute_is_over():
                rows += self._take_others()
            if self._rows < MOST_ROWS:
                self._rows += 1
                rows.append(_row(each))
            else:
                self._others_at = self._others_at or each.first
                self._others += each.times
        if last or self._minute_is_over():
            rows += self._take_others()
        return rows

    def _minute_is_over(self) -> bool:
        now = self._monotonic()
        if now < self._minute_ends:
            return False
        self._minute_ends, self._rows = now + MINUTE, 0
        return True

    def _take_others(self) -> list[_Row]:
        count, at = self._others, self._others_at
        self._others, self._others_at = 0, 0.0
        return [(at, NOBODY, f"many callers at once, as in a port scan{_times(count)}")] if count else []


def _row(refusal: Refusal) -> _Row:
    where = refusal.address or "several addresses"
    return refusal.first, refusal.calling_ae or NOBODY, f"from {where}: {refusal.why[:MAX_WHY]}{_times(refusal.times)}"


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""
