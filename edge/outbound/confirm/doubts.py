"""Instances with which an exchange that asks for their proof breaks: when each is asked about alone, and when no more.

Promise: an instance that breaks exchanges is asked about alone, BREAKS times at the most, with growing pauses; then it
stays unproved, by name. A destination that answers for none is at fault itself: meanwhile none is given up, and the
count begins again when it answers. No database; times are seconds since 1970.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.worker.backoff import backoff

#: Broken exchanges after which an instance is asked about no more.
BREAKS = 8
#: Seconds from one to the next, doubled each time.
ASK_AGAIN_FIRST, ASK_AGAIN_LONGEST = 30.0, 3600.0
#: An answer at most this number of seconds before the first break still shows that the destination is well.
WELL_SECONDS = 600.0
#: A number of instances in a row with which an exchange broke for the first time: perhaps it is the destination.
IN_A_ROW = 3


@dataclass(slots=True)
class Suspect:
    """One delivery with which an exchange has broken. `again_at` is infinite when it is asked about no more."""

    first_at: float
    breaks: int
    again_at: float

    @property
    def is_given_up(self) -> bool:
        return self.again_at == math.inf


class Doubts:
    """The suspects of one destination. For one thread."""

    def __init__(self) -> None:
        self._suspects: dict[int, Suspect] = {}
        self._answered_at = -math.inf
        self._row_since = 0.0
        self.in_a_row = 0  # exchanges that broke since the last answer, those about known suspects not counted

    def add_break(self, now: float) -> None:
        """Count an exchange that broke, in which others than a known suspect were asked about."""
        self._row_since = self._row_since if self.in_a_row else now
        self.in_a_row += 1

    def broke(self, delivery: int, now: float, chance: float) -> Suspect:
        """Count an exchange about this instance alone that has broken."""
        found = self._suspects.setdefault(delivery, Suspect(now, 0, now))
        found.breaks += 1
        wait = backoff(found.breaks, ASK_AGAIN_FIRST, ASK_AGAIN_LONGEST, chance)
        others_are_answered = self._answered_at >= found.first_at - WELL_SECONDS
        found.again_at = math.inf if found.breaks >= BREAKS and others_are_answered else now + wait
        return found

    def remember(self, deliveries: list[int], now: float) -> None:
        """Suspects of a run before: each is asked about alone from the beginning."""
        self._suspects.update((each, Suspect(now, 0, now)) for each in deliveries)

    def note_answer(self, now: float) -> None:
        """Note an answer. What first broke in a row of breaks that ends with this is asked again now."""
        if self.in_a_row >= IN_A_ROW:
            for each in self._suspects.values():
                if each.first_at >= self._row_since:
                    each.breaks, each.again_at = 1, now
        self._answered_at, self.in_a_row = now, 0

    def due(self, now: float) -> int | None:
        """The delivery that is to be asked about now, alone; one that waits beyond its longest wait is due, too."""
        due = [
            delivery
            for delivery, each in self._suspects.items()
            if each.again_at <= now or now + 2 * ASK_AGAIN_LONGEST < each.again_at < math.inf  # the clock was set back
        ]
        return min(due, key=lambda delivery: self._suspects[delivery].again_at, default=None)

    def postpone(self, delivery: int, until: float) -> None:
        """Do not ask about a suspect again until then: it is being asked about."""
        if (found := self._suspects.get(delivery)) is not None:
            found.again_at = until

    def drop(self, delivery: int) -> None:
        """Forget a suspect: it is proved, or breaks nothing any more."""
        self._suspects.pop(delivery, None)
