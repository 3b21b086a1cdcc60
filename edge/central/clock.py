"""What a wrong clock of this machine must not decide, as edge.clock for a site.

Promise: whatever the clock said before, no time that decides is further in the future than its own longest wait:
`correct_times` brings it back, at the start, after a leap, and every few minutes. Times that are a record stay as
written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.central.sequence import SKEW_SECONDS
from edge.central.store import Connection, do
from edge.messaging import LONGEST_SECONDS, REJECTED_SECONDS
from edge.store.clock import SLACK_SECONDS, Watch, boot_seconds
from edge.text import counted

log = logging.getLogger(__name__)

CORRECT_SECONDS = 300.0
#: The longest that a message waits for its next try: edge.central.post, with edge.backoff's spread.
LONGEST_TRY = max(LONGEST_SECONDS, REJECTED_SECONDS) * 1.2

#: Each with :now and :late, a time behind which nothing is that a right clock wrote; :skew is what a site's clock may
#: be ahead. An escalation that a clock brought about which was ahead comes again in its time.
_CORRECTIONS = (
    "UPDATE site SET heard_at = :now WHERE heard_at > :late",
    "UPDATE site SET at = :now WHERE at > :late + :skew",
    "UPDATE incident SET opened_at = :now WHERE closed_at IS NULL AND opened_at > :late",
    "UPDATE incident SET escalated_at = NULL WHERE closed_at IS NULL AND escalated_at > :late",
    "UPDATE incident SET acknowledged_at = :now WHERE closed_at IS NULL AND acknowledged_at > :late",
    "UPDATE incident SET closed_at = :now WHERE closed_at > :late",
    "UPDATE outage SET silent_from = :now WHERE returned_at IS NULL AND silent_from > :late",
    "UPDATE message SET next_try = :now WHERE next_try > :late + :longest_try",
    "UPDATE ledger SET at = :now WHERE at > :late",
    "UPDATE ledger SET head_at = :now WHERE head_at > :late",
    "UPDATE ledger SET proved_at = :now WHERE proved_at > :late",
    "UPDATE account SET changed_at = :now WHERE changed_at > :late",
    "UPDATE account SET signed_in_at = :now WHERE signed_in_at > :late",
    "UPDATE account SET locked_until = NULL WHERE locked_until > :late + :longest_lock",
    "DELETE FROM history_minute WHERE at > :late + :skew",
    "DELETE FROM history_hour WHERE at > :late + :skew",
    "DELETE FROM history_day WHERE at > :late + :skew",
)
#: Longer than any lock of an account (edge.web.accounts.LOCK_SECONDS).
_LONGEST_LOCK = 86400.0


def correct_times(conn: Connection, now: float) -> int:
    """Bring back what is in the future; how many rows. The log and the journal say it."""
    given = {
        "now": now,
        "late": now + SLACK_SECONDS,
        "skew": SKEW_SECONDS,
        "longest_try": LONGEST_TRY,
        "longest_lock": _LONGEST_LOCK,
    }
    count = sum(
        do(conn, statement, **{name: each for name, each in given.items() if f":{name}" in statement})
        for statement in _CORRECTIONS
    )
    if count:
        text = f"the clock had been ahead: {counted(count, 'stored time')} corrected that lay in the future"
        log.warning("%s; see to the time service of this machine", text)
        do(conn, "INSERT INTO journal (at, who, text) VALUES (:now, 'edge', :text)", now=now, text=text)
    return count


class Timekeeper:
    """When the centre began to hear, by a clock that may leap, and when stored times are corrected. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.time, passed: Callable[[], float] = boot_seconds) -> None:
        self._clock, self._passed = clock, passed
        self._watch = Watch(None, clock, passed)
        self._correct_at = passed()
        self.started = clock()  # nobody is silent before the centre has listened for as long

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
