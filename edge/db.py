"""The catalog's database: one SQLite file, one writer at a time, many readers.

Promise: when `Database.write` returns, its work is on stable storage (WAL, synchronous=FULL). Callers that wait at the
same time share one commit, and one sync of each directory that their work depends on: the first to get the turn commits
for all (group commit). A work function that raises is rolled back alone; the others are not touched.

A failed sync or commit raises `StorageUnhealthy` in every caller of the group, and in every later one: after such a
failure nobody knows what the disk holds, so nothing is written until a restart has looked.

Limits: one process writes. The work functions must be short: while one runs, every receiver waits. The caller's own
thread commits: through aiosqlite, whose every statement goes to its thread and back, a transaction of nine statements
took 0.5 ms instead of 0.1 ms (median of 500, three times, side by side).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unicodedata import normalize

from edge.errors import CommitInDoubt, EdgeError, StorageFull, StorageUnhealthy

log = logging.getLogger(__name__)
T = TypeVar("T")
Connection = sqlite3.Connection

#: SQLite makes pages of so many bytes.
PAGE_BYTES = 4096
#: WAL pages after which the background checkpoint makes the writer begin the log anew (64 MiB of 4 KiB pages).
#: It is never cut: commits that overwrite blocks of a file are quicker than those that extend it.
WAL_RESTART_PAGES = 16_384


class Barrier(Protocol):
    """Something that must reach stable storage before a transaction may refer to it."""

    def sync(self) -> None: ...


class _Job:
    __slots__ = ("barrier", "done", "error", "result", "work")

    def __init__(self, work: Callable[[Connection], Any], barrier: Barrier | None) -> None:
        self.work, self.barrier = work, barrier
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


def connect(path: Path, *, read_only: bool = False) -> Connection:
    """Open a connection with the pragmas that the promises need."""
    mode = "ro" if read_only else "rwc"
    conn = sqlite3.connect(
        f"file:{path}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=10.0
    )
    conn.row_factory = sqlite3.Row
    if read_only:
        conn.execute("PRAGMA query_only = ON")
        conn.create_function("lower", 1, _lower, deterministic=True)
    else:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA temp_store = MEMORY")  # what a statement may have to undo needs no file
        # Checkpoints are the housekeeper's: never on the back of a waiting scanner.
        conn.execute("PRAGMA wal_autocheckpoint = 0")
    return conn


def _lower(text: str | float | None) -> str | None:
    """SQL's lower() for all of Unicode, composed or not; SQLite's own knows ASCII alone."""
    return None if text is None else normalize("NFC", str(text)).casefold()


def _lay_out_log(path: Path) -> None:
    """Give the WAL its blocks beforehand, as zeros, which SQLite takes for an empty log (its header has no magic).

    A commit that overwrites blocks is synced in half the time of one that makes the file longer.
    """
    log_path = path.with_name(f"{path.name}-wal")
    room = os.statvfs(path.parent)
    wanted = min(WAL_RESTART_PAGES * PAGE_BYTES, room.f_bavail * room.f_frsize // 100)
    if not log_path.exists():
        fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            zeros = bytes(1 << 20)
            for at in range(0, wanted, len(zeros)):
                os.pwrite(fd, zeros, at)
            os.fsync(fd)
        finally:
            os.close(fd)


def migrate(conn: Connection) -> None:
    """Apply every numbered file of edge/migrations that the database has not seen, each in its own transaction."""
    seen = conn.execute("PRAGMA user_version").fetchone()[0]
    folder = resources.files("edge") / "migrations"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if not entry.name.endswith(".sql"):
            continue
        number = int(entry.name.split("_", 1)[0])
        if number > seen:
            script = entry.read_text(encoding="utf-8")
            conn.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _is_full(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def is_damage(error: BaseException) -> bool:
    """Does SQLite say that what it reads cannot be what it wrote? (SQLITE_CORRUPT, SQLITE_NOTADB)"""
    return type(error) is sqlite3.DatabaseError


def _told(error: Exception) -> EdgeError:
    """What a failed sync or transaction means for its callers."""
    if isinstance(error, (StorageUnhealthy, StorageFull)):
        return error
    if _is_full(error):
        return StorageFull("the catalog cannot grow: the disk is full")
    if is_damage(error):
        return StorageUnhealthy(f"the catalog is damaged ({error}): stop the gateway, `edge recover`, start it")
    return CommitInDoubt(f"the catalog could not be written ({error}); restart after the disk is mended")


class Database:
    """Owner of the catalog file; see the module's promise."""

    def __init__(self, path: Path, on_full: Callable[[], bool] = lambda: False) -> None:
        """`on_full` makes room on a full disk; True when it did, and the transaction is worth another try."""
        self.path, self._on_full = path, on_full
        if not path.exists():
            with closing(connect(path)) as conn:
                migrate(conn)
        _lay_out_log(path)  # only now: SQLite removes the log of a database that is empty
        self._writer = connect(path)
        migrate(self._writer)
        self._turn = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._readers: deque[Connection] = deque()
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why nothing more can be written, or None while all is well."""
        return self._failure

    def fail(self, reason: str) -> None:
        """Nothing may be written any more: a sync failed, and nobody knows what the disk holds."""
        if self._failure is None:
            self._failure = reason
            log.critical("storage unhealthy, nothing more is accepted: %s", reason)

    def write(self, work: Callable[[Connection], T], barrier: Barrier | None = None) -> T:
        """Run `work` in a transaction and return its result once that is durable; `barrier` is synced first.

        Raises StorageUnhealthy when a sync or the commit failed, StorageFull when the disk is, and whatever `work`
        raises.
        """
        job = _Job(work, barrier)
        self._waiting.append(job)
        with self._turn:
            if not job.done:
                self._commit_all()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[no-any-return]

    def _commit_all(self) -> None:
        jobs: list[_Job] = []
        while self._waiting:
            jobs.append(self._waiting.popleft())
        try:
            if self._failure is not None:
                raise StorageUnhealthy(self._failure)
            for barrier in {job.barrier for job in jobs if job.barrier is not None}:
                barrier.sync()
            try:
                self._transact(jobs)
            except sqlite3.OperationalError as error:
                if not _is_full(error) or not self._on_full():
                    raise
                self._roll_back()
                self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - told to every caller of the group
            self._fail(jobs, error)
        finally:
            for job in jobs:
                job.done = True

    def _transact(self, jobs: list[_Job]) -> None:
        """All in one transaction. Where one raises, each has a transaction of its own: the others are not touched."""
        try:
            self._commit(jobs)
        except sqlite3.OperationalError:
            raise  # the disk, not the work: nobody's work counts
        except Exception as error:
            if is_damage(error):
                raise
            self._roll_back()
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:
                self._transact([job])

    def _commit(self, jobs: list[_Job]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        for job in jobs:
            job.result, job.error = job.work(self._writer), None
        self._writer.execute("COMMIT")

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        self._roll_back()
        told = _told(error)
        if isinstance(told, StorageUnhealthy):
            self.fail(str(told))
        for job in jobs:
            job.error = told

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only connection; inside, one consistent view once the first statement has run."""
        try:
            conn = self._readers.pop()
        except IndexError:
            conn = connect(self.path, read_only=True)
        try:
            conn.execute("BEGIN")
            yield conn
            conn.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.fail(str(_told(error)))
            raise _told(error) from error
        finally:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            self._readers.append(conn)

    def checkpoint(self) -> None:
        """Move committed pages from the WAL into the database; called by the housekeeper, never by a receiver.

        Not after a failure: it would sync again what could not be synced.
        """
        if self._failure is not None:
            return
        try:
            with closing(connect(self.path)) as conn:
                pages = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
                if pages > WAL_RESTART_PAGES:
                    with self._turn:
                        conn.execute("PRAGMA wal_checkpoint(RESTART)")
        except sqlite3.OperationalError as error:
            told = _told(error)
            if isinstance(told, StorageUnhealthy):
                self.fail(str(told))
            raise told from error

    def close(self) -> None:
        """Close every connection; the last checkpoint leaves one file behind."""
        with self._turn:
            while self._readers:
                self._readers.pop().close()
            self._writer.close()
