"""The catalog's database: one SQLite file, one writer at a time, many readers.

Promise: when `Store.write` returns, its work is on stable storage (WAL, synchronous=FULL). Callers that wait at the
same time share one commit, and one sync of each directory that their work depends on: the first to get the turn commits
for all (group commit). A work function that raises is rolled back alone; the others are not touched.

A failed sync or commit raises `StorageUnhealthy` in every caller of the group, and in every later one: after such a
failure nobody knows what the disk holds, so nothing is written until a restart has checked it. What heals by itself
(edge.errors.hindrance) is tried again for a short time, then raises `Hindered`; the next transaction may succeed.

Limits: one process writes. The work functions must be short: while one runs, every receiver waits. The caller's own
thread commits: through aiosqlite, whose every statement goes to its thread and back, a transaction of nine statements
took 0.5 ms instead of 0.1 ms (median of 500, three times, side by side). Pages' reads are not on it either: 12 queries
in one view took 0.25 ms instead of 0.02 ms, or 0.05 ms with the change to the handler's thread.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edge.errors import CatalogDamaged, Cause, EdgeError, Hindered, NewerCatalog, StorageUnhealthy, hindrance
from edge.errors.hindrance import CauseClass
from edge.store import wal_index
from edge.store.faults import (
    SYSTEM_REFUSALS,
    cause_of_error,
    error_of_read,
    error_of_write,
    is_broken,
    is_damage,
    is_own_fault,
    translate_errors,
)
from edge.store.kept_catalog import keep_catalog
from edge.store.sqlite_file import (
    LOCK_SECONDS,
    PAGE_BYTES,
    WAL_RESTART_PAGES,
    Schema,
    compare_schema,
    connect,
    lay_out_log,
    make,
    migrate,
)

log = logging.getLogger(__name__)
T = TypeVar("T")
Transaction = sqlite3.Connection
#: One row of an answer: by position, and by the name of its column.
CatalogRow = sqlite3.Row
#: What a statement raises inside a transaction; where the transaction ends it becomes an error of edge.errors.
StatementError = sqlite3.Error
#: A row that contradicts a constraint.
ConstraintError = sqlite3.IntegrityError
__all__ = [
    "PAGE_BYTES",
    "WAL_RESTART_PAGES",
    "CatalogRow",
    "ConstraintError",
    "StatementError",
    "Store",
    "Transaction",
    "connect",
    "insert_row",
    "migrate",
    "try_work",
]

#: Connections for reading that nobody has used for that long are closed; that number stays.
CONNECTION_IDLE_SECONDS, LEAST_READERS = 60.0, 2
#: Milliseconds that a checkpoint waits for readers of a long log, so that the log is used from its start again. Where
#: they go on, the next checkpoint tries.
RESTART_WAIT_MS = 250
#: Seconds to wait for a lock that was not given up in LOCK_SECONDS.
STILL_LOCKED_SECONDS = 0.5


def try_work(conn: Transaction, work: Callable[[], object]) -> Exception | None:
    """Do a part of a transaction; where it fails by itself, undo that part and return the error.

    Raises what concerns the system or the whole transaction.
    """
    conn.execute("SAVEPOINT part")
    try:
        work()
    except Exception as error:
        is_system = isinstance(error, SYSTEM_REFUSALS) and not is_own_fault(error)
        if is_system or is_damage(error) or isinstance(error, EdgeError):
            raise
        conn.execute("ROLLBACK TO part")
        conn.execute("RELEASE part")
        return error
    conn.execute("RELEASE part")
    return None


def insert_row(conn: Transaction, table: str, row: Mapping[str, Any], *, known: str = "ABORT") -> int:
    """Insert a row, by the names of its columns. `known`: what SQLite does with one that is there. Returns how many."""
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    return conn.execute(f"INSERT OR {known} INTO {table} ({names}) VALUES ({values})", row).rowcount


class Barrier(Protocol):
    """Something that must reach stable storage before a transaction may refer to it."""

    def sync(self) -> None: ...


class _Write:
    __slots__ = ("barrier", "done", "error", "result", "work")

    def __init__(self, work: Callable[[Transaction], Any], barrier: Barrier | None) -> None:
        self.work, self.barrier = work, barrier
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Store:
    """Owner of the catalog file; see the module's promise."""

    def __init__(
        self,
        path: Path,
        on_full: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_full` makes room on a full disk; True when it did, and the transaction is worth another try.

        Raises OSError, and what edge.store.faults makes of an error of SQLite.
        """
        self.path, self._on_full, self._monotonic = path, on_full, monotonic
        with translate_errors(path):
            if not path.exists():
                make(path)
            lay_out_log(path)  # only now: SQLite removes the log of a database that is empty
            self._index = wal_index.lay_out(path)
            self._writer = connect(path)
            self._migrate()
            self._checkpointer = connect(path)  # of its own: where descriptors are short, none can be opened
            self._checkpointer.execute(f"PRAGMA busy_timeout = {RESTART_WAIT_MS}")  # for readers: writers stand still
        self._turn = threading.Lock()
        self._waiting: deque[_Write] = deque()
        self._readers: deque[tuple[Transaction, float]] = deque()  # and since when it is idle; the last used is last
        self._failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None  # called once, when that begins
        self._is_committing = False
        self._lock_seconds = LOCK_SECONDS

    def _migrate(self) -> None:
        found = compare_schema(self._writer)
        if found is Schema.NEWER:
            self._writer.close()
            raise NewerCatalog(f"the catalog {self.path} was written by a newer release")
        if found is Schema.OLDER:
            keep_catalog(self._writer, self.path)
            migrate(self._writer)

    @property
    def failure(self) -> str | None:
        """Why nothing more can be written, or None while all is well."""
        return self._failure

    def fail(self, reason: str) -> None:
        """Write nothing any more: a sync failed, and nobody knows what the disk holds."""
        if self._failure is None:
            self._failure = reason
            log.critical("storage unhealthy, nothing more is accepted: %s", reason)
            self.on_failure()

    def write(self, work: Callable[[Transaction], T], barrier: Barrier | None = None) -> T:
        """Run `work` in a transaction and return its result once that is durable; `barrier` is synced first.

        Raises StorageUnhealthy when a sync or the commit failed, StorageFull when the disk is, CatalogError where the
        database refuses a statement of `work`, and whatever `work` raises.
        """
        job = _Write(work, barrier)
        self._waiting.append(job)
        with self._turn:
            if not job.done:
                self._commit_all()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[no-any-return]

    def _commit_all(self) -> None:
        jobs: list[_Write] = []
        while self._waiting:
            jobs.append(self._waiting.popleft())
        try:
            if self._failure is not None:
                raise StorageUnhealthy(self._failure)
            self._is_committing = False
            for barrier in {job.barrier for job in jobs if job.barrier is not None}:
                barrier.sync()
            self._transact_with_retries(jobs)
        except Exception as error:  # noqa: BLE001 - raised in every caller of the group that has no result yet
            self._fail([job for job in jobs if not job.done], error)
        finally:
            for job in jobs:
                job.done = True

    def _transact_with_retries(self, jobs: list[_Write]) -> None:
        """What heals by itself gets a little time, and a full disk the reserve."""
        end = self._monotonic() + hindrance.RETRY_FOR_SECONDS
        while True:
            try:
                return self._transact([job for job in jobs if not job.done])
            except SYSTEM_REFUSALS as error:
                if not self._may_repeat(cause_of_error(error), end):
                    raise
                self._roll_back()
            time.sleep(hindrance.RETRY_PAUSE_SECONDS)

    def _may_repeat(self, cause: Cause, end: float) -> bool:
        verdict = hindrance.classify_cause(cause)
        if verdict is CauseClass.FULL:
            return self._on_full()
        # For a lock SQLite itself has waited.
        return verdict is CauseClass.HEALS and cause is not Cause.LOCKED and self._monotonic() < end

    def _transact(self, jobs: list[_Write]) -> None:
        """All in one transaction. Where one raises, each has a transaction of its own: the others are not touched."""
        try:
            self._commit(jobs)
        except Exception as error:
            if is_damage(error) or (isinstance(error, SYSTEM_REFUSALS) and not is_own_fault(error)):
                raise  # the system, not the work: nobody's work counts
            self._roll_back()
            if len(jobs) == 1:
                jobs[0].error = error_of_read(error, self.path) if isinstance(error, sqlite3.Error) else error
                jobs[0].done = True
                return
            for job in jobs:
                self._transact([job])

    def _commit(self, jobs: list[_Write]) -> None:
        self._is_committing = False
        self._writer.execute("BEGIN IMMEDIATE")
        self._wait_for_locks(LOCK_SECONDS)
        for job in jobs:
            job.result, job.error = job.work(self._writer), None
        self._is_committing = True
        self._writer.execute("COMMIT")
        self._is_committing = False
        for job in jobs:  # whatever becomes of others of its group, it is durable, and is not done again
            job.done = True

    def _fail(self, jobs: list[_Write], error: Exception) -> None:
        meaning = error_of_write(error, self.path, in_doubt=self._is_committing)
        for job in jobs:  # first of all: whatever happens next, it does not count as done
            job.error = meaning
        if isinstance(meaning, StorageUnhealthy):
            self.fail(str(meaning))
        try:
            if isinstance(meaning, Hindered) and meaning.cause is Cause.LOCKED:
                self._wait_for_locks(STILL_LOCKED_SECONDS)
            self._roll_back()
        except sqlite3.Error as problem:
            self.fail(f"a transaction could not be rolled back ({problem})")

    def _wait_for_locks(self, seconds: float) -> None:
        """While another process holds on to its lock, those behind the first do not wait as long one by one."""
        if seconds != self._lock_seconds:
            self._lock_seconds = seconds
            self._writer.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def read(self, work: Callable[[Transaction], T]) -> T:
        """What `work` finds in one consistent view. Raises as `reading` does."""
        with self.reading() as conn:
            return work(conn)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A read-only connection; inside, one consistent view once the first statement has run.

        Raises Hindered where the system cannot give one for a while, CatalogError where it cannot be read.
        """
        conn = self._reader()
        try:
            conn.execute("BEGIN")
            yield conn
            conn.execute("COMMIT")
        except sqlite3.Error as error:
            meaning = error_of_read(error, self.path)
            if isinstance(meaning, CatalogDamaged):
                self.fail(str(meaning))
            raise meaning from error
        finally:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            self._readers.append((conn, self._monotonic()))

    def _reader(self) -> Transaction:
        """The one that was used last, or a new one; where none can be opened, the first that comes back."""
        end = self._monotonic() + hindrance.RETRY_FOR_SECONDS
        while True:
            try:
                return self._readers.pop()[0]
            except IndexError:
                pass
            try:
                return _open_reader(self.path)
            except SYSTEM_REFUSALS as error:
                if is_broken(error) or self._monotonic() >= end:
                    raise error_of_read(error, self.path) from error
            time.sleep(hindrance.RETRY_PAUSE_SECONDS)

    def close_idle_readers(self) -> None:
        """Close the connections that nobody has needed for CONNECTION_IDLE_SECONDS."""
        before = self._monotonic() - CONNECTION_IDLE_SECONDS
        while len(self._readers) > LEAST_READERS:
            try:
                conn, since = self._readers.popleft()
            except IndexError:
                return
            if since > before:
                self._readers.appendleft((conn, since))
                return
            conn.close()

    def checkpoint(self) -> None:
        """Move committed pages from the WAL into the database; called by the housekeeper, never by a receiver.

        Not after a failure: it would sync again what could not be synced. Raises Hindered, StorageUnhealthy.
        """
        if self._failure is not None:
            return
        try:
            pages = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            if pages > WAL_RESTART_PAGES:
                with self._turn:
                    self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)")
        except SYSTEM_REFUSALS as error:
            meaning = error_of_write(error, self.path)
            if isinstance(meaning, StorageUnhealthy):
                self.fail(str(meaning))
            raise meaning from error

    def close(self) -> None:
        """Close every connection; the last checkpoint leaves one file behind."""
        with self._turn:
            while self._readers:
                self._readers.pop()[0].close()
            self._checkpointer.close()
            self._writer.close()
            if self._index is not None:  # last: see edge.store.wal_index
                os.close(self._index)
                self._index = None


def _open_reader(path: Path) -> Transaction:
    conn = connect(path, read_only=True)
    try:
        conn.execute("PRAGMA schema_version").fetchone()  # SQLite opens the log now, not in the middle of the work
    except BaseException:
        conn.close()
        raise
    return conn
