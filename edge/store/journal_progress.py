"""Progress of applying the journal. Functions of a connection: the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edge.store.database import Transaction


def read_applied(conn: Transaction) -> dict[int, int]:
    """Generation of a segment -> records of it whose rows are in the catalog."""
    return {int(row[0]): int(row[1]) for row in conn.execute("SELECT generation, records FROM journal_applied")}


def note_applied(conn: Transaction, upto: Mapping[int, int]) -> None:
    """Note how far generations are applied, in the transaction that applies them."""
    conn.executemany(
        "INSERT INTO journal_applied VALUES (?, ?) ON CONFLICT (generation) DO UPDATE SET records = excluded.records",
        list(upto.items()),
    )


def forget_generations(conn: Transaction, live: Collection[int]) -> None:
    """Forget the generations that no segment has any more, but the newest: new ones are above it."""
    known = sorted(read_applied(conn))
    gone = [(generation,) for generation in known[:-1] if generation not in live]
    conn.executemany("DELETE FROM journal_applied WHERE generation = ?", gone)
