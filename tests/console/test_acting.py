"""A person acts where the trouble is: forms that stay, alerts with buttons, the queue by study, dates in a search."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

import pytest
from playwright.sync_api import Browser, Page, expect

from edge.console.dates import DateFault, parse_range, read_dates
from tests.support.browser import chromium, listening
from tests.support.clinic import csrf
from tests.support.console_site import ConsoleSite

TODAY = date(2026, 11, 28)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        made.receive(5, PatientName="Zebrafink^Zoe", PatientID="P00CANARY", AccessionNumber="ACC00CANARY")
        made.receive(1, PatientName="Alphafink^Anna", StudyDescription="KNEE", AccessionNumber="B7")
        made.send()
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


# -- dates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-11-21", (2026, 11, 21), (2026, 11, 21)),
        ("20261121", (2026, 11, 21), (2026, 11, 21)),
        ("2026/1/2", (2026, 1, 2), (2026, 1, 2)),
        ("21.11.2026", (2026, 11, 21), (2026, 11, 21)),
        ("3.4.2026", (2026, 4, 3), (2026, 4, 3)),
        ("21/11/2026", (2026, 11, 21), (2026, 11, 21)),
        ("11/21/2026", (2026, 11, 21), (2026, 11, 21)),
        ("5/5/2026", (2026, 5, 5), (2026, 5, 5)),
        ("21 Nov 2026", (2026, 11, 21), (2026, 11, 21)),
        ("21st November, 2026", (2026, 11, 21), (2026, 11, 21)),
        ("21NOV2026", (2026, 11, 21), (2026, 11, 21)),
        ("Nov 21, 2026", (2026, 11, 21), (2026, 11, 21)),
        ("sept 2026", (2026, 9, 1), (2026, 9, 30)),
        ("2024-02", (2024, 2, 1), (2024, 2, 29)),
        ("2026", (2026, 1, 1), (2026, 12, 31)),
        ("today", (2026, 11, 28), (2026, 11, 28)),
        ("Yesterday", (2026, 11, 27), (2026, 11, 27)),
        ("last 7 days", (2026, 11, 21), (2026, 11, 28)),
        ("2w", (2026, 11, 14), (2026, 11, 28)),
    ],
)
def test_a_date_as_people_write_it(text: str, first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    assert parse_range(text, TODAY) == (date(*first), date(*last))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5/6/2026", "two dates: write 2026-06-05 or 2026-05-06"),
        ("31.2.2026", "no date of the calendar"),
        ("13/13/2026", "no date of the calendar"),
        ("soon", "no date that can be read"),
        ("3 Foo 2026", "names no month"),
        ("0000-01-01", "no date of the calendar"),
    ],
)
def test_what_is_no_date_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(DateFault, match=re.escape(says)):
        parse_range(text, TODAY)


def test_one_date_that_is_a_range_is_both_ends() -> None:
    assert read_dates("Nov 2026", "", TODAY) == {"date_from": "20261101", "date_to": "20261130"}
    assert read_dates("1.11.2026", "", TODAY) == {"date_from": "20261101", "date_to": ""}
    with pytest.raises(DateFault, match="is after"):
        read_dates("today", "yesterday", TODAY)


def test_a_search_says_what_cannot_be_read_and_what_nothing_fits(site: ConsoleSite) -> None:
    operator = site.person("operator")

    def search(**given: str) -> str:
        return operator.post("/studies/search", data={"csrf": csrf(operator, "/studies"), **given}).text

    assert 'href="/studies/1"' in search(date_from="1 January 2026", date_to="2/1/2026".replace("2/1", "31/01"))
    assert "can be two dates" in search(date_from="2/1/2026")
    assert 'value="2/1/2026"' in search(date_from="2/1/2026")  # what was typed is not lost
    said = search(patient_name="nobody", date_from="Nov 2020")
    assert "No study fits name &#34;nobody&#34; and study date from 2020-11-01 and study date to 2020-11-30" in said
    assert 'value="Nov 2020"' in said
    search()


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_list_is_sorted_and_remembers_it(site: ConsoleSite) -> None:
    operator = site.person("operator")

    def names(path: str) -> list[str]:
        return re.findall(r'<th scope="row"><a href="/studies/\d+">([A-Z]\w+)', operator.get(path).text)

    assert names("/studies?sort=patient&down=") == ["Alphafink", "Zebrafink"]
    assert names("/studies?sort=patient&down=1") == ["Zebrafink", "Alphafink"]
    assert names("/studies") == ["Zebrafink", "Alphafink"]
    assert 'aria-sort="descending"' in operator.get("/studies").text
    assert names("/studies?sort=received&down=1") == ["Alphafink", "Zebrafink"]
    assert names("/studies?page=9") == ["Alphafink", "Zebrafink"]  # the last page there is
    viewer = site.person("viewer")
    assert 'sort=patient"' not in viewer.get("/studies").text
    assert 'aria-sort="ascending"' not in viewer.get("/studies?sort=patient").text


# -- in the browser ----------------------------------------------------------------------------------------------------


def _out(site: ConsoleSite, page: Page) -> None:
    """The archive is away, and two studies wait for it."""
    site.receive(3, PatientName="Zebrafink^Zoe", StudyDescription="ABDOMEN")
    site.receive(1, PatientName="Alphafink^Anna", StudyDescription="HAND", AccessionNumber="B8")
    site.lose("archive")
    page.goto(f"{site.url}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Archive does not answer.")


def _refreshed(page: Page) -> None:
    """The page has replaced itself twice."""
    for _ in range(2):
        with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
            pass
    page.wait_for_timeout(100)


def test_a_form_stays_open_with_what_was_typed(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator")
    heard = listening(page)
    _out(site, page)
    alert = page.locator("#alert-destination-down-archive")
    alert.get_by_text("Acknowledge").first.click()
    note = alert.get_by_label("Note")
    note.fill("the line is cut, ")
    page.get_by_role("heading", level=1).click()  # the focus is elsewhere
    _refreshed(page)
    expect(note).to_have_value("the line is cut, ")
    note.focus()
    note.press("End")
    page.keyboard.type("and the carrier knows")
    _refreshed(page)
    expect(note).to_be_focused()
    site.find_again("archive")
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well.", timeout=30_000)
    expect(note).to_have_value("the line is cut, and the carrier knows")  # still there, and said to be over
    expect(page.get_by_text("This alert is over.")).to_be_visible()
    alert.get_by_text("Acknowledge").first.click()
    expect(alert).to_have_count(0)
    assert not heard


def test_an_alert_is_acted_upon_where_it_stands(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator")
    heard = listening(page)
    _out(site, page)
    try:
        alert = page.locator("#alert-destination-down-archive")
        expect(alert.get_by_role("link", name="Its queue")).to_have_attribute("href", "/queue?destination=archive")
        alert.locator("summary", has_text="Try it now").press("Enter")
        alert.get_by_label("Reason").fill("the archive was restarted")
        alert.get_by_label("Reason").press("Enter")
        expect(page.get_by_role("status")).to_contain_text("archive is tried at once")
        acts = {(who, to, text) for who, _, to, text in site.ledger("overridden")}
        assert ("operator", "archive", "tried at once: the archive was restarted") in acts
        viewer = site.person("viewer")
        assert "Its queue" in viewer.get("/").text
        assert "/alerts/act" not in viewer.get("/").text
        given = {"csrf": csrf(viewer, "/password"), "id": "1", "action": "try", "reason": "x"}
        assert viewer.post("/alerts/act", data=given).status_code == 403
    finally:
        site.find_again("archive")
    operator = site.person("operator")
    given = {"csrf": csrf(operator, "/"), "id": "1", "action": "try", "reason": "x"}
    assert "This alert is over." in operator.post("/alerts/act", data=given).text
    assert "Give a reason" in operator.post("/alerts/act", data={**given, "reason": " "}).text
    assert not heard


def test_the_queue_is_one_line_a_study(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator")
    _out(site, page)
    try:
        page.goto(f"{site.url}/queue?state=")
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.filter(has_text="Zebrafink Zoe")).to_contain_text("ABDOMEN")
        expect(rows.filter(has_text="Zebrafink Zoe")).to_contain_text("0 of 3")
        expect(rows.filter(has_text="Alphafink Anna")).to_contain_text("B8")
        expect(rows.filter(has_text="Alphafink Anna")).to_contain_text("when it answers")
        page.get_by_role("link", name="Patient", exact=True).click()
        expect(rows.first).to_contain_text("Alphafink")
        page.get_by_role("link", name="Patient", exact=True).click()
        expect(rows.first).to_contain_text("Zebrafink")
        page.goto(f"{site.url}/queue")  # it is remembered
        expect(rows.first).to_contain_text("Zebrafink")
        viewer = site.person("viewer").get("/queue?state=").text
        assert "Alphafink" not in viewer
        assert "B8" not in viewer
        assert "0 of 3" in viewer
    finally:
        site.find_again("archive")
        page.close()


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
    form.get_by_label("Adds").fill("much")
    form.get_by_label("Text").fill("a third CT")
    form.get_by_role("button").click()
    expect(page.get_by_text('found "much"')).to_be_visible()
    expect(form.get_by_label("Text")).to_have_value("a third CT")
    form.get_by_label("Adds").fill("200GB/month")
    form.get_by_role("button").click()
    expect(page.locator("section[aria-labelledby=announced]")).to_contain_text("a third CT")
    page.context.close()
