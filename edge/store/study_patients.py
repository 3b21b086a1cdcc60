"""The patients of a study, for people: one in nearly every study, each with how many images."""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction
from edge.store.identity import Standing


@dataclass(frozen=True, slots=True)
class StudyPatient:
    """One patient of a study, as the objects spell it."""

    patient_id: str
    issuer: str
    patient_name: str
    birth_date: str
    sex: str
    responsible_person: str
    standing: Standing
    differs_in: tuple[str, ...]  # where it differs: from those who were there before
    images: int


_PATIENTS = """
SELECT p.patient_id, p.issuer, p.name, p.birth_date, p.sex, p.responsible_person, w.standing, w.differs_in, p.id
FROM study_patient w JOIN patient p ON p.id = w.patient_key WHERE w.study_id = ?
ORDER BY w.standing <> 'agrees', w.first_at, p.id
"""
_IMAGES = """
SELECT f.patient_key, count(*) FROM instance i JOIN series r ON r.id = i.series_id
JOIN study_facts f ON f.id = r.study_facts_id WHERE i.study_id = ? GROUP BY 1
"""


def patients_of_study(conn: Transaction, study_id: int, images: int) -> tuple[StudyPatient, ...]:
    """List the patients of a study of `images` images in order of arrival; none where nothing is filled in yet."""
    rows = conn.execute(_PATIENTS, (study_id,)).fetchall()
    number = dict(conn.execute(_IMAGES, (study_id,)).fetchall()) if len(rows) > 1 else {}
    found = []
    for *values, standing, differs_in, key in rows:
        values += Standing(standing), split_differences(differs_in), number.get(key, 0 if number else images)
        found.append(StudyPatient(*values))
    return tuple(each for each in found if each.images or not _is_covered_by_another(each, found))


def split_differences(differs_in: str) -> tuple[str, ...]:
    return tuple(filter(None, differs_in.split(",")))


def _is_covered_by_another(patient: StudyPatient, others: list[StudyPatient]) -> bool:
    """Check whether the patient of a study's own row is covered by one whose images are filled in."""
    return any(each.images and each.patient_id == patient.patient_id for each in others)


def list_differing_patients(patients: tuple[StudyPatient, ...]) -> tuple[StudyPatient, ...]:
    """List the patients that differ from the first, after the first; empty if none differs."""
    others = [each for each in patients if each.standing is not Standing.AGREES]
    first = next((each for each in patients if each.standing is Standing.AGREES), None)
    return tuple(filter(None, (first, *others))) if others else ()
