"""Progress of reading the stored headers (edge.storage.backfill). The caller owns the transaction."""

from __future__ import annotations

import json
from typing import Any

from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

_PLACE, _BACKFILL = "headers", "backfill"


def read_place(conn: Transaction) -> int:
    """The number of the last instance whose header is read."""
    return int(recall(conn, _PLACE) or 0)


def keep_place(conn: Transaction, instance: int) -> None:
    """All up to this instance are read."""
    remember(conn, _PLACE, str(instance))


def read_backfill(conn: Transaction) -> dict[str, Any]:
    """How far the headers of what was here before an upgrade are read; empty where there was nothing to read."""
    kept = recall(conn, _BACKFILL)
    return {"read": 0, **json.loads(kept)} if kept else {}


def begin_backfill(conn: Transaction) -> None:
    """Have the headers of all instances read again: after the catalog was rebuilt."""
    conn.execute("DELETE FROM gateway WHERE name IN (?, ?)", (_BACKFILL, _PLACE))
    conn.execute(
        "INSERT INTO gateway SELECT ?, '{\"last\": ' || (SELECT max(id) FROM instance) || '}' WHERE EXISTS"
        " (SELECT 1 FROM instance WHERE series_id IS NULL AND study_id IS NOT NULL AND state <> 'evicted')",
        (_BACKFILL,),
    )


def note_backfill(conn: Transaction, progress: dict[str, Any]) -> None:
    remember(conn, _BACKFILL, json.dumps(progress))
