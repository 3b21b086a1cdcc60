"""What needs a person, in one place: whose study waits, decisions about one, many or all, and documents that open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from playwright.sync_api import Browser, expect

from edge.console.waiting_now import describe_safety, needs_a_look, queue_place_of
from edge.model import DeliveryState, ReasonCode
from edge.store.waiting import WaitingGroup, WaitingStudy
from edge.web.accounts import UserRole
from edge.web.navigation import NavigationEntry, NavigationGroup, navigation_for
from tests.support.browser import chromium
from tests.support.clinic import csrf
from tests.support.console_site import ConsoleSite
from tests.support.objects import as_pdf, ct_files, part10

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
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    """What no route matches waits: three images of one study, and a conflict of another."""
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        made.receive(3, PatientName="Wait^Eva", Modality="OT")
        first, *_ = paths = ct_files(made.tmp_path / "twice", 2, 2048, PatientName="Twice^Tom")
        for path in paths:
            made.accept(path.read_bytes())
        changed = pydicom.dcmread(first)
        changed.StudyDescription = "another version"
        made.accept(part10(changed))
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_overview_names_who_waits_to_those_who_may_know(site: ConsoleSite) -> None:
    seen = site.person("operator").get("/").text
    assert "Whose study waits" in seen
    assert "Wait Eva" in seen
    assert "images are safe on this disk until sent" in seen
    assert re.search(r'href="/exceptions\?kind=unroutable&amp;study=\d+">Decide', seen)
    masked = site.person("viewer").get("/").text
    assert "Wait Eva" not in masked
    assert re.search(r">Study \d+</a>", masked)
    assert any(row[0] == "operator" for row in site.ledger("viewed"))


def find_latest(operator: httpx.Client, address: str) -> str:
    """What the choice of all rows says of the list."""
    [latest] = re.findall(r'name="all" value="(\d+)"', operator.get(address).text)
    return str(latest)


def test_all_of_the_queue_is_what_the_page_has_listed(tmp_path: Path) -> None:
    with ConsoleSite(tmp_path) as site:
        for _ in range(51):
            site.receive(1)
        operator = site.person("operator")
        form = {"csrf": csrf(operator, "/queue"), "all": find_latest(operator, "/queue"), "action": "cancel"}
        site.receive(2)
        answer = operator.post("/queue/decide", data={**form, "back": "", "reason": "sent by hand"})
        assert "51 images cancelled" in answer.text


def test_one_many_or_all_of_a_kind_are_decided(site: ConsoleSite) -> None:
    operator = site.person("operator")
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
    latest = find_latest(operator, "/exceptions?kind=unroutable")
    site.receive(1, Modality="OT")
    came_later = shown("unroutable")[-1]
    assert "2 images discarded" in decide("kind=unroutable", all=latest)  # those that the page had
    assert shown("unroutable") == [came_later]
    assert "1 image discarded" in decide("kind=unroutable", all=came_later)
    assert shown("conflict") == [conflict]
    order = operator.get("/exceptions?sort=received&down=1").text
    assert 'aria-sort="descending"' in order
    assert operator.get("/exceptions").text.count('aria-sort="descending"') == 1  # the session remembers
    operator.get("/exceptions?kind=")
    refused = site.person("viewer").post("/exceptions/decide", data={"csrf": token, "pick": conflict})
    assert refused.status_code == 403


def test_a_pdf_opens_and_runs_nothing(site: ConsoleSite) -> None:
    pdf = b"%PDF-1.4\n%%EOF\n"
    [path] = ct_files(site.tmp_path / "pdf", 1, 1024, PatientName="Letter^Lou")
    site.accept(as_pdf(path, pdf).read_bytes())
    number, operator = site.one("SELECT max(id) FROM instance"), site.person("operator")
    assert f'href="/instances/{number}/document"' in operator.get(f"/instances/{number}").text
    answer = operator.get(f"/instances/{number}/document")
    assert answer.content == pdf
    assert answer.headers["content-type"] == "application/pdf"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert operator.get("/instances/1/document").status_code == 404
    assert site.person("viewer").get(f"/instances/{number}/document").status_code == 403


def test_the_groups_lead_to_their_pages_by_keyboard(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Now").press("Enter")
    expect(page.get_by_role("navigation", name="Now").get_by_role("link", name="Exceptions")).to_be_visible()
    page.context.close()
