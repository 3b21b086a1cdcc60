"""What is replaced when its configuration changes: nobody waits for the one before, and there are never two."""

from __future__ import annotations

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


def test_a_successor_that_cannot_start_is_logged(let_go: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Slow:
        raise StorageFull("no room")

    roster: Roster[Slow] = Roster()
    roster.want({"a": wish(1, let_go)})
    roster.want({"a": Wish(2, make)})
    let_go.set()
    wait_until(lambda: "a could not be started" in caplog.text, 5, "it is in the log")
    with pytest.raises(StorageFull):
        roster.want({"a": Wish(3, make)})
