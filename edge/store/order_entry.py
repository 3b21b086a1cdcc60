"""Orders as messages bring them: entered, updated, cancelled. The caller owns the transaction.

An order is found by its accession number and patient, and among several by its placer number; without an accession
number by placer number, filler number, Study UID, or the number of the procedure or the step.
"""

from __future__ import annotations

from typing import Any

from edge.identity.hl7_facts import OrderFacts
from edge.identity.order import ORDER_TEXTS, OrderStatus
from edge.model import Priority
from edge.store import identity_findings
from edge.store.database import Transaction, insert_row
from edge.store.known_patients import ChangeSource
from edge.store.patient_identifiers import KnownIdentifier

ACCESSION_REUSED = "accession-reused"
_KEYS = ("accession", "placer_number", "filler_number", "study_uid", "procedure_id", "step_id")
_TEXTS = ("procedure_text", "physician", "referring_physician")  # that may be in doubt
_FOUND = (
    "SELECT o.*, coalesce(p.survivor_id, p.id) AS survivor FROM imaging_order o"
    " JOIN known_patient p ON p.id = o.patient_key WHERE o.{key} = ? AND o.{key} <> ''"  # as the partial indexes say
)


def enter_order(
    conn: Transaction, facts: OrderFacts, patient: KnownIdentifier, source: ChangeSource
) -> tuple[list[int], bool, list[str]]:
    """Enter or update one order of a patient. Returns its numbers, whether anything has changed, and notes."""
    key = next(name for name in _KEYS if getattr(facts, name))
    rows = [dict(row) for row in conn.execute(_FOUND.format(key=key), (getattr(facts, key),))]
    rows = [row for row in rows if not (row["issuer"] and facts.issuer and row["issuer"] != facts.issuer)]
    mine = [row for row in rows if row["survivor"] == patient.survivor]
    found = _choose(mine, facts)
    notes = []
    if not found and key == "accession" and _is_reused(rows, mine, facts, source):
        subject = str(min(row["id"] for row in rows))
        identity_findings.note_finding(conn, ACCESSION_REUSED, subject, source.feed, source.message_id, source.at)
        notes.append(ACCESSION_REUSED)
    if not found:
        return [_insert(conn, facts, patient, source)], True, notes
    changed = [_update(conn, row, facts, source) for row in found]
    return [row["id"] for row in found], any(changed), notes


def _choose(rows: list[dict[str, Any]], facts: OrderFacts) -> list[dict[str, Any]]:
    """The order that is meant: one accession number may have several requested procedures."""
    for name in ("placer_number", "filler_number"):
        said = getattr(facts, name)
        if said and any(row[name] for row in rows):
            same = [row for row in rows if row[name] == said]
            rows = same if same or name == "placer_number" else rows
    return _by_step(rows, facts)


def _by_step(rows: list[dict[str, Any]], facts: OrderFacts) -> list[dict[str, Any]]:
    """Choose, of several steps of one order, the one that is named; a cancellation that names none is of all."""
    if facts.step_id and any(row["step_id"] for row in rows):
        rows = [row for row in rows if row["step_id"] in ("", facts.step_id)]
    elif facts.status is OrderStatus.CANCELLED:
        return [row for row in rows if row["status"] != OrderStatus.COMPLETED] or rows[:1]
    return rows[:1]


def _is_reused(rows: list[dict[str, Any]], mine: list[dict[str, Any]], facts: OrderFacts, source: ChangeSource) -> bool:
    """One accession number of two patients, or of two open orders for different studies that came separately."""
    if len(rows) > len(mine):
        return True
    return any(
        row["status"] == OrderStatus.OPEN
        and row["created_by"] != source.message_id
        and facts.study_uid
        and row["study_uid"] not in ("", facts.study_uid)
        for row in mine
    )


def _insert(conn: Transaction, facts: OrderFacts, patient: KnownIdentifier, source: ChangeSource) -> int:
    row = {name: getattr(facts, name) for name in ORDER_TEXTS} | {
        "patient_key": patient.patient_key,
        "identifier_id": patient.id,
        "priority": Priority.ROUTINE if facts.priority is None else facts.priority,
        "status": (facts.status or OrderStatus.OPEN).value,
        "is_in_doubt": facts.is_in_doubt,
        "feed": source.feed,
        "created_by": source.message_id,
        "created_at": source.at,
        "changed_at": source.at,
    }
    insert_row(conn, "imaging_order", row)
    return int(conn.execute("SELECT last_insert_rowid()").fetchone()[0])


def _update(conn: Transaction, row: dict[str, Any], facts: OrderFacts, source: ChangeSource) -> bool:
    said: dict[str, Any] = {name: getattr(facts, name) for name in ORDER_TEXTS if getattr(facts, name)}
    if facts.priority is not None:
        said["priority"] = int(facts.priority)
    if (status := _next_status(OrderStatus(row["status"]), facts)) is not None:
        said["status"] = status.value
    if said.keys() & set(_TEXTS):
        said["is_in_doubt"] = int(facts.is_in_doubt)
    changed = {name: value for name, value in said.items() if row[name] != value}
    if not changed:
        return False
    sets = ", ".join(f"{name} = :{name}" for name in changed)
    values = {**changed, "id": row["id"], "at": source.at, "feed": source.feed}
    conn.execute(f"UPDATE imaging_order SET {sets}, changed_at = :at, feed = :feed WHERE id = :id", values)
    return True


def correct_texts(conn: Transaction, facts: OrderFacts, source: ChangeSource) -> set[int]:
    """Set the texts of an order that were in doubt, where this message is the last one about it. Returns its number."""
    keys, texts = ({name: getattr(facts, name) for name in names if getattr(facts, name)} for names in (_KEYS, _TEXTS))
    sets = ", ".join(f"{name} = :{name}" for name in (*texts, "is_in_doubt"))
    same = " AND ".join(f"{name} = :{name} AND {name} <> ''" for name in (*keys, "feed", "changed_at"))
    values = {**keys, **texts, "is_in_doubt": 0, "feed": source.feed, "changed_at": source.at}
    sql = f"UPDATE imaging_order SET {sets} WHERE {same} AND is_in_doubt = 1 RETURNING id"
    return {row[0] for row in conn.execute(sql, values).fetchall()}


def _next_status(before: OrderStatus, facts: OrderFacts) -> OrderStatus | None:
    """A new order again opens one that was cancelled, and none that has begun or is done."""
    if facts.control in ("NW", "SN"):
        return OrderStatus.OPEN if before is OrderStatus.CANCELLED else None
    return facts.status
