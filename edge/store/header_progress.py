"""How far the headers of what is kept are read (edge.storage.backfill). The caller owns the transaction."""

from __future__ import annotations

from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

_PLACE = "headers"


def read_place(conn: Transaction) -> int:
    """The number of the last instance whose header is read."""
    return int(recall(conn, _PLACE) or 0)


def keep_place(conn: Transaction, instance: int) -> None:
    """All up to this instance are read."""
    remember(conn, _PLACE, str(instance))
