"""Protection against a wrong clock of this machine, as edge.store.clock for a site.

Promise: whatever the clock said before, no time that decides is further in the future than its own longest wait:
`correct_times` brings it back, at the start, after a leap, and every few minutes. Times that are a record stay as
written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.central.sequence import SKEW_SECONDS
from edge.store.central import centre_state
from edge.store.clock import SLACK_SECONDS, Watch, boot_seconds
from edge.store.engine import EngineTransaction
from edge.text import amount

log = logging.getLogger(__name__)

CORRECT_SECONDS = 300.0

#: Longer than any lock of an account (edge.web.accounts.ACCOUNT_LOCK_SECONDS).
_LONGEST_LOCK = 86400.0


def correct_times(conn: EngineTransaction, now: float) -> int:
    """Bring back what is in the future; how many rows. The log and the journal have it."""
    late = now + SLACK_SECONDS
    count = centre_state.correct_future_times(conn, now=now, late=late, skew=SKEW_SECONDS, longest_lock=_LONGEST_LOCK)
    if count:
        text = f"the clock had been ahead: {amount(count, 'stored time')} corrected that lay in the future"
        log.warning("%s; check the time service of this machine", text)
        centre_state.journal(conn, "edge", text, now)
    return count


class Timekeeper:
    """When the centre began to hear, by a clock that may leap, and when stored times are corrected. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.time, passed: Callable[[], float] = boot_seconds) -> None:
        self._clock, self._passed = clock, passed
        self._watch = Watch(None, clock, passed)
        self._correct_at = passed()
        self.started = clock()  # no site is silent before the centre has listened for as long

    def look(self) -> float:
        """The time now. After a leap it is as if the centre had just started: no silence is counted across it."""
        now = self._clock()
        if leap := self._watch.observe():
            log.warning("the clock has leapt by %.0f s", leap)
            self.started, self._correct_at = now, self._passed()
        return now

    def must_correct(self) -> bool:
        """Once at the start, after a leap, and every CORRECT_SECONDS."""
        if self._passed() < self._correct_at:
            return False
        self._correct_at = self._passed() + CORRECT_SECONDS
        return True

    @property
    def is_doubtful(self) -> bool:
        """May the clock be ahead? Within a day after it has leapt: nothing is deleted or escalated by it."""
        return self._watch.doubtful(None)
