"""One row for each (instance, destination), and what changes its state until it was sent; then edge.proofs does.

A person does by edge.decisions. docs/design.md has the picture.

Work is leased, never popped: a lease that lapses, or that a killed daemon left, is pending again. Functions of a
connection; the caller owns the transaction, so that a state and what caused it are committed together.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence

from edge.model import Assignment, AttemptResult, ContextKey, DeliveryState, Lease, Outcome, Priority, ReasonCode
from edge.store import ledger
from edge.store.database import Connection

#: `destination` of the row that holds what no route matched.
UNROUTABLE = ""
LEASE_SECONDS = 600.0
#: No suspect waits longer than this, whatever the clock does.
SUSPECT_SECONDS = 1200.0

_WORK = """
SELECT d.id, d.instance_id, d.destination, d.priority, d.attempts, k.sop_class_uid, k.transfer_syntax_uid,
       i.sop_instance_uid, coalesce(s.study_uid, '') AS study_uid, i.path, i.size, i.dataset_offset, i.sha256,
       i.received_at, i.calling_ae, d.breaks, d.broke_at
FROM delivery d
JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = d.kind_id
LEFT JOIN study s ON s.id = i.study_id
"""
_MOST_URGENT = _WORK + "WHERE d.destination = ? AND d.state = 'pending' ORDER BY d.priority, d.id LIMIT ?"
#: One of the least urgent class, the oldest: one place in every lease, so that no class starves.
_LEAST_URGENT = (
    _WORK
    + "WHERE d.destination = ?1 AND d.state = 'pending' AND d.priority ="
    + " (SELECT max(priority) FROM delivery WHERE destination = ?1 AND state = 'pending') ORDER BY d.id LIMIT 1"
)
_NEWEST = (
    _WORK
    + "WHERE d.destination = ?1 AND d.state = 'pending' AND d.priority ="
    + " (SELECT max(priority) FROM delivery WHERE destination = ?1 AND state = 'pending') ORDER BY d.id DESC LIMIT 1"
)
_SUSPECT = (
    _WORK
    + "WHERE d.destination = ?1 AND d.state = 'deferred' AND d.breaks > 0"
    + " AND (d.not_before <= ?2 OR d.not_before > ?2 + ?3) ORDER BY d.not_before LIMIT 1"
)


def _work(r: sqlite3.Row) -> Lease:
    return Lease(
        delivery_id=r["id"],
        instance_id=r["instance_id"],
        destination=r["destination"],
        priority=Priority(r["priority"]),
        attempts=r["attempts"],
        kind=ContextKey(r["sop_class_uid"], r["transfer_syntax_uid"]),
        sop_instance_uid=r["sop_instance_uid"],
        study_uid=r["study_uid"],
        path=r["path"],
        size=r["size"],
        dataset_offset=r["dataset_offset"],
        sha256=r["sha256"],
        received_at=r["received_at"],
        calling_ae=r["calling_ae"],
        breaks=r["breaks"],
        broke_at=r["broke_at"],
    )


_UNUSABLE = """
UPDATE delivery SET state = 'held', not_before = NULL, reason_code = 'internal',
    reason = 'its row in the catalog cannot be used: stop the gateway, and type `edge recover`' WHERE id = ?
