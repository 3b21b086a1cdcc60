"""Heartbeats that wait in the outbox, as their thinning reads and changes them."""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction


@dataclass(frozen=True, slots=True)
class QueuedHeartbeat:
    """One document that waits; `size` in characters."""

    id: int
    at: float
    size: int
    has_notices: bool


def waiting_heartbeats(conn: Transaction, channel: str, kind_with_notices: str) -> list[QueuedHeartbeat]:
    """List waiting heartbeats in the order in which they were posted."""
    rows = conn.execute(
        "SELECT id, at, length(body), kind = :kind FROM message WHERE channel = :channel AND parked_at IS NULL"
        " ORDER BY id",
        {"kind": kind_with_notices, "channel": channel},
    )
    return [QueuedHeartbeat(*row) for row in rows]


def cover(conn: Transaction, gone: int, stays: int) -> None:
    """The document `stays` says that it covers the numbers from `gone` on."""
    conn.execute(
        "UPDATE message SET body = json_set(body, '$.covers',"
        " json_array((SELECT coalesce(json_extract(body, '$.covers[0]'), json_extract(body, '$.number'))"
        "  FROM message WHERE id = ?), json_extract(body, '$.number'))) WHERE id = ?",
        (gone, stays),
    )
