"""The interface of a transaction for verbs that run on SQLite and PostgreSQL: SQL with named parameters.

`sqlite3.Connection` is one, and so is `edge.store.engine.EngineTransaction`. Such verbs read columns by position, in
the order of their SELECT, and use only what both databases understand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Result(Protocol):
    """The rows of a query, or the count of what a statement changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class AnyTransaction(Protocol):
    """One transaction of either store."""

    def execute(self, sql: str, parameters: Mapping[str, Any] = ..., /) -> Result: ...

    def executemany(self, sql: str, parameters: Sequence[Mapping[str, Any]], /) -> object: ...


class AnyStore(Protocol):
    """A site's store or the centre's, as far as what they share needs one. Raises EdgeError."""

    def read(self, work: Callable[[Any], T]) -> T:
        """What `work` finds in one consistent view."""

    def write(self, work: Callable[[Any], T]) -> T:
        """Run `work` in a transaction; return its result once that is durable."""
