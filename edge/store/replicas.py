"""Replicas that a destination with `keep_last` lacks of the time before. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.model import Assignment, DeliveryState, Priority, Reason, ReasonCode
from edge.store import deliveries, gateway_values, ledger
from edge.store.database import Transaction
from edge.store.transitions import reason_values, update_statement


@dataclass(frozen=True, slots=True)
class MissingReplica:
    """A stored instance without a delivery for the destination."""

    instance_id: int
    kind_id: int
    size: int
    study_id: int | None
    received_at: float


def read_replica_place(conn: Transaction, destination: str) -> int:
    """The last instance that was checked."""
    return int(gateway_values.recall(conn, f"copy/{destination}") or 0)


def find_missing(conn: Transaction, destination: str, since: float, limit: int) -> tuple[list[MissingReplica], int]:
    """The next instances that came since then and are owed to others, not to it; and the place behind them."""
    after = read_replica_place(conn, destination)
    rows = conn.execute(
        "SELECT i.id, i.kind_id, i.size, i.study_id, i.received_at, i.received_at > ? AND i.state = 'stored'"
        " AND EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = i.id AND d.destination <> '')"
        " AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = i.id AND d.destination = ?)"
        " FROM instance i WHERE i.id > ? ORDER BY i.id LIMIT ?",
        (since, destination, after, limit),
    ).fetchall()
    return [MissingReplica(*tuple(row)[:5]) for row in rows if row[5]], rows[-1][0] if rows else after


def enqueue_replicas(
    conn: Transaction, destination: str, found: Sequence[MissingReplica], place: int, now: float
) -> None:
    """Queue them, by the time at which they came; they are in the ledger as routed."""
    for each in found:
        to = (Assignment(destination, Priority.ROUTINE, ""),)
        deliveries.enqueue(conn, each.instance_id, each.kind_id, each.size, to, each.received_at)
    pairs = [(each.study_id, each.instance_id) for each in found]
    deliveries.record_by_study(conn, now, ledger.ROUTED, ledger.EDGE, pairs, destination)
    gateway_values.remember(conn, f"copy/{destination}", str(place))


_RELEASE = update_statement("release replica", DeliveryState.CANCELLED, "cancelled_at = :now, transaction_id = NULL")
_LAPSED = """
SELECT d.id, d.instance_id, i.study_id FROM
  (SELECT id, instance_id, route FROM delivery WHERE destination = :name AND state = :state ORDER BY id LIMIT :limit) d
JOIN instance i ON i.id = d.instance_id
WHERE d.route = '' AND i.received_at < :before AND i.open_deliveries = 1
  AND EXISTS (SELECT 1 FROM delivery o WHERE o.instance_id = i.id AND o.state = 'confirmed'
    AND NOT EXISTS (SELECT 1 FROM sent_copy c WHERE c.delivery_id = o.id AND c.sop_instance_uid <> ''))
"""
_WAITING = (DeliveryState.PENDING, DeliveryState.DEFERRED, DeliveryState.HELD, DeliveryState.SENT)


@dataclass(frozen=True, slots=True)
class LapsedReplica:
    """A replica that is owed still, of an instance that is older than `keep_last`, and proved elsewhere."""

    delivery_id: int
    instance_id: int
    study_id: int | None


def find_lapsed(conn: Transaction, destination: str, before: float, limit: int) -> list[LapsedReplica]:
    """Replicas of what came before this moment, without a route of their own; the longest owed of each state."""
    given = {"name": destination, "before": before, "limit": limit}
    rows = (row for state in _WAITING for row in conn.execute(_LAPSED, {**given, "state": state.value}))
    return [LapsedReplica(*row) for row in rows]


def release_lapsed(
    conn: Transaction, destination: str, found: Sequence[LapsedReplica], keep_last: float, now: float
) -> None:
    """Owe them no longer: the second site has what is younger, and the disk here is not kept full by it."""
    reason = reason_values(Reason(ReasonCode.CANCELLED, {"keep_last": keep_last}))
    conn.executemany(_RELEASE, [{"id": each.delivery_id, "now": now, **reason} for each in found])
    pairs = [(each.study_id, each.instance_id) for each in found]
    deliveries.record_by_study(conn, now, ledger.CANCELLED, ledger.EDGE, pairs, destination, {"keep_last": keep_last})


def oldest_not_there(conn: Transaction, destination: str) -> float | None:
    """When the oldest instance came that the destination has not got, or not proved; None: it has all."""
    row = conn.execute(
        "SELECT min(i.received_at) FROM delivery d JOIN instance i ON i.id = d.instance_id WHERE d.id IN"
        " (SELECT min(id) FROM delivery WHERE destination = :name AND state = 'pending'"
        "  UNION ALL SELECT min(id) FROM delivery WHERE destination = :name AND state = 'held'"
        "  UNION ALL SELECT min(id) FROM delivery WHERE destination = :name AND state = 'sent'"
        "  AND transaction_id IS NULL"
        "  UNION ALL SELECT min(id) FROM delivery WHERE destination = :name AND state = 'deferred'"
        "  UNION ALL SELECT min(id) FROM delivery WHERE destination = :name AND state = 'active')",
        {"name": destination},
    ).fetchone()
    return None if row[0] is None else float(row[0])
