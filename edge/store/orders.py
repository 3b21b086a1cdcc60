"""Imaging orders: find and list them; edge.store.order_entry enters them. Functions of a connection.

An order's patient is the one of today: its identifier after merges, its facts as the last message has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.identity.order import ORDER_TEXTS, Order, OrderPatient, OrderStatus
from edge.model import Priority
from edge.store.database import CatalogRow, Transaction
from edge.store.listing import Listing, ListSql
from edge.store.resolved_patients import RESOLVE

#: Columns of `imaging_order` that are fields of Order.
_FIELDS = (*ORDER_TEXTS, "priority", "status", "is_in_doubt", "changed_at")
_SELECT = f"""
SELECT {", ".join(f"o.{name}" for name in _FIELDS)}, o.id, s.id, i.number, a.namespace,
  s.name, s.birth_date, s.sex, s.is_in_doubt
FROM imaging_order o JOIN patient_identifier mine ON mine.id = o.identifier_id {RESOLVE}
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
    return Order(patient=patient, **values, patient_key=key, id=number)


def _select(conn: Transaction, rest: str, values: Mapping[str, Any]) -> list[Order]:
    return [_order_of(row) for row in conn.execute(_SELECT + rest, values)]


def list_worklist_orders(conn: Transaction, since: str, until: str) -> list[Order]:
    """List the orders that are open and are scheduled between two days (YYYYMMDD, both included), the earliest first.

    An order without a time is always among them.
    """
    rest = """WHERE o.status IN ('open', 'in-progress')
        AND (o.scheduled_at = '' OR substr(o.scheduled_at, 1, 8) BETWEEN :since AND :until)
        ORDER BY o.scheduled_at, o.id"""
    return _select(conn, rest, {"since": since, "until": until})


def find_orders(conn: Transaction, *, accession: str = "", study_uid: str = "", procedure_id: str = "") -> list[Order]:
    """Find orders by the first of these that is not empty; the newest first."""
    for column, value in (("accession", accession), ("study_uid", study_uid), ("procedure_id", procedure_id)):
        if value:
            return _select(conn, f"WHERE o.{column} = :value AND o.{column} <> '' ORDER BY o.id DESC", {"value": value})
    return []


#: The name that an order's patient has today.
_NAME_TODAY = """(SELECT lower(v.name) FROM patient_identifier n JOIN known_patient k ON k.id = n.patient_key
    JOIN known_patient v ON v.id = coalesce(k.survivor_id, k.id) WHERE n.id = o.identifier_id)"""
_LIST = ListSql(
    "o.id",
    "FROM imaging_order o",
    "o.changed_at DESC, o.id DESC",
    {
        "accession": ("o.accession",),
        "status": ("o.status",),
        "patient": (_NAME_TODAY,),
        "procedure": ("lower(coalesce(nullif(o.procedure_text, ''), o.procedure_code))",),
        "scheduled": ("o.scheduled_at",),
        "modality": ("o.modality",),
    },
)
_FOUND = f"""o.id IN (SELECT o.id FROM imaging_order o
    JOIN patient_identifier mine ON mine.id = o.identifier_id {RESOLVE}
    WHERE o.accession = :text OR i.number = :text OR mine.number = :text OR o.study_uid = :text
    OR instr(lower(replace(s.name, '^', ' ')), lower(replace(:text, '^', ' '))))"""
ORDER_COLUMNS = _LIST.orders.keys()


def list_orders(conn: Transaction, *, text: str = "", status: str = "", only_open: bool = False) -> Listing[Order]:
    """List orders for people, the last changed first; `text`: an accession number, Patient ID, name or Study UID."""

    def make(row: CatalogRow) -> Order:
        return read_orders(conn, [row[0]])[0]

    conditions = {_FOUND: text, "o.status = :status": status, "o.status IN ('open', 'in-progress')": only_open}
    return Listing(conn, _LIST, make, conditions, {"text": text, "status": status})


def has_orders(conn: Transaction) -> bool:
    """Check whether any feed has ever brought an order."""
    return conn.execute("SELECT 1 FROM imaging_order LIMIT 1").fetchone() is not None


def read_orders(conn: Transaction, numbers: Iterable[int]) -> list[Order]:
    """Read orders by their numbers (`Order.id`)."""
    return [order for each in numbers for order in _select(conn, "WHERE o.id = :id", {"id": each})]
