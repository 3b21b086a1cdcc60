"""The meaning of an error of the system: it ends by itself, room is used up, or the storage is broken.

`cause_of` finds the cause of an errno (errno(3)), edge.store.faults that of a result code of SQLite; `classify_cause`
gives the class of a cause. All code that uses files, descriptors, threads or the catalog calls these functions, so that
the same error has the same consequence everywhere:

- HEALS: a shortage, or something busy. It is waited for within limits, answered as transient, and ends by itself.
- FULL: no room of some kind. The scanners are refused until there is room again; nothing is broken.
- BROKEN: a write or a sync of stored data has failed. The content of the disk is unknown: a person must check it.

`Hindrances` holds what hinders reception at the moment, for status and alerts.
"""

from __future__ import annotations

import errno
import os
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

#: An operation is tried again for this time before a shortage is answered, with this pause between two tries.
RETRY_FOR_SECONDS, RETRY_PAUSE_SECONDS = 2.0, 0.05
#: A hindrance is over when nothing has met it for this time, and a trial succeeds.
CALM_SECONDS = 5.0


class CauseClass(Enum):
    """The consequence of a cause; see the head of the module."""

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

_FULLNESS = frozenset(
    {Cause.BYTES, Cause.INODES, Cause.QUOTA, Cause.FILE_SIZE, Cause.LINKS, Cause.READ_ONLY, Cause.UNKNOWN_ROOM}
)

#: The text after "the gateway is" or "because", and what a person can do.
_WORDS: dict[Cause, tuple[str, str]] = {
    Cause.DESCRIPTORS: ("short of file descriptors", "raise LimitNOFILE of the service (`systemctl edit edge`)"),
    Cause.MEMORY: ("short of memory", "see with `systemctl status edge` what uses it; raise MemoryMax of the service"),
    Cause.THREADS: ("short of threads", "raise TasksMax of the service (`systemctl edit edge`)"),
    Cause.PLACES: ("short of places: the most associations at once are open", "see in the log which callers have them"),
    Cause.BUSY: ("kept waiting by the system", "see `journalctl -u edge`"),
    Cause.LOCKED: ("kept waiting: another process locks the catalog", "end it: `fuser -v catalog.db` in data_dir"),
    Cause.BYTES: ("out of room: the disk is full", "see with `edge queue list` what keeps images here"),
    Cause.INODES: ("out of room: the file system has no inodes left", "see with `edge queue list` what keeps images"
                   " here; a file system with more inodes (mkfs.ext4 -i) takes more images"),
    Cause.QUOTA: ("out of room: its disk quota is used up", "raise the quota (setquota(8))"),
    Cause.FILE_SIZE: ("not allowed files of this size", "raise LimitFSIZE of the service, or use another file system"),
    Cause.LINKS: ("out of room: a directory takes no more entries", "move data_dir to another file system"),
    Cause.READ_ONLY: ("unable to write: the disk is mounted read-only", "see the cause in `journalctl -k`,"
                      ", then mount it for writing"),
    Cause.UNKNOWN_ROOM: ("unable to see how full the file system is", "see `journalctl -k`"),
    Cause.FAILED: ("unable to write: the storage failed", "repair the disk, then `systemctl restart edge`"),
}  # fmt: skip


# -- pure --------------------------------------------------------------------------------------------------------------


def cause_of_errno(number: int | None) -> Cause:
    """Find the cause of an errno; FAILED for the unexpected ones."""
    return _ERRNO.get(number or 0, Cause.FAILED)


def cause_of(error: BaseException) -> Cause:
    """Find the cause of an exception of the system; edge.store.faults has those of SQLite."""
    if isinstance(error, Hindered):
        return error.cause
    if isinstance(error, MemoryError):
        return Cause.MEMORY
    return cause_of_errno(error.errno) if isinstance(error, OSError) else Cause.FAILED


