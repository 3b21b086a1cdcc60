"""The irradiation events of X-ray dose reports (PS3.16 TID 10001, 10003, 10013), each counted once.

Several reports of one study, or a report that was corrected, repeat events: they are the same by their Irradiation
Event UID (113769, DCM). Limits: dose length products (CT), dose area products (projection) and average glandular doses
(mammography, each breast for itself: PS3.16 TID 10003) are read, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.dicom.items import Attributes, decode_items
from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import Unreadable

_EVENT_UID = "113769"
#: Code value (DCM) -> what it measures.
_MEASURES = {"113838": "dose_length_product", "122130": "dose_area_product", "111631": "average_glandular_dose"}
#: Laterality (SNOMED CT, and as SRT wrote it), and its values: doses of two breasts are never added up.
_LATERALITY = ("272741003", "G-C171")
_SIDES = {"24028007": "right", "G-A100": "right", "7771000": "left", "G-A101": "left"}
#: What was measured -> how it is abbreviated for people.
DOSE_LABELS = {
    "dose_length_product": "DLP",
    "dose_area_product": "DAP",
    "average_glandular_dose_right": "AGD right",
    "average_glandular_dose_left": "AGD left",
    "average_glandular_dose": "AGD",
}
#: Larger reports are not read.
MOST_REPORT_BYTES = 16 << 20
# Of a content item (PS3.3 sections C.17.3 and C.18.1, PS3.3 section 8.8 for codes).
CONTENT, CONCEPT_NAME, CONCEPT = 0x0040A730, 0x0040A043, 0x0040A168
UID_VALUE, CODE_VALUE = 0x0040A124, 0x00080100
MEASURED, NUMERIC_VALUE, UNITS = 0x0040A300, 0x0040A30A, 0x004008EA


@dataclass(frozen=True, slots=True)
class IrradiationEvent:
    """One irradiation; values in the unit that the report states."""

    uid: str
    measures: Mapping[str, tuple[float, str]]  # name -> (value, unit)


def read_events(path: Path) -> list[IrradiationEvent]:
    """The events of one report. Raises ValueError for what is no report, or too large."""
    if path.stat().st_size > MOST_REPORT_BYTES:
        raise ValueError("the report is too large")
    data = path.read_bytes()
    try:
        meta = parse_meta(data[:MAX_META])
        report = decode_items(data[meta.dataset_offset :], meta.context_key.transfer_syntax_uid, MOST_REPORT_BYTES)
        return list(list_events(report))
    except (Unreadable, ValueError) as error:
        raise ValueError(f"not readable: {type(error).__name__}") from error


def list_events(item: Attributes) -> Iterator[IrradiationEvent]:
    """The events below a content item."""
    children = item.items_of(CONTENT)
    uid = next((each.text(UID_VALUE) for each in children if _code(each) == _EVENT_UID), "")
    if uid:
        side = _side_of(item)
        named = ((f"{name}_{side}" if side and "glandular" in name else name, value) for name, value in _measures(item))
        yield IrradiationEvent(uid, dict(named))
        return
    for each in children:
        yield from list_events(each)


def _measures(item: Attributes) -> Iterator[tuple[str, tuple[float, str]]]:
    for each in item.items_of(CONTENT):
        values = each.items_of(MEASURED)
        name = _MEASURES.get(_code(each))
        if name and values:
            unit = values[0].items_of(UNITS)
            yield name, (float(values[0].text(NUMERIC_VALUE)), unit[0].text(CODE_VALUE) if unit else "")
        yield from _measures(each)


def _side_of(item: Attributes) -> str:
    """The side that an event names, mostly as a modifier of its anatomical structure; empty where it names none."""
    for each in item.items_of(CONTENT):
        side = _SIDES.get(_code(each, CONCEPT), "") if _code(each) in _LATERALITY else _side_of(each)
        if side:
            return side
    return ""


def _code(item: Attributes, sequence: int = CONCEPT_NAME) -> str:
    named = item.items_of(sequence)
    return named[0].text(CODE_VALUE) if named else ""


def unite_events(events: Iterable[IrradiationEvent]) -> list[IrradiationEvent]:
    """Each event once; the last report of it counts."""
    return list({each.uid: each for each in events}.values())


def sum_measures(events: Iterable[IrradiationEvent]) -> dict[str, tuple[float, str]]:
    """The sums of what was measured, by name, where the unit is the same."""
    sums: dict[str, tuple[float, str]] = {}
    for each in events:
        for name, (value, unit) in each.measures.items():
            before, known = sums.get(name, (0.0, unit))
            if known == unit:
                sums[name] = (before + value, unit)
    return sums
