"""Leases: which deliveries a node may send, until when.

A lease names its owner, a node, and its epoch, which grows with each lease of the delivery. A lease that lapsed and was
taken back, or that another superseded, changes nothing (`IS_CURRENT`). Any number of nodes may lease from one store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from edge.model import ContextKey, DeliveryState, Lease, Priority, Reason, ReasonCode
from edge.store.database import Transaction
from edge.store.rejection_order import NOT_BEFORE
from edge.store.transitions import reason_values, update_statement

LEASE_SECONDS = 600.0
#: No suspect waits longer than this, whatever the clock does.
SUSPECT_SECONDS = 1200.0

#: In the order of Lease's fields.
_LEASABLE = """
SELECT d.id AS delivery_id, d.instance_id, d.destination, d.priority, d.attempts, k.sop_class_uid,
       k.transfer_syntax_uid, i.sop_instance_uid, i.study_id, coalesce(s.study_uid, '') AS study_uid, i.path, i.size,
       i.dataset_offset, i.sha256, i.xxh3, i.received_at, i.calling_ae, d.breaks, d.broke_at, i.passed,
       d.lease_epoch + 1 AS epoch
FROM delivery d
JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = d.kind_id
LEFT JOIN study s ON s.id = i.study_id
"""
_PENDING = _LEASABLE + f"WHERE d.destination = :destination AND d.state = 'pending' AND {NOT_BEFORE} "
_MOST_URGENT = _PENDING + "ORDER BY d.priority, d.id LIMIT :limit"
_LEAST_URGENT = (
    _PENDING
    + "AND d.priority = (SELECT max(priority) FROM delivery WHERE destination = :destination AND state = 'pending') "
)
#: One of the least urgent class, the oldest: one place in every lease, so that no class starves.
_STARVED = _LEAST_URGENT + "ORDER BY d.id LIMIT 1"
_NEWEST = _LEAST_URGENT + "ORDER BY d.id DESC LIMIT 1"
_SUSPECT = (
    _LEASABLE
    + f"WHERE d.destination = :destination AND d.state = 'deferred' AND d.breaks > 0 AND {NOT_BEFORE}"
    + " AND (d.not_before <= :now"
    + " OR d.not_before > :now + :longest) ORDER BY d.not_before LIMIT 1"
)


def _lease_of(row: sqlite3.Row, owner: str) -> Lease:
    delivery, instance, destination, priority, attempts, sop_class, transfer_syntax, *others = row
    key = ContextKey(sop_class, transfer_syntax)
    others.append(owner)
    return Lease(delivery, instance, destination, Priority(priority), attempts, key, *others)


_OBJECT = """
SELECT 0, i.id, '', 0, 0, k.sop_class_uid, k.transfer_syntax_uid, i.sop_instance_uid, i.study_id,
       coalesce(s.study_uid, ''), i.path, i.size, i.dataset_offset, i.sha256, i.xxh3, i.received_at, i.calling_ae, 0,
       NULL, i.passed, 0
