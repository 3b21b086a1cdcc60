"""A DICOMDIR (PS3.3 Annex F): the directory of a file-set by patient, study, series and instance. Pure.

Each record says what PS3.3 section F.5 requires of its kind, as far as the object says it; what must not be empty and
is gets a value that names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from struct import pack

from edge.dicom.items import Attributes, encode_items, item

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_EXPLICIT = "1.2.840.10008.1.2.1"
_NEXT, _IN_USE, _LOWER, _TYPE = 0x00041400, 0x00041410, 0x00041420, 0x00041430
_FILE_SET, _FIRST, _LAST, _CONSISTENT = 0x00041130, 0x00041200, 0x00041202, 0x00041212
_FILE, _CLASS, _INSTANCE, _SYNTAX = 0x00041500, 0x00041510, 0x00041511, 0x00041512
_ROOT = "1.2.840.10008.5.1.4.1.1."
_WAVEFORMS = ("1.1", "1.2", "1.3", "2.1", "3.1", "4.1", "4.2", "5.1")
#: SOP Class -> Directory Record Type (PS3.3 section F.4); all others are images.
_TYPES: Mapping[str, str] = {
    **{f"{_ROOT}88.{each}": "SR DOCUMENT" for each in (11, 22, 33, 34, 35, 40, 50, 65, 67, 68, 69, 70, 71, 72, 73, 74)},
    **{f"{_ROOT}11.{each}": "PRESENTATION" for each in range(1, 13)},
    **{f"{_ROOT}104.{each}": "ENCAP DOC" for each in range(1, 6)},
    **dict.fromkeys((f"{_ROOT}9.{each}" for each in _WAVEFORMS), "WAVEFORM"),
    f"{_ROOT}88.59": "KEY OBJECT DOC",
    f"{_ROOT}66": "RAW DATA",
    f"{_ROOT}66.1": "REGISTRATION",
    f"{_ROOT}66.2": "FIDUCIAL",
    f"{_ROOT}66.3": "REGISTRATION",
    f"{_ROOT}66.5": "SURFACE",
    f"{_ROOT}67": "VALUE MAP",
    f"{_ROOT}4.2": "SPECTROSCOPY",
    f"{_ROOT}481.2": "RT DOSE",
    f"{_ROOT}481.3": "RT STRUCTURE SET",
    f"{_ROOT}481.5": "RT PLAN",
    f"{_ROOT}481.8": "RT PLAN",
    **{f"{_ROOT}481.{each}": "RT TREAT RECORD" for each in (4, 6, 7, 9)},
}
#: What the records say, by level: tag -> what is written for a value that must not be empty.
_PATIENT: Mapping[int, str] = {0x00100010: "", 0x00100020: "UNKNOWN"}
_STUDY: Mapping[int, str] = {
    0x00080020: "19000101",
    0x00080030: "000000",
    0x00080050: "",
    0x00081030: "",
    0x0020000D: "",
    0x00200010: "1",
}
_SERIES: Mapping[int, str] = {0x00080060: "OT", 0x0020000E: "", 0x00200011: "1"}
_OF_CONTENT: Mapping[int, str] = {0x00080023: "19000101", 0x00080033: "000000"}
_BY_TYPE: Mapping[str, Mapping[int, str]] = {
    "SR DOCUMENT": {**_OF_CONTENT, 0x0040A491: "COMPLETE", 0x0040A493: "UNVERIFIED"},
    "KEY OBJECT DOC": _OF_CONTENT,
    "PRESENTATION": {0x00700080: "UNNAMED", 0x00700082: "19000101", 0x00700083: "000000"},
    "ENCAP DOC": {**_OF_CONTENT, 0x00420012: "application/pdf", 0x00420010: ""},
    "WAVEFORM": _OF_CONTENT,
    "RAW DATA": _OF_CONTENT,
    "RT DOSE": {0x3004000A: "PLAN"},
    "RT STRUCTURE SET": {0x30060002: "UNNAMED", 0x30060008: "", 0x30060009: ""},
    "RT PLAN": {0x300A0002: "UNNAMED", 0x300A0006: "", 0x300A0007: ""},
}
#: Everything that is asked of an object.
WANTED = frozenset({*_PATIENT, *_STUDY, *_SERIES, 0x00200013, *(tag for values in _BY_TYPE.values() for tag in values)})


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of the file-set. `values`: those of WANTED that the object has, by tag."""

    file_id: str  # with "/" between its components
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    values: Mapping[int, str]


