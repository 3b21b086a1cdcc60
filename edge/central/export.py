"""Answers as files for other programs: CSV (RFC 4180) and JSON.

A cell that a spreadsheet would take for a formula begins with an apostrophe: AE titles and model names come from
whoever sends them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.text import iso

#: What makes a spreadsheet calculate (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|")
_MOMENTS = ("_at", "_seen")


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A heading and a line for each row."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in plain(rows):
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def as_json(told: Iterable[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """An object, or a list of objects; moments in ISO 8601."""
    (plainly,) = plain([told]) if isinstance(told, Mapping) else (list(plain(told)),)
    return json.dumps(plainly, indent=2, ensure_ascii=False) + "\n"


def plain(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Rows with their moments as text and their numbers short."""
    return ({key: _plain(key, value) for key, value in row.items()} for row in rows)


def _plain(key: str, value: Any) -> Any:
    if key.endswith(_MOMENTS) and isinstance(value, (int, float)):
        return iso(value)
    return round(value, 4) if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
