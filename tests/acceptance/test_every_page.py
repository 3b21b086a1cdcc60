"""Every page of the console and of the centre, with rows in it and every form open: nobody meets a barrier, on a desk
and on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from edge.central.app import PLACES
from edge.central.reports import QUESTIONS
from tests.central.test_central_pages import beat, open_office, sign_in
from tests.console.test_lists import crowd
from tests.support.browser import chromium, find_barriers, find_barriers_in_each_look, keep_picture, listening
from tests.support.console_site import ConsoleSite, fill, list_pages

#: Every address of the centre that shows a page.
PAGES = (
    *(entry.path for group in PLACES for entry in group.entries),
    *(f"/ask/{name}" for name in QUESTIONS if f"/ask/{name}" not in str(PLACES)),
    "/site/1",
    "/site/2?over=year",
    "/site/3",
    "/incidents?show=all",
    "/incidents/1",
    "/sites?q=1&sort=used&down=1",
    "/trends?over=year",
    "/password",
    "/help/guide/see-the-month",
    "/nowhere",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        fill(made)
        yield made


@pytest.mark.slow
def test_no_page_of_the_console_has_a_barrier(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "admin")
    heard, faults, empty = listening(page), {}, []
    for path in list_pages(site):
        page.goto(site.url + path)
        faults[path] = find_barriers_in_each_look(page, "console", path)
        if page.locator("p.empty").count() and not page.locator("tbody tr").count():
            empty.append(path)
    assert not [f"{path}: {each}" for path, found in faults.items() for each in found]
    assert not [path for path in empty if not path.startswith("/report")]  # what is empty is not judged
    assert not [each for each in heard if "404" not in each]
    page.context.close()


@pytest.mark.slow
def test_no_long_list_has_a_barrier(site: ConsoleSite, browser: Browser) -> None:
    crowd(site)
    for path, theme, width in (("/steps?sort=begun&page=2", "light", 1440), ("/hl7?state=applied", "dark", 390)):
        size = {"width": width, "height": 900}
        # its query survives the sign-in
        page = site.open(browser, "operator", path, viewport=size, color_scheme=theme, reduced_motion="reduce")
        assert find_barriers(page) == []
        keep_picture(page, f"lists-{width}", path.partition("?")[0])
        page.context.close()


@pytest.mark.slow
def test_no_page_of_the_centre_has_a_barrier(tmp_path: Path, browser: Browser) -> None:
    """An incident has passed, another goes on, and one site has never been heard of."""
    with open_office(tmp_path) as central:
        beat(central, "1", 1, 1.0)
        beat(central, "2", 1, 60.0)
        page = sign_in(browser, central)
        heard, faults = listening(page), {}
        expect(page.locator("h1")).to_have_text("2 of 3 sites in trouble, 1 of them silent", timeout=60_000)
        page.get_by_role("link", name="incident 1").click()
        page.get_by_role("textbox", name="Note").fill("called the clinic")
        page.get_by_role("button", name="Acknowledge").click()
        beat(central, "1", 2, 3600.0)
        for path in PAGES:
            page.goto(central.url + path)
            faults[path] = find_barriers_in_each_look(page, "central", path)
        page.context.close()
    assert not [f"{path}: {each}" for path, found in faults.items() for each in found]
    assert not [each for each in heard if "404" not in each]
