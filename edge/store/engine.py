"""The store on SQLAlchemy's asyncio engines: aiosqlite (WAL, one file) or psycopg, by the same SQL. The centre's.

`read` gives one consistent view, `write` one transaction that is durable when it returns. The work is a synchronous
function of a transaction: the verbs of a site and of the centre are the same. It runs on the loop, which serves others
at each statement; what computes for long belongs behind the read. On SQLite a writer waits up to ten seconds for
another one; on PostgreSQL the two do not meet. Raises StoreError: the database is away, full, or refuses.

The gateway has no SQLAlchemy and must not import this module: see edge.store.database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, RowMapping, TextClause, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from edge.errors import Hindered
from edge.store.sqlite_file import migrations

__all__ = [
    "EngineError",
    "EngineStore",
    "EngineTransaction",
    "Row",
    "StoreError",
    "ThreadStore",
    "Unstorable",
    "do",
    "do_many",
    "find_value",
    "first",
    "open_engine",
    "prepare",
    "rows",
    "update_row",
    "value",
]

T = TypeVar("T")
Row = RowMapping
#: What a statement raises inside a transaction; where the transaction ends it becomes a StoreError.
EngineError = SQLAlchemyError

#: What transactions that are under way get at the end.
CLOSE_SECONDS = 10.0

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_DIALECTS = {
    "sqlite": {"$ID": "INTEGER PRIMARY KEY", "$CLUSTERED": "WITHOUT ROWID"},
    "postgresql": {"$ID": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "$CLUSTERED": ""},
}
#: Two services that start together must not both migrate (pg_advisory_xact_lock).
_MIGRATION_LOCK = 0x45444745


class StoreError(Hindered):
    """The database could not be read or written."""


class Unstorable(StoreError):
    """The database is there, and does not take this: a value that is too great for its column, or the like."""


class EngineTransaction:
    """One transaction, by SQL with named parameters; as edge.store.transaction says."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None, /) -> CursorResult[Any]:
        return self.conn.execute(_statement(sql), parameters or {})

    def executemany(self, sql: str, parameters: Sequence[Mapping[str, Any]], /) -> None:
        """The same statement for each; for none, nothing."""
        if parameters:
            self.conn.execute(_statement(sql), parameters)

    def savepoint(self) -> AbstractContextManager[object]:
        """What the block has done is undone alone when the block raises."""
        return self.conn.begin_nested()


