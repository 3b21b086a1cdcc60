"""Reading what can be read of a damaged SQLite file, row by row, without trusting its indexes.

Rows are found by walking a table's rowids; where a page is unreadable, each rowid of the gap is asked for on its own.
What comes out is what the pages say: whether it is true, the caller decides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from edge.store.sqlite_file import uri_of

#: Rows read at once.
CHUNK = 500
#: This number of rowids in a row that give nothing: the table is at its end.
GAP = 20_000

SalvagedRow = dict[str, Any]


class Salvage:
    """A damaged catalog, opened for reading; an unreadable one has no tables."""

    def __init__(self, path: Path) -> None:
        self._conn: sqlite3.Connection | None = None
        self.errors = 0  # reads that failed
        try:
            if path.exists():
                self._conn = sqlite3.connect(uri_of(path, "ro"), uri=True, isolation_level=None)
                self._conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
                self._conn.execute("PRAGMA query_only = ON")
                self._conn.execute("PRAGMA cell_size_check = ON")
                self.tables()
        except sqlite3.DatabaseError:
            self._conn = None

    def close(self) -> None:
        if self._conn is not None:
            with closing(self._conn):
                self._conn = None

    def tables(self) -> list[str]:
        """Their names; none where the schema cannot be read."""
        return [str(row[0]) for row in self._all("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def rows(self, table: str) -> Iterator[SalvagedRow]:
        """Every row that can be read; with a rowid, in its order."""
        if self._conn is None or table not in self.tables():
            return
        columns = [str(row[1]) for row in self._all(f"PRAGMA table_info({table})")]
        try:
            self._conn.execute(f"SELECT rowid FROM {table} LIMIT 0")
        except sqlite3.DatabaseError:
            for row in self._some(f"SELECT * FROM {table}"):  # WITHOUT ROWID: a small table
                yield dict(zip(columns, row, strict=True))
            return
        for row in self._by_rowid(table):
            yield dict(zip(columns, row[1:], strict=True))

    def _by_rowid(self, table: str) -> Iterator[tuple[Any, ...]]:
        select = f"SELECT rowid, * FROM {table} NOT INDEXED"
        at, misses = -1, 0
        while misses < GAP:
            found, failed = self._some_of(f"{select} WHERE rowid > ? ORDER BY rowid LIMIT {CHUNK}", at)
            yield from found
            at = found[-1][0] if found else at
            if not failed:
                if len(found) < CHUNK:
                    return
                misses = 0
                continue
            misses = 0 if found else misses
            at, misses, row = self._step_over(select, at, misses)
            if row is not None:
                yield row

    def _step_over(self, select: str, at: int, misses: int) -> tuple[int, int, tuple[Any, ...] | None]:
        """Ask for rowid after rowid behind `at`, until one can be read."""
        while misses < GAP:
            at += 1
            found, _ = self._some_of(f"{select} WHERE rowid = ?", at)
            if found:
                return at, 0, found[0]
            misses += 1
        return at, misses, None

    def _some_of(self, sql: str, *given: object) -> tuple[list[tuple[Any, ...]], bool]:
        """What came before the first error, and whether there was one."""
        assert self._conn is not None
        found: list[tuple[Any, ...]] = []
        try:
            for row in self._conn.execute(sql, given):
                found.append(row)
        except (sqlite3.DatabaseError, OverflowError, MemoryError):
            self.errors += 1
            return found, True
        return found, False

    def _some(self, sql: str) -> list[tuple[Any, ...]]:
        return self._some_of(sql)[0]

    def _all(self, sql: str) -> list[tuple[Any, ...]]:
        return self._conn.execute(sql).fetchall() if self._conn is not None else []
