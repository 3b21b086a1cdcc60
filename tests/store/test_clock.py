"""A clock that was wrong decides nothing: what waited for its times waits no longer, and nothing expires early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from edge.store import clock
from edge.store.clock import Waits, Watch, correct
from edge.store.database import Transaction, connect, migrate
from edge.text import age
from tests.support.objects import ct_files
from tests.support.peers import Edge, free_port, storescu, wait_until
from tests.support.scripted import ScriptedScp, answer_with
from tests.support.set_clock import SetClock

NOW = 1_800_000_000.0
YEAR = 365.25 * 86400.0
WAITS = Waits(retry=4320.0, lease=600.0, report=3600.0)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Transaction]:
    with closing(connect(tmp_path / "catalog.db")) as conn:
        migrate(conn)
        conn.execute("INSERT INTO kind VALUES (1, '1.2', '1.2')")
        yield conn


def written(conn: Transaction, at: float) -> None:
    """One of everything that a time decides, as a gateway writes it whose clock says `at`."""
    conn.execute("INSERT INTO commitment VALUES (1, '1.2.3', 'archive', ?1, ?1 + 3600, NULL)", (at,))
    states = {"pending": "", "active": "lease_until", "deferred": "not_before", "sent": "sent_at", "confirmed": ""}
    for number, (state, column) in enumerate(states.items(), 1):
        conn.execute(
            "INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, state, path, size, dataset_offset,"
            " calling_ae, called_ae, address, received_at)"
            " VALUES (?1, ?1, x'00', 1, 'stored', ?1, 9, 0, '', '', '', ?2)",
            (number, at),
        )
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
            " VALUES (?, 'archive', 1, 9, 2, ?, ?)",
            (number, "pending" if state == "confirmed" else state, at),
        )
        if column:
            wait = {"lease_until": 600.0, "not_before": 900.0}.get(column, 0.0)
            conn.execute(f"UPDATE delivery SET {column} = ? WHERE instance_id = ?", (at + wait, number))
    conn.execute("UPDATE delivery SET state = 'confirmed', confirmed_at = ? WHERE instance_id = 5", (at,))
    conn.execute("INSERT INTO destination (name, state, since) VALUES ('archive', 'down', ?)", (at,))
    conn.execute("INSERT INTO message (channel, at, body) VALUES ('email.mimso', ?, '')", (at,))
    conn.execute(
        "INSERT INTO alert (kind, subject, severity, since, seen_at, what, means, todo) VALUES ('a', 'b', 'c', ?1, ?1,"
        " '', '', '')",
        (at,),
    )
    conn.execute("INSERT INTO downtime (began, ended, why, planned) VALUES (?1, ?1, 'power', 0)", (at,))
    conn.execute("INSERT INTO account (name, role, password, changed_at) VALUES ('ann', 'admin', '', ?)", (at,))
    conn.execute(
        "INSERT INTO peer (ae_title, address, admitted, first_seen, last_seen, last_stored, described_at)"
        " VALUES ('CT1', 'a', 1, ?1, ?1, ?1, ?1)",
        (at,),
    )
    conn.execute("UPDATE destination SET last_success = ?1, retry_at = ?1 + 60", (at,))
    conn.execute("UPDATE delivery SET breaks = 1, broke_at = ? WHERE state = 'deferred'", (at,))
    conn.execute(
        "INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, state, path, size, dataset_offset,"
        " calling_ae, called_ae, address, received_at, discarded_at)"
        " VALUES (6, '6', x'00', 1, 'discarded', '6', 9, 0, '', '', '', ?1, ?1)",
        (at,),
    )
    conn.execute("INSERT INTO taken_along VALUES ('1.2.9', 'archive', 2, 'all', ?)", (at,))
    conn.execute("INSERT INTO study (id, study_uid, first_received, last_received) VALUES (1, '1.2.8', ?1, ?1)", (at,))
    conn.execute("INSERT INTO patient VALUES (1, 'A', '', '', '', '', '', '')")
    conn.execute(
        "INSERT INTO study_patient (study_id, patient_key, standing, first_at, alarmed_at)"
        " VALUES (1, 1, 'differs', ?1, ?1)",
        (at,),
    )
    conn.execute(
        "INSERT INTO commitment_request (transaction_uid, calling_ae, called_ae, address, modality, is_tls, digest,"
        " record, instances, requested_at, not_before, tried_at)"
        " VALUES ('1.9', '', '', '', '', 0, x'', '', 1, ?1, ?1 + 900, ?1)",
        (at,),
    )
    conn.execute("INSERT INTO heard VALUES ('CT1', ?1 / 3600, ?1)", (int(at),))
    conn.execute("INSERT INTO sample VALUES ('disk.used', ?, 1)", (at,))


#: What each decision may wait for, at the most, in seconds from now.
DECIDING = {
    "SELECT max(not_before) FROM delivery": WAITS.retry,
    "SELECT max(lease_until) FROM delivery": WAITS.lease,
    "SELECT max(sent_at) FROM delivery": 0.0,
    "SELECT max(queued_at) FROM delivery WHERE state IN ('pending', 'deferred', 'held')": 0.0,
    "SELECT max(asked_at) FROM commitment": 0.0,
    "SELECT max(deadline) FROM commitment": WAITS.report,
    "SELECT max(confirmed_at) FROM instance": 0.0,
    "SELECT max(since) FROM destination": 0.0,
    "SELECT max(last_success) FROM destination": 0.0,
    "SELECT max(retry_at) FROM destination": WAITS.retry,
    "SELECT max(broke_at) FROM delivery": 0.0,
    "SELECT max(discarded_at) FROM instance": 0.0,
    "SELECT max(noted_at) FROM taken_along": 0.0,
    "SELECT max(alarmed_at) FROM study_patient": 0.0,
    "SELECT max(not_before) FROM commitment_request": WAITS.retry,
    "SELECT max(max(requested_at, tried_at)) FROM commitment_request": 0.0,
    "SELECT max(at) FROM message": 0.0,
    "SELECT max(max(since, seen_at)) FROM alert": 0.0,
    "SELECT max(max(began, ended)) FROM downtime": 0.0,
    "SELECT max(changed_at) FROM account": 0.0,
    "SELECT max(max(first_seen, last_seen, last_stored, described_at)) FROM peer": 0.0,
    "SELECT coalesce(max(hour), 0) * 3600 FROM heard": 0.0,
    "SELECT coalesce(max(at), 0) FROM sample": 0.0,
}


@pytest.mark.parametrize("sql", DECIDING)
def test_no_time_that_decides_lies_in_the_future(catalog: Transaction, sql: str) -> None:
    written(catalog, NOW + 2 * YEAR)
    found = correct(catalog, NOW, WAITS)
    assert found is not None
    assert found.ahead_seconds >= 2 * YEAR
    assert catalog.execute(sql).fetchone()[0] <= NOW + DECIDING[sql]


def test_what_a_right_clock_wrote_stays(catalog: Transaction) -> None:
    written(catalog, NOW)
    before = list(catalog.iterdump())
    assert correct(catalog, NOW, WAITS) is None
    assert correct(catalog, NOW - 3.0, WAITS) is None, "clocks are set by seconds"
    assert list(catalog.iterdump()) == before


def test_a_correction_is_kept_for_its_alert(catalog: Transaction) -> None:
    assert clock.last_correction(catalog) is None
    written(catalog, NOW + YEAR)
    found = correct(catalog, NOW, WAITS)
    assert found is not None
    clock.record_correction(catalog, found)
    assert clock.last_correction(catalog) == found


def test_the_age_of_a_time_in_the_future_is_not_nought() -> None:
    assert age(3661.0) == "1 h 1 min"
    assert age(-0.2) == "0 s"
    assert age(-2 * YEAR) == "730 d in the future"


class Hands:
    """A clock and the time that has passed, both moved by the test."""

    def __init__(self) -> None:
        self.wall, self.passed = NOW, 1000.0

    def go(self, seconds: float, leap: float = 0.0) -> None:
        self.passed += seconds
        self.wall += seconds + leap

    def watch(self, alive_at: float | None = NOW - 60.0) -> Watch:
        return Watch(alive_at, lambda: self.wall, lambda: self.passed)


def test_leaps_are_seen_and_time_that_passes_is_not_one() -> None:
    hands = Hands()
    watch = hands.watch()
    hands.go(7200.0)
    assert watch.observe() == 0.0
    hands.go(1.0, leap=2 * YEAR)
    assert watch.observe() == pytest.approx(2 * YEAR)
    assert watch.observe() == 0.0
    hands.go(1.0, leap=-2 * YEAR)
    assert watch.observe() == pytest.approx(-2 * YEAR)


@pytest.mark.parametrize(
    ("story", "doubtful"),
    [
        (lambda h, w: h.go(1.0), False),
        (lambda h, w: h.go(1.0, leap=YEAR), True),
        (lambda h, w: h.go(1.0, leap=-YEAR), False),
        (lambda h, w: (h.go(1.0, leap=YEAR), w.observe(), h.go(86_399.0)), True),
        (lambda h, w: (h.go(1.0, leap=YEAR), w.observe(), h.go(86_401.0)), False),
        (lambda h, w: (h.go(1.0, leap=YEAR), w.observe(), h.go(1.0, leap=-YEAR)), False),
    ],
)
def test_a_clock_that_went_ahead_is_doubted_for_a_day(story: Callable[[Hands, Watch], Any], doubtful: bool) -> None:
    hands = Hands()
    watch = hands.watch()
    story(hands, watch)
    watch.observe()
    assert watch.doubtful(None) is doubtful
    assert watch.doubtful(False) is doubtful
    assert not watch.doubtful(True), "a time server vouches for it"


@pytest.mark.parametrize(("off", "doubtful"), [(3600.0, False), (6 * 86400.0, False), (2 * YEAR, True), (-YEAR, False)])
def test_a_start_long_after_the_last_sign_of_life_is_a_leap(off: float, doubtful: bool) -> None:
    assert Hands().watch(alive_at=NOW - off).doubtful(None) is doubtful


def test_what_was_deferred_under_a_wrong_clock_goes_once_it_is_right(
    tmp_path: Path, running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two years ahead, the archive defers; then the clock is right, the gateway starts again, the archive takes all."""
    port = free_port()
    routes = f'[destination.a]\nae_title = "A"\nhost = "127.0.0.1"\nport = {port}\nconfirm = "status"\n'
    edge = Edge(tmp_path / "edge", routes + '[route.a]\nto = ["a"]\n')
    running.callback(edge.kill)
    clock = SetClock(tmp_path / "clock", 2 * YEAR)
    monkeypatch.setattr(edge, "environment", lambda: {**Edge.environment(edge), **clock.environment})
    with ScriptedScp([answer_with(0x0110)], port=port):
        edge.start()
        storescu(ct_files(tmp_path / "ct", 2, 1000), edge.port)
        wait_until(lambda: edge.api_status()["queue"]["deferred"] == 2, 20, "both are deferred")
        edge.stop()
    clock.set_ahead(0)
    with ScriptedScp(port=port) as archive:
        edge.start()
        wait_until(lambda: len(archive.received) == 2, 20, "both are at the archive")
    assert "clock-was-wrong" in [each["kind"] for each in edge.api_status()["alerts"]]
