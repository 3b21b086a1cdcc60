"""State of the centre itself: counts by the hour, the last digest, its journal, and times to correct."""

from __future__ import annotations

import time
from typing import Any

from edge.network.shares import HOUR_SECONDS
from edge.store.engine import EngineTransaction, do, find_value

_REMEMBER = """
INSERT INTO centre_state (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
#: Each with :now and :late, a time behind which nothing is that a right clock wrote; :skew is what a site's clock may
#: be ahead. An escalation that a clock brought about which was ahead comes again in its time.
_CORRECTIONS = (
    "UPDATE site SET heard_at = :now WHERE heard_at > :late",
    "UPDATE site SET at = :now WHERE at > :late + :skew",
    "UPDATE incident SET opened_at = :now WHERE closed_at IS NULL AND opened_at > :late",
    "UPDATE incident SET escalated_at = NULL WHERE closed_at IS NULL AND escalated_at > :late",
    "UPDATE incident SET acknowledged_at = :now WHERE closed_at IS NULL AND acknowledged_at > :late",
    "UPDATE incident SET closed_at = :now WHERE closed_at > :late",
    "UPDATE outage SET silent_from = :now WHERE returned_at IS NULL AND silent_from > :late",
    "UPDATE ledger SET at = :now WHERE at > :late",
    "UPDATE ledger SET head_at = :now WHERE head_at > :late",
    "UPDATE ledger SET proved_at = :now WHERE proved_at > :late",
    "UPDATE account SET changed_at = :now WHERE changed_at > :late",
    "UPDATE account SET signed_in_at = :now WHERE signed_in_at > :late",
    "UPDATE account SET locked_until = NULL WHERE locked_until > :late + :longest_lock",
    "DELETE FROM history_minute WHERE at > :late + :skew",
    "DELETE FROM history_hour WHERE at > :late + :skew",
    "DELETE FROM history_day WHERE at > :late + :skew",
)


def set_state_value(conn: EngineTransaction, name: str, text: str) -> None:
    """Keep a text by its name."""
    do(conn, _REMEMBER, name=name, value=text)


def state_value(conn: EngineTransaction, name: str) -> str | None:
    """What was kept by that name."""
    return find_value(conn, "SELECT value FROM centre_state WHERE name = :name", str, name=name)


def count_in_hour(conn: EngineTransaction, name: str, now: float) -> int:
    """Count one more, and return how many there are in this hour with it: a restart of the centre frees nobody.

    `name`: of what is counted, our own words.
    """
    key, hour = f"count {name}", int(now // HOUR_SECONDS)
    before = (state_value(conn, key) or "0 0").split()
    count = int(before[1]) + 1 if int(before[0]) == hour else 1
    set_state_value(conn, key, f"{hour} {count}")
    return count


def journal(conn: EngineTransaction, who: str, text: str, at: float | None = None) -> None:
    """Record who did what to the centre itself; `at` omitted: now."""
    at = time.time() if at is None else at
    do(conn, "INSERT INTO journal (at, who, text) VALUES (:at, :who, :text)", at=at, who=who, text=text)


def correct_future_times(conn: EngineTransaction, **given: Any) -> int:
    """Bring back what is in the future; how many rows. `given`: now, late, skew and longest_lock, in seconds."""
    return sum(
        do(conn, statement, **{name: each for name, each in given.items() if f":{name}" in statement})
        for statement in _CORRECTIONS
    )
