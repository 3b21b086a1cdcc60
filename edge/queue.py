"""One row for each (instance, destination), and what changes its state; a person does by edge.decisions.

docs/design.md has the picture.

Work is leased, never popped: a lease that lapses, or that a killed daemon left, is pending again. Functions of a
connection; the caller owns the transaction, so that a state and what caused it are committed together.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge import ledger
from edge.db import Connection
from edge.model import Assignment, DeliveryState, Kind, Outcome, Priority, Settlement, Work

#: `destination` of the row that holds what no route matched.
UNROUTABLE = ""
#: How an instance was proved by a query: the ledger's words, by which the audit trail knows it.
BY_QUERY = "by C-FIND"
LEASE_SECONDS = 600.0
#: After so many attempts a row that is deferred without a status may be the cause of the broken associations.
SUSPECT_ATTEMPTS = 5

_WORK = """
SELECT d.id, d.instance_id, d.destination, d.priority, d.attempts, k.sop_class_uid, k.transfer_syntax_uid,
       i.sop_instance_uid, coalesce(s.study_uid, '') AS study_uid, i.path, i.size, i.dataset_offset, i.sha256,
       i.received_at, i.calling_ae
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


def _work(r: sqlite3.Row) -> Work:
    return Work(
        delivery_id=r["id"],
        instance_id=r["instance_id"],
        destination=r["destination"],
        priority=Priority(r["priority"]),
        attempts=r["attempts"],
        kind=Kind(r["sop_class_uid"], r["transfer_syntax_uid"]),
        sop_instance_uid=r["sop_instance_uid"],
        study_uid=r["study_uid"],
        path=r["path"],
        size=r["size"],
        dataset_offset=r["dataset_offset"],
        sha256=r["sha256"],
        received_at=r["received_at"],
        calling_ae=r["calling_ae"],
    )


# -- intake -----------------------------------------------------------------------------------------------------------


def enqueue(
    conn: Connection, instance: int, kind_id: int, size: int, assignments: Sequence[Assignment], now: float, held: str
) -> None:
    """One row for each destination; with `held` not empty, each waits for a person for that reason.

    A returned instance's old rows begin anew.
    """
    state = DeliveryState.HELD if held else DeliveryState.PENDING
    for each in assignments:
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, route, reason, queued_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (instance_id, destination) DO UPDATE SET state = excluded.state,"
            " priority = excluded.priority, reason = excluded.reason, queued_at = excluded.queued_at,"
            " attempts = 0, denials = 0, transaction_id = NULL",
            (instance, each.destination, kind_id, size, int(each.priority), state.value, each.route, held, now),
        )


def remove_unroutable(conn: Connection, instance: int) -> None:
    """A route has been found for what none matched before."""
    conn.execute("DELETE FROM delivery WHERE instance_id = ? AND destination = ''", (instance,))


# -- forward ----------------------------------------------------------------------------------------------------------


def lease(conn: Connection, destination: str, now: float, limit: int, max_bytes: int) -> list[Work]:
    """Take the most urgent work, the oldest first, at most `limit` instances and about `max_bytes` (at least one)."""
    rows = conn.execute(_MOST_URGENT, (destination, limit)).fetchall()
    if len(rows) == limit and limit > 1:
        starved = conn.execute(_LEAST_URGENT, (destination,)).fetchone()
        if starved["priority"] > rows[-1]["priority"]:
            rows[-1] = starved
    taken: list[Work] = []
    size = 0
    for row in rows:
        if taken and size + row["size"] > max_bytes:
            break
        taken.append(_work(row))
        size += row["size"]
    conn.executemany(
        "UPDATE delivery SET state = 'active', lease_until = ? WHERE id = ?",
        [(now + LEASE_SECONDS, work.delivery_id) for work in taken],
    )
    return taken


def renew(conn: Connection, works: Iterable[Work], now: float) -> None:
    """Work that is still being sent keeps its lease."""
    conn.executemany(
        "UPDATE delivery SET lease_until = ? WHERE id = ? AND state = 'active'",
        [(now + LEASE_SECONDS, work.delivery_id) for work in works],
    )


