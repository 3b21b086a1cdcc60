"""Deliveries that were sent and await proof: which there are, what was asked about them, and how each ends.

A request for proof is noted before it is sent, so that an answer always finds it, even after a restart. Functions of a
connection, as those of edge.queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.model import DeliveryState, ReasonCode
from edge.store import ledger
from edge.store.database import Connection

#: How an instance was proved by a query: the ledger's words, by which the audit trail knows it.
BY_QUERY = "by C-FIND"


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """One sent instance whose proof is awaited."""

    delivery_id: int
    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    denials: int  # before this one
    sent_at: float
    study_id: int | None


_UNPROVED = """
SELECT d.id, d.instance_id, k.sop_class_uid, i.sop_instance_uid, coalesce(s.study_uid, ''), i.series_uid, d.denials,
       d.sent_at, i.study_id
FROM delivery d
JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = d.kind_id
LEFT JOIN study s ON s.id = i.study_id
"""


@dataclass(frozen=True, slots=True)
class UnconfirmedSummary:
    """How much of a destination's work awaits proof and stands in no open request; times are those of sending."""

    count: int  # up to the limit that was asked for
    oldest: float
    newest: float
    busy: bool  # more is being sent


def waiting(conn: Connection, destination: str, limit: int) -> UnconfirmedSummary:
    """What the next request for proof would be about; counts no further than `limit`."""
    count, oldest, newest = conn.execute(
        "SELECT count(*), coalesce(min(sent_at), 0), coalesce(max(sent_at), 0) FROM (SELECT sent_at FROM delivery"
        " WHERE destination = ? AND state = 'sent' AND transaction_id IS NULL AND reason_code <> 'breaks-proof'"
        " ORDER BY sent_at LIMIT ?)",
        (destination, limit),
    ).fetchone()
    busy = conn.execute(
        "SELECT 1 FROM tally WHERE destination = ? AND state IN ('pending', 'active') AND n > 0", (destination,)
    ).fetchone()
    return UnconfirmedSummary(count, oldest, newest, busy is not None)


def unconfirmed(conn: Connection, destination: str, limit: int, *, with_suspects: bool = False) -> list[Unconfirmed]:
    """Sent instances that no open request names, the oldest first; without those that are asked about alone."""
    rows = conn.execute(
        _UNPROVED + "WHERE d.destination = ? AND d.state = 'sent' AND d.transaction_id IS NULL"
        " AND (? OR d.reason_code <> 'breaks-proof') ORDER BY d.sent_at LIMIT ?",
        (destination, with_suspects, limit),
    )
    return [Unconfirmed(*row) for row in rows]


def suspect(conn: Connection, delivery: int) -> list[Unconfirmed]:
    """One instance that is asked about alone, as a batch; empty where it is so no longer, or is in an open request."""
    rows = conn.execute(
        _UNPROVED + "WHERE d.id = ? AND d.state = 'sent' AND d.reason_code = 'breaks-proof'"
        " AND d.transaction_id IS NULL",
        (delivery,),
    )
    return [Unconfirmed(*row) for row in rows]


def suspects(conn: Connection, destination: str) -> list[int]:
    """The deliveries that are asked about alone, the oldest first."""
    rows = conn.execute(
        "SELECT id FROM delivery WHERE destination = ? AND state = 'sent' AND reason_code = 'breaks-proof'"
        " ORDER BY sent_at",
        (destination,),
    )
    return [row[0] for row in rows]


def note_suspect(conn: Connection, delivery: int, reason: str) -> None:
    """An exchange has ended with an instance: it is asked about alone from now on, or not at all."""
    conn.execute(
        "UPDATE delivery SET reason = ?, reason_code = ? WHERE id = ? AND state = 'sent'",
        (reason, ReasonCode.BREAKS_PROOF.value, delivery),
    )


def clear_suspect(conn: Connection, delivery: int) -> None:
    """The destination answers for an instance: it is asked about with the others again."""
    conn.execute(
        "UPDATE delivery SET reason = '', reason_code = '' WHERE id = ? AND state = 'sent'"
        " AND reason_code = 'breaks-proof'",
        (delivery,),
    )


