"""How answers look: tables for people on a terminal, plain columns in a pipe, JSON for programs."""

from __future__ import annotations

import json
import math
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

from edge.text import align_columns, iso_or_none, printable

T = TypeVar("T")
#: What a cell holds; None shows as a dash.
Cell = str | int | float | None

#: On a terminal of this width or more a UID is not wrapped, so that it can be copied.
WIDE = 160
#: A row of more lines has its longest texts below it, indented.
MOST_ROW_LINES, INDENT = 3, 4
#: A longer word in a narrow table is broken.
MOST_UNBROKEN = 12

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


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> RenderableType:
    """A table for a terminal; numbers stand at the right. No columns named: no heading.

    Where rows would be high, their longest texts stand below them.
    """
    cells = [list(row) for row in rows]
    shown = [[format_cell(cell) for cell in row] for row in cells]
    room = console().width
    below = columns_below(columns, shown, room)
    if not below:
        return _Grid(columns, cells, room).build(cells, has_head=bool(columns))

    def select_kept(row: Sequence[T]) -> list[T]:
        return [each for index, each in enumerate(row) if index not in below]

    grid = _Grid(select_kept(columns), [select_kept(row) for row in cells], room)
    parts: list[RenderableType] = [grid.build([], has_head=True)]
    for row, line in zip(cells, shown, strict=True):
        details = [f"{columns[index]}: {line[index]}" for index in below if line[index] != "-"]
        parts.append(grid.build([select_kept(row)]))
        parts += [Padding(Text(each), (0, 0, 0, INDENT)) for each in details]
    return Group(*parts)


class _Grid:
    """Columns whose widths fit all rows, of which some can be drawn at a time."""

    def __init__(self, columns: Sequence[str], cells: Sequence[Sequence[Cell]], room: int) -> None:
        self._columns, self._cells, self._room = columns, cells, room
        self._texts = _columns_of(columns, [[format_cell(cell) for cell in row] for row in cells])
        self._gap, self._widths = _fit(self._texts, room)

    def build(self, rows: Iterable[Sequence[Cell]], *, has_head: bool = False) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, self._gap, 0, 0), show_header=has_head)
        for index in range(len(self._texts)):
            column = self._columns[index] if self._columns else ""
            numeric = any(isinstance(row[index], (int, float)) for row in self._cells)
            justify: JustifyMethod = "right" if numeric else "left"
            no_wrap = self._room >= WIDE and column.endswith("UID")
            width = self._widths[index] if self._widths and not no_wrap else None
            made.add_column(column, justify=justify, overflow="fold", no_wrap=no_wrap, width=width)
        for row in rows:
            made.add_row(*[Text(format_cell(cell), style=STYLES.get(str(cell), "")) for cell in row])
        return made


def columns_below(columns: Sequence[str], shown: Sequence[Sequence[str]], room: int) -> list[int]:
    """Which columns stand below their rows, so that none is higher than MOST_ROW_LINES: UIDs, then the widest ones."""
    kept = list(range(len(columns)))
    texts = _columns_of(columns, shown)
    while room < WIDE and len(kept) > 1 and _height([texts[index] for index in kept], room) > MOST_ROW_LINES:
        kept.remove(max(kept[1:], key=lambda index: (columns[index].endswith("UID"), max(map(len, texts[index])))))
    return [index for index in range(len(columns)) if index not in kept]


def _columns_of(columns: Sequence[str], shown: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*([columns] if columns else []), *shown, strict=True))


def _height(texts: Sequence[Sequence[str]], room: int) -> float:
    """The lines of the highest row; no end of them where a word has to be broken."""
    _, widths = _fit(texts, room)
    if widths is None:
        return math.inf
    cells = ((text, width) for column, width in zip(texts, widths, strict=True) for text in column)
    return max(len(textwrap.wrap(text, width)) if len(text) > width else 1 for text, width in cells)


def _fit(texts: Sequence[Sequence[str]], room: int) -> tuple[int, list[int] | None]:
    """The gap between columns, and their widths; None: they do not fit."""
    fits = ((gap, fit_widths(texts, room - gap * (len(texts) - 1))) for gap in (2, 1))
    return next((each for each in fits if each[1] is not None), (2, None))


def fit_widths(texts: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The width of each column of these texts: where some have to wrap, between words. None: the room is too small."""
    widths = [max(map(len, column)) for column in texts]
    least = [max(min(len(word), MOST_UNBROKEN) for text in column for word in text.split() or "-") for column in texts]
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
