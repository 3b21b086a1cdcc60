"""The meaning of a server's answer to STOW-RS (PS3.18 section 10.5.3): of the request, and of each instance. Pure.

200 is no proof: an instance is stored that the answer names so. One that it names in neither sequence is not stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any
from xml.etree import ElementTree

_INSTANCE, _WARNING, _FAILURE = "00081155", "00081196", "00081197"
_FAILED, _REFERENCED = "00081198", "00081199"
#: Failure Reasons with which a server says that it has an object under the UID already: Azure's, and PS3.7 annex C.
EXISTS = frozenset({45070, 0x0111})


class Meaning(Enum):
    """What to do about the whole request."""

    READ = "the answer says what became of each instance"
    SPLIT = "again with fewer instances: one of them, or their size, may be why"
    REFUSED = "this one instance is not taken, now or later"
    FAILED = "this one instance failed, perhaps not the next time"
    LATER = "the destination takes nothing now"
    UPSTREAM = "what is behind the server gave no answer: for this one instance, or for any"
    DENIED = "the destination does not let us in"
    WRONG = "this is not where STOW-RS is"


_READ = frozenset({200, 202, 409})
_DENIED, _LATER, _WRONG = frozenset({401, 403, 407}), frozenset({429, 503}), frozenset({404, 405, 410, 501})
_UPSTREAM = frozenset({502, 504})
_REFUSED = frozenset({400, 406, 413, 415, 422})


def meaning_of_answer(status: int, count: int) -> Meaning:
    """What an HTTP status means for a request with this number of instances."""
    if status in _READ:
        return Meaning.READ
    if status in _DENIED:
        return Meaning.DENIED
    if status in _LATER:
        return Meaning.LATER
    if status in _WRONG or 300 <= status < 400:
        return Meaning.WRONG
    if count > 1:
        return Meaning.SPLIT
    if status in _UPSTREAM:
        return Meaning.UPSTREAM
    return Meaning.REFUSED if status in _REFUSED else Meaning.FAILED


def retry_after(text: str, now: float) -> float | None:
    """Seconds from a Retry-After (RFC 9110 section 10.2.3); None where it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class StowReport:
    """SOP Instance UID -> status as of a C-STORE: of what was stored (0, or a warning), and of what was not."""

    stored: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)


def read_report(content_type: str, body: bytes) -> StowReport:
    """Read the report of an answer. Where it cannot be read, nothing counts as stored."""
    try:
        data_sets = list(_data_sets(content_type, body))
    except (ValueError, ElementTree.ParseError, RecursionError):
        return StowReport()
    stored, failed = dict[str, int](), dict[str, int]()
    for data_set in data_sets:
        for each in _items(data_set, _REFERENCED):
            stored[_first(each, _INSTANCE)] = _number(each, _WARNING, 0)
        for each in _items(data_set, _FAILED):
            failed[_first(each, _INSTANCE)] = _number(each, _FAILURE, 0x0110)
    return StowReport({uid: status for uid, status in stored.items() if uid and uid not in failed}, failed)


def _data_sets(content_type: str, body: bytes) -> Iterator[dict[str, Any]]:
    if "xml" in content_type.lower() or body.lstrip()[:1] == b"<":
        yield _from_xml(ElementTree.fromstring(body))
        return
    found = json.loads(body or b"{}")
    yield from (each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict))


def _items(data_set: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _first(data_set: dict[str, Any], tag: str) -> str:
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip(" \0") if isinstance(values, list) and values and values[0] is not None else ""


def _number(data_set: dict[str, Any], tag: str, default: int) -> int:
    try:
        return int(float(_first(data_set, tag))) & 0xFFFF
    except ValueError:
        return default


def _from_xml(element: ElementTree.Element) -> dict[str, Any]:
    """The Native DICOM Model as JSON has it, as far as it is needed here."""
    found: dict[str, Any] = {}
    for each in element:
        if not each.tag.endswith("DicomAttribute"):
            continue
        inner: list[Any] = [_from_xml(part) for part in each if part.tag.endswith("Item")]
        inner += [part.text or "" for part in each if part.tag.endswith("Value")]
        found[(each.get("tag") or "").upper()] = {"Value": inner}
    return found
