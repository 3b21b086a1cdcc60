"""What the office tells its people: mail and other notices of incidents, escalation, the daily digest.

Everything is written into the office's own outbox in the transaction of what it tells about; edge.central.post takes it
away. Incidents that sites told are mailed by the sites themselves: here they are in the digest, and told when they stay
open for too long.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from edge import __version__
from edge.central import fleet, incidents
from edge.central.config import Config
from edge.central.quota import count_in_hour
from edge.central.reports import QUESTIONS, exact
from edge.central.store import Connection, Row, do, rows, value
from edge.config import channels
from edge.config.alarms import ESCALATE, FINAL
from edge.errors import place_of
from edge.monitor.workdays import due, local, moment
from edge.shares import CENTRE_MESSAGES
from edge.text import counted, iso, iso_or_none, span

log = logging.getLogger(__name__)

#: A silence is told when it has had the time to become part of a greater one (seconds).
SETTLE_SECONDS = 120.0
DIGEST = "digest"
#: Lines of each part of the digest.
MOST_LINES = 20


def escalate(conn: Connection, config: Config, now: float) -> None:
    """Incidents that nobody looks after in time, and those open for five business days whoever does."""

    def work(each: Row) -> None:
        if now >= escalates_at(config, each):
            incidents.escalate(conn, each["id"], now, f"Escalated: open for {span(now - each['opened_at'])}.")
            _tell(conn, config, each, "escalated", now)

    _one_by_one(conn, rows(conn, "SELECT * FROM incident WHERE closed_at IS NULL AND escalated_at IS NULL"), work)


def _one_by_one(conn: Connection, found: Iterable[Row], work: Callable[[Row], None]) -> None:
    """Each for itself: one incident that cannot be told keeps no other waiting. The log has the place of the fault."""
    for each in found:
        try:
            with conn.begin_nested():
                work(each)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - one row must not end what is told of all others
            log.error("incident %d cannot be told: %s", each["id"], place_of(error))


def escalates_at(config: Config, incident: Row) -> float:
    """When an incident is escalated: by its severity, and once acknowledged only after five business days."""
    final = due(config.calendar, incident["opened_at"], FINAL)
    if incident["acknowledged_at"] is not None:
        return final
    return min(final, due(config.calendar, incident["opened_at"], ESCALATE.get(incident["severity"], FINAL)))


def announce(conn: Connection, config: Config, now: float) -> None:
    """Tell of the office's own incidents that have opened or closed."""

    def opened(each: Row) -> None:
        settled = each["kind"] != "site-down" or _seen_for(conn, each, now) >= SETTLE_SECONDS
        if each["closed_at"] is not None or settled:
            _tell(conn, config, each, "opened", now)
            do(conn, "UPDATE incident SET told_open_at = :now WHERE id = :id", now=now, id=each["id"])

    def closed(each: Row) -> None:
        _tell(conn, config, each, "closed", now)
        do(conn, "UPDATE incident SET told_close_at = :now WHERE id = :id", now=now, id=each["id"])

    _one_by_one(conn, rows(conn, _TO_OPEN), opened)
    _one_by_one(conn, rows(conn, _TO_CLOSE), closed)


_TO_OPEN = """
SELECT * FROM incident
WHERE told_open_at IS NULL AND notice IS NULL AND merged_into IS NULL
ORDER BY id
"""
_TO_CLOSE = """
SELECT * FROM incident
WHERE told_open_at IS NOT NULL AND told_close_at IS NULL AND closed_at IS NOT NULL AND merged_into IS NULL
ORDER BY id
"""


def _seen_for(conn: Connection, incident: Row, now: float) -> float:
    """For how long its last site has been known to be silent, at least."""
    every = value(
        conn,
        "SELECT max(site.every) FROM outage JOIN site ON site.id = outage.site WHERE outage.incident = :id",
        id=incident["id"],
    )
    return float(now - incident["opened_at"] - 3 * (every or 60.0))


def _tell(conn: Connection, config: Config, incident: Row, event: str, now: float) -> None:
    """Write a notice into the channels that want it, as many as an hour takes (edge.shares): the last one says so."""
    found = notice(config, incident, event, now)
    for name, subscriber in channels.subscribers(config):
        if channels.wants(subscriber, incident["kind"], incident["severity"], event):
            for queue in channels.queues(name, subscriber):
                of_site = count_in_hour(conn, f"messages to {queue} of {incident['site'] or ''}", now)
                left = CENTRE_MESSAGES.each - of_site
                if left >= 0:
                    left = min(left, CENTRE_MESSAGES.all - count_in_hour(conn, f"messages to {queue}", now))
                if left >= 0:
                    body = found if left else {**found, "text": f"{found['text']} {_LAST_OF_HOUR}"}
                    post(conn, queue, "notice", now, json.dumps(body))


_LAST_OF_HOUR = "This is the last one of the hour, too many came: the page Incidents has all of them."


