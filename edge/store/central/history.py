"""Measurements of each site: by the minute for days, by the hour for 13 months, by the day indefinitely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.store.engine import EngineTransaction, Row, do, do_many, rows

#: The tables, and the seconds that one row of each stands for.
SPANS = {"history_minute": 60, "history_hour": 3600, "history_day": 86400}
#: Seconds for which the rows of a table are kept; those of the others stay.
KEPT = {"history_minute": 3 * 86400.0, "history_hour": 400 * 86400.0}

_ADD = """
INSERT INTO {table} AS kept
    (site, at, heartbeats, used, total, backlog, backlog_bytes, oldest, received, received_bytes)
VALUES (:site, :at, :heartbeats, :used, :total, :backlog, :backlog_bytes, :oldest, :received, :received_bytes)
ON CONFLICT (site, at) DO UPDATE SET
    heartbeats = kept.heartbeats + excluded.heartbeats,
    used = CASE WHEN kept.used > excluded.used THEN kept.used ELSE coalesce(excluded.used, kept.used) END,
    total = coalesce(excluded.total, kept.total),
    backlog = CASE WHEN kept.backlog > excluded.backlog THEN kept.backlog ELSE excluded.backlog END,
    backlog_bytes = CASE WHEN kept.backlog_bytes > excluded.backlog_bytes
                         THEN kept.backlog_bytes ELSE excluded.backlog_bytes END,
    oldest = CASE WHEN kept.oldest > excluded.oldest THEN kept.oldest ELSE excluded.oldest END,
    received = kept.received + excluded.received,
    received_bytes = kept.received_bytes + excluded.received_bytes
"""
_FLEET = """
SELECT at, count(*) AS sites, sum(used) AS used, sum(total) AS total, sum(backlog) AS backlog,
       max(oldest) AS oldest, sum(received) AS received, sum(received_bytes) AS received_bytes
FROM {table}
WHERE at >= :begin
GROUP BY at
ORDER BY at
"""
_SUMS = """
SELECT site, count(*) AS n, max(total) AS total, max(x) AS last,
       sum(x) AS sx, sum(x * x) AS sxx, sum(used) AS sy, sum(x * used) AS sxy,
       sum(came) AS sz, sum(x * came) AS sxz
FROM (
    SELECT site, total, used, CAST(received_bytes AS DOUBLE PRECISION) AS came,
           CAST(at - :begin AS DOUBLE PRECISION) / 86400 AS x
    FROM history_day
    WHERE at >= :begin AND used IS NOT NULL
) AS days
GROUP BY site
"""


def add_measurement(conn: EngineTransaction, at: float, measured: Mapping[str, Any]) -> None:
    """One measurement of a site, into its minute, hour and day. `measured`: the columns but `at` and `heartbeats`."""
    for table, seconds in SPANS.items():
        add_rows(conn, table, [{**measured, "at": int(at // seconds) * seconds, "heartbeats": 1}])


def add_rows(conn: EngineTransaction, table: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one of the SPANS; what is there already is added to."""
    do_many(conn, _ADD.format(table=table), found)


def list_measurements(conn: EngineTransaction, table: str, site: str, begin: float) -> Sequence[Row]:
    """One site's rows, in order."""
    sql = f"SELECT * FROM {table} WHERE site = :site AND at >= :begin ORDER BY at"
    return rows(conn, sql, site=site, begin=int(begin))


def sums_since(conn: EngineTransaction, begin: float) -> dict[str, Row]:
    """Sums by site for two straight lines over days: the bytes used, and the bytes received each day."""
    return {row["site"]: row for row in rows(conn, _SUMS, begin=int(begin))}


def list_fleet_measurements(conn: EngineTransaction, table: str, begin: float) -> Sequence[Row]:
    """All sites together, in order: what was used and came in, and what waited."""
    return rows(conn, _FLEET.format(table=table), begin=int(begin))


def sums_of_month(conn: EngineTransaction, begin: float, end: float) -> Sequence[Row]:
    """Sums by site: what came in between two times, and the most that waited."""
    sql = """
    SELECT site, sum(received) AS received, sum(received_bytes) AS received_bytes, max(backlog) AS backlog
    FROM history_day WHERE at >= :begin AND at < :end GROUP BY site
    """
    return rows(conn, sql, begin=int(begin), end=int(end))


def prune_site(conn: EngineTransaction, site: str, now: float) -> None:
    """Remove what is older than KEPT."""
    for table, seconds in KEPT.items():
        do(conn, f"DELETE FROM {table} WHERE site = :site AND at < :old", site=site, old=int(now - seconds))
