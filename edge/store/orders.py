"""Imaging orders: enter, find and list them. Functions of a connection; the caller owns the transaction.

An order's patient is the one of today: its identifier after merges, its facts as the last message has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edge.identity.order import Order, OrderPatient, OrderStatus
from edge.model import Priority
from edge.store.database import Transaction

#: Columns of `imaging_order` that are fields of Order, in its order.
_FIELDS = (
    "accession", "issuer", "placer_number", "filler_number", "study_uid", "procedure_id", "procedure_code",
    "procedure_scheme", "procedure_text", "step_id", "station_ae", "station_name", "modality", "scheduled_at",
    "priority", "status", "physician", "referring_physician", "is_in_doubt", "changed_at",
)  # fmt: skip
_SELECT = f"""
SELECT {", ".join(f"o.{name}" for name in _FIELDS)}, o.id, coalesce(p.survivor_id, p.id), i.number, a.namespace,
  s.name, s.birth_date, s.sex, s.is_in_doubt
FROM imaging_order o JOIN known_patient p ON p.id = o.patient_key
JOIN known_patient s ON s.id = coalesce(p.survivor_id, p.id)
JOIN patient_identifier i ON i.id = coalesce((
    SELECT n.id FROM patient_identifier n JOIN patient_identifier mine ON mine.id = o.identifier_id
    WHERE n.patient_key = s.id AND (n.authority_id = mine.authority_id OR p.survivor_id IS NOT NULL)
    ORDER BY n.authority_id = mine.authority_id DESC, n.id = mine.id DESC, n.id DESC LIMIT 1), o.identifier_id)
JOIN assigning_authority a ON a.id = i.authority_id
"""


def _order_of(row: Sequence[Any]) -> Order:
    values = dict(zip(_FIELDS, row, strict=False))
    values |= {
        "priority": Priority(values["priority"]),
        "status": OrderStatus(values["status"]),
        "is_in_doubt": bool(values["is_in_doubt"]),
    }
    number, key, patient_id, issuer, name, birth_date, sex, is_in_doubt = tuple(row)[len(_FIELDS) :]
    patient = OrderPatient(patient_id, issuer, name, birth_date, sex, bool(is_in_doubt))
    return Order(patient, **values, patient_key=key, id=number)


def list_worklist_orders(conn: Transaction, since: str, until: str) -> list[Order]:
    """List the orders that are open and are scheduled between two days (YYYYMMDD, both included), the earliest first.

    An order without a time is always among them.
    """
    rows = conn.execute(
        _SELECT + "WHERE o.status IN ('open', 'in-progress')"
        " AND (o.scheduled_at = '' OR substr(o.scheduled_at, 1, 8) BETWEEN ? AND ?) ORDER BY o.scheduled_at, o.id",
        (since, until),
    )
    return [_order_of(row) for row in rows]


def list_changed_orders(conn: Transaction, since: float, limit: int = 500) -> list[Order]:
    """List orders in the order of their last change, from a time (`Order.changed_at`) on; for prefetching."""
    rows = conn.execute(_SELECT + "WHERE o.changed_at > ? ORDER BY o.changed_at, o.id LIMIT ?", (since, limit))
    return [_order_of(row) for row in rows]


def find_orders(conn: Transaction, *, accession: str = "", study_uid: str = "", procedure_id: str = "") -> list[Order]:
    """Find orders by the first of these that is not empty; the newest first."""
    for column, value in (("accession", accession), ("study_uid", study_uid), ("procedure_id", procedure_id)):
        if value:
            rows = conn.execute(_SELECT + f"WHERE o.{column} = ? ORDER BY o.id DESC", (value,))
            return [_order_of(row) for row in rows]
    return []


def list_orders(conn: Transaction, *, text: str = "", only_open: bool = False, limit: int = 200) -> list[Order]:
    """List orders for people, the last changed first; `text`: an accession number, Patient ID, name or Study UID."""
    found = f"%{text.lower()}%"
    rows = conn.execute(
        _SELECT + "WHERE (:text = '' OR o.accession = :text OR i.number = :text OR o.study_uid = :text"
        " OR lower(s.name) LIKE :found) AND (NOT :only_open OR o.status IN ('open', 'in-progress'))"
        " ORDER BY o.changed_at DESC, o.id DESC LIMIT :limit",
        {"text": text, "found": found, "only_open": only_open, "limit": limit},
    )
    return [_order_of(row) for row in rows]


def has_orders(conn: Transaction) -> bool:
    """Check whether any feed has ever brought an order."""
    return conn.execute("SELECT 1 FROM imaging_order LIMIT 1").fetchone() is not None


def read_orders(conn: Transaction, numbers: Iterable[int]) -> list[Order]:
    """Read orders by their numbers (`Order.id`)."""
    return [_order_of(conn.execute(_SELECT + "WHERE o.id = ?", (each,)).fetchone()) for each in numbers]
