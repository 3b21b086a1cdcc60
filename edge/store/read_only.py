"""The catalog for a process that only reads it: no lock, page or byte of it is ever written from there.

The daemon has the catalog open, and with it the log and its index, which SQLite needs to be there. A transaction is
short: while one is open, the log cannot begin again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.store.database import Transaction
from edge.store.faults import error_of_read
from edge.store.sqlite_file import LOCK_SECONDS, uri_of, use_as_reader


class CatalogReader:
    """Connections for reading, as many as threads read at once. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._idle: list[Transaction] = []

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One consistent view once the first statement has run. Raises Hindered or CatalogError."""
        conn: Transaction | None = None
        try:
            conn = self._take()
            conn.execute("BEGIN")
            yield conn
            conn.execute("COMMIT")
        except sqlite3.Error as error:
            raise error_of_read(error, self.path) from error
        finally:
            if conn is not None:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                with self._lock:
                    self._idle.append(conn)

    def _take(self) -> Transaction:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        uri = uri_of(self.path, "ro") + "&readonly_shm=1"
        conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=LOCK_SECONDS)
        use_as_reader(conn)
        return conn

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()
