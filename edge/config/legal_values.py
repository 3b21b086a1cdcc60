"""The values that a Value Representation may have (PS3.5 section 6.2). Pure; names the fault, never the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

#: Characters at most of one value; of PN, of one of its component groups.
_LONGEST = {"AE": 16, "AS": 4, "CS": 16, "DA": 8, "DS": 16, "DT": 26, "IS": 12, "LO": 64, "LT": 10240, "PN": 64}
_LONGEST |= {"SH": 16, "ST": 1024, "TM": 14, "UI": 64}
_CLOCK = r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"
_FORMS = {
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9 _]*",
    "DS": r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *",
    "DT": rf"\d{{4}}((0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])({_CLOCK})?)?)?([+-]\d{{4}})?",
    "IS": r" *[+-]?\d+ *",
    "TM": _CLOCK,
    "UI": r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*",
}
_PATTERNS: dict[str, Callable[[str], object]] = {vr: re.compile(form).fullmatch for vr, form in _FORMS.items()}
#: VRs of one value, in which a backslash is a character.
_SINGLE = frozenset({"LT", "ST", "UR", "UT"})
_TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_RANGES = {"US": (0, 0xFFFF), "SS": (-0x8000, 0x7FFF), "UL": (0, 0xFFFFFFFF), "SL": (-(1 << 31), (1 << 31) - 1)}
_RANGES |= {"UV": (0, (1 << 64) - 1), "SV": (-(1 << 63), (1 << 63) - 1)}


def value_fault(vr: str, value: str) -> str:
    """What keeps a text from being a value of a VR; empty where nothing does, or where the VR has no text."""
    if not value:
        return ""
    if vr in _RANGES:
        return _number_fault(vr, value)
    if vr in ("FL", "FD"):
        return "" if _PATTERNS["DS"](value) else f"no number, as {vr} has"
    parts = value.split("=") if vr == "PN" else [value]
    if vr == "PN" and (len(parts) > 3 or any(part.count("^") > 4 for part in parts)):
        return "more than three groups of five components, as PN has"
    if max(map(len, parts)) > _LONGEST.get(vr, len(value)):
        return f"longer than the {_LONGEST[vr]} characters of {vr}"
    if (pattern := _PATTERNS.get(vr)) is not None and not pattern(value):
        return f"not of the form of {vr}"
    if vr == "DA":
        return _date_fault(value)
    return _text_fault(vr, value) if vr in _TEXTS else ""


def _number_fault(vr: str, value: str) -> str:
    low, high = _RANGES[vr]
    is_number = re.fullmatch(r"[+-]?\d+", value)
    return "" if is_number and low <= int(value) <= high else f"no number from {low} to {high}, as {vr} has"


def _date_fault(value: str) -> str:
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return "no date (YYYYMMDD)"
    return "" if re.fullmatch(r"\d{8}", value) else "no date (YYYYMMDD)"


def _text_fault(vr: str, value: str) -> str:
    if vr not in _SINGLE and "\\" in value:
        return "a backslash, which separates values"
    lines = "\t\n\f\r" if vr in ("LT", "ST", "UT") else ""
    if any(ord(char) < 0x20 and char not in lines for char in value):
        return "control characters"
    return ""
