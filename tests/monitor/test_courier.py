"""The outbox and its couriers: order, outages, refusals, restarts; injected chance, real SQLite, real threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import messaging
from edge.errors import Permanent, StorageFull, Transient
from edge.messaging import Courier, Rejected
from edge.store import outbox
from edge.store.database import Store
from edge.store.outbox import Message
from tests.support.peers import wait_until


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "catalog.db")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(messaging, "LONGEST_SECONDS", 0.02)


class Channel:
    """Takes what comes while `up`; refuses for good what is in `poison`."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.up, self.poison = True, set[str]()
        self.error: Exception | None = None
        self.tries = 0

    def deliver(self, message: Message) -> None:
        self.tries += 1
        if self.error:
            raise self.error
        if not self.up:
            raise Transient("the other end cannot be reached")
        if message.body in self.poison:
            raise Permanent("it answers 554")
        self.taken.append(message.body)

    def cut(self) -> None:
        pass

    def close(self) -> None:
        pass


def post(db: Store, *bodies: str, channel: str = "email.x") -> None:
    for at, body in enumerate(bodies):
        db.write(lambda conn, at=at, body=body: outbox.post(conn, channel, "notice", float(at), body))


def backlog(db: Store, channel: str = "email.x") -> outbox.Backlog | None:
    with db.reading() as conn:
        return outbox.backlogs(conn).get(channel)


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def courier(db: Store, channel: Channel) -> Iterator[Courier]:
    made = Courier(db, "email.x", channel, chance=lambda: 0.5)
    yield made
    made.stop()


def test_everything_arrives_once_in_order_and_nothing_is_left(db: Store, channel: Channel, courier: Courier) -> None:
    names = [str(n) for n in range(100)]
    post(db, *names[:50])
    post(db, "another's", channel="email.y")
    courier.start()
    post(db, *names[50:])
    courier.wake()
    wait_until(lambda: len(channel.taken) == 100, 10, "all delivered")
    assert channel.taken == names
    wait_until(lambda: backlog(db) is None, 5, "the outbox is empty")
    assert backlog(db, "email.y") == outbox.Backlog(1, 0.0, "")


def test_an_outage_is_outlasted_in_order_and_shown(db: Store, channel: Channel, courier: Courier) -> None:
    channel.up = False
    post(db, "a", "b", "c")
    courier.start()
    wait_until(lambda: channel.tries >= 5, 5, "it is tried again and again")
    assert backlog(db) == outbox.Backlog(3, 0.0, "the other end cannot be reached")
    channel.up = True
    wait_until(lambda: backlog(db) is None, 5, "all is delivered after the outage")
    assert channel.taken == ["a", "b", "c"]


def test_what_is_refused_for_good_is_parked_and_delays_nobody(db: Store, channel: Channel, courier: Courier) -> None:
    channel.poison = {"b"}
    post(db, "a", "b", "c")
    courier.start()
    wait_until(lambda: channel.taken == ["a", "c"], 5, "the others pass")
    wait_until(lambda: backlog(db) == outbox.Backlog(0, None, "", 1), 5, "it is parked")
    with db.reading() as conn:
        (line,) = outbox.lines(conn, 10)
    assert (line.last_error, line.attempts) == ("it answers 554", 1)
    assert line.parked_at
    channel.poison = set()
    assert db.write(lambda conn: outbox.unpark(conn, "email.x")) == 1
    courier.wake()
    wait_until(lambda: channel.taken == ["a", "c", "b"], 5, "a person had it sent again")