class EngineStore:
    """The open database, for the coroutines of one loop; ThreadStore is for threads."""

    def __init__(self, url: str) -> None:
        """`url`: sqlite:///PATH or postgresql://HOST/DATABASE."""
        named = make_url(url)
        self.kind = named.get_backend_name()
        if self.kind == "sqlite":
            self.path: Path | None = Path(str(named.database))
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            more: dict[str, Any] = {"connect_args": {"timeout": 10.0}}
            view: dict[str, Any] = {}
        else:
            self.path = None
            more = {"pool_pre_ping": True, "pool_size": 8, "connect_args": {"connect_timeout": 10}}
            view = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._engine = create_async_engine(named.set(drivername=_DRIVERS[self.kind]), **more)
        prepare(self._engine.sync_engine)
        self._readers = self._engine.execution_options(**view)
        self._writers = self._engine.execution_options(writes=True)
        self._under_way: set[asyncio.Task[Any]] = set()

    async def read(self, work: Callable[[EngineTransaction], T]) -> T:
        """What `work` finds in one consistent view of everything."""
        return await self._finish(self._transact(self._readers.connect(), work))

    async def write(self, work: Callable[[EngineTransaction], T]) -> T:
        """Run `work` in a transaction and return its result once that is durable; rolled back when it raises."""
        return await self._finish(self._transact(self._writers.begin(), work))

    async def _transact(
        self, begun: AbstractAsyncContextManager[AsyncConnection], work: Callable[[EngineTransaction], T]
    ) -> T:
        with _errors_in_words():
            async with begun as conn:
                return await conn.run_sync(lambda each: work(EngineTransaction(each)))

    async def _finish(self, transaction: Coroutine[Any, Any, T]) -> T:
        """Finish a transaction though its caller goes away: nobody would know what a connection is in."""
        task = asyncio.create_task(transaction)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def write_together(self, works: Sequence[Callable[[EngineTransaction], Any]]) -> list[Any]:
        """All in one transaction; where one of them fails, each in its own. The result of each, or its exception.

        A database that is away is away for all of them.
        """
        try:
            return await self.write(lambda conn: [work(conn) for work in works])
        except Exception as error:  # noqa: BLE001 - handed to the one whose work it is
            if isinstance(error, StoreError) and not isinstance(error, Unstorable):
                return [error] * len(works)
            if len(works) == 1:
                return [error]
        return [result for work in works for result in await self.write_together([work])]

    async def close(self) -> None:
        """Close every connection, once those in use are given back, within CLOSE_SECONDS."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=CLOSE_SECONDS)
        await self._engine.dispose()


@asynccontextmanager
async def open_engine(url: str, package: str) -> AsyncIterator[EngineStore]:
    """The database with the migrations of a package, which it gets where it has not seen them. Raises StoreError."""
    store = EngineStore(url)
    try:
        await store.write(lambda transaction: _migrate(transaction.conn, package))
        yield store
    finally:
        await store.close()


class ThreadStore:
    """A store for threads beside its loop: each call waits for the loop, which therefore must not make one."""

    def __init__(self, store: EngineStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop

    def read(self, work: Callable[[EngineTransaction], T]) -> T:
        """See EngineStore.read."""
        return asyncio.run_coroutine_threadsafe(self._store.read(work), self._loop).result()

    def write(self, work: Callable[[EngineTransaction], T]) -> T:
        """See EngineStore.write."""
        return asyncio.run_coroutine_threadsafe(self._store.write(work), self._loop).result()


def rows(conn: EngineTransaction, sql: str, **parameters: object) -> Sequence[Row]:
    """All rows of a query."""
    return conn.execute(sql, parameters).mappings().all()


def first(conn: EngineTransaction, sql: str, **parameters: object) -> Row | None:
    """The first row, or None."""
    return conn.execute(sql, parameters).mappings().first()


def value(conn: EngineTransaction, sql: str, **parameters: object) -> Any:
    """The first column of the first row, or None."""
    return conn.execute(sql, parameters).scalar()


def find_value(conn: EngineTransaction, sql: str, kind: type[T], /, **parameters: object) -> T | None:
    """The same as this type, or None."""
    found = value(conn, sql, **parameters)
    return None if found is None else kind(found)  # type: ignore[call-arg]


def do(conn: EngineTransaction, sql: str, **parameters: object) -> int:
    """Change something; how many rows it was."""
    return conn.execute(sql, parameters).rowcount


def update_row(conn: EngineTransaction, table: str, key: int | str, **columns: object) -> int:
    """Set some columns of the row with this `id`; how many rows it was."""
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    return do(conn, f"UPDATE {table} SET {changes} WHERE id = :id", id=key, **columns)


def do_many(conn: EngineTransaction, sql: str, parameters: Sequence[Mapping[str, Any]]) -> None:
    """The same change for each."""
    conn.executemany(sql, parameters)


@cache
def _statement(sql: str) -> TextClause:
    """Our statements are constants: each is prepared once."""
    return text(sql)


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The driver's own words, without the statement and its parameters.
        cause = getattr(error, "orig", None) or error
        kind = Unstorable if isinstance(error, (DataError, IntegrityError)) else StoreError
        raise kind(
            f"the central database: {next(iter(str(cause).strip().splitlines()), type(cause).__name__)}"
        ) from error


def prepare(engine: Engine) -> None:
    """What each connection to SQLite is set to, and how its transactions begin; nothing for PostgreSQL."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writes") else "BEGIN")


def _migrate(conn: Connection, package: str) -> None:
    """Apply every numbered file that this database has not seen; the caller's transaction has all of them, or none."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    conn.execute(text("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY)"))
    seen = conn.execute(text("SELECT max(number) FROM migration")).scalar() or 0
    for number, script in migrations(package).items():
        if number > seen:
            _apply(conn, script)
            conn.execute(text("INSERT INTO migration (number) VALUES (:number)"), {"number": number})


def _apply(conn: Connection, script: str) -> None:
    sql = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    for word, meaning in _DIALECTS[conn.dialect.name].items():
        sql = sql.replace(word, meaning)
    for statement in sql.split(";"):
        if statement.strip():
            conn.exec_driver_sql(statement)
