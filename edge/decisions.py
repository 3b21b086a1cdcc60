"""What a person decides about work that waits: try it now, keep it back, send it first, send it elsewhere.

Functions of a connection, as in edge.queue; each decision is in the ledger with who made it and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge import ledger
from edge.db import Connection
from edge.model import DeliveryState, Priority, ReasonCode


def retry(
    conn: Connection, deliveries: Sequence[int], now: float, who: str, event: str = ledger.RETRIED, why: str = ""
) -> int:
    """Held or deferred work is pending now. Returns how many rows moved; unroutable ones never do: route them.

    The ledger keeps who did it and why.
    """
    return _move(conn, deliveries, now, who, event, DeliveryState.PENDING, ("held", "deferred"), "", why)


def hold(conn: Connection, deliveries: Sequence[int], now: float, who: str, reason: str) -> int:
    """Waiting work waits for a person from now on. Returns how many rows moved."""
    return _move(conn, deliveries, now, who, ledger.HELD, DeliveryState.HELD, ("pending", "deferred"), reason, reason)


def hasten(conn: Connection, deliveries: Sequence[int], priority: Priority, now: float, who: str, why: str) -> int:
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
            _record_decision(conn, now, ledger.OVERRIDDEN, who, row[0], row[1], detail)
    return changed


def redirect(conn: Connection, deliveries: Sequence[int], destination: str, now: float, who: str, why: str) -> int:
    """Work that waits goes to another destination instead; where that gets it anyway, it is cancelled here.

    Returns how many moved or were cancelled.
    """
    moved = 0
    for delivery in deliveries:
        row = conn.execute("SELECT instance_id, destination FROM delivery WHERE id = ?", (delivery,)).fetchone()
        done = conn.execute(
            "UPDATE delivery SET destination = ?1, state = 'pending', reason = '', reason_code = '', status = NULL,"
            " attempts = 0, denials = 0, not_before = NULL, transaction_id = NULL"
            " WHERE id = ?2 AND state IN ('pending', 'deferred', 'held') AND NOT EXISTS"
            " (SELECT 1 FROM delivery AS other WHERE other.destination = ?1"
            " AND other.instance_id = delivery.instance_id)",
            (destination, delivery),
        ).rowcount
        if done:
            moved += 1
            detail = f"instead of {row[1] or 'nowhere'}{f': {why}' if why else ''}"
            _record_decision(conn, now, ledger.OVERRIDDEN, who, row[0], destination, detail)
        elif row is not None and row[1] != destination and _cancel_waiting(conn, delivery, now, destination):
            moved += 1
            detail = f"{destination} gets it anyway{f': {why}' if why else ''}"
            _record_decision(conn, now, ledger.CANCELLED, who, row[0], row[1], detail)
    return moved


def _cancel_waiting(conn: Connection, delivery: int, now: float, other: str) -> bool:
    done = conn.execute(
        "UPDATE delivery SET state = 'cancelled', cancelled_at = ?, reason = ?, reason_code = 'cancelled',"
        " not_before = NULL WHERE id = ? AND state IN ('pending', 'deferred', 'held')",
        (now, f"{other} gets it anyway", delivery),
    )
    return bool(done.rowcount)


def _move(
    conn: Connection,
    deliveries: Sequence[int],
    now: float,
    who: str,
    event: str,
    to: DeliveryState,
    source: tuple[str, str],
    reason: str,
    detail: str,
) -> int:
    moved = 0
    code = ReasonCode.PERSON if to is DeliveryState.HELD else ReasonCode.NONE
    for delivery in deliveries:
        row = conn.execute(
            "UPDATE delivery SET state = ?, reason = ?, reason_code = ?, not_before = NULL WHERE id = ?"
            " AND state IN (?, ?) AND destination <> '' RETURNING instance_id, destination",
            (to.value, reason, code.value, delivery, *source),
        ).fetchone()
        if row is None:
            continue
        moved += 1
        _record_decision(conn, now, event, who, row[0], row[1], detail)
    return moved


def _record_decision(
    conn: Connection, now: float, event: str, who: str, instance: int, destination: str, detail: str
) -> None:
    study = conn.execute("SELECT study_id FROM instance WHERE id = ?", (instance,)).fetchone()[0]
    ledger.append(conn, now, event, who, [instance], study_id=study, destination=destination, detail=detail)
