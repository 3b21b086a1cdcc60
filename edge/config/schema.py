"""The JSON Schema of the configuration, for editors: made of the list of sections. Pure.

It describes one file of the directory, so no table is required. Limits: what several keys say together is checked by
`edge check` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.config.sections import NAMED_SECTIONS, SINGLE_SECTIONS
from edge.config.tables import defaults, keys, required_keys


def config_schema() -> dict[str, Any]:
    """Build the schema (JSON Schema 2020-12)."""
    tables: dict[str, Any] = {table: _section(cls) for table, cls in SINGLE_SECTIONS.items()}
    for table, (cls, _) in NAMED_SECTIONS.items():
        tables[table] = {
            "type": "object",
            "description": f"Tables [{table}.NAME]",
            "additionalProperties": _section(cls),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Edge: one TOML file of its directory",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
    }


def _section(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: _key(cls, name) for name in keys(cls)},
        "additionalProperties": False,
    }
    if required := list(required_keys(cls)):
        found["required"] = required
    return found


def _key(cls: type, name: str) -> Mapping[str, Any]:
    kind, found = keys(cls)[name], defaults(cls)
    text = kind.expected[:1].upper() + kind.expected[1:]
    shown = found.get(name)
    written = isinstance(shown, (str, bool, int)) and type(shown) in (str, bool, int) and shown != ""
    return {"description": text, **kind.schema, **({"default": shown} if written else {})}
