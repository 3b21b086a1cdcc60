"""The gateway's state under several threads, and the housekeeping's schedule."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.daemon.housekeeping import Schedule, Task, checkpoint
from edge.daemon.state import State
from edge.errors import StorageUnhealthy
from edge.store.database import Store


class Database:
    failure = None


class Reception:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def check(self) -> None:
        pass

    def current(self) -> tuple[Any, ...]:
        self.asked.set()
        assert self.may_answer.wait(60)
        return ()


def test_a_status_that_meets_the_stop_does_not_bring_the_gateway_back() -> None:
    notices: list[str] = []
    reception = Reception()
    state = State(Database(), reception, 0.0, notices.append)  # type: ignore[arg-type]
    state.set_state("running")
    reception.may_answer.clear()
    reception.asked.clear()
    asking = threading.Thread(target=state.check)
    asking.start()
    assert reception.asked.wait(60)
    state.set_state("draining")
    reception.may_answer.set()
    asking.join(60)
    assert state.name == "draining"
    assert notices == ["STATUS=running", "STATUS=draining"]


class Copy:
    """Cannot be synced; appends."""

    def __init__(self) -> None:
        self.appended = 0

    def is_large(self) -> bool:
        return False

    def write(self, _: object) -> int:
        self.appended += 1
        raise StorageUnhealthy("sync of the copy failed")


def test_a_copy_that_could_not_be_synced_is_not_synced_again(tmp_path: Path) -> None:
    db = Store(tmp_path / "catalog.db")
    gateway = SimpleNamespace(db=db, journal=Copy(), identity_copy=Copy())
    for _ in range(3):
        checkpoint(gateway)  # type: ignore[arg-type]
    assert db.failure == "sync of the copy failed"
    assert (gateway.journal.appended, gateway.identity_copy.appended) == (1, 0)


class Part:
    def __init__(self) -> None:
        self.done: list[str] = []

    def often(self) -> None:
        self.done.append("often")

    def seldom(self) -> None:
        self.done.append("seldom")

    def fail(self) -> None:
        self.done.append("fail")
        raise OSError("no")


def test_a_schedule_runs_what_is_due_and_names_the_time_of_the_next() -> None:
    now, part = [100.0], Part()
    tasks = [Task("often", 1.0, Part, Part.often), Task("seldom", 60.0, Part, Part.seldom)]
    schedule = Schedule(tasks, [part, object()], lambda: now[0])
    assert schedule.run_due() == 1.0
    now[0] += 1.5
    assert schedule.run_due() == 1.0
    assert part.done == ["often", "seldom", "often"]


def test_a_task_that_fails_keeps_no_other_from_its_time() -> None:
    now, part = [100.0], Part()
    schedule = Schedule(
        [Task("fail", 1.0, Part, Part.fail), Task("often", 60.0, Part, Part.often)], [part], lambda: now[0]
    )
    for _ in range(2):  # also where it is due, and fails, each time
        now[0] += 60.0
        with pytest.raises(OSError, match="no"):
            schedule.run_due()
    assert part.done == ["fail", "often"] * 2
