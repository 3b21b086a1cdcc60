"""Numbers of instances and deliveries by state, and how long they wait: from the tallies that triggers keep.

Nothing here counts rows: a reading takes milliseconds with millions of instances, for each look-up in a table uses an
index to its end only. SQLite is named the index where its planner could choose a scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.model import DeliveryState, InstanceState, Reason, ReasonCode
from edge.store.database import CatalogRow, Transaction
from edge.store.reasons import reason_of

#: (instances, bytes)
Sum = tuple[int, int]
#: (destination, state) -> how much
Tally = Mapping[tuple[str, str], Sum]

#: How many deliveries are read for the reason that most of them share.
REASONS_SAMPLE = 100
#: Of the deliveries that await proof: how many are read, and how many named.
UNPROVED_SAMPLE, UNPROVED_NAMED = 1000, 5


@dataclass(frozen=True, slots=True)
class WaitingDelivery:
    """One of the deliveries that wait in a state: when it was queued or is due, and why."""

    at: float
    reason: Reason


def delivery_tally(conn: Transaction) -> Tally:
    """Instances and bytes by destination and state."""
    rows = conn.execute("SELECT destination, state, sum(n), sum(bytes) FROM tally GROUP BY destination, state")
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def instance_tally(conn: Transaction) -> dict[str, Sum]:
    """Instances and bytes by state."""
    return {row[0]: (row[1], row[2]) for row in conn.execute("SELECT state, n, bytes FROM instance_tally")}


def fetched_tally(conn: Transaction) -> dict[str, Sum]:
    """Instances and bytes that were fetched, by the destination that had them, since the catalog began."""
    return {row[0]: (row[1], row[2]) for row in conn.execute("SELECT source, n, bytes FROM fetched_tally")}


#: What is cached was received from nobody.
_FETCHED_BYTES = "(SELECT coalesce(sum(bytes), 0) FROM fetched_tally)"


def daily_bytes(conn: Transaction, now: float) -> float | None:
    """What an average day has brought since the first study; None within the first day."""
    (first,) = conn.execute("SELECT min(first_received) FROM study").fetchone()
    if first is None or now - first < 86400:
        return None
    (received,) = conn.execute(f"SELECT coalesce(sum(bytes), 0) - {_FETCHED_BYTES} FROM instance_tally").fetchone()
    return float(received / (now - first) * 86400)


def bytes_so_far(conn: Transaction) -> tuple[int, dict[str, int]]:
    """Bytes received, and bytes sent by destination, since the catalog began; read from the tallies."""
    (received,) = conn.execute(
        f"SELECT coalesce(sum(bytes), 0) - {_FETCHED_BYTES} FROM instance_tally WHERE state <> 'quarantined'"
    ).fetchone()
    rows = conn.execute(
        "SELECT destination, sum(bytes) FROM tally WHERE state IN ('sent', 'confirmed') GROUP BY destination"
    )
    return int(received), {row[0]: int(row[1]) for row in rows}


# -- the age of what waits ---------------------------------------------------------------------------------------------

#: Rows are numbered in the order in which they were queued, but for those few that were queued again.
_OLDEST_PENDING = """
SELECT queued_at FROM delivery WHERE state = 'pending' AND destination = ? AND priority = ? ORDER BY id LIMIT 1
"""
_OLDEST_ACTIVE = """
SELECT destination, min(queued_at) FROM delivery INDEXED BY delivery_active WHERE state = 'active' GROUP BY destination
"""
_OLDEST_DEFERRED = """
SELECT min(queued_at) FROM delivery INDEXED BY delivery_deferred_at WHERE state = 'deferred' AND destination = ?
"""


def oldest_queued(conn: Transaction, tally: Tally) -> dict[str, float]:
    """When the oldest delivery that moves by itself was queued, by destination."""
    found: dict[str, float] = {}

    def note(destination: str, at: float | None) -> None:
        if at is not None:
            found[destination] = min(at, found.get(destination, at))

    classes = "SELECT DISTINCT destination, priority FROM tally WHERE state = 'pending' AND n > 0"
    for destination, priority in conn.execute(classes).fetchall():
        for row in conn.execute(_OLDEST_PENDING, (destination, priority)):
            note(destination, row[0])
    for destination, at in conn.execute(_OLDEST_ACTIVE):
        note(destination, at)
    for (destination, state), (n, _) in tally.items():
        if state == DeliveryState.DEFERRED and n:
            note(destination, conn.execute(_OLDEST_DEFERRED, (destination,)).fetchone()[0])
    return found


_FIRST_UNASKED = """
SELECT min(sent_at) FROM delivery INDEXED BY delivery_unproved
WHERE state = 'sent' AND transaction_id IS NULL AND destination = ?
"""
_FIRST_ASKED = """
SELECT min(sent_at) FROM delivery WHERE state = 'sent' AND transaction_id =
    (SELECT min(id) FROM commitment WHERE destination = ? AND ended_at IS NULL)
