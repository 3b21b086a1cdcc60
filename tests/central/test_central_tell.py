"""Whom the office tells what and when: escalation by the calendar, mail through a real SMTP server, the digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from edge.central import notifications, prune, stuck_channels
from edge.config.channels import subscribers
from edge.messaging import Courier
from edge.messaging.channels import for_subscribers
from edge.messaging.notice import LETTER
from edge.network.shares import CENTRE_MESSAGES, SITE_INCIDENTS
from edge.store import outbox
from edge.store.central import incidents
from edge.store.engine import value
from edge.store.outbox import Message
from edge.store.sqlite_file import migrations
from edge.text import iso
from tests.support.central_office import MORNING, Office, OpenDatabase, some_sites, write_config
from tests.support.receivers import Authority, MailServer

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
CALENDAR = '[calendar]\ntime_zone = "UTC"\nholidays = ["01-06"]\n'


@pytest.fixture
def mails(tmp_path: Path) -> MailServer:
    return MailServer(Authority(tmp_path / "authority"), "none", None)


@pytest.fixture
def office(tmp_path: Path, database: str, mails: MailServer) -> Iterator[Office]:
    email = f'[email.mimso]\nhost = "127.0.0.1"\nport = {mails.port}\nsecurity = "none"\n'
    email += 'sender = "central@example.org"\nto = ["mimso@example.org"]\n'
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(3) + CALENDAR + email), store)
    store.close()


def look(office: Office, now: float) -> None:
    office.look(now)
    with office.store.writing() as conn:
        notifications.escalate_incidents(conn, office.config, now)
        notifications.announce(conn, office.config, now)


def waiting(office: Office) -> int:
    return int(office.rows("SELECT count(*) AS n FROM message")[0]["n"])


def deliver(office: Office) -> None:
    """Each channel once: what waits, until the first failure."""
    for name, channel in for_subscribers(subscribers(office.config), office.config.directory).items():
        courier = Courier(office.store, name, channel)
        courier.start()
        courier.stop()


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
    with mails:
        deliver(office)
    assert [str(each.content["subject"]) for each in mails.mails] == [
        "[Edge 1 central office] MAJOR: site down",
        "[Edge 1 central office] ended after 10 min: site down",
    ]
    assert waiting(office) == 0


def test_what_a_mail_server_refuses_for_good_is_parked_and_sent_again(office: Office, mails: MailServer) -> None:
    with office.store.writing() as conn:
        first = outbox.post(conn, "email.mimso/mimso@example.org", LETTER, MORNING, '{"subject": "a", "text": "x"}')
        outbox.post(conn, "email.mimso/mimso@example.org", LETTER, MORNING, '{"subject": "b", "text": "x"}')
    mails.answer = lambda recipient: "" if recipient or mails.mails else "554 looks like spam"
    with mails:
        deliver(office)
        with office.store.reading() as conn:
            parked = [each for each in outbox.lines(conn, 10) if each.parked_at]
        assert [each.id for each in parked][:1] == [first], "it is not dropped"
        assert "554" in parked[0].last_error
        mails.answer = lambda recipient: ""
        with office.store.writing() as conn:
            assert outbox.unpark(conn, "email.mimso/mimso@example.org") == len(parked)
        deliver(office)
    assert sorted(str(each.content["subject"]) for each in mails.mails) == ["a", "b"]
    assert waiting(office) == 0


def test_a_channel_with_parked_messages_is_an_incident_until_it_has_none(office: Office) -> None:
    def step(now: float) -> list[str]:
        with office.store.writing() as conn:
            stuck_channels.watch_channels(conn, now)
            notifications.announce(conn, office.config, now)
        return [f"{each['subject']}: {each['text']}" for each in office.incidents(open_only=True)]

    channel = "email.mimso/mimso@example.org"
    with office.store.writing() as conn:
        number = outbox.post(conn, channel, LETTER, MORNING, "{}")
    assert step(MORNING + HOUR) == [], "it waits for less than the limit"
    with office.store.writing() as conn:
        outbox.park(conn, Message(number, channel, LETTER, MORNING, "{}", 0), MORNING, "it answers 554")
    assert step(MORNING + HOUR) == [f"{channel}: 1 message to {channel} was refused permanently"]
    assert waiting(office) == 1, "its notice does not go into the channel that is stuck"
    with office.store.writing() as conn:
        notifications.retry_parked(conn, channel, "ann")
    assert step(MORNING + HOUR + 1) != [], "whether it is taken now is not known"
    with office.store.writing() as conn:
        outbox.remove_delivered(conn, [number])
        waits = outbox.post(conn, channel, LETTER, MORNING, "{}")
    assert step(MORNING + 1) == []
    assert "cannot be delivered, the oldest for 1 h" in step(MORNING + HOUR + 2)[0]
    with office.store.writing() as conn:
        outbox.remove_delivered(conn, [waits])
    assert step(MORNING + HOUR + 3) == []


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


def test_the_month_is_mailed_once(office: Office, mails: MailServer) -> None:
    office.config = replace(
        office.config, emails={name: replace(each, monthly=True) for name, each in office.config.emails.items()}
    )
    office.hear("1", 1, MORNING)
    february = MORNING + 27 * DAY - 2 * HOUR  # 2026-02-01, 07:00
    for now in (MORNING, february - 1, february, february + DAY):
        with office.store.writing() as conn:
            notifications.send_due_month(conn, office.config, now)
    assert waiting(office) == 1
    with mails:
        deliver(office)
    assert str(mails.mails[0].content["subject"]) == "[Edge central] the report of 2026-01"
    assert "1 site, available" in mails.mails[0].content.get_content()


def test_old_rows_go(office: Office) -> None:
    for day in range(5):
        office.hear("1", day + 1, MORNING + day * DAY)
    office.store.on_loop(lambda store: prune.prune_sites(store, MORNING + 4 * DAY))
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
        flood = [old_notice(1_000 * beat + number) for number in range(200)]
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


def test_a_database_of_before_keeps_its_messages(database: str) -> None:
    """One that has seen the first four migrations, which version 0.1.0 has."""
    scripts = migrations("edge.store.central")
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    own = {"sqlite": "INTEGER PRIMARY KEY", "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"}
    with engine.begin() as conn:
        for number in (1, 2, 3, 4):
            lines = [line.partition("--")[0] for line in scripts[number].splitlines()]
            script = "\n".join(lines).replace("$ID", own[conn.dialect.name]).replace("$CLUSTERED", "")
            for statement in filter(str.strip, script.split(";")):
                conn.exec_driver_sql(statement)
        conn.exec_driver_sql("CREATE TABLE migration (number INTEGER PRIMARY KEY)")
        conn.exec_driver_sql("INSERT INTO migration VALUES (1), (2), (3), (4)")
        conn.exec_driver_sql(
            "INSERT INTO message (channel, kind, at, body, attempts, next_try, last_error)"
            " VALUES ('email.x', 'notice', 5, '{}', 3, 99, 'away')"
        )
        conn.exec_driver_sql("INSERT INTO office (name, value) VALUES ('digest', '2026-01-05')")
        conn.exec_driver_sql("INSERT INTO beat (site, number, at, digest) VALUES ('1', 7, 5, 'ab')")
    engine.dispose()
    store = OpenDatabase(database)
    with store.reading() as conn:
        assert outbox.oldest(conn, "email.x", 9) == [Message(1, "email.x", "notice", 5.0, "{}", 3)]
        assert value(conn, "SELECT value FROM centre_state") == "2026-01-05"
        assert value(conn, "SELECT number FROM heartbeat") == 7
    store.close()
