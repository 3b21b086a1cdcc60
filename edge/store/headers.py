"""The headers of what is kept: the facts that queries answer beyond edge.store.patients, and the rest, compactly.

The first header of a series is compressed alone; each other one with the first as dictionary, so that a slice takes
what it says differently. The caller owns the transaction.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.dicom import compact
from edge.model import Values
from edge.model.dictionary import tag_for_keyword
from edge.store.database import Transaction
from edge.store.identity_checks import queue_series
from edge.store.patients import bound_text
from edge.text import fold_name

#: Fast: at level 6 it takes 4 % less and a quarter more time.
LEVEL = 1

#: What is kept of a series beside the columns of `patient`, `study_facts` and `series` (PS3.4 C.6, PS3.18 10.6.3).
SERIES_KEYWORDS = (
    "SpecificCharacterSet", "SeriesDate", "SeriesTime", "Manufacturer", "InstitutionName", "StationName",
    "InstitutionalDepartmentName", "PhysiciansOfRecord", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy",
    "OperatorsName", "AdmittingDiagnosesDescription", "ManufacturerModelName", "PatientBirthTime", "OtherPatientIDs",
    "PatientAge", "PatientSize", "PatientWeight", "EthnicGroup", "PatientComments", "ProtocolName", "Laterality",
    "FrameOfReferenceUID", "TimezoneOffsetFromUTC", "RequestingPhysician", "RequestedProcedureDescription",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepID",
    "PerformedProcedureStepDescription", "DeviceSerialNumber", "SoftwareVersions",
)  # fmt: skip
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
#: Of these sequences the first item.
SEQUENCES = {
    "IssuerOfAccessionNumberSequence": ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"),
    "ProcedureCodeSequence": _CODE,
    "RequestAttributesSequence": (
        "AccessionNumber",
        "StudyInstanceUID",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepDescription",
        "ScheduledProcedureStepID",
        "RequestedProcedureID",
    ),
}
_NUMBERS = ("Rows", "Columns", "NumberOfFrames", "BitsAllocated")
_TEXTS = ("ContentDate", "ContentTime", "DocumentTitle", "LossyImageCompression")
_TITLE = "ConceptNameCodeSequence"


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


def _tags(keywords: Iterable[str]) -> dict[int, str]:
    return {_tag(keyword): keyword for keyword in keywords}


_SERIES, _INSTANCE = _tags(SERIES_KEYWORDS), _tags((*_NUMBERS, *_TEXTS))
_ITEMS = {_tag(sequence): (sequence, _tags(keywords)) for sequence, keywords in SEQUENCES.items()}
_TITLE_ITEM = _tag(_TITLE), _tags(_CODE)


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What one object says of itself."""

    rows: int | None
    columns: int | None
    frames: int | None
    bits_allocated: int | None
    content_date: str
    content_time: str
    title: str
    lossy: str = ""  # 0028,2110


def instance_facts(small: bytes, transfer_syntax_uid: str) -> InstanceFacts:
    """Read a compact header. Raises Unreadable."""
    found = _texts(compact.top_values(small, transfer_syntax_uid, frozenset(_INSTANCE)), _INSTANCE)
    title = found.get("DocumentTitle", "")
    if not title:
        tag, keywords = _TITLE_ITEM
        coded = _texts(compact.item_values(small, transfer_syntax_uid, tag, frozenset(keywords)), keywords)
        title = coded.get("CodeMeaning", "")
    rows, columns, frames, bits = (_number(found.get(keyword, "")) for keyword in _NUMBERS)
    day, clock, lossy = (found.get(each, "") for each in ("ContentDate", "ContentTime", "LossyImageCompression"))
    return InstanceFacts(rows, columns, frames, bits, day, clock, title, lossy[:2])


def series_facts(small: bytes, transfer_syntax_uid: str) -> dict[str, Any]:
    """What the first object of a series says of its patient, study and series. Raises Unreadable."""
    facts: dict[str, Any] = dict(_texts(compact.top_values(small, transfer_syntax_uid, frozenset(_SERIES)), _SERIES))
    for tag, (sequence, keywords) in _ITEMS.items():
        item = _texts(compact.item_values(small, transfer_syntax_uid, tag, frozenset(keywords)), keywords)
        if item:
            facts[sequence] = item
    return facts


