"""In a browser: the figures, a legal hold and an announcement, as the person works who must answer for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import chromium, listening
from tests.support.clinic import Clinic, signed_in
from tests.support.peers import wait_until


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with ExitStack() as stack:
        clinic = Clinic(tmp_path_factory.mktemp("clinic"), stack)
        clinic.send(2, PatientName="Alphafink^Anna", StudyDescription="KNEE", AccessionNumber="B7")
        yield clinic


@pytest.fixture(scope="module")
def page(clinic: Clinic) -> Iterator[Page]:
    with chromium() as browser:
        yield _signed_in(browser, clinic)


def _signed_in(browser: Browser, clinic: Clinic) -> Page:
    found = signed_in(browser, clinic, "operator")
    listening(found)
    return found


def test_the_figures_have_each_sender_and_no_patient(clinic: Clinic, page: Page) -> None:
    def is_counted() -> bool:
        page.goto(clinic.edge.url("/figures"))
        return page.locator("tbody tr").count() > 0

    wait_until(is_counted, 120, "what came is counted")
    text = page.locator("main").inner_text()
    assert "100" in text
    assert "Alphafink" not in text
    assert page.locator("section[aria-label=Trend] svg").count() == 6


def test_a_study_is_held_and_released_on_its_page(clinic: Clinic, page: Page) -> None:
    page.goto(clinic.edge.url("/studies/1"))
    page.get_by_text("Place this study under a legal hold").click()
    form = page.locator("section[aria-labelledby=hold] form")
    form.get_by_label("Reason").fill("case 17/442")
    form.get_by_role("button").click()
    section = page.locator("section[aria-labelledby=hold]")
    expect(section).to_contain_text("case 17/442")
    page.get_by_text("Release this study").click()
    form.get_by_label("Reason").fill("case closed")
    form.get_by_role("button").click()
    expect(section).to_contain_text("case closed")
    assert [len(clinic.ledger(each)) for each in ("legal-hold", "legal-release")] == [1, 1]


def test_what_is_to_come_is_announced_by_a_form(clinic: Clinic, page: Page) -> None:
    page.goto(clinic.edge.url("/equipment"))
    form = page.locator("section[aria-labelledby=announce] form")
    form.get_by_label("From (date)").fill("2027-02-01")
    form.get_by_label("Adds").fill("200GB/month")
    form.get_by_label("Text").fill("a second CT")
    form.get_by_role("button").click()
    expect(page.locator("section[aria-labelledby=announced]")).to_contain_text("a second CT")
