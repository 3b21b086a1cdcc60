"""Tasks of the guide, as it tells them: first image, conflict, disc, stuck study, unroutable, archive, new machine.

The gateway is the package, installed on a booted machine; with two Orthancs and one Chromium. The tests are one story,
in order; the others are played in test_packaging, by command. Pictures go to build/guide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.test_packaging import packages
from tests.support.browser import chromium, listening
from tests.support.desk import NAME, PASSWORD, Desk, decide, is_drawn, sit_down, try_again
from tests.support.discs import burn_foreign_disc
from tests.support.hl7 import MllpClient, order
from tests.support.installed import InstalledEdge, let_wait
from tests.support.machine import Machine
from tests.support.objects import REAL_CT, ct_files
from tests.support.peers import Orthanc, free_port, storescu, wait_until
from tests.support.terminal import COLUMNS, show_in_terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
#: What the pages have their readers add to the first configuration.
NEW_ARCHIVE = '[destination.newarchive]\nae_title = "NEWVNA"\nhost = "127.0.0.1"\nport = {port}\nconfirm = "query"\n'
FEED = '[hl7]\nport = {port}\n[feed.his]\nhosts = ["127.0.0.1"]\nauthority = "MTF0067"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("story")


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[Orthanc]:
    with Orthanc(folder / "archive", free_port(), OverwriteInstances=True) as found:
        yield found


@pytest.fixture(scope="module")
def new_archive(folder: Path) -> Iterator[Orthanc]:
    with Orthanc(folder / "newarchive", free_port(), DicomAet="NEWVNA") as found:
        yield found


@pytest.fixture(scope="module")
def hl7_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def edge(folder: Path, package: Path) -> Iterator[InstalledEdge]:
    """The package on a booted machine; it waits for its first configuration."""
    data = folder / "data"  # on a real disk
    data.mkdir()
    binds = {"/mnt": package.parent, "/var/lib/edge": data}
    with Machine(folder / "machine", binds, shares_network=True) as machine:
        installed = InstalledEdge(folder / "edge", machine, (free_port(), free_port()))
        installed.install(f"/mnt/{package.name}")
        yield installed
        installed.kill()


@pytest.fixture(scope="module")
def desk(edge: InstalledEdge, archive: Orthanc, hl7_port: int, browser: Browser) -> Desk:
    """Set up as the page "Install, first configuration, first image" has it."""
    site = ["--site-id", "0067", "--site-name", "Test Clinic", "--port", str(edge.port)]
    peers = ["--archive", f"{archive.ae_title}@127.0.0.1:{archive.port}", "--scanner", "CT1@127.0.0.1"]
    edge.machine.run("edge", "init", "--yes", *site, *peers, "--confirm", "query")
    (edge.config_dir / "50-here.toml").write_text(f"[console]\nport = {edge.console_port}\n")
    (edge.config_dir / "50-orders.toml").write_text(FEED.format(port=hl7_port))
    assert edge.cli("check").returncode in (0, 1), "warnings at most"
    return sit_down(browser, edge.start())


def objects_of(archive: Orthanc, patient_id: str) -> list[dict[str, Any]]:
    """The attributes of what an archive has of a patient."""
    found = (archive.get(f"/instances/{each}/simplified-tags") for each in archive.instances().values())
    return [each for each in found if each["PatientID"] == patient_id]


def is_sent(desk: Desk) -> bool:
    queue = desk.edge.api_status()["queue"]
    return not any(queue[state] for state in ("pending", "active", "deferred", "held"))


# -- install, first configuration, first image -------------------------------------------------------------------------


def test_the_first_image_arrives(desk: Desk, edge: InstalledEdge, archive: Orthanc) -> None:
    [path] = ct_files(desk.folder / "first image", 1, 16 * 1024, PatientID="NEW", PatientName="First^Image")
    storescu([path], edge.port)
    wait_until(lambda: len(objects_of(archive, "NEW")) == 1 and is_sent(desk), 60, "the archive has it")
    assert "1 image received, nothing left to send" in edge.cli("status").stdout
    assert "First^Image" in edge.cli("studies", "list").stdout
    assert edge.cli("link", "test", "archive").returncode == 0
    assert "archive" in edge.cli("prove", str(objects_of(archive, "NEW")[0]["StudyInstanceUID"])).stdout
    expect(desk.go("/").get_by_role("heading", level=1)).to_have_text("All is well.")
    desk.shoot("install-and-first-image")


# -- decide a conflict by comparing both images ------------------------------------------------------------------------


def versions(folder: Path) -> list[Path]:
    """An image, and two others under its SOP Instance UID: turned, and turned once more."""
    ds, paths = pydicom.dcmread(REAL_CT), []
    pixels = ds.pixel_array
    for number in range(3):
        ds.PixelData, ds.SeriesDescription = np.rot90(pixels, number).tobytes(), f"ABDOMEN {number + 1}"
        ds.save_as(folder / f"version{number}.dcm")
        paths.append(folder / f"version{number}.dcm")
    return paths


def test_a_conflict_is_decided_by_comparing_both_images(desk: Desk, archive: Orthanc) -> None:
    heard = listening(desk.page)
    first, later, wrong = versions(desk.folder)
    storescu([first], desk.edge.port)
    wait_until(lambda: kept(archive, "ABDOMEN 1") and is_sent(desk), 60, "the first version is at the archive")
    storescu([later], desk.edge.port)
    page = desk.go("/")
    page.get_by_role("link", name="The conflicts").click()
    page.get_by_role("link", name="Compare").click()
    images = page.locator("img.compared")
    expect(images).to_have_count(2)
    wait_until(lambda: all(is_drawn(each) for each in images.all()), 60, "both images are there")
    pictures = {page.request.get(desk.edge.url(str(each.get_attribute("src")))).body() for each in images.all()}
    assert len(pictures) == 2
    expect(page.locator("tr.differs").filter(has_text="SeriesDescription")).to_contain_text("ABDOMEN 2")
    page.get_by_label("Action").select_option("release")
    expect(page.get_by_text("archive has since")).to_be_visible()  # what a release overwrites is said before
    page.get_by_label("Reason").fill("the scan was repeated")
    desk.shoot("decide-a-conflict", whole=True)
    desk.sees_no_barrier()
    page.get_by_role("button", name="Apply to instance").click()
    expect(page.get_by_role("status")).to_contain_text("released to archive")
    wait_until(lambda: kept(archive, "ABDOMEN 2"), 60, "the archive has the later one")
    storescu([wrong], desk.edge.port)
    desk.edge.settle()
    page = desk.go("/exceptions?kind=conflict")
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Action").select_option("discard")
    page.get_by_label("Reason").fill("a copy of the vendor's test")
    page.get_by_role("button", name="Apply to instance").click()
    expect(page.get_by_role("status")).to_contain_text("discarded")
    assert kept(archive, "ABDOMEN 2")
    wait_until(lambda: not desk.edge.api_status()["alerts"], 60, "the alerts are over")
    assert heard == []


def kept(archive: Orthanc, description: str) -> bool:
    """Has the archive this version?"""
    found = [archive.get(f"/instances/{each}/simplified-tags") for each in archive.instances().values()]
    return description in [each.get("SeriesDescription") for each in found]


# -- import a disc to the right patient --------------------------------------------------------------------------------


def test_a_disc_is_imported_to_the_right_patient(desk: Desk, archive: Orthanc, hl7_port: int) -> None:
    with MllpClient(hl7_port) as his:
        assert his.ask(order("O1", "NW", "4711", "L77", name="LOCAL^LEA"))[0].code == "AA"
    page = desk.go("/import")
    page.get_by_label("A folder or disc").set_input_files(burn_foreign_disc(desk.folder))
    expect(page.get_by_text("The files are received")).to_be_visible(timeout=60_000)

    def listed() -> bool:
        page.reload()
        return page.get_by_text("1 study to assign").count() > 0

    wait_until(listed, 60, "the disc is read")
    page.locator("main tbody th a").first.click()
    expect(page.get_by_text("Foreign Lea, KH-20817, born 1970-01-10, F")).to_be_visible()
    images = page.locator(".thumbs img")
    expect(images).to_have_count(2)
    wait_until(lambda: all(is_drawn(each) for each in images.all()), 60, "its images are shown")
    page.get_by_label("Whose is it here?").fill("A4711")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("tr", has_text="A4711")).to_contain_text("another birth date, name")
    page.locator("tr", has_text="A4711").get_by_role("radio").check()
    desk.sees_no_barrier()
    page.get_by_role("button", name="It is this patient's: import it").click()
    expect(page.get_by_role("alert")).to_contain_text("give a reason")
    page.locator("tr", has_text="A4711").get_by_role("radio").check()
    page.get_by_label("Reason (required where birth date or sex differ)").fill(
        "mistyped there: her passport says otherwise"
    )
    desk.shoot("import-a-disc", whole=True)
    page.get_by_role("button", name="It is this patient's: import it").click()
    expect(page.get_by_role("status")).to_contain_text("is assigned")
    found = wait_until(lambda: len(each := objects_of(archive, "L77")) == 2 and each, 60, "they are at the archive")
    for tags in found:
        assert (tags["PatientName"], tags["PatientBirthDate"], tags["AccessionNumber"]) == (
            "LOCAL^LEA",
            "19700101",
            "A4711",
        )
        [original] = tags["OriginalAttributesSequence"]
        assert original["ModifiedAttributesSequence"][0]["PatientID"] == "KH-20817"
    assert "Foreign" not in str(archive.get("/patients?expand"))


# -- find out whose study is stuck, and send it ------------------------------------------------------------------------


def test_a_stuck_study_is_found_and_sent(desk: Desk, edge: InstalledEdge, archive: Orthanc) -> None:
    archive.stop()
    storescu(ct_files(desk.folder / "first", 2, 16 * 1024, PatientID="FIRST", PatientName="First^Ann"), desk.edge.port)
    storescu(ct_files(desk.folder / "stuck", 2, 16 * 1024, PatientID="STUCK", PatientName="Stuck^Eva"), desk.edge.port)
    wait_until(lambda: desk.edge.api_status()["destinations"]["archive"]["state"] == "down", 60, "it is noticed")
    page = desk.go("/")
    page.locator("#alert-destination-down-archive").get_by_role("link", name="Its queue").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    line = page.locator("tbody tr", has_text="Stuck Eva")
    expect(line).to_contain_text("when it answers")
    decide(page, line, "stat", "she is in the OR")
    expect(page.get_by_role("status")).to_contain_text("made stat")
    expect(line).to_contain_text("stat")
    fits_a_terminal(edge)
    try_again(desk.go("/"), archive, "destination-down-archive")
    wait_until(lambda: len(objects_of(archive, "STUCK")) == 2 and is_sent(desk), 60, "it is sent")
    assert len(objects_of(archive, "FIRST")) == 2


def fits_a_terminal(edge: InstalledEdge) -> None:
    """What waits, by command, in 80 columns."""
    asked = ("status", "queue list", "studies list", "alerts list", "destination list", "modality list")
    seen = show_in_terminal(edge.command_line(*each.split()) for each in asked)
    assert [line for line in seen if len(line) > COLUMNS] == []
    assert "Stuck^Eva" in " ".join(seen)
    assert any(re.fullmatch(r" +study UID [0-9.]{60} *", line) for line in seen), "whole, so that it can be copied"


# -- refuse an object that no route takes ------------------------------------------------------------------------------


def test_an_unroutable_object_is_refused_and_another_gets_a_route(
    desk: Desk, edge: InstalledEdge, archive: Orthanc
) -> None:
    routes = edge.config_dir / "30-routes.toml"
    routes.write_text(re.sub(r"(?m)^\[route.everything\]$", r'\g<0>\nwhen = { Modality = "CT" }', routes.read_text()))
    edge.reload()
    wait_until(lambda: '"CT"' in desk.go("/dry-run").get_by_label("Routes").input_value(), 60, "it is read")
    for modality, name in (("OT", "Phantom^QA"), ("MR", "Route^Mia")):
        files = ct_files(desk.folder / modality, 1, 16 * 1024, PatientID=modality, PatientName=name, Modality=modality)
        storescu(files, edge.port)
    edge.settle()
    page = desk.go("/exceptions?kind=unroutable")
    phantom, other = (page.locator("tbody tr", has_text=name) for name in ("Phantom QA", "Route Mia"))
    phantom.get_by_role("link", name="Look").click()
    expect(page.get_by_role("row", name="Modality")).to_contain_text("OT")
    page.go_back()
    decide(page, phantom, "discard", "phantom of the vendor")
    expect(page.get_by_role("status")).to_contain_text("1 image discarded")
    expect(phantom).to_have_count(0)
    desk.apply_routes('["archive"]', "MR, too", when='when = { Modality = ["CT", "MR"] }')
    page = desk.go("/exceptions?kind=unroutable")
    decide(page, other, "release", "MR has a route now")
    expect(page.get_by_role("status")).to_contain_text("1 image sent by the routes")
    wait_until(lambda: len(objects_of(archive, "MR")) == 1, 60, "it is at the archive")
    assert objects_of(archive, "OT") == []
    wait_until(lambda: not edge.api_status()["alerts"], 60, "the alerts are over")


# -- replace the archive -----------------------------------------------------------------------------------------------


def test_the_archive_is_replaced(desk: Desk, archive: Orthanc, new_archive: Orthanc) -> None:
    edge = desk.edge
    (edge.config_dir / "50-newarchive.toml").write_text(NEW_ARCHIVE.format(port=new_archive.port))
    assert edge.cli("check").returncode in (0, 1), "warnings at most"
    edge.reload()
    wait_until(lambda: "newarchive" in edge.api_status()["destinations"], 60, "it is known")
    done = edge.cli("link", "test", "newarchive", "--send", "5")
    assert done.returncode == 0, done.stderr
    desk.apply_routes('["archive", "newarchive"]', "both for a week", "replace-the-archive")
    storescu(ct_files(desk.folder / "both", 3, 16 * 1024, PatientID="BOTH"), edge.port)
    wait_until(lambda: len(objects_of(new_archive, "BOTH")) == 3 and is_sent(desk), 60, "both have it")
    assert len(objects_of(archive, "BOTH")) == 3
    archive.stop()  # something is left for it when it goes
    storescu(ct_files(desk.folder / "last", 2, 16 * 1024, PatientID="LAST"), edge.port)
    wait_until(lambda: len(objects_of(new_archive, "LAST")) == 2, 60, "the new one has it")
    desk.apply_routes('["newarchive"]', "the new one alone")
    remove_table(edge.config_dir / "30-routes.toml", "destination.archive")
    assert edge.cli("check").returncode in (0, 1)
    edge.reload()
    page = desk.go("/")
    alert = page.locator("#alert-destination-removed-archive")
    expect(alert).to_contain_text("2 images", timeout=60_000)
    alert.locator("summary", has_text="Retire the destination").click()
    alert.get_by_label("Reason").fill("replaced by the new archive")
    desk.shoot("replace-the-archive-retired")
    alert.get_by_role("button", name="Retire the destination").click()
    expect(page.get_by_role("status")).to_contain_text("2 deliveries for archive cancelled")
    expect(alert).to_have_count(0, timeout=60_000)
    assert is_sent(desk)
    page = desk.go("/studies")
    page.get_by_role("link", name="CompressedSamples CT1").click()
    page.locator("summary", has_text="Send").click()
    form = page.locator("form[action$='/send']")
    form.get_by_label("Destination").select_option("newarchive")
    form.get_by_label("Reason").fill("the old archive is switched off")
    form.get_by_role("button", name="Send").click()
    uid = pydicom.dcmread(REAL_CT, stop_before_pixels=True).SOPInstanceUID
    wait_until(lambda: uid in new_archive.instances(), 60, "what is still here can be sent")


def remove_table(file: Path, name: str) -> None:
    kept, table = [], ""
    for line in file.read_text().splitlines(keepends=True):
        table = line.strip() if line.startswith("[") else table
        kept += [] if table == f"[{name}]" else [line]
    file.write_text("".join(kept))


# -- restore to a new machine ------------------------------------------------------------------------------------------


def test_the_machine_dies_and_another_takes_its_place(
    desk: Desk, edge: InstalledEdge, new_archive: Orthanc, folder: Path, browser: Browser
) -> None:
    new_archive.stop()
    storescu(ct_files(desk.folder / "waits", 2, 16 * 1024, PatientID="WAITS", PatientName="Wait^Eva"), edge.port)
    edge.settle()
    edge.kill()
    edge.back_up(folder / "backup")
    let_wait(folder / "backup" / "data", 300.0)
    edge.empty()
    edge.put_back(folder / "backup")
    there = Desk(edge.start(), browser.new_page(viewport={"width": 1100, "height": 720}))
    page = there.go("/")
    page.get_by_label("Name").fill(NAME)  # accounts are part of the backup
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    waits = page.locator("#waiting")
    expect(waits).to_contain_text("Wait Eva", timeout=60_000)
    expect(waits).to_contain_text("2 images are safe on this disk")
    there.shoot("restore-to-a-new-machine")
    try_again(page, new_archive, "destination-down-newarchive")
    wait_until(lambda: len(objects_of(new_archive, "WAITS")) == 2, 60, "what waited is sent")
    wait_until(lambda: is_sent(there), 60, "and nothing waits any more")
    assert edge.cli("link", "test", "newarchive").returncode == 0