def _texts(found: Mapping[int, Values], keywords: Mapping[int, str]) -> dict[str, str]:
    texts = {keywords[tag]: bound_text("\\".join(values)) for tag, values in found.items()}
    return {keyword: text for keyword, text in texts.items() if text}


def _number(text: str) -> int | None:
    first = text.partition("\\")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and len(first) < 10 else None


# -- entering and reading ------------------------------------------------------------------------------------------


def enter_header(conn: Transaction, instance: int, small: bytes, *, is_whole: bool = False) -> None:
    """Keep an instance's compact header; one that is kept already stays. Raises Unreadable.

    `is_whole`: nothing before the pixel data was left out.
    """
    row = conn.execute(
        "SELECT i.series_id, k.transfer_syntax_uid, f.base_id FROM instance i JOIN kind k ON k.id = i.kind_id"
        " LEFT JOIN series_facts f ON f.series_id = i.series_id WHERE i.id = ?",
        (instance,),
    ).fetchone()
    if row is None or row[0] is None:
        return
    series, syntax, base_id = row
    own, base = instance_facts(small, syntax), b""
    if base_id is None:
        facts = series_facts(small, syntax)
        said = json.dumps(facts, separators=(",", ":"), ensure_ascii=False)
        conn.execute("INSERT INTO series_facts VALUES (?, ?, ?)", (series, instance, said))
        if facts.keys() & {"RequestAttributesSequence", "IssuerOfAccessionNumberSequence"}:
            queue_series(conn, series)
    elif base_id != instance:
        base = header(conn, base_id) or b""
    packed = zlib.compressobj(LEVEL, zdict=base) if base else zlib.compressobj(LEVEL)
    conn.execute(
        "INSERT INTO instance_header (instance_id, base_id, pixel_rows, pixel_columns, frames, bits_allocated,"
        " content_date, content_time, title, header, lossy, is_whole)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            instance,
            base_id if base else None,
            own.rows,
            own.columns,
            own.frames,
            own.bits_allocated,
            own.content_date,
            own.content_time,
            own.title,
            packed.compress(small) + packed.flush(),
            own.lossy,
            int(is_whole),
        ),
    )


def header(conn: Transaction, instance: int) -> bytes | None:
    """An instance's compact header, as edge.dicom.compact made it; None where it is not kept (yet): read the file."""
    row = conn.execute("SELECT base_id, header FROM instance_header WHERE instance_id = ?", (instance,)).fetchone()
    if row is None:
        return None
    if row[0] is None:
        return zlib.decompress(row[1])
    base = header(conn, row[0])
    if base is None:
        return None
    unpacked = zlib.decompressobj(zdict=base)
    return unpacked.decompress(row[1]) + unpacked.flush()


def read_whole_headers(conn: Transaction, instances: Sequence[int]) -> dict[int, bytes]:
    """The compact headers of some instances, by number: those that have all that stands before the pixel data."""
    found: dict[int, bytes] = {}
    bases: dict[int, bytes | None] = {}
    rows = conn.execute(
        "SELECT instance_id, base_id, header FROM instance_header WHERE is_whole = 1"
        " AND instance_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(instances)),),
    )
    for instance, base_id, packed in rows.fetchall():
        if base_id is None:
            found[instance] = zlib.decompress(packed)
            continue
        if base_id not in bases:
            bases[base_id] = header(conn, base_id)
        if (base := bases[base_id]) is not None:
            unpacked = zlib.decompressobj(zdict=base)
            found[instance] = unpacked.decompress(packed) + unpacked.flush()
    return found


def fold_names(conn: Transaction, limit: int) -> int:
    """Fold the names of patients that were entered before that was kept. Returns how many."""
    rows = conn.execute("SELECT id, name FROM patient WHERE folded_name IS NULL LIMIT ?", (limit,)).fetchall()
    conn.executemany("UPDATE patient SET folded_name = ? WHERE id = ?", [(fold_name(row[1]), row[0]) for row in rows])
    return len(rows)
