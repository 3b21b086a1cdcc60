"""Whom the office tells what and when: escalation by the calendar, mail through a real SMTP server, the digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.central import incidents, notifications, prune
from edge.central.courier import Postman
from edge.central.store import Store, value
from edge.config.channels import subscribers
from edge.messaging.channels import for_subscribers
from edge.shares import CENTRE_MESSAGES, SITE_INCIDENTS
from edge.text import iso
from tests.central_office import MORNING, Office, some_sites, write_config
from tests.receivers import Authority, MailServer

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
CALENDAR = '[calendar]\ntime_zone = "UTC"\nholidays = ["01-06"]\n'


@pytest.fixture
def mails(tmp_path: Path) -> MailServer:
    return MailServer(Authority(tmp_path / "authority"), "none", None)


@pytest.fixture
def office(tmp_path: Path, database: str, mails: MailServer) -> Iterator[Office]:
    email = f'[email.mimso]\nhost = "127.0.0.1"\nport = {mails.port}\nsecurity = "none"\n'
    email += 'sender = "central@example.org"\nto = ["mimso@example.org"]\n'
    store = Store(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(3) + CALENDAR + email), store)
    store.close()


def look(office: Office, now: float) -> None:
    office.look(now)
    with office.store.writing() as conn:
        notifications.escalate(conn, office.config, now)
        notifications.announce(conn, office.config, now)


def waiting(office: Office) -> int:
    return int(office.rows("SELECT count(*) AS n FROM message")[0]["n"])


def deliver(office: Office) -> None:
    channels = for_subscribers(subscribers(office.config), office.config.directory)
    postman = Postman(office.store, channels)
    while any(postman.turn(name) for name in channels):
        pass


def test_an_outage_is_told_once_opened_and_once_closed_through_a_dead_mail_server(
    office: Office, mails: MailServer
) -> None:
    office.hear("1", 1, MORNING)
    look(office, MORNING + 4 * MINUTE)
    assert len(office.incidents()) == 1
    assert waiting(office) == 0, "others may be silent with it: that is worth waiting for"
    for minute in range(5, 10):
        look(office, MORNING + minute * MINUTE)
    deliver(office)
    assert waiting(office) == 1, "the mail server is away: it waits"
    office.hear("1", 2, MORNING + 10 * MINUTE, boot="second")
    look(office, MORNING + 10 * MINUTE)
    with office.store.writing() as conn:
        value(conn, "UPDATE message SET next_try = 0 RETURNING id")
    with mails:
        deliver(office)
    assert [str(each.content["subject"]) for each in mails.mails] == [
        "[Edge 1 central office] MAJOR: site down",
        "[Edge 1 central office] ended after 10 min: site down",
    ]
    assert waiting(office) == 0


@pytest.mark.parametrize(
    ("severity", "acknowledged", "days"),
    [("critical", False, 4 / 24), ("major", False, 2), ("minor", False, 8), ("critical", True, 8)],
)
def test_escalation_counts_business_days(office: Office, severity: str, acknowledged: bool, days: float) -> None:
    """From a Monday; the Tuesday is a holiday, and a weekend is in the five business days."""
    with office.store.writing() as conn:
        number = incidents.open_incident(conn, "clock-skew", site="1", opened_at=MORNING, severity=severity, text="x")
        if acknowledged:
            incidents.acknowledge(conn, number, MORNING, "ann")
    look(office, MORNING + days * DAY - 1)
    assert office.incidents()[0]["escalated_at"] is None
    look(office, MORNING + days * DAY)
    assert office.incidents()[0]["escalated_at"] == MORNING + days * DAY


def test_the_digest_is_mailed_once_a_day(office: Office, mails: MailServer) -> None:
    office.hear("1", 1, MORNING)
    seven = MORNING - 2 * HOUR
    for now in (seven - 1, seven, MORNING, MORNING + DAY):
        with office.store.writing() as conn:
            if notifications.digest_is_due(conn, office.config, now):
                notifications.send_digest(conn, office.config, now)
    assert waiting(office) == 2
    with mails:
        deliver(office)
    assert str(mails.mails[0].content["subject"]).startswith("[Edge central] 2026-01-05: ")
    assert "Open incidents: none" in mails.mails[1].content.get_content()


def test_old_rows_go(office: Office) -> None:
    for day in range(5):
        office.hear("1", day + 1, MORNING + day * DAY)
    prune.everything(office.store, MORNING + 4 * DAY)
    assert office.rows("SELECT min(at) AS at FROM history_minute")[0]["at"] >= MORNING + DAY
    assert office.rows("SELECT count(*) AS n FROM history_day")[0]["n"] == 5


def old_notice(number: int) -> dict[str, Any]:
    """One that has been open for a year: it escalates at once."""
    return {
        "notice": number,
        "event": "opened",
        "kind": "unknown-equipment",
        "subject": f"X{number}",
        "severity": "critical",
        "since": iso(MORNING - 365 * DAY + number),
        "at": iso(MORNING),
        "ended": None,
        "duration_seconds": None,
        "text": "Unknown equipment called.",
        "means": "",
        "do": "",
        "site": {"id": "1", "name": "Site 1"},
        "version": "1.0",
    }


def test_a_flood_of_notices_is_a_bounded_number_of_incidents_and_mails(office: Office) -> None:
    for beat in range(5):
        flood = [old_notice(1_000 * beat + number) for number in range(1_000)]
        office.hear("1", beat + 1, MORNING + beat, notices=flood)
        look(office, MORNING + beat)
    office.hear("2", 1, MORNING + 9, notices=[old_notice(1)])
    look(office, MORNING + 9)
    counts = {row["site"]: row["n"] for row in office.rows("SELECT site, count(*) AS n FROM incident GROUP BY site")}
    assert counts == {"1": SITE_INCIDENTS + 1, "2": 1}
    (left_out,) = [each for each in office.incidents() if each["kind"] == "notices-left-out"]
    assert "more than 50 new notices" in left_out["text"]
    mails = [json.loads(row["body"]) for row in office.rows("SELECT body FROM message ORDER BY id")]
    about = [each["site"]["id"] for each in mails]
    assert (about.count("1"), about.count("2")) == (CENTRE_MESSAGES.each, 1), "another site's is not left out"
    assert [("last one of the hour" in each["text"]) for each in mails if each["site"]["id"] == "1"].index(True) == 19
    office.hear("1", 6, MORNING + HOUR, notices=[old_notice(9_999)])
    look(office, MORNING + HOUR)
    assert waiting(office) > 21, "the next hour has its own"
