"""One class for all threads that work in steps: faults, pauses, wakes, stops."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable

import pytest

from edge import worker
from edge.errors import EdgeError
from edge.worker import DONE, ThreadSpec, Worker
from tests.support.peers import wait_until

SPEC = ThreadSpec("sample", __name__, "nothing", "at once")
FAULT = "Miller^" + "Anna"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FIRST_PAUSE_SECONDS", 0.01)


def test_it_outlives_faults_and_logs_each_once_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    steps, recovered = [0], threading.Event()

    def step() -> float:
        steps[0] += 1
        if steps[0] <= 3:
            raise KeyError(FAULT)
        recovered.set()
        return 600.0

    made = Worker(SPEC, step, "archive")
    with caplog.at_level(logging.INFO):
        made.start()
        assert recovered.wait(60)
        wait_until(lambda: "works again" in caplog.text, 10, "the log says that it goes on")
        assert made.stop(60)
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "sample archive: KeyError" in caplog.text
    assert FAULT not in caplog.text


def test_pauses_after_faults_grow_and_are_not_shortened_by_a_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def backoff(tries: int, first: float, longest: float, chance: float) -> float:
        asked.append(tries)
        return 0.01 if tries < 3 else 600.0

    monkeypatch.setattr(worker, "backoff", backoff)
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        raise EdgeError("no")

    made = Worker(SPEC, step)
    made.start()
    wait_until(lambda: asked == [1, 2, 3], 10, "three pauses")
    made.wake()
    time.sleep(0.05)
    assert len(steps) == 3
    assert made.stop(60), "a pause ends with stop"


@pytest.mark.parametrize("result", [DONE, 600.0], ids=["done", "stopped"])
def test_it_ends_when_it_is_done_or_stopped(result: float) -> None:
    stepped = threading.Event()

    def step() -> float:
        stepped.set()
        return result

    made = Worker(SPEC, step)
    made.start()
    assert stepped.wait(60)
    if result == DONE:
        wait_until(lambda: made.stop(0.0), 10, "it has ended by itself")
    assert made.stop(60)


def test_a_wake_during_a_step_is_not_lost() -> None:
    entered, leave, again = threading.Event(), threading.Event(), threading.Event()

    def step() -> float:
        if entered.is_set():
            again.set()
        entered.set()
        leave.wait(100)
        return 600.0

    made = Worker(SPEC, step)
    made.start()
    assert entered.wait(60)
    made.wake()
    leave.set()
    assert again.wait(60)
    assert made.stop(60)


def test_breath_passes_between_two_steps_however_often_it_is_woken() -> None:
    at: list[float] = []

    def step() -> float:
        at.append(time.monotonic())
        return 600.0

    made = Worker(SPEC, step, breath_seconds=0.2)
    made.start()
    while len(at) < 3:
        made.wake()
        time.sleep(0.001)
    assert made.stop(60)
    assert min(later - earlier for earlier, later in itertools.pairwise(at)) >= 0.2


def _drain(made: list[Worker], left: list[int]) -> Callable[[], float]:
    def step() -> float:
        if not made[0].is_stopping:
            return 600.0
        left.pop()
        return 0.0 if left else DONE

    return step


def test_one_that_drains_steps_until_it_is_done() -> None:
    made: list[Worker] = []
    left = [1, 2, 3]
    made.append(Worker(SPEC, _drain(made, left), drains=True))
    made[0].start()
    assert made[0].stop()
    assert left == []


def test_one_that_drains_and_fails_twice_ends() -> None:
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        raise KeyError(FAULT)

    made = Worker(SPEC, step, drains=True)
    made.start()
    assert made.stop(60)


def test_stop_waits_no_longer_than_asked_for() -> None:
    entered, leave = threading.Event(), threading.Event()

    def step() -> float:
        entered.set()
        leave.wait(100)
        return 600.0

    made = Worker(SPEC, step)
    made.start()
    assert entered.wait(60)
    assert not made.stop(0.05)
    leave.set()
    assert made.stop(60)


def test_one_that_never_started_has_ended() -> None:
    assert Worker(SPEC, lambda: 1.0).stop()
