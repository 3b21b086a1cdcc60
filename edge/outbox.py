"""The outbox: what the gateway has to tell others, stored until they have it.

A message is posted in the transaction of what it tells about, so that neither exists without the other, and deleted
when its channel has taken it. A channel's messages leave in the order in which they arose, with their original time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.db import Connection


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one channel. `at` is when it arose, in seconds since 1970; `attempts` those that failed."""

    id: int
    channel: str
    kind: str
    at: float
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one channel."""

    count: int
    oldest_at: float
    last_error: str  # of the oldest; empty before a first attempt has failed


def post(conn: Connection, channel: str, kind: str, at: float, body: str) -> int:
    """Put a message into a channel, inside the caller's transaction. Returns its number."""
    row = conn.execute(
        "INSERT INTO message (channel, kind, at, body) VALUES (?, ?, ?, ?) RETURNING id", (channel, kind, at, body)
    ).fetchone()
    return int(row[0])


def oldest(conn: Connection, channel: str, limit: int) -> list[Message]:
    """What has to leave next, in order."""
    rows = conn.execute(
        "SELECT id, channel, kind, at, body, attempts FROM message WHERE channel = ? ORDER BY id LIMIT ?",
        (channel, limit),
    )
    return [Message(*row) for row in rows]


def delivered(conn: Connection, messages: Iterable[int]) -> None:
    """The channel's other end has taken them."""
    conn.executemany("DELETE FROM message WHERE id = ?", [(each,) for each in messages])


def failed(conn: Connection, message: int, reason: str) -> None:
    """An attempt failed; `reason` is in our own words."""
    conn.execute("UPDATE message SET attempts = attempts + 1, last_error = ? WHERE id = ?", (reason, message))


def backlogs(conn: Connection) -> Mapping[str, Backlog]:
    """What waits, by channel."""
    rows = conn.execute(
        "SELECT channel, count(*), min(id), (SELECT at FROM message AS first WHERE first.id = min(message.id)),"
        " (SELECT last_error FROM message AS first WHERE first.id = min(message.id)) FROM message GROUP BY channel"
    )
    return {row[0]: Backlog(row[1], row[3], row[4]) for row in rows}
