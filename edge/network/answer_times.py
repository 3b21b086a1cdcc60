"""Response times: histograms in memory, for /metrics and the charts.

The bounds are those at which people notice: a modality waits for each answer before it sends the next object.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

#: Upper bounds of the buckets, in seconds; one more bucket has what is above.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class AnswerTally:
    """Answers since a beginning: in each bucket, their seconds together, what they took, and refusals."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0
    bytes: int = 0
    refused: int = 0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, seconds: float, size: int, *, is_refused: bool = False) -> None:
        """One answer after `seconds`, to an object of `size` bytes."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.refused += is_refused
        if not is_refused:
            self.bytes += size

    def merge(self, other: AnswerTally) -> None:
        """Add another tally."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds
        self.bytes += other.bytes
        self.refused += other.refused

    def as_list(self) -> list[float]:
        """The numbers as a list, for a message between processes."""
        return [*self.counts, self.seconds, self.bytes, self.refused]


def tally_of(values: Sequence[float]) -> AnswerTally:
    """The inverse of `as_list`."""
    *counts, seconds, octets, refused = values
    return AnswerTally([int(each) for each in counts], float(seconds), int(octets), int(refused))


class AnswerTimes:
    """Tallies by name. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, AnswerTally] = {}

    def add(self, name: str, tally: AnswerTally) -> None:
        with self._lock:
            self._tallies.setdefault(name, AnswerTally()).merge(tally)

    def all(self) -> dict[str, AnswerTally]:
        """A copy of each, by name."""
        with self._lock:
            return {name: replace(each, counts=list(each.counts)) for name, each in self._tallies.items()}