def classify_cause(cause: Cause) -> CauseClass:
    if cause is Cause.FAILED:
        return CauseClass.BROKEN
    return CauseClass.FULL if cause in _FULLNESS else CauseClass.HEALS


def words_of(cause: Cause) -> str:
    """The words for a cause, as the end of "the gateway is ..."."""
    return _WORDS[cause][0]


def remedy_of(cause: Cause) -> str:
    return _WORDS[cause][1]


def error_for(cause: Cause, what: str = "") -> EdgeError:
    """The error that a cause is raised as. `what` could not be done; it names no path, because scanners receive it."""
    text = f"the gateway is {words_of(cause)}"
    text = f"{text} ({what})" if what else text
    verdict = classify_cause(cause)
    if verdict is CauseClass.BROKEN:
        return StorageUnhealthy(text)
    return StorageFull(text, cause) if verdict is CauseClass.FULL else Shortage(text, cause)


def raise_passing(error: OSError) -> None:
    """Raise Shortage where an error is due to the moment, and not to the file that could not be read."""
    cause = cause_of(error)
    if classify_cause(cause) is CauseClass.HEALS:
        raise error_for(cause) from error


def raise_shortage(cause: Cause) -> None:
    """Raise Shortage where a cause is in this machine, not in a peer."""
    if cause in (Cause.DESCRIPTORS, Cause.MEMORY, Cause.THREADS):
        raise error_for(cause)


# -- effects -----------------------------------------------------------------------------------------------------------


def refine(cause: Cause, folder: Path) -> Cause:
    """Find in the file system what is used up: ENOSPC and SQLITE_CANTOPEN do not name it."""
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


def retry_shortages(work: Callable[[], T]) -> T:
    """Try `work` again while it meets a shortage, until the time is over. Raises what `work` raises."""
    end = time.monotonic() + RETRY_FOR_SECONDS
    while True:
        try:
            return work()
        except (OSError, MemoryError) as error:
            if classify_cause(cause_of(error)) is not CauseClass.HEALS or time.monotonic() >= end:
                raise
        time.sleep(RETRY_PAUSE_SECONDS)


def submit(pool: Executor, work: Callable[..., T], *args: Any) -> Future[T] | None:
    """Run something in a pool; None where the system gives no thread for it: then it does not run."""
    ticket: Future[T] = Future()
    try:
        pool.submit(_carry_out, ticket, work, args)
    except RuntimeError:  # an existing thread may still run it, unless it is cancelled first
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
    """What refuses scanners now. `used` and `mark` are fractions, where the use is above a mark."""

    cause: Cause
    since: float  # seconds since 1970
    used: float | None = None
    mark: float | None = None
    text: str = ""  # of a failed storage: the operation and the system's text


class Hindrances:
    """The hindrances that were met lately, by cause. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._found: dict[Cause, Hindrance] = {}
        self._met_at: dict[Cause, float] = {}

    def note(self, cause: Cause) -> None:
        """Note a hindrance: an object, an association or a transaction had to be refused."""
        with self._lock:
            self._found.setdefault(cause, Hindrance(cause, self._clock()))
            self._met_at[cause] = self._monotonic()

    @property
    def current(self) -> tuple[Hindrance, ...]:
        with self._lock:
            return tuple(replace(each) for each in self._found.values())

    @property
    def wants_trial(self) -> bool:
        """Has one been quiet for a time after which it may be over?"""
        now = self._monotonic()
        with self._lock:
            return any(now - at >= CALM_SECONDS for at in self._met_at.values())

    def end_quiet(self) -> tuple[Cause, ...]:
        """End the hindrances that nothing has met lately, after a trial that succeeded. Returns them."""
        now = self._monotonic()
        with self._lock:
            over = tuple(cause for cause, at in self._met_at.items() if now - at >= CALM_SECONDS)
            for cause in over:
                del self._found[cause], self._met_at[cause]
        return over
