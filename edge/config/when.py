"""The shape of a `when` table: which conditions a route or a hold may ask, and of what.

The keywords are those of the data dictionary (PS3.6) above the pixel data, and the association's own facts. Limits:
what depends on how an attribute's values compare (the bounds of a range, the names of UIDs) is edge.conditions' to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edge.config.values import Fault, Unfit, ValueKind, did_you_mean, show

#: What a condition may ask besides the attributes of the data set.
ASSOCIATION_FACTS = ("CallingAETitle", "CalledAETitle", "RemoteAddress", "ReceivedAt", "TransferSyntaxUID")

_FORMS = {"not": "not", "regex": "regex", "from": "range", "to": "range", "present": "present"}
_CONDITION = "text or a number, a list of conditions, or a table with not, regex, from/to or present"
_FIRST_IN_DATA_SET = 0x00080000
_PIXEL_DATA = 0x7FE00008  # Float; (7FE0,0009) Double Float and (7FE0,0010) follow


def check_when(when: Mapping[str, object]) -> list[Fault]:
    """Every fault in the shape of a `when` table, with its place inside the table."""
    faults: list[Fault] = []
    for keyword, condition in when.items():
        faults += (((keyword,), text) for text in _check_keyword(keyword, condition))
        faults += (((keyword, *key), text) for key, text in _check_condition(condition))
    return faults


def _check_keyword(keyword: str, condition: object) -> Iterator[str]:
    if keyword in ASSOCIATION_FACTS:
        return
    from pydicom import datadict  # noqa: PLC0415 - slow to import, and many configurations name no attribute

    tag = datadict.tag_for_keyword(keyword)
    if tag is None:
        near = did_you_mean(keyword, (*ASSOCIATION_FACTS, *datadict.keyword_dict))
        yield f"not a DICOM keyword{near or '; expected one of the data dictionary (PS3.6), such as Modality'}"
    elif not _FIRST_IN_DATA_SET <= tag < _PIXEL_DATA:
        yield "not among the attributes above the pixel data; expected one that stands there, such as Modality"
    elif _has_no_text(datadict.dictionary_VR(tag)) and not _asks_presence(condition):
        yield "has no value to compare; expected { present = true } or { present = false }"


def _has_no_text(vr: str) -> bool:
    return vr in ("SQ", "UN") or vr.startswith("O") or vr.endswith("OW")


def _asks_presence(condition: object) -> bool:
    return isinstance(condition, dict) and ("present" in condition or _asks_presence(condition.get("not")))


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _check_condition(condition: object) -> Iterator[Fault]:
    if isinstance(condition, dict):
        yield from _check_table(condition)
    elif isinstance(condition, list) and condition:
        for index, item in enumerate(condition):
            yield from (((index, *key), text) for key, text in _check_condition(item))
    elif not _is_scalar(condition):
        yield (), f"expected {_CONDITION}, found {show(condition)}"


def _check_table(table: Mapping[str, object]) -> Iterator[Fault]:
    unknown = [name for name in table if name not in _FORMS]
    for name in unknown:
        near = did_you_mean(name, _FORMS)
        yield (name,), f"unknown condition{near or '; expected not, regex, from, to or present'}"
    if not unknown and len({_FORMS[name] for name in table}) != 1:
        found = " and ".join(table) or "none"
        yield (), f"expected exactly one of not, regex, from/to or present, found {found}"
    for name, value in table.items():
        if name in _FORMS:
            yield from (((name, *key), text) for key, text in _check_operand(name, value))


def _check_operand(name: str, value: object) -> Iterator[Fault]:
    if name == "not":
        yield from _check_condition(value)
    elif name == "present":
        if not isinstance(value, bool):
            yield (), f"expected true or false, found {show(value)}"
    elif name == "regex":
        yield from _check_regex(value)
    elif not _is_scalar(value):
        yield (), f"expected text or a number, found {show(value)}"


def _check_regex(value: object) -> Iterator[Fault]:
    if not isinstance(value, str):
        yield (), f"expected a regular expression in quotes, found {show(value)}"
        return
    try:
        re.compile(value)
    except re.error as error:
        yield (), f"expected a regular expression, found {show(value)}: {error}"


def _when(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    if faults := check_when(value):
        raise Unfit(*faults)
    return value


WHEN = ValueKind('a table of conditions such as { Modality = "CT" }', _when)
