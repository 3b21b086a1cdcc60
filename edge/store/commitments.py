"""Deliveries that were sent and await proof: which there are, what was asked about them, and how each ends.

A request for proof is noted before it is sent, so that an answer always finds it, even after a restart. Functions of a
connection, as those of edge.store.deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.model import DeliveryState, Reason
from edge.store import ledger
from edge.store.database import Transaction
from edge.store.deliveries import record_by_study
from edge.store.ledger_text import reason_payload
from edge.store.transitions import reason_values, update_statement


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """One sent instance whose proof is awaited; its UIDs are those under which it was sent."""

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
SELECT d.id, d.instance_id, k.sop_class_uid, coalesce(nullif(c.sop_instance_uid, ''), i.sop_instance_uid),
       coalesce(nullif(c.study_uid, ''), s.study_uid, ''), coalesce(nullif(c.series_uid, ''), i.series_uid), d.denials,
       d.sent_at, i.study_id
FROM delivery d
JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = d.kind_id
LEFT JOIN study s ON s.id = i.study_id
LEFT JOIN sent_copy c ON c.delivery_id = d.id
"""


def _find(conn: Transaction, where: str, **given: object) -> list[Unconfirmed]:
    return [Unconfirmed(*row) for row in conn.execute(f"{_UNPROVED} WHERE d.state = 'sent' AND {where}", given)]


@dataclass(frozen=True, slots=True)
class UnconfirmedSummary:
    """How much of a destination's work awaits proof and stands in no open request; times are those of sending."""

    count: int  # up to the limit that was asked for
    oldest: float
    newest: float
    busy: bool  # more is being sent


def summarize_unconfirmed(conn: Transaction, destination: str, limit: int) -> UnconfirmedSummary:
    """Summarize what the next request for proof would name; counts no further than `limit`."""
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


def list_unconfirmed(
    conn: Transaction, destination: str, limit: int, *, with_suspects: bool = False
) -> list[Unconfirmed]:
    """List sent instances that no open request names, the oldest first; without those that are asked about alone."""
    where = (
        "d.destination = :destination AND d.transaction_id IS NULL"
        " AND (:with_suspects OR d.reason_code <> 'breaks-proof') ORDER BY d.sent_at LIMIT :limit"
    )
    return _find(conn, where, destination=destination, with_suspects=with_suspects, limit=limit)


def suspect(conn: Transaction, delivery: int) -> list[Unconfirmed]:
    """One instance that is asked about alone, as a batch; empty where it is so no longer, or is in an open request."""
    return _find(conn, "d.id = :id AND d.reason_code = 'breaks-proof' AND d.transaction_id IS NULL", id=delivery)


def suspects(conn: Transaction, destination: str) -> list[int]:
    """The deliveries that are asked about alone, the oldest first."""
    rows = conn.execute(
        "SELECT id FROM delivery WHERE destination = ? AND state = 'sent' AND reason_code = 'breaks-proof'"
        " ORDER BY sent_at",
        (destination,),
    )
    return [row[0] for row in rows]


_SUSPECT = update_statement("suspect proof", DeliveryState.SENT)
_CLEAR_SUSPECT = update_statement(
    "clear suspect", DeliveryState.SENT, where="id = :id AND reason_code = 'breaks-proof'"
)


def note_suspect(conn: Transaction, delivery: int, reason: Reason) -> None:
    """Note an instance with which an exchange has ended: it is asked about alone from now on, or not at all."""
    conn.execute(_SUSPECT, {"id": delivery, **reason_values(reason)})


def clear_suspect(conn: Transaction, delivery: int) -> None:
    """Ask about an instance with the others again: the destination answers for it."""
    conn.execute(_CLEAR_SUSPECT, {"id": delivery})


def open_request(
    conn: Transaction, destination: str, transaction_uid: str, asked: Iterable[Unconfirmed], now: float, deadline: float
) -> None:
    """Note a storage commitment request before it is sent, so that an answer always finds it."""
    row = conn.execute(
        "INSERT INTO commitment (transaction_uid, destination, asked_at, deadline)"
        " VALUES (:transaction_uid, :destination, :now, :deadline) RETURNING id",
        {"transaction_uid": transaction_uid, "destination": destination, "now": now, "deadline": deadline},
    ).fetchone()
    conn.executemany(
        "UPDATE delivery SET transaction_id = ? WHERE id = ? AND state = 'sent'",
        [(row[0], each.delivery_id) for each in asked],
    )


def find_request(conn: Transaction, transaction_uid: str) -> tuple[str, float] | None:
    """Find destination and time of a request that we made, or None."""
    row = conn.execute(
        "SELECT destination, asked_at FROM commitment WHERE transaction_uid = ?", (transaction_uid,)
    ).fetchone()
    return (row[0], row[1]) if row else None


def find_unconfirmed(
    conn: Transaction, destination: str, sop_instance_uid: str, sent_before: float
) -> list[Unconfirmed]:
    """The sent deliveries that an answer about one SOP Instance UID concerns."""
    of_uid = (
        "(i.sop_instance_uid = :uid AND coalesce(c.sop_instance_uid, '') = '')",
        "d.id IN (SELECT delivery_id FROM sent_copy WHERE sop_instance_uid = :uid AND sop_instance_uid <> '')",
    )
    meant = "d.destination = :destination AND d.sent_at <= :sent_before"
    given = {"uid": sop_instance_uid, "destination": destination, "sent_before": sent_before}
    return [each for which in of_uid for each in _find(conn, f"{which} AND {meant}", **given)]


