"""What a row of the table is: who is measured, in which figures, and what Edge's must come to.

Every figure is the smaller the better. `measure` does one peer's share of one run; the program calls it in turns
(A B C A B C ...), so that what slows the machine for a while slows all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.bench.stage import Stage

#: What one measurement found, by the figure's name, unit included.
Figures = Mapping[str, float]
SECONDS = "s"
CPU = "CPU s/GB"


@dataclass(frozen=True)
class Target:
    """What a figure of the row's first peer must come to.

    With `against`: the ratio of the best of those peers' to ours, pair by pair, must be at least so much (1: as good as
    they, 2: twice as good). Without: the figure itself must be at most so much.
    """

    figure: str
    against: tuple[str, ...] = ()
    at_least: float | None = None
    aim: float | None = None


class Row(Protocol):
    """One row of the table. The first of `peers` is Edge."""

    @property
    def name(self) -> str:
        """For the command line."""
        ...

    @property
    def what(self) -> str:
        """For people."""
        ...

    @property
    def peers(self) -> tuple[str, ...]: ...

    @property
    def targets(self) -> tuple[Target, ...]: ...

    def measure(self, peer: str, stage: Stage) -> Figures:
        """Do the peer's work once. Raises AssertionError where anything was refused or lost: such a run counts not."""
        ...