def give_back(conn: Connection, works: Iterable[Work]) -> None:
    """Leased work that was not tried is pending again."""
    conn.executemany(
        "UPDATE delivery SET state = 'pending', lease_until = NULL WHERE id = ? AND state = 'active'",
        [(work.delivery_id,) for work in works],
    )


def kinds(conn: Connection, destination: str) -> list[Kind]:
    """The kinds that are queued for a destination, the most urgent first."""
    rows = conn.execute(
        "SELECT k.sop_class_uid, k.transfer_syntax_uid FROM tally t JOIN kind k ON k.id = t.kind_id"
        " WHERE t.destination = ? AND t.state IN ('pending', 'active', 'deferred') AND t.n > 0"
        " GROUP BY t.kind_id ORDER BY min(t.priority), sum(t.n) DESC",
        (destination,),
    )
    return [Kind(row[0], row[1]) for row in rows]


def settle(conn: Connection, settlements: Sequence[Settlement], now: float, *, proved_by_status: bool) -> None:
    """End attempts. A success counts whatever happened to the row meanwhile; a failure only while it is still ours."""
    for each in settlements:
        work, reason = each.work, each.reason
        if each.outcome is Outcome.SENT:
            state = DeliveryState.CONFIRMED if proved_by_status else DeliveryState.SENT
            conn.execute(
                "UPDATE delivery SET state = ?, reason = ?, status = ?, attempts = attempts + 1, sent_at = ?,"
                " confirmed_at = ?, lease_until = NULL, not_before = NULL, transaction_id = NULL"
                " WHERE id = ? AND state <> 'confirmed'",
                (state.value, reason, each.status, now, now if proved_by_status else None, work.delivery_id),
            )
        else:
            state = DeliveryState.DEFERRED if each.outcome is Outcome.DEFER else DeliveryState.HELD
            conn.execute(
                "UPDATE delivery SET state = ?, reason = ?, status = ?, attempts = attempts + 1, lease_until = NULL,"
                " not_before = ? WHERE id = ? AND state = 'active'",
                (
                    state.value,
                    reason,
                    each.status,
                    each.retry_at if each.outcome is Outcome.DEFER else None,
                    work.delivery_id,
                ),
            )
    _record(conn, settlements, now, proved_by_status)


def _record(conn: Connection, settlements: Sequence[Settlement], now: float, proved_by_status: bool) -> None:
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
        "SELECT EXISTS (SELECT 1 FROM delivery WHERE state = 'deferred' AND not_before <= ?1)"
        " OR EXISTS (SELECT 1 FROM delivery WHERE state = 'active' AND lease_until <= ?1)",
        (now,),
    ).fetchone()
    return bool(row[0])


def promote(conn: Connection, now: float) -> list[str]:
    """Deferred work that is due, and work whose lease lapsed, is pending again. Returns the destinations concerned."""
    due = conn.execute(
        "UPDATE delivery SET state = 'pending', not_before = NULL WHERE state = 'deferred' AND not_before <= ?"
        " RETURNING destination",
        (now,),
    ).fetchall()
    lapsed = conn.execute(
        "UPDATE delivery SET state = 'pending', lease_until = NULL, reason = 'the lease lapsed'"
        " WHERE state = 'active' AND lease_until <= ? RETURNING destination",
        (now,),
    ).fetchall()
    return sorted({row[0] for row in due + lapsed})


def back_again(conn: Connection, destination: str) -> None:
    """A destination answers again after an outage: what was deferred for its absence need not wait any longer.

    But what has broken several associations may be the cause: it waits on its own.
    """
    conn.execute(
        "UPDATE delivery SET state = 'pending', not_before = NULL"
        " WHERE state = 'deferred' AND destination = ? AND status IS NULL AND attempts < ?",
        (destination, SUSPECT_ATTEMPTS),
    )


