"""The journal where the disk fails or the process is killed: no success that is not there afterwards.

JOURNAL_KILLS: so many kills instead of the few of the normal suite.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from edge.errors import EdgeError, Hindered, Shortage, StorageFull, StorageUnhealthy
from edge.journal import segment
from edge.journal.control import SegmentState
from edge.journal.record import RecordIdentity
from edge.journal.replay import read_segment
from edge.journal.ring import Claims, Ring
from edge.journal.segment import RingSize
from edge.journal.slots import SlotPool
from edge.journal.writer import SegmentWriter
from tests.support.journaling import SMALL, Bench, Kept, append, found, replay_into

KILLS = int(os.environ.get("JOURNAL_KILLS", "24"))
REPOSITORY = Path(__file__).resolve().parents[2]
SITES = ("pwrite", "pwritev", "fsync", "fdatasync", "rename", "unlink", "open")


class Failing:
    """Makes one call, the n-th of those that change the journal, fail; a write that fails has written half of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
        self.number, self.at, self.calls, self.name = number, at, 0, ""
        for name in SITES:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls - 1 != self.at:
                return real(*args, **more)
            self.name = name
            if name in ("pwrite", "pwritev") and chance.random() < 0.5:
                view = memoryview(args[1][0] if name == "pwritev" else args[1])
                real(args[0], [view[: len(view) // 8192 * 4096]] if name == "pwritev" else view[:512], args[2])
            raise OSError(self.number, os.strerror(self.number))

        chance = random.Random(self.at)
        return call


def play(folder: Path, answered: dict[RecordIdentity, bytes], errors: list[EdgeError], kept: Kept) -> None:
    """Append through three segments and recycle; a refusal is noted, and the work goes on."""
    size = RingSize(3, 128 << 10)
    try:
        ring = Ring(folder, size)
    except EdgeError as error:  # at the very start: the daemon does not start, and nobody is answered
        errors.append(error)
        return
    replay_into(ring, kept)
    lay_out(ring, errors)
    try:
        claims = Claims(folder, 0.0)
    except OSError as error:
        errors.append(StorageUnhealthy(str(error)))
        return
    slots, writer = SlotPool(1, 128 << 10), SegmentWriter(claims)
    for length in (3, 40_000, 40_000, 40_000, 3, 100_000):
        body = os.urandom(length)
        try:
            answered[append(writer, slots, body).head.identity] = body
        except EdgeError as error:
            errors.append(error)
    writer.close()
    lay_out(ring, errors)
    ring.close()


def lay_out(ring: Ring, errors: list[EdgeError]) -> None:
    while True:
        try:
            if not ring.prepare():
                return
        except EdgeError as error:
            errors.append(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_each_call_that_fails_is_an_error_and_never_a_lost_answer(tmp_path: Path, number: int) -> None:
    at, names = 0, set()
    while True:
        folder, answered, errors, kept = tmp_path / f"{at}", {}, [], Kept()
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, number, at)
            play(folder, answered, errors, kept)
        if not failing.name:
            break
        names.add(failing.name)
        there, damage, _ = found(folder) if folder.is_dir() else ({}, [], None)
        assert answered.items() <= there.items(), (at, failing.name)
        assert not damage, (at, failing.name)
        if failing.name == "pwritev":
            kind = StorageUnhealthy if number == errno.EIO else StorageFull
            assert [type(error) for error in errors][:1] == [kind], at
        at += 1
    assert names >= {"pwrite", "pwritev", "fsync", "fdatasync", "rename", "open"}
    assert at > 30


def test_after_a_failed_flush_a_writer_stops_and_its_segment_is_never_appended_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    first = bench.append(b"first").head
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, errno.EIO, 0)
        with pytest.raises(StorageUnhealthy):
            bench.append(b"lost")
    with pytest.raises(StorageUnhealthy):
        bench.append(b"later")
    assert bench.ring.control.state(first.segment) is SegmentState.POISONED
    assert bench.append(b"other", bench.new_writer()).head.segment != first.segment
    bench.ring.mark_applied(first.generation, 1)
    old = (bench.folder / segment.file_name(first.segment)).stat().st_ino, first.generation
    assert bench.ring.prepare()  # removed
    assert bench.ring.prepare()  # and laid out
    assert bench.ring.control.generation(first.segment) != old[1]
    assert bench.ring.control.state(first.segment) is SegmentState.FREE


def test_after_a_full_disk_a_writer_goes_to_a_fresh_segment(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    first = bench.append(b"first").head
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, errno.ENOSPC, 0)
        with pytest.raises(StorageFull):
            bench.append(b"refused")
    second = bench.append(b"second").head
    assert (second.index, second.segment != first.segment) == (0, True)
    assert second.earlier.records == 1


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOMEM, Shortage),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageUnhealthy),
        (errno.ENXIO, StorageUnhealthy),
    ],
)
def test_what_a_flush_lacks_is_a_shortage_fullness_or_a_broken_disk(
    tmp_path: Path, number: int, kind: type[EdgeError]
) -> None:
    bench = Bench(tmp_path / "journal")
    head = bench.append(b"x").head
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, number, 0)
        with pytest.raises(kind):
            bench.append(b"y")
    assert bench.ring.control.state(head.segment) is SegmentState.POISONED


