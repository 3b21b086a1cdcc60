"""Objects longer than a receive buffer: files of the journal, wherever a run may end or a disk may fail."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash

from edge.errors import Cause, Hindered, Shortage, StorageFull, StorageUnhealthy
from edge.intake import Intake
from edge.journal import body_file, segment
from edge.journal.body_file import BodyFile
from edge.journal.writer import SegmentWriter
from edge.model import ContextKey
from edge.scp.recorder import Recording
from edge.spool import Spool
from tests.store.test_intake import CT, EXPLICIT, ORIGIN, cannot
from tests.support.gateway import RING, Receiving
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import wait_until
from tests.support.slots import count_used

LENGTH = 3_500_000


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return ct_files(tmp_path / "long", 1, LENGTH)[0]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return ct_files(tmp_path / "short", 1, 20_000)[0]


def begin(edge: Receiving, path: Path) -> Recording:
    return edge.recorder.begin(ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)


def accept(edge: Receiving, path: Path) -> int:
    """As a door does: what fails while an object comes is its answer."""
    recording, data = begin(edge, path), memoryview(dataset(path))
    try:
        for at in range(0, len(data), 1 << 18):
            recording.write([data[at : at + (1 << 18)]])
    except (Hindered, StorageUnhealthy):
        return 0xA700
    return edge.recorder.accept(recording, ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN).status


def cannot_now(*_: Any, **__: Any) -> Any:
    raise Shortage("not now", Cause.MEMORY)


def in_journal(edge: Receiving, suffix: str) -> list[Path]:
    return sorted((edge.data_dir / "journal").glob(f"*{suffix}"))


def assert_stored_once(edge: Receiving, path: Path) -> None:
    assert edge.rows("SELECT state, sha256 FROM instance") == [("stored", hashlib.sha256(dataset(path)).digest())]
    assert [dataset(each) for each in edge.files()] == [dataset(path)]
    assert edge.rows("SELECT event FROM ledger") == [("received",)]
    assert in_journal(edge, ".part") == []


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_long_object_is_moved_into_the_spool_and_never_copied(
    edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "put", cannot(errno.EIO))
    assert accept(edge, long) == 0
    edge.settle()
    assert_stored_once(edge, long)
    (file,) = edge.files()
    assert (file.stat().st_mode & 0o777, file.stat().st_nlink) == (0o600, 1)
    assert edge.spool.read_meta(f"{file.parent.name}/{file.name}").origin == ORIGIN


def test_the_quick_checksum_of_the_record_is_kept_with_the_instance(edge: Receiving, long: Path, short: Path) -> None:
    (slice_,) = ct_files(short.parent / "slice", 1, 300_000)
    for path in (long, slice_, short):
        assert accept(edge, path) == 0
    edge.settle()
    quick = [xxhash.xxh3_128_digest(dataset(path)) for path in (long, slice_, short)]
    assert edge.rows("SELECT xxh3 FROM instance ORDER BY id") == [(each,) for each in quick]


def test_an_object_larger_than_the_ring_is_taken(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "huge", 1, RING.segments * RING.segment_bytes + (1 << 20))
    assert accept(edge, path) == 0
    assert_stored_once(edge, path)


def test_file_and_name_are_synced_before_the_record(
    edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def spy(name: str) -> None:
        real = getattr(os, name)

        def call(fd: int, *args: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                steps.append(f"{name} {Path(os.readlink(f'/proc/self/fd/{fd}')).suffix}")
            return real(fd, *args)

        monkeypatch.setattr(os, name, call)

    for name in ("fdatasync", "fsync", "pwritev"):
        spy(name)
    assert accept(edge, long) == 0
    assert steps == ["fdatasync .part", "fsync ", "pwritev .seg"]


@pytest.mark.parametrize(
    ("owner", "name", "is_kept"),
    [(BodyFile, "seal", False), (SegmentWriter, "append_all", False), (Spool, "take", True), (Spool, "sync_all", True),
     (Intake, "enter_all", True)],
    ids=["file sync", "record", "rename", "spool sync", "commit"],
)  # fmt: skip
def test_a_run_that_ends_before_a_step_loses_nothing_and_leaves_nothing(
    edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, is_kept: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cannot_now)
        patch.setattr(BodyFile, "discard", lambda _: None)  # a killed process removes nothing
        assert accept(edge, long) == (0 if is_kept else 0xA700)
        if is_kept:
            wait_until(lambda: edge.journal_door.cause, 10, "it could not be applied")
        edge.crash()
    edge.restart()
    assert in_journal(edge, ".part") == []
    assert edge.replayed == is_kept
    assert accept(edge, long) == 0  # the modality, which may have had no answer, sends it again
    assert_stored_once(edge, long)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("where", ["open", "open of the folder", "pwrite", "sync_range", "fdatasync", "fsync"])
def test_each_call_that_fails_is_answered_a700_and_leaves_nothing(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    (path,) = ct_files(tmp_path / "longer", 1, body_file.WRITE_BACK_EVERY + (1 << 20))
    owner = body_file if where == "sync_range" else os
    real = getattr(owner, name := "_sync_range" if where == "sync_range" else where.partition(" ")[0])
    ends = ("/journal",) if "folder" in where else (".part", "/journal")

    def fails(target: Any, *args: Any, **more: Any) -> Any:
        said = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        if said.endswith(ends) and threading.current_thread() is threading.main_thread():
            raise OSError(number, os.strerror(number))
        return real(target, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        assert accept(edge, path) == 0xA700
    assert in_journal(edge, ".part") == []
    wait_until(lambda: not count_used(edge.journal_door.slots), 5, "its buffer is given back")
    assert edge.rows("SELECT * FROM instance") == []
    if number != errno.EIO:
        assert edge.db.failure is None
        assert accept(edge, path) == 0


def test_an_object_that_fills_the_disk_is_refused_before_and_goes_at_once(tmp_path: Path) -> None:
    full: list[bool] = []

    def check_room() -> None:
        if full:
            raise StorageFull("the disk is 95 % full", Cause.BYTES)

    with Receiving(tmp_path, check_room=check_room) as edge:
        recording = begin(edge, ct_files(tmp_path / "ct", 1, 1000)[0])
        recording.write([memoryview(bytes(LENGTH))])
        (partial,) = in_journal(edge, ".part")
        full.append(True)
        with pytest.raises(StorageFull):
            recording.write([memoryview(bytes(20 << 20))])
        assert recording.size < LENGTH + (12 << 20)
        assert not partial.exists()  # not only once its sender has come to its end
        wait_until(lambda: not count_used(edge.journal_door.slots), 5, "its buffer is given back")


def test_a_record_whose_flush_failed_keeps_its_file_until_the_next_start(
    edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the disk has the record: a file that it names must not be missing then."""
    real = os.pwritev

    def lies(fd: int, *args: Any) -> int:
        real(fd, *args)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lies)
        patch.setattr(edge.journal.ring, "_drop", cannot_now)  # a segment that is gone names no file
        assert accept(edge, long) == 0xA700
        assert edge.db.failure is not None
        assert len(in_journal(edge, ".part")) == 1
        edge.crash()
    edge.restart()
    assert edge.rows("SELECT count(*) FROM ledger WHERE event = 'lost'") == [(0,)]
    assert_stored_once(edge, long)


