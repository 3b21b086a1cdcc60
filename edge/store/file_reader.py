"""The catalog's file as a command reads it: beside the gateway, or where none runs. Nothing is written to it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import CatalogError
from edge.store import wal_index
from edge.store.database import Transaction
from edge.store.faults import translate_errors
from edge.store.sqlite_file import connect


class FileReader:
    """One catalog's file; the index of its log, once laid out, stays so until this process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: int | None = None

    def open(self) -> Transaction:
        """A read-only connection. Raises OSError, and the errors of edge.store.faults."""
        with translate_errors(self.path):
            return self._connect()

    def _connect(self) -> Transaction:
        try:
            if self._index is None and not Path(f"{self.path}-shm").exists():
                self._index = wal_index.lay_out(self.path)
        except OSError as error:
            log = Path(f"{self.path}-wal")
            if error.errno != errno.EROFS or (log.exists() and log.stat().st_size):
                raise
            return connect(self.path, read_only=True, immutable=True)  # stopped in order, and nobody can write
        return connect(self.path, read_only=True)

    @contextmanager
    def reading(self, conn: Transaction) -> Iterator[None]:
        """One consistent view of `conn` for all that is read inside; it is closed behind. Raises CatalogError."""
        try:
            conn.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            raise CatalogError(f"the catalog {self.path} cannot be read: {error}") from error
        finally:
            conn.close()
