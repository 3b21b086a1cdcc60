"""Findings about messages that a person should know: each keeps an alert open until somebody acknowledges it.

`subject` names rows or a feed, never a patient. The same finding again is one row; after it was settled it opens again.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction


@dataclass(frozen=True, slots=True)
class OpenFindings:
    """All open findings of one kind and feed."""

    kind: str
    feed: str
    count: int
    since: float


def note_finding(conn: Transaction, kind: str, subject: str, feed: str, message_id: int | None, at: float) -> None:
    conn.execute(
        "INSERT INTO identity_finding (kind, subject, feed, first_at, last_at, message_id)"
        " VALUES (:kind, :subject, :feed, :at, :at, :message) ON CONFLICT (kind, subject) DO UPDATE SET"
        " first_at = CASE WHEN settled_at IS NULL THEN first_at ELSE :at END, last_at = :at, message_id = :message,"
        " settled_at = NULL",
        {"kind": kind, "subject": subject, "feed": feed, "at": at, "message": message_id},
    )


def list_open(conn: Transaction) -> list[OpenFindings]:
    rows = conn.execute(
        "SELECT kind, feed, count(*), min(first_at) FROM identity_finding WHERE settled_at IS NULL"
        " GROUP BY kind, feed ORDER BY kind, feed"
    )
    return [OpenFindings(*row) for row in rows]


def settle_findings(conn: Transaction, kind: str, feed: str, now: float) -> int:
    """Settle the findings of a kind and feed that a person has acknowledged. Returns how many."""
    return conn.execute(
        "UPDATE identity_finding SET settled_at = ? WHERE kind = ? AND feed = ? AND settled_at IS NULL",
        (now, kind, feed),
    ).rowcount
