"""Incidents: what goes on, from open to closed, with the notes of those who work on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.errors import Permanent
from edge.store.central import outages
from edge.store.engine import EngineTransaction, Row, do, find_value, first, rows, update_row, value

#: How long a note may be.
MAX_NOTE = 4000

_OPEN = """
INSERT INTO incident (kind, site, subject, severity, opened_at, text, means, todo, notice)
VALUES (:kind, :site, :subject, :severity, :opened_at, :text, :means, :todo, :notice)
RETURNING id
"""
#: The last line: one that was opened before 0.2, by the number of its first notice.
_OF_NOTICE = """
SELECT id FROM incident
WHERE site = :site AND kind = :kind AND subject = :subject
  AND (notice = :notice AND (opened_at = :since OR closed_at IS NULL)
       OR closed_at IS NULL AND opened_at = :since)
ORDER BY CASE WHEN opened_at = :since THEN 0 ELSE 1 END, id DESC LIMIT 1
"""
_FROM = """
SELECT incident.*, (SELECT count(*) FROM outage WHERE outage.incident = incident.id) AS sites
FROM incident
"""
_LIST = f"""{_FROM}
WHERE merged_into IS NULL
  AND (closed_at IS NULL OR :closed = 1)
  AND (:site = '' OR site = :site
       OR EXISTS (SELECT 1 FROM outage WHERE outage.incident = incident.id AND outage.site = :site))
ORDER BY CASE WHEN closed_at IS NULL THEN 0 ELSE 1 END,
         CASE WHEN closed_at IS NOT NULL THEN -opened_at END,
         CASE severity WHEN 'critical' THEN 0 WHEN 'major' THEN 1 ELSE 2 END,
         opened_at
LIMIT :limit
"""
_OPENED_UNNOTIFIED = """
SELECT * FROM incident
WHERE opened_notice_at IS NULL AND notice IS NULL AND merged_into IS NULL
ORDER BY id
"""
_CLOSED_UNNOTIFIED = """
SELECT * FROM incident
WHERE opened_notice_at IS NOT NULL AND closed_notice_at IS NULL AND closed_at IS NOT NULL AND merged_into IS NULL
ORDER BY id
"""


class NoIncident(Permanent):
    """There is no incident of this number, or it is closed."""


# -- from open to closed -----------------------------------------------------------------------------------------------


def open_incident(conn: EngineTransaction, kind: str, **columns: Any) -> int:
    """Open one; its number. `columns`: opened_at, severity, text, and what it has of the others of _OPEN."""
    given = {"site": None, "subject": "", "means": "", "todo": "", "notice": None, **columns}
    return int(value(conn, _OPEN, kind=kind, **given))


def open_once(conn: EngineTransaction, kind: str, site: str, **columns: Any) -> int:
    """The open incident of this kind at a site; opened where there is none."""
    return find_open(conn, kind, site) or open_incident(conn, kind, site=site, **columns)


def find_open(conn: EngineTransaction, kind: str, site: str) -> int | None:
    """The number of the open incident of this kind at a site."""
    sql = "SELECT id FROM incident WHERE site = :site AND kind = :kind AND closed_at IS NULL ORDER BY id LIMIT 1"
    return find_value(conn, sql, int, site=site, kind=kind)


def list_open_subjects(conn: EngineTransaction, kind: str) -> dict[str, int]:
    """The open incidents of a kind at the centre itself: the number of each by its subject."""
    sql = "SELECT subject, id FROM incident WHERE site IS NULL AND kind = :kind AND closed_at IS NULL"
    return {row["subject"]: row["id"] for row in rows(conn, sql, kind=kind)}


def find_of_notice(
    conn: EngineTransaction, site: str, notice: str, kind: str, subject: str, since: float
) -> int | None:
    """The number of the incident that a site's notice is about; `notice`: what all notices about it have in common."""
    return find_value(conn, _OF_NOTICE, int, site=site, notice=notice, kind=kind, subject=subject, since=since)


def note(conn: EngineTransaction, incident: int, at: float, who: str, text: str) -> None:
    """Write something beside it."""
    sql = "INSERT INTO incident_note (incident, at, who, text) VALUES (:incident, :at, :who, :text)"
    do(conn, sql, incident=incident, at=at, who=who, text=text[:MAX_NOTE])


def acknowledge(conn: EngineTransaction, incident: int, at: float, who: str, text: str = "") -> None:
    """Record that somebody has seen an incident and works on it. Raises NoIncident."""
    _still_open(conn, incident)
    sql = "UPDATE incident SET acknowledged_at = :at WHERE id = :id AND acknowledged_at IS NULL"
    do(conn, sql, id=incident, at=at)
    note(conn, incident, at, who, f"Acknowledged. {text}".strip())


