"""The page of a study says whose it is: as received and as sent, its order, and what went under a former name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, find_barriers
from tests.support.clinic import Clinic, signed_in
from tests.support.hl7 import MllpClient, adt, merge, order
from tests.support.objects import new_uid, rejection_note
from tests.support.peers import REPOSITORY, free_port, storescu, wait_until

PICTURES = REPOSITORY / "build" / "guide"
HL7 = """
[hl7]
port = {hl7}
[feed.his]
hosts = ["127.0.0.1"]
authority = "MTF0067"
[iocm]
senders = ["ct1"]
[coerce.institution]
to = ["archive"]
set = {{ InstitutionName = "Example Health Clinic" }}
"""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Five images went under the old number; an order, a merge and three images with the old number came later."""
    port = free_port()
    with ExitStack() as stack:
        made = Clinic(tmp_path_factory.mktemp("clinic"), stack, HL7.format(hl7=port))
        client = stack.enter_context(MllpClient(port))
        for message in (
            adt("A28", "a1", "PID|1||P00CANARY^^^MTF0067^MR||ZEBRAFINK^ZOE||19700101|O"),
            order("o1", "NW", "77", "T0102"),
            merge("m1", "P00CANARY", "T0102"),
        ):
            assert client.ask(message)[0].code == "AA"
        made.edge.settle()
        made.send(3, StudyInstanceUID=new_uid(), AccessionNumber="A77")
        wait_until(lambda: made.edge.api_status()["destinations"]["archive"]["confirmed"] == 8, 30, "all are there")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def study_of(clinic: Clinic, accession: str) -> tuple[int, str]:
    with closing(sqlite3.connect(clinic.edge.data_dir / "catalog.db")) as conn:
        return tuple(conn.execute("SELECT id, study_uid FROM study WHERE accession = ?", (accession,)).fetchone())


def test_a_corrected_study_is_shown_as_received_and_as_sent(clinic: Clinic, browser: Browser, tmp_path: Path) -> None:
    number, uid = study_of(clinic, "A77")
    page = signed_in(browser, clinic, "operator")
    page.goto(clinic.edge.url(f"/studies/{number}"))
    identity = page.locator("section", has=page.get_by_role("heading", name="Whose it is"))
    expect(identity).to_contain_text("3 images match the order A77")
    expect(identity).to_contain_text("Note: the same examination has another Study UID that day.")
    row = identity.get_by_role("row", name="PatientID P00CANARY T0102")
    expect(row).to_be_visible()
    expect(identity.get_by_role("row", name="InstitutionName absent Example Health Clinic")).to_be_visible()
    expect(identity.get_by_role("row", name="archive 3 demographics, institution")).to_be_visible()
    assert find_barriers(page) == []
    PICTURES.mkdir(parents=True, exist_ok=True)
    identity.screenshot(path=PICTURES / "a-corrected-study.png")
    shown = json.loads(clinic.edge.ask("studies", "show", uid, "--json").stdout)
    assert [(each["result"], each["order_patient_id"]) for each in shown["checks"]] == [("matched", "T0102")]
    assert "matched" in clinic.edge.ask("studies", "show", uid).stdout


def test_what_went_under_the_old_number_is_listed_with_what_the_archive_was_sent(
    clinic: Clinic, browser: Browser
) -> None:
    number, _ = study_of(clinic, "ACC00CANARY")
    page = signed_in(browser, clinic, "operator")
    page.goto(clinic.edge.url("/outdated"))
    row = page.get_by_role("row", name=f"Study {number} archive 5")
    expect(row).to_contain_text("patient-id, name")
    expect(row).to_contain_text("not by a relay of this gateway")
    page.screenshot(path=PICTURES / "sent-under-a-former-name.png")
    row.get_by_role("link").click()
    expect(page.get_by_text("archive has 5 images under former demographics")).to_be_visible()


def test_who_sees_no_patients_sees_neither_number(clinic: Clinic) -> None:
    number, _ = study_of(clinic, "A77")
    for path in (f"/studies/{number}", "/outdated", "/orders"):
        text = clinic.person("viewer").get(path).text
        for value in ("T0102", "P00CANARY", "A77", "Zebrafink", "ZEBRAFINK"):
            assert value not in text, (path, value)


@pytest.mark.parametrize("number", ["P00CANARY", "T0102"])
def test_a_search_by_each_number_finds_both_studies(clinic: Clinic, browser: Browser, number: str) -> None:
    page = signed_in(browser, clinic, "operator")
    page.goto(clinic.edge.url("/studies"))
    page.get_by_label("Patient ID").fill(number)
    page.keyboard.press("Enter")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    for each in rows.all():  # both came under the old number and name
        expect(each).to_contain_text("today")
        expect(each).to_contain_text("T0102")


def test_a_persons_decision_is_on_the_page(clinic: Clinic) -> None:
    number, uid = study_of(clinic, "ACC00CANARY")
    done = clinic.edge.ask("studies", "assign", uid, "--patient", "T0102", "--reason", "inspected the request")
    assert done.returncode == 0, done.stderr
    assert "inspected the request" in clinic.person("operator").get(f"/studies/{number}").text
    shown = json.loads(clinic.edge.ask("studies", "show", uid, "--json").stdout)
    assert shown["assignment"]["patient_id"] == "T0102"


def test_rejected_images_are_listed_alone(clinic: Clinic, tmp_path: Path) -> None:
    number, _ = study_of(clinic, "ACC00CANARY")
    images = sorted(min(clinic.folder.glob("ct*")).iterdir())[:2]
    storescu([rejection_note(tmp_path / "note.dcm", images)], clinic.edge.port)
    clinic.edge.settle()
    person = clinic.person("operator")
    assert "Show the 2 rejected images alone" in person.get(f"/studies/{number}").text
    shown = person.get(f"/studies/{number}?images=rejected").text
    listed = shown.partition("Rejected images (2)")[2]
    assert listed.count("rejected for its quality") == 2
    assert listed.count('<th scope="row" class="mono uid">') == 2
