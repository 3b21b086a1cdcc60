"""Setting up and changing a gateway in a browser: a scanner that was refused, routes, maintenance, and the way back.

One gateway and one Chromium for all of it; the tests are one story, in order.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.support.browser import chromium, listening
from tests.support.desk import Desk, sit_down
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, echoscu, routes_to, storescu, wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreScp]:
    with StoreScp(tmp_path_factory.mktemp("archive")) as found:
        yield found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, archive: StoreScp) -> Iterator[Desk]:
    config = routes_to(archive, more='[modality.ct1]\nae_title = "CT1"\nhosts = ["127.0.0.1"]\n')
    with Edge(tmp_path_factory.mktemp("desk"), config, unknown="refuse") as edge, chromium() as browser:
        yield sit_down(browser, edge)


def test_a_refused_scanner_is_added_from_the_list(desk: Desk) -> None:
    assert echoscu(desk.edge.port, calling="CT2", check=False).returncode != 0
    wait_until(lambda: "CT2" in str(desk.edge.api_status()["modalities"]), 10, "it is noted")
    heard = listening(desk.page)
    page = desk.go("/equipment")
    page.get_by_text("Add it as a scanner").click()
    expect(page.get_by_label("Name in the configuration")).to_have_value("ct2")
    page.get_by_label("Reason").fill("the new CT")
    desk.shoot("add-a-refused-scanner")
    page.get_by_role("button", name="Add the scanner").click()
    expect(page.get_by_text("[modality.ct2] is written")).to_be_visible()
    assert echoscu(desk.edge.port, calling="CT2").returncode == 0
    assert 'ae_title = "CT2"' in (desk.edge.config_dir / "25-added-equipment.toml").read_text()
    assert heard == []


def test_what_was_typed_about_a_scanner_stays_after_a_mistake(desk: Desk) -> None:
    assert echoscu(desk.edge.port, calling="CT9", check=False).returncode != 0
    wait_until(lambda: "CT9" in str(desk.edge.api_status()["modalities"]), 10, "it is noted")
    page = desk.go("/equipment")
    page.get_by_text("Add it as a scanner").click()
    page.get_by_label("Port for storage commitment").fill("104x")
    page.get_by_label("worklist", exact=True).check()
    page.get_by_label("Reason").fill("a loan")
    page.get_by_role("button", name="Add the scanner").click()
    expect(page.get_by_text('Port: expected a number such as 104, found "104x"')).to_be_visible()
    expect(page.get_by_label("Reason")).to_have_value("a loan")
    expect(page.get_by_label("worklist", exact=True)).to_be_checked()


def test_a_tried_route_is_applied_and_taken_back(desk: Desk) -> None:
    storescu(ct_files(desk.edge.directory / "ct", 3, 16 * 1024), desk.edge.port)
    wait_until(lambda: desk.edge.api_status()["destinations"]["archive"]["confirmed"] == 3, 30, "they are there")
    page = desk.go("/dry-run")
    routes = page.get_by_label("Routes")
    before = routes.input_value()
    routes.fill('[route.mr]\nwhen = { Modality = "MR" }\nto = ["archive"]\n')
    page.get_by_role("button", name="Test with last week").click()
    expect(page.get_by_text("3 of 3 images would have been sent elsewhere")).to_be_visible()
    expect(page.get_by_label("Difference")).to_contain_text("+[route.mr]")
    desk.sees_no_barrier()
    page.get_by_label("Reason").fill("only MR")
    desk.shoot("refuse-an-unroutable-object")
    page.get_by_role("button", name="Apply to the files").click()
    expect(page.get_by_text("The routes are written into the files")).to_be_visible()
    assert desk.go("/dry-run").get_by_label("Routes").input_value() != before
    page = desk.go("/configuration/history")
    expect(page.locator("tbody tr").first).to_contain_text("only MR")
    page.get_by_role("link", name=re.compile("What changed in state")).nth(1).click()
    page.get_by_label("Reason to go back").fill("too narrow")
    page.get_by_role("button", name=re.compile("Go back to state")).click()
    expect(page.get_by_text("again, and in use")).to_be_visible()
    assert desk.go("/dry-run").get_by_label("Routes").input_value() == before


def test_planned_work_is_planned_on_the_page_and_shown_everywhere(desk: Desk) -> None:
    page = desk.go("/maintenance")
    page.locator("[name=from]").fill("2026-01-01T22:00")
    page.locator("[name=to]").fill("2026-01-01T21:00")
    page.get_by_label("Reason").fill("core switch")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_text("expected a time after from")).to_be_visible()
    page.locator("[name=from]").fill("2037-01-01T22:00")
    page.locator("[name=to]").fill("2037-01-02T02:00")
    expect(page.get_by_label("Reason")).to_have_value("core switch")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_role("cell", name="core switch")).to_be_visible()
    desk.shoot("planned-maintenance")
    assert [each["reason"] for each in desk.edge.api_status()["maintenance"]] == ["core switch"]
    listed = json.loads(desk.edge.cli("maintenance", "list", "--json").stdout)
    assert [each["state"] for each in listed] == ["planned"]
    assert desk.edge.cli("maintenance", "remove", listed[0]["name"], "--reason", "done").returncode == 0
    assert desk.edge.api_status()["maintenance"] == []


def test_a_link_is_tested_on_the_page(desk: Desk, archive: StoreScp) -> None:
    page = desk.go("/links?destination=archive")
    page.get_by_label("Test images").select_option("10")
    page.get_by_role("button", name="Test the link").click()
    expect(page.get_by_text(re.compile("A CT of 300 images takes"))).to_be_visible()
    desk.sees_no_barrier()
    assert len(archive.files()) == 13


def test_the_command_adds_a_scanner_and_says_what_changed(desk: Desk) -> None:
    assert echoscu(desk.edge.port, calling="CT3", check=False).returncode != 0
    wait_until(lambda: "CT3" in desk.edge.cli("modality", "list").stdout, 10, "it is noted")
    done = desk.edge.cli("modality", "add", "CT3", "--reason", "third CT")
    assert "+[modality.ct3]" in done.stdout
    assert echoscu(desk.edge.port, calling="CT3").returncode == 0
    history = json.loads(desk.edge.cli("config", "history", "--json").stdout)
    assert history[0]["reason"] == "third CT"
    assert "+[modality.ct3]" in desk.edge.cli("config", "diff", str(history[0]["state"])).stdout
    assert desk.edge.cli("ready").returncode == 0


def test_a_change_beside_a_mistake_is_refused(desk: Desk) -> None:
    broken = desk.edge.config_dir / "90-broken.toml"
    broken.write_text("[listen]\nae_titel = 1\n")
    done = desk.edge.cli("modality", "add", "CT4", "--host", "127.0.0.1", "--reason", "x")
    assert done.returncode == 2
    assert "90-broken.toml:2: listen.ae_titel: unknown key" in done.stderr
    broken.unlink()


def test_a_change_beside_files_that_the_gateway_has_not_read_is_refused(desk: Desk) -> None:
    """Somebody is in the middle of it: a new scanner must not have it used."""
    half = desk.edge.config_dir / "90-half.toml"
    half.write_text('[retention]\nkeep = "1d"\n')
    add = ("modality", "add", "CT5", "--host", "127.0.0.1", "--reason", "fifth CT")
    done = desk.edge.cli(*add)
    assert (done.returncode, "systemctl reload edge" in done.stderr) == (1, True), done.stderr
    half.unlink()
    assert desk.edge.cli(*add).returncode == 0


def test_the_month_is_shown_on_the_page_and_on_paper(desk: Desk) -> None:
    heard = listening(desk.page)
    for path in ("/charts?over=day", "/charts?over=year", "/report?month=" + time.strftime("%Y-%m")):
        page = desk.go(path)
    expect(page.get_by_role("heading", name="Capacity")).to_be_visible()
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation", name="Pages").is_visible()
    page.emulate_media(media="screen")
    assert "availability" in page.request.get(desk.edge.url("/report.csv")).text()
    assert desk.edge.cli("report", "--month", time.strftime("%Y-%m")).returncode == 0
    assert heard == []


def test_what_waits_is_in_the_queue_with_its_actions(desk: Desk, archive: StoreScp) -> None:
    archive.stop()
    storescu(ct_files(desk.edge.directory / "late", 2, 16 * 1024), desk.edge.port)
    wait_until(lambda: desk.edge.api_status()["destinations"]["archive"]["state"] == "down", 30, "it is noticed")
    desk.go("/queue")
    desk.shoot("find-a-stuck-study")
    page = desk.go("/")
    alert = page.locator("#alert-destination-down-archive")
    alert.get_by_text("Advice").click()
    alert.get_by_role("link", name="What to do").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("destination-down")
    page.get_by_role("link", name="Plan it here, too").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Planned maintenance without a page at night")
    expect(page.get_by_role("img")).to_have_js_property("complete", True)
