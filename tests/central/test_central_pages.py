"""The fleet page in a real Chromium: an outage arrives and passes, and what is seen can be read by everybody."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from edge.central.accounts import record_in_journal
from edge.monitor.heartbeat import sign
from edge.network.shares import is_within
from edge.store import outbox
from edge.store.outbox import Message
from edge.web.accounts import Account, Accounts, UserRole
from edge.web.passwords import hash_password
from tests.support.browser import chromium, listening
from tests.support.central_office import CentralOffice, OpenDatabase, document, key_of, some_sites, status
from tests.support.peers import REPOSITORY, requires, wait_until

DASHBOARD = REPOSITORY / "packaging" / "grafana" / "edge-central-dashboard.json"
PASSWORD = "four words will do"
MODALITIES = [
    {"ae_title": "CT1", "manufacturer": "Example Imaging", "model": "Revo 64", "last_seen": "2026-01-05T09:00:00Z"},
    {"ae_title": "PORTABLE9", "admitted": False, "first_seen": "2026-01-05T09:00:00Z"},
]
DESTINATIONS = {"archive": {"state": "down", "pending": 4, "deferred": 40, "held": 1, "last_error": "no answer"}}
FILLING = {"used_fraction": 0.91, "free_bytes": 10**11, "total_bytes": 2 * 10**12, "full_in_seconds": 86_400.0}


@contextmanager
def open_office(folder: Path) -> Iterator[CentralOffice]:
    """A centre of three sites, with an account."""
    with CentralOffice(folder, some_sites(3, "Acme")) as office:
        store = OpenDatabase(office.config.database_url())
        Accounts(store, record_in_journal).put(
            Account("ann", UserRole.ADMIN, hash_password(PASSWORD), time.time() - 1), "test"
        )
        store.close()
        yield office


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralOffice]:
    with open_office(tmp_path_factory.mktemp("central")) as office:
        yield office


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def beat(central: CentralOffice, site: str, number: int, every: float, **told: object) -> None:
    alert = {
        "kind": "destination-down",
        "subject": "archive",
        "severity": "major",
        "text": "gone: try `edge echo archive`",
    }
    identity = {"matched_share": 0.99912, "misdirected_share": 0.0004, "checked_images": 9100, "orders_missing": 2}
    seen = status(identity=identity)
    if site == "2":
        seen |= {"alerts": [alert | {"since": "2026-01-05T09:00:00Z"}], "modalities": MODALITIES}
        seen |= {"destinations": DESTINATIONS, "storage": FILLING}
    body = json.dumps(document(site, number, time.time(), every_seconds=every, status=seen, **told)).encode()
    headers = {"Edge-Site": site, "Edge-Signature": sign(key_of(site), body)}
    assert httpx.post(f"{central.url}/heartbeat", content=body, headers=headers, verify=central.context).is_success


def sign_in(browser: Browser, central: CentralOffice) -> Page:
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.goto(central.url)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{central.url}/")
    return page


def test_an_outage_arrives_and_passes_before_ones_eyes(central: CentralOffice, browser: Browser) -> None:
    beat(central, "1", 1, 1.0)
    beat(central, "2", 1, 60.0)
    page = sign_in(browser, central)
    heard = listening(page)
    expect(page.locator("h1")).to_have_text("2 of 3 sites in trouble, 1 of them silent", timeout=60_000)
    expect(page.locator("#look-1")).to_contain_text("no heartbeat for")
    expect(page.locator("#look-2 code")).to_have_text("edge echo archive")
    page.get_by_role("link", name="incident 1").click()
    page.get_by_role("textbox", name="Note").fill("called the clinic")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("dl").last).to_contain_text("Acknowledged. called the clinic")
    beat(central, "1", 2, 3600.0)
    page.goto(central.url)
    expect(page.locator("h1")).to_have_text("1 of 3 sites in trouble", timeout=60_000)
    page.keyboard.press("/")
    page.keyboard.type("never")
    page.keyboard.press("Enter")
    expect(page.locator(".tile")).to_have_count(1)
    assert not heard


def test_a_refused_notification_is_shown_and_sent_again(central: CentralOffice, browser: Browser) -> None:
    channel = "email.gone/mimso@example.org"
    store = OpenDatabase(central.config.database_url())
    with store.writing() as conn:
        number = outbox.post(conn, channel, "notice", time.time(), "{}")
        outbox.park(conn, Message(number, channel, "notice", 0.0, "{}", 0), time.time(), "it answers 554")
    store.close()
    assert [(each["channel"], each["last_error"]) for each in central.cli("notify", "list")] == [
        (channel, "it answers 554")
    ]
    page = sign_in(browser, central)
    page.get_by_role("link", name="1 notification").click()
    expect(page.get_by_text("it answers 554")).to_be_visible()
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("button", name="Send again")).to_have_count(0)
    (line,) = central.cli("notify", "list")
    assert line["parked_at"] is None


def test_several_incidents_are_acknowledged_at_once(central: CentralOffice, browser: Browser) -> None:
    page = sign_in(browser, central)
    page.goto(f"{central.url}/incidents")
    before = page.get_by_role("button", name="Acknowledge").bounding_box()
    assert before is not None
    assert before["y"] < (page.locator("table").bounding_box() or {"y": 0})["y"]
    page.get_by_label("Select all").check()
    page.get_by_role("textbox", name="Note").fill("all seen")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("The note is added to")).to_be_visible()
    assert (
        central.ask("SELECT count(*) AS n FROM incident WHERE closed_at IS NULL AND acknowledged_at IS NULL")[0]["n"]
        == 0
    )


def test_work_is_planned_at_sites(central: CentralOffice, browser: Browser) -> None:
    page = sign_in(browser, central)
    page.goto(f"{central.url}/maintenance")
    page.get_by_label("Sites").fill("1 77")
    page.locator("[name=from]").fill("2037-01-01T22:00")
    page.locator("[name=to]").fill("2037-01-02T02:00")
    page.get_by_label("Reason").fill("new firewall")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_text("There is no site 77.")).to_be_visible()
    page.get_by_label("Sites").fill("1")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_role("cell", name="new firewall")).to_be_visible()
    day = datetime.now(timezone.utc)
    page.get_by_label("Sites").fill("3")
    page.locator("[name=from]").fill(f"{day - timedelta(days=2):%Y-%m-%dT%H:%M}")
    page.locator("[name=to]").fill(f"{day + timedelta(days=2):%Y-%m-%dT%H:%M}")
    page.get_by_label("Reason").fill("moved")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_role("cell", name="moved")).to_be_visible()
    page.goto(central.url)
    expect(page.locator(".headline")).to_contain_text("1 in maintenance, 0 never seen")


def test_who_to_call_at_a_site_is_noted_on_its_page(central: CentralOffice, browser: Browser) -> None:
    page = sign_in(browser, central)
    page.goto(f"{central.url}/site/1")
    for link, says in (("javascript:alert(1)", "Nothing was changed"), ("https://edge.example.org", "are noted")):
        page.locator("summary", has_text="Change them").click()
        page.get_by_label("Contact").last.fill("Ann, 555-0199")
        page.get_by_label("Tags").fill("pilot, north, pilot")
        page.get_by_label("Link of its console").fill(link)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_contain_text(says)
    card = page.locator("#card")
    expect(card).to_contain_text("Ann, 555-0199")
    expect(card).to_contain_text("Noted by ann")
    expect(card.get_by_role("link", name="https://edge.example.org")).to_be_visible()
    card.get_by_role("link", name="pilot").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{central.url}/sites?tag=south")
    expect(page.locator("tbody tr th")).to_have_count(0)


def test_the_two_figures_of_identity_are_on_a_sites_page(central: CentralOffice, browser: Browser) -> None:
    page = sign_in(browser, central)
    page.goto(f"{central.url}/site/2")
    expect(page.locator("dl.facts").last).to_contain_text("99.91 % of the images of 30 days matched")
    expect(page.locator("dl.facts").last).to_contain_text("0.04 % of the studies went, or nearly went, to another")


def test_a_new_site_needs_no_restart(central: CentralOffice) -> None:
    done = central.words("site", "add", "4711", "--name", "New Clinic", "--tag", "pilot")
    assert '# ca = "ca.pem"' in done, "the centre's certificate may be of an authority of its own"
    key = next(line.strip().encode() for line in done.splitlines() if line.strip().endswith("="))
    body = json.dumps(document("4711", 1, time.time())).encode()
    headers = {"Edge-Site": "4711", "Edge-Signature": sign(key, body)}

    def is_taken() -> bool:
        return httpx.post(f"{central.url}/heartbeat", content=body, headers=headers, verify=central.context).is_success

    wait_until(is_taken, 20, "the running centre takes the new site", interval=0.5)


def test_metrics_are_for_those_that_are_named(central: CentralOffice) -> None:
    found = httpx.get(f"{central.url}/metrics", verify=central.context)
    assert found.status_code == 200
    assert 'edge_central_sites{state="well"}' in found.text
    assert (
        subprocess.run([requires("promtool"), "check", "metrics"], input=found.text, text=True, check=False).returncode
        == 0
    )
    served = set(re.findall(r"^# TYPE (\S+)", found.text, re.MULTILINE))
    asked = set(re.findall(r"\bedge_central_\w+", DASHBOARD.read_text("utf-8")))
    assert asked - served == set()
    assert len(asked) > 5
    assert not is_within("10.1.2.3", ("127.0.0.0/8",))
    assert is_within("::ffff:10.1.2.3", ("10.0.0.0/8",))
