"""What a person decides about deliveries: try it now, keep it back, let it go, not at all, first, elsewhere; and that
an instance goes nowhere.

Functions of a connection, as in edge.queue; each decision is in the ledger with who made it and why. An instance is
released by edge.release, which asks the routes.

What waits for a decision (edge.model.NEEDS_DECISION) is moved only by one that names it: each function says which.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edge.model import NEEDS_DECISION, ContextKey, DeliveryState, InstanceState, Origin, Priority, ReasonCode
from edge.store import ledger
from edge.store.database import Connection

_PENDING, _ACTIVE, _DEFERRED, _HELD = "pending", "active", "deferred", "held"
_WAITING = (_PENDING, _DEFERRED, _HELD)


@dataclass(frozen=True, slots=True)
class Moved:
    """How many deliveries a decision has moved; those that it must not, by why they wait."""

    count: int = 0
    left: Mapping[ReasonCode, int] = field(default_factory=dict)

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.count + other.count, Counter(self.left) + Counter(other.left))


def retry(conn: Connection, deliveries: Sequence[int], now: float, who: str, why: str = "") -> Moved:
    """Held or deferred work is pending now; never what waits for a decision, however it was chosen."""
    allowed = frozenset(ReasonCode) - NEEDS_DECISION
    return _send(conn, deliveries, now, who, why, ledger.RETRIED, (_HELD, _DEFERRED), allowed)


def release(conn: Connection, deliveries: Sequence[int], now: float, who: str, why: str, *, named: bool) -> Moved:
    """Held work is pending now; a conflict and a mismatch only where they are `named`, one by one."""
    by_number = frozenset() if named else {ReasonCode.CONFLICT, ReasonCode.MISMATCH}
    allowed = frozenset(ReasonCode) - {ReasonCode.UNROUTABLE} - by_number
    moved = _send(conn, deliveries, now, who, why, ledger.RELEASED, (_HELD,), allowed)
    for delivery in deliveries if named else ():
        if (row := _row(conn, delivery)) is not None:
            close_conflict(conn, row["instance_id"])
    return moved


def hold(conn: Connection, deliveries: Sequence[int], now: float, who: str, reason: str) -> int:
    """Waiting work waits for a person from now on. Returns how many rows moved."""
    count = 0
    for delivery in deliveries:
        row = conn.execute(
            "UPDATE delivery SET state = 'held', reason = ?, reason_code = ?, not_before = NULL WHERE id = ?"
            " AND state IN ('pending', 'deferred') AND destination <> '' RETURNING instance_id, destination",
            (reason, ReasonCode.PERSON.value, delivery),
        ).fetchone()
        if row is not None:
            count += 1
            _record(conn, now, ledger.HELD, who, row[0], row[1], reason)
    return count


def cancel(conn: Connection, deliveries: Sequence[int], now: float, who: str, why: str) -> Moved:
    """Work that waits is not sent. What is being sent cannot be called back, and stays; what has no route is decided
    by its instance (edge.release)."""
    count = 0
    left: Counter[ReasonCode] = Counter()
    for delivery in deliveries:
        row = _row(conn, delivery)
        if row is None or row["state"] not in (_PENDING, _DEFERRED, _HELD):
            continue
        if not row["destination"]:
            left[ReasonCode.UNROUTABLE] += 1
            continue
        set_cancelled(conn, delivery, now, why)
        count += 1
        _record(conn, now, ledger.CANCELLED, who, row["instance_id"], row["destination"], why)
        close_conflict(conn, row["instance_id"])
    return Moved(count, left)


def set_priority(
    conn: Connection, deliveries: Sequence[int], priority: Priority, now: float, who: str, why: str
) -> int:
    """Work that waits gets another priority. Returns how many rows changed."""
    changed = 0
    for delivery in deliveries:
        row = conn.execute(
            "UPDATE delivery SET priority = ? WHERE id = ? AND priority <> ?"
            " AND state IN ('pending', 'deferred', 'held') RETURNING instance_id, destination",
            (int(priority), delivery, int(priority)),
        ).fetchone()
        if row is not None:
            changed += 1
            detail = f"priority {priority.name.lower()}{f': {why}' if why else ''}"
            _record(conn, now, ledger.OVERRIDDEN, who, row[0], row[1], detail)
    return changed


def reassign(
    conn: Connection,
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
        state, reason, code = _at_another(row, named)
        done = conn.execute(
            "UPDATE delivery SET destination = ?1, state = ?3, reason = ?4, reason_code = ?5, status = NULL,"
            " attempts = 0, denials = 0, not_before = NULL, transaction_id = NULL"
            " WHERE id = ?2 AND state IN ('pending', 'deferred', 'held') AND NOT EXISTS"
            " (SELECT 1 FROM delivery AS other WHERE other.destination = ?1"
            " AND other.instance_id = delivery.instance_id)",
            (destination, delivery, state.value, reason, code.value),
        ).rowcount
        if done:
            moved += 1
            detail = f"instead of {row['destination'] or 'nowhere'}{f': {why}' if why else ''}"
            _record(conn, now, ledger.OVERRIDDEN, who, row["instance_id"], destination, detail)
        elif state is DeliveryState.PENDING and row["destination"] != destination and row["state"] in _WAITING:
            set_cancelled(conn, delivery, now, f"{destination} gets it anyway")
            moved += 1
            detail = f"{destination} gets it anyway{f': {why}' if why else ''}"
            _record(conn, now, ledger.CANCELLED, who, row["instance_id"], row["destination"], detail)
        close_conflict(conn, row["instance_id"])
    return moved


def _at_another(row: sqlite3.Row, named: bool) -> tuple[DeliveryState, str, ReasonCode]:
    code = ReasonCode(row["reason_code"])
    waits_on = {ReasonCode.CONFLICT, ReasonCode.MISMATCH} | ({ReasonCode.PERSON} if not named else set())
    if row["state"] == _HELD and code in waits_on:
        return DeliveryState.HELD, row["reason"], code
    if code is ReasonCode.UNROUTABLE and row["kept"] == InstanceState.CONFLICT:
        return DeliveryState.HELD, CONFLICT, ReasonCode.CONFLICT
    return DeliveryState.PENDING, "", ReasonCode.NONE


#: Why a conflict waits, in words.
CONFLICT = (
    "conflict: other bytes came before under the same SOP Instance UID; `edge instances show` puts them side by side"
)


def set_cancelled(conn: Connection, delivery: int, now: float, why: str) -> None:
    """One delivery is not sent."""
    conn.execute(
        "UPDATE delivery SET state = 'cancelled', reason = ?, reason_code = ?, cancelled_at = ?, not_before = NULL"
        " WHERE id = ?",
        (why, ReasonCode.CANCELLED.value, now, delivery),
    )


def close_conflict(conn: Connection, instance: int) -> None:
    """A conflict about which all is decided is an instance like any other: no alert, and in time evicted."""
    if not undecided(conn, instance):
        sql = "UPDATE instance SET state = 'stored', reason = '' WHERE id = ? AND state = 'conflict'"
        conn.execute(sql, (instance,))


def undecided(conn: Connection, instance: int) -> list[int]:
    """The deliveries of an instance that wait for a decision."""
    rows = conn.execute("SELECT id, reason_code FROM delivery WHERE instance_id = ? AND state = 'held'", (instance,))
    return [row["id"] for row in rows.fetchall() if ReasonCode(row["reason_code"]) in NEEDS_DECISION]


# -- instances --------------------------------------------------------------------------------------------------------


def discard(conn: Connection, instance: int, now: float, who: str, why: str) -> str:
    """An instance that waits for a decision goes nowhere; its file is kept for `[quarantine] keep`.

    What is not yet sent of it is cancelled; the ledger keeps the digest. Returns why nothing was done, or nothing.
    """
    row = conn.execute("SELECT state, study_id, sha256 FROM instance WHERE id = ?", (instance,)).fetchone()
    rows = conn.execute("SELECT id, destination, state FROM delivery WHERE instance_id = ?", (instance,)).fetchall()
    if reason := _why_not_discard(conn, instance, row, rows):
        return reason
    for each in rows:
        if each["state"] in (_PENDING, _DEFERRED, _HELD):
            set_cancelled(conn, each["id"], now, why)
    conn.execute("UPDATE instance SET state = 'discarded', discarded_at = ? WHERE id = ?", (now, instance))
    detail = f"{why}; sha256 {row['sha256'].hex()}"
    ledger.append(conn, now, ledger.DISCARDED, who, [instance], study_id=row["study_id"], detail=detail)
    return ""


def _why_not_discard(
    conn: Connection, instance: int, row: sqlite3.Row | None, deliveries: Sequence[sqlite3.Row]
) -> str:
    if row is None:
        return "there is no such instance"
    state = InstanceState(row["state"])
    if state is InstanceState.DISCARDED:
        return "it is discarded already"
    if state is InstanceState.QUARANTINED:
        return ""
    if state is not InstanceState.CONFLICT and not undecided(conn, instance):
        return "nothing about it waits for a decision"
    for each in deliveries:
        if each["state"] == _ACTIVE:
            return f"it is being sent to {each['destination']} at this moment"
        if each["state"] == DeliveryState.SENT:
            return f"{each['destination']} has taken it and not yet proved it: wait for the proof"
    return ""


@dataclass(frozen=True, slots=True)
class Kept:
    """One instance, as far as a person's decision about it needs it."""

    instance_id: int
    state: InstanceState
    reason: str
    path: str
    size: int
    dataset_offset: int
    sha256: bytes
    kind: ContextKey
    kind_id: int
    sop_instance_uid: str
    study_id: int | None
    origin: Origin
    is_deleted: bool  # it was discarded, and its file is gone
    is_owed: bool  # it has deliveries: its header was read and trusted


