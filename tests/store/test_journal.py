"""The journal: format, ring, buffers, append, apply. What crashes and damage do is in test_journal_replay.py."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.errors import Cause, Permanent, Shortage, StorageFull
from edge.journal import record, segment
from edge.journal.apply import AppliedProgress, Batches
from edge.journal.control import SegmentState
from edge.journal.kinds import RECORD_KINDS, commitment_request, instance
from edge.journal.record import BLOCK, HeadTooLong, RecordHead, RecordIdentity, UnknownFormat
from edge.journal.replay import BodyDamaged, DamagedPart, JournalRecord, RecordDamage
from edge.journal.ring import Claims, Ring
from edge.journal.segment import RingSize, ring_size
from edge.journal.slots import SlotPool
from edge.journal.writer import SegmentWriter, Writers
from edge.model import InstanceHeader, Origin
from edge.scp.recorder import BUFFER_WAIT_SECONDS
from edge.text import MIB
from tests.support.journaling import SMALL, Bench, Kept, append, damage_of, found, replay_into
from tests.support.peers import wait_until

HEAD = RecordHead(1, 7, b"s" * 16, 3, 5, 8192, 9, b"c" * 32, record.XXH3, b"{}", b"prefix")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def test_a_head_is_read_as_it_was_written() -> None:
    for head in (HEAD, replace(HEAD, file=b"f" * 16, earlier=record.Earlier(5, 6))):
        encoded = record.encode_head(head)
        assert record.decode_head(encoded) == head
        assert len(encoded) == head.length == BLOCK
        assert encoded.endswith(b"prefix")


def test_a_head_with_any_byte_changed_is_not_whole() -> None:
    encoded = record.encode_head(HEAD)
    for at in range(BLOCK):
        changed = bytearray(encoded)
        changed[at] ^= 1
        assert record.decode_head(changed) is None, at


def test_a_body_that_an_earlier_release_has_recorded_is_verified_by_its_sha_256() -> None:
    earlier = replace(HEAD, body_length=4, algorithm=record.SHA256, checksum=hashlib.sha256(b"body").digest())
    head = record.decode_head(record.encode_head(earlier))
    assert head is not None
    assert record.is_whole(head, b"body")
    assert not record.is_whole(head, b"bodY")
    assert head.xxh3 is None


def test_a_newer_format_is_not_taken_for_damage() -> None:
    with pytest.raises(UnknownFormat):
        record.decode_head(record.encode_head(replace(HEAD, algorithm=4)))


def test_a_head_that_is_too_long_is_refused() -> None:
    with pytest.raises(HeadTooLong):
        record.encode_head(replace(HEAD, facts=bytes(record.MAX_HEAD_BYTES)))


@pytest.mark.parametrize(
    ("disk", "ring"),
    [(0, RingSize(4, MIB)), (64 * MIB, RingSize(8, MIB)), (12_800 * MIB, RingSize(32, 8 * MIB)),
     (100_000 * MIB, RingSize(125, 16 * MIB)), (1 << 50, RingSize(512, 16 * MIB))],
)  # fmt: skip
def test_the_size_of_the_ring_follows_the_disk(disk: int, ring: RingSize) -> None:
    assert ring_size(disk) == ring


def test_every_kind_gives_back_what_it_was_given() -> None:
    origin = Origin("CT1", "EDGE", "10.0.0.1", 1.5)
    header = InstanceHeader(
        "1.2", "1.2.3", "1.2.840.10008.1.2", origin, {"Modality": ("CT",), "Name": ("a\udcff", "é")}
    )
    one = instance.RecordedInstance(header, reason="x", is_readable=False)
    assert instance.decode(instance.encode(one)) == one
    request = commitment_request.CommitmentRequest("1.2.9", "1.2.840.10008.1.2", origin)
    assert commitment_request.decode(commitment_request.encode(request)) == request
    assert sorted(RECORD_KINDS) == [1, 2, 3, 4]


def test_what_is_appended_is_found_as_a_part_10_file(bench: Bench) -> None:
    bodies = {bench.append(body).head.identity: body for body in (b"", b"a", b"b" * BLOCK, b"c" * 100_000)}
    there, damage, replay = found(bench.folder)
    assert (there, damage, replay.left.torn) == (bodies, [], 0)
    assert list(there) == sorted(there)
    last = JournalRecord(bench.folder, bench.heard[1].head)
    path, offset, length = last.part10
    assert path.read_bytes()[offset : offset + length] == b"DICMa"


def test_padding_holds_nothing_of_another_object(bench: Bench) -> None:
    for _ in range(bench.slots.count):
        bench.append(b"secret" * 10_000)
    bench.append(b"x")
    head = bench.heard[-1].head
    at = head.offset + head.length
    path = bench.folder / segment.file_name(head.segment)
    assert path.read_bytes()[at : at + BLOCK] == b"x".ljust(BLOCK, b"\0")


def test_a_writer_goes_on_in_another_segment_and_says_what_the_last_one_held(bench: Bench) -> None:
    heads = [bench.append(os.urandom(60_000)).head for _ in range(6)]
    assert [head.index for head in heads] == [0, 1, 2, 0, 1, 2]
    assert heads[3].earlier == record.Earlier(heads[0].generation, 3)
    assert bench.ring.control.state(heads[0].segment) is SegmentState.CLOSED


def test_an_object_larger_than_the_ring_is_one_record_and_a_part_10_file(bench: Bench) -> None:
    parts = [os.urandom(90_000) for _ in range(15)]
    appended = bench.append_long(*parts)
    there, damage, _ = found(bench.folder)
    assert there == {appended.head.identity: b"".join(parts)}
    assert not damage
    assert (appended.head.body_length, appended.head.record_length) == (1_350_000, BLOCK)
    path, offset, length = JournalRecord(bench.folder, appended.head).part10
    assert path.read_bytes()[offset : offset + length] == b"DICM" + b"".join(parts)


def test_a_record_that_fits_no_segment_is_refused_and_leaves_the_segment_free(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", RingSize(1, 32 << 10))
    with pytest.raises(Permanent):
        bench.append(b"x" * 60_000)
    assert bench.append(b"x").head.index == 0


def test_a_full_ring_refuses_and_takes_again_what_comes_after_it_was_applied(bench: Bench) -> None:
    bodies = [os.urandom(100_000) for _ in range(8)]
    for body in bodies:
        bench.append(body)
    with pytest.raises(Shortage) as refused:
        bench.append(bodies[0])
    assert refused.value.cause is Cause.BUSY, "apply is behind: the disk is not full"
    bench.ring.control.set_cause(Cause.LOCKED)
    with pytest.raises(Shortage) as refused:
        bench.append(bodies[0])
    assert refused.value.cause is Cause.LOCKED, "what hinders apply"
    assert bench.ring.free_segments == 0
    assert not bench.ring.prepare()  # nothing is applied, so nothing is recycled
    kept = Kept()
    batches = Batches(kept, bench.ring.mark_applied)
    for appended in bench.heard:
        batches.add(JournalRecord(bench.folder, appended.head))
    batches.flush()
    assert list(kept.bodies.values()) == bodies
    while bench.ring.prepare():
        pass
    bench.append(b"again")
    assert list(found(bench.folder, kept.upto)[0].values()) == [b"again"]
    assert list(found(bench.folder)[0].values()) == [b"again"]


def test_generations_only_grow_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "journal", SMALL, floor=10**18, clock_us=lambda: 5)
    while ring.prepare():
        pass
    seen = [ring.control.generation(number) for number in range(4)]
    assert seen == [10**18 + n for n in (1, 2, 3, 4)]
    ring.close()
    again = Ring(tmp_path / "journal", SMALL, clock_us=lambda: 5)
    again.mark_replayed(0)
    again.prepare()
    assert again.control.generation(0) == 10**18 + 5
    again.close()


def test_two_writers_never_have_one_segment(bench: Bench) -> None:
    heads: list[RecordHead] = []
    slots = SlotPool(4, 128 << 10)

    def run() -> None:
        writer = bench.new_writer()
        heads.extend(append(writer, slots, os.urandom(5_000)).head for _ in range(20))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({head.identity for head in heads}) == len(found(bench.folder)[0]) == 80
    assert len({head.segment for head in heads}) == 4


def test_a_door_leaves_segments_free_however_many_associations_store_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", RingSize(32, 64 << 10))
    writers = Writers(bench.claims)
    taken = [writers.take(), writers.take()]
    for each in taken:
        bench.append(b"one", each)
    with pytest.raises(Shortage):
        writers.take(patience=0.0)
    assert bench.ring.free_segments == 30
    waiting = threading.Timer(0.05, writers.give_back, [taken[0]])
    waiting.start()
    assert writers.take() is taken[0]
    waiting.join()
    for each in taken:
        each.close()
    bench.close()


def test_a_door_makes_no_writer_that_no_segment_is_laid_out_for(tmp_path: Path) -> None:
    """The writers that it has go on into what is free: no sender is refused while the ring grows."""
    bench = Bench(tmp_path / "journal", RingSize(64, 64 << 10), ahead=4)
    writers = Writers(bench.claims)
    first = writers.take()
    bench.append(b"one", first)
    second = writers.take()
    with pytest.raises(Shortage):
        writers.take(patience=0.0)  # the second one's is still to be claimed
    bench.append(b"two", second)
    with pytest.raises(Shortage):
        writers.take(patience=0.0)
    assert bench.ring.free_segments == 2
    while bench.ring.prepare():
        pass
    third = writers.take()
    for each in (first, second, third):
        each.close()
    bench.close()


def test_an_applied_segment_that_a_person_has_deleted_is_laid_out_again(bench: Bench) -> None:
    head = bench.append(b"x").head
    bench.writer.close()
    bench.ring.mark_applied(head.generation, 1)
    (bench.folder / segment.file_name(head.segment)).unlink()
    while bench.ring.prepare():
        pass
    assert bench.ring.free_segments == SMALL.segments
    assert len(segment.list_segments(bench.folder)) == SMALL.segments


def test_a_free_segment_that_a_person_has_deleted_stops_no_writer(bench: Bench) -> None:
    (number, *others) = bench.ring.control.numbers(SegmentState.FREE)
    (bench.folder / segment.file_name(number)).unlink()
    assert bench.append(b"x").head.segment == others[0]
    assert bench.ring.control.state(number) is SegmentState.BROKEN


def test_an_open_segment_that_a_person_has_deleted_is_left_where_all_of_it_is_applied(bench: Bench) -> None:
    """Its door may have died; another door's records are applied on. What is gone unapplied is not passed over."""
    head = bench.append(b"x").head
    (bench.folder / segment.file_name(head.segment)).unlink()
    with pytest.raises(FileNotFoundError):
        bench.ring.close_abandoned()
    bench.ring.mark_applied(head.generation, 1)
    assert bench.ring.close_abandoned() is None


