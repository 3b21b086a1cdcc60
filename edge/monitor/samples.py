"""What was measured, over 13 months: the last two days minute by minute, before that the last value of each hour.

What grows for ever (bytes received, bytes sent) is kept as its sum, so that thinning loses nothing. Names:

    disk.used                  bytes of the file system that holds data_dir
    received.bytes             of all objects taken since the catalog began
    backlog/NAME               instances that a destination has still to get, without those held
    backlog.bytes/NAME         their size
    sent.bytes/NAME            of all that it has taken
    rate/NAME                  bytes a second while it is busy
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.monitor.snapshot_model import Snapshot
from edge.store.database import Connection

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
FINE_SECONDS, KEPT_SECONDS = 2 * DAY, 396 * DAY


def values(seen: Snapshot, used_bytes: int, received_bytes: int, sent_bytes: Mapping[str, int]) -> dict[str, float]:
    """What is to be kept of one moment."""
    found: dict[str, float] = {"disk.used": used_bytes, "received.bytes": received_bytes}
    for each in seen.destinations:
        if each.configured:
            found[f"backlog/{each.name}"] = each.waiting
            found[f"backlog.bytes/{each.name}"] = each.bytes
            found[f"sent.bytes/{each.name}"] = sent_bytes.get(each.name, 0)
            if each.rate:
                found[f"rate/{each.name}"] = each.rate
    return found


def record(conn: Connection, at: float, found: Mapping[str, float]) -> None:
    """Keep one moment, inside the caller's transaction."""
    conn.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?, ?)", [(name, at, v) for name, v in found.items()])


def series(conn: Connection, name: str, since: float) -> list[tuple[float, float]]:
    """(time, value) from `since` on, the oldest first."""
    return [
        (row[0], row[1])
        for row in conn.execute("SELECT at, value FROM sample WHERE name = ? AND at >= ? ORDER BY at", (name, since))
    ]


def latest(conn: Connection, name: str) -> float | None:
    """The last value that was measured."""
    row = conn.execute("SELECT value FROM sample WHERE name = ? ORDER BY at DESC LIMIT 1", (name,)).fetchone()
    return None if row is None else float(row[0])


def totals(conn: Connection) -> tuple[int, dict[str, int]]:
    """Bytes received, and bytes sent by destination, since the catalog began; read from the tallies."""
    (received,) = conn.execute(
        "SELECT coalesce(sum(bytes), 0) FROM instance_tally WHERE state <> 'quarantined'"
    ).fetchone()
    rows = conn.execute(
        "SELECT destination, sum(bytes) FROM tally WHERE state IN ('sent', 'confirmed') GROUP BY destination"
    )
    return int(received), {row[0]: int(row[1]) for row in rows}


def thin(conn: Connection, now: float) -> None:
    """Let go what is too fine for its age, an hour of each name at a time, and what is too old."""
    before = (now - FINE_SECONDS) // HOUR * HOUR
    (done,) = conn.execute("SELECT coalesce((SELECT value FROM gateway WHERE name = 'thinned_until'), '0')").fetchone()
    for name in _names(conn):
        conn.execute(
            "DELETE FROM sample WHERE name = ?1 AND at >= ?2 AND at < ?3 AND at NOT IN (SELECT max(at) FROM sample"
            " WHERE name = ?1 AND at >= ?2 AND at < ?3 GROUP BY CAST(at / 3600 AS INTEGER))",
            (name, float(done), before),
        )
        conn.execute("DELETE FROM sample WHERE name = ? AND at < ?", (name, now - KEPT_SECONDS))
    conn.execute("INSERT OR REPLACE INTO gateway VALUES ('thinned_until', ?)", (str(before),))


def _names(conn: Connection) -> list[str]:
    """Found by skipping along the primary key: there are few names and many samples."""
    rows = conn.execute(
        "WITH RECURSIVE each (name) AS (SELECT min(name) FROM sample UNION ALL"
        " SELECT (SELECT min(name) FROM sample WHERE name > each.name) FROM each WHERE each.name IS NOT NULL)"
        " SELECT name FROM each WHERE name IS NOT NULL"
    )
    return [row[0] for row in rows]
