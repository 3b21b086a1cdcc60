"""Data sets as DICOM JSON (PS3.18 annex F); edge.dicom.native_model makes XML of that.

Of small data sets (edge.dicom.items): what QIDO-RS and STOW-RS answer. Headers of instances become JSON in
edge.dicom.metadata, from their bytes. A number that is none by JSON (an empty one, NaN) is null; an IS or DS that is no
number stays text, as PS3.18 section F.2.3 allows.
"""

from __future__ import annotations

import json
import math
from typing import Any

from edge.dicom.items import Attributes, ElementValue
from edge.errors import Unreadable
from edge.model import Values

_WHOLE = frozenset({"US", "SS", "UL", "SL", "UV", "SV"})
_REAL = frozenset({"FL", "FD"})
#: Names of a component group of PN, in the order of the groups (PS3.18 section F.2.2).
PN_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")

Json = dict[str, Any]


def to_json(data_set: Attributes) -> Json:
    """A data set as the object that JSON has of it; tags ascend."""
    return {f"{tag:08X}": element_to_json(data_set[tag]) for tag in sorted(data_set)}


def element_to_json(element: ElementValue) -> Json:
    if element.vr == "SQ":
        return {"vr": "SQ", "Value": [to_json(each) for each in element.items]} if element.items else {"vr": "SQ"}
    values = values_to_json(element.vr, element.values)
    return {"vr": element.vr, "Value": values} if values else {"vr": element.vr}


def values_to_json(vr: str, values: Values) -> list[Any]:
    """The array `Value`; empty where the element has none."""
    if vr == "PN":
        return [_name(each) for each in values]
    if vr in _WHOLE:
        return [int(each) for each in values]
    if vr in _REAL:
        return [_real(each) for each in values]
    if vr in ("IS", "DS"):
        return [_number(each) for each in values]
    return [each or None for each in values]


def _name(value: str) -> Json | None:
    groups = {name: group for name, group in zip(PN_GROUPS, value.split("="), strict=False) if group}
    return groups or None


def _real(value: str) -> float | str | None:
    number = float(value)
    return number if math.isfinite(number) else {math.inf: "inf", -math.inf: "-inf"}.get(number, "NaN")


def _number(value: str) -> int | float | str | None:
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


#: Items within items that are read.
_MOST_DEPTH = 16


def from_json(said: Any) -> Attributes:
    """The data set that an object of DICOM JSON says; bulk data is left out. Raises Unreadable."""
    try:
        return _data_set(said, _MOST_DEPTH)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise Unreadable("no data set in DICOM JSON") from None


def _data_set(said: Any, depth: int) -> Attributes:
    if not depth:
        raise ValueError("items within items within items")
    found = Attributes()
    for tag, element in said.items():
        vr, values = str(element["vr"]), element.get("Value") or []
        if vr == "SQ":
            found[int(tag, 16)] = ElementValue(vr, (), tuple(_data_set(each, depth - 1) for each in values))
        else:
            found[int(tag, 16)] = ElementValue(vr, tuple(map(_text, values)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "=".join(str(value.get(name) or "") for name in PN_GROUPS).rstrip("=")
    return "" if value is None else str(value)


def write_json(found: Any) -> bytes:
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
