"""What needs a person, in one place: whose study waits, decisions about one, many or all, and documents that open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pydicom
import pytest
from playwright.sync_api import Browser, expect

from edge.console.waiting_now import describe_safety, needs_a_look, queue_place_of
from edge.model import DeliveryState, ReasonCode
from edge.store.waiting import WaitingGroup, WaitingStudy
from edge.web.accounts import UserRole
from edge.web.navigation import NavigationEntry, NavigationGroup, navigation_for
from tests.support.browser import chromium
from tests.support.clinic import Clinic, csrf, signed_in
from tests.support.objects import as_pdf, ct_files
from tests.support.peers import storescu, wait_until

GROUPS = (
    NavigationGroup("Now", (NavigationEntry("/", "Overview"), NavigationEntry("/queue", "Queue"))),
    NavigationGroup("Studies", (NavigationEntry("/studies", "Studies", also=("/instances",)),)),
    NavigationGroup("Settings", (NavigationEntry("/accounts", "Accounts", UserRole.ADMIN),)),
)


def waiting(state: DeliveryState, queued_at: float = 0.0, code: ReasonCode = ReasonCode.NONE) -> WaitingStudy:
    return WaitingStudy(7, (WaitingGroup(7, "archive", state, code, 3, 9, queued_at, None, 2, 0, 1),))


@pytest.mark.parametrize(
    ("path", "role", "group", "entry"),
    [
        ("/", UserRole.VIEWER, "Now", "Overview"),
        ("/queue", UserRole.VIEWER, "Now", "Queue"),
        ("/studies/7", UserRole.VIEWER, "Studies", "Studies"),
        ("/instances/7", UserRole.VIEWER, "Studies", "Studies"),
        ("/accounts", UserRole.ADMIN, "Settings", "Accounts"),
        ("/accounts", UserRole.VIEWER, None, None),
        ("/password", UserRole.ADMIN, None, None),
    ],
)
def test_a_page_has_its_place(path: str, role: UserRole, group: str | None, entry: str | None) -> None:
    found = navigation_for(GROUPS, role, path)
    assert (found.group and found.group.label, found.entry and found.entry.label) == (group, entry)
    assert ("Settings" in [each.label for each in found.groups]) == (role is UserRole.ADMIN)


def test_what_is_being_sent_is_no_news() -> None:
    assert not needs_a_look(waiting(DeliveryState.PENDING, 100.0), 130.0)
    assert needs_a_look(waiting(DeliveryState.PENDING, 100.0), 200.0)
    assert needs_a_look(waiting(DeliveryState.HELD, 100.0), 101.0)
    held = waiting(DeliveryState.HELD, 0.0, ReasonCode.CONFLICT)
    assert queue_place_of(held) == ("/exceptions?kind=conflict&study=7", "Decide")
    assert queue_place_of(waiting(DeliveryState.DEFERRED)) == ("/queue?study=7", "Act")


def test_nothing_is_called_safe_that_may_not_be() -> None:
    assert describe_safety(3, []) == ("good", "3 images are safe on this disk until sent.")
    assert describe_safety(3, [{"kind": "lost"}])[0] == "bad"
    assert describe_safety(3, [{"kind": "storage-unhealthy"}])[0] == "bad"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """What no route matches waits: three images of one study, and a conflict of another."""
    folder = tmp_path_factory.mktemp("clinic")
    with ExitStack() as stack:
        made = Clinic(folder, stack)
        text = made.edge.config_dir / "10-test.toml"
        route = "[route.everything]\n"
        text.write_text(text.read_text().replace(route, f'{route}when = {{ Modality = "CT" }}\n'))
        made.edge.reload()
        storescu(ct_files(folder / "dental", 3, 2048, PatientName="Wait^Eva", Modality="IO"), made.edge.port)
        first, *_ = paths = ct_files(folder / "twice", 2, 2048, PatientName="Twice^Tom")
        storescu(paths, made.edge.port)
        changed = pydicom.dcmread(first)
        changed.StudyDescription = "another version"
        changed.save_as(first)
        storescu([first], made.edge.port)
        admin = made.person("operator")
        wait_until(lambda: "Conflict 1" in admin.get("/exceptions").text, 20, "it is there")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_overview_names_who_waits_to_those_who_may_know(clinic: Clinic) -> None:
    seen = clinic.person("operator").get("/").text
    assert "Whose study waits" in seen
    assert "Wait Eva" in seen
    assert "images are safe on this disk until sent" in seen
    assert re.search(r'href="/exceptions\?kind=unroutable&amp;study=\d+">Decide', seen)
    masked = clinic.person("viewer").get("/").text
    assert "Wait Eva" not in masked
    assert re.search(r">Study \d+</a>", masked)
    assert any(row[0] == "operator" for row in clinic.ledger("viewed"))


def test_one_many_or_all_of_a_kind_are_decided(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    token = csrf(operator, "/exceptions")

    def decide(back: str, **given: object) -> str:
        form = {"csrf": token, "back": back, "reason": "made for the test", "action": "discard", **given}
        return operator.post("/exceptions/decide", data=form).text

    def shown(kind: str) -> list[str]:
        return re.findall(r'name="pick" value="(\d+)"', operator.get(f"/exceptions?kind={kind}").text)

    unroutable, [conflict] = shown("unroutable"), shown("conflict")
    assert len(unroutable) == 3
    assert "Choose one kind before you decide about all of it." in decide("", all="1")
    assert "Give a reason" in decide("kind=unroutable", all="1", reason=" ")
    assert "Select at least one image" in decide("kind=unroutable", pick=conflict)  # what the list does not show
    assert "Nothing was changed" in decide("kind=conflict", pick=conflict, action="release")  # beside the other version
    assert "1 image discarded" in decide("kind=unroutable", pick=unroutable[0])
    assert shown("unroutable") == unroutable[1:]
    assert "2 images discarded" in decide("kind=unroutable", all="1")
    assert shown("unroutable") == []
    assert shown("conflict") == [conflict]
    order = operator.get("/exceptions?sort=received&down=1").text
    assert 'aria-sort="descending"' in order
    assert operator.get("/exceptions").text.count('aria-sort="descending"') == 1  # the session remembers
    operator.get("/exceptions?kind=")
    refused = clinic.person("viewer").post("/exceptions/decide", data={"csrf": token, "pick": conflict})
    assert refused.status_code == 403


def test_a_pdf_opens_and_runs_nothing(clinic: Clinic) -> None:
    pdf = b"%PDF-1.4\n%%EOF\n"
    [path] = ct_files(clinic.folder / "pdf", 1, 1024, PatientName="Letter^Lou")
    before = clinic.edge.api_status()["instances"]["received"]
    storescu([as_pdf(path, pdf)], clinic.edge.port)
    wait_until(lambda: clinic.edge.api_status()["instances"]["received"] > before, 20, "it is here")
    operator = clinic.person("operator")
    assert f'href="/instances/{before + 1}/document"' in operator.get(f"/instances/{before + 1}").text
    answer = operator.get(f"/instances/{before + 1}/document")
    assert answer.content == pdf
    assert answer.headers["content-type"] == "application/pdf"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert operator.get("/instances/1/document").status_code == 404
    assert clinic.person("viewer").get(f"/instances/{before + 1}/document").status_code == 403


def test_the_groups_lead_to_their_pages_by_keyboard(clinic: Clinic, browser: Browser) -> None:
    page = signed_in(browser, clinic, "operator")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Now").press("Enter")
    expect(page.get_by_role("navigation", name="Now").get_by_role("link", name="Exceptions")).to_be_visible()
    page.context.close()
