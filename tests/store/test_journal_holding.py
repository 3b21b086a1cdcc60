"""What is answered and not applied: held while doors are busy, in few receive buffers, and given out in order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.journal import holding
from edge.journal.holding import HeldRecords, hold_back
from edge.journal.notices import Notices
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft, SegmentWriter
from tests.support.journaling import Bench
from tests.support.slots import count_used

LONG, SHORT = 100_000, 10_000


class Door:
    """Appends objects, and has `slots` receive buffers."""

    def __init__(self, folder: Path, slots: int = 40) -> None:
        self.bench, self.notices, self.pool = Bench(folder), Notices(), SlotPool(slots, 128 << 10)
        self.writer = SegmentWriter(self.bench.claims, self.notices.send)
        self.held = HeldRecords(folder, {0: self.pool})

    def append(self, *sizes: int) -> list[bytes]:
        """The bodies of objects of these sizes; the backlog has heard of each."""
        bodies = [os.urandom(size) for size in sizes]
        for body in bodies:
            slot = self.pool.take(0.0)
            slot.body[: len(body)] = body
            self.writer.append(slot, len(body), Draft(1, b"{}", b"DICM"))
        for notice in self.notices.read():
            self.held.add(notice)
        return bodies

    def drain(self) -> Iterator[bytes]:
        while self.held:
            each = self.held.take()
            record = each.notice.record(self.bench.folder, self.held.memory_of(each))
            assert record.memory is not None
            yield b"".join(map(bytes, record.bodies()))
            self.held.let_go(each)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "journal")


def test_records_come_in_order_from_copies_buffers_and_segments(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_SLOTS_HELD", 1)
    bodies = door.append(LONG, SHORT, LONG, LONG, SHORT)
    assert count_used(door.pool) == 3
    door.held.free_slots()
    assert count_used(door.pool) == 1
    assert list(door.drain()) == bodies
    assert count_used(door.pool) == 0


def test_what_a_buffer_holds_by_now_is_not_taken_for_a_record_that_gave_it_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MOST_SLOTS_HELD", 0)
    bodies = door.append(LONG)
    door.held.free_slots()
    bodies += door.append(LONG)
    assert list(door.drain()) == bodies


def test_a_door_gets_buffers_back_while_records_are_read_from_segments(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MOST_SLOTS_HELD", 0)
    door.append(LONG, LONG)
    door.held.free_slots()
    door.append(LONG, LONG)
    used, drained = [], door.drain()
    for _ in range(3):
        next(drained)
        used.append(count_used(door.pool))
    assert used == [2, 2, 1]


def test_senders_of_short_objects_are_slowed_where_there_is_much_to_do(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MOST_WORK_SECONDS", 0.0012)
    bodies = door.append(SHORT, SHORT)
    assert count_used(door.pool) == 0
    bodies += door.append(SHORT, SHORT, SHORT)
    assert count_used(door.pool) == 3
    used, drained = [], door.drain()
    for body in bodies[:3]:
        assert next(drained) == body
        used.append(count_used(door.pool))
    assert used == [3, 3, 2], "they get fewer back than were done"
    assert list(drained) == bodies[3:]
    assert count_used(door.pool) == 0


@pytest.mark.parametrize("busy", [0, 3])
def test_records_are_held_until_doors_are_quiet(door: Door, busy: int) -> None:
    asked: list[float] = []

    def read(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) <= busy

    door.append(SHORT)
    hold_back(door.held, read, lambda: False)
    assert asked == [holding.HELD_QUIET_SECONDS] * (busy + 1)


def test_they_are_not_held_longer_than_may_be(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.append(SHORT)
    assert not door.held.is_due()
    hold_back(door.held, lambda _: pytest.fail("it waited"), lambda: True)
    monkeypatch.setattr(holding, "MOST_HELD_SECONDS", 0.001)
    time.sleep(0.002)
    assert door.held.is_due()


def test_they_are_not_held_when_there_is_much_to_do(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_WORK_SECONDS", 0.0015)
    door.append(LONG)
    assert not door.held.is_due()
    door.append(LONG)
    assert door.held.is_due()
    list(door.drain())
    door.append(LONG)
    assert not door.held.is_due()


def test_a_busy_machine_is_given_less_to_do_at_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "LEARNT_FROM", 1)
    door.append(SHORT)
    held = door.held.take()
    time.sleep(0.1)  # some 200 times what is expected
    door.held.let_go(held)
    door.append(*[SHORT] * 30)
    assert door.held.is_due()


def test_a_door_with_few_buffers_is_not_held_up(tmp_path: Path) -> None:
    thin = Door(tmp_path / "journal", slots=2)
    thin.append(LONG)
    assert thin.held.is_due()
    list(thin.drain())
    assert not thin.held.has_thin_door
