"""One bad row, or one fault of ours, ends nothing that serves the others: threads go on, the log names the place."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import messaging
from edge.central import notifications
from edge.central.service import CentralServer as Service
from edge.config.audit import Audit
from edge.messaging import MOST_FAULTS, Courier, audit
from edge.monitor.engine import AlertEngine
from edge.monitor.snapshot_model import Snapshot
from edge.store import ledger, outbox
from edge.store.database import Store
from edge.store.engine import EngineStore, ThreadStore, do
from edge.store.outbox import Message
from tests.support.central_office import MORNING, Office, OpenDatabase, some_sites, write_config
from tests.support.filled import Filled
from tests.support.peers import wait_until

FAULT = "Miller^" + "Anna"


class Faulty:
    """A channel that takes everything but what it fails at by a fault of ours."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def deliver(self, message: Message) -> None:
        if message.body == "bad":
            raise LookupError(FAULT)
        self.taken.append(message.body)

    def cut(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_message_that_we_fail_to_deliver_is_parked_and_the_next_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(messaging, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(messaging, "LONGEST_SECONDS", 0.02)
    db, channel = Store(tmp_path / "catalog.db"), Faulty()
    for body in ("bad", "good"):
        db.write(lambda conn, body=body: outbox.post(conn, "email.x", "notice", 1.0, body))
    courier = Courier(db, "email.x", channel)
    courier.tell(Message(0, "email.x", "notice", 1.0, "bad", 0))
    courier.tell(Message(0, "email.x", "notice", 1.0, "unstored", 0))
    courier.start()
    wait_until(lambda: channel.taken == ["unstored", "good"], 10, "the next goes")
    courier.stop()
    with db.reading() as conn:
        assert outbox.backlogs(conn)["email.x"].parked == 1
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == MOST_FAULTS + 1
    assert FAULT not in caplog.text
    db.close()


def test_the_watch_outlives_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Filled(tmp_path) as filled:
        looks, again = [0], threading.Event()

        def seen() -> Snapshot:
            looks[0] += 1
            if looks[0] > 2:
                again.set()
            raise KeyError(FAULT)

        watch = AlertEngine(filled.db, lambda: filled.config, seen, every=0.01)
        with caplog.at_level(logging.ERROR):
            watch.worker.start()
            assert again.wait(60), "it looks again"
            watch.worker.stop()
    assert len(caplog.records) == 1, "said once"
    assert FAULT not in caplog.text


def test_a_row_that_cannot_be_reported_keeps_no_other_out_of_the_audit_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tell_of = audit.messages_for

    def faulty(group: Any, facts: Any, here: Any) -> Any:
        if group[0].event == ledger.HELD:
            raise LookupError(FAULT)
        return tell_of(group, facts, here)

    monkeypatch.setattr(audit, "messages_for", faulty)
    with Filled(tmp_path) as filled:
        config = filled.config.__class__(**{**_fields(filled.config), "audit": Audit("repository.example.org")})
        clerk = audit.AuditTrailProjector(filled.db, lambda: config, tmp_path)
        clerk.begin()
        for event in (ledger.STARTED, ledger.HELD, ledger.STOPPED):
            filled.db.write(lambda conn, event=event: ledger.append(conn, 1.0, event, "edge", []))
        clerk.flush()
        with filled.db.reading() as conn:
            told = [each.kind for each in outbox.oldest(conn, audit.AUDIT_CHANNEL, 10)]
    assert told == ["Application Activity", "Network Entry"] * 2
    assert "rows 2 to 2" in caplog.text
    assert FAULT not in caplog.text


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(write_config(tmp_path / "conf.d", some_sites(2)), OpenDatabase(f"sqlite:///{tmp_path}/central.db"))


def test_a_message_of_the_centre_that_we_fail_to_deliver_is_parked_and_the_next_goes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "FIRST_SECONDS", 0.01)
    channel = Faulty()
    with office.store.writing() as conn:
        for body in ("bad", "good"):
            outbox.post(conn, "email.x", "notice", MORNING, body)
    courier = Courier(office.store, "email.x", channel)
    courier.start()
    wait_until(lambda: channel.taken == ["good"], 10, "the next one goes")
    courier.stop()
    assert office.rows("SELECT body, attempts FROM message WHERE parked_at > 0") == [
        {"body": "bad", "attempts": MOST_FAULTS}
    ]


def test_an_incident_that_no_calendar_can_hold_keeps_no_other_from_being_escalated(office: Office) -> None:
    with office.store.writing() as conn:
        for at in (1e18, MORNING, -1e15):
            told = "INSERT INTO incident (kind, subject, severity, opened_at, text, means, todo)"
            do(conn, f"{told} VALUES ('lost', '', 'critical', :at, '', '', '')", at=at)
        notifications.escalate_incidents(conn, office.config, MORNING + 86400)
        notifications.announce(conn, office.config, MORNING + 86400)
    found = office.rows("SELECT opened_at, escalated_at IS NOT NULL AS is_escalated FROM incident")
    assert {row["opened_at"]: bool(row["is_escalated"]) for row in found}[MORNING]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What hears the signs of life."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_the_watchdog_is_fed_only_while_heartbeats_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: socket.socket
) -> None:
    config = write_config(tmp_path / "conf.d", some_sites(2))

    async def work(store: EngineStore) -> None:
        service = Service(config, store, lambda: MORNING)
        await service.turn()
        assert systemd.recv(100) == b"WATCHDOG=1"
        monkeypatch.setattr("edge.central.receive.STALLED_SECONDS", -1.0)
        await service.turn()
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        assert "nothing has been written" in service.reception.trouble()
        service.close()

    OpenDatabase(config.database_url()).on_loop(work)


