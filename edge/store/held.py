"""Instances that are here, as retrieve services give them away. The caller owns the connection; reads only.

Visible is what is stored, and whose patient is its study's by all that is known: never what is in quarantine,
discarded, rejected, an undecided conflict or of another patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.store import todays_facts
from edge.store.database import Transaction
from edge.store.patients import JOIN
from edge.store.rejection_order import NOT_HIDDEN


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """One instance with its file below the spool; numbers of its image where it has one and its header is read."""

    id: int
    study_id: int
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size: int
    dataset_offset: int
    sha256: bytes
    rows: int | None
    columns: int | None
    frames: int | None
    bits_allocated: int | None
    today: Mapping[str, str] = field(default_factory=dict)  # by keyword, what the feeds say of its patient otherwise

    @property
    def data_set_bytes(self) -> int:
        return self.size - self.dataset_offset


_SELECT = f"""
SELECT i.id, i.study_id, s.study_uid, i.series_uid, i.sop_instance_uid, k.sop_class_uid, k.transfer_syntax_uid, i.path,
       i.size, i.dataset_offset, i.sha256, h.pixel_rows, h.pixel_columns, h.frames, h.bits_allocated,
       coalesce(p.patient_id, ''), coalesce(p.issuer, '')
FROM study s CROSS JOIN instance i ON i.study_id = s.id JOIN kind k ON k.id = i.kind_id
LEFT JOIN instance_header h ON h.instance_id = i.id {JOIN}
WHERE s.study_uid = :study AND i.state = 'stored' AND coalesce(w.standing, 'agrees') <> 'differs'
  AND {NOT_HIDDEN}
"""
_ORDER = " ORDER BY i.series_uid, CAST(i.instance_number AS INTEGER), i.id"
_OF_STUDY = _SELECT + _ORDER
_OF_SERIES = _SELECT + "AND i.series_uid = :series" + _ORDER
_ONE = (
    _SELECT.replace(
        "FROM study s CROSS JOIN instance i ON i.study_id = s.id", "FROM instance i JOIN study s ON s.id = i.study_id"
    )
    + "AND i.sop_instance_uid = :instance AND i.series_uid = :series ORDER BY i.id LIMIT 1"
)


def find_held(
    conn: Transaction, study_uid: str, series_uid: str = "", sop_instance_uid: str = ""
) -> list[HeldInstance]:
    """What is here of a study, of one of its series, or one instance, in the order of the instance numbers."""
    sql = _ONE if sop_instance_uid else _OF_SERIES if series_uid else _OF_STUDY
    given = {"study": study_uid, "series": series_uid, "instance": sop_instance_uid}
    found: dict[str, HeldInstance] = {}
    today: dict[tuple[int, str, str], Mapping[str, str]] = {}  # by the study, and the patient as the header has it
    for row in conn.execute(sql, given).fetchall():
        *columns, patient_id, issuer = row
        patient = row["study_id"], patient_id, issuer
        if patient not in today:
            said = {"PatientID": patient_id, "IssuerOfPatientID": issuer}
            today[patient] = todays_facts.list_corrections(conn, row["id"], row["study_id"], said)
        values = [*columns, today[patient]]
        found.setdefault(row["sop_instance_uid"], HeldInstance(*values))
    return list(found.values())
