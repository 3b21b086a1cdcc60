"""A list of the catalog: its order, its parts, what is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from edge.store.listing import Listing, ListPart, ListSql

SQL = ListSql("id, name", "FROM thing", "id DESC", {"name": ("name",), "size": ("size", "lower(name)")})
#: id, name, size: equal in some, unknown in others.
THINGS = [(1, "b", 2), (2, "", 1), (3, "a", 2), (4, "B", None), (5, "a", 1)]


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:")
    made.row_factory = sqlite3.Row
    made.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER)")
    made.executemany("INSERT INTO thing VALUES (?, ?, ?)", THINGS)
    yield made
    made.close()


def listing(conn: sqlite3.Connection, least: int = 0) -> Listing[int]:
    return Listing(conn, SQL, lambda row: int(row[0]), {"size >= :least": least}, {"least": least})


@pytest.mark.parametrize(
    ("sort", "descending", "ids"),
    [
        ("", False, [5, 4, 3, 2, 1]),
        ("", True, [5, 4, 3, 2, 1]),  # a list's own order has one way
        ("password", False, [5, 4, 3, 2, 1]),
        ("name", False, [4, 5, 3, 1, 2]),  # the empty one last, equal ones in the list's own order
        ("name", True, [1, 5, 3, 4, 2]),
        ("size", False, [2, 5, 3, 1, 4]),
        ("size", True, [1, 3, 5, 2, 4]),
    ],
)
def test_rows_are_sorted_and_what_is_unknown_is_last(
    conn: sqlite3.Connection, sort: str, descending: bool, ids: list[int]
) -> None:
    assert listing(conn).read(ListPart(sort=sort, descending=descending)) == ids
    parts = [listing(conn).read(ListPart(2, skip, sort, descending)) for skip in (0, 2, 4, 6)]
    assert [each for part in parts for each in part] == ids
    assert [len(part) for part in parts] == [2, 2, 1, 0]


def test_a_condition_narrows_what_is_read_and_counted(conn: sqlite3.Connection) -> None:
    assert listing(conn, least=2).read() == [3, 1]
    assert (listing(conn, least=2).count(), listing(conn).count()) == (2, 5)
