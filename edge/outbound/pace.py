"""The pace of forwarding: how soon, how much and by how many. Pure: clocks and chance are arguments.

`Circuit` says whether a destination may be tried and when again, `Meter` how fast it goes and so how much to
lease at once, `Tuner` how many associations pay.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from edge.dicom.scu import LONG_LINE
from edge.text import MIB
from edge.worker.backoff import backoff

# Seconds from one failure to the next try: of a destination, of one that rejects us for good, of one out of resources.
LINK_FIRST, LINK_LONGEST = 1.0, 60.0
REJECTED_LONGEST = 300.0
#: The longest pause that a destination may ask for (Retry-After).
PAUSE_LONGEST = 3600.0
#: This number of answers "out of resources" in a row concerns the destination, not the objects; where a first probe
#: then finds that it takes another object, of up to MOST_REFUSALS.
REFUSALS, MOST_REFUSALS = 5, 640
# Seconds from one try of an instance to the next, after a status that says "later".
LATER_FIRST, OWN_LONGEST = 30.0, 900.0

# What is leased at once: about a second's worth, so that urgent work never waits long behind it.
FIRST_INSTANCES, MOST_INSTANCES = 8, 256
FIRST_BYTES, MOST_BYTES = 8 * MIB, 64 * MIB


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit breaker of one destination. Up until something fails; then down, with one probe at a time."""

    failures: int = 0  # in a row
    refusals: int = 0  # answers "out of resources" in a row
    retry_at: float = 0.0  # while down: when the next probe may go
    reason: str = ""  # while down
    is_full: bool = False  # while down: it is out of resources
    refuses: bool = False  # while down: it answers, and refuses what it is sent

    @property
    def is_up(self) -> bool:
        return self.failures == 0

    def allows(self, now: float, wanted: int) -> int:
        """How many associations may be open or opened."""
        return wanted if self.is_up else int(now >= self.retry_at)

    def with_failure(
        self, now: float, reason: str, chance: float, longest: float = LINK_LONGEST, *, refuses: bool = False
    ) -> Circuit:
        """An association failed. Those that fail with it, or while the next probe is not due, tell nothing new."""
        if not self.is_up and now < self.retry_at:
            return self
        failures = self.failures + 1
        delay = backoff(failures, LINK_FIRST, longest, chance)
        return Circuit(failures, self.refusals, now + delay, reason, refuses=refuses)

    def with_pause(self, now: float, seconds: float, reason: str, chance: float) -> Circuit:
        """The destination takes nothing, and says for how long, or that is known otherwise."""
        delay = min(seconds, PAUSE_LONGEST) + LINK_FIRST * chance
        return Circuit(self.failures + 1, self.refusals, max(self.retry_at, now + delay), reason, refuses=True)

    def with_refusal(self, now: float, reason: str, chance: float, most: int = REFUSALS) -> Circuit:
        """The destination answered that it is out of resources; `most` in a row concern the destination."""
        more = replace(self, refusals=self.refusals + 1)
        if self.is_up and more.refusals < most:
            return more
        return replace(more.with_failure(now, reason, chance), is_full=True, refuses=True)

    def with_answer(self) -> Circuit:
        """The destination answered anything else: it is there."""
        return UP


UP = Circuit()


class Meter:
    """How long one instance takes on one association, and how large it is: means in which the last dozen weigh most."""

    WEIGHT = 1 / 8

    def __init__(self) -> None:
        self.seconds = self.size = 0.0

    def add(self, seconds: float, size: int) -> None:
        """An instance of `size` bytes was sent in `seconds`."""
        weight = self.WEIGHT if self.seconds else 1.0
        self.seconds += (max(seconds, 1e-6) - self.seconds) * weight
        self.size += (size - self.size) * weight

    def bytes_per_second(self, associations: int) -> float:
        return associations * self.size / self.seconds if self.seconds else 0.0

    def lease_size(self, associations: int) -> tuple[int, int]:
        """What to hold leased: (instances, bytes)."""
        if not self.seconds:
            return FIRST_INSTANCES, FIRST_BYTES
        size = max(MIB, min(MOST_BYTES, int(self.bytes_per_second(associations))))
        return max(1, min(MOST_INSTANCES, int(associations / self.seconds), int(size / max(self.size, 1.0)))), size


class Loan:
    """How long an object that does not move on may keep others from its place.

    At first nobody knows how slow the destination is: after each that is late the next one has longer. Then it is a
    multiple of the slowest answer, and shorter with each that was late in the last minute: one pause of the destination
    costs few objects their place, and many objects that are never answered cost the others little time.
    """

    FIRST, LEAST, LONGEST, MEMORY = 2.0, 0.1, 60.0, 60.0
    FACTOR = 4.0
    #: An object that is tried alone has at least this number of seconds.
    ALONE = 20.0

    def __init__(self) -> None:
        self._slowest = 0.0
        self._late: deque[float] = deque()

    def note_answer(self, seconds: float) -> None:
        self._slowest = max(seconds, self._slowest * 0.98)

    def note_late(self, now: float) -> None:
        self._late.append(now)

    @property
    def has_late(self) -> bool:
        return bool(self._late)

    @property
    def is_measured(self) -> bool:
        return self._slowest > 0

    def seconds(self, now: float, alone: bool = False) -> float:
        while self._late and now - self._late[0] > self.MEMORY:
            self._late.popleft()
        if alone:
            return max(self.ALONE, self.FACTOR * self._slowest)
        times = 2.0 ** min(len(self._late), 16)
        if not self.is_measured:
            return min(self.LONGEST, self.FIRST * times)
        return max(self.LEAST, self.FACTOR * self._slowest, self.FIRST / times)


