"""How much unknown callers may cost: tries at passwords, and lines in a log. Pure but for their counts; thread-safe.

A caller is an IPv4 address or the /64 of an IPv6 address (edge.shares.caller_of): who has one address of such a
network has all of them. The tables are bounded, and what makes room in them is never somebody who has to wait.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from edge.errors import place_of
from edge.shares import LINES, MINUTE_SECONDS, Budget, caller_of
from edge.text import printable

#: So many wrong passwords from one caller cost nothing; then each doubles the wait, up to a quarter of an hour. After
#: that time without another one they are forgotten.
FREE_FAILURES = 5
MOST_SECONDS = 900.0
#: Callers that are remembered: those who have to wait, and as many of the others.
MAX_REMEMBERED = 10_000

_Count = tuple[int, float]  # failures, and when the latest was


class Throttle:
    """How long a caller must wait before the next try at a password."""

    def __init__(self) -> None:
        self._few: OrderedDict[str, _Count] = OrderedDict()  # still free, the latest at the end
        self._many: OrderedDict[str, _Count] = OrderedDict()  # have to wait
        self._lock = threading.Lock()

    @property
    def remembered(self) -> int:
        """Callers that are remembered now."""
        return len(self._few) + len(self._many)

    def begin(self, address: str, now: float) -> float:
        """A try is about to be made. 0: go on, and it counts as failed until `succeeded`; else seconds to wait."""
        caller = caller_of(address)
        with self._lock:
            self._forget(now)
            count, last = self._many.get(caller) or self._few.get(caller) or (0, now)
            wait = _wait_after(count) - (now - last)
            if wait > 0:
                return wait
            self._keep(caller, (count + 1, now))
        return 0.0

    def succeeded(self, address: str) -> None:
        """It was the right password: this one try is no failure. Those before it stay."""
        caller = caller_of(address)
        with self._lock:
            count, last = self._many.get(caller) or self._few.get(caller) or (1, 0.0)
            if count > 1:
                self._keep(caller, (count - 1, last))
            else:
                self._few.pop(caller, None)

    def _keep(self, caller: str, count: _Count) -> None:
        self._few.pop(caller, None)
        self._many.pop(caller, None)
        waits = count[0] >= FREE_FAILURES and len(self._many) < MAX_REMEMBERED
        (self._many if waits else self._few)[caller] = count
        while len(self._few) > MAX_REMEMBERED:
            self._few.popitem(last=False)

    def _forget(self, now: float) -> None:
        """Also what a clock that was ahead has left behind."""
        for table in (self._few, self._many):
            while table and abs(now - next(iter(table.values()))[1]) > MOST_SECONDS:
                table.popitem(last=False)


def _wait_after(count: int) -> float:
    """Seconds to wait after so many failures."""
    return min(MOST_SECONDS, 2.0 ** min(count - FREE_FAILURES, 20)) if count >= FREE_FAILURES else 0.0


class FewLines(logging.Filter):
    """For a logger whose lines callers cause: few in a time, and faults by their place."""

    def __init__(self, most: int = LINES.all, seconds: float = MINUTE_SECONDS) -> None:
        super().__init__()
        self._budget = Budget(most, seconds)

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._budget.take(record.created)
        if left_out is None:
            return False
        text = "\n  ".join(printable(line) for line in record.getMessage().splitlines())
        if record.exc_info and record.exc_info[1]:
            text += f": {place_of(record.exc_info[1])}"
        if left_out:
            text += f" (and {left_out} more lines were left out)"
        record.msg, record.args, record.exc_info = text, None, None
        return True
