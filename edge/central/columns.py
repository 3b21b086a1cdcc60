"""Columns of the centre's tables, and how their cells read: pages, commands and exports share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.text import percent, percent_exact, size, span

Answer = list[dict[str, Any]]

#: Rows of one page of a table.
PART_ROWS = 100


@dataclass(frozen=True, slots=True)
class Column:
    """`kind`: text, count, share, exact (a share, to the last seconds), size, seconds or moment; how it is shown."""

    key: str
    label: str
    kind: str = "text"


#: How the kinds of Column are shown, but for moments and counts.
CELLS: Mapping[str, Callable[[Any], str]] = {
    "share": percent,
    "exact": percent_exact,
    "size": lambda octets: size(octets) if octets >= 0 else f"-{size(-octets)}",
    "seconds": span,
}
