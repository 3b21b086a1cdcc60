"""Answers as files for other programs: CSV (RFC 4180) and JSON.

A cell that a spreadsheet would take for a formula begins with an apostrophe: AE titles and model names come from
the senders.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.central.columns import Column
from edge.text import iso, quote_formula

_MOMENTS = ("_at", "_seen")


def as_csv(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> str:
    """A heading and a line for each row."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([each.key for each in columns])
    for row in plain(rows):
        writer.writerow([quote_formula(row.get(each.key)) for each in columns])
    return out.getvalue()


def as_json(found: Iterable[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """An object, or a list of objects; moments in ISO 8601."""
    (plainly,) = plain([found]) if isinstance(found, Mapping) else (list(plain(found)),)
    return json.dumps(plainly, indent=2, ensure_ascii=False) + "\n"


def plain(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Rows with their moments as text and their numbers short."""
    return ({key: _plain(key, value) for key, value in row.items()} for row in rows)


def _plain(key: str, value: Any) -> Any:
    if key.endswith(_MOMENTS) and isinstance(value, (int, float)):
        return iso(value)
    return round(value, 4) if isinstance(value, float) else value