def open_request(
    conn: Connection, destination: str, transaction_uid: str, asked: Iterable[Unconfirmed], now: float, deadline: float
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


def find_unconfirmed(
    conn: Connection, destination: str, sop_instance_uid: str, sent_before: float
) -> list[Unconfirmed]:
    """The sent deliveries that an answer about one SOP Instance UID speaks of."""
    rows = conn.execute(
        _UNPROVED + "WHERE i.sop_instance_uid = ? AND d.destination = ? AND d.state = 'sent' AND d.sent_at <= ?",
        (sop_instance_uid, destination, sent_before),
    )
    return [Unconfirmed(*row) for row in rows]


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


def find_named(conn: Connection, transaction_uid: str) -> list[Unconfirmed]:
    """The instances of a request that still await proof."""
    rows = conn.execute(
        _UNPROVED
        + "WHERE d.state = 'sent' AND d.transaction_id = (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    )
    return [Unconfirmed(*row) for row in rows]


def still_asked(conn: Connection, transaction_uid: str) -> int:
    """How many instances of a request still await proof."""
    row = conn.execute(
        "SELECT count(*) FROM delivery WHERE state = 'sent' AND transaction_id ="
        " (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    ).fetchone()
    return int(row[0])


def explain_unconfirmed(conn: Connection, destination: str, reason: str, limit: int) -> None:
    """Say on the instances that wait longest why they cannot be proved; they stay sent."""
    conn.execute(
        "UPDATE delivery SET reason = ? WHERE id IN (SELECT id FROM delivery WHERE destination = ? AND state = 'sent'"
        " AND transaction_id IS NULL AND reason_code <> 'breaks-proof' ORDER BY sent_at LIMIT ?) AND reason <> ?",
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


def confirm(conn: Connection, destination: str, proved: Sequence[Unconfirmed], now: float, how: str) -> None:
    """The destination has proved that it has these instances."""
    conn.executemany(
        "UPDATE delivery SET state = 'confirmed', confirmed_at = ?, reason = '', reason_code = ''"
        " WHERE id = ? AND state = 'sent'",
        [(now, each.delivery_id) for each in proved],
    )
    _record_proof(conn, ledger.CONFIRMED, destination, proved, now, how)


def mark_missing(
    conn: Connection, destination: str, denied: Sequence[Unconfirmed], now: float, reason: str, retry_at: float
) -> None:
    """The destination says that it lacks these: exactly they are sent again, at once or at `retry_at`."""
    state = DeliveryState.PENDING if retry_at <= now else DeliveryState.DEFERRED
    conn.executemany(
        "UPDATE delivery SET state = ?, reason = ?, reason_code = ?, not_before = ?, transaction_id = NULL,"
        " sent_at = NULL, denials = denials + 1 WHERE id = ? AND state = 'sent'",
        [
            (
                state.value,
                reason,
                ReasonCode.MISSING.value,
                None if state is DeliveryState.PENDING else retry_at,
                each.delivery_id,
            )
            for each in denied
        ],
    )
    _record_proof(conn, ledger.DENIED, destination, denied, now, reason)


def mark_refused(conn: Connection, destination: str, disputed: Sequence[Unconfirmed], now: float, reason: str) -> None:
    """The destination will not prove these however often they are sent: a person must decide."""
    conn.executemany(
        "UPDATE delivery SET state = 'held', reason = ?, reason_code = ?, transaction_id = NULL"
        " WHERE id = ? AND state = 'sent'",
        [(reason, ReasonCode.NOT_COMMITTED.value, each.delivery_id) for each in disputed],
    )
    _record_proof(conn, ledger.HELD, destination, disputed, now, reason)


def _record_proof(
    conn: Connection, event: str, destination: str, proofs: Sequence[Unconfirmed], now: float, detail: str
) -> None:
    studies: dict[int | None, list[int]] = defaultdict(list)
    for each in proofs:
        studies[each.study_id].append(each.instance_id)
    for study, instances in studies.items():
        ledger.append(conn, now, event, destination, instances, study_id=study, destination=destination, detail=detail)
