"""Objects with which associations end: when they are tried, and when held. Pure: clocks and chance are arguments.

One failure poses two questions: is the destination down, or does this object break associations? The first is
answered without the object: by opening an association, by C-ECHO, by other objects. The second by trying the object
alone, as the only one of an association that has just answered C-ECHO, a bounded number of times.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.worker.backoff import backoff

#: Broken associations after which an object is held: where the destination has answered for another object since the
#: first of them, and where nothing else shows that it stores anything at all.
PROVED, UNPROVED = 3, 6
#: After this number of objects in a row that broke their associations the destination is asked with C-ECHO.
CHECK_AFTER = 3
#: After this number without an answer to any, although C-ECHO is answered, further ones are tried ever more slowly.
MANY = 200
#: Seconds from one try of a suspect to the next, doubled each time.
AGAIN_FIRST, AGAIN_LATE, AGAIN_LONGEST = 2.0, 30.0, 900.0
#: And of the others, while nothing shows that the destination stores anything.
SLOWLY_FIRST, SLOWLY_LONGEST = 1.0, 60.0


def must_hold(breaks: int, first_break: float | None, last_answer: float | None) -> bool:
    """Must it be held after `breaks`? Sooner where the destination answered for others since. Times: UTC seconds."""
    proved = first_break is not None and last_answer is not None and last_answer > first_break
    return breaks >= (PROVED if proved else UNPROVED)


def again_after(breaks: int, chance: float, is_late: bool = False) -> float:
    """Seconds until the next try; one that others had to wait for comes after what may be innocent."""
    return max(backoff(breaks, AGAIN_FIRST, AGAIN_LONGEST, chance), AGAIN_LATE if is_late else 0.0)


@dataclass(slots=True)
class Suspicion:
    """What breaks in a row, while the destination answers for no object. Times are monotonic."""

    fresh: int = 0  # objects that broke their first association
    unchecked: int = 0  # those since the last C-ECHO
    alone: int = 0  # tries of suspects
    fresh_at: float = 0.0  # when the next fresh object may go
    alone_at: float = 0.0  # when the next suspect may go

    @property
    def wants_check(self) -> bool:
        return self.unchecked >= CHECK_AFTER

    @property
    def is_slow(self) -> bool:
        return self.fresh >= MANY

    def note_answer(self) -> None:
        """The destination answered for an object."""
        if self.fresh or self.alone or self.unchecked:
            self.fresh = self.unchecked = self.alone = 0
            self.fresh_at = self.alone_at = 0.0

    def note_echo(self) -> None:
        """Note that the destination answered C-ECHO."""
        self.unchecked = 0

    def note_fresh_break(self, now: float, chance: float) -> None:
        self.fresh, self.unchecked = self.fresh + 1, self.unchecked + 1
        if self.is_slow:
            self.fresh_at = now + backoff(self.fresh - MANY + 1, SLOWLY_FIRST, SLOWLY_LONGEST, chance)

    def note_alone_break(self, now: float, chance: float) -> None:
        """A suspect did, and nothing shows that the destination stores anything."""
        self.alone += 1
        self.alone_at = now + backoff(self.alone, SLOWLY_FIRST, SLOWLY_LONGEST, chance)