class Throughput:
    """Bytes a second while the destination is busy: pauses do not count, and the last minutes weigh most.

    So a backlog's end can be predicted also where the line rested before.
    """

    #: A measurement of this age, in busy seconds, weighs a third (1/e): at first few, since a pull begins slowly
    #: (associations are added one by one), then half of the pull, at most LONGEST.
    SHORTEST, LONGEST = 3.0, 120.0
    #: Between two objects of one pull, not a pause; and a pause after which another pull begins.
    BREATH, REST = 1.0, 60.0

    def __init__(self) -> None:
        self._bytes = self._seconds = self._last = self._pull = 0.0

    def add(self, now: float, seconds: float, size: int) -> None:
        """An object of `size` bytes was taken, `seconds` after its sending began."""
        begun = now - seconds
        if begun - self._last > self.REST:
            self._pull = 0.0
        if begun - self._last < self.BREATH:
            begun = self._last
        busy = max(0.0, now - begun)
        self._pull += busy
        fade = math.exp(-busy / min(self.LONGEST, max(self.SHORTEST, self._pull / 2)))
        self._bytes, self._seconds, self._last = self._bytes * fade + size, self._seconds * fade + busy, now

    @property
    def rate(self) -> float | None:
        """Bytes a second; None until something was measured."""
        return self._bytes / self._seconds if self._seconds > 0 else None


class Tuner:
    """How many associations to use: more as long as that pays, back where it did not.

    One association waits while the destination stores an object, two hide that: once the first is open there are
    AT_FIRST. Each object waits a round trip for its answer, too, so on a long line many associations fill what one
    cannot: there it begins with as many as fill a line of LINE_RATE. A step that pays in full is followed by one twice
    as large.
    """

    AT_FIRST, MOST = 2, 96
    #: What a long line may carry, in bytes a second.
    LINE_RATE = 50 * MIB
    #: At first: the most associations, and the most bytes on the way.
    MOST_AT_FIRST, MOST_IN_FLIGHT = 32, 8 * MIB
    #: What a step must add to the rate, and what it adds where it pays in full.
    GAIN, FULL_GAIN = 1.05, 1.5
    #: The least that a measurement takes: seconds, and instances of each association.
    SPAN, INSTANCES = 0.3, 4
    #: After a step that did not pay, seconds until the next try; after a failure, longer.
    REST, LONG_REST = 30.0, 300.0

    def __init__(self, fixed: int | None = None) -> None:
        """`fixed`: a number that was configured; then only failures lower it, for a while."""
        self._wanted, self._fixed = fixed or 1, fixed
        self._step = 0  # how many the step on trial has added; 0: none is
        self._rest_until, self._limited = 0.0, False
        self._before = 0.0  # bytes per second before the step on trial
        self._settling = True  # the measurement that runs began with a step: associations were still being opened
        self._fresh = True
        self._begin(0.0)

    def limit(self, now: float) -> int:
        """How many associations to use."""
        if self._fixed and now >= self._rest_until:
            return self._fixed
        return self._wanted

    def note_association(self, round_trip: float, size: float) -> None:
        """An association is open over a line of `round_trip` seconds; objects of about `size` bytes wait (0: none)."""
        if not self._fresh or self._fixed:
            return
        self._wanted = self.AT_FIRST
        if round_trip >= LONG_LINE and size:
            in_flight = min(self.MOST_IN_FLIGHT, round_trip * self.LINE_RATE)
            self._wanted = max(1, min(self.MOST_AT_FIRST, round(in_flight / size)))
        self._fresh = round_trip >= LONG_LINE and not size  # the next one is open when it is known what waits

    def note_sent(self, now: float, size: int, pressed: bool) -> None:
        """An instance of `size` bytes was sent; `pressed` while more work waits."""
        if self._fixed:
            return
        if not pressed or not self._begun:
            self._begin(now)
            return
        self._count += 1
        self._size += size
        if now - self._begun >= self.SPAN and self._count >= self.INSTANCES * self._wanted:
            rate = self._size / (now - self._begun)
            self._begin(now)
            self._compare(now, rate)

    def can_grow(self, now: float) -> bool:
        """May others be opened beside those that do not move on?"""
        return not self._fixed and (now >= self._rest_until or not self._limited)

    def note_failure(self, now: float, others: int) -> None:
        """An association could not be opened while `others` go on: more than these the destination may not want."""
        self._wanted, self._step, self._fresh = max(1, others), 0, False
        self._rest_until, self._limited = now + self.LONG_REST, True

    def _begin(self, now: float) -> None:
        self._begun, self._count, self._size = now, 0, 0

    def _compare(self, now: float, rate: float) -> None:
        if self._settling:
            self._settling = False
        elif self._step and rate < self._before * self.GAIN:
            self._wanted, self._step, self._settling = self._wanted - self._step, 0, True
            self._before = rate  # after the rest one more is tried, not twice as many
            self._rest_until, self._limited = now + self.REST, False
        elif now >= self._rest_until and self._wanted < self.MOST:
            paid_in_full = rate >= self._before * self.FULL_GAIN  # as a first measurement does: before was nothing
            self._step = min(self._wanted if paid_in_full else 1, self.MOST - self._wanted)
            self._wanted, self._before, self._settling = self._wanted + self._step, rate, True
        else:
            self._step = 0
