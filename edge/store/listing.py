"""Lists for people: rows in one order or another, a part at a time, and how many there are. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from edge.store.database import CatalogRow, Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListPart:
    """Which rows of a list are read."""

    limit: int = 50
    skip: int = 0
    sort: str = ""  # a column; empty: the list's own order
    descending: bool = False


_FIRST = ListPart()


@dataclass(frozen=True, slots=True)
class ListSql:
    """The SQL of a list."""

    columns: str
    source: str  # FROM, with its joins
    usual: str  # the list's own order, and that of rows which are equal in a column; no two rows are equal in it
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column -> what it is sorted by

    def order_by(self, part: ListPart) -> str:
        """Return the terms of ORDER BY; what is unknown comes last whichever way a column is sorted."""
        if part.sort not in self.orders:
            return self.usual
        first, *others = self.orders[part.sort]
        way = " DESC" if part.descending else ""
        return ", ".join([f"coalesce({first}, '') = ''", *(f"{each}{way}" for each in (first, *others)), self.usual])


class Listing(Generic[T]):
    """A list as it is narrowed, of which parts are read. It is of no use after its transaction."""

    def __init__(
        self,
        conn: Transaction,
        sql: ListSql,
        make: Callable[[CatalogRow], T],
        conditions: Mapping[str, object] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """`conditions`: SQL -> whether it counts; `values`: of the named parameters."""
        self._conn, self._sql, self._make, self._values = conn, sql, make, dict(values or {})
        chosen = [each for each, counts in (conditions or {}).items() if counts]
        self._from = f"{sql.source} WHERE {' AND '.join(chosen)}" if chosen else sql.source

    def count(self) -> int:
        """Count all its rows."""
        return int(self._conn.execute(f"SELECT count(*) {self._from}", self._values).fetchone()[0])

    def read(self, part: ListPart = _FIRST) -> list[T]:
        """Read the rows of a part."""
        rows = self._conn.execute(
            f"SELECT {self._sql.columns} {self._from} ORDER BY {self._sql.order_by(part)}"
            " LIMIT :part_limit OFFSET :part_skip",
            self._values | {"part_limit": part.limit, "part_skip": part.skip},
        ).fetchall()
        return [self._make(row) for row in rows]
