"""The patients of a study, for people: one in nearly every study, each with how many images."""

from __future__ import annotations

from dataclasses import dataclass

from edge.identity import Standing
from edge.store.database import Connection


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
SELECT p.id, p.patient_id, p.issuer, p.name, p.birth_date, p.sex, p.responsible_person, w.standing, w.differs_in
FROM study_patient w JOIN patient p ON p.id = w.patient_key WHERE w.study_id = ?
ORDER BY w.standing <> 'agrees', w.first_at, p.id
"""
_IMAGES = """
SELECT f.patient_key, count(*) FROM instance i JOIN series r ON r.id = i.series_id
JOIN study_facts f ON f.id = r.study_facts_id WHERE i.study_id = ? GROUP BY 1
"""


def patients_of_study(conn: Connection, study_id: int, images: int) -> tuple[StudyPatient, ...]:
    """The patients of a study that has so many images, the first first; none where nothing is filled in yet."""
    rows = conn.execute(_PATIENTS, (study_id,)).fetchall()
    number = dict(conn.execute(_IMAGES, (study_id,)).fetchall()) if len(rows) > 1 else {}
    found = [
        StudyPatient(
            row["patient_id"],
            row["issuer"],
            row["name"],
            row["birth_date"],
            row["sex"],
            row["responsible_person"],
            Standing(row["standing"]),
            split(row["differs_in"]),
            number.get(row["id"], 0 if number else images),
        )
        for row in rows
    ]
    return tuple(each for each in found if each.images or not _is_told_by_another(each, found))


def split(differs_in: str) -> tuple[str, ...]:
    return tuple(filter(None, differs_in.split(",")))


def _is_told_by_another(patient: StudyPatient, others: list[StudyPatient]) -> bool:
    """What a study's own row knew of its first patient is said in full once its images are filled in."""
    return any(each.images and each.patient_id == patient.patient_id for each in others)


def differing(patients: tuple[StudyPatient, ...]) -> tuple[StudyPatient, ...]:
    """Those that are another patient than the first; with the first, where there are any."""
    others = [each for each in patients if each.standing is not Standing.AGREES]
    first = next((each for each in patients if each.standing is Standing.AGREES), None)
    return tuple(filter(None, (first, *others))) if others else ()
