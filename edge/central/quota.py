"""How often something has happened in this hour, kept in the database: a restart of the centre frees nobody."""

from __future__ import annotations

from edge.central.store import Connection, do, value
from edge.shares import HOUR_SECONDS


def count_in_hour(conn: Connection, name: str, now: float) -> int:
    """Count one more, and return how many there are in this hour with it. `name`: of what is counted, our own words."""
    key, hour = f"count {name}", int(now // HOUR_SECONDS)
    before = str(value(conn, "SELECT value FROM office WHERE name = :key", key=key) or "0 0").split()
    count = int(before[1]) + 1 if int(before[0]) == hour else 1
    do(
        conn,
        """
        INSERT INTO office (name, value) VALUES (:key, :value)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value
        """,
        key=key,
        value=f"{hour} {count}",
    )
    return count
