"""The patients of studies by a person's decision. The caller owns the transaction."""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction

#: What a person decides about a study's held images.
STUDY_DECISIONS = ASSIGN, AS_IS, DO_NOT_SEND = "assign", "as-is", "do-not-send"


def find_study_id(conn: Transaction, study_uid: str) -> int | None:
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return row[0] if row else None


def find_identifiers(conn: Transaction, number: str, authority: str) -> list[tuple[int, str]]:
    """Find the rows of a number, each with the name of its authority; `authority`: that one alone."""
    rows = conn.execute(
        "SELECT i.id, a.namespace FROM patient_identifier i JOIN assigning_authority a ON a.id = i.authority_id"
        " WHERE i.number = :number AND (:name = '' OR :name IN (a.namespace, a.universal_id)) ORDER BY a.namespace",
        {"number": number, "name": authority},
    )
    return [(row[0], row[1]) for row in rows]


def assign(conn: Transaction, study: int, identifier: int, person: str, reason: str, now: float) -> None:
    """Record a person's decision that a study is this patient's; what leaves from now on has the patient's facts."""
    conn.execute(
        "INSERT INTO study_assignment (study_id, identifier_id, person, reason, assigned_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (study_id) DO UPDATE SET identifier_id = excluded.identifier_id, person = excluded.person,"
        " reason = excluded.reason, assigned_at = excluded.assigned_at",
        (study, identifier, person, reason, now),
    )
    conn.execute(
        "INSERT INTO patient_event (patient_key, at, kind, after) SELECT patient_key, ?, 'assigned', ?"
        " FROM patient_identifier WHERE id = ?",
        (now, f'{{"study": {study}}}', identifier),
    )


def list_held_mismatches(conn: Transaction, study: int) -> tuple[list[int], list[int]]:
    """List the instances of a study that are held as a mismatch, and the deliveries that are."""
    rows = conn.execute(
        "SELECT i.id, d.id FROM instance i JOIN delivery d ON d.instance_id = i.id WHERE i.study_id = ?"
        " AND d.state = 'held' AND d.reason_code = 'mismatch' ORDER BY i.id, d.id",
        (study,),
    ).fetchall()
    return list(dict.fromkeys(row[0] for row in rows)), [row[1] for row in rows]


@dataclass(frozen=True, slots=True)
class StudyAssignment:
    """A person's decision whose a study is."""

    patient_id: str
    issuer: str
    person: str
    reason: str
    assigned_at: float


def find_assignment(conn: Transaction, study: int) -> StudyAssignment | None:
    row = conn.execute(
        "SELECT i.number, a.namespace, s.person, s.reason, s.assigned_at FROM study_assignment s"
        " JOIN patient_identifier i ON i.id = s.identifier_id JOIN assigning_authority a ON a.id = i.authority_id"
        " WHERE s.study_id = ?",
        (study,),
    ).fetchone()
    return StudyAssignment(*row) if row else None
