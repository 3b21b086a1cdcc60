"""The central office's database: SQLite (WAL, one file) or PostgreSQL, by the same SQL.

`reading` gives one consistent view, `writing` one transaction that is durable when the block has ended. Rows are read
by name. On SQLite a writer waits up to ten seconds for another one; on PostgreSQL the two do not meet.
Raises StoreError: the database is away, full, or refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, TextClause, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from edge.errors import Transient

__all__ = ["Connection", "Row", "Store", "StoreError", "Unstorable", "do", "do_many", "first", "rows", "value"]

Row = RowMapping

#: What threads that still read or write get at the end.
CLOSE_SECONDS = 10.0

_DIALECTS = {
    "sqlite": {"$ID": "INTEGER PRIMARY KEY", "$CLUSTERED": "WITHOUT ROWID"},
    "postgresql": {"$ID": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "$CLUSTERED": ""},
}
#: Two offices that start together must not both migrate (pg_advisory_xact_lock).
_MIGRATION_LOCK = 0x45444745


class StoreError(Transient):
    """The database could not be read or written."""


class Unstorable(StoreError):
    """The database is there, and does not take this: a value that is too great for its column, or the like."""


class Store:
    """The open database."""

    def __init__(self, url: str) -> None:
        """Open it and bring its tables up to date. Raises StoreError."""
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._changed, self._users = threading.Condition(), 0
        self._engine = _engine(url, self.is_sqlite)
        with self.writing() as conn:
            _migrate(conn)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of everything."""
        isolation = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _told(), self._in_use(), self._engine.connect().execution_options(**isolation) as conn:
            yield conn

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; rolled back when the block raises."""
        with _told(), self._in_use(), self._engine.connect().execution_options(writes=True) as conn, conn.begin():
            yield conn

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._changed:
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Close every connection, once those in use are given back, within CLOSE_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: not self._users, CLOSE_SECONDS)
        self._engine.dispose()


def rows(conn: Connection, sql: str, **given: object) -> Sequence[Row]:
    """All rows of a query."""
    return conn.execute(_statement(sql), given).mappings().all()


def first(conn: Connection, sql: str, **given: object) -> Row | None:
    """The first row, or None."""
    return conn.execute(_statement(sql), given).mappings().first()


def value(conn: Connection, sql: str, **given: object) -> Any:
    """The first column of the first row, or None."""
    return conn.execute(_statement(sql), given).scalar()


def do(conn: Connection, sql: str, **given: object) -> int:
    """Change something; how many rows it was."""
    return conn.execute(_statement(sql), given).rowcount


def do_many(conn: Connection, sql: str, given: Sequence[Mapping[str, Any]]) -> None:
    """The same change for each."""
    if given:
        conn.execute(_statement(sql), given)


@cache
def _statement(sql: str) -> TextClause:
    """Our statements are constants: each is prepared once."""
    return text(sql)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The driver's own words, without the statement and what it was given.
        cause = getattr(error, "orig", None) or error
        kind = Unstorable if isinstance(error, (DataError, IntegrityError)) else StoreError
        raise kind(
            f"the central database: {next(iter(str(cause).strip().splitlines()), type(cause).__name__)}"
        ) from error


def _engine(url: str, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        return create_engine(url, pool_pre_ping=True, pool_size=8, connect_args={"connect_timeout": 10})
    engine = create_engine(url, connect_args={"timeout": 10.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writes") else "BEGIN")

    return engine


def _migrate(conn: Connection) -> None:
    """Apply every numbered file of edge/central/migrations that this database has not seen."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    conn.execute(text("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY)"))
    seen = value(conn, "SELECT max(number) FROM migration") or 0
    folder = resources.files("edge.central") / "migrations"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        number = int(entry.name.split("_", 1)[0])
        if number > seen:
            _apply(conn, entry.read_text(encoding="utf-8"))
            do(conn, "INSERT INTO migration (number) VALUES (:number)", number=number)


def _apply(conn: Connection, script: str) -> None:
    text = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    for word, meaning in _DIALECTS[conn.dialect.name].items():
        text = text.replace(word, meaning)
    for statement in text.split(";"):
        if statement.strip():
            conn.exec_driver_sql(statement)
