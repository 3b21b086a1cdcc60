"""A long table on a page: sorted, filtered and shown in parts, by the query of its URL. Pure.

    ?q=WORD&sort=COLUMN&order=desc&page=2

Every part has an address of its own, so that it can be sent to a colleague, and works without a script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

T = TypeVar("T")

#: Rows of one part.
PART_ROWS = 100
#: The longest word that is searched for.
MOST_WORD = 100


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """The part of a table that a URL asks for; `rows` and `total` are known once it is filled."""

    path: str
    sort: str
    descending: bool = False
    page: int = 1
    wanted: str = ""
    more: Mapping[str, str] = field(default_factory=dict)  # further filters of the page
    rows: Sequence[T] = ()
    total: int = 0  # rows that fit the filters

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PART_ROWS))

    @property
    def first(self) -> int:
        """The number of the first row shown, from 1 on."""
        return (self.page - 1) * PART_ROWS + 1 if self.total else 0

    def link(self, **changes: Any) -> str:
        """The address of another part of the same table."""
        order = "desc" if self.descending else ""
        given = {"q": self.wanted, "sort": self.sort, "order": order, **self.more, **changes}
        query = urlencode({name: value for name, value in given.items() if value not in ("", None)})
        return f"{self.path}?{query}" if query else self.path

    def sort_link(self, column: str) -> str:
        """The address by which a head of a column sorts; once more turns the order round."""
        turns = column == self.sort and not self.descending
        return self.link(sort=column, order="desc" if turns else "")

    def sorted_how(self, column: str) -> str:
        """`aria-sort` of a column."""
        if column != self.sort:
            return "none"
        return "descending" if self.descending else "ascending"

    def fill(
        self, found: Iterable[T], value: Callable[[T, str], Any], text: Callable[[T], str] = lambda _: ""
    ) -> Listing[T]:
        """Filter by the word in `text`, sort by `value` of the column, what is unknown last, and cut the part out."""
        word = self.wanted.casefold()
        rows = [each for each in found if not word or word in text(each).casefold()]
        known = [each for each in rows if value(each, self.sort) not in (None, "")]
        known.sort(key=lambda each: _comparable(value(each, self.sort)), reverse=self.descending)
        rows = [*known, *(each for each in rows if value(each, self.sort) in (None, ""))]
        page = min(self.page, max(1, -(-len(rows) // PART_ROWS)))
        return replace(self, rows=rows[(page - 1) * PART_ROWS : page * PART_ROWS], total=len(rows), page=page)


def read_listing(
    path: str, query: Mapping[str, str], columns: Iterable[str], sort: str, filters: Iterable[str] = ()
) -> Listing[Any]:
    """What a URL asks for; what it says wrongly is as if it were not there."""
    asked, page = query.get("sort", ""), query.get("page", "")
    known = asked in set(columns)
    return Listing(
        path=path,
        sort=asked if known else sort,
        descending=query.get("order") == "desc",
        page=int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 and int(page) else 1,
        wanted=query.get("q", "").strip()[:MOST_WORD],
        more={name: query[name][:MOST_WORD] for name in filters if query.get(name)},
    )


def _comparable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value).casefold())
