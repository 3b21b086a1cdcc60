"""Refusals on their way into the ledger: bounded, for callers may be unknown and come by the thousand.

edge.scp.rejections reports the same refusal once a minute, with the number of times. Of these, the first of a minute,
of each caller and of all, have a row of their own (`shares`), and the rest share one; once a day has had its rows,
there is one an hour. So a port scan is noted, and fills no disk, however long it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edge.network.shares import (
    DAY_SECONDS,
    HOUR_SECONDS,
    MINUTE_SECONDS,
    REFUSAL_ROWS,
    REFUSAL_ROWS_OF_DAY,
    Budget,
    caller_of,
)
from edge.scp.rejections import Refusal
from edge.store import ledger
from edge.store.database import Transaction

#: `who` where a caller had not said it yet, and of those who share a row.
NOBODY = "unknown"
MAX_WHY = 300

#: When, who, and the payload.
_Row = tuple[float, str, ledger.Payload]


class Register:
    """Decides what is written; one thread asks."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._minute, self._day = Budget.create(REFUSAL_ROWS), Budget(REFUSAL_ROWS_OF_DAY, DAY_SECONDS)
        self._others, self._others_at = 0, 0.0  # how many share a row, and when the first of them was
        self._since, self._pause = 0.0, MINUTE_SECONDS  # by `monotonic`, and how long that row waits

    def enter(self, refusals: Sequence[Refusal], *, last: bool = False) -> Callable[[Transaction], None] | None:
        """The transaction that writes them down, or None where nothing is due. `last`: nothing waits for later."""
        rows = self._due(refusals, last)
        if not rows:
            return None

        def work(conn: Transaction) -> None:
            for at, who, payload in rows:
                ledger.append(conn, at, ledger.REFUSED, who, [], payload=payload)

        return work

    def _due(self, refusals: Sequence[Refusal], last: bool) -> list[_Row]:
        now = self._monotonic()
        rows = self._take_others(now, last=False)
        for each in refusals:
            if self._minute.take(now, caller_of(each.address)) is None:
                self._add_to_others(each, now)
            elif self._day.take(now) is None:
                self._pause = HOUR_SECONDS
                self._add_to_others(each, now)
            else:
                self._pause = MINUTE_SECONDS
                rows.append(_row(each))
        return rows + self._take_others(now, last=last)

    def _add_to_others(self, refusal: Refusal, now: float) -> None:
        if not self._others:
            self._others_at, self._since = refusal.first, now
        self._others += refusal.times

    def _take_others(self, now: float, *, last: bool) -> list[_Row]:
        if not self._others or not (last or now - self._since >= self._pause):
            return []
        count, self._others = self._others, 0
        return [(self._others_at, NOBODY, {"times": count})]


def _row(refusal: Refusal) -> _Row:
    payload = {"address": refusal.address, "fault": refusal.why[:MAX_WHY], "times": refusal.times}
    return refusal.first, refusal.calling_ae or NOBODY, payload
