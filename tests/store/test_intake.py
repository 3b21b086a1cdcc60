"""The commit point: what is answered, what is kept, and what a crash at any step leaves."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge import spool
from edge.errors import CatalogError, Cause, Shortage, StorageUnhealthy
from edge.intake import Intake
from edge.intake.entries import InstanceEntry
from edge.intake.policy import Policy
from edge.intake.routing import RoutingRules
from edge.journal import service
from edge.model import ContextKey, Decision, InstanceHeader, Origin
from edge.scp.recorder import Recording
from edge.scp.response import StoreResponse
from edge.spool import Spool, Stored
from edge.storage.release import Releaser
from edge.store import catalog, leases, legal_holds
from edge.store.ledger import check
from tests.support.gateway import CONFIG, Receiving, configuration
from tests.support.objects import ct_files, dataset, read_meta, sop_instance_uid
from tests.support.peers import wait_until
from tests.support.slots import count_used

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
ORIGIN = Origin("CT1", "EDGE", "127.0.0.1", 1_790_000_000.5)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


@pytest.fixture
def slice_(tmp_path: Path) -> Path:
    return ct_files(tmp_path / "ct", 1, 100_000)[0]


def receive(edge: Receiving, path: Path) -> Recording:
    recording = edge.recorder.begin(ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)
    recording.write([memoryview(dataset(path))])
    return recording


def accept(edge: Receiving, path: Path) -> StoreResponse:
    return edge.recorder.accept(receive(edge, path), ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)


def cannot(number: int = errno.ENOSPC) -> Callable[..., Any]:
    """A call of the system that fails."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fails


