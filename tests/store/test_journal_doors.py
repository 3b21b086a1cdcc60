"""The doors of a running journal: each has its own receive buffers, as long as it lives."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.journal import service
from edge.journal.door import JournalDoor
from edge.journal.segment import RingSize
from edge.journal.service import JournalService
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft
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


def test_a_pool_that_cannot_be_made_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(OSError, match="open files"):
        SlotPool(2)
    assert os.listdir("/proc/self/fd") == before