def end_request(conn: Transaction, transaction_uid: str, now: float) -> None:
    """End a request that is answered or overdue: what it named and still lacks proof may be asked about again."""
    conn.execute(
        "UPDATE delivery SET transaction_id = NULL WHERE state = 'sent' AND transaction_id ="
        " (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    )
    conn.execute(
        "UPDATE commitment SET ended_at = ? WHERE transaction_uid = ? AND ended_at IS NULL", (now, transaction_uid)
    )


def find_named(conn: Transaction, transaction_uid: str) -> list[Unconfirmed]:
    """The instances of a request that still await proof."""
    where = "d.transaction_id = (SELECT id FROM commitment WHERE transaction_uid = :uid)"
    return _find(conn, where, uid=transaction_uid)


def count_unconfirmed(conn: Transaction, transaction_uid: str) -> int:
    """Count the instances of a request that still await proof."""
    row = conn.execute(
        "SELECT count(*) FROM delivery WHERE state = 'sent' AND transaction_id ="
        " (SELECT id FROM commitment WHERE transaction_uid = ?)",
        (transaction_uid,),
    ).fetchone()
    return int(row[0])


_REFUSE_PROOF = update_statement(
    "refuse proof",
    DeliveryState.SENT,
    where="id IN (SELECT id FROM delivery WHERE destination = :destination AND state = 'sent'"
    " AND transaction_id IS NULL AND reason_code <> 'breaks-proof' ORDER BY sent_at LIMIT :limit)"
    " AND reason_parameters <> :reason_parameters",
)


def explain_unconfirmed(conn: Transaction, destination: str, reason: Reason, limit: int) -> None:
    """Say on the instances that wait longest why they cannot be proved; they stay sent."""
    conn.execute(_REFUSE_PROOF, {"destination": destination, "limit": limit, **reason_values(reason)})


def list_overdue_requests(conn: Transaction, destination: str, now: float) -> list[str]:
    """List the Transaction UIDs of requests whose deadline has passed."""
    rows = conn.execute(
        "SELECT transaction_uid FROM commitment WHERE destination = ? AND ended_at IS NULL AND deadline <= ?",
        (destination, now),
    )
    return [row[0] for row in rows]


def forget_requests(conn: Transaction, ended_before: float, limit: int = 100) -> int:
    """Let go of requests that ended long ago; the ledger keeps their Transaction UIDs. Returns how many."""
    old = conn.execute(
        "SELECT id FROM commitment WHERE ended_at < ? ORDER BY ended_at LIMIT ?", (ended_before, limit)
    ).fetchall()
    conn.executemany("UPDATE delivery SET transaction_id = NULL WHERE transaction_id = ?", old)
    conn.executemany("DELETE FROM commitment WHERE id = ?", old)
    return len(old)


_CONFIRM = update_statement("confirm", DeliveryState.CONFIRMED, "confirmed_at = :now")
_RESEND = "transaction_id = NULL, sent_at = NULL, denials = denials + 1"
_MARK_MISSING = {
    state: update_statement("mark missing", state, _RESEND) for state in (DeliveryState.PENDING, DeliveryState.DEFERRED)
}
_MARK_REFUSED = update_statement("mark refused", DeliveryState.HELD, "transaction_id = NULL")


def confirm(
    conn: Transaction, destination: str, proved: Sequence[Unconfirmed], now: float, proof: ledger.Payload
) -> None:
    """Confirm instances that the destination has proved to have. `proof`: by which `method`, for the ledger."""
    conn.executemany(_CONFIRM, [{"now": now, "id": each.delivery_id} for each in proved])
    _record(conn, ledger.CONFIRMED, destination, proved, now, proof)


def mark_missing(
    conn: Transaction, destination: str, missing: Sequence[Unconfirmed], now: float, reason: Reason, retry_at: float
) -> None:
    """The destination says that it lacks these: exactly they are sent again, at once or at `retry_at`."""
    state = DeliveryState.PENDING if retry_at <= now else DeliveryState.DEFERRED
    values = {"not_before": retry_at, **reason_values(reason)}
    conn.executemany(_MARK_MISSING[state], [{"id": each.delivery_id, **values} for each in missing])
    _record(conn, ledger.DENIED, destination, missing, now, reason_payload(reason))


def mark_refused(
    conn: Transaction, destination: str, refused: Sequence[Unconfirmed], now: float, reason: Reason
) -> None:
    """Hold what the destination will not prove however often it is sent: a person must decide."""
    values = reason_values(reason)
    conn.executemany(_MARK_REFUSED, [{"id": each.delivery_id, **values} for each in refused])
    _record(conn, ledger.HELD, destination, refused, now, reason_payload(reason))


def _record(
    conn: Transaction, event: str, destination: str, found: Sequence[Unconfirmed], now: float, payload: ledger.Payload
) -> None:
    pairs = [(each.study_id, each.instance_id) for each in found]
    record_by_study(conn, now, event, destination, pairs, destination, payload)