def test_a_segment_whose_writer_lives_is_not_closed_for_it(bench: Bench) -> None:
    bench.append(b"x")
    assert bench.ring.close_abandoned() is None
    bench.writer.close()
    assert bench.ring.control.state(bench.heard[0].head.segment) is SegmentState.CLOSED


def test_slots_that_are_used_up_slow_the_sender_then_raise() -> None:
    pool = SlotPool(1, 8192)
    slot = pool.take(0.0)
    with pytest.raises(Shortage):
        pool.take(0.01)
    threading.Timer(0.05, pool.give_back, (slot.number,)).start()
    assert pool.take(10.0).number == slot.number


def test_who_waits_longest_for_a_slot_has_the_next_one() -> None:
    """With many associations some would wait in vain, had all of them the same chance at each."""
    pool, served = SlotPool(1, 8192), list[int]()
    held = pool.take(0.0)

    def take(number: int) -> None:
        slot = pool.take(60.0)
        served.append(number)
        pool.give_back(slot.number)

    waiting = [threading.Thread(target=take, args=(number,)) for number in range(40)]
    for number, each in enumerate(waiting, start=1):
        each.start()
        wait_until(lambda many=number: pool._line.length == many, 60, "it stands in the line")
    with pytest.raises(Shortage):
        pool.take(0.0)  # whoever comes last, and does not wait
    pool.give_back(held.number)
    for each in waiting:
        each.join(60)
    assert served == list(range(40))


