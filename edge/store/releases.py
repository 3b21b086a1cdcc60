"""Reads and writes of an instance's release, beside its deliveries' states."""

from __future__ import annotations

from edge.store.database import CatalogRow, Transaction


def deliveries_of(conn: Transaction, instance: int) -> list[CatalogRow]:
    """Every delivery of one instance."""
    return conn.execute("SELECT * FROM delivery WHERE instance_id = ? ORDER BY id", (instance,)).fetchall()


def end_discard(conn: Transaction, instance: int) -> None:
    """Keep an instance again that a person had discarded."""
    conn.execute("UPDATE instance SET state = 'stored', reason = '', discarded_at = NULL WHERE id = ?", (instance,))


def instance_state(conn: Transaction, instance: int) -> str:
    (state,) = conn.execute("SELECT state FROM instance WHERE id = ?", (instance,)).fetchone()
    return str(state)
