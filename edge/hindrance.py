"""What an error of the system means for those who wait: it heals by itself, room is used up, or the storage is broken.

`cause_of` classifies an errno (errno(3)) or an SQLite result code (https://www.sqlite.org/rescode.html); `verdict_of`
says what a cause means. Everything that touches files, descriptors, threads or the catalog asks here, so that the
same error means the same everywhere:

- HEALS: a shortage, or something busy. It is waited for within limits, answered as transient, and ends by itself.
- FULL: no room of some kind. The scanners are refused until there is room again; nothing is broken.
- BROKEN: a write or a sync of what we keep has failed. Nobody knows what the disk holds: a person has to look.

`Hindrances` remembers what hinders reception at the moment, for status and alerts.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import Cause, EdgeError, Hindered, Shortage, StorageFull, StorageUnhealthy

T = TypeVar("T")

#: So long an operation is tried again before a shortage is answered, and the pause between two tries.
PATIENCE_SECONDS, PAUSE_SECONDS = 2.0, 0.05
#: A hindrance is over when nothing has met it for so long, and a trial succeeds.
CALM_SECONDS = 5.0


class Verdict(Enum):
    HEALS = "heals"
    FULL = "full"
    BROKEN = "broken"


_ERRNO: dict[int, Cause] = {
    errno.EMFILE: Cause.DESCRIPTORS,
    errno.ENFILE: Cause.DESCRIPTORS,
    errno.ENOMEM: Cause.MEMORY,
    errno.ENOBUFS: Cause.MEMORY,
    errno.EAGAIN: Cause.BUSY,
    errno.EBUSY: Cause.BUSY,
    errno.EINTR: Cause.BUSY,
    errno.ETXTBSY: Cause.BUSY,
    errno.ENOLCK: Cause.BUSY,
    errno.EDEADLK: Cause.BUSY,
    errno.ENOSPC: Cause.BYTES,
    errno.EDQUOT: Cause.QUOTA,
    errno.EFBIG: Cause.FILE_SIZE,
    errno.EMLINK: Cause.LINKS,
    errno.EROFS: Cause.READ_ONLY,
}

#: Primary result codes of SQLite, and extended ones that mean something else than theirs.
_BUSY, _LOCKED, _NOMEM, _FULL, _CANTOPEN, _PROTOCOL = 5, 6, 7, 13, 14, 15
_SQLITE: dict[int, Cause] = {
    _BUSY: Cause.LOCKED,
    _LOCKED: Cause.LOCKED,
    _NOMEM: Cause.MEMORY,
    _FULL: Cause.BYTES,
    _CANTOPEN: Cause.BUSY,  # nothing was written; why it could not be opened, the system knows
    _PROTOCOL: Cause.LOCKED,
    10 | 9 << 8: Cause.LOCKED,  # SQLITE_IOERR_RDLOCK: a lock was not to be had
    10 | 12 << 8: Cause.MEMORY,  # SQLITE_IOERR_NOMEM
    10 | 14 << 8: Cause.LOCKED,  # SQLITE_IOERR_CHECKRESERVEDLOCK
    10 | 15 << 8: Cause.LOCKED,  # SQLITE_IOERR_LOCK
    10 | 18 << 8: Cause.BUSY,  # SQLITE_IOERR_SHMOPEN: the log's index could not be opened
    10 | 19 << 8: Cause.BYTES,  # SQLITE_IOERR_SHMSIZE: it could not grow
    10 | 20 << 8: Cause.LOCKED,  # SQLITE_IOERR_SHMLOCK
    10 | 21 << 8: Cause.MEMORY,  # SQLITE_IOERR_SHMMAP
}
#: Python 3.10 keeps the code to itself: sqlite3_errstr() gives one fixed text for each.
_ERRSTR = {
    "database is locked": _BUSY,
    "database table is locked": _LOCKED,
    "out of memory": _NOMEM,
    "database or disk is full": _FULL,
    "unable to open database file": _CANTOPEN,
    "locking protocol": _PROTOCOL,
}

_FULLNESS = frozenset(
    {Cause.BYTES, Cause.INODES, Cause.QUOTA, Cause.FILE_SIZE, Cause.LINKS, Cause.READ_ONLY, Cause.UNKNOWN_ROOM}
)

#: In words, after "the gateway is" or "because"; and what a person can do.
_WORDS: dict[Cause, tuple[str, str]] = {
    Cause.DESCRIPTORS: ("short of file descriptors", "raise LimitNOFILE of the service (`systemctl edit edge`)"),
    Cause.MEMORY: ("short of memory", "see with `systemctl status edge` who uses it; raise MemoryMax of the service"),
    Cause.THREADS: ("short of threads", "raise TasksMax of the service (`systemctl edit edge`)"),
    Cause.PLACES: ("short of places: the most associations at once are open", "see in the log who holds them"),
    Cause.BUSY: ("kept waiting by the system", "see `journalctl -u edge`"),
    Cause.LOCKED: ("kept waiting: another process locks the catalog", "end it: `fuser -v catalog.db` in data_dir"),
    Cause.BYTES: ("out of room: the disk is full", "see with `edge queue list` what keeps images here"),
    Cause.INODES: ("out of room: the file system has no inodes left", "see with `edge queue list` what keeps images"
                   " here; a file system with more inodes (mkfs.ext4 -i) takes more images"),
    Cause.QUOTA: ("out of room: its disk quota is used up", "raise the quota (setquota(8))"),
    Cause.FILE_SIZE: ("not allowed files of this size", "raise LimitFSIZE of the service, or use another file system"),
    Cause.LINKS: ("out of room: a directory takes no more entries", "move data_dir to another file system"),
    Cause.READ_ONLY: ("unable to write: the disk is mounted read-only", "look at `journalctl -k` for the"
                      " cause, then mount it for writing"),
    Cause.UNKNOWN_ROOM: ("unable to see how full the file system is", "look at `journalctl -k`"),
    Cause.FAILED: ("unable to write: the storage failed", "repair the disk, then `systemctl restart edge`"),
}  # fmt: skip


# -- pure --------------------------------------------------------------------------------------------------------------


def cause_of_errno(number: int | None) -> Cause:
    """What an errno says; FAILED for those that nobody expects."""
    return _ERRNO.get(number or 0, Cause.FAILED)


def cause_of_sqlite(code: int) -> Cause:
    """What an SQLite result code says, extended or primary; FAILED for those that nobody expects."""
    return _SQLITE.get(code) or (_SQLITE.get(code & 0xFF) if code & 0xFF != 10 else None) or Cause.FAILED


def cause_of(error: BaseException) -> Cause:
    """What an exception of the system or of SQLite says."""
    if isinstance(error, Hindered):
        return error.cause
    if isinstance(error, MemoryError):
        return Cause.MEMORY
    if isinstance(error, sqlite3.Error):
        return cause_of_sqlite(code_of(error))
    return cause_of_errno(error.errno) if isinstance(error, OSError) else Cause.FAILED


def code_of(error: sqlite3.Error) -> int:
    """The extended result code; 1 (SQLITE_ERROR) where Python does not say."""
    code = getattr(error, "sqlite_errorcode", None)
    return int(code) if code is not None else _ERRSTR.get(str(error), 1)


def verdict_of(cause: Cause) -> Verdict:
    if cause is Cause.FAILED:
        return Verdict.BROKEN
    return Verdict.FULL if cause in _FULLNESS else Verdict.HEALS


def words_of(cause: Cause) -> str:
    """As the end of "the gateway is ..."."""
    return _WORDS[cause][0]


def remedy_of(cause: Cause) -> str:
    return _WORDS[cause][1]


def error_for(cause: Cause, what: str = "") -> EdgeError:
    """The error that a cause is raised as. `what` could not be done; it names no path, for scanners get it."""
    text = f"the gateway is {words_of(cause)}"
    text = f"{text} ({what})" if what else text
    verdict = verdict_of(cause)
    if verdict is Verdict.BROKEN:
        return StorageUnhealthy(text)
    return StorageFull(text, cause) if verdict is Verdict.FULL else Shortage(text, cause)


def raise_passing(error: OSError) -> None:
    """Raises Shortage where an error says nothing of the file that could not be read, but of this moment."""
    cause = cause_of(error)
    if verdict_of(cause) is Verdict.HEALS:
        raise error_for(cause) from error


def raise_shortage(cause: Cause) -> None:
    """Raises Shortage where a cause is one that this machine is to be blamed for, not a peer."""
    if cause in (Cause.DESCRIPTORS, Cause.MEMORY, Cause.THREADS):
        raise error_for(cause)


# -- effects -----------------------------------------------------------------------------------------------------------


def refine(cause: Cause, folder: Path) -> Cause:
    """ENOSPC and SQLITE_CANTOPEN do not say what is used up: the system does."""
    try:
        found = os.statvfs(folder)
        if cause in (Cause.BYTES, Cause.BUSY) and found.f_files and not found.f_favail:
            return Cause.INODES if found.f_bavail else Cause.BYTES
        if cause is Cause.BUSY:
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        found_cause = cause_of(error)
        return cause if found_cause is Cause.FAILED else found_cause
    return cause


def patiently(work: Callable[[], T]) -> T:
    """Do what may meet a shortage, again and again until it succeeds or the time is over. Raises what `work` raises."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work()
        except (OSError, MemoryError, sqlite3.OperationalError) as error:
            if verdict_of(cause_of(error)) is not Verdict.HEALS or time.monotonic() >= end:
                raise
        time.sleep(PAUSE_SECONDS)