"""


def _works(conn: Connection, rows: Iterable[sqlite3.Row]) -> list[Lease]:
    """What can be leased; a row that cannot be used is held by name, so that it ends nothing for the others."""
    works = []
    for row in rows:
        try:
            works.append(_work(row))
        except ValueError:
            conn.execute(_UNUSABLE, (row["id"],))
    return works


# -- intake -----------------------------------------------------------------------------------------------------------


def enqueue(
    conn: Connection,
    instance: int,
    kind_id: int,
    size: int,
    assignments: Sequence[Assignment],
    now: float,
    held: str,
    code: ReasonCode = ReasonCode.NONE,
) -> None:
    """One row for each destination; with a `code`, each waits for a person, and `held` says why in words.

    A returned instance's old rows begin anew.
    """
    state = DeliveryState.HELD if code else DeliveryState.PENDING
    for each in assignments:
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, route, reason,"
            " reason_code, queued_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (instance_id, destination) DO UPDATE SET state = excluded.state,"
            " priority = excluded.priority, reason = excluded.reason, reason_code = excluded.reason_code,"
            " queued_at = excluded.queued_at, attempts = 0, denials = 0, breaks = 0, broke_at = NULL,"
            " peer_text = '', transaction_id = NULL, cancelled_at = NULL",
            (
                instance,
                each.destination,
                kind_id,
                size,
                int(each.priority),
                state.value,
                each.route,
                held,
                code.value,
                now,
            ),
        )


def remove_unroutable(conn: Connection, instance: int) -> None:
    """A route has been found for what none matched before."""
    conn.execute("DELETE FROM delivery WHERE instance_id = ? AND destination = ''", (instance,))


# -- forward ----------------------------------------------------------------------------------------------------------


def lease(conn: Connection, destination: str, now: float, limit: int, max_bytes: int) -> list[Lease]:
    """Take the most urgent work, the oldest first, at most `limit` instances and about `max_bytes` (at least one)."""
    rows = conn.execute(_MOST_URGENT, (destination, limit)).fetchall()
    if len(rows) == limit and limit > 1:
        starved = conn.execute(_LEAST_URGENT, (destination,)).fetchone()
        if starved["priority"] > rows[-1]["priority"]:
            rows[-1] = starved
    taken: list[Lease] = []
    size = 0
    for work in _works(conn, rows):
        if taken and size + work.size > max_bytes:
            break
        taken.append(work)
        size += work.size
    return _taken(conn, taken, now)


def lease_newest(conn: Connection, destination: str, now: float) -> list[Lease]:
    """Take the newest of the least urgent work: a sample from elsewhere when what stands first fails."""
    return _taken(conn, _works(conn, conn.execute(_NEWEST, (destination,)).fetchall()), now)


def lease_suspect(conn: Connection, destination: str, now: float) -> list[Lease]:
    """Take the one instance that has broken associations and is due the longest."""
    found = conn.execute(_SUSPECT, (destination, now, SUSPECT_SECONDS)).fetchall()
    return _taken(conn, _works(conn, found), now)


def next_suspect(conn: Connection, destination: str) -> float | None:
    """When the next instance that has broken associations is due, seconds since 1970; None: there is none."""
    row = conn.execute(
        "SELECT min(not_before) FROM delivery WHERE destination = ? AND state = 'deferred' AND breaks > 0",
        (destination,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def _taken(conn: Connection, taken: list[Lease], now: float) -> list[Lease]:
    conn.executemany(
        "UPDATE delivery SET state = 'active', lease_until = ? WHERE id = ?",
        [(now + LEASE_SECONDS, work.delivery_id) for work in taken],
    )
    return taken


def renew(conn: Connection, works: Iterable[Lease], now: float) -> None:
    """Work that is still being sent keeps its lease."""
    conn.executemany(
        "UPDATE delivery SET lease_until = ? WHERE id = ? AND state = 'active'",
        [(now + LEASE_SECONDS, work.delivery_id) for work in works],
    )


#: Where leased work goes that was not tried: suspects wait beside the others.
_UNTRIED = (
    "UPDATE delivery SET state = CASE WHEN breaks > 0 THEN 'deferred' ELSE 'pending' END,"
    " not_before = CASE WHEN breaks > 0 THEN coalesce(not_before, 0) END, lease_until = NULL"
)


def return_leases(conn: Connection, works: Iterable[Lease]) -> None:
    """Leased work that was not tried is pending again; a suspect is deferred again."""
    conn.executemany(
        _UNTRIED + " WHERE id = ? AND state = 'active'",
        [(work.delivery_id,) for work in works],
    )


def queued_contexts(conn: Connection, destination: str) -> list[ContextKey]:
    """The kinds that are queued for a destination, the most urgent first."""
    rows = conn.execute(
        "SELECT k.sop_class_uid, k.transfer_syntax_uid FROM tally t JOIN kind k ON k.id = t.kind_id"
        " WHERE t.destination = ? AND t.state IN ('pending', 'active', 'deferred') AND t.n > 0"
        " GROUP BY t.kind_id ORDER BY min(t.priority), sum(t.n) DESC",
        (destination,),
    )
    return [ContextKey(row[0], row[1]) for row in rows]


def record_attempts(
    conn: Connection, settlements: Sequence[AttemptResult], now: float, *, proved_by_status: bool
) -> None:
    """End attempts. A success counts unless the row is ended; a failure only while it is still ours."""
    for each in settlements:
        work, reason = each.work, each.reason
        if each.outcome is Outcome.SENT:
            state = DeliveryState.CONFIRMED if proved_by_status else DeliveryState.SENT
            conn.execute(
                "UPDATE delivery SET state = ?, reason = ?, reason_code = '', status = ?, peer_text = ?,"
                " attempts = attempts + 1, sent_at = ?, confirmed_at = ?, lease_until = NULL, not_before = NULL,"
                " transaction_id = NULL WHERE id = ? AND state NOT IN ('confirmed', 'cancelled')",
                (
                    state.value,
                    reason,
                    each.status,
                    each.peer_text,
                    now,
                    now if proved_by_status else None,
                    work.delivery_id,
                ),
            )
        else:
            state = DeliveryState.DEFERRED if each.outcome is Outcome.DEFER else DeliveryState.HELD
            conn.execute(
                "UPDATE delivery SET state = ?, reason = ?, reason_code = ?, status = ?, peer_text = ?,"
                " attempts = attempts + 1, breaks = breaks + ?,"
                " broke_at = coalesce(broke_at, ?), lease_until = NULL, not_before = ?"
                " WHERE id = ? AND state = 'active'",
                (
                    state.value,
                    reason,
                    each.code.value,
                    each.status,
                    each.peer_text,
                    int(each.broke_at is not None),
                    each.broke_at,
                    each.retry_at if each.outcome is Outcome.DEFER else None,
                    work.delivery_id,
                ),
            )
    _record(conn, settlements, now, proved_by_status)


def _record(conn: Connection, settlements: Sequence[AttemptResult], now: float, proved_by_status: bool) -> None:
    """One ledger row for each (study, destination, event, reason); deferrals are not custody and leave none."""
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for each in settlements:
        if each.outcome is not Outcome.DEFER:
            event = ledger.SENT if each.outcome is Outcome.SENT else ledger.HELD
            groups[each.work.study_uid, each.work.destination, event, each.reason].append(each.work.instance_id)
    for (study_uid, destination, event, reason), instances in groups.items():
        study = _study_id(conn, study_uid)
        ledger.append(conn, now, event, ledger.EDGE, instances, study_id=study, destination=destination, detail=reason)
        if event == ledger.SENT and proved_by_status:
            ledger.append(
                conn,
                now,
                ledger.CONFIRMED,
                destination,
                instances,
                study_id=study,
                destination=destination,
                detail="by the C-STORE status",
            )


def _study_id(conn: Connection, study_uid: str) -> int | None:
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return int(row[0]) if row else None


def anything_due(conn: Connection, now: float) -> bool:
    """Is there work for `promote`?"""
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM delivery WHERE state = 'deferred' AND not_before <= ?1 AND breaks = 0)"
        " OR EXISTS (SELECT 1 FROM delivery WHERE state = 'active' AND lease_until <= ?1)",
        (now,),
    ).fetchone()
    return bool(row[0])


def requeue_due(conn: Connection, now: float) -> list[str]:
    """Deferred work that is due, and work whose lease lapsed, is pending again. Returns the destinations concerned.

    Suspects stay deferred: `lease_suspect` takes them, one at a time.
    """
    conn.execute(
        "UPDATE delivery SET state = 'held', not_before = NULL, reason = ?, reason_code = ?"
        " WHERE state = 'deferred' AND not_before <= ? AND destination = ''",
        ("the images of its study have not come, and no route matches it", ReasonCode.UNROUTABLE.value, now),
    )
    due = conn.execute(
        "UPDATE delivery SET state = 'pending', not_before = NULL"
        " WHERE state = 'deferred' AND not_before <= ? AND breaks = 0 RETURNING destination",
        (now,),
    ).fetchall()
    lapsed = conn.execute(
        _UNTRIED + ", reason = 'the lease lapsed', reason_code = 'lease-lapsed'"
        " WHERE state = 'active' AND lease_until <= ? RETURNING destination",
        (now,),
    ).fetchall()
    return sorted({row[0] for row in due + lapsed})


def record_changed(conn: Connection, changes: Iterable[tuple[Lease, str]], now: float) -> None:
    """The ledger's rows for copies that were sent in another transfer syntax than the object was received in."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for work, how in changes:
        groups[work.study_uid, work.destination, how].append(work.instance_id)
    for (study_uid, destination, how), instances in groups.items():
        study = _study_id(conn, study_uid)
        ledger.append(
            conn, now, ledger.CHANGED, ledger.EDGE, instances, study_id=study, destination=destination, detail=how
        )


