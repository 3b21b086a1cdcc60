"""What a row of the scorecard is: something done to the gateway so many times, and how often it came through.

A row's `play` tries until its budget is spent. Each try that ends with a fault is not survived, and is told with its
number and its seed, so that it can be repeated.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

#: Faults that are told in full; more are counted.
MOST_TOLD = 20


@dataclass
class Score:
    """How a row has gone."""

    tried: int = 0
    survived: int = 0
    faults: list[str] = field(default_factory=list)
    figures: dict[str, float | str] = field(default_factory=dict)  # what else was measured, by its name with its unit
    missing: str = ""  # what this machine lacks; the row then counts as not survived

    def tell(self, wrong: list[str], what: str = "") -> None:
        """A try has ended; `wrong` is what is wrong with it."""
        self.tried += 1
        self.survived += not wrong
        room = max(0, MOST_TOLD - len(self.faults))
        self.faults += [f"{what or f'try {self.tried}'}: {each}" for each in wrong[:3]][:room]

    @property
    def holds(self) -> bool:
        return not self.missing and self.tried > 0 and self.survived == self.tried


def not_once(answered: Iterable[str], kept: Iterable[str]) -> list[str]:
    """What was answered with success and is not kept, or is kept more than once."""
    times = Counter(kept)
    return [f"{each} was answered, and is {times[each]} times here" for each in answered if times[each] != 1]


#: What takes longer has stopped, however busy the machine is.
HURRIED_SECONDS = 60.0


@dataclass
class Budget:
    """How long a row may go on, and with which chance."""

    most: int  # tries
    seconds: float
    seed: int
    quick: bool = False
    fail_fast: bool = False  # the first fault is enough
    _began: float = field(default_factory=time.monotonic)

    def rounds(self, score: Score | None = None) -> Iterator[int]:
        """1, 2, 3 ... until there have been enough, or the time is over; one at least."""
        for number in range(1, self.most + 1):
            yield number
            if time.monotonic() - self._began > self.seconds or self.is_enough(score):
                return

    def is_enough(self, score: Score | None) -> bool:
        """Has a fault been found, where one is all that is wanted?"""
        return self.fail_fast and score is not None and bool(score.faults)

    def chance(self, number: int = 0) -> random.Random:
        """The chance of one round: the same for the same seed."""
        return random.Random(self.seed * 1_000_003 + number)

    def few(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def within(self, seconds: float) -> float:
        """How long something may take. In a hurry others use the machine: then only a hang is too long."""
        return max(seconds, HURRIED_SECONDS) if self.quick else seconds


class Row(Protocol):
    """One row of the scorecard."""

    @property
    def name(self) -> str:
        """For the command line."""
        ...

    @property
    def what(self) -> str:
        """For people: what is done."""
        ...

    @property
    def survives(self) -> str:
        """For people: what counts as survived."""
        ...

    @property
    def long(self) -> int:
        """Tries of the long run; 0: a fixed list, always the whole of it."""
        ...

    @property
    def quick(self) -> int: ...

    def play(self, place: Path, budget: Budget) -> Score:
        """Try, in an empty directory on a real disk. Raises Lacking where the machine cannot do it."""
        ...


class Lacking(Exception):
    """This machine lacks something that the row needs; the text says what."""


def percentile(values: list[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
