"""The way back from de-identified copies: which study a result belongs to, and whose it is.

Functions of a connection. What is here never leaves this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from edge.dicom.elements import plain_syntax
from edge.dicom.items import Attributes, decode_items
from edge.errors import Shortage, Unreadable
from edge.store import header_progress, headers
from edge.store.database import Transaction


class Returned(Enum):
    """What an object is that came from a destination of de-identified copies."""

    COPY = "copy"  # one of the copies itself: it must not go round
    RESULT = "result"  # of a study that was sent there
    UNKNOWN = "unknown"  # of a study that was not


@dataclass(frozen=True, slots=True)
class ReturnedObject:
    """A returned object; `study_id` and `instance_id` are those of the original study, of a RESULT."""

    kind: Returned
    study_id: int = 0
    study_uid: str = ""
    instance_id: int = 0


def find_returned(
    conn: Transaction, destinations: Collection[str], sop_instance_uid: str, study_uid: str
) -> ReturnedObject:
    """What an object is that came from one of these destinations."""
    for name in destinations:
        if conn.execute(
            "SELECT 1 FROM deidentified_instance WHERE sent_uid = ? AND destination = ?", (sop_instance_uid, name)
        ).fetchone():
            return ReturnedObject(Returned.COPY)
        row = conn.execute(
            "SELECT s.id, s.study_uid, i.id FROM deidentified_instance m JOIN study s ON s.study_uid = m.study_uid"
            " JOIN instance i ON i.sop_instance_uid = m.sop_instance_uid AND i.study_id = s.id"
            " WHERE m.sent_study_uid = ? AND m.destination = ? LIMIT 1",
            (study_uid, name),
        ).fetchone()
        if row is not None:
            return ReturnedObject(Returned.RESULT, row[0], row[1], row[2])
    return ReturnedObject(Returned.UNKNOWN)


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What a result gets back: the UIDs of its study, and the attributes of patient and study, by keyword."""

    uids: dict[str, str]  # as sent -> as received
    study_uid: str
    attributes: dict[str, str]
    instance_id: int  # one of the original study, for the demographics of today


#: The UID that a project has for another.
MapUid = Callable[[str], str]


def read_identity(
    conn: Transaction, map_uids: Mapping[str, MapUid | None], sent_study_uid: str
) -> StudyIdentity | None:
    """The identity of a study that went out under another UID; None where it did not, or is no longer here.

    `map_uids`: by destination that may have it; None where the project's key cannot be read: then what the result
    refers to beyond its study, and UIDs that are no instance's, stay as they are.
    Raises Shortage while headers of that study are still to be read, which takes seconds.
    """
    for name, map_uid in map_uids.items():
        row = conn.execute(_SAID, (sent_study_uid, name)).fetchone()
        if row is None:
            continue
        instance, study_uid, *said = row
        uids = _sent_uids(conn, name, [sent_study_uid])
        if map_uid is not None:
            _require_headers(conn, study_uid)
            others = [map_uid(uid) for uid in _studies_of_the_patient(conn, study_uid)]
            uids |= _sent_uids(conn, name, others) | {map_uid(uid): uid for uid in _uids_in_headers(conn, study_uid)}
        return StudyIdentity(uids, study_uid, dict(zip(_KEYWORDS, said, strict=True)), instance)
    return None


_KEYWORDS = (
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName"),
)
_SAID = """
SELECT i.id, s.study_uid, p.patient_id, p.issuer, p.name, p.birth_date, p.sex, f.accession, f.study_date, f.study_time,
  f.study_number, f.description, f.referring_physician FROM deidentified_instance m JOIN study s
ON s.study_uid = m.study_uid JOIN instance i ON i.sop_instance_uid = m.sop_instance_uid AND i.study_id = s.id
JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id
JOIN patient p ON p.id = f.patient_key WHERE m.sent_study_uid = ? AND m.destination = ? LIMIT 1
"""


def _sent_uids(conn: Transaction, destination: str, sent_studies: list[str]) -> dict[str, str]:
    """UIDs of studies, series and instances as sent -> as received."""
    rows = conn.execute(
        "SELECT sent_study_uid, study_uid, sent_series_uid, series_uid, sent_uid, sop_instance_uid"
        " FROM deidentified_instance WHERE destination = ? AND sent_study_uid IN (SELECT value FROM json_each(?))",
        (destination, json.dumps(sent_studies)),
    )
    return {row[at]: row[at + 1] for row in rows for at in (0, 2, 4)}


def _studies_of_the_patient(conn: Transaction, study_uid: str) -> list[str]:
    """Study UIDs under the same Patient ID: a result may refer to an earlier examination."""
    rows = conn.execute(
        "SELECT DISTINCT o.study_uid FROM study s JOIN study_patient w ON w.study_id = s.id JOIN patient p"
        " ON p.id = w.patient_key JOIN patient q ON q.patient_id = p.patient_id AND q.issuer = p.issuer"
        " JOIN study_patient v ON v.patient_key = q.id JOIN study o ON o.id = v.study_id"
        " WHERE s.study_uid = ? AND p.patient_id <> '' AND o.id <> s.id",
        (study_uid,),
    )
    return [row[0] for row in rows]


def _require_headers(conn: Transaction, study_uid: str) -> None:
    found = conn.execute(
        "SELECT 1 FROM study s JOIN instance i ON i.study_id = s.id"
        " WHERE s.study_uid = ? AND i.id > ? AND i.state <> 'evicted' LIMIT 1",
        (study_uid, header_progress.read_place(conn)),
    ).fetchone()
    if found is not None:
        raise Shortage("the headers of its original study are not read yet")


def _uids_in_headers(conn: Transaction, study_uid: str) -> set[str]:
    """UIDs in the headers of a study, one header of each series: frames of reference, synchronization and the like."""
    rows = conn.execute(
        "SELECT m.base_id, k.transfer_syntax_uid FROM study s JOIN study_facts f ON f.study_id = s.id JOIN series r"
        " ON r.study_facts_id = f.id JOIN series_facts m ON m.series_id = r.id JOIN instance i ON i.id = m.base_id"
        " JOIN kind k ON k.id = i.kind_id WHERE s.study_uid = ?",
        (study_uid,),
    ).fetchall()
    found: set[str] = set()
    for instance, syntax in rows:
        with suppress(Unreadable):
            found |= _uids_of(decode_items(headers.header(conn, instance) or b"", plain_syntax(syntax)))
    return found


def _uids_of(header: Attributes) -> set[str]:
    """The UIDs of a header, at every depth."""
    found, items = set[str](), [header]
    while items:
        for each in items.pop().values():
            items += each.items
            found.update(each.values if each.vr == "UI" else ())
    return found - {""}