def record_changed(conn: Connection, changes: Iterable[tuple[Work, str]], now: float) -> None:
    """The ledger's rows for copies that were sent in another transfer syntax than the object was received in."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for work, how in changes:
        groups[work.study_uid, work.destination, how].append(work.instance_id)
    for (study_uid, destination, how), instances in groups.items():
        study = _study_id(conn, study_uid)
        ledger.append(
            conn, now, ledger.CHANGED, ledger.EDGE, instances, study_id=study, destination=destination, detail=how
        )


def record_lost(conn: Connection, work: Work, now: float, reason: str) -> None:
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


def resume(conn: Connection, instance: int) -> list[str]:
    """What a sender held because an instance's file was damaged is pending again. Returns the destinations."""
    rows = conn.execute(
        "UPDATE delivery SET state = 'pending', reason = '' WHERE instance_id = ? AND state = 'held'"
        " AND destination <> '' AND reason LIKE 'the spooled file%' RETURNING destination",
        (instance,),
    )
    return [row[0] for row in rows]


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


def recover(conn: Connection) -> int:
    """At start: what a former run had leased is pending again. Returns how many."""
    return conn.execute("UPDATE delivery SET state = 'pending', lease_until = NULL WHERE state = 'active'").rowcount


# -- confirm ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unproved:
    """One sent instance whose proof is awaited."""

    delivery_id: int
    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    denials: int  # before this one
    sent_at: float


_UNPROVED = """
SELECT d.id, d.instance_id, k.sop_class_uid, i.sop_instance_uid, coalesce(s.study_uid, ''), i.series_uid, d.denials,
       d.sent_at
FROM delivery d
JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = d.kind_id
LEFT JOIN study s ON s.id = i.study_id
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much of a destination's work awaits proof and stands in no open request; times are those of sending."""

    count: int  # up to the limit that was asked for
    oldest: float
    newest: float
    busy: bool  # more is being sent


def waiting(conn: Connection, destination: str, limit: int) -> Waiting:
    """What the next request for proof would be about; counts no further than `limit`."""
    count, oldest, newest = conn.execute(
        "SELECT count(*), coalesce(min(sent_at), 0), coalesce(max(sent_at), 0) FROM (SELECT sent_at FROM delivery"
        " WHERE destination = ? AND state = 'sent' AND transaction_id IS NULL ORDER BY sent_at LIMIT ?)",
        (destination, limit),
    ).fetchone()
    busy = conn.execute(
        "SELECT 1 FROM tally WHERE destination = ? AND state IN ('pending', 'active') AND n > 0", (destination,)
    ).fetchone()
    return Waiting(count, oldest, newest, busy is not None)


def unproved(conn: Connection, destination: str, limit: int) -> list[Unproved]:
    """Sent instances that no open request names, the oldest first."""
    rows = conn.execute(
        _UNPROVED
        + "WHERE d.destination = ? AND d.state = 'sent' AND d.transaction_id IS NULL ORDER BY d.sent_at LIMIT ?",
        (destination, limit),
    )
    return [Unproved(*row) for row in rows]


def ask(
    conn: Connection, destination: str, transaction_uid: str, asked: Iterable[Unproved], now: float, deadline: float
) -> None:
    """Note a storage commitment request before it is sent, so that an answer always finds it."""
    row = conn.execute(
        "INSERT INTO commitment (transaction_uid, destination, asked_at, deadline) VALUES (?, ?, ?, ?) RETURNING id",
        (transaction_uid, destination, now, deadline),
    ).fetchone()
    conn.executemany(
        "UPDATE delivery SET transaction_id = ? WHERE id = ? AND state = 'sent'",
        [(row[0], each.delivery_id) for each in asked],
    )


def asked_for(conn: Connection, transaction_uid: str) -> tuple[str, float] | None:
    """Destination and time of a request that we made, or None."""
    row = conn.execute(
        "SELECT destination, asked_at FROM commitment WHERE transaction_uid = ?", (transaction_uid,)
    ).fetchone()
    return (row[0], row[1]) if row else None


def find_unproved(conn: Connection, destination: str, sop_instance_uid: str, sent_before: float) -> list[Unproved]:
    """The sent deliveries that an answer about one SOP Instance UID speaks of."""
    rows = conn.execute(
        _UNPROVED + "WHERE i.sop_instance_uid = ? AND d.destination = ? AND d.state = 'sent' AND d.sent_at <= ?",
        (sop_instance_uid, destination, sent_before),
    )
    return [Unproved(*row) for row in rows]


