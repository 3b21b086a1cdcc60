"""How a list is shown: its order, its page, its filters. A session remembers them for each list."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from edge.web.guard import visitor_of

ROWS = 50
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListView:
    """What a person has chosen for one list."""

    path: str
    sort: str = ""  # a column; empty: the list's own order
    descending: bool = False
    page: int = 1
    filters: Mapping[str, str] = field(default_factory=dict)

    def link(self, **changes: Any) -> str:
        """Return the address of this list with something else chosen."""
        chosen: dict[str, Any] = {"sort": self.sort, "down": "1" if self.descending else "", "page": self.page}
        chosen |= {**self.filters, **changes}
        if chosen["page"] == 1:
            del chosen["page"]
        return f"{self.path}?{urlencode({key: value for key, value in chosen.items() if value or key in changes})}"

    def sort_link(self, column: str) -> str:
        """Return the address for a click on a column's head: sorted by it, and then the other way round."""
        turned = self.sort == column and not self.descending
        return self.link(sort=column, down="1" if turned else "", page=1)

    def sorted_how(self, column: str) -> str:
        """Return the value of aria-sort."""
        if self.sort != column:
            return "none"
        return "descending" if self.descending else "ascending"


def read_view(request: Request, path: str, columns: Collection[str], filters: Collection[str]) -> ListView:
    """Read the choice from the address; an address without one gets what the session remembers."""
    query, visitor = request.query_params, visitor_of(request)
    remembered = visitor.session.kept if visitor.session else {}
    key = f"list {path}"
    if not query and isinstance(kept := remembered.get(key), ListView):
        return kept
    page = query.get("page", "1")
    view = ListView(
        path,
        query.get("sort", "") if query.get("sort") in columns else "",
        bool(query.get("down")),
        max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        {name: query[name][:64] for name in filters if name in query},
    )
    if visitor.session is not None:
        visitor.session.kept[key] = view
    return view


@dataclass(frozen=True, slots=True)
class ListPage(Generic[T]):
    """The rows of one page, and how many there are."""

    rows: Sequence[T]
    page: int
    pages: int
    total: int

    @property
    def first(self) -> int:
        return (self.page - 1) * ROWS + 1 if self.total else 0


def cut_page(rows: Sequence[T], view: ListView, keys: Mapping[str, Callable[[T], Any]]) -> ListPage[T]:
    """Sort rows as chosen, and cut the page out; a page behind the last is the last."""
    if view.sort in keys:
        rows = sorted(rows, key=keys[view.sort], reverse=view.descending)
    pages = max(1, -(-len(rows) // ROWS))
    page = min(view.page, pages)
    return ListPage(rows[(page - 1) * ROWS : page * ROWS], page, pages, len(rows))