@dataclass(slots=True)
class _Record:
    """A directory record and those below it."""

    values: dict[int, str | int]
    below: dict[str, _Record] = field(default_factory=dict)
    at: int = 0  # where its item begins


def build_dicomdir(files: Iterable[ListedFile], uid: str, implementation_uid: str) -> bytes:
    """Return a whole DICOMDIR. `uid`: of the file-set."""
    roots = _tree(files)
    meta = _meta(uid, implementation_uid)
    head: dict[int, str | int | Sequence[Attributes]] = {_FILE_SET: "", _FIRST: 0, _LAST: 0, _CONSISTENT: 0}
    start = len(meta) + len(encode_items(item(head), _EXPLICIT)) + 12  # the sequence's own head
    at = start
    for record in _in_order(roots):
        record.at = at
        at += 8 + len(_encode(record, 0, 0))
    records = b"".join(_items(roots))
    offsets = [record.at for record in roots.values()]
    head |= {_FIRST: offsets[0] if offsets else 0, _LAST: offsets[-1] if offsets else 0}
    sequence = pack("<HH2sHL", 0x0004, 0x1220, b"SQ", 0, len(records))
    return meta + encode_items(item(head), _EXPLICIT) + sequence + records


def _tree(files: Iterable[ListedFile]) -> dict[str, _Record]:
    roots: dict[str, _Record] = {}
    for each in files:
        values = each.values
        who = f"{values.get(0x00100020, '')}\0{values.get(0x00100010, '')}"
        patient = _child(roots, who, "PATIENT", _PATIENT, values)
        study = _child(patient.below, values.get(0x0020000D, ""), "STUDY", _STUDY, values)
        series = _child(study.below, values.get(0x0020000E, ""), "SERIES", _SERIES, values)
        kind = _TYPES.get(each.sop_class_uid, "IMAGE")
        more = {0x00200013: "1", **_BY_TYPE.get(kind, {})}
        record = _child(series.below, each.file_id, kind, more, values)
        record.values |= {
            _FILE: each.file_id.replace("/", "\\"),
            _CLASS: each.sop_class_uid,
            _INSTANCE: each.sop_instance_uid,
            _SYNTAX: each.transfer_syntax_uid,
        }
    return roots


def _child(
    records: dict[str, _Record], key: str, kind: str, wanted: Mapping[int, str], values: Mapping[int, str]
) -> _Record:
    if key not in records:
        said: dict[int, str | int] = {tag: values.get(tag) or default for tag, default in wanted.items()}
        records[key] = _Record({_TYPE: kind, **said})
    return records[key]


def _in_order(records: Mapping[str, _Record]) -> Iterable[_Record]:
    for record in records.values():
        yield record
        yield from _in_order(record.below)


def _items(records: Mapping[str, _Record]) -> Iterable[bytes]:
    """The items of a level, each followed by those below it."""
    siblings = list(records.values())
    for record, following in zip_longest(siblings, siblings[1:]):
        lower = next(iter(record.below.values()), None)
        body = _encode(record, following.at if following else 0, lower.at if lower else 0)
        yield pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
        yield from _items(record.below)


def _encode(record: _Record, following: int, lower: int) -> bytes:
    made: Attributes = item({_NEXT: following, _IN_USE: 0xFFFF, _LOWER: lower, **record.values})
    return encode_items(made, _EXPLICIT)


def _meta(uid: str, implementation_uid: str) -> bytes:
    """Preamble and File Meta Information (PS3.10 section 7.1)."""
    group = item({0x00020002: DIRECTORY_CLASS, 0x00020003: uid, 0x00020010: _EXPLICIT, 0x00020012: implementation_uid})
    body = pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1") + encode_items(group, _EXPLICIT)
    return bytes(128) + b"DICM" + pack("<HH2sHL", 2, 0, b"UL", 4, len(body)) + body
