"""Small facts about the gateway itself, by name: marks of its runs, positions of slow work, counters."""

from __future__ import annotations

from edge.store.database import Transaction


def recall(conn: Transaction, name: str) -> str | None:
    """One value, or None where nothing has been kept under this name."""
    row = conn.execute("SELECT value FROM gateway WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def recall_all(conn: Transaction) -> dict[str, str]:
    return {row[0]: row[1] for row in conn.execute("SELECT name, value FROM gateway")}


def remember(conn: Transaction, name: str, value: str) -> None:
    """Keep a value; it replaces the one before."""
    conn.execute(
        "INSERT INTO gateway (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def remove_value(conn: Transaction, name: str) -> None:
    conn.execute("DELETE FROM gateway WHERE name = ?", (name,))


def count_up(conn: Transaction, name: str) -> int:
    """The next number of a counter, from 1 on; unique, also where two count at the same time."""
    row = conn.execute(
        "INSERT INTO gateway (name, value) VALUES (?, '1')"
        " ON CONFLICT (name) DO UPDATE SET value = CAST(gateway.value AS INTEGER) + 1 RETURNING value",
        (name,),
    ).fetchone()
    return int(row[0])