def submit(pool: Executor, work: Callable[..., T], *args: Any) -> Future[T] | None:
    """Have something done beside; None where the system gives no thread for it: then it is not done at all."""
    ticket: Future[T] = Future()
    try:
        pool.submit(_carry_out, ticket, work, args)
    except RuntimeError:  # a thread that is there may take it all the same, unless it is cancelled first
        if ticket.cancel():
            return None
    return ticket


def _carry_out(ticket: Future[T], work: Callable[..., T], args: tuple[Any, ...]) -> None:
    if ticket.set_running_or_notify_cancel():
        try:
            ticket.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            ticket.set_exception(error)


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What refuses scanners now. `used` and `mark` are fractions, where it is a mark that is passed."""

    cause: Cause
    since: float  # seconds since 1970
    used: float | None = None
    mark: float | None = None
    text: str = ""  # of a failed storage: the operation and the system's words


class Hindrances:
    """What has been met lately, by cause. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._found: dict[Cause, Hindrance] = {}
        self._met_at: dict[Cause, float] = {}

    def note(self, cause: Cause) -> None:
        """It has been met: an object, an association or a transaction had to be refused."""
        with self._lock:
            self._found.setdefault(cause, Hindrance(cause, self._clock()))
            self._met_at[cause] = self._monotonic()

    @property
    def current(self) -> tuple[Hindrance, ...]:
        with self._lock:
            return tuple(replace(each) for each in self._found.values())

    @property
    def wants_trial(self) -> bool:
        """Has one been quiet for so long that it may be over?"""
        now = self._monotonic()
        with self._lock:
            return any(now - at >= CALM_SECONDS for at in self._met_at.values())

    def end_quiet(self) -> tuple[Cause, ...]:
        """A trial has succeeded: those that nothing has met lately are over. Returns which."""
        now = self._monotonic()
        with self._lock:
            over = tuple(cause for cause, at in self._met_at.items() if now - at >= CALM_SECONDS)
            for cause in over:
                del self._found[cause], self._met_at[cause]
        return over
