"""The central office survives a clock that leaps either way: nothing waits for a time that a wrong clock has set."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.central import service
from edge.central.clock import correct_times
from edge.central.config import CentralConfig
from edge.central.sequence import SequenceResult
from edge.store.central import open_store
from edge.store.engine import do
from tests.support.central_office import MORNING, Office, OpenDatabase, some_sites, status, write_config

YEAR = 365.25 * 86400.0
AHEAD = MORNING + 2 * YEAR


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(2)), store)
    store.close()


def written(office: Office, at: float) -> None:
    """One of everything that a time decides, as an office writes it whose clock says `at`."""
    office.hear("1", 1, at)
    office.look(at + 600)
    with office.store.writing() as conn:
        do(conn, "UPDATE incident SET escalated_at = :at, acknowledged_at = :at", at=at)
        do(
            conn,
            "INSERT INTO incident (kind, subject, severity, opened_at, closed_at, text, means, todo)"
            " VALUES ('x', '', 'minor', :at, :at, '', '', '')",
            at=at,
        )
        do(
            conn,
            "INSERT INTO message (channel, kind, at, body) VALUES ('email.x', 'notice', :at, '')",
            at=at,
        )
        do(conn, "UPDATE ledger SET proved_at = :at", at=at)
        do(
            conn,
            "INSERT INTO account (name, role, password, changed_at, signed_in_at, locked_until)"
            " VALUES ('ann', 'admin', '', :at, :at, :at + 900)",
            at=at,
        )


DECIDING = {
    "SELECT max(heard_at) AS at FROM site": 0.0,
    "SELECT max(at) AS at FROM site": 300.0,
    "SELECT max(opened_at) AS at FROM incident WHERE closed_at IS NULL": 0.0,
    "SELECT coalesce(max(escalated_at), 0) AS at FROM incident WHERE closed_at IS NULL": 0.0,
    "SELECT max(acknowledged_at) AS at FROM incident WHERE closed_at IS NULL": 0.0,
    "SELECT max(closed_at) AS at FROM incident": 0.0,
    "SELECT max(silent_from) AS at FROM outage": 0.0,
    "SELECT max(at) AS at FROM ledger": 0.0,
    "SELECT max(head_at) AS at FROM ledger": 0.0,
    "SELECT max(proved_at) AS at FROM ledger": 0.0,
    "SELECT max(changed_at) AS at FROM account": 0.0,
    "SELECT max(signed_in_at) AS at FROM account": 0.0,
    "SELECT coalesce(max(locked_until), 0) AS at FROM account": 86400.0,
    "SELECT coalesce(max(at), 0) AS at FROM history_minute": 300.0,
    "SELECT coalesce(max(at), 0) AS at FROM history_hour": 300.0,
    "SELECT coalesce(max(at), 0) AS at FROM history_day": 300.0,
}


def test_no_time_that_decides_lies_in_the_future(office: Office) -> None:
    written(office, AHEAD)
    with office.store.writing() as conn:
        assert correct_times(conn, MORNING)
    late = {sql: office.rows(sql)[0]["at"] for sql in DECIDING}
    assert {sql: at for sql, at in late.items() if at > MORNING + DECIDING[sql] + 5} == {}
    assert "had been ahead" in office.rows("SELECT text FROM journal")[0]["text"]


def test_what_a_right_clock_wrote_stays(office: Office) -> None:
    written(office, MORNING)
    with office.store.writing() as conn:
        assert correct_times(conn, MORNING + 600) == 0
        assert correct_times(conn, MORNING + 597) == 0, "clocks are set by seconds"


def test_a_site_that_counts_anew_is_taken_after_both_clocks_were_ahead(office: Office) -> None:
    office.hear("1", 5, AHEAD)
    with office.store.writing() as conn:
        correct_times(conn, MORNING)
    assert office.hear("1", 1, MORNING + 60, boot="second") is SequenceResult.RESTARTED


class Hands:
    """A clock and the time that has passed, both moved by the test."""

    def __init__(self) -> None:
        self.wall, self.passed = MORNING, 1000.0

    def go(self, seconds: float, leap: float = 0.0) -> None:
        self.passed += seconds
        self.wall += seconds + leap


class Running:
    """The office's watch, second by second, with a clock that the test moves."""

    def __init__(self, tmp_path: Path) -> None:
        self.hands = Hands()
        directory = tmp_path / "running"
        config = write_config(directory, some_sites(2))
        self.loop = asyncio.new_event_loop()
        self.opened = open_store(config.database_url())
        self.service = self.loop.run_until_complete(self.build(config))
        self.office = Office(config, OpenDatabase(config.database_url()))

    async def build(self, config: CentralConfig) -> service.CentralServer:
        store = await self.opened.__aenter__()
        return service.CentralServer(config, store, lambda: self.hands.wall, lambda: self.hands.passed)

    def close(self) -> None:
        self.service.close()
        self.office.store.close()
        self.loop.run_until_complete(self.opened.__aexit__(None, None, None))
        self.loop.close()

    def go(self, seconds: float, leap: float = 0.0) -> None:
        self.hands.go(seconds, leap)
        self.loop.run_until_complete(self.service.look())

    def silent(self) -> set[str]:
        return {row["site"] for row in self.office.rows("SELECT site FROM outage WHERE returned_at IS NULL")}


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        made = Running(tmp_path)
        yield made
        made.close()


