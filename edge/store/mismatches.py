"""Images of another patient than those before them in their study, that nobody has decided about yet. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge.model import DeliveryState
from edge.store import queries
from edge.store.database import Transaction
from edge.store.identity import Patient
from edge.store.patients import JOIN, PATIENT_COLUMNS
from edge.store.queries import Instance
from edge.store.study_patients import split_differences


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One image, its patient, and the patient that it differs from."""

    instance: Instance
    study_number: int
    patient: Patient
    study_patient: Patient
    differs_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mismatches:
    """Images of another patient than those before in their study, that nobody has decided about."""

    held: int = 0  # images
    held_since: float | None = None
    studies: int = 0  # with such images that are not held for it
    studies_since: float | None = None


_HELD_IDS = """
SELECT d.instance_id FROM delivery d WHERE d.state = 'held' AND d.reason_code = 'mismatch'
AND d.destination IN (SELECT value FROM json_each(:destinations))
"""
#: What is held as a conflict, or has no route besides.
_CONFLICT_IDS = f"""
SELECT i.id FROM instance i INDEXED BY instance_trouble {JOIN}
WHERE i.state = 'conflict' AND i.state IN ('conflict', 'quarantined', 'lost') AND w.standing = 'differs'
AND EXISTS (SELECT 1 FROM delivery WHERE instance_id = i.id AND state = 'held')
"""
_ALARMED_IDS = f"""
SELECT i.id FROM study_patient open JOIN instance i ON i.study_id = open.study_id {JOIN}
WHERE open.alarmed_at IS NOT NULL AND open.settled_at IS NULL AND open.standing = 'differs'
AND w.patient_key = open.patient_key AND i.state <> 'discarded'
"""
_COLUMNS = ", ".join(f"{table}.{name}" for table in ("p", "q") for name in PATIENT_COLUMNS.values())
_IDS = f"""
SELECT id FROM instance WHERE id IN ({_HELD_IDS} UNION {_CONFLICT_IDS} UNION {_ALARMED_IDS})
ORDER BY id DESC LIMIT :limit
"""
_FOUND = f"""
SELECT i.id, i.study_id, w.differs_in, {_COLUMNS} FROM instance i {JOIN} LEFT JOIN patient q ON q.id = w.against_key
WHERE i.id IN ({_HELD_IDS} UNION {_CONFLICT_IDS} UNION {_ALARMED_IDS}) ORDER BY i.id DESC LIMIT :limit
"""


def find_mismatches(conn: Transaction, limit: int) -> list[Mismatch]:
    """The latest first."""
    rows = conn.execute(_FOUND, {"destinations": json.dumps(_held_at(conn)), "limit": limit}).fetchall()
    found = {each.id: each for each in queries.instances(conn, [row[0] for row in rows])}
    width = len(PATIENT_COLUMNS)
    return [
        Mismatch(
            found[row[0]],
            row[1],
            Patient(*(value or "" for value in row[3 : 3 + width])),
            Patient(*(value or "" for value in row[3 + width :])),
            split_differences(row[2] or ""),
        )
        for row in map(tuple, rows)
    ]


def list_mismatch_ids(conn: Transaction, limit: int) -> list[int]:
    """The instances alone, the latest first."""
    rows = conn.execute(_IDS, {"destinations": json.dumps(_held_at(conn)), "limit": limit})
    return [row[0] for row in rows]


def _held_at(conn: Transaction) -> list[str]:
    rows = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = 'held' AND n > 0")
    return [row[0] for row in rows]


def count(conn: Transaction, tally: Mapping[tuple[str, str], tuple[int, int]]) -> Mismatches:
    """How many are held for it, and in how many studies some are here that are not."""
    names = [name for (name, state), (n, _) in tally.items() if state == DeliveryState.HELD and n]
    held, held_since = conn.execute(
        f"SELECT count(*), min(received_at) FROM instance WHERE id IN ({_HELD_IDS} UNION {_CONFLICT_IDS})",
        {"destinations": json.dumps(names)},
    ).fetchone()
    studies, studies_since = conn.execute(
        "SELECT count(DISTINCT study_id), min(alarmed_at) FROM study_patient"
        " WHERE alarmed_at IS NOT NULL AND settled_at IS NULL AND standing = 'differs'"
    ).fetchone()
    return Mismatches(held, held_since, studies, studies_since)