def hold_back(edge: Receiving, paths: list[Path], damage: Callable[[], None], *, restart: bool) -> None:
    """Accept some, damage what the journal has of them, and let them be applied: by this run, or by the next."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("take", "put"):
            patch.setattr(Spool, name, cannot_now)
        for path in paths:
            assert accept(edge, path) == 0
        wait_until(lambda: edge.journal_door.cause, 10, "it could not be applied")
        if restart:
            edge.crash()
        damage()
    if restart:
        edge.restart()


@pytest.mark.parametrize("restart", [False, True], ids=["this run", "the next"])
@pytest.mark.parametrize("at", [200, 1000, LENGTH, None], ids=["meta", "start", "end", "missing"])
def test_a_file_that_rots_is_an_alarm_by_name_and_kept_for_a_person(
    edge: Receiving, long: Path, short: Path, restart: bool, at: int | None
) -> None:
    def damage() -> None:
        (file,) = in_journal(edge, ".part")
        file.unlink() if at is None else flip(file, at)

    hold_back(edge, [long, short], damage, restart=restart)
    assert edge.rows("SELECT sop_instance_uid, state FROM instance") == [(sop_instance_uid(short), "stored")]
    assert edge.rows("SELECT event FROM ledger ORDER BY event") == [("lost",), ("received",)]
    kept = [path.name for path in in_journal(edge, ".damaged")]
    assert len(kept) == (1 if at is None else 2)  # the segment, and what there is of the file
    assert edge.db.failure is None
    edge.settle()
    edge.crash()
    edge.restart()
    assert [path.name for path in in_journal(edge, ".damaged")] == kept
    assert edge.rows("SELECT count(*) FROM ledger") == [(2,)]


def test_a_file_that_the_disk_cannot_read_once_is_no_damage(
    edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Path.open, [OSError(errno.EIO, "Input/output error") for _ in range(2)]

    def open_file(path: Path, *how: Any, **more: Any) -> Any:
        if path.suffix == ".part" and failures:
            raise failures.pop()
        return real(path, *how, **more)

    monkeypatch.setattr(Path, "open", open_file)
    assert accept(edge, long) == 0
    assert_stored_once(edge, long)
    assert not failures


def test_a_damaged_segment_of_this_run_is_not_recycled(edge: Receiving, tmp_path: Path) -> None:
    paths = ct_files(tmp_path / "ct", 3, 100_000)
    rotten: list[bytes] = []

    def damage() -> None:
        (path,) = (each for each in in_journal(edge, ".seg") if b"EDGEREC1" in each.read_bytes())
        flip(path, segment.BLOCK + segment.BLOCK + 100)
        rotten.append(path.read_bytes())

    hold_back(edge, paths, damage, restart=False)
    assert edge.rows("SELECT count(*) FROM instance") == [(2,)]
    edge.journal_door.writers.close()  # its segment may be recycled now
    edge.journal._prepare.set()
    (kept,) = in_journal(edge, ".damaged")
    wait_until(lambda: kept.stat().st_nlink == 1, 10, "the ring has another segment in its place")
    assert kept.read_bytes() == rotten[0]
    assert edge.db.failure is None


def test_files_that_a_damaged_head_may_have_named_are_kept(edge: Receiving, long: Path, short: Path) -> None:
    def damage() -> None:
        (path,) = (each for each in in_journal(edge, ".seg") if b"EDGEREC1" in each.read_bytes())
        flip(path, segment.BLOCK + 200)

    hold_back(edge, [long, short], damage, restart=True)
    assert edge.rows("SELECT event FROM ledger ORDER BY event") == [("lost",), ("received",)]
    (file,) = (path for path in in_journal(edge, ".damaged") if "-" not in path.name)
    assert file.read_bytes().endswith(dataset(long))


def test_another_file_system_is_said_clearly(edge: Receiving, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cannot(errno.EXDEV))
        assert accept(edge, long) == 0
        wait_until(lambda: edge.db.failure, 10, "nothing more is accepted")
    assert "must be on one file system" in str(edge.db.failure)
    edge.crash()
    edge.restart()
    assert_stored_once(edge, long)
