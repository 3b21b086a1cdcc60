"""The JSON Schema of the heartbeat, as others read it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from edge.monitor.heartbeat import schema

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


@cache
def validator() -> Draft202012Validator:
    """Imported where it is used: its formats' grammars take seconds to be made, and each worker collects every file."""
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())
