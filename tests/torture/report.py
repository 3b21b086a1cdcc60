"""The scorecard: JSON that keeps every row's last run, and the tables of docs/reliability.md made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.torture.row import Row, Score

#: Between these lines of the document stands what is made here.
BEGIN, END = "<!-- scorecard -->", "<!-- end of the scorecard -->"
HEADINGS = ("row", "what is done", "tried", "survived", "seconds", "also measured")
UNPUBLISHED = ("row", "what is done", "survived means")

Entry = dict[str, Any]


def entry(row: Row, score: Score, seconds: float, seed: int, facts: Mapping[str, Any]) -> Entry:
    """One row's run, as JSON has it."""
    return {
        "name": row.name,
        "what": row.what,
        "survives": row.survives,
        "comparison": bool(getattr(row, "comparison", False)),
        "tried": score.tried,
        "survived": score.survived,
        "holds": score.holds,
        "seconds": round(seconds, 1),
        "seed": seed,
        "figures": score.figures,
        "faults": score.faults,
        "missing": score.missing,
        **{name: facts[name] for name in ("date", "machine", "system", "edge", "peers")},
    }


def failed(entries: Sequence[Entry]) -> list[Entry]:
    """Rows that do not hold; a peer's row is there for comparison."""
    return [each for each in entries if not each["holds"] and (each["missing"] or not each["comparison"])]


def keep(path: Path, entries: Sequence[Entry], order: Sequence[str]) -> list[Entry]:
    """Put the entries in the place of older ones of the same name; returns all, in the order of the rows."""
    old = json.loads(path.read_text()) if path.exists() else []
    by_name = {each["name"]: each for each in [*old, *entries] if each["name"] in order}
    whole = [by_name[name] for name in order if name in by_name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def markdown(entries: Sequence[Entry], others: Sequence[Row] = ()) -> str:
    """The table, and where and when it was measured; then the rows of which no run is published."""
    table = _table(HEADINGS, [_cells(each) for each in entries])
    runs = dict.fromkeys(
        f"- {e['date'][:10]}: {e['edge']}; {e['machine']}; {e['system']}; {e['peers']}" for e in entries
    )
    seeds = sorted({each["seed"] for each in entries})
    told = "\n".join([*runs, f"- seeds: {', '.join(map(str, seeds))}"])
    faults = "\n".join(f"- `{each['name']}`: {fault}" for each in failed(entries) for fault in _faults(each))
    parts = [told, table, *([f"Not survived:\n\n{faults}"] if faults else [])]
    if others:
        unpublished = _table(UNPUBLISHED, [(f"`{each.name}`", each.what, each.survives) for each in others])
        parts.append(f"`make torture` plays these as well; a run of theirs is not published yet:\n\n{unpublished}")
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _faults(each: Entry) -> list[str]:
    return [each["missing"]] if each["missing"] else each["faults"][:5]


def _cells(each: Entry) -> tuple[str, ...]:
    figures = "; ".join(f"{name}: {_number(value)}" for name, value in each["figures"].items())
    survived = "MISSING" if each["missing"] else f"{each['survived']:,}"
    return (
        f"`{each['name']}`",
        each["what"],
        f"{each['tried']:,}",
        survived if each["holds"] or each["comparison"] else f"**{survived}**",
        f"{each['seconds']:,.0f}",
        figures,
    )


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def insert(document: Path, text: str) -> None:
    """Replace what stands between the marks of a document."""
    head, _, rest = document.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    document.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}")


def show(console: Console, entries: Sequence[Entry]) -> None:
    table = Table("row", "tried", "survived", "seconds", "also measured")
    bad = {each["name"] for each in failed(entries)}
    for each in entries:
        name, _, *cells = _cells(each)
        style = "red" if each["name"] in bad else None if each["comparison"] else "green"
        table.add_row(name.strip("`"), *(cell.strip("*") for cell in cells), style=style)
    console.print(table)
    for each in failed(entries):
        for fault in _faults(each):
            console.print(f"{each['name']}: {fault}", style="red", markup=False)
