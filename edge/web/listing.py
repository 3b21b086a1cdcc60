"""Long lists: sorted, filtered and in parts, by the query of the URL. Pure, but for a session's memory.

    ?q=WORD&sort=COLUMN&down=1&page=2

Every part has an address of its own, so that it can be sent to a colleague, and works without a script. Where a page
has several lists, `list=NAME` says which of them an address is about; the others are as the session remembers them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

from edge.store.listing import Listing, ListPart
from edge.web.guard import visitor_of

#: Rows of one page.
ROWS = 50
#: The longest word that is searched for, and the longest value of a filter.
MOST_WORD = 100
#: Columns by which only those sort who see patient data: the order would tell others what is masked.
MASKED_COLUMNS = frozenset({"patient", "accession", "description", "procedure", "date"})
T = TypeVar("T")
S = TypeVar("S")
#: The columns of a list in memory -> what they are sorted by.
SortKeys = Mapping[str, Callable[[T], Any]]


@dataclass(frozen=True, slots=True)
class ListView:
    """What a person has chosen for one list."""

    path: str
    sort: str = ""  # a column; empty: the list's own order
    descending: bool = False
    page: int = 1
    wanted: str = ""  # a word that a row must have
    filters: Mapping[str, str] = field(default_factory=dict)
    columns: Collection[str] = ()  # by which this person may sort it
    name: str = ""  # of one of several lists of a page

    def choice(self, name: str) -> str:
        """Return what a filter asks for; empty: nothing."""
        return self.filters.get(name, "")

    @property
    def query(self) -> str:
        """The query of its address, for a form that comes back to it (`posted_view`)."""
        return self.link().partition("?")[2]

    def link(self, **changes: Any) -> str:
        """Return the address of this list with something else chosen."""
        down = "1" if self.descending else ""
        chosen: dict[str, Any] = {"list": self.name, "q": self.wanted, "sort": self.sort, "down": down}
        chosen |= {"page": self.page, **self.filters, **changes}
        if chosen["page"] == 1:
            del chosen["page"]
        query = urlencode({key: value for key, value in chosen.items() if value or key in changes})
        return f"{self.path}?{query}" if query else self.path

    def sort_link(self, column: str) -> str:
        """Return the address for a click on a column's head: sorted by it, and then the other way round."""
        turned = self.sort == column and not self.descending
        return self.link(sort=column, down="1" if turned else "", page=1)

    def aria_sort(self, column: str) -> str:
        """Return the value of aria-sort."""
        if self.sort != column:
            return "none"
        return "descending" if self.descending else "ascending"


def parse_view(
    path: str, query: Mapping[str, str], columns: Collection[str], filters: Iterable[str] = (), sort: str = ""
) -> ListView:
    """Return what a URL asks for; what it says wrongly is as if it were not there. `sort`: without a word about it."""
    asked, page = query.get("sort", ""), query.get("page", "")
    return ListView(
        path,
        asked if asked in columns else sort,
        bool(query.get("down")),
        max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        query.get("q", "").strip()[:MOST_WORD],
        {name: query[name][:MOST_WORD] for name in filters if name in query},
        columns,
    )


def read_view(
    request: Request, path: str, columns: Collection[str], filters: Collection[str] = (), name: str = ""
) -> ListView:
    """Read the choice from the address; an address that is not about this list gets what the session remembers."""
    visitor, key, query = visitor_of(request), f"list {path} {name}", request.query_params
    session = visitor.session
    columns = [each for each in columns if visitor.sees_patients or each not in MASKED_COLUMNS]
    is_asked = query.get("list", "") == name and query.keys() & {"sort", "down", "page", *filters}
    if not is_asked and session is not None and isinstance(kept := session.kept.get(key), ListView):
        return kept
    view = replace(parse_view(path, query if is_asked else {}, columns, filters), name=name)
    if session is not None:
        session.kept[key] = view
    return view


def posted_view(request: Request, path: str, columns: Collection[str], filters: Collection[str] = ()) -> ListView:
    """Read the choice from the field `back` of a form that stood on the list."""
    return parse_view(path, dict(parse_qsl(visitor_of(request).field("back"))), columns, filters)


@dataclass(frozen=True, slots=True)
class ListPage(Generic[T]):
    """The rows of one page, and how many there are."""

    rows: Sequence[T]
    page: int
    pages: int
    total: int
    first: int  # the number of the first row shown, from 1 on; 0: there is none

    def map(self, change: Callable[[T], S]) -> ListPage[S]:
        """Return the page with each row changed, such as masked."""
        return ListPage([change(each) for each in self.rows], self.page, self.pages, self.total, self.first)


def filter_rows(rows: Iterable[T], word: str, text: Callable[[T], str]) -> list[T]:
    """List the rows in whose text a word is, in any case; without a word all of them."""
    folded = word.casefold()
    return [each for each in rows if not folded or folded in text(each).casefold()]


def cut_page(rows: Sequence[T], view: ListView, keys: SortKeys[T], size: int = ROWS) -> ListPage[T]:
    """Sort rows by the chosen column, what is unknown last, and cut the page out; the last one at most.

    It is for rows that are in memory; `read_list_page` is for those of the catalog.
    """
    if key := keys.get(view.sort):
        known = [each for each in rows if key(each) not in (None, "")]
        unknown = [each for each in rows if key(each) in (None, "")]
        known.sort(key=lambda each: _comparable(key(each)), reverse=view.descending)
        rows = [*known, *unknown]
    pages, page, skip = _place(view, len(rows), size)
    return ListPage(rows[skip : skip + size], page, pages, len(rows), skip + 1 if rows else 0)


def read_list_page(listing: Listing[T], view: ListView, size: int = ROWS) -> ListPage[T]:
    """Read one page from the catalog, the last one at most. They are counted where there are more of them."""
    part = ListPart(size + 1, (view.page - 1) * size, view.sort, view.descending)
    rows = listing.read(part)
    is_end = len(rows) <= size and (rows or not part.skip)
    total = part.skip + len(rows) if is_end else listing.count()
    pages, page, skip = _place(view, total, size)
    if page != view.page:
        rows = listing.read(replace(part, skip=skip))
    return ListPage(rows[:size], page, pages, total, skip + 1 if total else 0)


def _place(view: ListView, total: int, size: int) -> tuple[int, int, int]:
    """Return (pages, the page shown, rows before it)."""
    pages = max(1, -(-total // size))
    page = min(view.page, pages)
    return pages, page, (page - 1) * size


def _comparable(value: Any) -> tuple[int, Any]:
    if isinstance(value, tuple):
        return 2, tuple(map(_comparable, value))
    return (0, value) if isinstance(value, (int, float)) else (1, str(value).casefold())