@pytest.mark.usefixtures("systemd")
def test_what_is_sent_again_by_a_command_leaves_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "COURIER_POLL_SECONDS", 3600.0)
    config = write_config(tmp_path / "conf.d", some_sites(2))
    channel, other = Faulty(), OpenDatabase(config.database_url())

    async def work(store: EngineStore) -> None:
        service = Service(config, store, lambda: MORNING)
        courier = Courier(ThreadStore(store, asyncio.get_running_loop()), "email.x", channel)
        service.couriers = [courier]
        courier.start()
        await asyncio.sleep(0.2)  # it has found nothing, and would look again in an hour
        with other.writing() as conn:
            message = Message(outbox.post(conn, "email.x", "notice", 1.0, "x"), "email.x", "notice", 1.0, "x", 0)
            outbox.park(conn, message, 1.0, "refused")
            notifications.retry_parked(conn, "email.x", "ann")
        await service.look()
        await asyncio.to_thread(wait_until, lambda: channel.taken == ["x"], 5, "the courier is awake")
        await asyncio.to_thread(courier.stop)
        service.close()

    other.on_loop(work)


@pytest.mark.usefixtures("systemd")
def test_one_thing_that_fails_keeps_the_watch_of_the_centre_from_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "conf.d", some_sites(2))
    done: list[str] = []

    def faulty(*_: Any) -> None:
        raise LookupError(FAULT)

    def noted(word: str) -> Callable[..., None]:
        return lambda *_: done.append(word)

    monkeypatch.setattr("edge.central.watch.look_for_silence", faulty)
    monkeypatch.setattr("edge.central.notifications.escalate_incidents", noted("escalated"))
    monkeypatch.setattr("edge.central.notifications.announce", noted("announced"))

    async def work(store: EngineStore) -> None:
        service = Service(config, store, lambda: MORNING)
        await service.look()
        service.close()

    OpenDatabase(config.database_url()).on_loop(work)
    assert done == ["escalated", "announced"]
    assert "LookupError" in caplog.text
    assert FAULT not in caplog.text
