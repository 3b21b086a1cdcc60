"""Rows of the custody ledger as custody, audit trail and verification read them. `edge.store.ledger` writes them."""

from __future__ import annotations

from collections.abc import Iterator

from edge.store.database import CatalogRow, Transaction


def hash_at(conn: Transaction, seq: int) -> bytes | None:
    """The hash of one row, or None where there is none."""
    row = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else bytes(row[0])


def rows_of_study(conn: Transaction, study_id: int | None) -> Iterator[CatalogRow]:
    """All rows about one study (None: about none) in order; `before` is the hash of the row before each."""
    sql = """
SELECT l.*, coalesce((SELECT hash FROM ledger WHERE seq = l.seq - 1),
                     (SELECT last_hash FROM folded_ledger WHERE last_seq = l.seq - 1), zeroblob(32)) AS before
FROM ledger l WHERE l.study_id IS ? ORDER BY l.seq
"""
    yield from conn.execute(sql, (study_id,))