"""


def oldest_unproved(conn: Transaction, name: str) -> float | None:
    """When the oldest unproved instance was sent: among those not yet asked for, and in the oldest request."""
    found = [conn.execute(sql, (name,)).fetchone()[0] for sql in (_FIRST_UNASKED, _FIRST_ASKED)]
    return min((at for at in found if at is not None), default=None)


def unprovable(conn: Transaction, destination: str) -> tuple[int, list[int]]:
    """How many of the oldest unproved deliveries are those with which exchanges break, and the numbers of the first."""
    rows = conn.execute(
        "SELECT id FROM (SELECT id, reason_code FROM delivery WHERE destination = ? AND state = 'sent'"
        " AND transaction_id IS NULL ORDER BY sent_at LIMIT ?) WHERE reason_code = ?",
        (destination, UNPROVED_SAMPLE, ReasonCode.BREAKS_PROOF.value),
    ).fetchall()
    return len(rows), [row[0] for row in rows[:UNPROVED_NAMED]]


def known_destinations(conn: Transaction) -> dict[str, CatalogRow]:
    """What the catalog has noted of each destination, by name."""
    return {row["name"]: row for row in conn.execute("SELECT * FROM destination")}


# -- what waits, and why -----------------------------------------------------------------------------------------------


def held_first(conn: Transaction, destination: str) -> list[WaitingDelivery]:
    """The first deliveries that a destination holds for a person, by when they were queued."""
    rows = conn.execute(
        "SELECT queued_at, reason, reason_code, reason_parameters FROM delivery"
        " WHERE state = 'held' AND destination = ? ORDER BY id LIMIT ?",
        (destination, REASONS_SAMPLE),
    )
    return [WaitingDelivery(row[0], reason_of(row)) for row in rows]


def deferred_next(conn: Transaction, destination: str) -> list[WaitingDelivery]:
    """The next deliveries that a destination is sent again, by when that is."""
    rows = conn.execute(
        "SELECT not_before, reason, reason_code, reason_parameters FROM delivery INDEXED BY delivery_deferred_at"
        " WHERE state = 'deferred' AND destination = ? ORDER BY not_before LIMIT ?",
        (destination, REASONS_SAMPLE),
    )
    return [WaitingDelivery(row[0], reason_of(row)) for row in rows]


_HELD_FOR = "SELECT 1 FROM delivery WHERE state = 'held' AND destination = ? AND reason_code = ? LIMIT 1"


def held_codes(conn: Transaction, destination: str) -> frozenset[ReasonCode]:
    """Why what is held is held; not how many, for that would count rows."""
    return frozenset(
        code for code in ReasonCode if conn.execute(_HELD_FOR, (destination, code.value)).fetchone() is not None
    )


# -- what may go -------------------------------------------------------------------------------------------------------

#: Of each rule the oldest confirmation, by skipping along the index.
_EVICTABLE = """
FROM instance INDEXED BY instance_evictable
WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL
"""
_FIRST_TO_GO = f"""
WITH RECURSIVE each (rule) AS (
    SELECT min(retention) {_EVICTABLE}
    UNION ALL
    SELECT (SELECT min(retention) {_EVICTABLE} AND retention > each.rule) FROM each WHERE each.rule IS NOT NULL)
SELECT rule, (SELECT min(confirmed_at) {_EVICTABLE} AND retention = each.rule) FROM each WHERE rule IS NOT NULL
"""
#: Every hold, by skipping along its index.
_HOLDS = """
WITH RECURSIVE each (hold) AS (
    SELECT min(hold) FROM instance INDEXED BY instance_hold WHERE hold <> ''
    UNION ALL
    SELECT (SELECT min(hold) FROM instance INDEXED BY instance_hold WHERE hold <> '' AND hold > each.hold)
    FROM each WHERE each.hold IS NOT NULL)
SELECT hold FROM each WHERE hold IS NOT NULL
"""


def first_evictable(conn: Transaction) -> dict[str, float]:
    """When the oldest instance that retention may evict was confirmed everywhere, by the rule that keeps it."""
    return {row[0]: float(row[1]) for row in conn.execute(_FIRST_TO_GO)}


def active_holds(conn: Transaction) -> list[str]:
    """Every hold that keeps something."""
    return [row[0] for row in conn.execute(_HOLDS)]


# -- instances in trouble ----------------------------------------------------------------------------------------------


def settled_count(conn: Transaction) -> dict[str, int]:
    """How many instances a person has settled, by state."""
    rows = conn.execute("SELECT state, count(*) FROM settled JOIN instance ON id = instance_id GROUP BY state")
    return {row[0]: row[1] for row in rows}


#: The states are spelled out by INDEXED BY's partial index: it holds exactly the three.
_FIRST_TROUBLE = """
SELECT min(received_at) FROM instance INDEXED BY instance_trouble
WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost') AND id NOT IN (SELECT instance_id FROM settled)
"""
_UNDELIVERED_TROUBLE = """
SELECT EXISTS (SELECT 1 FROM instance INDEXED BY instance_trouble
               WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost') AND open_deliveries > 0
                   AND id NOT IN (SELECT instance_id FROM settled))
"""


def trouble(conn: Transaction, state: InstanceState) -> tuple[float, bool]:
    """Since when something unsettled is in a state of trouble, and whether some of it is still to be delivered."""
    (first,) = conn.execute(_FIRST_TROUBLE, (state.value,)).fetchone()
    (undelivered,) = conn.execute(_UNDELIVERED_TROUBLE, (state.value,)).fetchone()
    return first, bool(undelivered)


def settle_instances(conn: Transaction, state: str, now: float, who: str, note: str) -> list[int]:
    """Settle the instances in a state of trouble that a person has seen. Returns their numbers."""
    rows = conn.execute(
        "INSERT INTO settled SELECT id, :now, :who, :note FROM instance INDEXED BY instance_trouble"
        " WHERE state = :state AND state IN ('conflict', 'quarantined', 'lost')"
        " AND id NOT IN (SELECT instance_id FROM settled)"
        " RETURNING instance_id",
        {"now": now, "who": who, "note": note, "state": state},
    )
    return [row[0] for row in rows.fetchall()]
