"""Samples over 13 months: the last two days minute by minute, before that the last value of each hour.

What only grows (bytes received, bytes sent) is kept as its sum, so that thinning loses nothing. Names:

    disk.used                  bytes of the file system that holds data_dir
    received.bytes             of all objects taken since the catalog began
    backlog/NAME               instances that a destination has still to get, without those held
    backlog.bytes/NAME         their size
    sent.bytes/NAME            of all that it has taken
    rate/NAME                  bytes a second while it is busy
    sent.answers/NAME          its C-STORE responses since the start of the gateway; .answer.seconds, .answer.bytes
    received.answers/NAME      ours to a modality, in the same way
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

HOUR, DAY = 3600.0, 86400.0
FINE_SECONDS, KEPT_SECONDS = 2 * DAY, 396 * DAY
THINNED_UNTIL = "thinned_until"


def add_sample(conn: Transaction, at: float, found: Mapping[str, float]) -> None:
    """Keep one moment, inside the caller's transaction."""
    conn.executemany(
        "INSERT INTO sample (name, at, value) VALUES (?, ?, ?)"
        " ON CONFLICT (name, at) DO UPDATE SET value = excluded.value",
        [(name, at, value) for name, value in found.items()],
    )


def series(conn: Transaction, name: str, since: float) -> list[tuple[float, float]]:
    """(time, value) from `since` on, the oldest first."""
    return [
        (row[0], row[1])
        for row in conn.execute("SELECT at, value FROM sample WHERE name = ? AND at >= ? ORDER BY at", (name, since))
    ]


def names_below(conn: Transaction, prefix: str) -> list[str]:
    """What follows a prefix such as `backlog/` in the names that were ever sampled."""
    return [name.removeprefix(prefix) for name in _names(conn) if name.startswith(prefix)]


def first_at(conn: Transaction, name: str) -> float | None:
    """When a value was measured first."""
    row = conn.execute("SELECT min(at) FROM sample WHERE name = ?", (name,)).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def latest(conn: Transaction, name: str) -> float | None:
    """The last value that was measured."""
    row = conn.execute("SELECT value FROM sample WHERE name = ? ORDER BY at DESC LIMIT 1", (name,)).fetchone()
    return None if row is None else float(row[0])


def thin(conn: Transaction, now: float) -> None:
    """Let go what is too fine for its age, an hour of each name at a time, and what is too old."""
    before = (now - FINE_SECONDS) // HOUR * HOUR
    done = float(recall(conn, THINNED_UNTIL) or 0)
    for name in _names(conn):
        conn.execute(
            "DELETE FROM sample WHERE name = :name AND at >= :done AND at < :before AND at NOT IN"
            " (SELECT max(at) FROM sample WHERE name = :name AND at >= :done AND at < :before"
            "  GROUP BY CAST(at / 3600 AS INTEGER))",
            {"name": name, "done": done, "before": before},
        )
        conn.execute("DELETE FROM sample WHERE name = ? AND at < ?", (name, now - KEPT_SECONDS))
    remember(conn, THINNED_UNTIL, str(before))


def _names(conn: Transaction) -> list[str]:
    """Found by skipping along the primary key: there are few names and many samples."""
    rows = conn.execute(
        "WITH RECURSIVE each (name) AS (SELECT min(name) FROM sample UNION ALL"
        " SELECT (SELECT min(name) FROM sample WHERE name > each.name) FROM each WHERE each.name IS NOT NULL)"
        " SELECT name FROM each WHERE name IS NOT NULL"
    )
    return [row[0] for row in rows]
