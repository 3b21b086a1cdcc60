"""Notifications of the centre: notices of incidents, escalation, the daily digest, the report of the month.

Each is posted to the outbox in the transaction of its cause; a courier of edge.messaging delivers it. Incidents that
sites reported are mailed by the sites themselves: here they are in the digest, and notified when they stay open for too
long.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from edge.central import fleet
from edge.central.config import CentralConfig
from edge.central.heartbeat import USUAL_SECONDS
from edge.central.monthly import fleet_letter, fleet_month, read_month
from edge.central.reports import QUESTIONS
from edge.central.sequence import MISSED
from edge.config import channels
from edge.config.alarms import ESCALATE, FINAL
from edge.errors import place_of
from edge.messaging.notice import LETTER
from edge.monitor.escalation import CLOSED, ESCALATED, OPENED, OpenCondition, notice_due
from edge.monitor.monthly import mail_is_due, month_of
from edge.monitor.notice_document import notice_json
from edge.monitor.workdays import day_moment, local
from edge.network.shares import CENTRE_MESSAGES
from edge.store import outbox
from edge.store.central import centre_state, incidents, outages
from edge.store.central.centre_state import count_in_hour, journal
from edge.store.engine import EngineError, EngineTransaction, Row
from edge.text import amount, iso, percent_exact, span

log = logging.getLogger(__name__)

#: A silence is notified after this time: it may become part of a greater one (seconds).
_SETTLE_SECONDS = 120.0
#: Lines of each part of the digest.
MOST_LINES = 20


def escalate_incidents(conn: EngineTransaction, config: CentralConfig, now: float) -> None:
    """Notify of open incidents that nobody acknowledges in time, and of those open for five business days anyway."""

    def work(each: Row) -> None:
        if notice_due(incident_condition(each), config.calendar, now) == ESCALATED:
            incidents.escalate(conn, each["id"], now, f"Escalated: open for {span(now - each['opened_at'])}.")
            _post_notice(conn, config, each, ESCALATED, now)

    _one_by_one(conn, incidents.list_unescalated(conn), work)


def incident_condition(incident: Row, notified: str | None = None, opens_at: float = 0.0) -> OpenCondition:
    """What decides when an incident is notified; omitted: as if it were, in its severity of now."""
    severity = incident["severity"]
    return OpenCondition(
        severity=severity,
        since=incident["opened_at"],
        term=ESCALATE.get(severity, FINAL),
        notified=severity if notified is None else notified,
        opens_at=opens_at,
        is_acknowledged=incident["acknowledged_at"] is not None,
        is_escalated=incident["escalated_at"] is not None,
    )


def _one_by_one(conn: EngineTransaction, found: Iterable[Row], work: Callable[[Row], None]) -> None:
    """Each for itself: a fault in the notice of one incident keeps no other waiting; the log has its place."""
    for each in found:
        try:
            with conn.savepoint():
                work(each)
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - one row must not end the notices of all others
            log.error("no notice of incident %d: %s", each["id"], place_of(error))


def announce(conn: EngineTransaction, config: CentralConfig, now: float) -> None:
    """Notify of the centre's own incidents that have opened or closed."""

    def post_opened(each: Row) -> None:
        settles_at = _settles_at(conn, each) if each["kind"] == "site-down" and each["closed_at"] is None else 0.0
        if notice_due(incident_condition(each, "", settles_at), config.calendar, now):
            _post_notice(conn, config, each, OPENED, now)
            incidents.describe_incident(conn, each["id"], opened_notice_at=now)

    def post_closed(each: Row) -> None:
        _post_notice(conn, config, each, CLOSED, now)
        incidents.describe_incident(conn, each["id"], closed_notice_at=now)

    _one_by_one(conn, incidents.list_opened_unnotified(conn), post_opened)
    _one_by_one(conn, incidents.list_closed_unnotified(conn), post_closed)


def _settles_at(conn: EngineTransaction, incident: Row) -> float:
    """When its last site has been known to be silent for _SETTLE_SECONDS, at least."""
    every = outages.longest_interval(conn, incident["id"]) or USUAL_SECONDS
    return float(incident["opened_at"] + MISSED * every + _SETTLE_SECONDS)


def _post_notice(conn: EngineTransaction, config: CentralConfig, incident: Row, event: str, now: float) -> None:
    """Write a notice into the channels that want it, as many as an hour takes (`shares`): the last one says so."""
    found = notice(config, incident, event, now)
    for name, subscriber in channels.subscribers(config):
        if channels.wants(subscriber, incident["kind"], incident["severity"], event):
            for queue in channels.queues(name, subscriber):
                if queue == incident["subject"]:
                    continue  # it says that this channel is stuck
                of_site = count_in_hour(conn, f"messages to {queue} of {incident['site'] or ''}", now)
                left = CENTRE_MESSAGES.each - of_site
                if left >= 0:
                    left = min(left, CENTRE_MESSAGES.all - count_in_hour(conn, f"messages to {queue}", now))
                if left >= 0:
                    body = found if left else {**found, "text": f"{found['text']} {_LAST_OF_HOUR}"}
                    outbox.post(conn, queue, "notice", now, json.dumps(body))


_LAST_OF_HOUR = "This is the last one of the hour, too many came: the page Incidents has all of them."


def notice(config: CentralConfig, incident: Row, event: str, now: float) -> dict[str, object]:
    """An incident in the form of a site's notice."""
    known = config.sites.get(incident["site"] or "")
    site = incident["site"] or "central", (known.name if known else "") or "central office"
    return notice_json(
        f"central-{incident['id']}",
        event,
        site,
        now,
        **{key: incident[key] for key in ("kind", "subject", "severity", "text", "means")},
        since=incident["opened_at"],
        ended=incident["closed_at"],
        do=incident["todo"],
    )