def kept(conn: Connection, instance: int) -> Kept | None:
    """One instance, in whatever state; None where there is none."""
    row = conn.execute(
        "SELECT i.*, k.sop_class_uid, k.transfer_syntax_uid,"
        " EXISTS (SELECT 1 FROM delivery WHERE instance_id = i.id) AS is_owed"
        " FROM instance i JOIN kind k ON k.id = i.kind_id WHERE i.id = ?",
        (instance,),
    ).fetchone()
    if row is None:
        return None
    return Kept(
        row["id"],
        InstanceState(row["state"]),
        row["reason"],
        row["path"],
        row["size"],
        row["dataset_offset"],
        row["sha256"],
        ContextKey(row["sop_class_uid"], row["transfer_syntax_uid"]),
        row["kind_id"],
        row["sop_instance_uid"],
        row["study_id"],
        Origin(row["calling_ae"], row["called_ae"], row["address"], row["received_at"]),
        row["deleted_at"] is not None,
        bool(row["is_owed"]),
    )


@dataclass(frozen=True, slots=True)
class Discarded:
    """An instance whose file may go."""

    instance_id: int
    study_id: int | None
    path: str
    sha256: bytes


def discarded_before(conn: Connection, moment: float, limit: int) -> list[Discarded]:
    """What was discarded before a moment and is still on the disk, the oldest first."""
    rows = conn.execute(
        "SELECT id, study_id, path, sha256 FROM instance WHERE state = 'discarded' AND deleted_at IS NULL"
        " AND discarded_at <= ? ORDER BY discarded_at LIMIT ?",
        (moment, limit),
    )
    return [Discarded(*row) for row in rows]


