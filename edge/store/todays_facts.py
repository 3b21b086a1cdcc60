"""The demographics of today of an instance that is kept, for the copy that leaves (edge.transform)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from edge.identity.today import DemographicsToday, PatientToday, is_as_today
from edge.store import orders, resolved_patients
from edge.store.database import Transaction

_SAID = """
SELECT p.patient_id, p.issuer, c.order_id, a.identifier_id, a.assigned_at
FROM instance x JOIN series r ON r.id = x.series_id JOIN study_facts f ON f.id = r.study_facts_id
JOIN patient p ON p.id = f.patient_key
LEFT JOIN identity_check c ON c.study_facts_id = f.id LEFT JOIN study_assignment a ON a.study_id = f.study_id
WHERE x.id = ?
"""


def read_today(conn: Transaction, instance: int) -> DemographicsToday:
    """Read what the systems say now of an instance's patient and order.

    Without a patient nothing is known, or the number is several authorities': then nothing may be changed.
    """
    row = conn.execute(_SAID, (instance,)).fetchone()
    if row is None:
        return DemographicsToday()
    number, issuer, order_id, assigned, assigned_at = row
    found = next(iter(orders.read_orders(conn, [order_id])), None) if order_id is not None else None
    if assigned is not None:
        patient = resolved_patients.resolve_assigned(conn, assigned)
        return DemographicsToday(patient, found, assigned_at=assigned_at)
    return replace(read_today_of(conn, number, issuer), order=found)


def read_today_of(conn: Transaction, number: str, issuer: str) -> DemographicsToday:
    """The same for an object that is not here, by its Patient ID and issuer."""
    resolved = resolved_patients.resolve_identifier(conn, number, issuer)
    is_one = len({each.patient_key for each in resolved}) == 1
    return DemographicsToday(resolved[0] if is_one else None)


def read_today_of_object(conn: Transaction, sop_instance_uid: str, number: str, issuer: str) -> DemographicsToday:
    """Read the facts by the instance where it is here, else by its Patient ID and issuer."""
    sql = "SELECT id FROM instance WHERE sop_instance_uid = ? ORDER BY id LIMIT 1"
    row = conn.execute(sql, (sop_instance_uid,)).fetchone()
    return read_today(conn, row[0]) if row is not None else read_today_of(conn, number, issuer)


def find_survivors(conn: Transaction, number: str, issuer: str) -> list[int]:
    """Find the known patients that a Patient ID and its issuer mean; several: nobody may choose."""
    resolved = resolved_patients.resolve_identifier(conn, number, issuer)
    return list(dict.fromkeys(each.patient_key for each in resolved))


def read_today_of_studies(conn: Transaction, said: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, str]]:
    """Read what the feeds say today of the patients of some studies, by keyword; what nobody knows is left out.

    `said`: PatientID and IssuerOfPatientID as the images have them, by the number of the study.
    """
    if conn.execute("SELECT 1 FROM known_patient LIMIT 1").fetchone() is None:
        return {}
    sql = "SELECT study_id, identifier_id FROM study_assignment WHERE study_id IN (SELECT value FROM json_each(?))"
    assigned = {row[0]: row[1] for row in conn.execute(sql, (json.dumps(list(said)),))}
    found = {}
    for study, header in said.items():
        if study in assigned:
            today: PatientToday | None = resolved_patients.resolve_assigned(conn, assigned[study])
        else:
            today = read_today_of(conn, header.get("PatientID", ""), header.get("IssuerOfPatientID", "")).patient
        if today is not None:
            found[study] = today.attributes()
    return found


_HEADER = """
SELECT p.patient_id AS PatientID, p.issuer AS IssuerOfPatientID, p.name AS PatientName,
       p.birth_date AS PatientBirthDate, p.sex AS PatientSex
FROM instance i JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id
JOIN patient p ON p.id = f.patient_key WHERE i.id = ?
"""


def list_corrections(conn: Transaction, instance: int, study: int, said: Mapping[str, str]) -> dict[str, str]:
    """What the feeds say today of an instance's patient otherwise than its header, by keyword."""
    today = read_today_of_studies(conn, {study: said}).get(study, {})
    header = conn.execute(_HEADER, (instance,)).fetchone() if today else None
    return {
        keyword: value
        for keyword, value in today.items()
        if header is None or not is_as_today(keyword, header[keyword], value)
    }
