"""Planned work at the centre: who is silent meanwhile raises nothing, and the reports count it as planned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.central import fleet
from edge.central.planning import choose_sites, parse_moment
from edge.central.reports import QUESTIONS
from edge.errors import EdgeError
from edge.store.central import maintenance
from edge.text import iso
from tests.support.central_office import MORNING, Office, OpenDatabase, some_sites, status, write_config
from tests.support.zones import CENTRAL_EUROPE, in_zone

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    sites = some_sites(3) + '\n[site."9"]\nkey = "9.key"\ntags = ["pilot"]\ncontact = "Ann"\n'
    yield Office(write_config(tmp_path / "conf.d", sites), store)
    store.close()


def plan(office: Office, site: str, begin: float, end: float) -> None:
    with office.store.writing() as conn:
        maintenance.plan_work(conn, [site], begin, end, "new firewall", "ann")


def state_of(office: Office, site: str, now: float) -> str:
    with office.store.reading() as conn:
        return next(each.word for each in fleet.standings(conn, office.config, now) if each.id == site)


def months(office: Office, now: float) -> list[dict[str, Any]]:
    with office.store.reading() as conn:
        return QUESTIONS["downtime"].ask(conn, office.config, now)


def test_a_site_in_planned_work_is_not_silent_until_it_ends(office: Office) -> None:
    office.hear("1", 1, MORNING)
    office.hear("2", 1, MORNING)
    plan(office, "1", MORNING, MORNING + HOUR)
    office.look(MORNING + 30 * MINUTE)
    assert [each["site"] for each in office.incidents()] == ["2"]
    office.look(MORNING + HOUR + 2 * MINUTE)  # it has three heartbeats' time to come back
    assert [each["site"] for each in office.incidents()] == ["2"]
    office.look(MORNING + HOUR + 4 * MINUTE)
    assert [each["site"] for each in office.incidents()] == ["2", "1"]


def test_the_fleet_says_that_it_is_maintenance(office: Office) -> None:
    alert = {"kind": "destination-down", "subject": "a", "severity": "major", "text": "x", "since": iso(MORNING)}
    office.hear("1", 1, MORNING, status=status(alerts=[alert]))
    assert state_of(office, "1", MORNING) == "major"
    plan(office, "1", MORNING - HOUR, MORNING + HOUR)
    assert state_of(office, "1", MORNING) == "maintenance"


def test_planned_work_of_the_site_itself_is_taken_and_given_up(office: Office) -> None:
    planned = {"name": "switch", "from": iso(MORNING + HOUR), "to": iso(MORNING + 2 * HOUR), "reason": "switch"}
    office.hear("1", 1, MORNING, status=status(maintenance=[planned]))
    office.hear("1", 2, MORNING + MINUTE, status=status(maintenance=[planned]))
    (row,) = office.rows("SELECT * FROM maintenance")
    assert (row["site"], row["who"], row["begins_at"]) == ("1", "", MORNING + HOUR)
    office.hear("1", 3, MORNING + 2 * MINUTE, status=status())
    assert office.rows("SELECT * FROM maintenance") == []


def test_planned_downtime_does_not_lessen_the_availability(office: Office) -> None:
    office.hear("1", 1, MORNING)
    plan(office, "1", MORNING, MORNING + HOUR)
    office.hear("1", 2, MORNING + 2 * HOUR, boot="another", status=status(uptime_seconds=10.0))
    (row,) = months(office, MORNING + 2 * HOUR)
    assert row["planned_seconds"] == pytest.approx(HOUR, abs=120)
    assert row["down_seconds"] == pytest.approx(HOUR, abs=120)


def test_a_typed_time_is_that_of_its_own_day_and_an_offset_counts(office: Office) -> None:
    typed = {"2026-07-01 22:00": "20:00", "2026-12-01T22:00": "21:00", "2026-07-01 22:00+00:00": "22:00"}
    with in_zone(CENTRAL_EUROPE):
        found = {text: iso(parse_moment(office.config, text).timestamp())[11:16] for text in typed}
    assert found == typed
    for text in ("", "tomorrow", "0001-01-01 00:00"):
        with pytest.raises(EdgeError):
            parse_moment(office.config, text)


def test_sites_are_chosen_by_number_and_tag(office: Office) -> None:
    assert choose_sites(office.config.sites, "1, 2", "pilot") == ["1", "2", "9"]
    assert choose_sites(office.config.sites, "all", "") == ["1", "2", "3", "9"]
    for text, tag in (("77", ""), ("", ""), ("", "none")):
        with pytest.raises(EdgeError):
            choose_sites(office.config.sites, text, tag)
