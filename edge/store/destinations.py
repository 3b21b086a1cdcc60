"""Removed destinations: their remaining deliveries are cancelled, or renamed to another destination.

Promise: an image that nobody else has or gets is never ended by this: it becomes unroutable, which is held, shown and
alarmed. Functions of a connection that do a batch each, so that receivers never wait long; called again after a crash,
they go on where they were.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from edge.model import Assignment, DeliveryState, Priority, Reason, ReasonCode
from edge.store import deliveries, ledger, operator_actions, step_deliveries
from edge.store.database import Transaction
from edge.store.transitions import reason_values, update_statement

#: Deliveries in one transaction.
DELIVERY_BATCH = 500
#: What is not ended yet.
OPEN = tuple(state for state in DeliveryState if state not in (DeliveryState.CONFIRMED, DeliveryState.CANCELLED))
#: Where one instance has a delivery under both names, the one that is further counts.
_FURTHEST = (DeliveryState.CONFIRMED, DeliveryState.SENT)


@dataclass(frozen=True, slots=True)
class DestinationCounts:
    """A destination that the configuration or the catalog names, and its deliveries by state."""

    name: str
    configured: bool
    deliveries: Mapping[DeliveryState, int]

    @property
    def left(self) -> int:
        """Deliveries that are not ended."""
        return sum(self.deliveries.get(state, 0) for state in OPEN)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a batch did. `last` is where the next one begins; None: nothing is left."""

    last: int | None
    ended: int = 0  # deliveries that were cancelled, or merged into the one under the new name
    moved: int = 0
    unroutable: int = 0  # instances that have no other destination


def count_destinations(conn: Transaction, configured: Sequence[str]) -> list[DestinationCounts]:
    """Count the deliveries of every destination, those configured first."""
    counts: dict[str, dict[DeliveryState, int]] = {name: {} for name in configured}
    rows = conn.execute(
        "SELECT destination, state, sum(n) FROM tally WHERE destination <> ''"
        " GROUP BY destination, state HAVING sum(n) > 0 ORDER BY destination"
    )
    for name, state, number in rows:
        counts.setdefault(name, {})[DeliveryState(state)] = number
    return [DestinationCounts(name, name in configured, found) for name, found in counts.items()]


def list_removed_destinations(conn: Transaction, configured: Sequence[str]) -> list[DestinationCounts]:
    """List destinations that are not configured and have deliveries that are not ended."""
    return [each for each in count_destinations(conn, configured) if not each.configured and each.left]


@dataclass(frozen=True, slots=True)
class KeptProof:
    """Images that a rule keeps here and that a destination which is configured no more has proved."""

    destination: str
    rule: str  # "retention.NAME", "hold.NAME" or "legal hold"
    count: int


def list_kept_proofs(conn: Transaction, configured: Sequence[str], name: str | None = None) -> list[KeptProof]:
    """What removed destinations (or the one of that name) have proved of what a rule or a hold keeps here."""
    rows = conn.execute(
        "SELECT d.destination, CASE WHEN substr(i.hold, 1, 6) = 'legal:' THEN 'legal hold'"
        " WHEN i.hold <> '' THEN i.hold ELSE 'retention.' || i.retention END AS rule, count(*)"
        " FROM instance i JOIN delivery d ON d.instance_id = i.id"
        " WHERE i.state = 'stored' AND (i.retention <> '' OR i.hold <> '') AND d.state = 'confirmed'"
        " AND (d.destination = :name OR (:name IS NULL AND d.destination NOT IN"
        " (SELECT value FROM json_each(:configured)))) GROUP BY 1, 2 ORDER BY 1, 2",
        {"name": name, "configured": json.dumps(list(configured))},
    )
    return [KeptProof(row[0], row[1], row[2]) for row in rows]


def _batch(conn: Transaction, name: str, after: int) -> list[sqlite3.Row]:
    return conn.execute(
        "SELECT d.id, d.instance_id, d.state, d.kind_id, d.bytes, i.study_id FROM delivery d"
        " JOIN instance i ON i.id = d.instance_id"
        " WHERE d.id > :after AND d.destination = :name ORDER BY d.id LIMIT :limit",
        {"after": after, "name": name, "limit": DELIVERY_BATCH},
    ).fetchall()


_RETIRE = update_statement("retire", DeliveryState.CANCELLED, "cancelled_at = :now, transaction_id = NULL")


