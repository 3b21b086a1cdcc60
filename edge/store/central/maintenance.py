"""Planned work at the sites: planned at the centre by a person, or reported by a site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.store.engine import EngineTransaction, Row, do, do_many, rows

#: Planned work is kept this long after its end: the reports of 13 months count it.
PLANS_KEPT_SECONDS = 430 * 86400.0

_ADD = """
INSERT INTO maintenance (site, name, begins_at, ends_at, reason, who)
VALUES (:site, :name, :begins_at, :ends_at, :reason, :who)
ON CONFLICT (site, name, begins_at) DO UPDATE SET ends_at = excluded.ends_at, reason = excluded.reason
"""


def plan_work(
    conn: EngineTransaction, chosen: Iterable[str], begins_at: float, ends_at: float, reason: str, who: str
) -> None:
    """Plan work at some sites."""
    common = {"name": "", "begins_at": begins_at, "ends_at": ends_at, "reason": reason, "who": who}
    do_many(conn, _ADD, [{"site": site, **common} for site in chosen])


def take_plans(conn: EngineTransaction, site: str, found: Sequence[Mapping[str, Any]], now: float) -> None:
    """What a site itself plans; what it plans no longer, and has not begun, is gone."""
    begins = [each["begins_at"] for each in found]
    for row in rows(
        conn, "SELECT id, begins_at, ends_at FROM maintenance WHERE site = :site AND name <> ''", site=site
    ):
        if row["begins_at"] in begins or row["ends_at"] <= now:
            continue
        if row["begins_at"] > now:
            do(conn, "DELETE FROM maintenance WHERE id = :id", id=row["id"])
        else:  # ended early
            do(conn, "UPDATE maintenance SET ends_at = :now WHERE id = :id", id=row["id"], now=now)
    do_many(conn, _ADD, [{"site": site, "who": "", **each} for each in found])


def list_windows(conn: EngineTransaction, since: float) -> Sequence[Row]:
    """All that ends after a time, the earliest first."""
    return rows(conn, "SELECT * FROM maintenance WHERE ends_at > :since ORDER BY begins_at, site", since=since)


def sites_at(conn: EngineTransaction, now: float) -> dict[str, Row]:
    """The sites at which planned work goes on."""
    sql = "SELECT * FROM maintenance WHERE begins_at <= :now AND ends_at > :now ORDER BY ends_at"
    return {row["site"]: row for row in rows(conn, sql, now=now)}


def remove_work(conn: EngineTransaction, numbers: Iterable[int], now: float) -> None:
    """Remove planned work of the centre that has not begun; end what has."""
    for number in numbers:
        do(conn, "DELETE FROM maintenance WHERE id = :id AND begins_at > :now", id=number, now=now)
        do(conn, "UPDATE maintenance SET ends_at = :now WHERE id = :id AND ends_at > :now", id=number, now=now)


def prune(conn: EngineTransaction, now: float) -> None:
    do(conn, "DELETE FROM maintenance WHERE ends_at < :old", old=now - PLANS_KEPT_SECONDS)