def test_who_waits_no_longer_leaves_the_line() -> None:
    pool = SlotPool(1, 8192)
    held, served = pool.take(0.0), list[bool]()

    def take(patience: float) -> None:
        with suppress(Shortage):
            served.append(bool(pool.take(patience)))

    short, patient = (threading.Thread(target=take, args=(patience,)) for patience in (0.2, 60.0))
    for number, each in enumerate((short, patient), start=1):
        each.start()
        wait_until(lambda many=number: pool._line.length == many, 60, "it stands in the line")
    short.join(60)
    pool.give_back(held.number)
    patient.join(60)
    assert served == [True]


def test_slots_keep_no_memory_when_the_door_is_quiet() -> None:
    pool = SlotPool(3, 1 << 20)
    done, held = pool.take(0.0), pool.take(0.0)
    for slot in (done, held):
        slot.body[:] = b"x" * len(slot.body)

    def resident() -> int:
        return os.fstat(pool.descriptors[0]).st_blocks * 512

    pool.give_back(done.number)
    pool.rest()
    assert resident() >= 2 << 20, "it may be needed again soon"
    pool.rest()
    assert 1 << 20 <= resident() < 2 << 20
    assert held.body == b"x" * len(held.body)
    again = pool.take(0.0)
    again.body[:4] = b"abcd"
    pool.rest()
    pool.give_back(again.number)
    assert again.body[:4] == b"abcd"


def test_bytes_that_changed_in_the_buffer_are_not_applied(bench: Bench) -> None:
    appended = bench.append(b"genuine")
    record_in_memory = JournalRecord(bench.folder, appended.head, memoryview(b"changed"))
    with pytest.raises(BodyDamaged):
        list(record_in_memory.bodies())