@pytest.mark.parametrize("leap", [2 * YEAR, -2 * YEAR])
def test_a_leap_silences_nobody_and_hides_no_silence(running: Running, leap: float) -> None:
    running.office.hear("1", 1, running.hands.wall)
    running.office.hear("2", 1, running.hands.wall)
    running.go(1.0)
    running.go(1.0, leap)
    assert running.silent() == set()
    running.office.hear("2", 2, running.hands.wall, status=status())
    running.go(100.0)
    running.office.hear("2", 3, running.hands.wall)
    running.go(90.0)
    assert running.silent() == {"1"}


def test_an_office_whose_clock_was_ahead_before_its_start_sees_silence(running: Running) -> None:
    running.office.hear("1", 1, AHEAD)
    running.go(1.0)
    running.go(200.0)
    assert running.silent() == {"1"}


def test_a_leap_ahead_escalates_and_deletes_nothing_and_a_leap_back_delays_nothing(running: Running) -> None:
    running.office.hear("1", 1, running.hands.wall)
    for _ in range(4):
        running.go(100.0)
    (incident,) = running.office.incidents(open_only=True)
    running.go(1.0, 2 * YEAR)
    running.go(3600.0)
    assert running.office.rows("SELECT escalated_at AS at FROM incident")[0]["at"] is None
    assert running.office.rows("SELECT count(*) AS n FROM history_minute")[0]["n"] == 1
    running.go(1.0, -2 * YEAR)
    for _ in range(8 * 24):
        running.go(3600.0)
    assert running.office.rows("SELECT escalated_at AS at FROM incident WHERE id = :id", id=incident["id"])[0]["at"]


def test_a_notice_of_a_site_whose_clock_was_corrected_ends_the_same_incident(office: Office) -> None:
    told = {"notice": "7", "kind": "work-held", "subject": "archive", "severity": "minor", "text": "t"}
    opened = {**told, "event": "opened", "since": "2028-01-05T09:00:00Z", "at": "2028-01-05T09:00:00Z"}
    office.hear("1", 1, MORNING, notices=[opened])
    (incident,) = [each for each in office.incidents(open_only=True) if each["kind"] == "work-held"]
    assert incident["opened_at"] <= MORNING, "it is escalated in its time"
    closed = {
        **told,
        "event": "closed",
        "since": "2026-01-05T09:00:30Z",
        "at": "2026-01-05T09:01:00Z",
        "ended": "2026-01-05T09:01:00Z",
    }
    office.hear("1", 2, MORNING + 60, notices=[closed])
    assert [each for each in office.incidents(open_only=True) if each["kind"] == "work-held"] == []
    assert len([each for each in office.incidents() if each["kind"] == "work-held"]) == 1
