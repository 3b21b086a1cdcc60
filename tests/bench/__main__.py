"""`make bench`: Edge beside DCMTK and Orthanc, in the same run on the same machine.

Every row is measured so many times, its peers in turns. The table goes to the terminal, and to bench.md and bench.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.facts import facts
from tests.bench.plots import draw_all
from tests.bench.report import Outcome, show, write
from tests.bench.row import Figures, Row
from tests.bench.rows import ROWS
from tests.bench.stage import Stage, file_system
from tests.support.peers import REPOSITORY

ON_MEMORY = ("tmpfs", "ramfs")
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return 0 if every row could be measured."""
    given = _parser().parse_args(arguments)
    rows = [row for row in ROWS if not given.rows or any(row.name.startswith(name) for name in given.rows)]
    with Stage(given.out, given.quick) as stage:
        if file_system(stage.root) in ON_MEMORY:
            raise SystemExit(
                f"--out {given.out}: lies in memory; syncing costs nothing there. Name a directory on a disk."
            )
        runs = given.runs or (1 if given.quick else 5)
        told, outcomes = facts(stage.root, runs, given.quick), []
        for row in rows:
            outcomes.append(_measure(row, runs, stage))
            write(given.out, told, outcomes)
        if not given.quick:
            draw_all(given.out, outcomes)
    show(console, outcomes)
    console.print(f"{given.out}/bench.md and bench.json hold the same.")
    return int(any(outcome.failure for outcome in outcomes))


def _measure(row: Row, runs: int, stage: Stage) -> Outcome:
    outcome = Outcome(row)
    for number in range(runs):
        console.print(f"[bold]{row.name}[/bold] {number + 1}/{runs}: {row.what}")
        try:
            outcome.runs.append({peer: _one(row, peer, stage) for peer in row.peers})
        except (AssertionError, OSError, subprocess.SubprocessError, pytest.skip.Exception) as error:
            outcome.failure = str(error)
            console.print(str(error), style="red", markup=False)
            break
    return outcome


def _one(row: Row, peer: str, stage: Stage) -> Figures:
    figures = row.measure(peer, stage)
    console.print(f"  {peer:<20} " + ", ".join(f"{value:.3g} {name}" for name, value in figures.items()))
    return figures


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {row.name:<14} {row.what}" for row in ROWS)
    parser = argparse.ArgumentParser(
        prog="tests.bench",
        description=__doc__,
        epilog=f"rows (the beginning of a name will do):\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these", type=_known)
    parser.add_argument("--runs", type=int, help="how often each row is measured (5; with --quick 1)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "bench", help="directory, on a disk")
    parser.add_argument("--quick", action="store_true", help="few objects: tries the program, says little of speed")
    return parser


def _known(name: str) -> str:
    if not any(row.name.startswith(name) for row in ROWS):
        raise argparse.ArgumentTypeError(f"no row begins with {name!r}; choose from {', '.join(r.name for r in ROWS)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
