"""Every page of the console, with rows in it and every form open: nobody meets a barrier, on a desk and on a phone.

One catalog and one Chromium for all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, find_barriers_in_each_look, listening
from tests.support.console_site import ConsoleSite, fill, list_pages


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
def test_no_page_has_a_barrier(site: ConsoleSite, browser: Browser) -> None:
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


def test_the_figures_name_each_sender_and_no_patient(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "viewer", "/figures")
    text = page.locator("main").inner_text()
    assert "CT1" in text
    assert "100" in text
    assert "Alice" not in text
    assert page.locator("section[aria-label=Trend] svg").count() == 6
    page.context.close()


def test_a_study_is_held_and_released_on_its_page(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator", "/studies/1")
    page.get_by_text("Place this study under a legal hold").click()
    section = page.locator("section[aria-labelledby=hold]")
    section.get_by_label("Reason").fill("case 18/443")
    section.get_by_role("button").click()
    expect(section).to_contain_text("case 18/443")
    page.get_by_text("Release this study").click()
    section.get_by_label("Reason").fill("case closed")
    section.get_by_role("button").click()
    expect(section).to_contain_text("case closed")
    assert [(each[0], each[1]) for each in site.ledger("legal-release")] == [("operator", 1)]
    page.context.close()


def test_what_is_to_come_is_announced_by_a_form(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator", "/equipment")
    form = page.locator("section[aria-labelledby=announce] form")
    form.get_by_label("From (date)").fill("2027-02-01")
    form.get_by_label("Adds").fill("200GB/month")
    form.get_by_label("Text").fill("a third CT")
    form.get_by_role("button").click()
    expect(page.locator("section[aria-labelledby=announced]")).to_contain_text("a third CT")
    page.context.close()