def test_on_a_disk_that_cannot_be_written_nothing_is_told_twice(
    db: Store, channel: Channel, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(db, "a", "b")
    write, tries = db.write, []

    def full(work: Any) -> Any:
        tries.append(work)
        raise StorageFull("no room")

    monkeypatch.setattr(db, "write", full)
    courier.start()
    wait_until(lambda: len(tries) >= 2, 5, "it tries to delete")
    assert channel.taken == ["a", "b"]
    monkeypatch.setattr(db, "write", write)
    courier.wake()
    wait_until(lambda: backlog(db) is None, 5, "there is room again")
    assert channel.taken == ["a", "b"]


def test_what_cannot_be_stored_is_told_from_memory(db: Store, channel: Channel, courier: Courier) -> None:
    channel.up = False
    courier.start()
    courier.tell(Message(0, "email.x", "notice", 0.0, "the disk has failed", 0))
    wait_until(lambda: channel.tries >= 2, 5, "tried again")
    channel.up = True
    wait_until(lambda: channel.taken == ["the disk has failed"], 5, "told")
    post(db, "a")
    courier.wake()
    wait_until(lambda: channel.taken == ["the disk has failed", "a"], 5, "then the others")


def test_parked_messages_are_bounded(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_PARKED", 3)
    post(db, *"abcdef")
    with db.reading() as conn:
        messages = outbox.oldest(conn, "email.x", 10)
    for message in messages[:5]:
        db.write(lambda conn, message=message: outbox.park(conn, message, 0.0, "no"))
    with db.reading() as conn:
        assert [line.id for line in outbox.lines(conn, 10)] == [message.id for message in messages[2:]]


def test_what_was_not_delivered_survives_a_restart(db: Store, channel: Channel, courier: Courier) -> None:
    channel.up = False
    post(db, "a", "b")
    courier.start()
    wait_until(lambda: channel.tries, 5, "tried")
    courier.stop()
    channel.up = True
    again = Courier(db, "email.x", channel)
    again.start()
    wait_until(lambda: channel.taken == ["a", "b"], 5, "delivered after the restart")
    again.stop()


def test_a_fault_of_ours_is_logged_without_the_body_and_tried_again(
    db: Store, channel: Channel, courier: Courier, caplog: pytest.LogCaptureFixture
) -> None:
    channel.error = ValueError("CANARY^PATIENT")
    post(db, "CANARY^PATIENT")
    with caplog.at_level(logging.INFO):
        courier.start()
        wait_until(lambda: channel.tries >= 2, 5, "tried again")
        channel.error = None
        wait_until(lambda: backlog(db) is None, 5, "delivered")
        wait_until(lambda: "works again" in caplog.text, 5, "and it says so")
    assert "ValueError" in caplog.text
    assert "CANARY" not in caplog.text


def test_one_outage_is_one_line_of_the_log(
    db: Store, channel: Channel, courier: Courier, caplog: pytest.LogCaptureFixture
) -> None:
    channel.up = False
    post(db, "a")
    courier.start()
    wait_until(lambda: channel.tries >= 5, 5, "tried often")
    assert caplog.text.count("cannot be reached") == 1


def test_where_we_are_not_welcome_we_try_seldom(db: Store, channel: Channel, courier: Courier) -> None:
    channel.error = Rejected("the login is refused")
    post(db, "a")
    waits = [courier._deliver(message) for message in [Message(1, "email.x", "notice", 0.0, "a", 0)] * 20]
    assert waits[0] == pytest.approx(0.01)
    assert waits[-1] == pytest.approx(messaging.REJECTED_SECONDS)


def test_stop_delivers_what_was_posted_last(db: Store, channel: Channel, courier: Courier) -> None:
    courier.start()
    post(db, "a", "b")
    courier.stop()
    assert channel.taken == ["a", "b"]


def test_stop_cuts_what_is_under_way(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "COURIER_STOP_SECONDS", 0.1)
    entered, cut = threading.Event(), threading.Event()

    class Silent(Channel):
        def deliver(self, message: Message) -> None:
            entered.set()
            cut.wait(30)
            raise Transient("cut")

        def cut(self) -> None:
            cut.set()

    post(db, "a")
    courier = Courier(db, "email.x", Silent())
    courier.start()
    assert entered.wait(60)
    courier.stop()
    assert courier.worker.stop(0.0), "it has ended"
    assert backlog(db) == outbox.Backlog(1, 0.0, "")
