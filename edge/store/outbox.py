"""The outbox of a site or of the centre: messages to others, stored until they have them.

A message is posted in the transaction of what it tells about, so that neither exists without the other, and deleted
when its channel has taken it. A channel's messages leave in the order in which they arose, with their original time.
One that the other end refuses for good is parked: kept and shown, out of the way of the others, until a person sends it
again or discards it. Of a channel's parked messages the last MOST_PARKED are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.store.transaction import AnyTransaction

MOST_PARKED = 1000


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
    """What waits in one channel, and what is parked."""

    count: int
    oldest_at: float | None  # None: nothing waits
    last_error: str  # of the oldest; empty before a first attempt has failed
    parked: int = 0


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """One message as a person sees it: without its body."""

    id: int
    channel: str
    kind: str
    at: float
    attempts: int
    last_error: str
    parked_at: float | None


def post(conn: AnyTransaction, channel: str, kind: str, at: float, body: str) -> int:
    """Put a message into a channel, inside the caller's transaction. Returns its number."""
    row = conn.execute(
        "INSERT INTO message (channel, kind, at, body) VALUES (:channel, :kind, :at, :body) RETURNING id",
        {"channel": channel, "kind": kind, "at": at, "body": body},
    ).fetchone()
    return int(row[0])


def oldest(conn: AnyTransaction, channel: str, limit: int) -> list[Message]:
    """What has to leave next, in order."""
    rows = conn.execute(
        "SELECT id, channel, kind, at, body, attempts FROM message WHERE channel = :channel AND parked_at IS NULL"
        " ORDER BY id LIMIT :limit",
        {"channel": channel, "limit": limit},
    )
    return [Message(*row) for row in rows]


def remove_delivered(conn: AnyTransaction, messages: Iterable[int]) -> None:
    """Remove messages that the channel's other end has taken."""
    conn.executemany("DELETE FROM message WHERE id = :id", [{"id": each} for each in messages])


def record_failure(conn: AnyTransaction, message: int, reason: str) -> None:
    """An attempt failed; `reason` is in our own words."""
    conn.execute(
        "UPDATE message SET attempts = attempts + 1, last_error = :reason WHERE id = :id",
        {"id": message, "reason": reason},
    )


def park(conn: AnyTransaction, message: Message, at: float, reason: str) -> None:
    """The other end refuses this one for good: the others pass it."""
    conn.execute(
        "UPDATE message SET attempts = attempts + 1, last_error = :reason, parked_at = :at WHERE id = :id",
        {"id": message.id, "reason": reason, "at": at},
    )
    conn.execute(
        "DELETE FROM message WHERE channel = :channel AND parked_at IS NOT NULL AND id <= (SELECT id FROM message"
        " WHERE channel = :channel AND parked_at IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET :most)",
        {"channel": message.channel, "most": MOST_PARKED},
    )


def unpark(conn: AnyTransaction, channel: str) -> int:
    """Send a channel's parked messages again, each in its old place. Returns how many."""
    return conn.execute(
        "UPDATE message SET parked_at = NULL WHERE channel = :channel AND parked_at IS NOT NULL", {"channel": channel}
    ).rowcount


def discard(conn: AnyTransaction, channel: str, parked_only: bool) -> int:
    """A person gives up a channel's messages, or only those that are parked. Returns how many."""
    which = " AND parked_at IS NOT NULL" if parked_only else ""
    return conn.execute(f"DELETE FROM message WHERE channel = :channel{which}", {"channel": channel}).rowcount


def lines(conn: AnyTransaction, limit: int) -> list[QueuedMessage]:
    """What waits and what is parked, the oldest first."""
    rows = conn.execute(
        "SELECT id, channel, kind, at, attempts, last_error, parked_at FROM message ORDER BY id LIMIT :limit",
        {"limit": limit},
    )
    return [QueuedMessage(*row) for row in rows]


def backlogs(conn: AnyTransaction) -> Mapping[str, Backlog]:
    """What waits and what is parked, by channel."""
    rows = conn.execute(
        "SELECT sums.channel, waiting, oldest.at, coalesce(oldest.last_error, ''), parked FROM"
        " (SELECT channel, count(*) FILTER (WHERE parked_at IS NULL) AS waiting,"
        "  min(id) FILTER (WHERE parked_at IS NULL) AS first_id, count(parked_at) AS parked"
        "  FROM message GROUP BY channel) AS sums"
        " LEFT JOIN message AS oldest ON oldest.id = first_id ORDER BY sums.channel",
        {},
    )
    return {row[0]: Backlog(*tuple(row)[1:]) for row in rows}
