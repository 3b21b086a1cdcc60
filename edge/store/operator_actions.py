"""A person's decisions about deliveries (retry, hold, release, cancel, set priority, reassign) and instances (discard).

Functions of a connection, as in edge.store.deliveries; each decision is in the ledger with who made it and why. An
instance is released by edge.storage.release, which asks the routes.

What waits for a decision (edge.model.NEEDS_DECISION) is moved only by one that names it: each function says which.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edge.model import NEEDS_DECISION, DeliveryState, InstanceState, Priority, Reason, ReasonCode
from edge.store import ledger, rejection_notes
from edge.store.database import Transaction
from edge.store.deliveries import record_by_study
from edge.store.ledger_text import reason_payload
from edge.store.transitions import reason_values, update_statement

_PENDING, _ACTIVE, _DEFERRED, _HELD = "pending", "active", "deferred", "held"
_WAITING = (_PENDING, _DEFERRED, _HELD)


@dataclass(frozen=True, slots=True)
class Moved:
    """How many deliveries a decision has moved; those that it must not, by why they wait."""

    count: int = 0
    left: Mapping[ReasonCode, int] = field(default_factory=dict)

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.count + other.count, Counter(self.left) + Counter(other.left))


def retry(conn: Transaction, deliveries: Sequence[int], now: float, who: str, why: str = "") -> Moved:
    """Held or deferred work is pending now; never what waits for a decision, however it was chosen."""
    allowed = frozenset(ReasonCode) - NEEDS_DECISION
    return _requeue(conn, deliveries, now, who, why, ledger.RETRIED, allowed)


def release(conn: Transaction, deliveries: Sequence[int], now: float, who: str, why: str, *, named: bool) -> Moved:
    """Held work is pending now; a conflict and a mismatch only where they are `named`, one by one."""
    by_number = frozenset() if named else {ReasonCode.CONFLICT, ReasonCode.MISMATCH}
    allowed = frozenset(ReasonCode) - {ReasonCode.UNROUTABLE} - by_number
    moved = _requeue(conn, deliveries, now, who, why, ledger.RELEASED, allowed)
    for delivery in deliveries if named else ():
        if (row := _row(conn, delivery)) is not None:
            close_conflict(conn, row["instance_id"])
    return moved


def retry_deferred(conn: Transaction, destination: str, now: float, who: str, why: str) -> int:
    """Deferred work for one destination is pending now. Returns how many rows moved."""
    rows = conn.execute(
        "SELECT id FROM delivery WHERE state = 'deferred' AND destination = ? AND breaks = 0 LIMIT 5000", (destination,)
    )
    return retry(conn, [row[0] for row in rows.fetchall()], now, who, why).count


_HOLD = (
    update_statement("hold", DeliveryState.HELD, where="id = :id AND destination <> ''")
    + " RETURNING instance_id, destination"
)


def hold(conn: Transaction, deliveries: Sequence[int], now: float, who: str, why: str) -> int:
    """Waiting work waits for a person from now on. Returns how many rows moved."""
    reason = Reason(ReasonCode.PERSON, {"who": who, "why": why})
    count = 0
    for delivery in deliveries:
        row = conn.execute(_HOLD, {"id": delivery, **reason_values(reason)}).fetchone()
        if row is not None:
            count += 1
            _record(conn, now, ledger.HELD, who, row[0], row[1], reason_payload(reason))
    return count


def cancel(conn: Transaction, deliveries: Sequence[int], now: float, who: str, why: str) -> Moved:
    """Work that waits is not sent. What is being sent cannot be called back, and stays; what has no route is decided
    by its instance (edge.storage.release)."""
    count = 0
    left: Counter[ReasonCode] = Counter()
    for delivery in deliveries:
        row = _row(conn, delivery)
        if row is None or row["state"] not in (_PENDING, _DEFERRED, _HELD):
            continue
        if not row["destination"]:
            left[ReasonCode.UNROUTABLE] += 1
            continue
        set_cancelled(conn, delivery, now, _cancellation_reason(who, why))
        count += 1
        _record(conn, now, ledger.CANCELLED, who, row["instance_id"], row["destination"], {"reason": why})
        close_conflict(conn, row["instance_id"])
    return Moved(count, left)


def set_priority(
    conn: Transaction, deliveries: Sequence[int], priority: Priority, now: float, who: str, why: str
) -> int:
    """Work that waits gets another priority. Returns how many rows changed."""
    changed = 0
    for delivery in deliveries:
        row = conn.execute(
            "UPDATE delivery SET priority = :priority WHERE id = :id AND priority <> :priority"
            " AND state IN ('pending', 'deferred', 'held') RETURNING instance_id, destination",
            {"priority": int(priority), "id": delivery},
        ).fetchone()
        if row is not None:
            changed += 1
            payload = {"action": ledger.SET_PRIORITY, "priority": priority.name.lower(), "reason": why}
            _record(conn, now, ledger.OVERRIDDEN, who, row[0], row[1], payload)
    return changed


def reassign(
    conn: Transaction,
    deliveries: Sequence[int],
    destination: str,
    now: float,
    who: str,
    why: str,
    *,
    named: bool = True,
) -> int:
    """Work that waits goes to another destination instead; where that gets it anyway, it is cancelled here.

    Returns how many moved or were cancelled.
    A conflict and a mismatch wait there as they did before: where is decided, but not whether. So does a person's hold
    that is not `named`.
    """
    moved = 0
    for delivery in deliveries:
        row = _row(conn, delivery)
        if row is None:
            continue
        statement = _at_another(row, named)
        values = {"id": delivery, "destination": destination, **reason_values(Reason(ReasonCode.CONFLICT))}
        done = conn.execute(statement, values).rowcount
        if done:
            moved += 1
            payload = {"action": ledger.REDIRECT, "instead_of": row["destination"], "reason": why}
            _record(conn, now, ledger.OVERRIDDEN, who, row["instance_id"], destination, payload)
        elif statement is _REASSIGN and row["destination"] != destination and row["state"] in _WAITING:
            instead = Reason(ReasonCode.CANCELLED, {"instead": destination})
            set_cancelled(conn, delivery, now, instead)
            moved += 1
            payload = {"instead": destination, "reason": why}
            _record(conn, now, ledger.CANCELLED, who, row["instance_id"], row["destination"], payload)
        close_conflict(conn, row["instance_id"])
    return moved


_MOVED = "destination = :destination, status = NULL, attempts = 0, denials = 0, transaction_id = NULL"
_HAS_NONE_THERE = (
    "id = :id AND NOT EXISTS (SELECT 1 FROM delivery AS other"
    " WHERE other.destination = :destination AND other.instance_id = delivery.instance_id)"
)
_REASSIGN = update_statement("reassign", DeliveryState.PENDING, _MOVED, _HAS_NONE_THERE)
_REASSIGN_HELD = update_statement("reassign", DeliveryState.HELD, _MOVED, _HAS_NONE_THERE)
_REASSIGN_CONFLICT = update_statement("reassign conflict", DeliveryState.HELD, _MOVED, _HAS_NONE_THERE)


def _at_another(row: sqlite3.Row, named: bool) -> str:
    """The statement that gives a delivery to another destination: is it pending there, or undecided as before?"""
    code = ReasonCode(row["reason_code"])
    waits_on = {ReasonCode.CONFLICT, ReasonCode.MISMATCH} | ({ReasonCode.PERSON} if not named else set())
    if row["state"] == _HELD and code in waits_on:
        return _REASSIGN_HELD
    if code is ReasonCode.UNROUTABLE and row["kept"] == InstanceState.CONFLICT:
        return _REASSIGN_CONFLICT
    return _REASSIGN


_CANCEL = update_statement("cancel", DeliveryState.CANCELLED, "cancelled_at = :now")


def set_cancelled(conn: Transaction, delivery: int, now: float, reason: Reason) -> None:
    """Cancel one delivery."""
    conn.execute(_CANCEL, {"id": delivery, "now": now, **reason_values(reason)})


def _cancellation_reason(who: str, why: str) -> Reason:
    return Reason(ReasonCode.CANCELLED, {"who": who, "why": why})


def close_conflict(conn: Transaction, instance: int) -> None:
    """Close a conflict about which all is decided: an instance like any other, without alert, and in time evicted."""
    if not undecided_deliveries(conn, instance):
        sql = "UPDATE instance SET state = 'stored', reason = '' WHERE id = ? AND state = 'conflict'"
        conn.execute(sql, (instance,))


def undecided_deliveries(conn: Transaction, instance: int) -> list[int]:
    """List the deliveries of an instance that wait for a decision."""
    rows = conn.execute("SELECT id, reason_code FROM delivery WHERE instance_id = ? AND state = 'held'", (instance,))
    return [row["id"] for row in rows.fetchall() if ReasonCode(row["reason_code"]) in NEEDS_DECISION]


# -- instances --------------------------------------------------------------------------------------------------------


def discard_instance(conn: Transaction, instance: int, now: float, who: str, why: str) -> str:
    """Discard an instance that waits for a decision: it goes nowhere; its file is kept for `[quarantine] keep`.

    What is not yet sent of it is cancelled; the ledger keeps the digest. Returns why nothing was done, or nothing.
    """
    row = conn.execute("SELECT state, study_id, sha256 FROM instance WHERE id = ?", (instance,)).fetchone()
    rows = conn.execute("SELECT id, destination, state FROM delivery WHERE instance_id = ?", (instance,)).fetchall()
    if reason := _why_not_discard(conn, instance, row, rows):
        return reason
    for each in rows:
        if each["state"] in (_PENDING, _DEFERRED, _HELD):
            set_cancelled(conn, each["id"], now, _cancellation_reason(who, why))
    conn.execute("UPDATE instance SET state = 'discarded', discarded_at = ? WHERE id = ?", (now, instance))
    payload = {"reason": why, "sha256": row["sha256"].hex()}
    ledger.append(conn, now, ledger.DISCARDED, who, [instance], study_id=row["study_id"], payload=payload)
    return ""


def _why_not_discard(
    conn: Transaction, instance: int, row: sqlite3.Row | None, deliveries: Sequence[sqlite3.Row]
) -> str:
    if row is None:
        return "there is no such instance"
    state = InstanceState(row["state"])
    if state is InstanceState.DISCARDED:
        return "it is discarded already"
    if state is InstanceState.QUARANTINED:
        return ""
    if state is not InstanceState.CONFLICT and not undecided_deliveries(conn, instance):
        return "nothing about it waits for a decision"
    for each in deliveries:
        if each["state"] == _ACTIVE:
            return f"it is being sent to {each['destination']} at this moment"
        if each["state"] == DeliveryState.SENT:
            return f"{each['destination']} has taken it and not yet proved it: wait for the proof"
    return ""


@dataclass(frozen=True, slots=True)
class Discarded:
    """An instance whose file may go."""

    instance_id: int
    study_id: int | None
    path: str
    sha256: bytes


def discarded_before(conn: Transaction, moment: float, limit: int) -> list[Discarded]:
    """List what was discarded before a moment and is still on the disk, the oldest first."""
    rows = conn.execute(
        "SELECT id, study_id, path, sha256 FROM instance WHERE state = 'discarded' AND deleted_at IS NULL"
        " AND substr(hold, 1, 6) <> 'legal:' AND discarded_at <= ? ORDER BY discarded_at LIMIT ?",
        (moment, limit),
    )
    return [Discarded(*row) for row in rows]


def note_deleted(conn: Transaction, found: Sequence[Discarded], now: float) -> list[Discarded]:
    """Record that discarded instances are deleted; what they were stays provable by their digests.

    Returns those whose files are to be removed now: none that has been released, held or received again since.
    """
    gone = []
    for each in found:
        sql = (
            "UPDATE instance SET deleted_at = ?, size = 0 WHERE path = ? AND state = 'discarded' AND deleted_at IS NULL"
            " AND substr(hold, 1, 6) <> 'legal:'"
        )
        if conn.execute(sql, (now, each.path)).rowcount:
            payload, ids = {"sha256": each.sha256.hex()}, [each.instance_id]
            ledger.append(conn, now, ledger.DELETED, ledger.EDGE, ids, study_id=each.study_id, payload=payload)
            gone.append(each)
    return gone


def note_released(conn: Transaction, instance: int, target: int, now: float) -> None:
    """An instance left quarantine: it is another one now, whose UIDs are those of its data set."""
    conn.execute(
        "UPDATE instance SET state = 'discarded', released_as = :target, discarded_at = :now, deleted_at = :now,"
        " size = 0, reason = :reason WHERE id = :id AND state IN ('quarantined', 'discarded')",
        {"target": target, "now": now, "reason": f"released from quarantine as instance {target}", "id": instance},
    )


def note_exported(conn: Transaction, instance: int, now: float, who: str, where: str) -> None:
    """A person takes a copy of an instance's file."""
    row = conn.execute("SELECT study_id, sha256 FROM instance WHERE id = ?", (instance,)).fetchone()
    payload = {"path": where, "sha256": row["sha256"].hex()}
    ledger.append(conn, now, ledger.EXPORTED, who, [instance], study_id=row["study_id"], payload=payload)


