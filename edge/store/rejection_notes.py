"""Rejection notes: what each rejects, and what that does to deliveries. Functions of a connection.

Promise: a note is sent to a destination only when nothing that it names still waits for that destination: every lease
asks (edge.store.rejection_order). Where nothing of what it names has left for a destination, and its code forbids these
instances, they and the note are withdrawn from there. What comes again after such a note is kept, hidden, not sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edge.model import DeliveryState, Reason, ReasonCode
from edge.store import ledger
from edge.store.database import Transaction
from edge.store.deliveries import record_by_study
from edge.store.eviction import IS_ELSEWHERE, Candidate
from edge.store.rejection_order import WAITS_FOR, named_by
from edge.store.transitions import reason_values, update_statement

if TYPE_CHECKING:
    from edge.dicom.rejection import RejectionNote

#: Retention has expired (PS3.16 CID 7011): what this names may come again, and goes first.
RETENTION_EXPIRED = "113039"
#: A note that waits for its images is examined this often.
_EXAMINE_SECONDS = 10.0

_HOLD_NOTE = update_statement("hold note", DeliveryState.HELD, where="instance_id = :id")
_WITHDRAW = update_statement("withdraw", DeliveryState.CANCELLED, "cancelled_at = :now")
_AWAIT = update_statement("await images", DeliveryState.DEFERRED)


def enter_note(
    conn: Transaction,
    instance: int,
    uid: str,
    note: RejectionNote,
    calling_ae: str,
    now: float,
    *,
    is_allowed: bool,
    hides_quality: bool,
) -> None:
    """Enter a note that has arrived, with its deliveries. `is_allowed`: its sender may reject."""
    is_hidden = hides_quality or note.code.value != "113001"
    conn.execute(
        "INSERT OR IGNORE INTO rejection_note VALUES (?, ?, ?, ?, ?, ?, ?)",
        (instance, uid, note.code.value, calling_ae, int(is_allowed), now, int(is_hidden)),
    )
    conn.executemany(
        "INSERT OR IGNORE INTO rejection_reference VALUES (?, ?)", [(instance, each) for each in note.rejected]
    )
    payload = {"code": note.code.value, "count": len(note.rejected), "note_uid": uid, "allowed": is_allowed}
    ledger.append(
        conn, now, ledger.REJECTED, calling_ae, [instance], study_id=_study_of(conn, instance), payload=payload
    )
    if is_allowed:
        _apply_note(conn, instance, now)
    else:
        conn.execute(_HOLD_NOTE, {"id": instance, **reason_values(Reason(ReasonCode.NOTE_NOT_ALLOWED))})


def allow_note(conn: Transaction, instance: int, who: str, now: float) -> None:
    """Let a note take effect whose sender may not reject: here, and where it is released to."""
    row = conn.execute(
        "UPDATE rejection_note SET is_allowed = 1 WHERE instance_id = ? AND is_allowed = 0"
        " RETURNING code, sop_instance_uid",
        (instance,),
    ).fetchone()
    if row is None:
        return settle_note(conn, instance, now)  # released to another destination before
    (count,) = conn.execute("SELECT count(*) FROM rejection_reference WHERE note_id = ?", (instance,)).fetchone()
    payload = {"code": row["code"], "count": count, "note_uid": row["sop_instance_uid"], "allowed": True}
    ledger.append(conn, now, ledger.REJECTED, who, [instance], study_id=_study_of(conn, instance), payload=payload)
    _apply_note(conn, instance, now)


def _apply_note(conn: Transaction, instance: int, now: float) -> None:
    sql = "SELECT code, sop_instance_uid, hides FROM rejection_note WHERE instance_id = ?"
    code, uid, is_hidden = conn.execute(sql, (instance,)).fetchone()
    rows = conn.execute("SELECT sop_instance_uid FROM rejection_reference WHERE note_id = ?", (instance,)).fetchall()
    for (each,) in rows:
        _reject(conn, each, code, uid, now, is_hidden=bool(is_hidden))
    settle_note(conn, instance, now)


def _reject(conn: Transaction, uid: str, code: str, note_uid: str, now: float, *, is_hidden: bool) -> None:
    """Reject instances; of several notes about one the strongest counts."""
    row = conn.execute("SELECT code FROM rejected_instance WHERE sop_instance_uid = ?", (uid,)).fetchone()
    if row is None or STRENGTH.index(row[0]) <= STRENGTH.index(code):
        conn.execute(
            "INSERT OR REPLACE INTO rejected_instance VALUES (?, ?, ?, ?, ?)",
            (uid, code, note_uid, int(is_hidden), now),
        )


def settle_note(conn: Transaction, note: int, now: float) -> None:
    """Withdraw a note with all that it names, or let it wait for what it names: for each destination."""
    row = conn.execute("SELECT code, sop_instance_uid, is_allowed FROM rejection_note WHERE instance_id = ?", (note,))
    code, uid, is_allowed = row.fetchone()
    rows = conn.execute(
        "SELECT d.id, d.destination FROM delivery AS d WHERE d.instance_id = ? AND d.state IN ('pending', 'deferred')"
        f" AND {WAITS_FOR}",
        (note,),
    ).fetchall()
    for delivery, destination in rows if is_allowed else ():
        named = conn.execute(
            f"SELECT y.id, y.state, x.id {named_by(':note', ':to')}", {"to": destination, "note": note}
        ).fetchall()
        if code in FORBIDDING and all(each[1] in _WITHDRAWABLE for each in named):
            _withdraw(conn, [delivery, *(each[0] for each in named)], uid, now)
            ids = [note, *(each[2] for each in named)]
            _record_withdrawn(conn, ids, uid, destination, now)
        else:
            held = sum(each[1] == DeliveryState.HELD for each in named)
            waiting = sum(each[1] in _WAITING for each in named)
            reason = Reason(ReasonCode.AWAITS_IMAGES, {"waiting": waiting, "held": held})
            conn.execute(_AWAIT, {"id": delivery, "not_before": now + _EXAMINE_SECONDS, **reason_values(reason)})


#: What rejects, for people (PS3.16 CID 7011).
REJECTION_WORDS = {
    "113001": "for its quality",
    "113037": "for patient safety",
    "113038": "since it was of a wrong worklist entry",
    RETENTION_EXPIRED: "since its retention has expired",
}
#: Codes under which the same instances are not accepted again.
FORBIDDING = ("113037", "113038")
#: Of two notes about an instance the stronger one counts; the weakest first.
STRENGTH = ("113001", "113038", "113037", RETENTION_EXPIRED)
_WITHDRAWABLE = frozenset({"pending", "deferred", "held", "cancelled"})
_WAITING = frozenset({"pending", "active", "deferred", "held"})


def _withdraw(conn: Transaction, deliveries: Iterable[int], note_uid: str, now: float) -> None:
    reason = reason_values(Reason(ReasonCode.CANCELLED, {"note": note_uid}))
    conn.executemany(_WITHDRAW, [{"id": each, "now": now, **reason} for each in deliveries])


def _record_withdrawn(conn: Transaction, instances: Sequence[int], note_uid: str, destination: str, now: float) -> None:
    pairs = [(_study_of(conn, each), each) for each in instances]
    payload = {"note_uid": note_uid}
    record_by_study(conn, now, ledger.CANCELLED, ledger.EDGE, pairs, destination, payload)


def _study_of(conn: Transaction, instance: int) -> int | None:
    row = conn.execute("SELECT study_id FROM instance WHERE id = ?", (instance,)).fetchone()
    return row[0] if row else None


def note_arrival(conn: Transaction, instance: int, uid: str, now: float) -> None:
    """Apply to an instance that has arrived, perhaps again, what notes before it say."""
    row = conn.execute("SELECT code, note_uid FROM rejected_instance WHERE sop_instance_uid = ?", (uid,)).fetchone()
    if row is None:
        return
    if row[0] == RETENTION_EXPIRED:  # it may come again, and counts again then
        conn.execute("DELETE FROM rejected_instance WHERE sop_instance_uid = ?", (uid,))
    elif row[0] in FORBIDDING:
        rows = conn.execute(
            "SELECT id FROM delivery WHERE instance_id = ? AND state IN ('pending', 'deferred', 'held')", (instance,)
        )
        ids = [each[0] for each in rows]
        if ids:
            _withdraw(conn, ids, row[1], now)
            _record_withdrawn(conn, [instance], row[1], "", now)


def settle_waiting_notes(conn: Transaction, now: float) -> int:
    """Examine the notes that wait: those that need not any more may go. Returns how many wait."""
    rows = conn.execute(
        "SELECT DISTINCT n.instance_id FROM rejection_note AS n"
        " CROSS JOIN delivery AS d ON d.instance_id = n.instance_id"
        " WHERE d.state = 'pending' OR (d.state = 'deferred' AND d.reason_code = 'awaits-images')"
    ).fetchall()
    for row in rows:
        settle_note(conn, row[0], now)
    return len(rows)


def has_notes(conn: Transaction) -> bool:
    """Is there a note that is to be sent? Asked all the time: notes are few, deliveries are many, so from the notes."""
    return (
        conn.execute(
            "SELECT 1 FROM rejection_note AS n CROSS JOIN delivery AS d ON d.instance_id = n.instance_id"
            " WHERE d.state IN ('pending', 'deferred') LIMIT 1"
        ).fetchone()
        is not None
    )


def is_forbidden(conn: Transaction, uid: str) -> bool:
    """Does a note forbid that this instance comes again?"""
    row = conn.execute("SELECT code FROM rejected_instance WHERE sop_instance_uid = ?", (uid,)).fetchone()
    return row is not None and row[0] in FORBIDDING


def oldest_rejected(conn: Transaction, limit: int, *, corrected: bool = False) -> list[Candidate]:
    """What goes at any age once it is proved, before all else that is: a note says that its retention has expired."""
    rows = conn.execute(
        "SELECT id, study_id, path, size, open_deliveries, hold, confirmed_at FROM rejected_instance x"
        " CROSS JOIN instance ON instance.sop_instance_uid = x.sop_instance_uid"
        " WHERE x.code = :code AND state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL"
        f" AND {IS_ELSEWHERE} ORDER BY confirmed_at LIMIT :limit",
        {"code": RETENTION_EXPIRED, "limit": limit, "corrected": corrected},
    )
    return [Candidate(*row) for row in rows]
