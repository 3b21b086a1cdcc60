"""The silences of the sites: since when, what each turned out to be, and the site's own report of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.store.engine import EngineTransaction, Row, do, do_many, find_value, first, rows, update_row, value

_ADD_DOWN = """
INSERT INTO outage (site, silent_from, returned_at, cause, down_from, down_to, why)
VALUES (:site, :begin, :end, 'down', :begin, :end, '')
"""
_AROUND = """
SELECT * FROM outage
WHERE site = :site AND silent_from <= :begin + :slack AND coalesce(returned_at, :end) >= :end - :slack
  AND (cause <> 'down' OR down_from IS NULL)
ORDER BY silent_from DESC
"""
_OVERLAPS = """
SELECT * FROM outage
WHERE site = :site AND reported_from IS NULL
  AND coalesce(down_from, silent_from) <= :end + :slack
  AND coalesce(down_to, returned_at, :end) >= :begin - :slack
ORDER BY silent_from DESC
"""
_SILENCES = """
SELECT outage.site, outage.silent_from, outage.incident, incident.closed_at, site.every
FROM outage JOIN site ON site.id = outage.site LEFT JOIN incident ON incident.id = outage.incident
WHERE returned_at IS NULL
"""


def begin_silence(conn: EngineTransaction, site: str, incident: int, since: float) -> None:
    """The dead-man switch: nothing came."""
    sql = "INSERT INTO outage (incident, site, silent_from, cause, why) VALUES (:incident, :site, :since, '', '')"
    do(conn, sql, incident=incident, site=site, since=since)


def end_outage(conn: EngineTransaction, site: str, now: float) -> Row | None:
    """End and return the site's outage: something came. As far as is known yet, only its link was cut."""
    ended = first(conn, "SELECT * FROM outage WHERE site = :site AND returned_at IS NULL", site=site)
    if ended is not None:
        update_row(conn, "outage", ended["id"], returned_at=now, cause="unreachable")
    return ended


def count_silent(conn: EngineTransaction, incident: int) -> int:
    """The sites of an incident that have not returned."""
    sql = "SELECT count(*) FROM outage WHERE incident = :id AND returned_at IS NULL"
    return int(value(conn, sql, id=incident))


def list_silences(conn: EngineTransaction) -> Sequence[Row]:
    """Each that has not ended, with its incident."""
    return rows(conn, _SILENCES)


def longest_interval(conn: EngineTransaction, incident: int) -> float | None:
    """The seconds between two heartbeats of the slowest site of an incident."""
    sql = "SELECT max(site.every) FROM outage JOIN site ON site.id = outage.site WHERE outage.incident = :id"
    return find_value(conn, sql, float, id=incident)


def add_down(conn: EngineTransaction, found: Iterable[Mapping[str, Any]]) -> None:
    """Downtimes that no silence showed: `site`, `begin`, `end`."""
    do_many(conn, _ADD_DOWN, list(found))


def find_around(conn: EngineTransaction, site: str, begin: float, end: float, slack: float) -> Row | None:
    """The latest silence in which a measured downtime is."""
    return first(conn, _AROUND, site=site, begin=begin, end=end, slack=slack)


def find_overlapping(conn: EngineTransaction, site: str, begin: float, end: float, slack: float) -> Row | None:
    """The latest outage that a downtime overlaps which the site reports."""
    return first(conn, _OVERLAPS, site=site, begin=begin, end=end, slack=slack)


def find_reported(conn: EngineTransaction, site: str, begin: float, end: float) -> Row | None:
    """The outage that has this very report already."""
    sql = "SELECT incident FROM outage WHERE site = :site AND reported_from = :begin AND reported_to = :end"
    return first(conn, sql, site=site, begin=begin, end=end)


def set_measured(conn: EngineTransaction, outage: int, begin: float, end: float) -> None:
    """Record that the site was down, as measured here."""
    update_row(conn, "outage", outage, cause="down", down_from=begin, down_to=end)


def set_reported(conn: EngineTransaction, outage: int, begin: float, end: float, why: str) -> None:
    """Record that the site was down, by its own report."""
    update_row(conn, "outage", outage, cause="down", reported_from=begin, reported_to=end, why=why)


def move_to_incident(conn: EngineTransaction, incident: int, other: int) -> None:
    """Move the outages of `other` to `incident`."""
    do(conn, "UPDATE outage SET incident = :into WHERE incident = :other", into=incident, other=other)


def list_outages_since(conn: EngineTransaction, begin: float, now: float) -> Sequence[Row]:
    """List those that lasted until `begin` or later."""
    return rows(conn, "SELECT * FROM outage WHERE coalesce(returned_at, :now) > :begin", now=now, begin=begin)


def list_of_site(conn: EngineTransaction, site: str, limit: int) -> Sequence[Row]:
    """One site's, the latest first."""
    sql = "SELECT * FROM outage WHERE site = :site ORDER BY silent_from DESC LIMIT :limit"
    return rows(conn, sql, site=site, limit=limit)


def list_of_incident(conn: EngineTransaction, incident: int) -> Sequence[Row]:
    """The sites that an incident is about, with their outages."""
    return rows(conn, "SELECT * FROM outage WHERE incident = :id ORDER BY silent_from, site", id=incident)
