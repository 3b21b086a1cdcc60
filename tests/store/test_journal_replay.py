"""What the journal finds after a crash or rot: each torn tail dropped, each damage named, the rest read."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from edge.journal import record, replay, segment
from edge.journal.record import BLOCK, RecordHead, RecordIdentity
from edge.journal.replay import DamagedPart
from edge.journal.ring import Ring
from edge.journal.segment import RingSize
from tests.support.journaling import SMALL, Bench, Kept, found, replay_into

ONE = RingSize(1, 64 << 10)


def path_of(bench: Bench, head: RecordHead) -> Path:
    return bench.folder / segment.file_name(head.segment)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def with_garbage(folder: Path) -> Bench:
    """A ring of one segment full of records of an older generation."""
    bench, kept = Bench(folder, ONE), Kept()
    for _ in range(4):
        bench.append(os.urandom(5_000))
    bench.close()
    ring = Ring(folder, ONE)
    replay_into(ring, kept)
    ring.close()
    bench = Bench(folder, ONE)
    bench.ring.mark_replayed(0)
    bench.ring.prepare()
    return bench


def test_a_tail_torn_at_any_byte_is_dropped_and_what_was_before_stays(tmp_path: Path) -> None:
    bench = with_garbage(tmp_path / "journal")
    first = bench.append(b"first" * 1000).head
    path = path_of(bench, first)
    before = path.read_bytes()
    last = bench.append(os.urandom(5_000)).head
    after = path.read_bytes()
    start, whole = last.offset, last.length + last.body_length
    with path.open("r+b") as file:
        for cut in range(last.record_length):
            file.seek(start)
            file.write(after[start : start + cut] + before[start + cut : start + last.record_length])
            file.flush()
            there, damage, replay = found(bench.folder)
            # A tear that changes nothing is none: zeros over zeros, or a byte that happens to be the same.
            is_whole = cut >= whole or after[start : start + whole] == (
                after[start : start + cut] + before[start + cut : start + whole]
            )
            assert list(there) == [first.identity, last.identity][: 1 + is_whole], cut
            assert not damage, cut
            assert replay.left.torn <= 1 - is_whole, cut
            if cut >= BLOCK and not is_whole:
                assert replay.left.torn_at == [(0, start)], cut


def test_a_tail_of_which_any_sectors_were_written_is_dropped(tmp_path: Path) -> None:
    bench = with_garbage(tmp_path / "journal")
    first = bench.append(b"first").head
    path = path_of(bench, first)
    before = path.read_bytes()
    last = bench.append(os.urandom(BLOCK * 2)).head
    after = path.read_bytes()
    chance = random.Random(11)
    sectors = range(last.offset, last.offset + last.record_length, 512)
    for _ in range(300):
        data = bytearray(before)
        written = [at for at in sectors if chance.random() < 0.7]
        for at in written:
            data[at : at + 512] = after[at : at + 512]
        path.write_bytes(data)
        there, damage, _ = found(bench.folder)
        is_whole = data == after
        assert (list(there), damage) == ([first.identity, last.identity][: 1 + is_whole], [])


def test_records_of_an_older_generation_are_not_read(tmp_path: Path) -> None:
    bench = with_garbage(tmp_path / "journal")
    assert path_of_only(bench).read_bytes().count(record.RECORD_MAGIC) == 4
    assert found(bench.folder)[0] == {}
    head = bench.append(b"new").head
    there, damage, replay = found(bench.folder)
    assert (there, damage, replay.left.torn) == ({head.identity: b"new"}, [], 0)


def path_of_only(bench: Bench) -> Path:
    (path,) = segment.list_segments(bench.folder)
    return path


@pytest.mark.parametrize("wrong", ["salt", "generation", "place"])
def test_a_data_set_that_holds_a_record_is_not_read_as_one(tmp_path: Path, wrong: str) -> None:
    bench = Bench(tmp_path / "journal")
    head = bench.append(b"x").head
    at = head.record_length + 3 * BLOCK  # the second block of the data set of the next record
    forged = replace(head, index=1, offset=at, body_length=0, algorithm=record.XXH3, checksum=bytes(32))
    changed = {"salt": bytes(16), "generation": head.generation - 1, "offset": at + BLOCK}
    key = "offset" if wrong == "place" else wrong
    path = path_of(bench, head)
    last = bench.append(bytes(BLOCK) + record.encode_head(replace(forged, **{key: changed[key]})) + bytes(BLOCK)).head
    flip(path, last.offset)  # so that what comes behind is searched
    there, damage, _ = found(bench.folder)
    assert (list(there), damage) == ([head.identity], [])


@pytest.mark.parametrize("where", ["magic", "generation", "length", "facts", "sum", "prefix", "body", "body-end"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_rot_in_an_answered_record_is_named_and_the_others_are_read(tmp_path: Path, which: int, where: str) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(os.urandom(70_000)).head for _ in range(4)]  # the fourth is in another segment
    head = heads[which]
    at = {"magic": 0, "generation": 16, "length": 57, "facts": 177, "sum": 165, "prefix": head.length - 1,
          "body": head.length + 10, "body-end": head.length + head.body_length - 1}  # fmt: skip
    flip(path_of(bench, head), head.offset + at[where])
    there, damage, replay = found(bench.folder)
    assert list(there) == [each.identity for each in heads if each is not head]
    is_body = where.startswith("body")
    assert [(each.identity, each.where) for each in damage] == [
        (head.identity, DamagedPart.BODY if is_body else DamagedPart.HEAD)
    ]
    assert (damage[0].head == head) == is_body
    assert (damage[0].segment, replay.left.torn) == (path_of(bench, head), 0)


def test_rot_in_what_was_applied_before_is_no_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(b"x" * 100).head for _ in range(3)]
    flip(path_of(bench, heads[0]), heads[0].offset)
    there, damage, _ = found(bench.folder, {heads[0].generation: 1})
    assert (len(there), damage) == (2, [])


def test_a_last_record_that_a_later_segment_speaks_of_is_damage_when_it_is_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(os.urandom(60_000)).head for _ in range(4)]
    path = path_of(bench, heads[2])
    data = bytearray(path.read_bytes())
    data[heads[1].offset : heads[2].offset + heads[2].record_length] = bytes(heads[1].record_length * 2)
    path.write_bytes(data)
    there, damage, _ = found(bench.folder)
    assert list(there) == [heads[0].identity, heads[3].identity]
    assert [(each.identity.index, each.where) for each in damage] == [(1, DamagedPart.HEAD), (2, DamagedPart.MISSING)]


def test_a_segment_that_was_cut_off_is_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(os.urandom(60_000)).head for _ in range(4)]
    os.truncate(path_of(bench, heads[0]), heads[1].offset + 100)
    there, damage, _ = found(bench.folder)
    assert list(there) == [heads[0].identity, heads[3].identity]
    assert [each.identity.index for each in damage] == [1, 2]


def test_one_rotten_header_does_no_harm_and_two_are_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    head = bench.append(b"x").head
    path = path_of(bench, head)
    flip(path, 20)
    assert list(found(bench.folder)[0]) == [head.identity]
    flip(path, path.stat().st_size - BLOCK + 20)
    there, damage, _ = found(bench.folder)
    assert (there, [(each.where, each.segment) for each in damage]) == ({}, [(DamagedPart.HEADER, path)])


@pytest.mark.parametrize("what", ["first", "last", "prefix", "short", "missing", "long"])
def test_a_file_that_is_not_what_was_recorded_is_damage_also_of_the_last_record(tmp_path: Path, what: str) -> None:
    bench = Bench(tmp_path / "journal")
    before = bench.append(b"before").head
    head = bench.append_long(os.urandom(90_000), os.urandom(90_000)).head
    (path,) = bench.folder.glob("*.part")
    if what == "missing":
        path.unlink()
    elif what == "short":
        os.truncate(path, 180_003)
    elif what == "long":
        with path.open("ab") as file:
            file.write(b"x")
    else:
        flip(path, {"first": 4, "last": 180_003, "prefix": 0}[what])
    there, damage, replay = found(bench.folder)
    assert list(there) == [before.identity]
    assert [(each.identity, each.where, each.head) for each in damage] == [(head.identity, DamagedPart.BODY, head)]
    assert replay.left.torn == 0


def test_what_the_disk_cannot_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(os.urandom(20_000)).head for _ in range(3)]
    bad, real = heads[1].offset + BLOCK, os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        if offset <= bad < offset + count:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    there, damage, _ = found(bench.folder)
    assert list(there) == [heads[0].identity, heads[2].identity]
    assert [(each.identity, each.where) for each in damage] == [(heads[1].identity, DamagedPart.BODY)]


@pytest.mark.parametrize("part", ["head", "body", "segment-header"])
def test_what_the_disk_cannot_read_once_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    bench = Bench(tmp_path / "journal")
    head = bench.append(os.urandom(20_000)).head
    path, real = path_of(bench, head), os.pread
    places = {"head": [BLOCK], "body": [2 * BLOCK], "segment-header": [0, path.stat().st_size - BLOCK]}[part]
    failures = 2 * places

    def pread(fd: int, count: int, offset: int) -> bytes:
        if offset in failures:
            failures.remove(offset)
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    (item,) = replay.read_segment(path, 0, 1)
    assert (item.identity, isinstance(item, replay.RecordDamage), failures) == (head.identity, False, [])
    failures += 2 * places
    (item,) = replay.Replay(bench.folder, {})
    assert (item.identity, isinstance(item, replay.RecordDamage), failures) == (head.identity, False, [])


@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK])
def test_a_shortage_while_reading_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    bench = Bench(tmp_path / "journal")
    bench.append(b"x" * 100_000)
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        if offset == at:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="allocate"):
        found(bench.folder)


def test_each_generation_has_a_salt_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", RingSize(2, 64 << 10))
    salts = []
    for generation in (1, 2, 3):
        segment.recycle(bench.ring.path_of(0), generation)
        salts.append(segment.read_segment_header(bench.ring.path_of(0)).salt)
    assert len({bytes(16), *salts}) == 4


def test_a_damaged_segment_is_kept_and_the_ring_gets_another(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    heads = [bench.append(os.urandom(10_000)).head for _ in range(3)]
    path = path_of(bench, heads[1])
    flip(path, heads[1].offset + BLOCK)
    rotten = path.read_bytes()
    bench.close()
    ring, kept = Ring(bench.folder, SMALL), Kept()
    replay_into(ring, kept)
    while ring.prepare():
        pass
    ring.close()
    (aside,) = bench.folder.glob("*.damaged")
    assert aside.read_bytes() == rotten
    assert kept.upto[heads[0].generation] == 3
    assert [each.identity for each in kept.damage] == [RecordIdentity(heads[1].generation, 1)]
    assert len(segment.list_segments(bench.folder)) == 4


def test_segments_whose_headers_are_rotten_are_all_kept(tmp_path: Path) -> None:
    bench, kept = Bench(tmp_path / "journal"), Kept()
    for _ in range(2):
        bench.append(b"x")
        path = path_of(bench, bench.heard[-1].head)
        bench.close()
        for at in (20, SMALL.segment_bytes - BLOCK + 20):
            flip(path, at)
        ring = Ring(bench.folder, SMALL)
        replay_into(ring, kept)
        while ring.prepare():
            pass
        ring.close()
        bench = Bench(tmp_path / "journal")
        for number in range(4):
            bench.ring.mark_replayed(number)
        while bench.ring.prepare():
            pass
    assert len(list(bench.folder.glob("*.damaged"))) == 2
    assert [each.where for each in kept.damage] == [DamagedPart.HEADER] * 2
    assert 0 not in kept.upto
