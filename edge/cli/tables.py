"""The form of answers: tables for people on a terminal, plain columns in a pipe, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any, TypeVar

import click
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from edge.text import align_columns, iso_or_none, moment_text, printable

T = TypeVar("T")
#: What a cell holds; None shows as a dash.
Cell = str | int | float | None
#: The columns of a list: heading -> what it shows of a row.
Columns = Mapping[str, Callable[[T], Cell]]

#: Columns whose name ends so have what people copy.
UNBROKEN_COLUMNS = ("UID", "file")
#: A row of more lines has its longest texts below it.
MOST_ROW_LINES = 3
#: A longer word in a narrow table is broken.
MOST_UNBROKEN = 12
#: What is tried where a table has to wrap: the gap between columns, and the longest word that stays whole.
_ATTEMPTS = ((2, 24), (2, 16), (2, MOST_UNBROKEN), (1, MOST_UNBROKEN), (1, 8), (1, 5))

STYLES = {
    "up": "green",
    "running": "green",
    "confirmed": "green",
    "down": "bold red",
    "held": "red",
    "lost": "bold red",
    "critical": "bold red",
    "major": "red",
    "conflict": "yellow",
    "quarantined": "yellow",
    "deferred": "yellow",
    "minor": "yellow",
    "paused": "yellow",
}


def console() -> Console:
    """Standard output as it is now; colours only on a terminal, and not where NO_COLOR is set."""
    return Console(highlight=False, soft_wrap=False)


def say(text: str, style: str = "") -> None:
    """A line for people, from wherever its words come. A terminal gets it wrapped between words."""
    out = console()
    out.print(Text(printable(text), style=style), soft_wrap=not out.is_terminal)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Group:
    """A table for a terminal; numbers stand at the right. No columns named: no heading.

    Where it is too narrow, words are wrapped, and what people copy stands whole, in lines of its own below its row;
    so do long texts that would make a row high.
    """
    cells = [list(row) for row in rows]
    shown = [[format_cell(cell) for cell in row] for row in cells]
    texts = list(zip(*([columns] if columns else []), *shown, strict=True))
    room = console().width
    below = _columns_below(columns, texts, room)
    beside = [index for index in range(len(texts)) if index not in below]
    gap, widths = _fit([texts[index] for index in beside], room)
    numeric = [any(isinstance(row[index], (int, float)) for row in cells) for index in beside]

    def part(lines: Iterable[Sequence[Text]], *, heading: bool) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0), show_header=heading)
        for index, width, is_number in zip(beside, widths, numeric, strict=True):
            justify: JustifyMethod = "right" if is_number else "left"
            made.add_column(columns[index] if columns else "", justify=justify, overflow="fold", width=width)
        for line in lines:
            made.add_row(*(line[index] for index in beside))
        return made

    styled = [
        [Text(text, style=STYLES.get(str(cell), "")) for cell, text in zip(row, line, strict=True)]
        for row, line in zip(cells, shown, strict=True)
    ]
    if not below:
        return Group(part(styled, heading=bool(columns)))
    parts: list[RenderableType] = [part([], heading=True)]
    for line, plain in zip(styled, shown, strict=True):
        parts.append(part([line], heading=False))
        details = [f"{columns[index]} {plain[index]}" for index in below if plain[index] != "-"]
        parts += [Padding(Text(each, style="dim"), (0, 0, 0, 2)) for each in details]
    return Group(*parts)


def _columns_below(columns: Sequence[str], texts: Sequence[Sequence[str]], room: int) -> list[int]:
    """Which columns stand below their rows: what people copy, then the widest, until no row is high."""
    if not columns or sum(max(map(len, column)) + 2 for column in texts) - 2 <= room:
        return []
    beside = [index for index, name in enumerate(columns) if not name.endswith(UNBROKEN_COLUMNS)]
    while len(beside) > 1 and _height([texts[index] for index in beside], room) > MOST_ROW_LINES:
        beside.remove(max(beside[1:], key=lambda index: max(map(len, texts[index]))))
    return [index for index in range(len(columns)) if index not in beside]


def _height(texts: Sequence[Sequence[str]], room: int) -> int:
    """The lines of the highest row."""
    _, widths = _fit(texts, room)
    cells = ((text, width) for column, width in zip(texts, widths, strict=True) for text in column)
    return max(len(textwrap.wrap(text, width)) if len(text) > width else 1 for text, width in cells)


def _fit(texts: Sequence[Sequence[str]], room: int) -> tuple[int, list[int]]:
    """The gap and the widths with which these columns have room, with as few broken words as can be."""
    for gap, most in _ATTEMPTS:
        widths = fit_widths(texts, room - gap * (len(texts) - 1), most)
        if widths is not None:
            return gap, widths
    return 1, [max(1, room // max(1, len(texts)) - 1)] * len(texts)


def fit_widths(texts: Sequence[Sequence[str]], room: int, most: int = MOST_UNBROKEN) -> list[int] | None:
    """The width of each column of these texts: where some have to wrap, between words. None: the room is too small."""
    widths = [max(map(len, column)) for column in texts]
    least = [max(min(len(word), most) for text in column for word in text.split() or "-") for column in texts]
    if sum(least) > room:
        return None
    found = list(widths)
    while sum(found) > room:  # the next letter goes where it costs the fewest lines
        shrinking = [index for index in range(len(found)) if found[index] > least[index]]
        found[min(shrinking, key=lambda index: widths[index] / (found[index] - 1))] -= 1
    return found


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table on a terminal, plain columns otherwise."""
    out = console()
    if out.is_terminal:
        out.print(table(columns, rows))
    else:
        click.echo(format_columns(columns, rows))


