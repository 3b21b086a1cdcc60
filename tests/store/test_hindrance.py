"""A passing hindrance is no broken disk: it is waited for, answered as transient, named, and ends by itself."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge.dicom.command import Element
from edge.errors import (
    AssociationRejected,
    CatalogError,
    Cause,
    Hindered,
    Shortage,
    StorageFull,
    StorageUnhealthy,
    hindrance,
)
from edge.errors.hindrance import CauseClass, Hindrances, classify_cause, words_of
from edge.storage.repair import Repairer
from edge.storage.scrub import Scrub
from edge.store.database import Store
from edge.store.faults import cause_of_error
from tests.outbound.test_forward import Outbox
from tests.store.test_intake import accept, cannot
from tests.support.filled import Filled
from tests.support.gateway import Receiving
from tests.support.objects import ct_files, dataset
from tests.support.peers import Edge, http_get, storescu, wait_until
from tests.support.scripted import ScriptedScp
from tests.wire.test_receive import caller, store

HEALS, FULL, BROKEN = CauseClass.HEALS, CauseClass.FULL, CauseClass.BROKEN
ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'
IOERR = 10


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("words that nobody reads")
    error.sqlite_errorcode = code
    return error


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, len(os.listdir("/proc/self/fd")) + 64), hard))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "verdict", "cause"),
    [
        (OSError(errno.EMFILE, ""), HEALS, Cause.DESCRIPTORS),
        (OSError(errno.ENFILE, ""), HEALS, Cause.DESCRIPTORS),
        (OSError(errno.ENOMEM, ""), HEALS, Cause.MEMORY),
        (OSError(errno.ENOBUFS, ""), HEALS, Cause.MEMORY),
        (OSError(errno.EAGAIN, ""), HEALS, Cause.BUSY),
        (OSError(errno.EBUSY, ""), HEALS, Cause.BUSY),
        (OSError(errno.EINTR, ""), HEALS, Cause.BUSY),
        (OSError(errno.ENOSPC, ""), FULL, Cause.BYTES),
        (OSError(errno.EDQUOT, ""), FULL, Cause.QUOTA),
        (OSError(errno.EFBIG, ""), FULL, Cause.FILE_SIZE),
        (OSError(errno.EMLINK, ""), FULL, Cause.LINKS),
        (OSError(errno.EROFS, ""), FULL, Cause.READ_ONLY),
        (OSError(errno.EIO, ""), BROKEN, Cause.FAILED),
        (OSError(errno.ENODEV, ""), BROKEN, Cause.FAILED),
        (OSError(4711, ""), BROKEN, Cause.FAILED),
        (OSError(), BROKEN, Cause.FAILED),
        (MemoryError(), HEALS, Cause.MEMORY),
        (sqlite_error(5), HEALS, Cause.LOCKED),  # SQLITE_BUSY
        (sqlite_error(5 | 1 << 8), HEALS, Cause.LOCKED),  # SQLITE_BUSY_RECOVERY
        (sqlite_error(6), HEALS, Cause.LOCKED),
        (sqlite_error(7), HEALS, Cause.MEMORY),  # SQLITE_NOMEM
        (sqlite_error(14), HEALS, Cause.BUSY),  # SQLITE_CANTOPEN
        (sqlite_error(15), HEALS, Cause.LOCKED),  # SQLITE_PROTOCOL
        (sqlite_error(13), FULL, Cause.BYTES),  # SQLITE_FULL
        (sqlite_error(IOERR), BROKEN, Cause.FAILED),
        (sqlite_error(IOERR | 3 << 8), BROKEN, Cause.FAILED),  # _WRITE
        (sqlite_error(IOERR | 4 << 8), BROKEN, Cause.FAILED),  # _FSYNC
        (sqlite_error(IOERR | 5 << 8), BROKEN, Cause.FAILED),  # _DIR_FSYNC
        (sqlite_error(IOERR | 12 << 8), HEALS, Cause.MEMORY),  # _NOMEM
        (sqlite_error(IOERR | 15 << 8), HEALS, Cause.LOCKED),  # _LOCK
        (sqlite_error(IOERR | 18 << 8), HEALS, Cause.BUSY),  # _SHMOPEN
        (sqlite_error(IOERR | 19 << 8), FULL, Cause.BYTES),  # _SHMSIZE
        (sqlite_error(11), BROKEN, Cause.FAILED),  # SQLITE_CORRUPT
        (sqlite3.OperationalError("database or disk is full"), FULL, Cause.BYTES),  # Python 3.10
        (ValueError("x"), BROKEN, Cause.FAILED),
    ],
)
def test_what_an_error_means(error: Exception, verdict: CauseClass, cause: Cause) -> None:
    assert (classify_cause(cause_of_error(error)), cause_of_error(error)) == (verdict, cause)
    kinds: dict[CauseClass, type[Exception]] = {HEALS: Shortage, FULL: StorageFull, BROKEN: StorageUnhealthy}
    assert type(hindrance.error_for(cause)) is kinds[verdict]
    assert len(str(hindrance.error_for(cause))) <= 64 or cause is Cause.PLACES  # an Error Comment is an LO


def test_every_cause_has_its_words() -> None:
    assert all(words_of(cause) and hindrance.remedy_of(cause) for cause in Cause)


def test_a_hindrance_ends_when_nothing_has_met_it_for_a_while() -> None:
    now = [100.0]
    found = Hindrances(clock=lambda: 1e9, monotonic=lambda: now[0])
    found.note(Cause.MEMORY)
    now[0] += hindrance.CALM_SECONDS - 1
    found.note(Cause.MEMORY)
    now[0] += hindrance.CALM_SECONDS - 1
    assert not found.wants_trial
    assert found.end_quiet() == ()
    now[0] += 1
    assert found.wants_trial
    assert found.end_quiet() == (Cause.MEMORY,)
    assert found.current == ()


# -- an object that cannot be taken now -------------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


@pytest.fixture
def slice_(tmp_path: Path) -> Path:
    return ct_files(tmp_path / "ct", 1, 100_000)[0]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hindrance, "RETRY_FOR_SECONDS", 0.1)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EBUSY, errno.EDQUOT, errno.ENOSPC])
def test_what_heals_answers_a700_and_nothing_is_broken(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", cannot(number))
        wire = caller(edge.port)
        answer = store(wire, slice_)
        wire.close()
    assert answer.number(Element.STATUS) == 0xA700
    assert answer.text(Element.ERROR_COMMENT).startswith("the gateway is ")
    assert edge.db.failure is None
    assert (edge.files(), edge.partials()) == ([], [])
    assert accept(edge, slice_).status == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EBUSY, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "writev", "mkdir"])
def test_what_heals_behind_the_answer_is_waited_for(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    real = getattr(os, call)

    def fails(*args: Any, **more: Any) -> Any:
        if call == "open" and "/spool/" not in str(args[0]):
            return real(*args, **more)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        assert accept(edge, slice_).status == 0
        wait_until(lambda: edge.journal_door.cause, 10, "it waits")
        assert edge.journal.lag_seconds > 0
    assert [dataset(path) for path in edge.files()] == [dataset(slice_)]
    assert edge.db.failure is None


def test_a_shortage_that_ends_soon_is_waited_for(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, real = [2], os.open

    def scarce(path: Any, *args: Any, **more: Any) -> int:
        if str(path).endswith(".dcm") and left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", scarce)
    assert accept(edge, slice_).status == 0
    edge.settle()
    assert left == [0]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, 4711])
def test_a_failed_flush_of_ours_stops_reception(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pwritev", cannot(number))
    assert accept(edge, slice_).status == 0xA700
    assert edge.db.failure is not None


def test_memory_that_ends_within_an_object(edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("edge.scp.recorder.Recording.room", fails)
        wire = caller(edge.port)
        assert store(wire, slice_).number(Element.STATUS) == 0xA700
    assert store(wire, slice_).number(Element.STATUS) == 0  # the association went on
    wire.close()


def test_work_that_no_thread_takes_is_not_done_later() -> None:
    done: list[int] = []
    pool = ThreadPoolExecutor(1)
    busy, gate = threading.Event(), threading.Event()
    pool.submit(lambda: (busy.set(), gate.wait(60)))
    assert busy.wait(60)

    class Poor(ThreadPoolExecutor):
        def submit(self, *args: Any, **more: Any) -> Any:  # as the real one: queued, and yet no thread
            pool.submit(*args, **more)
            raise RuntimeError("can't start new thread")

    assert hindrance.submit(Poor(1), done.append, 1) is None
    gate.set()
    pool.shutdown()
    assert done == []


# -- the catalog ------------------------------------------------------------------------------------------------------


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    database = Store(tmp_path / "catalog.db")
    yield database
    database.close()


def remember(name: str) -> Callable[[sqlite3.Connection], int]:
    return lambda conn: conn.execute("INSERT INTO gateway VALUES (?, 'x')", (name,)).rowcount


LOCKER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_catalog_that_another_process_locks_is_not_broken(db: Store) -> None:
    db._writer.execute("PRAGMA busy_timeout = 50")
    command = [sys.executable, "-c", LOCKER, str(db.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(Hindered) as refused:
            db.write(remember("a"))
        assert refused.value.cause is Cause.LOCKED
        assert not refused.value.is_in_doubt
        assert db._lock_seconds < 1  # whoever comes next does not wait as long again
        other.communicate()
    assert db.write(remember("a")) == 1
    assert db.failure is None
    assert db._writer.execute("PRAGMA busy_timeout").fetchone()[0] == 10_000


def test_without_descriptors_the_catalog_is_read_and_written_all_the_same(db: Store) -> None:
    with db.reading() as conn:
        conn.execute("SELECT 1").fetchone()
    with no_descriptors():
        assert db.write(remember("a")) == 1
        db.checkpoint()
        with db.reading() as conn:
            assert conn.execute("SELECT count(*) FROM gateway WHERE name = 'a'").fetchone()[0] == 1
            with pytest.raises(Hindered) as refused, db.reading():
                pass
    assert refused.value.cause is Cause.DESCRIPTORS
    assert db.failure is None
    with db.reading() as conn, db.reading() as other:
        assert conn is not other


def test_a_reader_that_comes_back_is_waited_for(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hindrance, "RETRY_FOR_SECONDS", 60.0)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with db.reading():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    with no_descriptors():
        threading.Timer(0.2, leave.set).start()
        with db.reading() as conn:
            assert conn.execute("SELECT 1").fetchone()[0] == 1
    thread.join()


@pytest.mark.parametrize("error", [MemoryError(), sqlite_error(7), sqlite_error(14)])
def test_a_commit_without_memory_is_tried_again(db: Store, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    left, now = [2], [0.0]
    monkeypatch.setattr(db, "_monotonic", lambda: now[0])

    def work(conn: sqlite3.Connection) -> int:
        if left[0]:
            left[0] -= 1
            now[0] += 0.04
            raise error
        return remember("a")(conn)

    assert db.write(work) == 1
    left[0] = 1_000_000
    with pytest.raises(Hindered):
        db.write(work)
    assert db.failure is None
    assert db.write(remember("b")) == 1


def test_wrong_sql_fails_alone(db: Store) -> None:
    with pytest.raises(CatalogError, match="no such table"):
        db.write(lambda conn: conn.execute("SELECT * FROM nowhere").fetchone())
    assert db.failure is None
    assert db.write(remember("a")) == 1


@pytest.mark.parametrize("code", [IOERR | 3 << 8, IOERR | 4 << 8, 4711])
def test_a_commit_that_fails_for_the_disk_stops_everything(db: Store, code: int) -> None:
    def work(_: sqlite3.Connection) -> int:
        raise sqlite_error(code)

    with pytest.raises(StorageUnhealthy):
        db.write(work)
    with pytest.raises(StorageUnhealthy):
        db.write(remember("a"))


class Writer:
    """The writer's connection, whose COMMIT finds no memory, and whose ROLLBACK may fail as well."""

    def __init__(self, conn: sqlite3.Connection, *failing: str) -> None:
        self._conn, self._failing = conn, failing

    def execute(self, sql: str, *args: Any) -> Any:
        if sql in self._failing:
            raise sqlite_error(7) if sql == "COMMIT" else sqlite_error(IOERR)
        return self._conn.execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


