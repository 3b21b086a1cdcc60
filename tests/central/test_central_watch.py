"""The dead-man switch with a clock that the tests set: who is silent, and what is one incident."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.central.watch import Silence, group_silences
from tests.support.central_office import MORNING, Office, OpenDatabase, some_sites, status, write_config

MINUTE = 60.0


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(40)), store)
    store.close()


def silences(office: Office) -> int:
    return len([each for each in office.incidents(open_only=True) if each["kind"] == "site-down"])


def test_a_site_is_down_after_three_heartbeats_and_closes_when_it_returns(office: Office) -> None:
    office.hear("1", 1, MORNING)
    office.look(MORNING + 3 * MINUTE)
    assert not office.incidents()
    office.look(MORNING + 3 * MINUTE + 1)
    office.look(MORNING + 9 * MINUTE)
    (incident,) = office.incidents()
    assert (incident["kind"], incident["site"], incident["closed_at"]) == ("site-down", "1", None)
    office.hear("1", 2, MORNING + 10 * MINUTE)
    office.look(MORNING + 10 * MINUTE)
    (incident,) = office.incidents()
    assert incident["closed_at"] == MORNING + 10 * MINUTE


def test_a_site_that_was_stopped_says_so(office: Office) -> None:
    office.hear("1", 1, MORNING, status=status(state="draining"))
    office.look(MORNING + 5 * MINUTE)
    assert office.incidents()[0]["text"] == "1 was stopped at 2026-01-05 09:00 UTC"


def test_the_offices_own_absence_is_nobodys_silence(office: Office) -> None:
    office.hear("1", 1, MORNING)
    office.started = MORNING + 60 * MINUTE
    office.look(office.started + 2 * MINUTE)
    assert not office.incidents()
    office.look(office.started + 4 * MINUTE)
    assert silences(office) == 1


def go_silent(office: Office, apart: float) -> None:
    """Forty sites report for the last time, so many seconds after each other; the office looks every minute."""
    last = {MORNING + site * apart + site: str(site) for site in range(1, 41)}  # each at its own second
    for minute in range(int(max(last) - MORNING) // 60 + 6):
        now = MORNING + minute * MINUTE
        for at in [at for at in last if at < now]:
            office.hear(last.pop(at), 1, at)
        office.look(now)


def test_forty_together_are_one_incident(office: Office) -> None:
    go_silent(office, 0)
    (incident,) = office.incidents()
    assert "40 sites" in incident["text"]
    assert incident["severity"] == "critical"
    assert "the centre's own network" in incident["todo"]
    assert office.rows("SELECT count(*) AS n FROM outage WHERE incident = :id", id=incident["id"])[0]["n"] == 40
    for site in range(1, 40):
        office.hear(str(site), 100, MORNING + 30 * MINUTE)
    assert silences(office) == 1, "one of them is still silent"
    office.hear("40", 100, MORNING + 31 * MINUTE)
    assert silences(office) == 0


def test_forty_on_their_own_are_forty_incidents(office: Office) -> None:
    go_silent(office, 5 * MINUTE)
    found = office.incidents()
    assert len(found) == 40
    assert {each["site"] for each in found} == {str(site) for site in range(1, 41)}


def test_an_incident_closed_by_hand_does_not_open_again_before_the_site_returns(office: Office) -> None:
    from edge.store.central import incidents

    office.hear("1", 1, MORNING)
    office.look(MORNING + 5 * MINUTE)
    with office.store.writing() as conn:
        incidents.close_by_hand(conn, 1, MORNING + 6 * MINUTE, "ann", "The clinic moves house.")
    office.look(MORNING + 7 * MINUTE)
    assert len(office.incidents()) == 1
    office.hear("1", 2, MORNING + 60 * MINUTE)
    office.look(MORNING + 70 * MINUTE)
    assert silences(office) == 1


def silence(site: str, since: float, provider: str = "") -> Silence:
    return Silence(site, provider, since, MINUTE)


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ([], []),
        ([silence("a", 0), silence("b", 10)], [["a"], ["b"]]),
        ([silence("a", 0, "ACME"), silence("b", 10, "ACME")], [["a", "b"]]),
        ([silence("a", 0, "ACME"), silence("b", 10, "OTHER")], [["a"], ["b"]]),
        ([silence("a", 0, "ACME"), silence("b", 300, "ACME")], [["a"], ["b"]]),
        ([silence(str(n), n, f"P{n}") for n in range(5)], [["0", "1", "2", "3", "4"]]),
        ([silence(str(n), n * 200, f"P{n}") for n in range(5)], [["0"], ["1"], ["2"], ["3"], ["4"]]),
    ],
)
def test_what_belongs_together(given: list[Silence], groups: list[list[str]]) -> None:
    assert sorted([each.site for each in group] for group in group_silences(given)) == groups