# -- what was refused for good -----------------------------------------------------------------------------------------


def retry_parked(conn: EngineTransaction, channel: str, who: str) -> int:
    """Send a channel's parked messages again. Returns how many."""
    count = outbox.unpark(conn, channel)
    journal(conn, who, f"{amount(count, 'message')} to {channel} will be sent again")
    return count


def discard_messages(conn: EngineTransaction, channel: str, who: str, *, parked_only: bool = True) -> int:
    """Delete a channel's parked messages, or all of them. Returns how many."""
    count = outbox.discard(conn, channel, parked_only)
    journal(conn, who, f"{amount(count, 'message')} to {channel} discarded")
    return count


# -- the digest --------------------------------------------------------------------------------------------------------


def send_due_digest(conn: EngineTransaction, config: CentralConfig, now: float) -> None:
    """Once a day, from the configured time on."""
    if digest_is_due(conn, config, now):
        send_digest(conn, config, now)


def digest_is_due(conn: EngineTransaction, config: CentralConfig, now: float) -> bool:
    """Is it past the hour, on a day that has had none?"""
    here = local(config.calendar, now)
    hours, minutes = config.central.digest.split(":")
    at = day_moment(config.calendar, here.date(), timedelta(hours=int(hours), minutes=int(minutes)).total_seconds())
    return now >= at and centre_state.state_value(conn, "digest") != here.date().isoformat()


def send_due_month(conn: EngineTransaction, config: CentralConfig, now: float) -> None:
    """Post the report of a month that is over, once, to each [email.NAME] with `monthly = true`.

    Where no report was ever mailed, the first is that of the month in which somebody asked for it.
    """
    queues = channels.monthly_channels(config)
    last = centre_state.state_value(conn, "month_mailed") if queues else None
    if not queues or (last is not None and not mail_is_due(last, config.calendar, now)):
        return
    month = month_of("", config.calendar, now)
    if last is not None:
        subject, text = fleet_letter(fleet_month(read_month(conn, month, now), config, month, now))
        for queue in queues:
            outbox.post(conn, queue, LETTER, now, json.dumps({"subject": subject, "text": text}))
    centre_state.set_state_value(conn, "month_mailed", month.name)


def send_digest(conn: EngineTransaction, config: CentralConfig, now: float) -> int:
    """Write the digest into every e-mail channel; how many there are."""
    day = local(config.calendar, now).date().isoformat()
    body = json.dumps(
        {"subject": f"[Edge central] {day}: {_headline(conn, config, now)}", "text": digest_text(conn, config, now)}
    )
    queues = [
        queue
        for name, subscriber in channels.subscribers(config)
        if isinstance(subscriber, channels.Email)
        for queue in channels.queues(name, subscriber)
    ]
    for queue in queues:
        outbox.post(conn, queue, LETTER, now, body)
    centre_state.set_state_value(conn, "digest", day)
    return len(queues)


def _headline(conn: EngineTransaction, config: CentralConfig, now: float) -> str:
    return fleet.summary(fleet.standings(conn, config, now))[1]


def digest_text(conn: EngineTransaction, config: CentralConfig, now: float) -> str:
    """The digest: what goes on, what is new, what comes."""
    parts = [_headline(conn, config, now) + ".", *_parts(conn, config, now)]
    return "\n\n".join(parts) + "\n\nIt names no patient.\n"


def _parts(conn: EngineTransaction, config: CentralConfig, now: float) -> Iterator[str]:
    found = incidents.listing(conn)
    yield _part("Open incidents", [_incident_line(each, now) for each in found])
    closed = incidents.list_closed_since(conn, now - 86400)
    yield _part("Closed since yesterday", [_incident_line(each, now) for each in closed])
    filling = QUESTIONS["filling"].ask(conn, config, now)
    lines = [f"{each['site']} {each['name']}: full in {span(each['full_in_seconds'])}" for each in filling]
    yield _part("Full within a week", lines)
    strange = QUESTIONS["equipment"].ask(conn, config, now)
    yield _part("Unregistered equipment", [_title_line(each) for each in strange])
    month = [each for each in QUESTIONS["downtime"].ask(conn, config, now) if each["month"] == iso(now)[:7]]
    worst = sorted(month, key=lambda each: each["available"])
    yield _part("Downtime this month", [_downtime_line(each) for each in worst])


def _part(title: str, lines: list[str]) -> str:
    shown = [f"  {each}" for each in lines[:MOST_LINES]]
    more = [f"  and {amount(len(lines) - MOST_LINES, 'more line')}"] if len(lines) > MOST_LINES else []
    return "\n".join([f"{title}: {len(lines) or 'none'}", *shown, *more])


def _incident_line(each: Row, now: float) -> str:
    ended = each["closed_at"]
    state = "closed" if ended else "ESCALATED" if each["escalated_at"] else "open"
    lasted = span((ended or now) - each["opened_at"])
    return f"{each['id']} {each['severity']} {each['kind']}, {state}, {lasted}: {each['text']}"


def _downtime_line(each: dict[str, Any]) -> str:
    down, available = span(each["down_seconds"]), percent_exact(each["available"])
    return f"{each['site']} {each['name']}: down {down}, available {available}"


def _title_line(each: dict[str, Any]) -> str:
    machine = f"{each['manufacturer']} {each['model']}".strip()
    return f"{each['site']} {each['name']}: {each['ae_title']} ({each['mark']}) {machine}".rstrip()
