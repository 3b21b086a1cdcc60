"""Limits for callers who are not signed in: attempts at passwords, and lines in a log. Thread-safe.

A caller is an IPv4 address or the /64 of an IPv6 address (edge.network.shares.caller_of). The tables are bounded; a
caller that must wait is never removed to make room.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from edge.errors import place_of
from edge.network.shares import LINES, MINUTE_SECONDS, Budget, caller_of
from edge.text import printable

#: This number of wrong passwords from one caller causes no wait; then each doubles the wait, up to MAX_WAIT_SECONDS.
#: After that time without another one they are forgotten.
FREE_FAILURES = 5
MAX_WAIT_SECONDS = 900.0
#: Callers that must wait, and the same number of others.
MAX_REMEMBERED = 10_000

_Count = tuple[int, float]  # failures, and the time of the latest


class Throttle:
    """How long a caller must wait before the next attempt at a password."""

    def __init__(self) -> None:
        self._few: OrderedDict[str, _Count] = OrderedDict()  # need not wait; the latest at the end
        self._many: OrderedDict[str, _Count] = OrderedDict()  # must wait
        self._lock = threading.Lock()

    def begin(self, address: str, now: float) -> float:
        """Begin an attempt. Returns 0 (it counts as failed until `forget_latest`), or the seconds to wait."""
        caller = caller_of(address)
        with self._lock:
            self._forget(now)
            count, last = self._many.get(caller) or self._few.get(caller) or (0, now)
            wait = _wait_after(count) - (now - last)
            if wait > 0:
                return wait
            self._keep(caller, (count + 1, now))
        return 0.0

    def forget_latest(self, address: str) -> None:
        """Do not count the latest attempt: the password was right. The failures before it remain."""
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
        """Remove old failures, also those from a time when the clock was ahead."""
        for table in (self._few, self._many):
            while table and abs(now - next(iter(table.values()))[1]) > MAX_WAIT_SECONDS:
                table.popitem(last=False)


def _wait_after(count: int) -> float:
    """Return the seconds to wait after `count` failures."""
    return min(MAX_WAIT_SECONDS, 2.0 ** min(count - FREE_FAILURES, 20)) if count >= FREE_FAILURES else 0.0


class FewLines(logging.Filter):
    """Limits the lines per period of a logger whose lines callers cause; exceptions appear as their place only."""

    def __init__(self) -> None:
        super().__init__()
        self._budget = Budget(LINES.all, MINUTE_SECONDS)

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
