"""What comes in at the central office: numbers, ledgers, clocks, downtimes, notices; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.central.heartbeat import HeartbeatError, parse
from edge.central.intake import refuse_signature
from edge.central.sequence import SequenceResult
from edge.config.sections import SiteSection
from edge.monitor.engine import body
from edge.monitor.escalation import CLOSED, ESCALATED, OPENED
from edge.store.alert_records import AlertRecord
from edge.store.central import incidents
from edge.store.central.history import SPANS
from edge.store.engine import do
from edge.store.sqlite_file import migrations
from edge.text import iso
from tests.support.central_office import (
    MORNING,
    Office,
    OpenDatabase,
    document,
    encoded,
    some_sites,
    status,
    write_config,
)

MINUTE = 60.0


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(3)), store)
    store.close()


def heartbeats(office: Office, site: str, begin: int, end: int) -> None:
    for number in range(begin, end + 1):
        assert office.hear(site, number, MORNING + number * MINUTE) is SequenceResult.NEW


def gaps(office: Office) -> list[tuple[int, int]]:
    return [(row["first"], row["last"]) for row in office.rows("SELECT first, last FROM gap ORDER BY first")]


def test_numbers(office: Office) -> None:
    heartbeats(office, "1", 1, 2)
    assert office.hear("1", 2, MORNING + 2 * MINUTE) is SequenceResult.AGAIN
    assert office.hear("1", 9, MORNING + 9 * MINUTE) is SequenceResult.NEW
    assert gaps(office) == [(3, 8)]
    assert office.hear("1", 5, MORNING + 5 * MINUTE) is SequenceResult.FILLED
    assert gaps(office) == [(3, 4), (6, 8)]
    assert office.hear("1", 3, MORNING + 3 * MINUTE) is SequenceResult.FILLED
    assert office.hear("1", 5, MORNING + 5 * MINUTE) is SequenceResult.AGAIN
    assert gaps(office) == [(4, 4), (6, 8)]
    assert not office.incidents()
    assert office.hear("1", 5, MORNING + 5 * MINUTE + 1) is SequenceResult.REUSED
    assert [each["kind"] for each in office.incidents()] == ["number-reused"]


def test_what_was_thinned_is_no_gap(office: Office) -> None:
    heartbeats(office, "1", 1, 2)
    office.hear("1", 60, MORNING + 60 * MINUTE, covers=[3, 60])
    office.hear("1", 120, MORNING + 120 * MINUTE, covers=[70, 120])
    assert gaps(office) == [(61, 69)]


def test_a_site_that_lost_its_catalog_counts_anew(office: Office) -> None:
    heartbeats(office, "1", 1, 3)
    assert office.hear("1", 1, MORNING + 10 * MINUTE, boot="second") is SequenceResult.RESTARTED
    assert office.hear("1", 2, MORNING + 11 * MINUTE, boot="second") is SequenceResult.NEW
    assert [each["kind"] for each in office.incidents()] == ["history-restarted"]
    assert office.hear("1", 1, MORNING + MINUTE) is SequenceResult.REUSED, (
        "an old one, seen again, is not a new beginning"
    )


def test_a_rewritten_ledger_is_seen(office: Office) -> None:
    heartbeats(office, "1", 1, 3)
    heartbeats(office, "2", 1, 3)
    office.hear("1", 4, MORNING + 4 * MINUTE, ledger={"seq": 2, "head": "a" * 64})
    office.hear("2", 4, MORNING + 4 * MINUTE, ledger={"seq": 3, "head": "b" * 64})
    found = office.incidents()
    assert [(each["kind"], each["site"], each["severity"]) for each in found] == [
        ("ledger-rewritten", "1", "critical"),
        ("ledger-rewritten", "2", "critical"),
    ]
    assert "went back from entry 3 to 2" in found[0]["text"]


def test_a_clock_ahead_is_told_and_does_not_spoil_the_history(office: Office) -> None:
    office.hear("1", 1, MORNING)
    office.hear("1", 2, MORNING + 3600, now=MORNING + MINUTE)
    assert [each["kind"] for each in office.incidents(open_only=True)] == ["clock-skew"]
    assert office.rows("SELECT max(at) AS at FROM history_minute")[0]["at"] == MORNING + MINUTE
    office.hear("1", 3, MORNING + 2 * MINUTE)
    assert not office.incidents(open_only=True)


def test_a_refused_signature_is_seen_once_and_healed_by_a_good_one(office: Office) -> None:
    for now in (MORNING, MORNING + 1):
        with office.store.writing() as conn:
            refuse_signature(conn, "1", now)
    assert [each["kind"] for each in office.incidents(open_only=True)] == ["signature-refused"]
    office.hear("1", 1, MORNING + MINUTE)
    assert not office.incidents(open_only=True)


def test_history_is_kept_by_minute_hour_and_day(office: Office) -> None:
    for number in range(1, 181):
        used = 0.5 + number / 1000
        told = status(
            instances={"received": 10 * number, "stored_bytes": 1000 * number},
            storage={"used_fraction": used, "free_bytes": 1, "total_bytes": 1000},
        )
        office.hear("1", number, MORNING + number * MINUTE, status=told)
    found = [office.rows(f"SELECT count(*) AS n, sum(heartbeats) AS heartbeats FROM {table}")[0] for table in SPANS]
    assert [(row["n"], row["heartbeats"]) for row in found] == [(180, 180), (4, 180), (1, 180)]
    day = office.rows("SELECT * FROM history_day")[0]
    assert (round(day["used"]), day["total"], day["received"], day["received_bytes"]) == (680, 1000.0, 1790, 179_000)


DOWN_FROM, DOWN_TO = MORNING + 10 * MINUTE + 20, MORNING + 20 * MINUTE


def downtime_notice(event: str = "opened") -> dict[str, object]:
    """Of a downtime there is one notice, when it is over."""
    return {
        "notice": 1,
        "event": event,
        "kind": "unscheduled-downtime",
        "subject": "gateway",
        "severity": "major",
        "since": iso(DOWN_FROM),
        "at": iso(DOWN_TO),
        "ended": iso(DOWN_TO),
        "duration_seconds": DOWN_TO - DOWN_FROM,
        "text": "the gateway did not run",
        "means": "images waited at the scanners",
        "do": "nothing",
        "site": {"id": "1", "name": "Site 1"},
        "version": "1.0",
    }


def test_downtime_is_measured_and_agrees_with_the_sites_own_account(office: Office) -> None:
    heartbeats(office, "1", 1, 10)
    office.look(MORNING + 14 * MINUTE)
    assert [each["kind"] for each in office.incidents(open_only=True)] == ["site-down"]
    told = status(uptime_seconds=5.0)
    office.hear("1", 11, DOWN_TO + 5, boot="second", status=told, notices=[downtime_notice()])
    (outage,) = office.rows("SELECT * FROM outage")
    assert (outage["cause"], outage["down_from"], outage["down_to"]) == ("down", MORNING + 10 * MINUTE, DOWN_TO)
    assert (outage["reported_from"], outage["reported_to"]) == (DOWN_FROM, DOWN_TO)
    (incident,) = office.incidents()
    assert incident["closed_at"] == DOWN_TO + 5
    assert "that agrees with ours" in office.notes(incident["id"])[-1]


def test_a_downtime_too_short_to_be_missed_is_told_by_the_site_alone(office: Office) -> None:
    heartbeats(office, "1", 1, 19)
    told = status(uptime_seconds=5.0, downtimes=[{"from": iso(DOWN_FROM), "to": iso(DOWN_TO), "why": "power"}])
    office.hear("1", 20, DOWN_TO + 5, boot="second", status=told, notices=[downtime_notice()])
    (outage,) = office.rows("SELECT * FROM outage")
    assert (outage["reported_from"], outage["reported_to"], outage["down_from"]) == (DOWN_FROM, DOWN_TO, DOWN_FROM)
    assert [(each["kind"], each["closed_at"]) for each in office.incidents()] == [("unscheduled-downtime", DOWN_TO)]


def test_a_cut_link_is_no_downtime(office: Office) -> None:
    heartbeats(office, "1", 1, 10)
    office.look(MORNING + 14 * MINUTE)
    for number in range(11, 31):
        office.hear("1", number, MORNING + number * MINUTE, now=MORNING + 30 * MINUTE)
    (outage,) = office.rows("SELECT * FROM outage")
    assert (outage["cause"], outage["down_from"], outage["returned_at"]) == ("unreachable", None, MORNING + 30 * MINUTE)
    assert not office.incidents(open_only=True)


def test_a_silence_with_a_restart_is_downtime_however_short(office: Office) -> None:
    heartbeats(office, "1", 1, 10)
    office.look(MORNING + 14 * MINUTE)
    office.hear("1", 11, MORNING + 14 * MINUTE + 10, boot="second", status=status(uptime_seconds=120.0))
    (outage,) = office.rows("SELECT * FROM outage")
    assert (outage["cause"], outage["down_to"] - outage["down_from"]) == ("down", 130.0)


def test_a_crash_behind_a_cut_link_is_found_in_what_comes_later(office: Office) -> None:
    heartbeats(office, "1", 1, 10)
    office.look(MORNING + 14 * MINUTE)
    late = MORNING + 60 * MINUTE
    office.hear("1", 11, MORNING + 11 * MINUTE, now=late)
    office.hear("1", 12, MORNING + 30 * MINUTE, now=late, boot="second", status=status(uptime_seconds=1.0))
    (outage,) = office.rows("SELECT * FROM outage")
    assert (outage["cause"], outage["down_to"] - outage["down_from"]) == ("down", 19 * MINUTE - 1)


def test_notices_open_and_close_incidents(office: Office) -> None:
    opened = {**downtime_notice("opened"), "kind": "storage-filling", "notice": 7, "ended": None}
    office.hear("1", 1, MORNING, notices=[opened])
    office.hear("1", 2, MORNING + MINUTE, notices=[{**opened, "event": "escalated", "severity": "critical"}])
    (incident,) = office.incidents()
    assert (incident["kind"], incident["severity"], incident["site"]) == ("storage-filling", "critical", "1")
    assert incident["escalated_at"] == DOWN_TO
    office.hear("1", 3, MORNING + 2 * MINUTE, notices=[{**opened, "event": "closed", "ended": iso(DOWN_TO)}])
    assert [each["closed_at"] for each in office.incidents()] == [DOWN_TO]


def notice_of(number: int, event: str, *, alert: int = 12, since: float = MORNING, **changed: Any) -> dict[str, Any]:
    """What a gateway sends of one of its alerts: each notice has a number of its own."""
    found = AlertRecord(alert, "destination-down", "archive", "major", since, since, "It does not answer", "", "wait")
    ended = MORNING + 90 if event == CLOSED else None
    return body(number, event, replace(found, **changed), MORNING + 60, SiteSection("1", "Site 1", Path("data")), ended)


def test_each_notice_of_one_alert_is_about_the_same_incident(office: Office) -> None:
    office.hear("1", 1, MORNING, notices=[notice_of(31, OPENED)])
    office.hear("1", 2, MORNING + MINUTE, notices=[notice_of(40, ESCALATED, severity="critical")])
    office.hear("2", 1, MORNING + MINUTE, notices=[notice_of(1, OPENED)])
    (incident, other) = office.incidents(open_only=True)
    assert (incident["severity"], incident["escalated_at"]) == ("critical", MORNING + 60)
    office.hear("1", 3, MORNING + 2 * MINUTE, notices=[notice_of(41, CLOSED)])
    assert [(each["site"], each["closed_at"]) for each in office.incidents()] == [("1", MORNING + 90), ("2", None)]
    office.hear("1", 4, MORNING + 3 * MINUTE, notices=[notice_of(42, OPENED, alert=13)])
    assert [each["site"] for each in office.incidents(open_only=True)] == ["2", "1"], "the same again is another alert"
    assert len(office.incidents()) == 3
    again = notice_of(7, OPENED, alert=13, since=MORNING + MINUTE, subject="reader")
    office.hear("1", 5, MORNING + 4 * MINUTE, notices=[again])
    assert len(office.incidents()) == 4, "a site that has lost its catalog counts its alerts from the beginning"
    assert other["closed_at"] is None


def test_incidents_that_stayed_open_are_closed_by_an_upgrade(office: Office) -> None:
    kept = {"opened_at": MORNING, "severity": "major", "text": "x"}
    with office.store.writing() as conn:
        for number, subject in enumerate(("over", "over", "over", "open", "open", "alone"), 1):
            incidents.open_incident(conn, "lost", site="1", subject=subject, notice=str(number), **kept)
        incidents.close(conn, 3, MORNING + 60, "over")
        incidents.open_incident(conn, "site-down", subject="over", **kept)
        for statement in migrations("edge.store.central")[17].split(";"):
            if statement.strip():
                do(conn, statement)
    found = office.rows("SELECT id, closed_at, merged_into FROM incident ORDER BY id")
    assert [each["closed_at"] for each in found] == [MORNING + 60] * 3 + [None, MORNING, None, None]
    assert [each["merged_into"] for each in found] == [None] * 4 + [4, None, None]
    office.hear("1", 1, MORNING + 60, notices=[notice_of(9, CLOSED, kind="lost", subject="open")])
    assert [each["subject"] for each in office.incidents(open_only=True)] == ["alone", "over"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema": "edge-heartbeat/9"}, "$.schema"),
        ({"number": 0}, "$.number"),
        ({"status": {}}, "$.status"),
        ({"at": "yesterday"}, "$.at"),
        ({"site": None}, "$.site"),
    ],
)
def test_what_departs_from_the_schema_is_refused(change: dict[str, object], where: str) -> None:
    with pytest.raises(HeartbeatError) as caught:
        parse(encoded({**document("1", 1, MORNING), **change}))
    assert str(caught.value).startswith(where)
