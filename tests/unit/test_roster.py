"""What is replaced when its configuration changes: nobody waits for the one before, and there are never two."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from edge.errors import StorageFull
from edge.worker.roster import Roster, Wish
from tests.support.peers import wait_until


class Slow:
    """Runs until `stop`, which waits for the test's word."""

    alive = 0
    most = 0

    def __init__(self, made_of: object, let_go: threading.Event) -> None:
        self.made_of, self._let_go = made_of, let_go

    def start(self) -> None:
        Slow.alive += 1
        Slow.most = max(Slow.most, Slow.alive)

    def stop(self) -> None:
        assert self._let_go.wait(60)
        Slow.alive -= 1


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    Slow.alive = Slow.most = 0
    event = threading.Event()
    yield event
    event.set()


def wish(made_of: object, let_go: threading.Event) -> Wish[Slow]:
    return Wish(made_of, lambda: Slow(made_of, let_go))


def made_of(roster: Roster[Slow]) -> dict[str, object]:
    return {name: runner.made_of for name, runner in roster.all().items()}


def test_the_successor_waits_for_the_one_before_and_nobody_else_does(let_go: threading.Event) -> None:
    roster: Roster[Slow] = Roster()
    roster.want({"a": wish(1, let_go), "b": wish(1, let_go)})
    roster.want({"a": wish(2, let_go), "b": wish(1, let_go), "c": wish(1, let_go)})
    assert made_of(roster) == {"b": 1, "c": 1}, "the call returned, and a is still ending"
    roster.want({"a": wish(3, let_go), "b": wish(1, let_go)})
    let_go.set()
    wait_until(lambda: made_of(roster) == {"a": 3, "b": 1}, 5, "the newest wish runs")
    roster.close()
    assert (Slow.alive, Slow.most) == (0, 3)


def test_what_is_not_wished_any_more_has_no_successor(let_go: threading.Event) -> None:
    roster: Roster[Slow] = Roster()
    roster.want({"a": wish(1, let_go)})
    roster.want({"a": wish(2, let_go)})
    roster.want({})
    let_go.set()
    roster.close()
    assert (made_of(roster), Slow.alive) == ({}, 0)


class Hampered(Slow):
    """Cannot be made, or started, as long as it is hampered; a part of it has started then."""

    error: Exception | None = None

    def start(self) -> None:
        super().start()
        if self.error is not None:
            raise type(self.error)(*self.error.args)


@pytest.mark.parametrize("error", [StorageFull("no room"), RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.parametrize("when", ["made", "started"])
@pytest.mark.parametrize("has_predecessor", [True, False])
def test_what_cannot_start_is_logged_and_tried_again(
    let_go: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    when: str,
    has_predecessor: bool,
) -> None:
    monkeypatch.setattr(Hampered, "error", error)

    def make() -> Slow:
        if when == "made" and Hampered.error is not None:
            raise type(error)(*error.args)
        return Hampered(2, let_go)

    let_go.set()
    caplog.set_level(logging.INFO)
    roster: Roster[Slow] = Roster()
    if has_predecessor:
        roster.want({"a": wish(1, let_go)})
    roster.want({"a": Wish(2, make), "b": wish(1, let_go)})
    wait_until(lambda: "a cannot be started" in caplog.text, 5, "it is in the log")
    assert made_of(roster)["b"] == 1, "another one runs"
    for _ in range(3):
        roster.start_missing()
        wait_until(lambda: not roster._ending, 5, "it is tried again")
    assert caplog.text.count("a cannot be started") == 1
    monkeypatch.setattr(Hampered, "error", None)
    roster.start_missing()
    wait_until(lambda: "a has been started" in caplog.text, 5, "this is in the log, too")
    roster.start_missing()
    assert (made_of(roster), Slow.alive, Slow.most <= 2) == ({"a": 2, "b": 1}, 2, True)
    roster.close()
    roster.start_missing()
    assert (made_of(roster), Slow.alive) == ({}, 0)


def test_what_has_started_in_part_is_ended_by_a_thread_of_its_own(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may wait for a peer: nobody else waits with it."""
    monkeypatch.setattr(Hampered, "error", StorageFull("no room"))
    roster: Roster[Slow] = Roster()
    calls = [
        lambda: roster.want({"a": Wish(2, lambda: Hampered(2, let_go))}),
        roster.start_missing,
        lambda: roster.want({"b": wish(1, let_go)}),
    ]
    calling = threading.Thread(target=lambda: [call() for call in calls], daemon=True)
    calling.start()
    wait_until(lambda: made_of(roster) == {"b": 1}, 5, "the calls have returned")
    let_go.set()
    calling.join()
    roster.close()
    assert Slow.alive == 0


def test_one_that_no_thread_can_end_goes_on_and_is_replaced_later(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def cannot(thread: threading.Thread) -> None:
        if thread.name in ("end a", "stop"):
            raise RuntimeError("can't start new thread")
        start(thread)

    let_go.set()
    roster: Roster[Slow] = Roster()
    roster.want({"a": wish(1, let_go)})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        roster.want({"a": wish(2, let_go)})
        assert made_of(roster) == {"a": 1}
    roster.start_missing()
    wait_until(lambda: made_of(roster) == {"a": 2}, 5, "its successor runs")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        roster.close()
    assert (Slow.alive, Slow.most) == (0, 1)