def notice(config: Config, incident: Row, event: str, now: float) -> dict[str, object]:
    """An incident in the form of a site's notice."""
    known = config.sites.get(incident["site"] or "")
    ended = incident["closed_at"]
    return {
        "notice": f"central-{incident['id']}",
        "event": event,
        "kind": incident["kind"],
        "subject": incident["subject"],
        "severity": incident["severity"],
        "since": iso(incident["opened_at"]),
        "at": iso(now),
        "ended": iso_or_none(ended),
        "duration_seconds": None if ended is None else ended - incident["opened_at"],
        "text": incident["text"],
        "means": incident["means"],
        "do": incident["todo"],
        "site": {"id": incident["site"] or "central", "name": (known.name if known else "") or "central office"},
        "version": __version__,
    }


def post(conn: Connection, channel: str, kind: str, at: float, body: str) -> None:
    """Put a message into the outbox."""
    do(
        conn,
        "INSERT INTO message (channel, kind, at, body) VALUES (:channel, :kind, :at, :body)",
        channel=channel,
        kind=kind,
        at=at,
        body=body,
    )


# -- the digest --------------------------------------------------------------------------------------------------------


def digest_is_due(conn: Connection, config: Config, now: float) -> bool:
    """Is it past the hour, on a day that has had none?"""
    here = local(config.calendar, now)
    hours, minutes = config.central.digest.split(":")
    at = moment(config.calendar, here.date(), timedelta(hours=int(hours), minutes=int(minutes)).total_seconds())
    last = value(conn, "SELECT value FROM office WHERE name = 'digest'")
    return now >= at and last != here.date().isoformat()


def send_digest(conn: Connection, config: Config, now: float) -> int:
    """Write the digest into every e-mail channel; how many there are."""
    day = local(config.calendar, now).date().isoformat()
    body = json.dumps(
        {"subject": f"[Edge central] {day}: {headline(conn, config, now)}", "text": text(conn, config, now)}
    )
    queues = [
        queue
        for name, subscriber in channels.subscribers(config)
        if isinstance(subscriber, channels.Email)
        for queue in channels.queues(name, subscriber)
    ]
    for queue in queues:
        post(conn, queue, DIGEST, now, body)
    do(
        conn,
        """
        INSERT INTO office (name, value) VALUES ('digest', :day)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value
        """,
        day=day,
    )
    return len(queues)


def headline(conn: Connection, config: Config, now: float) -> str:
    return fleet.verdict(fleet.standings(conn, config, now))[1]


def text(conn: Connection, config: Config, now: float) -> str:
    """The digest: what goes on, what is new, what comes."""
    parts = [headline(conn, config, now) + ".", *_parts(conn, config, now)]
    return "\n\n".join(parts) + "\n\nIt names no patient.\n"


def _parts(conn: Connection, config: Config, now: float) -> Iterator[str]:
    found = incidents.listing(conn)
    yield _part("Open incidents", [_incident_line(each, now) for each in found])
    closed = rows(
        conn, "SELECT * FROM incident WHERE closed_at >= :since AND merged_into IS NULL ORDER BY id", since=now - 86400
    )
    yield _part("Closed since yesterday", [_incident_line(each, now) for each in closed])
    filling = QUESTIONS["filling"].ask(conn, config, now)
    told = [f"{each['site']} {each['name']}: full in {span(each['full_in_seconds'])}" for each in filling]
    yield _part("Full within a week", told)
    strange = QUESTIONS["equipment"].ask(conn, config, now)
    yield _part("Equipment that nobody registered", [_title_line(each) for each in strange])
    month = [each for each in QUESTIONS["downtime"].ask(conn, config, now) if each["month"] == iso(now)[:7]]
    worst = sorted(month, key=lambda each: each["available"])
    yield _part("Downtime this month", [_downtime_line(each) for each in worst])


def _part(title: str, lines: list[str]) -> str:
    shown = [f"  {each}" for each in lines[:MOST_LINES]]
    more = [f"  and {counted(len(lines) - MOST_LINES, 'more line')}"] if len(lines) > MOST_LINES else []
    return "\n".join([f"{title}: {len(lines) or 'none'}", *shown, *more])


def _incident_line(each: Row, now: float) -> str:
    ended = each["closed_at"]
    state = "closed" if ended else "ESCALATED" if each["escalated_at"] else "open"
    lasted = span((ended or now) - each["opened_at"])
    return f"{each['id']} {each['severity']} {each['kind']}, {state}, {lasted}: {each['text']}"


def _downtime_line(each: dict[str, Any]) -> str:
    down, available = span(each["down_seconds"]), exact(each["available"])
    return f"{each['site']} {each['name']}: down {down}, available {available}"


def _title_line(each: dict[str, Any]) -> str:
    machine = f"{each['manufacturer']} {each['model']}".strip()
    return f"{each['site']} {each['name']}: {each['ae_title']} ({each['mark']}) {machine}".rstrip()
