"""The meaning of SQLite's errors: the only place that knows its result codes (https://www.sqlite.org/rescode.html).

Nothing outside this package sees an error of SQLite: what comes out is Hindered (heals by itself, or no room),
StorageUnhealthy (a write failed), CatalogDamaged, or CatalogError.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import (
    CatalogDamaged,
    CatalogError,
    Cause,
    CommitInDoubt,
    EdgeError,
    Hindered,
    Shortage,
    StorageUnhealthy,
    hindrance,
)
from edge.errors.hindrance import CauseClass

#: Primary result codes of SQLite, and extended ones that mean something else than theirs.
_ERROR, _BUSY, _LOCKED, _NOMEM, _FULL, _CANTOPEN, _PROTOCOL = 1, 5, 6, 7, 13, 14, 15
_IOERR = 10
_CAUSES: dict[int, Cause] = {
    _BUSY: Cause.LOCKED,
    _LOCKED: Cause.LOCKED,
    _NOMEM: Cause.MEMORY,
    _FULL: Cause.BYTES,
    _CANTOPEN: Cause.BUSY,  # nothing was written; why it could not be opened, the system knows
    _PROTOCOL: Cause.LOCKED,
    _IOERR | 9 << 8: Cause.LOCKED,  # SQLITE_IOERR_RDLOCK: a lock was not to be had
    _IOERR | 12 << 8: Cause.MEMORY,  # SQLITE_IOERR_NOMEM
    _IOERR | 14 << 8: Cause.LOCKED,  # SQLITE_IOERR_CHECKRESERVEDLOCK
    _IOERR | 15 << 8: Cause.LOCKED,  # SQLITE_IOERR_LOCK
    _IOERR | 18 << 8: Cause.BUSY,  # SQLITE_IOERR_SHMOPEN: the log's index could not be opened
    _IOERR | 19 << 8: Cause.BYTES,  # SQLITE_IOERR_SHMSIZE: it could not grow
    _IOERR | 20 << 8: Cause.LOCKED,  # SQLITE_IOERR_SHMLOCK
    _IOERR | 21 << 8: Cause.MEMORY,  # SQLITE_IOERR_SHMMAP
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
#: What the system refuses: Python raises MemoryError for SQLITE_NOMEM.
SYSTEM_REFUSALS = (sqlite3.OperationalError, MemoryError)


def cause_of_sqlite(code: int) -> Cause:
    """The cause behind an SQLite result code, extended or primary; FAILED for those that nobody expects."""
    return _CAUSES.get(code) or (_CAUSES.get(code & 0xFF) if code & 0xFF != _IOERR else None) or Cause.FAILED


def cause_of_error(error: BaseException) -> Cause:
    """The cause behind an exception of the system or of SQLite."""
    return cause_of_sqlite(_code_of(error)) if isinstance(error, sqlite3.Error) else hindrance.cause_of(error)


def is_damage(error: BaseException) -> bool:
    """Does SQLite say that what it reads cannot be what it wrote? (SQLITE_CORRUPT, SQLITE_NOTADB)"""
    return type(error) is sqlite3.DatabaseError


def is_own_fault(error: BaseException) -> bool:
    """Is the statement wrong, or a value that a constraint refuses, rather than the system?"""
    if isinstance(error, sqlite3.OperationalError):
        return _code_of(error) == _ERROR
    return isinstance(error, sqlite3.Error) and not is_damage(error)


def is_broken(error: BaseException) -> bool:
    return hindrance.classify_cause(cause_of_error(error)) is CauseClass.BROKEN


def error_of_write(error: Exception, path: Path, *, in_doubt: bool = False) -> EdgeError:
    """What a failed sync or transaction on the catalog at `path` means for its callers."""
    if isinstance(error, (StorageUnhealthy, Hindered)):
        return error
    if is_damage(error):
        return CatalogDamaged(str(error))
    cause = hindrance.refine(cause_of_error(error), path.parent)
    if hindrance.classify_cause(cause) is CauseClass.BROKEN:
        return CommitInDoubt(f"the catalog could not be written ({error}); restart after the disk is repaired")
    found = hindrance.error_for(cause, "the catalog cannot be written now")
    if isinstance(found, Shortage):  # on a full disk the frame that ends a transaction is not there
        found.is_in_doubt = in_doubt
    return found


def error_of_read(error: Exception, path: Path) -> EdgeError:
    """What a failed opening or reading means: nothing was written, so nothing is in doubt."""
    if is_damage(error):
        return CatalogDamaged(str(error))
    if is_own_fault(error) or is_broken(error):
        return CatalogError(str(error))
    return error_of_write(error, path)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Around what opens or reads the catalog at `path`: raises the errors of edge.errors instead of SQLite's."""
    try:
        yield
    except sqlite3.Error as error:
        raise error_of_read(error, path) from error


def _code_of(error: sqlite3.Error) -> int:
    """The extended result code; 1 (SQLITE_ERROR) where Python does not say."""
    code = getattr(error, "sqlite_errorcode", None)
    return int(code) if code is not None else _ERRSTR.get(str(error), _ERROR)