def record_lost(conn: Connection, work: Lease, now: float, reason: str) -> None:
    """The ledger's row for an instance whose file is not what was received."""
    study = _study_id(conn, work.study_uid)
    ledger.append(conn, now, ledger.LOST, ledger.EDGE, [work.instance_id], study_id=study, detail=reason)


def holders(conn: Connection, instance: int) -> list[str]:
    """The destinations that have an instance, those that have proved it first."""
    rows = conn.execute(
        "SELECT destination FROM delivery WHERE instance_id = ? AND state IN ('sent', 'confirmed')"
        " ORDER BY state <> 'confirmed', confirmed_at",
        (instance,),
    )
    return [row[0] for row in rows]


def requeue_repaired(conn: Connection, instance: int) -> list[str]:
    """What a sender held because an instance's file was damaged is pending again. Returns the destinations."""
    rows = conn.execute(
        "UPDATE delivery SET state = 'pending', reason = '', reason_code = '' WHERE instance_id = ?"
        " AND state = 'held' AND reason_code = ? RETURNING destination",
        (instance, ReasonCode.DAMAGED.value),
    )
    return [row[0] for row in rows]


def hold_mismatch(conn: Connection, instance: int, reason: str, *, stat: bool) -> bool:
    """An instance that was queued turns out to be of another patient: what is still to go waits for a person.

    `stat`: so do stat ones. True when all of it is held, and nothing has gone.
    """
    conn.execute(
        "UPDATE delivery SET state = 'held', reason = ?1, reason_code = 'mismatch', not_before = NULL"
        " WHERE instance_id = ?2 AND state IN ('pending', 'deferred') AND destination <> '' AND (?3 OR NOT EXISTS"
        " (SELECT 1 FROM delivery AS urgent WHERE urgent.instance_id = ?2 AND urgent.priority = 0))",
        (reason, instance, stat),
    )
    left = "SELECT 1 FROM delivery WHERE instance_id = ? AND (state <> 'held' OR reason_code <> 'mismatch')"
    return conn.execute(left, (instance,)).fetchone() is None


def note_destination(
    conn: Connection,
    name: str,
    state: str,
    since: float,
    retry_at: float | None,
    last_success: float | None,
    last_error: str | None,
) -> None:
    """What is known of a destination's health, for those who ask while the daemon is down."""
    conn.execute(
        "INSERT INTO destination (name, state, since, retry_at, last_success, last_error) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, since = excluded.since,"
        " retry_at = excluded.retry_at, last_success = excluded.last_success, last_error = excluded.last_error",
        (name, state, since, retry_at, last_success, last_error),
    )


def known_destination(conn: Connection, name: str) -> tuple[str, float, float | None, float | None, str | None] | None:
    """What was noted: (state, since, retry_at, last_success, last_error)."""
    row = conn.execute(
        "SELECT state, since, retry_at, last_success, last_error FROM destination WHERE name = ?", (name,)
    ).fetchone()
    return tuple(row) if row else None


def expire_all_leases(conn: Connection) -> int:
    """At start: what a former run had leased waits again. Returns how many."""
    return conn.execute(_UNTRIED + " WHERE state = 'active'").rowcount
