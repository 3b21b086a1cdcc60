"""Incidents: what goes on, from open to closed, with the notes of those who work on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.central.store import Connection, Row, do, first, rows, value
from edge.errors import Permanent

#: How long a note may be.
MAX_NOTE = 4000


class NoIncident(Permanent):
    """There is no incident of this number, or it is closed."""


def open_incident(
    conn: Connection,
    kind: str,
    *,
    opened_at: float,
    severity: str,
    text: str,
    site: str | None = None,
    subject: str = "",
    means: str = "",
    todo: str = "",
    notice: str | None = None,
) -> int:
    """Open one; its number."""
    return int(
        value(
            conn,
            """
            INSERT INTO incident (kind, site, subject, severity, opened_at, text, means, todo, notice)
            VALUES (:kind, :site, :subject, :severity, :opened_at, :text, :means, :todo, :notice)
            RETURNING id
            """,
            kind=kind,
            site=site,
            subject=subject,
            severity=severity,
            opened_at=opened_at,
            text=text,
            means=means,
            todo=todo,
            notice=notice,
        )
    )


def open_once(conn: Connection, kind: str, site: str, **told: Any) -> int:
    """The open incident of this kind at a site; opened where there is none."""
    return standing(conn, kind, site) or open_incident(conn, kind, site=site, **told)


def standing(conn: Connection, kind: str, site: str) -> int | None:
    """The number of the open incident of this kind at a site."""
    found = value(
        conn,
        "SELECT id FROM incident WHERE site = :site AND kind = :kind AND closed_at IS NULL ORDER BY id LIMIT 1",
        site=site,
        kind=kind,
    )
    return None if found is None else int(found)


def note(conn: Connection, incident: int, at: float, who: str, text: str) -> None:
    """Write something beside it."""
    do(
        conn,
        "INSERT INTO incident_note (incident, at, who, text) VALUES (:incident, :at, :who, :text)",
        incident=incident,
        at=at,
        who=who,
        text=text[:MAX_NOTE],
    )


def acknowledge(conn: Connection, incident: int, at: float, who: str, text: str = "") -> None:
    """Somebody has seen it and works on it. Raises NoIncident."""
    _still_open(conn, incident)
    do(
        conn,
        "UPDATE incident SET acknowledged_at = :at WHERE id = :id AND acknowledged_at IS NULL",
        id=incident,
        at=at,
    )
    note(conn, incident, at, who, f"Acknowledged. {text}".strip())


def add_note(conn: Connection, incident: int, at: float, who: str, text: str) -> None:
    """A person's note; closed incidents take them as well. Raises NoIncident."""
    if first(conn, "SELECT id FROM incident WHERE id = :id", id=incident) is None:
        raise NoIncident(f"there is no incident {incident}")
    note(conn, incident, at, who, text)


def close_by_hand(conn: Connection, incident: int, at: float, who: str, text: str) -> None:
    """A person ends it. Raises NoIncident."""
    _still_open(conn, incident)
    close(conn, incident, at, f"Closed. {text}".strip(), who)


def close(conn: Connection, incident: int, at: float, text: str, who: str = "edge") -> None:
    """It has ended."""
    if do(conn, "UPDATE incident SET closed_at = :at WHERE id = :id AND closed_at IS NULL", id=incident, at=at):
        note(conn, incident, at, who, text)


def merge(conn: Connection, into: int, other: int, at: float) -> None:
    """Two turned out to be one; `other` is not counted any more."""
    do(conn, "UPDATE outage SET incident = :into WHERE incident = :other", into=into, other=other)
    do(
        conn,
        "UPDATE incident SET closed_at = :at, merged_into = :into WHERE id = :other",
        at=at,
        into=into,
        other=other,
    )
    note(conn, other, at, "edge", f"Part of incident {into}.")


def escalate(conn: Connection, incident: int, at: float, text: str) -> None:
    """It has been open for too long: the next ones must know."""
    do(conn, "UPDATE incident SET escalated_at = :at WHERE id = :id", at=at, id=incident)
    note(conn, incident, at, "edge", text)


def _still_open(conn: Connection, incident: int) -> None:
    row = first(conn, "SELECT closed_at FROM incident WHERE id = :id", id=incident)
    if row is None:
        raise NoIncident(f"there is no incident {incident}")
    if row["closed_at"] is not None:
        raise NoIncident(f"incident {incident} is closed already")


_FROM = """
SELECT incident.*, (SELECT count(*) FROM outage WHERE outage.incident = incident.id) AS sites
FROM incident
"""


def listing(conn: Connection, *, closed: bool = False, site: str | None = None, limit: int = 500) -> Sequence[Row]:
    """Open ones, worst and oldest first; or with those closed, the latest first."""
    return rows(
        conn,
        _FROM
        + """
        WHERE merged_into IS NULL
          AND (closed_at IS NULL OR :closed = 1)
          AND (:site = '' OR site = :site
               OR EXISTS (SELECT 1 FROM outage WHERE outage.incident = incident.id AND outage.site = :site))
        ORDER BY CASE WHEN closed_at IS NULL THEN 0 ELSE 1 END,
                 CASE WHEN closed_at IS NOT NULL THEN -opened_at END,
                 CASE severity WHEN 'critical' THEN 0 WHEN 'major' THEN 1 ELSE 2 END,
                 opened_at
        LIMIT :limit
        """,
        closed=int(closed),
        site=site or "",
        limit=limit,
    )


def one(conn: Connection, incident: int) -> Row | None:
    """One incident."""
    return first(conn, _FROM + " WHERE id = :id", id=incident)


def notes(conn: Connection, incident: int) -> Sequence[Row]:
    """What was written beside it, in order."""
    return rows(conn, "SELECT at, who, text FROM incident_note WHERE incident = :id ORDER BY id", id=incident)


def members(conn: Connection, incident: int) -> Sequence[Row]:
    """The sites that it is about, with their outages."""
    return rows(conn, "SELECT * FROM outage WHERE incident = :id ORDER BY silent_from, site", id=incident)
