"""Resolution of identifiers: the patient after merges, and the identifier with which an image leaves.

Functions of a connection; they only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from edge.identity.today import PatientToday
from edge.store.database import Transaction
from edge.store.identity import Likeness, Patient, compare_names

_TODAY = "strftime('%Y%m%d', 'now', 'localtime')"
_VALID = f"(n.valid_until = '' OR n.valid_until >= {_TODAY})"
_TARGETS = "SELECT max(n.id) FROM patient_merge e JOIN patient_identifier n ON n.id = e.new_id WHERE e.is_current"
#: The identifier with which an image of identifier `mine` leaves, whose patient ends at `s`: the number itself while it
#: is valid, else one of its authority and type; of what is merged, the number that it was merged into.
LEAVING = f"""coalesce(
    CASE WHEN mine.patient_key = s.id AND (mine.valid_until = '' OR mine.valid_until >= {_TODAY}) THEN mine.id END,
    ({_TARGETS} AND n.patient_key = s.id AND n.authority_id = mine.authority_id AND {_VALID}),
    (SELECT max(n.id) FROM patient_identifier n WHERE n.patient_key = s.id AND n.authority_id = mine.authority_id
     AND n.type = mine.type AND {_VALID}),
    CASE WHEN mine.patient_key = s.id THEN mine.id END,
    (SELECT max(n.id) FROM patient_identifier n WHERE n.patient_key = s.id AND n.authority_id = mine.authority_id
     AND {_VALID}),
    ({_TARGETS} AND n.patient_key = s.id),
    (SELECT min(n.id) FROM patient_identifier n WHERE n.patient_key = s.id), mine.id)"""
#: From an identifier `mine` to its patient `p`, the survivor `s`, and the identifier that leaves, `i` of authority `a`.
RESOLVE = f"""
JOIN known_patient p ON p.id = mine.patient_key JOIN known_patient s ON s.id = coalesce(p.survivor_id, p.id)
JOIN patient_identifier i ON i.id = {LEAVING} JOIN assigning_authority a ON a.id = i.authority_id
"""


def resolve_identifier(conn: Transaction, number: str, issuer: str) -> list[PatientToday]:
    """Resolve a Patient ID and its issuer (namespace or universal ID); several where authorities share the number.

    Without an issuer, every authority that knows the number counts. An empty number is nobody's.
    """
    if not number:
        return []
    rows = conn.execute(
        "SELECT DISTINCT i.number, a.namespace, s.name, s.birth_date, s.sex, s.is_in_doubt, s.feed,"
        " max(s.changed_at, coalesce((SELECT e.merged_at FROM patient_merge e WHERE e.old_key = p.id AND"
        " e.is_current ORDER BY e.merged_at DESC LIMIT 1), 0)), s.id"
        f" FROM patient_identifier mine JOIN assigning_authority own ON own.id = mine.authority_id {RESOLVE}"
        " WHERE mine.number = :number AND (:issuer = '' OR :issuer IN (own.namespace, own.universal_id))",
        {"number": number, "issuer": issuer},
    ).fetchall()
    return [_patient_of(row) for row in rows]


def resolve_assigned(conn: Transaction, identifier: int) -> PatientToday:
    """The patient of an identifier that a person has chosen."""
    row = conn.execute(
        "SELECT i.number, a.namespace, s.name, s.birth_date, s.sex, s.is_in_doubt, s.feed, s.changed_at, s.id"
        f" FROM patient_identifier mine {RESOLVE} WHERE mine.id = :id",
        {"id": identifier},
    ).fetchone()
    return _patient_of(row)


def _patient_of(row: Sequence[Any]) -> PatientToday:
    number, issuer, name, birth_date, sex, is_in_doubt, *rest = row
    return PatientToday(number, issuer, name, birth_date, sex, bool(is_in_doubt), *rest)


def list_numbers(conn: Transaction, patients: Iterable[int]) -> list[str]:
    """List every number that resolves to one of these patients."""
    rows = conn.execute(
        "SELECT DISTINCT i.number FROM json_each(?) each JOIN known_patient p ON p.id = each.value"
        " OR p.survivor_id = each.value JOIN patient_identifier i ON i.patient_key = p.id",
        (json.dumps(sorted(patients)),),
    )
    return [row[0] for row in rows]


# -- two spellings of one patient -------------------------------------------------------------------------------------


def is_same_patient(conn: Transaction, a: Patient, b: Patient) -> bool:
    """Do feeds say that two spellings are one patient: by a merge of their numbers, or by names that it has or had?"""
    if not (a.patient_id and b.patient_id):
        return False
    mine, theirs = (
        {each.patient_key for each in resolve_identifier(conn, one.patient_id, one.issuer)} for one in (a, b)
    )
    if len(mine) != 1 or mine != theirs:
        return False
    if a.patient_id != b.patient_id:
        return True
    names = _known_names(conn, next(iter(mine)))
    return all(any(compare_names(one.name, each) is Likeness.SAME for each in names) for one in (a, b) if one.name)


def _known_names(conn: Transaction, patient: int) -> set[str]:
    """Every name that a patient, or one that was merged into it, has or had."""
    sql = "SELECT id, name FROM known_patient WHERE id = :key OR survivor_id = :key"
    known = conn.execute(sql, {"key": patient}).fetchall()
    found = {row[1] for row in known}
    for row in known:
        events = conn.execute("SELECT before, after FROM patient_event WHERE patient_key = ?", (row[0],))
        found |= {json.loads(text).get("name", "") for event in events for text in event if text}
    return found - {""}
