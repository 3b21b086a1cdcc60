"""The life of an alert: a table for each turn, then the watch on a real catalog with a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.config.alarms import ALERT_KINDS, CRITICAL, MAJOR, MINOR, OUTSIDERS, Alarm, Term, alarms
from edge.config.channels import Webhook
from edge.config.sections import Calendar
from edge.model import Disk
from edge.monitor import health
from edge.monitor.engine import AlertEngine, acknowledge_alert, condition_of, notice_new, transition
from edge.monitor.escalation import CLOSED, ESCALATED, OPENED, escalates_at
from edge.monitor.live import Link, Live
from edge.monitor.snapshot_model import Alert
from edge.monitor.status_document import status_json
from edge.network.shares import NOTICES_OF_OUTSIDERS
from edge.store import alert_records, outbox
from edge.store.alert_records import AlertRecord
from edge.store.database import Store, Transaction
from edge.text import moment_text
from tests.support.filled import CONFIG, Filled

MIN, HOUR, DAY = 60.0, 3600.0, 86400.0
NOW = 1_800_000_000.0  # a Friday, 08:00 UTC
ALARM = Alarm(MAJOR, "", after=5 * MIN, clear=2 * MIN)
UTC = Calendar(time_zone="UTC")
CAUSE = Alert("destination-down", "archive", MAJOR, NOW, "It does not answer", "nothing is lost", "wait")


def at(
    seconds: float, record: AlertRecord | None, cause: Alert | None = CAUSE, alarm: Alarm = ALARM
) -> tuple[Any, str]:
    """One look; what is new begins there."""
    known = record if record else notice_new(CAUSE, NOW)
    step = transition(known, cause, alarm, UTC, NOW + seconds)
    return step.record, step.event


TOLD = replace(notice_new(CAUSE, NOW), id=1, notified=MAJOR)


@pytest.mark.parametrize(
    ("seconds", "told", "event"), [(0, "", ""), (4 * MIN, "", ""), (5 * MIN, MAJOR, OPENED), (HOUR, MAJOR, OPENED)]
)
def test_it_is_told_once_it_has_held(seconds: float, told: str, event: str) -> None:
    record, found = at(seconds, None)
    assert (record.notified, found) == (told, event)


def test_what_began_long_before_it_was_noticed_has_held() -> None:
    old = notice_new(replace(CAUSE, since=NOW - HOUR), NOW)
    assert transition(old, CAUSE, ALARM, UTC, NOW).event == OPENED


def test_what_went_before_it_had_held_is_forgotten() -> None:
    record, event = at(MIN, None, None)
    assert (record.cleared_at, event) == (NOW + MIN, "")
    assert at(4 * MIN, record, None) == (None, "")


def test_a_flapping_cause_holds_as_long_as_its_pauses_are_short() -> None:
    record, _ = at(MIN, None, None)
    record, event = at(2 * MIN, record)
    assert (record.cleared_at, event) == (None, "")
    assert at(5 * MIN, record)[1] == OPENED
    record, event = at(6 * MIN, TOLD, None)
    assert event == ""
    record, event = at(7 * MIN, record)
    assert (record.cleared_at, event) == (None, "")


def test_it_ends_when_its_cause_stays_away_and_lasted_until_then() -> None:
    record, event = at(HOUR, TOLD, None)
    assert (record.ended_at, event) == (None, "")
    record, event = at(HOUR + 2 * MIN, record, None)
    assert (record.ended_at, event) == (NOW + HOUR, CLOSED)


def test_the_same_news_is_told_once_and_worse_news_again() -> None:
    assert at(HOUR, TOLD)[1] == ""
    record, event = at(HOUR, TOLD, replace(CAUSE, severity=CRITICAL))
    assert (record.notified, event) == (CRITICAL, ESCALATED)
    assert at(2 * HOUR, record)[1] == ""  # back to major: no news
    assert at(3 * HOUR, record, replace(CAUSE, severity=CRITICAL))[1] == ""


def test_what_gets_worse_after_the_term_of_its_new_severity_is_notified_once() -> None:
    minor, worse = replace(TOLD, severity=MINOR, notified=MINOR), replace(CAUSE, severity=CRITICAL)
    record, event = at(5 * HOUR, minor, worse)
    assert (record.notified, record.escalated_at, event) == (CRITICAL, NOW + 5 * HOUR, ESCALATED)
    assert at(5 * HOUR + 5, record, worse)[1] == "", "not again at the next look"
    record, event = at(HOUR, minor, worse)
    assert (record.escalated_at, event) == (None, ESCALATED)
    assert at(4 * HOUR, record, worse)[1] == ESCALATED, "it stays"


@pytest.mark.parametrize(
    ("severity", "hours"),
    [(CRITICAL, 4), (MAJOR, 72), (MINOR, 7 * 24)],  # NOW is a Friday: one business day, five business days
)
def test_what_stays_is_escalated_once(severity: str, hours: float) -> None:
    record, cause = replace(TOLD, severity=severity, notified=severity), replace(CAUSE, severity=severity)
    assert at(hours * HOUR - 1, record, cause)[1] == ""
    record, event = at(hours * HOUR, record, cause)
    assert (record.escalated_at, event) == (NOW + hours * HOUR, ESCALATED)
    assert at(hours * HOUR + DAY, record, cause)[1] == ""


def test_what_somebody_deals_with_is_escalated_after_five_business_days() -> None:
    seen = replace(TOLD, acknowledged_at=NOW + HOUR, acknowledged_by="anna")
    assert at(72 * HOUR, seen)[1] == ""
    assert at(7 * 24 * HOUR, seen)[1] == ESCALATED
    assert escalates_at(condition_of(seen, replace(ALARM, term=Term(days=10))), UTC) == NOW + 14 * DAY


def test_what_the_site_switches_off_ends() -> None:
    record, _ = at(HOUR, TOLD, CAUSE, replace(ALARM, enabled=False, clear=0.0))
    assert record.ended_at == NOW + HOUR


EVENT = replace(CAUSE, kind="unscheduled-downtime", ended=NOW + MIN)
EVENTS = replace(ALARM, event=True, after=0.0)


def test_an_event_is_told_once_and_ends_in_silence() -> None:
    record, event = at(HOUR, None, EVENT, EVENTS)
    assert event == OPENED
    assert at(2 * HOUR, record, EVENT, EVENTS) == (record, "")
    assert at(3 * HOUR, record, None, EVENTS)[1] == ""
    assert at(3 * HOUR, record, None, EVENTS)[0].ended_at is not None
    seen = replace(record, acknowledged_at=NOW + 2 * HOUR)
    assert at(2 * HOUR, seen, EVENT, EVENTS)[0].ended_at == NOW + MIN
    another = replace(EVENT, since=NOW + HOUR)
    assert at(2 * HOUR, record, another, EVENTS)[0].ended_at == NOW + MIN


# On a catalog.


class Watched:
    """A store, a watch, and a clock that is moved by hand."""

    def __init__(self, tmp_path: Path) -> None:
        self.now, self.live = NOW, Live("running", uptime_seconds=10.0)
        self.told: list[dict[str, Any]] = []
        self.filled = Filled(tmp_path, CONFIG + '[calendar]\ntime_zone = "UTC"\n')
        self.filled.config = replace(self.filled.config, webhooks={"chat": Webhook("chat", "https://x.example.org/")})
        self.begin()

    def begin(self) -> None:
        """A watch, as after a start."""
        self.watch = AlertEngine(self.db, lambda: self.filled.config, self.seen, clock=lambda: self.now)

    @property
    def db(self) -> Store:
        return self.filled.db

    def seen(self) -> health.Snapshot:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.filled.config, Disk(10**9, 5 * 10**8), self.live, self.now)

    def down(self, is_down: bool = True) -> None:
        link = Link("down" if is_down else "up")
        self.live = replace(self.live, destinations={"archive": link})
        since = "INSERT OR REPLACE INTO destination (name, state, since) VALUES ('archive', 'down', ?)"
        if is_down:
            self.filled.execute(since, self.now)

    def look(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """Some time later: what was posted then, and taken away at once."""
        self.now += seconds
        self.watch.evaluate()
        posted = self.db.write(self._deliver)
        self.told += posted
        return posted

    @staticmethod
    def _deliver(conn: Transaction) -> list[dict[str, Any]]:
        waiting = outbox.oldest(conn, "webhook.chat", 100)
        outbox.remove_delivered(conn, [message.id for message in waiting])
        return [json.loads(message.body) for message in waiting]

    def open(self) -> list[AlertRecord]:
        with self.db.reading() as conn:
            return alert_records.records(conn)

    def acknowledge(self, number: int | None, note: str = "seen") -> None:
        assert number is not None
        self.db.write(lambda conn: acknowledge_alert(conn, number, "anna", note, self.now))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.filled.close()


def events(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["event"], each["kind"]) for each in found]


def test_from_the_outage_to_its_end_over_a_restart(site: Watched) -> None:
    assert site.look() == []
    site.down()
    assert site.look() == []
    assert [alert.kind for alert in site.seen().alerts] == ["destination-down"]  # the status says it at once
    (opened,) = site.look(6 * MIN)
    assert opened | {"event": "opened", "kind": "destination-down", "subject": "archive", "severity": "major"} == opened
    assert (opened["since"], opened["at"]) == ("2027-01-15T08:00:00Z", "2027-01-15T08:06:00Z")
    assert (opened["directive"], opened["ended"], opened["duration_seconds"]) == ("connection", None, None)
    assert opened["text"] == "Destination archive does not answer."
    assert opened["means"] == "Nothing waits for it yet."
    assert opened["do"] == "Try `edge echo archive`."
    (number,) = [each.id for each in site.open()]
    site.begin()
    assert site.look(HOUR) == []
    assert [each.id for each in site.open()] == [number]
    site.down(False)
    assert site.look(MIN) == []
    (closed,) = site.look(3 * MIN)
    assert (closed["event"], closed["ended"]) == ("closed", "2027-01-15T09:07:00Z")
    assert closed["duration_seconds"] == 67 * MIN
    assert closed["alert"] == opened["alert"] == number
    assert site.open() == []
    assert site.look(HOUR) == []


def test_the_status_knows_the_number_and_who_has_seen_it(site: Watched) -> None:
    site.down()
    site.look(6 * MIN)
    site.acknowledge(site.open()[0].id, "ticket for CANARY^PATIENT")
    (alert,) = status_json(site.seen())["alerts"]
    assert (alert["id"], alert["acknowledged"], alert["escalated"]) == (site.open()[0].id, "anna", False)
    site.look(5 * DAY)
    (escalated,) = site.look(3 * DAY)
    assert (escalated["event"], escalated["acknowledged"]) == ("escalated", "anna")
    assert "CANARY" not in json.dumps(site.told) + json.dumps(status_json(site.seen()))


def test_a_downtime_is_told_once_and_a_second_one_again(site: Watched) -> None:
    def fell(began: float, ended: float) -> None:
        site.filled.execute(
            "INSERT INTO downtime (began, ended, why, planned) VALUES (?, ?, 'killed', 0)", began, ended
        )

    fell(NOW - 100, NOW - 10)
    (told,) = site.look()
    assert (told["kind"], told["event"], told["directive"]) == ("unscheduled-downtime", "opened", "downtime")
    assert (told["duration_seconds"], told["ended"]) == (90.0, "2027-01-15T07:59:50Z")
    site.begin()
    assert site.look(MIN) == []
    fell(NOW + 600, NOW + 700)
    assert events(site.look(12 * MIN) + site.look(5)) == [("opened", "unscheduled-downtime")]
    site.acknowledge(site.open()[0].id)
    site.look(5)
    assert site.seen().alerts == ()
    assert site.look(2 * DAY) == []


def test_a_gateway_that_cannot_stay_up_is_told_once(site: Watched) -> None:
    for n in range(20):
        site.filled.execute(
            "INSERT INTO downtime (began, ended, why, planned) VALUES (?, ?, 'crash', 0)",
            NOW + 30 * n,
            NOW + 30 * n + 5,
        )
        site.now = NOW + 30 * n + 6
        site.look()
    assert events(site.told) == [("opened", "unscheduled-downtime")]
    (alert,) = site.seen().alerts
    begin, end = moment_text(1_800_000_000.0), moment_text(1_800_000_575.0)
    assert f"from {begin} to {end}" in alert.text


def test_new_equipment_is_told_with_its_make(site: Watched) -> None:
    site.filled.execute(
        "INSERT INTO peer (ae_title, address, admitted, modality, first_seen, last_seen, manufacturer, model)"
        " VALUES ('CT1', '10.0.0.1', 1, 'ct1', ?, ?, 'ACME', 'Scan-O-Matic')",
        NOW,
        NOW,
    )
    assert site.look(MIN) == []
    (told,) = site.look(2 * MIN)
    assert (told["kind"], told["directive"]) == ("new-modality", "equipment")
    assert told["text"] == 'New equipment "CT1" at 10.0.0.1 (ACME Scan-O-Matic) called for the first time.'
    assert site.look(8 * DAY) == []
    assert site.open() == []


def test_what_is_acknowledged_in_quarantine_is_settled_and_the_next_is_new(site: Watched) -> None:
    site.filled.receive(2)
    site.filled.execute("UPDATE delivery SET state = 'confirmed', confirmed_at = 1")
    site.filled.execute("UPDATE instance SET state = 'quarantined' WHERE id = 1")
    assert events(site.look()) == [("opened", "quarantine")]
    site.acknowledge(site.open()[0].id, "a broken header, sent again")
    assert events(site.look(5)) == [("closed", "quarantine")]
    assert (
        site.filled.one("SELECT words(event, detail, payload) FROM ledger WHERE event = 'settled'")
        == "a broken header, sent again"
    )
    assert site.look(DAY) == []
    site.filled.execute("UPDATE instance SET state = 'quarantined' WHERE id = 2")
    assert events(site.look(5)) == [("opened", "quarantine")]
    assert site.seen().alerts[0].what.startswith("1 image ")


def test_a_lost_file_that_comes_back_and_is_lost_again_is_told_again(site: Watched) -> None:
    site.filled.receive(1)
    site.filled.execute("UPDATE delivery SET queued_at = ?", NOW)
    site.filled.execute("UPDATE instance SET state = 'lost'")
    assert events(site.look()) == [("opened", "lost")]
    site.acknowledge(site.open()[0].id)
    site.look(5)
    site.filled.execute("UPDATE instance SET state = 'stored'")
    site.filled.execute("UPDATE instance SET state = 'lost'")
    assert events(site.look(5)) == [("opened", "lost")]


def test_what_is_over_cannot_be_acknowledged(site: Watched) -> None:
    site.down()
    site.look(6 * MIN)
    number = site.open()[0].id
    site.down(False)
    site.look(MIN)
    site.look(5 * MIN)
    for wrong in (number, 999):
        with pytest.raises(alert_records.NoSuchAlert):
            site.acknowledge(wrong)


def test_a_site_may_want_it_otherwise(site: Watched) -> None:
    text = '[alert.destination-down]\nafter = "1h"\nseverity = "critical"\nescalate = "2 business days"\n'
    (site.filled.directory / "alerts.toml").write_text(text)
    from edge.config import load_config

    rules = alarms(load_config(site.filled.directory).alerts)
    alarm = rules["destination-down"]
    assert (alarm.after, alarm.fixed, alarm.term, alarm.clear) == (3600.0, CRITICAL, Term(days=2), 2 * MIN)
    assert rules["backlog-old"] == ALERT_KINDS["backlog-old"]
    site.filled.config = replace(site.filled.config, alerts=load_config(site.filled.directory).alerts)
    site.down()
    assert site.seen().alerts[0].severity == CRITICAL
    assert site.look(30 * MIN) == []
    assert events(site.look(31 * MIN)) == [("opened", "destination-down")]


def test_notices_are_kept_in_order_for_whoever_asks(site: Watched) -> None:
    site.down()
    site.look(6 * MIN)
    site.down(False)
    site.look(MIN)
    site.look(5 * MIN)
    with site.db.reading() as conn:
        found = alert_records.notices(conn)
        assert [json.loads(body)["event"] for _, body in found] == ["opened", "closed"]
        assert alert_records.notices(conn, after=found[0][0]) == found[1:]


def test_a_flood_of_callers_posts_a_bounded_number_of_notices_and_hides_nothing_else(site: Watched) -> None:
    for minute in range(30):
        for number in range(20):
            site.filled.execute(
                "INSERT INTO peer (ae_title, address, admitted, first_seen, last_seen) VALUES (?, '10.0.0.1', 0, ?, ?)",
                f"X{minute}-{number}",
                site.now,
                site.now,
            )
        site.look(MIN)
        site.filled.execute("DELETE FROM peer")
        site.look(MIN)
    assert len(site.told) == NOTICES_OF_OUTSIDERS
    assert "last notice of its kind for an hour" in site.told[-1]["means"]
    site.db.write(lambda conn: alert_records.forget_ended(conn, OUTSIDERS, 7))
    assert site.filled.one("SELECT count(*) FROM alert WHERE ended_at IS NOT NULL") == 7
    assert not site.filled.one("SELECT count(*) FROM notice WHERE alert_id NOT IN (SELECT id FROM alert)")
    site.down()
    site.look()
    assert events(site.look(6 * MIN)) == [("opened", "destination-down")]
    site.filled.execute(
        "INSERT INTO peer (ae_title, address, admitted, first_seen, last_seen) VALUES ('NEW', '10.0.0.1', 0, ?1, ?1)",
        site.now + HOUR,
    )
    assert ("opened", "unknown-equipment") in events(site.look(HOUR))
