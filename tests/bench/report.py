"""What was measured, as numbers, as Markdown and on the terminal: medians, spread, and ratios pair by pair."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.row import Figures, Row, Target

#: One run: each peer's figures.
Run = Mapping[str, Figures]
COLOURS = {"no": "red", "yes": "green"}
HEADINGS = ("row", "figure", "edge", "peers", "edge is", "at least", "aim", "holds")


@dataclass
class Outcome:
    """A row, its runs, and why there are no more of them."""

    row: Row
    runs: list[Run] = field(default_factory=list)
    failure: str = ""

    def summary(self) -> dict[str, Any]:
        judged = [judge(self.row, target, self.runs) for target in self.row.targets] if self.runs else []
        return {
            "name": self.row.name,
            "what": self.row.what,
            "peers": list(self.row.peers),
            "runs": self.runs,
            "targets": [asdict(target) | verdict for target, verdict in zip(self.row.targets, judged, strict=False)],
            "failure": self.failure,
        }


def judge(row: Row, target: Target, runs: Sequence[Run]) -> dict[str, Any]:
    """What a target has come to: median, least and greatest of the runs' ratios (or figures), and whether it holds."""
    ours = row.peers[0]
    values = [_compare(run, ours, target) for run in runs]
    median = statistics.median(values)
    holds = None
    if target.at_least is not None:
        holds = median >= target.at_least if target.against else median <= target.at_least
    return {"median": median, "least": min(values), "greatest": max(values), "holds": holds}


def _compare(run: Run, ours: str, target: Target) -> float:
    own = run[ours][target.figure]
    if not target.against:
        return own
    return min(run[peer][target.figure] for peer in target.against) / own


def spread(values: Sequence[float]) -> str:
    """The median, and between which values it lies."""
    text = _number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def lines(outcome: Outcome) -> list[tuple[str, ...]]:
    """The row's lines of the table, one for each target."""
    row, runs = outcome.row, outcome.runs
    measured = [_line(row, target, runs) for target in row.targets] if runs else []
    if not outcome.failure:
        return measured
    reason = outcome.failure.splitlines()[0]
    return [*measured, (row.what, "", "", "", f"run {len(runs) + 1} failed: {reason}", "", "", "no")]


def _line(row: Row, target: Target, runs: Sequence[Run]) -> tuple[str, ...]:
    own, *others = row.peers
    peers = "; ".join(f"{peer} {spread([run[peer][target.figure] for run in runs])}" for peer in others)
    verdict = judge(row, target, runs)
    compared = f"{_number(verdict['median'])} x {' or '.join(target.against)}" if target.against else ""
    if target.against and len(runs) > 1:
        compared += f" ({_number(verdict['least'])} to {_number(verdict['greatest'])})"
    limits = ["" if value is None else _limit(value, target) for value in (target.at_least, target.aim)]
    holds = {None: "", True: "yes", False: "no"}[verdict["holds"]]
    ours = spread([run[own][target.figure] for run in runs])
    return (row.what, target.figure, ours, peers, compared, *limits, holds)


def _limit(value: float, target: Target) -> str:
    return f"{_number(value)} x" if target.against else f"≤ {_number(value)}"


def markdown(facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The whole table, with where and when it was measured."""
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *(line for outcome in outcomes for line in lines(outcome))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"{told}\n\nFigures are medians (least to greatest); ratios are taken run by run.\n\n{table}\n"


def write(directory: Path, facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """bench.json and bench.md; called after every row, so that an interrupted program leaves what it has."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = {**facts, "rows": [outcome.summary() for outcome in outcomes]}
    (directory / "bench.json").write_text(json.dumps(whole, indent=1) + "\n")
    (directory / "bench.md").write_text(markdown(facts, outcomes))


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    table = Table(*HEADINGS)
    for outcome in outcomes:
        for number, (what, *cells) in enumerate(lines(outcome)):
            table.add_row("" if number else what, *cells, style=COLOURS.get(cells[-1]))
        table.add_section()
    console.print(table)
