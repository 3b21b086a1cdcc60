"""An object that came by C-STORE or in any other way. The body is its data set, the prefix preamble and File Meta."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge.model import GuessedText, InstanceHeader, Origin, Values

CODE = 1  # language: each kind has one


@dataclass(frozen=True, slots=True)
class RecordedInstance:
    """`is_readable`: else its header could not be read or trusted, and `reason` says why; it goes to quarantine."""

    header: InstanceHeader
    is_readable: bool = True
    reason: str = ""
    has_attributes: bool = True  # else they did not fit the head: the body is read again
    header_keys: str = ""  # which elements its header was read for (HeaderSearch.name)


def encode(instance: RecordedInstance) -> bytes:  # language: each kind has one
    header = instance.header
    said = {
        "class": header.sop_class_uid,
        "uid": header.sop_instance_uid,
        "syntax": header.transfer_syntax_uid,
        "origin": header.origin.flat(),
        "readable": instance.is_readable,
        "reason": instance.reason,
        "header_keys": instance.header_keys,
        "attributes": _encode_values(header.attributes) if instance.has_attributes else None,
    }
    return _encode_json(said).encode("utf-8", "surrogateescape")


def decode(facts: bytes) -> RecordedInstance:  # language: each kind has one
    said = json.loads(facts.decode("utf-8", "surrogateescape"))
    attributes = said["attributes"]
    header = InstanceHeader(
        said["class"],
        said["uid"],
        said["syntax"],
        Origin(*said["origin"]),
        {keyword: tuple(map(_decode_value, values)) for keyword, values in (attributes or {}).items()},
    )
    return RecordedInstance(header, said["readable"], said["reason"], attributes is not None, said["header_keys"])


#: One encoder for all: json.dumps would make one for each record.
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _encode_values(attributes: Mapping[str, Values]) -> dict[str, list[str | list[str]]]:
    """A text whose character set is guessed is a list of one."""
    return {
        keyword: [[each] if isinstance(each, GuessedText) else each for each in values]
        for keyword, values in attributes.items()
    }


def _decode_value(value: str | list[str]) -> str:
    return value if isinstance(value, str) else GuessedText(value[0])
