"""The doors of a running journal: each has its own receive buffers, as long as it lives."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.daemon import housekeeping
from edge.errors import Cause, Shortage
from edge.hl7.recorder import SLOT_WAIT_SECONDS, FrameRecorder
from edge.journal import service
from edge.journal.door import JournalDoor
from edge.journal.ring import CLAIM_WAIT_SECONDS
from edge.journal.segment import RingSize
from edge.journal.service import JournalService
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft
from edge.store import journal_progress
from edge.store.database import Store, Transaction
from tests.support.journaling import Kept
from tests.support.slots import count_used


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def journal(tmp_path: Path, kept: Kept) -> Iterator[JournalService]:
    found = JournalService(tmp_path, RingSize(8, 256 << 10), kept, pytest.fail)
    found.start()
    yield found
    found.stop()


def append(journal: JournalService, door: JournalDoor, body: bytes) -> None:
    slot, writer = door.slots.take(5.0), door.writers.take()
    slot.body[: len(body)] = body
    writer.append(slot, len(body), Draft(1, b"{}", b"DICM"))
    door.writers.give_back(writer)
    assert journal.settle(20)


def test_a_door_keeps_its_buffers_however_many_others_come_and_go(
    journal: JournalService, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "POOLS", 4)
    lasting = journal.open_door(2)
    for _ in range(5):
        other = journal.open_door(1)
        append(journal, other, b"other")
        other.close()
        journal.close_door(other)
    for number in range(4):
        append(journal, lasting, b"lasting %d" % number)
    assert list(kept.bodies.values())[5:] == [b"lasting %d" % number for number in range(4)]
    assert count_used(lasting.slots) == 0
    lasting.close()


def test_a_door_whose_buffers_apply_keeps_says_what_hinders_it(journal: JournalService) -> None:
    door = journal.open_door(1)
    slot = door.take_slot(0.0)
    for hindered in (None, Cause.LOCKED):
        journal.ring.control.set_cause(hindered)
        with pytest.raises(Shortage) as refused:
            door.take_slot(0.0)
        assert refused.value.cause is (hindered or Cause.BUSY), "no memory is short"
    journal.ring.control.set_cause(None)
    door.slots.give_back(slot.number)
    door.close()


def test_a_frame_waits_for_a_segment_no_longer_than_for_a_buffer(journal: JournalService) -> None:
    """All feeds share one loop: they wait for each other."""
    door = journal.open_door(1)
    FrameRecorder(door, lambda: None, pytest.fail)
    assert door.claims.patience == SLOT_WAIT_SECONDS < CLAIM_WAIT_SECONDS
    door.close()


def test_a_pool_that_cannot_be_made_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(OSError, match="open files"):
        SlotPool(2)
    assert os.listdir("/proc/self/fd") == before


def test_progress_that_is_applied_while_others_are_forgotten_stays(tmp_path: Path) -> None:
    """Between the reading of the segments and the transaction, apply may go on to segments that are recycled since."""
    db, live = Store(tmp_path / "catalog.db"), {1}
    db.write(lambda conn: journal_progress.note_applied(conn, {1: 5}))

    class LaterStore:
        """As `Store`, but apply's transaction comes first."""

        def write(self, work: Callable[[Transaction], None]) -> None:
            live.update({2, 3})
            db.write(lambda conn: journal_progress.note_applied(conn, {2: 7, 3: 1}))
            db.write(work)

    ring = SimpleNamespace(live_generations=lambda: frozenset(live))
    housekeeping.forget_recycled_segments(SimpleNamespace(arrivals=SimpleNamespace(ring=ring), db=LaterStore()))  # type: ignore[arg-type]
    assert db.read(journal_progress.read_applied) == {1: 5, 2: 7, 3: 1}
    db.close()