def end_request(conn: Connection, transaction_uid: str, now: float) -> None:
    """A request is answered or overdue: what it named and still lacks proof may be asked about again."""
    conn.execute(
        "UPDATE delivery SET transaction_id = NULL WHERE state = 'sent' AND transaction_id ="
        " (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    )
    conn.execute(
        "UPDATE commitment SET ended_at = ? WHERE transaction_uid = ? AND ended_at IS NULL", (now, transaction_uid)
    )


def still_asked(conn: Connection, transaction_uid: str) -> int:
    """How many instances of a request still await proof."""
    row = conn.execute(
        "SELECT count(*) FROM delivery WHERE state = 'sent' AND transaction_id ="
        " (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    ).fetchone()
    return int(row[0])


def explain_unproved(conn: Connection, destination: str, reason: str, limit: int) -> None:
    """Say on the instances that wait longest why they cannot be proved; they stay sent."""
    conn.execute(
        "UPDATE delivery SET reason = ? WHERE id IN (SELECT id FROM delivery WHERE destination = ? AND state = 'sent'"
        " AND transaction_id IS NULL ORDER BY sent_at LIMIT ?) AND reason <> ?",
        (reason, destination, limit, reason),
    )


def overdue(conn: Connection, destination: str, now: float) -> list[str]:
    """Transaction UIDs of the requests whose deadline has passed."""
    rows = conn.execute(
        "SELECT transaction_uid FROM commitment WHERE destination = ? AND ended_at IS NULL AND deadline <= ?",
        (destination, now),
    )
    return [row[0] for row in rows]


def forget_requests(conn: Connection, ended_before: float, limit: int = 100) -> int:
    """Let go of requests that ended long ago; the ledger keeps their Transaction UIDs. Returns how many."""
    old = conn.execute(
        "SELECT id FROM commitment WHERE ended_at < ? ORDER BY ended_at LIMIT ?", (ended_before, limit)
    ).fetchall()
    conn.executemany("UPDATE delivery SET transaction_id = NULL WHERE transaction_id = ?", old)
    conn.executemany("DELETE FROM commitment WHERE id = ?", old)
    return len(old)


def confirm(conn: Connection, destination: str, proved: Sequence[Unproved], now: float, how: str) -> None:
    """The destination has proved that it has these instances."""
    conn.executemany(
        "UPDATE delivery SET state = 'confirmed', confirmed_at = ?, reason = '' WHERE id = ? AND state = 'sent'",
        [(now, each.delivery_id) for each in proved],
    )
    _record_proof(conn, ledger.CONFIRMED, destination, proved, now, how)


def deny(
    conn: Connection, destination: str, denied: Sequence[Unproved], now: float, reason: str, retry_at: float
) -> None:
    """The destination says that it lacks these: exactly they are sent again, at once or at `retry_at`."""
    state = DeliveryState.PENDING if retry_at <= now else DeliveryState.DEFERRED
    conn.executemany(
        "UPDATE delivery SET state = ?, reason = ?, not_before = ?, transaction_id = NULL, sent_at = NULL,"
        " denials = denials + 1"
        " WHERE id = ? AND state = 'sent'",
        [
            (state.value, reason, None if state is DeliveryState.PENDING else retry_at, each.delivery_id)
            for each in denied
        ],
    )
    _record_proof(conn, ledger.DENIED, destination, denied, now, reason)


def dispute(conn: Connection, destination: str, disputed: Sequence[Unproved], now: float, reason: str) -> None:
    """The destination will not prove these however often they are sent: a person must decide."""
    conn.executemany(
        "UPDATE delivery SET state = 'held', reason = ?, transaction_id = NULL WHERE id = ? AND state = 'sent'",
        [(reason, each.delivery_id) for each in disputed],
    )
    _record_proof(conn, ledger.HELD, destination, disputed, now, reason)


def _record_proof(
    conn: Connection, event: str, destination: str, proofs: Sequence[Unproved], now: float, detail: str
) -> None:
    studies: dict[str, list[int]] = defaultdict(list)
    for each in proofs:
        studies[each.study_uid].append(each.instance_id)
    for study_uid, instances in studies.items():
        study = _study_id(conn, study_uid)
        ledger.append(conn, now, event, destination, instances, study_id=study, destination=destination, detail=detail)
