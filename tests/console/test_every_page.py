"""Every page of the console, with rows in it and every form open: nobody meets a barrier, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from edge.web.accounts import UserRole
from tests.support.browser import chromium, find_barriers, keep_picture, listening
from tests.support.console_site import ConsoleSite, fill, list_pages, sign_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        fill(made)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390)])
def test_no_page_has_a_barrier(site: ConsoleSite, browser: Browser, theme: str, width: int) -> None:
    size = {"width": width, "height": 900}
    page = sign_in(browser, site, UserRole.ADMIN, viewport=size, color_scheme=theme, reduced_motion="reduce")
    heard, faults = listening(page), {}
    for path in list_pages(site):
        page.goto(site.url + path)
        faults[path] = find_barriers(page)
        keep_picture(page, f"console-{width}", path)
    assert not {path: found for path, found in faults.items() if found}
    assert not [each for each in heard if "404" not in each]
    page.context.close()


def test_every_page_has_rows(site: ConsoleSite, browser: Browser) -> None:
    """What is empty is not judged above."""
    page = sign_in(browser, site, UserRole.ADMIN)
    empty = []
    for path in list_pages(site):
        page.goto(site.url + path)
        if page.locator("p.empty").count() and not page.locator("tbody tr").count():
            empty.append(path)
    assert empty == []
    page.context.close()