def note_deleted(conn: Connection, found: Sequence[Discarded], now: float) -> None:
    """The files of discarded instances are gone; what they were stays provable by their digests."""
    for each in found:
        sql = "UPDATE instance SET deleted_at = ?, size = 0 WHERE id = ? AND state = 'discarded'"
        conn.execute(sql, (now, each.instance_id))
        detail = f"its file, discarded before; sha256 {each.sha256.hex()}"
        ids = [each.instance_id]
        ledger.append(conn, now, ledger.DELETED, ledger.EDGE, ids, study_id=each.study_id, detail=detail)


def note_released(conn: Connection, instance: int, target: int, now: float) -> None:
    """An instance left quarantine: it is another one now, whose UIDs are those of its data set."""
    conn.execute(
        "UPDATE instance SET state = 'discarded', released_as = ?1, discarded_at = ?2, deleted_at = ?2, size = 0,"
        " reason = ?3 WHERE id = ?4 AND state IN ('quarantined', 'discarded')",
        (target, now, f"released from quarantine as instance {target}", instance),
    )


def note_exported(conn: Connection, instance: int, now: float, who: str, where: str) -> None:
    """A person takes a copy of an instance's file."""
    row = conn.execute("SELECT study_id, sha256 FROM instance WHERE id = ?", (instance,)).fetchone()
    detail = f"to {where}; sha256 {row['sha256'].hex()}"
    ledger.append(conn, now, ledger.EXPORTED, who, [instance], study_id=row["study_id"], detail=detail)


# -- rows -------------------------------------------------------------------------------------------------------------


def _send(
    conn: Connection,
    deliveries: Sequence[int],
    now: float,
    who: str,
    why: str,
    event: str,
    source: Collection[str],
    allowed: Collection[ReasonCode],
) -> Moved:
    count = 0
    left: Counter[ReasonCode] = Counter()
    for delivery in deliveries:
        row = _row(conn, delivery)
        if row is None or row["state"] not in source:
            continue
        code = ReasonCode(row["reason_code"])
        if not row["destination"]:
            code = ReasonCode.UNROUTABLE  # perhaps it still waits for its study's images
        if code not in allowed:
            left[code] += 1
            continue
        conn.execute(
            "UPDATE delivery SET state = 'pending', reason = '', reason_code = '', not_before = NULL WHERE id = ?",
            (delivery,),
        )
        count += 1
        _record(conn, now, event, who, row["instance_id"], row["destination"], why)
    return Moved(count, left)


def _row(conn: Connection, delivery: int) -> sqlite3.Row | None:
    found: sqlite3.Row | None = conn.execute(
        "SELECT d.instance_id, d.destination, d.state, d.reason, d.reason_code, i.state AS kept FROM delivery d"
        " JOIN instance i ON i.id = d.instance_id WHERE d.id = ?",
        (delivery,),
    ).fetchone()
    return found


def _record(conn: Connection, now: float, event: str, who: str, instance: int, destination: str, detail: str) -> None:
    study = conn.execute("SELECT study_id FROM instance WHERE id = ?", (instance,)).fetchone()[0]
    ledger.append(conn, now, event, who, [instance], study_id=study, destination=destination, detail=detail)