# -- rows -------------------------------------------------------------------------------------------------------------


_REQUEUE = {
    ledger.RETRIED: ((_HELD, _DEFERRED), update_statement("retry", DeliveryState.PENDING)),
    ledger.RELEASED: ((_HELD,), update_statement("release", DeliveryState.PENDING)),
}


def _requeue(
    conn: Transaction,
    deliveries: Sequence[int],
    now: float,
    who: str,
    why: str,
    event: str,
    allowed: Collection[ReasonCode],
) -> Moved:
    sources, statement = _REQUEUE[event]
    count = 0
    left: Counter[ReasonCode] = Counter()
    for delivery in deliveries:
        row = _row(conn, delivery)
        if row is None or row["state"] not in sources:
            continue
        code = ReasonCode(row["reason_code"])
        if not row["destination"]:
            code = ReasonCode.UNROUTABLE  # perhaps it still waits for its study's images
        if code not in allowed:
            left[code] += 1
            continue
        conn.execute(statement, {"id": delivery})
        count += 1
        _record(conn, now, event, who, row["instance_id"], row["destination"], {"reason": why})
        if code is ReasonCode.NOTE_NOT_ALLOWED:
            rejection_notes.allow_note(conn, row["instance_id"], who, now)
    return Moved(count, left)


def _row(conn: Transaction, delivery: int) -> sqlite3.Row | None:
    found: sqlite3.Row | None = conn.execute(
        "SELECT d.instance_id, d.destination, d.state, d.reason_code, i.state AS kept FROM delivery d"
        " JOIN instance i ON i.id = d.instance_id WHERE d.id = ?",
        (delivery,),
    ).fetchone()
    return found


def _record(
    conn: Transaction, now: float, event: str, who: str, instance: int, destination: str, payload: ledger.Payload
) -> None:
    study = conn.execute("SELECT study_id FROM instance WHERE id = ?", (instance,)).fetchone()[0]
    record_by_study(conn, now, event, who, [(study, instance)], destination, payload)
