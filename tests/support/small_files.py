"""Files of a gateway that are smaller than a clinic's, for the tests, which make thousands."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

from edge.journal import segment, service
from edge.store import database, sqlite_file
from edge.text import MIB


def lay_out_less() -> None:
    """From now on this process lays out less of what only spares time later: a start writes 30 MB, not 140.

    1 MiB of the catalog's log, not 64; segments of the journal of 5 MiB, not 16, and no more of them at rest. They take
    the same objects: the body of a record has 1 MiB at most, which is less than a quarter of either.
    """
    sqlite_file.WAL_RESTART_PAGES = MIB // sqlite_file.PAGE_BYTES
    segment.MOST_SEGMENT = 5 * MIB
    service.AHEAD_AT_REST = service.AHEAD
    _copy_schema()


def _copy_schema() -> None:
    """From now on a new catalog of this process, made as ever, gets its tables from one in memory."""
    empty, migrate = sqlite_file.open_empty_catalog(), sqlite_file.migrate

    def copy_or_migrate(conn: sqlite3.Connection) -> None:
        if sqlite_file.version_of(conn):
            migrate(conn)
        else:
            empty.backup(conn)

    sqlite_file.migrate = copy_or_migrate


def copy_catalogs() -> None:
    """From now on a new catalog of this process is a copy of one, and its log is small."""
    with TemporaryDirectory() as folder:
        first = Path(folder) / "catalog.db"
        sqlite_file.make(first)
        made = first.read_bytes()

    def make(path: Path) -> None:
        path.write_bytes(made)

    sqlite_file.WAL_RESTART_PAGES = MIB // sqlite_file.PAGE_BYTES
    database.make = make
