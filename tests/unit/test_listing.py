"""A long table in parts: what a URL asks for, and what it is shown."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest

from edge.central.incident_pages import INCIDENT_SORT_KEYS
from edge.store.listing import Listing, ListPart
from edge.web.listing import ListView, cut_page, filter_rows, parse_view, read_list_page

SITES: list[dict[str, Any]] = [{"id": f"{n:04d}", "used": None if n == 3 else n % 7 / 10} for n in range(250)]


def show(**query: str) -> Any:
    view = parse_view("/sites", query, ("id", "used"), ("tag",), sort="id")
    rows = filter_rows(SITES, view.wanted, lambda row: row["id"])
    return cut_page(rows, view, {"id": itemgetter("id"), "used": itemgetter("used")}, 100)


def link(**query: str) -> ListView:
    return parse_view("/sites", query, ("id", "used"), ("tag",), sort="id")


def test_the_first_part_is_sorted_by_the_first_column() -> None:
    found = show()
    assert [each["id"] for each in found.rows][:2] == ["0000", "0001"]
    assert (len(found.rows), found.total, found.pages, found.first) == (100, 250, 3, 1)


def test_what_is_unknown_comes_last_whichever_way_it_is_sorted() -> None:
    for down in ("", "1"):
        last = show(sort="used", down=down, page="3").rows[-1]
        assert last["id"] == "0003"
    assert show(sort="used", down="1").rows[0]["used"] == 0.6


@pytest.mark.parametrize("page", ["0", "-1", "x", "9999999", "\u0661"])
def test_a_page_that_is_none_is_the_first(page: str) -> None:
    assert show(page=page).page == 1


def test_a_page_beyond_the_end_is_the_last() -> None:
    assert show(page="99").page == 3


def test_a_word_filters_and_stays_in_every_address() -> None:
    query = {"q": "024", "tag": "pilot", "sort": "used", "down": "1"}
    assert show(**query).total == 11  # 0024, and 0240 to 0249
    view = link(**query)
    assert view.sort_link("id") == "/sites?q=024&sort=id&down=&tag=pilot"
    assert view.sort_link("used") == "/sites?q=024&sort=used&down=&tag=pilot"
    assert view.link(page=2) == "/sites?q=024&sort=used&down=1&page=2&tag=pilot"
    assert (view.aria_sort("used"), view.aria_sort("id")) == ("descending", "none")


def test_a_click_on_a_head_sorts_and_the_next_turns_it_round() -> None:
    assert ListView("/x").sort_link("a") == "/x?sort=a&down="
    assert ListView("/x", "a").sort_link("a") == "/x?sort=a&down=1"
    assert ListView("/x", "a", descending=True).sort_link("a") == "/x?sort=a&down="


def test_a_column_that_is_not_there_sorts_nothing() -> None:
    assert link(sort="password").sort == "id"


class Counted(Listing[int]):
    """A list of numbers that notes whether it was counted."""

    def __init__(self, total: int) -> None:
        self.total, self.counts = total, 0

    def count(self) -> int:
        self.counts += 1
        return self.total

    def read(self, part: ListPart = ListPart()) -> list[int]:  # noqa: B008 - it cannot be changed
        return list(range(self.total))[part.skip : part.skip + part.limit]


@pytest.mark.parametrize(
    ("total", "page", "rows", "shown", "counts"),
    [
        (0, 1, [], 1, 0),
        (2, 1, [0, 1], 1, 0),
        (3, 1, [0, 1, 2], 1, 0),
        (7, 1, [0, 1, 2], 1, 1),
        (7, 2, [3, 4, 5], 2, 1),
        (7, 3, [6], 3, 0),  # its end is seen: nothing is counted
        (7, 9, [6], 3, 1),  # beyond the end: the last page
        (6, 3, [3, 4, 5], 2, 1),
        (0, 9, [], 1, 1),
    ],
)
def test_a_page_of_the_catalog(total: int, page: int, rows: list[int], shown: int, counts: int) -> None:
    listing = Counted(total)
    found = read_list_page(listing, ListView("/x", page=page), 3)
    assert (found.rows, found.page, found.total, listing.counts) == (rows, shown, total, counts)
    assert found.pages == max(1, -(-total // 3))
    assert found.first == (rows[0] + 1 if rows else 0)


def test_one_of_several_lists_of_a_page_has_its_name_in_its_address() -> None:
    view = ListView("/hl7", columns=("feed",), name="parked")
    assert view.sort_link("feed") == "/hl7?list=parked&sort=feed&down="
    assert view.link(page=2) == "/hl7?list=parked&page=2"
    assert (view.query, view.link(page=1)) == ("list=parked", "/hl7?list=parked")


def test_incidents_are_sorted_by_how_far_they_went() -> None:
    gone = {
        "acknowledged": (None, 1, None),
        "open": (None, None, None),
        "closed": (3, None, None),
        "escalated": (None, None, 2),
    }
    names = ("closed_at", "acknowledged_at", "escalated_at")
    rows: list[Any] = [{"id": word, **dict(zip(names, times, strict=True))} for word, times in gone.items()]
    found = cut_page(rows, ListView("/incidents", sort="state"), INCIDENT_SORT_KEYS)
    assert [each["id"] for each in found.rows] == ["open", "acknowledged", "escalated", "closed"]