def test_progress_has_no_gaps() -> None:
    progress = AppliedProgress({1: 2}).advance([RecordIdentity(1, 4), RecordIdentity(2, 0)])
    assert progress.upto == {1: 2, 2: 1}
    assert progress.advance([RecordIdentity(1, 2), RecordIdentity(1, 3), RecordIdentity(1, 0)]).upto == {1: 5, 2: 1}


def test_progress_is_kept_of_the_generations_that_segments_have(bench: Bench) -> None:
    batches = Batches(Kept(), bench.ring.mark_applied, is_live=bench.ring.has_generation)
    for _ in range(20):
        batches.add(JournalRecord(bench.folder, bench.append(bytes(100_000)).head))
        batches.flush()
        while bench.ring.prepare():
            pass
    assert len(bench.ring.live_generations()) == 4
    assert len(batches._progress.upto) <= 4


def test_a_batch_that_fails_comes_again_whole(bench: Bench) -> None:
    kept, marked = Kept(), []
    kept.fails = 1
    batches = Batches(kept, lambda *each: marked.append(each), most_records=2)
    records = [JournalRecord(bench.folder, bench.append(body).head) for body in (b"a", b"b", b"c")]
    batches.add(records[0])
    with pytest.raises(StorageFull):
        batches.add(records[1])
    assert (kept.upto, marked) == ({}, [])
    batches.flush()
    generation = records[0].head.generation
    assert (kept.upto, marked) == ({generation: 2}, [(generation, 2)])
    batches.add(records[2])
    batches.flush()
    assert list(kept.bodies.values()) == [b"a", b"b", b"c"]
    assert (kept.upto, marked[1:]) == ({generation: 3}, [(generation, 3)])


def test_what_is_appended_and_not_in_the_spool_is_counted_in_files_and_bytes(bench: Bench) -> None:
    control = bench.ring.control
    batches = Batches(Kept(), bench.ring.mark_applied, bench.ring.mark_spooled)
    items = [JournalRecord(bench.folder, bench.append(os.urandom(60_000)).head) for _ in range(5)]  # of two segments
    assert control.most_owed == (256, 4 * 256 << 10), "of any records"
    assert control.owed_to_spool().files == 5
    assert 300_000 <= control.owed_to_spool().bytes <= 360_000
    batches.add(items[0])
    assert control.owed_to_spool().files == 4
    assert 240_000 <= control.owed_to_spool().bytes <= 288_000
    batches.add(damage_of(items[1]))
    batches.add(RecordDamage(items[2].identity, items[2].segment, 0, DamagedPart.HEAD))  # its length is not known
    for each in items[3:]:
        batches.add(each)
    assert control.owed_to_spool() == (0, 0)
    batches.flush()
    while bench.ring.prepare():
        pass
    assert control.owed_to_spool() == (0, 0)


def test_a_writer_waits_for_a_segment_as_long_as_its_sender_waits_for_a_buffer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        bench.append(bytes(100_000))
    bench.writer.close()
    now = [0.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds
        if now[0] > BUFFER_WAIT_SECONDS - 1:  # apply was behind, or the catalog was locked
            for each in bench.heard:
                bench.ring.mark_applied(each.head.generation, each.head.index + 1)
            while bench.ring.prepare():
                pass

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=pass_time, time_ns=time.time_ns)
    monkeypatch.setattr("edge.journal.ring.time", clock)
    claims = Claims(bench.folder)
    writer = SegmentWriter(claims)
    assert append(writer, bench.slots, b"late").head.index == 0
    writer.close()
    claims.close()


def test_a_start_applies_what_is_left_once_and_recycles(tmp_path: Path) -> None:
    bench, kept = Bench(tmp_path / "journal"), Kept()
    bodies = [os.urandom(70_000) for _ in range(5)]
    heads = [bench.append(body).head for body in bodies]
    bench.close()
    kept.upto[heads[0].generation] = 1
    ring = Ring(tmp_path / "journal", SMALL)
    replay_into(ring, kept)
    assert list(kept.bodies.values()) == bodies[1:]
    while ring.prepare():
        pass
    assert len(ring.control.numbers(SegmentState.FREE)) == 4
    ring.close()
    kept.bodies.clear()
    ring = Ring(tmp_path / "journal", SMALL)
    replay_into(ring, kept)
    assert kept.bodies == {}
    ring.close()


def test_a_door_does_not_claim_what_an_earlier_run_has_left(tmp_path: Path) -> None:
    Bench(tmp_path / "journal").append(b"x")
    ring = Ring(tmp_path / "journal", SMALL)
    with pytest.raises(Shortage):
        Claims(tmp_path / "journal", 0.0).claim()
    ring.close()
