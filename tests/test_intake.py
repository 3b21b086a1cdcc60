"""The commit point: what is answered, what is kept, and what a crash at any step leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import StorageFull, StorageUnhealthy
from edge.intake import Policy, StoreResponse
from edge.model import ContextKey, Origin
from edge.release import Releaser
from edge.spool import Partial
from edge.storage import recovery
from edge.store import deliveries
from edge.store.database import Database
from edge.store.ledger import first_broken
from tests.gateway import CONFIG, Receiving, configuration
from tests.objects import ct_files, dataset, read_meta, sop_instance_uid

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
ORIGIN = Origin("CT1", "EDGE", "127.0.0.1", 1_790_000_000.5)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


@pytest.fixture
def slice_(tmp_path: Path) -> Path:
    return ct_files(tmp_path / "ct", 1, 100_000)[0]


def receive(edge: Receiving, path: Path) -> Partial:
    partial = edge.intake.begin(ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)
    partial.write([memoryview(dataset(path))])
    return partial


def accept(edge: Receiving, path: Path) -> StoreResponse:
    return edge.intake.accept(receive(edge, path), ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)


class Crash(BaseException):
    """The process ends here."""


def dies(*_: Any, **__: Any) -> None:
    raise Crash


def test_the_order_of_syncs_is_file_then_name_then_directory_then_rows(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        steps.append("sync file" if name.endswith(".part") else "sync " + Path(name).parent.name)
        fsync(fd)

    def spy_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    edge.db._writer.set_trace_callback(lambda sql: steps.append("commit") if sql == "COMMIT" else None)
    edge.spool.bucket()  # made before: its own syncs are not the point
    steps.clear()
    assert accept(edge, slice_).status == 0
    assert steps == ["sync file", "rename", "sync spool", "commit"]


def test_the_file_says_where_it_came_from(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    (path,) = edge.files()
    meta, _ = read_meta(path.read_bytes())
    assert meta[0x0016].strip() == b"CT1"
    assert edge.spool.read_meta(f"{path.parent.name}/{path.name}").origin == ORIGIN
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("where", "name"),
    [("edge.spool.os", "fsync"), ("edge.spool.os", "rename"), ("edge.spool.Bucket", "sync")],
)
def test_a_crash_before_the_commit_loses_nothing_that_was_answered(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, where: str, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"{where}.{name}", dies)
        with pytest.raises(Crash):
            accept(edge, slice_)
    restarted(edge)
    assert edge.partials() == []
    assert accept(edge, slice_).status == 0
    assert len(edge.files()) == 1
    assert edge.rows("SELECT count(*) FROM instance") == [(1,)]


def restarted(edge: Receiving) -> None:
    """What a new process does with the same directory."""
    edge.db.close()
    edge.db = edge.intake._db = Database(edge.data_dir / "catalog.db")
    recovery.at_start(edge.db, edge.spool)
    future = time.time() + 60
    recovery.reconcile(edge.db, edge.spool, edge.intake, future, threading.Event(), time.time, pause=0)


def test_a_crash_after_the_rename_leaves_a_file_that_is_adopted_and_routed(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(edge.db, "write", dies)
        with pytest.raises(Crash):
            accept(edge, slice_)
    assert edge.rows("SELECT count(*) FROM instance") == [(0,)]
    restarted(edge)
    assert edge.rows("SELECT state, calling_ae FROM instance") == [("stored", "CT1")]
    assert edge.rows("SELECT destination, state FROM delivery") == [("archive", "pending")]
    assert accept(edge, slice_).status == 0  # the modality, which had no answer, sends it again
    assert len(edge.files()) == 1


def test_a_row_without_its_file_is_an_alarm(edge: Receiving, tmp_path: Path) -> None:
    gone, cut, whole = ct_files(tmp_path / "ct3", 3, 50_000)
    for path in (gone, cut, whole):
        accept(edge, path)
    names = edge.rows("SELECT path FROM instance ORDER BY id")
    edge.spool.path_of(names[0][0]).unlink()
    os.truncate(edge.spool.path_of(names[1][0]), 1000)
    restarted(edge)
    assert edge.rows("SELECT state FROM instance ORDER BY id") == [("lost",), ("lost",), ("stored",)]
    assert edge.rows("SELECT count(*) FROM ledger WHERE event = 'lost'") == [(2,)]


def test_a_lost_instance_that_comes_again_is_whole_again(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.files()[0].unlink()
    restarted(edge)
    assert accept(edge, slice_).status == 0
    assert edge.rows("SELECT state FROM instance") == [("stored",)]
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]


def test_a_leftover_of_an_eviction_is_removed(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'evicted'").rowcount)
    restarted(edge)
    assert edge.files() == []


@pytest.mark.parametrize("name", ["writev", "fsync", "rename", "open"])
def test_a_full_disk_answers_a700_and_leaves_nothing(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    edge.spool.bucket()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        try:
            assert accept(edge, slice_).status == 0xA700
        except StorageFull:
            assert name in ("open", "writev")  # before `accept`: the receiver answers 0xA700
    assert edge.db.failure is None
    assert edge.files() == []
    assert accept(edge, slice_).status == 0


def test_a_failed_sync_stops_acceptance_and_is_never_repeated(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        assert accept(edge, slice_).status == 0xA700
    assert len(calls) == 1
    assert edge.db.failure is not None
    assert (edge.files(), edge.partials()) == ([], []), "a restart would adopt what was refused"
    with pytest.raises(StorageUnhealthy):
        receive(edge, slice_)
    assert edge.rows("SELECT count(*) FROM instance") == [(0,)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("where", ["bucket", "its parent"])
def test_a_failed_sync_of_a_directory_is_one_for_all(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    if where == "bucket":
        edge.spool.bucket()
    real = os.fsync

    def broken(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        assert accept(edge, slice_).status == 0xA700
    assert edge.db.failure is not None
    assert (edge.files(), edge.rows("SELECT count(*) FROM instance")) == ([], [(0,)])


def test_unroutable_is_kept_held_and_finds_its_way_when_a_route_comes(tmp_path: Path, slice_: Path) -> None:
    text = CONFIG.replace('to = ["archive"]', 'to = ["archive"]\nwhen = { Modality = "MR" }')
    with Receiving(tmp_path, text) as edge:
        assert accept(edge, slice_).status == 0
        assert edge.rows("SELECT destination, state FROM delivery") == [("", "held")]
        releaser = Releaser(edge.db, edge.spool, edge.intake)
        assert not releaser.release(1, "sa", "", named=False).done
        edge.intake.policy = Policy.of(configuration(tmp_path, CONFIG))
        assert releaser.release(1, "sa", "", named=False).done
        assert edge.rows("SELECT destination, state FROM delivery") == [("archive", "pending")]
        assert edge.rows("SELECT destination, state, n FROM tally WHERE n <> 0") == [("archive", "pending", 1)]


def test_holds_are_noted(tmp_path: Path, slice_: Path) -> None:
    with Receiving(tmp_path, CONFIG + '[hold.trial]\nwhen = { Modality = "CT" }\n') as edge:
        accept(edge, slice_)
        assert edge.rows("SELECT hold FROM instance") == [("hold.trial",)]


def test_an_evicted_instance_that_comes_again_begins_a_new_custody(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.db.write(lambda c: c.execute("UPDATE delivery SET state = 'confirmed', confirmed_at = 1").rowcount)
    edge.db.write(lambda c: c.execute("UPDATE instance SET state = 'evicted'").rowcount)
    edge.files()[0].unlink()
    assert accept(edge, slice_).status == 0
    assert edge.rows("SELECT state, open_deliveries, confirmed_at FROM instance") == [("stored", 1, None)]
    assert edge.rows("SELECT state FROM delivery") == [("pending",)]
    assert len(edge.files()) == 1


def test_the_ledger_has_every_arrival_and_shows_tampering(edge: Receiving, tmp_path: Path) -> None:
    for path in ct_files(tmp_path / "ct3", 3, 20_000):
        accept(edge, path)
    with edge.db.reading() as conn:
        assert first_broken(conn) is None
    edge.db._writer.execute("DROP TRIGGER ledger_is_append_only_update")
    edge.db.write(lambda conn: conn.execute("UPDATE ledger SET who = 'nobody' WHERE seq = 2").rowcount)
    with edge.db.reading() as conn:
        assert first_broken(conn) == 2


def test_the_ledger_refuses_to_change(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    for sql in ("UPDATE ledger SET who = 'x'", "DELETE FROM ledger"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            edge.db.write(lambda conn, sql=sql: conn.execute(sql).rowcount)  # type: ignore[misc]


def test_the_hash_of_a_long_object_is_that_of_its_bytes(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "big", 1, 20 << 20)
    data = dataset(path)
    partial = edge.intake.begin(ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)
    for at in range(0, len(data), 1 << 18):
        partial.write([memoryview(data)[at : at + (1 << 18)]])
    assert edge.intake.accept(partial, ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN).status == 0
    assert edge.rows("SELECT sha256 FROM instance") == [(hashlib.sha256(data).digest(),)]


def test_leases_of_a_killed_run_are_pending_again(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    assert len(edge.db.write(lambda conn: deliveries.lease(conn, "archive", 0.0, 8, 1 << 30))) == 1
    assert edge.db.write(lambda conn: deliveries.lease(conn, "archive", 0.0, 8, 1 << 30)) == []
    restarted(edge)
    assert len(edge.db.write(lambda conn: deliveries.lease(conn, "archive", 0.0, 8, 1 << 30))) == 1
