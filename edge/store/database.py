"""The catalog's database: one SQLite file, one writer at a time, many readers.

Promise: when `Database.write` returns, its work is on stable storage (WAL, synchronous=FULL). Callers that wait at the
same time share one commit, and one sync of each directory that their work depends on: the first to get the turn commits
for all (group commit). A work function that raises is rolled back alone; the others are not touched.

A failed sync or commit raises `StorageUnhealthy` in every caller of the group, and in every later one: after such a
failure nobody knows what the disk holds, so nothing is written until a restart has looked. What heals by itself
(edge.hindrance) is tried again for a short time, then raises `Hindered`; the next transaction may succeed.

Limits: one process writes. The work functions must be short: while one runs, every receiver waits. The caller's own
thread commits: through aiosqlite, whose every statement goes to its thread and back, a transaction of nine statements
took 0.5 ms instead of 0.1 ms (median of 500, three times, side by side).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edge import hindrance
from edge.errors import Cause, CommitInDoubt, EdgeError, Hindered, Shortage, StorageUnhealthy
from edge.hindrance import Verdict
from edge.store import wal_index
from edge.store.sqlite_file import LOCK_SECONDS, PAGE_BYTES, WAL_RESTART_PAGES, connect, lay_out_log, make, migrate

log = logging.getLogger(__name__)
T = TypeVar("T")
Connection = sqlite3.Connection
__all__ = ["PAGE_BYTES", "WAL_RESTART_PAGES", "Connection", "Database", "connect", "is_damage", "migrate"]

#: Connections for reading that nobody has used for so long are closed; so many stay.
IDLE_SECONDS, LEAST_READERS = 60.0, 2
#: So long is waited for a lock that was not given up in LOCK_SECONDS.
STILL_LOCKED_SECONDS = 0.5
#: What the system refuses: Python raises MemoryError for SQLITE_NOMEM.
_REFUSALS = (sqlite3.OperationalError, MemoryError)


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


def is_damage(error: BaseException) -> bool:
    """Does SQLite say that what it reads cannot be what it wrote? (SQLITE_CORRUPT, SQLITE_NOTADB)"""
    return type(error) is sqlite3.DatabaseError


def _meaning(error: Exception, path: Path, *, in_doubt: bool = False) -> EdgeError:
    """What a failed sync or transaction means for its callers."""
    if isinstance(error, (StorageUnhealthy, Hindered)):
        return error
    if is_damage(error):
        return StorageUnhealthy(f"the catalog is damaged ({error}): stop the gateway, `edge recover`, start it")
    cause = hindrance.refine(hindrance.cause_of(error), path.parent)
    if hindrance.verdict_of(cause) is Verdict.BROKEN:
        return CommitInDoubt(f"the catalog could not be written ({error}); restart after the disk is mended")
    found = hindrance.error_for(cause, "the catalog cannot be written now")
    if isinstance(found, Shortage):  # on a full disk the frame that ends a transaction is not there
        found.is_in_doubt = in_doubt
    return found


def _is_own_fault(error: BaseException) -> bool:
    """Is it the work's SQL that is wrong, not the system? (SQLITE_ERROR)"""
    return isinstance(error, sqlite3.OperationalError) and hindrance.code_of(error) == 1