def retire(conn: Transaction, name: str, after: int, now: float, who: str, why: str) -> Progress:
    """Cancel a batch of what is not ended for a destination that has gone; confirmed deliveries stay on record."""
    rows = _batch(conn, name, after)
    if not rows:
        _forget(conn, name)
        step_deliveries.retire_target(conn, name, now)
        return Progress(None)
    left = [row for row in rows if DeliveryState(row["state"]) in OPEN]
    retired = Reason(ReasonCode.CANCELLED, {"retired": name})
    conn.executemany(_RETIRE, [{"id": row["id"], "now": now, **reason_values(retired)} for row in left])
    alone = [row for row in left if not _goes_elsewhere(conn, row["instance_id"])]
    nowhere = (Assignment(deliveries.UNROUTABLE, Priority.ROUTINE, ""),)
    for row in alone:
        held_for = Reason(ReasonCode.UNROUTABLE, {"retired": name})
        deliveries.enqueue(conn, row["instance_id"], row["kind_id"], row["bytes"], nowhere, now, held_for)
    for row in left:
        operator_actions.close_conflict(conn, row["instance_id"])
    found = [(row["study_id"], row["instance_id"]) for row in left]
    deliveries.record_by_study(conn, now, ledger.CANCELLED, who, found, name, {"retired": name, "reason": why})
    return Progress(rows[-1]["id"], ended=len(left), unroutable=len(alone))


def all_batches(batch: Callable[[int], Progress]) -> Progress:
    """Do batches until nothing is left; `batch` gets where to begin. Returns what they did together."""
    total, after = Progress(None), 0
    while (done := batch(after)).last is not None:
        total = Progress(None, total.ended + done.ended, total.moved + done.moved, total.unroutable + done.unroutable)
        after = done.last
    return total


def _goes_elsewhere(conn: Transaction, instance: int) -> bool:
    sql = "SELECT 1 FROM delivery WHERE instance_id = ? AND state <> 'cancelled'"
    return conn.execute(sql, (instance,)).fetchone() is not None


def begin_rename(conn: Transaction, old: str, new: str, now: float, who: str) -> None:
    """Put on record that two names are one destination."""
    ledger.append(conn, now, ledger.RENAMED, who, [], destination=new, payload={"former": old})
    conn.execute("UPDATE commitment SET destination = ? WHERE destination = ?", (new, old))
    step_deliveries.rename_target(conn, old, new)


def rename(conn: Transaction, old: str, new: str, after: int) -> Progress:
    """Give a batch of deliveries to the new name."""
    rows = _batch(conn, old, after)
    if not rows:
        _forget(conn, old)
        return Progress(None)
    merged = 0
    for row in rows:
        there = conn.execute(
            "SELECT id, state FROM delivery WHERE instance_id = ? AND destination = ?", (row["instance_id"], new)
        ).fetchone()
        if there is not None:
            merged += 1
            kept = _is_further(row["state"], there["state"])
            conn.execute("DELETE FROM delivery WHERE id = ?", (there["id"] if kept else row["id"],))
            operator_actions.close_conflict(conn, row["instance_id"])
            if not kept:
                continue
        conn.execute("UPDATE delivery SET destination = ? WHERE id = ?", (new, row["id"]))
    return Progress(rows[-1]["id"], ended=merged, moved=len(rows) - merged)


def _is_further(old: str, new: str) -> bool:
    """Check whether the delivery under the old name is nearer to its end."""
    rank = {state.value: number for number, state in enumerate(_FURTHEST)}
    return rank.get(old, len(rank)) < rank.get(new, len(rank))


def _forget(conn: Transaction, name: str) -> None:
    """Delete what is known of its health."""
    conn.execute("DELETE FROM destination WHERE name = ?", (name,))


# -- health ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownHealth:
    """What is known of a destination. Times are seconds since 1970."""

    state: str = "up"  # "up" | "down"
    since: float = 0.0
    retry_at: float | None = None  # while down
    last_success: float | None = None
    last_error: str | None = None
    refuses: bool = False  # while down: it answers, and refuses what it is sent


def note_health(conn: Transaction, name: str, health: KnownHealth) -> None:
    """Save what is known of a destination, for readers while the daemon is down."""
    conn.execute(
        "INSERT INTO destination (name, state, since, retry_at, last_success, last_error, refuses)"
        " VALUES (:name, :state, :since, :retry_at, :last_success, :last_error, :refuses)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, since = excluded.since,"
        " retry_at = excluded.retry_at, last_success = excluded.last_success, last_error = excluded.last_error,"
        " refuses = excluded.refuses",
        {"name": name, **asdict(health)},
    )


def known_health(conn: Transaction, name: str) -> KnownHealth | None:
    """Read what is known of a destination."""
    sql = "SELECT state, since, retry_at, last_success, last_error, refuses FROM destination WHERE name = ?"
    row = conn.execute(sql, (name,)).fetchone()
    return KnownHealth(**{**dict(row), "refuses": bool(row["refuses"])}) if row else None
