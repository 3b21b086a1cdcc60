"""Drills: the last time that a restore was tried, as a person notes it. The caller owns the transaction."""

from __future__ import annotations

from edge.store import ledger
from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

_DRILLED_AT = "drilled_at"


def note_drill(conn: Transaction, now: float, who: str, note: str) -> None:
    """Record that a person has tried a restore; how it went is in the ledger."""
    remember(conn, _DRILLED_AT, str(now))
    ledger.append(conn, now, ledger.DRILLED, who, [], payload={"reason": note})


def last_drill(conn: Transaction) -> float | None:
    found = recall(conn, _DRILLED_AT)
    return None if found is None else float(found)


def first_use(conn: Transaction) -> float | None:
    """When the first study came; None: none has."""
    row = conn.execute("SELECT first_received FROM study ORDER BY id LIMIT 1").fetchone()
    return None if row is None else float(row[0])