def test_rows_follow_the_sync_of_their_files(edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    put, sync = Spool.put, spool.sync_file_system

    def spy_put(*args: Any) -> Stored:
        steps.append("write file")
        return put(*args)

    def spy_sync(fd: int) -> None:
        steps.append("sync")
        sync(fd)

    monkeypatch.setattr(Spool, "put", spy_put)
    monkeypatch.setattr(spool, "sync_file_system", spy_sync)
    edge.db._writer.set_trace_callback(lambda sql: steps.append("commit") if sql == "COMMIT" else None)
    assert accept(edge, slice_).status == 0
    edge.settle()
    assert steps == ["write file", "sync", "commit"]


def test_what_doors_append_one_after_another_shares_a_sync_and_a_commit(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HELD_QUIET_SECONDS", 1.0)  # however busy the machine is
    monkeypatch.setattr(service, "BATCH_SECONDS", 10.0)
    buffers, sync = [], Spool.sync_all

    def spy_sync(spool: Spool) -> None:
        buffers.append(count_used(edge.journal_door.slots))
        sync(spool)

    monkeypatch.setattr(Spool, "sync_all", spy_sync)
    commits: list[str] = []
    edge.db._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    for path in ct_files(tmp_path / "ct", 5, 100_000):
        assert accept(edge, path).status == 0
    assert edge.rows("SELECT count(*) FROM instance") == [(5,)]
    assert commits == ["COMMIT"]
    assert buffers == [0], "each receive buffer is given back once its object's file is written"


def test_the_file_says_where_it_came_from(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    (path,) = edge.files()
    meta, _ = read_meta(path.read_bytes())
    assert meta[0x0016].strip() == b"CT1"
    assert edge.spool.read_meta(f"{path.parent.name}/{path.name}").origin == ORIGIN
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", [("write", "put"), ("sync", "sync_all"), ("enter", "enter_all")], ids=lambda x: x[0])
def test_a_crash_behind_the_answer_loses_nothing_and_the_start_goes_on(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[str, str]
) -> None:
    owner = Intake if where[1] == "enter_all" else Spool
    with monkeypatch.context() as patch:
        patch.setattr(owner, where[1], cannot_now)
        assert accept(edge, slice_).status == 0
        wait_until(lambda: edge.journal_door.cause, 10, "it could not be applied")
        edge.crash()
    edge.restart()
    assert edge.partials() == []
    assert edge.rows("SELECT state, calling_ae, sha256 FROM instance") == [
        ("stored", "CT1", hashlib.sha256(dataset(slice_)).digest())
    ]
    assert edge.rows("SELECT destination, state FROM delivery") == [("archive", "pending")]
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]
    assert edge.rows("SELECT event FROM ledger") == [("received",)]
    assert accept(edge, slice_).status == 0  # the modality, which may have had no answer, sends it again
    assert len(edge.files()) == 1


def cannot_now(*_: Any, **__: Any) -> Any:
    raise Shortage("not now", Cause.MEMORY)


def test_what_is_applied_is_not_applied_again_after_a_crash(edge: Receiving, tmp_path: Path) -> None:
    for path in ct_files(tmp_path / "ct3", 3, 20_000):
        accept(edge, path)
    edge.settle()
    edge.crash()
    edge.restart()
    assert edge.replayed == 0
    assert edge.rows("SELECT event FROM ledger") == [("received",)] * 3
    assert len(edge.files()) == 3


def test_an_object_that_the_catalog_cannot_take_does_not_stop_those_beside_it(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, *others = ct_files(tmp_path / "ct3", 3, 20_000)
    real = catalog.add

    def add(conn: Any, facts: InstanceHeader, *more: Any) -> Any:
        if facts.sop_instance_uid == sop_instance_uid(odd):
            raise LookupError("Miller^Anna")
        return real(conn, facts, *more)

    monkeypatch.setattr(catalog, "add", add)
    for path in (others[0], odd, others[1]):
        assert accept(edge, path).status == 0
    found = edge.rows("SELECT sop_instance_uid, state FROM instance")
    assert dict(found) == {  # type: ignore[arg-type]
        sop_instance_uid(odd): "quarantined",
        sop_instance_uid(others[0]): "stored",
        sop_instance_uid(others[1]): "stored",
    }
    assert edge.db.failure is None


@pytest.mark.parametrize("fault", [LookupError, RuntimeError, AttributeError])
def test_an_object_whose_route_cannot_be_found_goes_to_quarantine_alone_and_is_not_quoted(
    edge: Receiving,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: type[Exception],
) -> None:
    odd, other = ct_files(tmp_path / "ct3", 2, 20_000)
    real = RoutingRules.decide

    def decide(rules: RoutingRules, facts: InstanceHeader) -> Decision:
        if facts.sop_instance_uid == sop_instance_uid(odd):
            raise fault("Miller^" + "Anna")
        return real(rules, facts)

    monkeypatch.setattr(RoutingRules, "decide", decide)
    for path in (odd, other):
        assert accept(edge, path).status == 0
    found = edge.rows("SELECT sop_instance_uid, state FROM instance")
    assert dict(found) == {sop_instance_uid(odd): "quarantined", sop_instance_uid(other): "stored"}  # type: ignore[arg-type]
    assert edge.db.failure is None
    assert fault.__name__ in caplog.text, "its place is in the log"
    assert "Miller^Anna" not in caplog.text, "its words are not"


def test_a_shortage_while_a_header_is_read_again_is_waited_for(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attributes were too long for the record, or the rules have changed since."""
    monkeypatch.setattr(edge.recorder, "search", replace(edge.recorder.search, nested=frozenset({0x00080060})))
    assert edge.recorder.search.name != edge.intake.policy.header.name
    failed = []

    def read_meta(*_: Any) -> Any:
        failed.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "read_meta", read_meta)
        assert accept(edge, slice_).status == 0
        wait_until(lambda: len(failed) > 1, 5, "it is tried again")
    assert edge.rows("SELECT state FROM instance") == [("stored",)]
    assert edge.db.failure is None


def test_a_shortage_while_a_record_is_read_is_waited_for(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def record(*_: Any) -> Any:
        failed.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("edge.journal.notices.RecordNotice.record", record)
        assert accept(edge, slice_).status == 0
        wait_until(lambda: len(failed) > 1, 5, "it is tried again")
    assert edge.rows("SELECT state FROM instance") == [("stored",)]


def test_a_full_journal_answers_a700_and_takes_objects_again_by_itself(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.scp.recorder.BUFFER_WAIT_SECONDS", 0.1)
    files = ct_files(tmp_path / "ct", 12, 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "put", cannot_now)
        answers = []
        for path in files:
            try:
                answers.append(accept(edge, path).status)
            except Shortage:  # the receiver answers 0xA700
                answers.append(0xA700)
    assert edge.db.failure is None
    wait_until(lambda: not edge.journal.pending, 20, "all is applied")
    taken = [path for path, answer in zip(files, answers, strict=True) if answer == 0]
    assert sorted(map(dataset, edge.files())) == sorted(map(dataset, taken))
    assert accept(edge, files[-1]).status == 0


def test_a_row_without_its_file_is_an_alarm(edge: Receiving, tmp_path: Path) -> None:
    gone, cut, whole = ct_files(tmp_path / "ct3", 3, 50_000)
    for path in (gone, cut, whole):
        accept(edge, path)
    names = edge.rows("SELECT path FROM instance ORDER BY id")
    edge.spool.path_of(names[0][0]).unlink()
    os.truncate(edge.spool.path_of(names[1][0]), 1000)
    edge.settle()
    edge.crash()
    edge.restart()
    assert edge.rows("SELECT state FROM instance ORDER BY id") == [("lost",), ("lost",), ("stored",)]
    assert edge.rows("SELECT count(*) FROM ledger WHERE event = 'lost'") == [(2,)]


def test_a_lost_instance_that_comes_again_is_whole_again(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.files()[0].unlink()
    edge.settle()
    edge.crash()
    edge.restart()
    assert accept(edge, slice_).status == 0
    assert edge.rows("SELECT state FROM instance") == [("stored",)]
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]


def damage(path: Path) -> None:
    """Change a bit of an object's last byte, which its header's readers do not see."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lose(edge: Receiving) -> None:
    """The only instance has a damaged file, and that is known."""
    damage(edge.files()[0])
    ((path,),) = edge.rows("SELECT path FROM instance")
    edge.db.write(lambda conn: catalog.lose(conn, path, "its bytes are not those that were received", 1.0))


@pytest.mark.parametrize("is_cut", [False, True], ids=["in order", "a crash right behind the commit"])
def test_damaged_bytes_are_no_other_version_of_an_object_that_came_again(
    edge: Receiving, slice_: Path, is_cut: bool
) -> None:
    accept(edge, slice_)
    lose(edge)
    with pytest.MonkeyPatch.context() as patch:
        if is_cut:
            patch.setattr(InstanceEntry, "finish", lambda _entry: None)
        assert accept(edge, slice_).status == 0
        edge.settle()
        edge.crash()
    edge.restart()
    assert edge.rows("SELECT state FROM instance") == [("stored",)]
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]
    assert len(list((edge.data_dir / "damaged").iterdir())) == 1


def test_an_object_of_quarantine_that_was_lost_is_kept_when_it_comes_again(edge: Receiving, slice_: Path) -> None:
    edge.recorder.accept(receive(edge, slice_), ContextKey(CT, EXPLICIT), "1.2.3", ORIGIN)
    lose(edge)
    edge.recorder.accept(receive(edge, slice_), ContextKey(CT, EXPLICIT), "1.2.3", ORIGIN)
    assert edge.rows("SELECT state FROM instance") == [("quarantined",)]
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]


def test_a_directory_that_another_thread_makes_hides_no_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def make_and_fail(path: str, mode: int = 0o777) -> None:
        make(path, mode)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    spool = Spool(tmp_path)
    monkeypatch.setattr(os, "mkdir", make_and_fail)
    with pytest.raises(StorageUnhealthy):
        spool.put("1", 1.0, b"", [])


def test_a_file_that_came_long_ago_is_moved_though_its_empty_directory_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, path, rename = Spool(tmp_path), tmp_path / "1.part", Path.rename
    path.write_bytes(b"x")

    def remove_first(source: Path, target: Path) -> Path:
        monkeypatch.undo()
        spool.drop_empty_buckets()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", remove_first)
    spool.take(path, "2020010100/1.dcm")
    assert spool.path_of("2020010100/1.dcm").read_bytes() == b"x"
    spool.close()


def test_a_leftover_of_an_eviction_is_removed(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.settle()
    edge.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'evicted'").rowcount)
    edge.settle()
    edge.crash()
    edge.restart()
    assert edge.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM])
def test_a_journal_that_cannot_be_written_now_answers_a700_and_leaves_nothing(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", cannot(number))
        assert accept(edge, slice_).status == 0xA700
    assert edge.db.failure is None
    assert edge.files() == []
    assert accept(edge, slice_).status == 0


def test_a_failed_flush_stops_acceptance_and_is_never_repeated(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*args: Any) -> int:
        calls.append(args)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", broken)
        assert accept(edge, slice_).status == 0xA700
    assert len(calls) == 1
    assert edge.db.failure is not None
    with pytest.raises(StorageUnhealthy):
        receive(edge, slice_)
    assert edge.rows("SELECT count(*) FROM instance") == [(0,)]


def test_a_full_spool_waits_in_the_journal(edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edge.spool._write_all", cannot(errno.ENOSPC))
        assert accept(edge, slice_).status == 0
        wait_until(lambda: edge.journal_door.cause is Cause.BYTES, 10, "it waits")
        assert edge.journal.lag_seconds > 0
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]
    assert edge.db.failure is None


def test_a_failed_sync_of_the_spool_stops_all_and_the_next_start_writes_it_again(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "sync_file_system", broken)
        assert accept(edge, slice_).status == 0
        wait_until(lambda: edge.db.failure, 10, "nothing more is accepted")
        with pytest.raises(StorageUnhealthy):
            receive(edge, slice_)
    assert len(calls) == 1
    assert edge.rows("SELECT count(*) FROM instance") == [(0,)]
    for path in edge.files():
        os.truncate(path, 10)  # nobody knows what the disk holds
    edge.crash()
    edge.restart()
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]
    assert edge.rows("SELECT state FROM instance") == [("stored",)]


def test_unroutable_is_kept_held_and_finds_its_way_when_a_route_comes(tmp_path: Path, slice_: Path) -> None:
    text = CONFIG.replace('to = ["archive"]', 'to = ["archive"]\nwhen = { Modality = "MR" }')
    with Receiving(tmp_path, text) as edge:
        assert accept(edge, slice_).status == 0
        assert edge.rows("SELECT destination, state FROM delivery") == [("", "held")]
        releaser = Releaser(edge.db, edge.spool, edge.intake)
        assert not releaser.release(1, "sa", "", named=False).done
        edge.intake.policy = Policy.from_config(configuration(tmp_path, CONFIG))
        assert releaser.release(1, "sa", "", named=False).done
        assert edge.rows("SELECT destination, state FROM delivery") == [("archive", "pending")]
        assert edge.rows("SELECT destination, state, n FROM tally WHERE n <> 0") == [("archive", "pending", 1)]


def test_holds_are_noted(tmp_path: Path, slice_: Path) -> None:
    with Receiving(tmp_path, CONFIG + '[hold.trial]\nwhen = { Modality = "CT" }\n') as edge:
        accept(edge, slice_)
        assert edge.rows("SELECT hold FROM instance") == [("hold.trial",)]


HOLD = CONFIG + '[hold.trial]\nwhen = { Modality = "CT" }\n'


@pytest.mark.parametrize("is_legal", [False, True])
@pytest.mark.parametrize("state", ["evicted", "lost", "discarded"])
def test_what_comes_again_is_held_as_what_comes_for_the_first_time(
    edge: Receiving, tmp_path: Path, slice_: Path, state: str, is_legal: bool
) -> None:
    accept(edge, slice_)
    edge.db.write(lambda conn: conn.execute("UPDATE instance SET state = ?", (state,)).rowcount)
    ((study,),) = edge.rows("SELECT study_uid FROM study")
    if is_legal:  # placed while the study was in a yearly file
        edge.db.write(lambda conn: legal_holds.place_hold(conn, study, 1.0, "sa", "court"))
        edge.db.write(lambda conn: conn.execute("UPDATE instance SET hold = ''").rowcount)
    edge.intake.policy = Policy.from_config(configuration(tmp_path, HOLD))
    assert accept(edge, slice_).status == 0
    assert edge.rows("SELECT state, hold FROM instance") == [("stored", "legal:" * is_legal + "hold.trial")]


def test_what_comes_again_keeps_the_hold_that_it_had(tmp_path: Path, slice_: Path) -> None:
    with Receiving(tmp_path, HOLD) as edge:
        accept(edge, slice_)
        edge.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'lost'").rowcount)
        edge.intake.policy = Policy.from_config(configuration(tmp_path, HOLD.replace('"CT"', '"MR"')))
        accept(edge, slice_)
        assert edge.rows("SELECT state, hold FROM instance") == [("stored", "hold.trial")]


def test_a_hold_that_is_new_keeps_what_is_on_its_way(
    edge: Receiving, tmp_path: Path, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_all, new = Intake.enter_all, Policy.from_config(configuration(tmp_path, HOLD))

    def reload_first(intake: Intake, *given: Any) -> None:
        intake.policy = new
        enter_all(intake, *given)

    monkeypatch.setattr(Intake, "enter_all", reload_first)
    accept(edge, slice_)
    assert edge.rows("SELECT hold FROM instance") == [("hold.trial",)]


def test_a_file_that_cannot_be_read_stops_no_adoption(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    (path,) = edge.files()
    (path.parent / "0.dcm").mkdir()  # as any that the system refuses to read
    edge.db.write(lambda conn: conn.execute("DELETE FROM delivery").rowcount)
    edge.db.write(lambda conn: conn.execute("DELETE FROM instance").rowcount)
    edge.settle()
    edge.crash()
    edge.restart()
    assert edge.rows("SELECT state FROM instance") == [("stored",)]


def test_an_evicted_instance_that_comes_again_begins_a_new_custody(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.settle()
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
    edge.settle()
    with edge.db.reading() as conn:
        assert check(conn) is None
    edge.db._writer.execute("DROP TRIGGER ledger_is_append_only_update")
    edge.db.write(lambda conn: conn.execute("UPDATE ledger SET who = 'nobody' WHERE seq = 2").rowcount)
    with edge.db.reading() as conn:
        assert (broken := check(conn)) is not None
        assert broken.seq == 2


def test_the_ledger_refuses_to_change(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.settle()
    for sql in ("UPDATE ledger SET who = 'x'", "DELETE FROM ledger"):
        with pytest.raises(CatalogError, match="append-only"):
            edge.db.write(lambda conn, sql=sql: conn.execute(sql).rowcount)  # type: ignore[misc]


def test_the_hash_of_a_long_object_is_that_of_its_bytes(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "big", 1, 20 << 20)
    data = dataset(path)
    recording = edge.recorder.begin(ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN)
    for at in range(0, len(data), 1 << 18):
        recording.write([memoryview(data)[at : at + (1 << 18)]])
    assert edge.recorder.accept(recording, ContextKey(CT, EXPLICIT), sop_instance_uid(path), ORIGIN).status == 0
    assert edge.rows("SELECT sha256 FROM instance") == [(hashlib.sha256(data).digest(),)]


def test_leases_of_a_killed_run_are_pending_again(edge: Receiving, slice_: Path) -> None:
    accept(edge, slice_)
    edge.settle()
    assert len(edge.db.write(lambda conn: leases.lease(conn, "archive", edge.spool.node, 0.0, 8, 1 << 30))) == 1
    assert edge.db.write(lambda conn: leases.lease(conn, "archive", edge.spool.node, 0.0, 8, 1 << 30)) == []
    edge.settle()
    edge.crash()
    edge.restart()
    assert len(edge.db.write(lambda conn: leases.lease(conn, "archive", edge.spool.node, 0.0, 8, 1 << 30))) == 1


def test_the_name_of_a_node_is_durable_before_a_lease_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a start after a power cut has another name, and what the run before had leased waits until it lapses."""
    synced, fsync = [], os.fsync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    spool = Spool(tmp_path)
    monkeypatch.setattr(os, "fsync", watched)
    name = spool.node
    assert synced == [str(tmp_path / "node.new"), str(tmp_path)]
    assert Spool(tmp_path).node == name != ""
    (tmp_path / "node").write_text("")  # as a power cut leaves a file that was not synced
    assert Spool(tmp_path).node not in ("", name)


def test_a_node_whose_name_cannot_be_kept_has_none(tmp_path: Path) -> None:
    """Leases without a name are taken back at each start."""
    (tmp_path / "node").mkdir()
    assert Spool(tmp_path).node == ""