FROM instance i JOIN kind k ON k.id = i.kind_id LEFT JOIN study s ON s.id = i.study_id
WHERE i.path = ? AND i.state = 'stored'
"""


def read_object(conn: Transaction, path: str) -> Lease | None:
    """What a sender needs to send the instance at this path of the spool, without a delivery."""
    row = conn.execute(_OBJECT, (path,)).fetchone()
    return _lease_of(row, "") if row is not None else None


_REJECT_ROW = update_statement("reject row", DeliveryState.HELD)


def _leases(conn: Transaction, rows: Iterable[sqlite3.Row], owner: str) -> list[Lease]:
    """What can be leased. A row that cannot be used is held by itself, so that it does not stop the others."""
    found = []
    for row in rows:
        try:
            found.append(_lease_of(row, owner))
        except ValueError:
            number = row["delivery_id"]
            conn.execute(_REJECT_ROW, {"id": number, **reason_values(Reason(ReasonCode.INTERNAL, {"row": number}))})
    return found


def lease(conn: Transaction, destination: str, owner: str, now: float, limit: int, max_bytes: int) -> list[Lease]:
    """Lease the most urgent deliveries, the oldest first, at most `limit` and about `max_bytes` (at least one)."""
    rows = conn.execute(_MOST_URGENT, {"destination": destination, "limit": limit}).fetchall()
    if len(rows) == limit and limit > 1:
        starved = conn.execute(_STARVED, {"destination": destination}).fetchone()
        if starved is not None and starved["priority"] > rows[-1]["priority"]:
            rows[-1] = starved
    taken: list[Lease] = []
    size = 0
    for each in _leases(conn, rows, owner):
        if taken and size + each.size > max_bytes:
            break
        taken.append(each)
        size += each.size
    return _take(conn, taken, now)


def lease_newest(conn: Transaction, destination: str, owner: str, now: float) -> list[Lease]:
    """Lease the newest of the least urgent: a sample from elsewhere when what is first in the queue fails."""
    return _take(conn, _leases(conn, conn.execute(_NEWEST, {"destination": destination}).fetchall(), owner), now)


def lease_suspect(conn: Transaction, destination: str, owner: str, now: float) -> list[Lease]:
    """Lease the one instance that has broken associations and is due the longest."""
    values = {"destination": destination, "now": now, "longest": SUSPECT_SECONDS}
    return _take(conn, _leases(conn, conn.execute(_SUSPECT, values).fetchall(), owner), now)


def next_suspect(conn: Transaction, destination: str) -> float | None:
    """When the next instance is due that has broken associations and waits for no other; seconds since 1970."""
    row = conn.execute(
        "SELECT min(d.not_before) FROM delivery d"
        f" WHERE d.destination = ? AND d.state = 'deferred' AND d.breaks > 0 AND {NOT_BEFORE}",
        (destination,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


_LEASE = update_statement(
    "lease", DeliveryState.ACTIVE, "lease_until = :until, lease_owner = :owner, lease_epoch = lease_epoch + 1"
)
#: The row is still under this lease: neither lapsed nor superseded.
IS_CURRENT = "id = :id AND lease_epoch = :epoch"


def give_back(event: str, where: str) -> tuple[str, str]:
    """The statements of one event that makes leased deliveries pending again, and suspects deferred again."""
    return (
        update_statement(event, DeliveryState.PENDING, where=f"{where} AND breaks = 0"),
        update_statement(
            event, DeliveryState.DEFERRED, "not_before = coalesce(not_before, 0)", f"{where} AND breaks > 0"
        ),
    )


_RETURN = give_back("return", IS_CURRENT)
_RETURN_ALL = give_back("return", "lease_owner IN ('', :owner)")


def _take(conn: Transaction, taken: list[Lease], now: float) -> list[Lease]:
    until = now + LEASE_SECONDS
    conn.executemany(_LEASE, [{"until": until, "owner": each.owner, "id": each.delivery_id} for each in taken])
    return taken


def key_of(each: Lease) -> dict[str, Any]:
    """The parameters of IS_CURRENT."""
    return {"id": each.delivery_id, "epoch": each.epoch}


def renew(conn: Transaction, leases: Iterable[Lease], now: float) -> None:
    """Deliveries that are still being sent keep their leases."""
    conn.executemany(
        f"UPDATE delivery SET lease_until = :until WHERE state = 'active' AND {IS_CURRENT}",
        [{"until": now + LEASE_SECONDS, **key_of(each)} for each in leases],
    )


def return_leases(conn: Transaction, leases: Iterable[Lease]) -> None:
    """Leased deliveries that were not tried are pending again; a suspect is deferred again."""
    keys = [key_of(each) for each in leases]
    for sql in _RETURN:
        conn.executemany(sql, keys)


def return_all_leases(conn: Transaction, owner: str) -> int:
    """Return what a node's former run had leased, at its start. Returns how many."""
    return sum(conn.execute(sql, {"owner": owner}).rowcount for sql in _RETURN_ALL)
