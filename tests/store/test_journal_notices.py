"""What apply hears of: the record from its buffer, the same from its segment, and the buffer's way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import Shortage
from edge.journal.notices import Notices, RecordNotice
from edge.journal.record import MAX_HEAD_BYTES
from edge.journal.replay import BodyDamaged
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft, SegmentWriter
from tests.support.journaling import Bench


def _memory(pool: SlotPool, notice: RecordNotice) -> memoryview:
    return pool.slot(notice.slot).whole[MAX_HEAD_BYTES - notice.head_length :]


def test_a_notice_gives_the_record_from_its_buffer_and_from_its_segment(tmp_path: Path) -> None:
    bench, notices, pool = Bench(tmp_path / "journal"), Notices(), SlotPool(1, 8192)
    writer, slot = SegmentWriter(bench.claims, notices.send), pool.take(0.0)
    slot.body[:3] = b"one"
    head = writer.append(slot, 3, Draft(1, b"{}", b"DICM")).head
    (notice,) = notices.read()
    from_memory, from_disk = notice.record(bench.folder, _memory(pool, notice)), notice.record(bench.folder, None)
    assert from_memory.head == from_disk.head == head
    assert from_memory.memory is not None
    assert [bytes(view) for view in from_memory.bodies()] == [bytes(view) for view in from_disk.bodies()] == [b"one"]
    with pytest.raises(Shortage):
        pool.take(0.0)
    pool.give_back(notice.slot)
    pool.take(0.0)


def test_a_buffer_that_holds_another_record_by_now_is_not_taken_for_it(tmp_path: Path) -> None:
    bench, notices, pool = Bench(tmp_path / "journal"), Notices(), SlotPool(1, 8192)
    writer, slot = SegmentWriter(bench.claims, notices.send), pool.take(0.0)
    for body in (b"one", b"two"):
        slot.body[:3] = body
        writer.append(slot, 3, Draft(1, b"{}"))
    first, second = notices.read()
    with pytest.raises(BodyDamaged):
        first.record(bench.folder, _memory(pool, first))
    assert second.record(bench.folder, _memory(pool, second)).identity.index == 1
