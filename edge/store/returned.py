"""The way back from de-identified copies: which study a result belongs to, and whose it is.

Functions of a connection. What is here never leaves this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum

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
    destination: str = ""  # that had the copies
    frames: tuple[str, ...] = ()  # Frame of Reference UIDs of the original study

    def with_frames(self, map_uid: Callable[[str], str] | None) -> StudyIdentity:
        """With the way back of its Frames of Reference, for which no row is kept. `map_uid`: as they were sent."""
        if map_uid is None:
            return self
        return replace(self, uids={map_uid(each): each for each in self.frames} | self.uids)


_KEYWORDS = (
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName"),
)


def _frames_of(conn: Transaction, study_uid: str) -> tuple[str, ...]:
    rows = conn.execute(
        "SELECT DISTINCT json_extract(m.facts, '$.FrameOfReferenceUID') FROM study s JOIN study_facts f"
        " ON f.study_id = s.id JOIN series r ON r.study_facts_id = f.id JOIN series_facts m ON m.series_id = r.id"
        " WHERE s.study_uid = ?",
        (study_uid,),
    )
    return tuple(row[0] for row in rows if row[0])


def read_identity(conn: Transaction, destinations: Collection[str], sent_study_uid: str) -> StudyIdentity | None:
    """The identity of a study that went out under another UID; None where it did not, or is no longer here."""
    for name in destinations:
        rows = conn.execute(
            "SELECT sent_uid, sop_instance_uid, sent_series_uid, series_uid, study_uid FROM deidentified_instance"
            " WHERE sent_study_uid = ? AND destination = ?",
            (sent_study_uid, name),
        ).fetchall()
        if not rows:
            continue
        uids = {sent_study_uid: rows[0][4]}
        for sent, received, sent_series, series, _ in rows:
            uids |= {sent: received, sent_series: series}
        row = conn.execute(
            "SELECT i.id, p.patient_id, p.issuer, p.name, p.birth_date, p.sex, f.accession, f.study_date, f.study_time,"
            " f.study_number, f.description, f.referring_physician FROM instance i JOIN series r ON r.id = i.series_id"
            " JOIN study_facts f ON f.id = r.study_facts_id JOIN patient p ON p.id = f.patient_key"
            " WHERE i.sop_instance_uid = ? LIMIT 1",
            (rows[0][1],),
        ).fetchone()
        if row is not None:
            said = dict(zip(_KEYWORDS, row[1:], strict=True))
            return StudyIdentity(uids, rows[0][4], said, row[0], name, _frames_of(conn, rows[0][4]))
    return None