def test_a_ring_that_finds_no_room_stays_smaller_and_grows_later(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "journal", SMALL)
    ring.prepare()
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, errno.ENOSPC, 1)
        with pytest.raises(Hindered):
            ring.prepare()
    assert [path.suffix for path in sorted(ring.folder.iterdir())] == [".seg", ""]
    assert ring.prepare()
    assert ring.free_segments == 2


def test_where_the_file_system_has_no_direct_writes_the_flush_is_another(tmp_path: Path) -> None:
    real_open, real_pwritev, synced = os.open, os.pwritev, []

    def no_direct(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode, **more)

    def no_dsync(fd: int, views: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_DSYNC:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real_pwritev(fd, views, offset, flags)

    bench = Bench(tmp_path / "journal")
    real_sync = os.fdatasync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", no_direct)
        patch.setattr(os, "pwritev", no_dsync)
        patch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real_sync(fd))[1])
        head = bench.append(b"x").head
    assert len(synced) == 1
    assert found(bench.folder)[0] == {head.identity: b"x"}


def start(folder: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.journaling", str(folder), str(seed)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen[str], most: int) -> dict[RecordIdentity, str]:
    """What it was answered, until it is killed after so many and a random while."""
    assert process.stdout is not None
    told: list[str] = []
    for line in process.stdout:
        if line == "done\n":
            break
        told.append(line)
        if len(told) == most:
            time.sleep(random.random() * 0.003)
            process.send_signal(signal.SIGKILL)
            break
    process.kill()
    told += [line for line in process.stdout if line != "done\n"]
    process.wait()
    process.stdout.close()
    whole = (line.split() for line in told if line.endswith("\n"))
    return {RecordIdentity(int(generation), int(index)): digest for generation, index, digest in whole}


def test_kill_9_at_any_moment_loses_no_answer(tmp_path: Path) -> None:
    """Two doors at a time; between the kills the daemon starts again over what they have left."""
    folder, size, kept = tmp_path / "journal", RingSize(8, 512 << 10), Kept()
    told: dict[RecordIdentity, str] = {}
    for seed in range(KILLS // 2):
        ring = Ring(folder, size, floor=max(kept.upto, default=0))
        replay_into(ring, kept)
        while ring.prepare():
            pass
        doors = [start(folder, seed * 2 + n) for n in range(2)]
        chance = random.Random(seed)
        for door in doors:
            told |= answers(door, chance.randint(1, 8))
        ring.close()
    ring = Ring(folder, size, floor=max(kept.upto, default=0))
    replay_into(ring, kept)
    ring.close()
    bodies = {identity: hashlib.sha256(body).hexdigest() for identity, body in kept.bodies.items()}
    assert len(told) > KILLS
    assert told.items() <= bodies.items()
    assert kept.damage == []


def test_a_door_that_was_killed_leaves_its_segment_to_be_closed(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "journal", RingSize(1, 64 << 20))
    ring.prepare()
    told = answers(start(ring.folder, 1), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "open_for_append", Mock(side_effect=OSError(errno.EMFILE, "too many open files")))
        with pytest.raises(OSError, match="open files"):  # else nobody would ask again for what the door had answered
            ring.close_abandoned()
    assert ring.close_abandoned() == 0
    assert ring.close_abandoned() is None
    assert ring.control.state(0) is SegmentState.CLOSED
    assert ring.control.written_count(0) > max(identity.index for identity in told)
    read = list(read_segment(ring.path_of(0), 1, ring.control.written_count(0)))
    assert [each.identity.index for each in read] == list(range(1, ring.control.written_count(0)))
    ring.close()