def print_list(
    rows: Sequence[T],
    columns: Columns[T],
    none: str,
    *,
    as_json: bool,
    json_of: Callable[[T], object] = lambda row: row,
) -> None:
    """Print the rows of a list as a table, or as JSON; `none` is what is said where there are none."""
    if as_json:
        print_json([json_of(each) for each in rows])
    elif rows:
        print_rows(columns, rows)
    else:
        say(none, "green")


def print_rows(columns: Columns[T], rows: Iterable[T]) -> None:
    """Print rows as a table."""
    print_table([*columns], [[cell(each) for cell in columns.values()] for each in rows])


def print_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Print a name and a value on each line."""
    facts = list(facts)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(f"{name.ljust(width)}  {'-' if value in (None, '') else value}")


def format_columns(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Rows as columns of text, two spaces apart."""
    cells = [[format_cell(cell) for cell in row] for row in rows]
    if columns:
        cells.insert(0, list(columns))
    return align_columns(cells)


def format_cell(cell: Cell) -> str:
    if cell is None or cell == "":
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))


def local_time(moment: float | None) -> str:
    """A time for people: local, with date and zone."""
    return "" if moment is None else moment_text(moment, seconds=True)


@contextmanager
def progress_bar(text: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show progress on a terminal, beside the answer. What it yields takes what is done, and the total once known."""
    beside = Console(stderr=True)
    with Progress(console=beside, transient=True, disable=not beside.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done, of=total: bar.update(task, completed=done, total=of)


def fail_unless(is_good: bool) -> None:
    """Exit with 1, the answer "no"."""
    if not is_good:
        raise SystemExit(1)


def print_json(value: object) -> None:
    click.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


#: Keys of the JSON by which version 0.1 named the same value; they stay for one release (docs/manual.md).
_OLD_KEYS = {
    "notified": "told",  # language: key of version 0.1
    "notices": "told",  # language: key of version 0.1
    "opened_notice_at": "told_open_at",  # language: key of version 0.1
    "closed_notice_at": "told_close_at",  # language: key of version 0.1
    "reported_from": "told_from",  # language: key of version 0.1
    "reported_to": "told_to",  # language: key of version 0.1
}


def with_old_keys(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Repeat the values of renamed keys under their old names."""
    return {**row, **{_OLD_KEYS[key]: value for key, value in row.items() if key in _OLD_KEYS}}


def jsonable(value: Any) -> Any:
    """Facts as JSON has them: dataclasses as objects, enumerations by value, `..._at` moments in ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, dict):
        return {key: _moment(key, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def _moment(key: object, value: Any) -> Any:
    is_moment = isinstance(value, float) and (str(key) in _MOMENTS or str(key).endswith("_at"))
    return iso_or_none(value) if is_moment else jsonable(value)


_MOMENTS = frozenset({"not_before", "first_received", "last_received", "at"})