class Database:
    """Owner of the catalog file; see the module's promise."""

    def __init__(
        self,
        path: Path,
        on_full: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_full` makes room on a full disk; True when it did, and the transaction is worth another try."""
        self.path, self._on_full, self._monotonic = path, on_full, monotonic
        if not path.exists():
            make(path)
        lay_out_log(path)  # only now: SQLite removes the log of a database that is empty
        self._index = wal_index.lay_out(path)
        self._writer = connect(path)
        migrate(self._writer)
        self._checkpointer = connect(path)  # of its own: where descriptors are short, none can be opened
        self._turn = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._readers: deque[tuple[Connection, float]] = deque()  # and since when it is idle; the last used is last
        self._failure: str | None = None
        self._is_committing = False
        self._lock_seconds = LOCK_SECONDS

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
            self._is_committing = False
            for barrier in {job.barrier for job in jobs if job.barrier is not None}:
                barrier.sync()
            self._transact_patiently(jobs)
        except Exception as error:  # noqa: BLE001 - told to every caller of the group
            self._fail(jobs, error)
        finally:
            for job in jobs:
                job.done = True

    def _transact_patiently(self, jobs: list[_Job]) -> None:
        """What heals by itself gets a little time, and a full disk the reserve."""
        end = self._monotonic() + hindrance.PATIENCE_SECONDS
        while True:
            try:
                return self._transact(jobs)
            except _REFUSALS as error:
                if not self._may_repeat(hindrance.cause_of(error), end):
                    raise
                self._roll_back()
            time.sleep(hindrance.PAUSE_SECONDS)

    def _may_repeat(self, cause: Cause, end: float) -> bool:
        verdict = hindrance.verdict_of(cause)
        if verdict is Verdict.FULL:
            return self._on_full()
        # For a lock SQLite itself has waited.
        return verdict is Verdict.HEALS and cause is not Cause.LOCKED and self._monotonic() < end

    def _transact(self, jobs: list[_Job]) -> None:
        """All in one transaction. Where one raises, each has a transaction of its own: the others are not touched."""
        try:
            self._commit(jobs)
        except Exception as error:
            if is_damage(error) or (isinstance(error, _REFUSALS) and not _is_own_fault(error)):
                raise  # the system, not the work: nobody's work counts
            self._roll_back()
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:
                self._transact([job])

    def _commit(self, jobs: list[_Job]) -> None:
        self._is_committing = False
        self._writer.execute("BEGIN IMMEDIATE")
        self._wait_for_locks(LOCK_SECONDS)
        for job in jobs:
            job.result, job.error = job.work(self._writer), None
        self._is_committing = True
        self._writer.execute("COMMIT")
        self._is_committing = False

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        meaning = _meaning(error, self.path, in_doubt=self._is_committing)
        for job in jobs:  # first of all: whatever happens next, nobody takes it for done
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

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only connection; inside, one consistent view once the first statement has run.

        Raises Hindered where the system cannot give one for a while.
        """
        conn = self._reader()
        try:
            conn.execute("BEGIN")
            yield conn
            conn.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                meaning = _meaning(error, self.path)
                self.fail(str(meaning))
                raise meaning from error
            if not isinstance(error, sqlite3.OperationalError) or self._is_broken(error):
                raise
            raise _meaning(error, self.path) from error
        finally:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            self._readers.append((conn, self._monotonic()))

    def _reader(self) -> Connection:
        """The one that was used last, or a new one; where none can be opened, the first that comes back."""
        end = self._monotonic() + hindrance.PATIENCE_SECONDS
        while True:
            try:
                return self._readers.pop()[0]
            except IndexError:
                pass
            try:
                return _open_reader(self.path)
            except _REFUSALS as error:
                if self._is_broken(error):
                    raise
                if self._monotonic() >= end:
                    raise _meaning(error, self.path) from error
            time.sleep(hindrance.PAUSE_SECONDS)

    @staticmethod
    def _is_broken(error: BaseException) -> bool:
        return hindrance.verdict_of(hindrance.cause_of(error)) is Verdict.BROKEN

    def close_idle_readers(self) -> None:
        """After a rush: close the connections that nobody has needed for IDLE_SECONDS."""
        before = self._monotonic() - IDLE_SECONDS
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
        except _REFUSALS as error:
            meaning = _meaning(error, self.path)
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
            if self._index is not None:  # last: see edge.wal_index
                os.close(self._index)
                self._index = None


def _open_reader(path: Path) -> Connection:
    conn = connect(path, read_only=True)
    try:
        conn.execute("PRAGMA schema_version").fetchone()  # SQLite opens the log now, not in the midst of the work
    except BaseException:
        conn.close()
        raise
    return conn