def test_a_batch_whose_commit_is_in_doubt_comes_again(
    edge: Receiving, slice_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(edge.db, "_writer", Writer(edge.db._writer, "COMMIT"))
        assert accept(edge, slice_).status == 0
        wait_until(lambda: edge.journal_door.cause, 10, "it waits")
    assert edge.rows("SELECT event FROM ledger") == [("received",)]
    assert len(edge.files()) == 1
    assert edge.db.failure is None


def test_a_rollback_that_fails_makes_nobody_believe_in_success(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_writer", Writer(db._writer, "COMMIT", "ROLLBACK"))
    with pytest.raises((Hindered, StorageUnhealthy)):
        db.write(remember("a"))
    assert db.failure is not None


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "number"), [("open", errno.EMFILE), ("pread", errno.ENOMEM)])
def test_a_file_that_cannot_be_read_just_now_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(3)
        repairer = Repairer(filled.db, filled.spool, lambda: filled.config)
        scrub = Scrub(filled.db, filled.spool, repairer, lambda: False)

        def fails(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(f"edge.storage.verify.os.{call}", fails)
            with pytest.raises(Hindered):
                scrub.step()
        assert filled.one("SELECT count(*) FROM instance WHERE state = 'lost'") == 0
        scrub.step()
        assert (scrub.place.files, scrub.place.damaged) == (3, 0)


# -- the way out ------------------------------------------------------------------------------------------------------


def test_a_shortage_of_ours_does_not_take_a_destination_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path / "data")
    left = [3]
    connect = socket.create_connection

    def scarce(*args: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return connect(*args, **more)

    monkeypatch.setattr("socket.create_connection", scarce)
    with ScriptedScp() as scp:
        forwarder = box.forward(scp.port)
        states: set[str] = set()
        box.make(3)
        wait_until(lambda: states.add(forwarder.state) or scp.stores == 3, 20, "all is sent")
        forwarder.stop()
    assert states == {"up"}
    assert left == [0]


# -- the whole gateway ------------------------------------------------------------------------------------------------


def test_a_gateway_short_of_descriptors_says_so_and_recovers_by_itself(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
    files = ct_files(tmp_path / "ct", 5, 20_000)
    storescu(files[:2], edge.port)
    edge.settle()
    wires = [caller(edge.port) for _ in range(3)]
    used = {int(name) for name in os.listdir(f"/proc/{edge.pid}/fd")}
    first_free = next(number for number in itertools.count() if number not in used)
    resource.prlimit(edge.pid, resource.RLIMIT_NOFILE, (first_free, 8192))
    taken = [store(wire, path) for wire, path in zip(wires, files[2:], strict=True)]
    assert {each.number(Element.STATUS) for each in taken} == {0}, "a record needs no descriptor"
    wait_until(lambda: "waits in the journal" in edge.output(), 20, "the files need some")
    resource.prlimit(edge.pid, resource.RLIMIT_NOFILE, (8192, 8192))
    wait_until(lambda: edge.api_status()["instances"]["received"] == 5, 30, "it has ended")
    assert edge.api_status()["journal"]["applied_lag_seconds"] == 0


@pytest.mark.slow
def test_a_locked_catalog_is_said_and_ends_with_the_lock(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    command = [sys.executable, "-c", LOCKER, str(edge.data_dir / "catalog.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        storescu([path], edge.port)  # its record is durable: the rows can wait
        status = json.loads(http_get(edge.url("/api/status"))[1])
        assert status["journal"]["applied_lag_seconds"] > 0
        other.communicate()
    wait_until(lambda: edge.api_status()["journal"]["applied_lag_seconds"] == 0, 40, "it has ended")
    assert edge.api_status()["instances"]["received"] == 1


def test_a_gateway_short_of_memory_says_so_and_recovers_by_itself(tmp_path: Path, running: ExitStack) -> None:
    """Address space for what there is, and no more: no thread has room for its stack, objects are refused or taken."""
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE))
    files = ct_files(tmp_path / "ct", 6, 3_000_000)
    storescu(files[:1], edge.port)
    wires = [caller(edge.port) for _ in range(2)]
    receivers = [each for each in psutil.Process(edge.pid).children(recursive=True) if each.name() == "edge-receiver"]
    for process in receivers:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().vms, resource.RLIM_INFINITY))

    def refusals() -> set[str]:
        """Right behind one that is refused: what nobody meets any more is over after some seconds."""
        with pytest.raises(AssociationRejected, match="local limit exceeded"):
            caller(edge.port)
        return {each["cause"] for each in json.loads(http_get(edge.url("/api/status"))[1])["refusing"]}

    wait_until(lambda: "threads" in refusals(), 30, "it says so")
    taken = [store(wire, path).number(Element.STATUS) for wire, path in zip(wires, files[1:3], strict=True)]
    assert set(taken) <= {0, 0xA700}
    assert edge.process is not None
    assert edge.process.poll() is None
    for process in receivers:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert {each["cause"] for each in edge.api_status()["refusing"]} <= {"threads", "memory"}, edge.output()
    wait_until(lambda: edge.api_status()["state"] == "running", 30, "it has ended")
    storescu(files[3:], edge.port)
    received = edge.api_status()["instances"]["received"]
    assert received == 4 + taken.count(0)
    assert "storage-unhealthy" not in {each["kind"] for each in edge.api_status()["alerts"]}