def add_note(conn: EngineTransaction, incident: int, at: float, who: str, text: str) -> None:
    """A person's note; closed incidents take them as well. Raises NoIncident."""
    find_one(conn, incident)
    note(conn, incident, at, who, text)


def close_by_hand(conn: EngineTransaction, incident: int, at: float, who: str, text: str) -> None:
    """Close an incident for a person. Raises NoIncident."""
    _still_open(conn, incident)
    close(conn, incident, at, f"Closed. {text}".strip(), who)


def _still_open(conn: EngineTransaction, incident: int) -> None:
    if find_one(conn, incident)["closed_at"] is not None:
        raise NoIncident(f"incident {incident} is closed already")


def close(conn: EngineTransaction, incident: int, at: float, text: str, who: str = "edge") -> None:
    """Close an incident."""
    if do(conn, "UPDATE incident SET closed_at = :at WHERE id = :id AND closed_at IS NULL", id=incident, at=at):
        note(conn, incident, at, who, text)


def close_open(conn: EngineTransaction, kind: str, site: str, at: float, text: str) -> None:
    """The open incident of this kind at a site, where there is one, has ended."""
    if (found := find_open(conn, kind, site)) is not None:
        close(conn, found, at, text)


def merge(conn: EngineTransaction, into: int, other: int, at: float) -> None:
    """Two turned out to be one; `other` is not counted any more."""
    outages.move_to_incident(conn, into, other)
    update_row(conn, "incident", other, closed_at=at, merged_into=into)
    note(conn, other, at, "edge", f"Part of incident {into}.")


def escalate(conn: EngineTransaction, incident: int, at: float, text: str) -> None:
    """Record that an incident is escalated: it has been open for too long."""
    update_row(conn, "incident", incident, escalated_at=at)
    note(conn, incident, at, "edge", text)


def describe_incident(conn: EngineTransaction, incident: int, **columns: Any) -> None:
    """What is known of it by now: text, todo, severity, site (None where it is about several), its notices' times."""
    update_row(conn, "incident", incident, **columns)


# -- for people --------------------------------------------------------------------------------------------------------


def listing(
    conn: EngineTransaction, *, closed: bool = False, site: str | None = None, limit: int = 500
) -> Sequence[Row]:
    """Open ones, worst and oldest first; or with those closed, the latest first."""
    return rows(conn, _LIST, closed=int(closed), site=site or "", limit=limit)


def list_closed_since(conn: EngineTransaction, since: float) -> Sequence[Row]:
    sql = "SELECT * FROM incident WHERE closed_at >= :since AND merged_into IS NULL ORDER BY id"
    return rows(conn, sql, since=since)


def count_by_site(conn: EngineTransaction, begin: float, end: float) -> Sequence[Row]:
    """Count, by site, the incidents that opened between two times."""
    sql = """
    SELECT site, count(*) AS n FROM incident
    WHERE opened_at >= :begin AND opened_at < :end AND site IS NOT NULL AND merged_into IS NULL GROUP BY site
    """
    return rows(conn, sql, begin=begin, end=end)


def find_incident(conn: EngineTransaction, incident: int) -> Row | None:
    """One incident."""
    return first(conn, f"{_FROM} WHERE id = :id", id=incident)


def find_one(conn: EngineTransaction, incident: int) -> Row:
    """One incident. Raises NoIncident."""
    if (found := find_incident(conn, incident)) is None:
        raise NoIncident(f"there is no incident {incident}")
    return found


def notes(conn: EngineTransaction, incident: int) -> Sequence[Row]:
    """What was written beside it, in order."""
    return rows(conn, "SELECT at, who, text FROM incident_note WHERE incident = :id ORDER BY id", id=incident)


# -- notices about them ------------------------------------------------------------------------------------------------


def list_unescalated(conn: EngineTransaction) -> Sequence[Row]:
    """Every open incident that was not escalated."""
    return rows(conn, "SELECT * FROM incident WHERE closed_at IS NULL AND escalated_at IS NULL")


def list_opened_unnotified(conn: EngineTransaction) -> Sequence[Row]:
    """The centre's own of which no notice has said that they have opened."""
    return rows(conn, _OPENED_UNNOTIFIED)


def list_closed_unnotified(conn: EngineTransaction) -> Sequence[Row]:
    """List those whose opening was notified, and whose closing was not."""
    return rows(conn, _CLOSED_UNNOTIFIED)
