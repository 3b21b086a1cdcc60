"""The catalog's file: how it is named, opened, made, and brought to the newest schema.

Promise: a catalog is there whole or not at all. A new one has another name until it is on stable storage, and the
migrations that an old one lacks are one transaction.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from enum import Enum
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from unicodedata import normalize
from urllib.parse import quote

from edge.errors import StorageUnhealthy, hindrance
from edge.errors.hindrance import CauseClass
from edge.text import fold_name

#: Of SQLite, as it is shown among the versions.
ENGINE_VERSION = sqlite3.sqlite_version
#: SQLite makes pages of this number of bytes.
PAGE_BYTES = 4096
#: WAL pages after which the background checkpoint makes the writer begin the log again (64 MiB of 4 KiB pages).
#: It is never cut: commits that overwrite blocks of a file are quicker than those that extend it.
WAL_RESTART_PAGES = 16_384
#: SQLite waits this number of seconds for a lock that another process holds.
LOCK_SECONDS = 10.0


class Schema(Enum):
    """The catalog's schema, compared with the one of this version."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"


def uri_of(path: Path, mode: str) -> str:
    """A file as SQLite's URI: `?`, `#` and `%` in its name mean nothing (https://www.sqlite.org/uri.html)."""
    return f"file:{quote(os.fsencode(path), safe='/:')}?mode={mode}"


def connect(path: Path, *, read_only: bool = False, immutable: bool = False) -> sqlite3.Connection:
    """Open a connection with the pragmas that the promises need. `immutable`: nobody can write the file meanwhile."""
    conn = sqlite3.connect(
        uri_of(path, "ro" if read_only else "rwc") + ("&immutable=1" if immutable else ""),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=LOCK_SECONDS,
    )
    if read_only:
        use_as_reader(conn)
    else:
        _prepare_statements(conn)
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA temp_store = MEMORY")  # what a statement may have to undo needs no file
        # Checkpoints are the housekeeper's: never on the back of a waiting scanner.
        conn.execute("PRAGMA wal_autocheckpoint = 0")
    return conn


def use_as_reader(conn: sqlite3.Connection) -> None:
    """Make a connection one that reads."""
    _prepare_statements(conn)
    conn.execute("PRAGMA query_only = ON")


def _prepare_statements(conn: sqlite3.Connection) -> None:
    """What statements rely on, whichever connection they come to: a question is asked of a catalog in memory, too."""
    conn.row_factory = sqlite3.Row
    conn.create_function("lower", 1, _lower, deterministic=True)
    conn.create_function("folded", 1, _fold_cached, deterministic=True)


@lru_cache(maxsize=10_000)
def _fold_cached(name: str) -> str:
    """A name as it is compared; few physicians refer most patients."""
    return fold_name(name)


def _lower(text: str | float | None) -> str | None:
    """SQL's lower() for all of Unicode, composed or not; SQLite's own knows ASCII alone."""
    return None if text is None else normalize("NFC", str(text)).casefold()


def lay_out_log(path: Path) -> None:
    """Give the WAL its blocks beforehand, as zeros, which SQLite takes for an empty log (its header has no magic).

    A commit that overwrites blocks is synced in half the time of one that makes the file longer. On a full disk it gets
    what there is.
    """
    log_path = path.with_name(f"{path.name}-wal")
    room = os.statvfs(path.parent)
    wanted = min(WAL_RESTART_PAGES * PAGE_BYTES, room.f_bavail * room.f_frsize // 100)
    if not log_path.exists():
        fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            zeros = bytes(1 << 20)
            try:
                for at in range(0, wanted, len(zeros)):
                    os.pwrite(fd, zeros, at)
            except OSError as error:
                if hindrance.classify_cause(hindrance.cause_of(error)) is not CauseClass.FULL:
                    raise
            sync_fd(fd, log_path)
        finally:
            os.close(fd)


def migrations(package: str = "edge.store") -> dict[int, str]:
    """The numbered files of a package's folder `migrations`, in order: number -> SQL."""
    folder = resources.files(package) / "migrations"
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {int(e.name.split("_", 1)[0]): e.read_text(encoding="utf-8") for e in sorted(found, key=lambda e: e.name)}


def version_of(conn: sqlite3.Connection) -> int:
    """The number of the last migration that the database has seen."""
    return int(conn.execute("PRAGMA user_version").fetchone()[0])


def compare_schema(conn: sqlite3.Connection) -> Schema:
    seen, needed = version_of(conn), max(migrations())
    return Schema.SAME if seen == needed else Schema.NEWER if seen > needed else Schema.OLDER


def migrate(conn: sqlite3.Connection) -> None:
    """Apply every migration that the database has not seen, all in one transaction: all of them, or none."""
    seen = version_of(conn)
    new = {number: script for number, script in migrations().items() if number > seen}
    if not new:
        return
    scripts = "\n".join(new.values())
    try:
        conn.executescript(f"BEGIN IMMEDIATE;\n{scripts}\nPRAGMA user_version = {max(new)};\nCOMMIT;")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def open_empty_catalog() -> sqlite3.Connection:
    """An empty catalog in memory, which no file has.

    All but the first are copies, in a thousandth of a second: the migrations take a tenth.
    """
    conn = connect(Path(":memory:"))
    with _EMPTY_LOCK:
        _first_empty_catalog().backup(conn)
    return conn


_EMPTY_LOCK = threading.Lock()


@cache
def _first_empty_catalog() -> sqlite3.Connection:
    conn = connect(Path(":memory:"))
    migrate(conn)
    return conn


def make(path: Path) -> None:
    """Make a new catalog: under another name until it is whole, so that a full disk leaves none, not half of one."""
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, *(new.with_name(f"{new.name}-{part}") for part in ("wal", "shm", "journal"))):
        leftover.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(uri_of(new, "rwc"), uri=True, isolation_level=None)) as conn:
            conn.execute("PRAGMA locking_mode = EXCLUSIVE")  # its log needs no index in a file then
            conn.execute("PRAGMA journal_mode = WAL")
            migrate(conn)
        sync_path(new)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    new.rename(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Sync a file, or the names in a folder. Raises OSError where it cannot be opened, else StorageUnhealthy."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_fd(fd, path)
    finally:
        os.close(fd)


def sync_fd(fd: int, path: Path) -> None:
    """A sync that failed is not tried again, whatever room is made: so it is no OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise StorageUnhealthy(f"sync of {path} failed ({error.strerror})") from error
