"""Stages failures on a real gateway and a real centre, and takes the pictures of docs/console.md, docs/central.md and
docs/guide/see-the-month.md:

    python -m tests.staged docs

The programs, the archives and the traffic are real; only the history of the plots is synthetic.
"""

from __future__ import annotations

import math
import random
import re
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page
from pydicom import dcmread

from edge.central.accounts import record_in_journal
from edge.monitor.heartbeat import sign
from edge.text import iso
from edge.web.accounts import Account, Accounts, UserRole
from edge.web.passwords import hash_password
from tests.support.browser import chromium
from tests.support.central_office import CentralOffice, OpenDatabase, document, encoded, key_of, some_sites, status
from tests.support.console_site import ConsoleSite, fill
from tests.support.objects import REAL_CT, ct_files
from tests.support.peers import Edge, StoreScp, storescu, wait_until

PASSWORD = "correct horse battery"
DAY = 86400.0
SITE = """
[site]
name = "Fort Example Clinic"
[modality.ct1]
ae_title = "CT1"
[modality.mr1]
ae_title = "MR1"
[modality.cr2]
ae_title = "CR2"
[modality.dental]
ae_title = "DENT*"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
confirm = "status"
[destination.teleread]
ae_title = "READER"
host = "127.0.0.1"
port = {reader}
[route.everything]
when = {{ CallingAETitle = ["CT1", "MR1", "CR2"] }}
to = ["archive"]
[route.mr]
when = {{ Modality = "MR" }}
to = ["teleread"]
priority = "stat"
"""
SENDERS = {
    "CT1": {"Modality": "CT", "Manufacturer": "Example Imaging", "ManufacturerModelName": "Revo 64"},
    "MR1": {"Modality": "MR", "Manufacturer": "Example Imaging", "ManufacturerModelName": "Aera"},
    "CR2": {"Modality": "CR", "Manufacturer": "Sample Medical", "ManufacturerModelName": "DX-M"},
    "DENT1": {"Modality": "IO", "Manufacturer": "Sample Dental", "ManufacturerModelName": "Mini"},
}
PATIENTS = ("Example^Alice", "Sample^Bruno", "Model^Clara", "Pattern^David", "Instance^Eva", "Proof^Frank")


class Stage:
    """A clinic on a working day."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.count = folder, 0
        self.archive = stack.enter_context(StoreScp(folder / "archive"))
        self.reader = stack.enter_context(StoreScp(folder / "reader", "READER"))
        text = SITE.format(archive=self.archive.port, reader=self.reader.port)
        self.edge = Edge(folder / "edge", unknown="refuse")
        base = self.edge.config_dir / "00-base.toml"
        base.write_text(base.read_text().replace('name = "Test Clinic"\n', ""))
        self.edge.configure(text)
        stack.enter_context(self.edge)
        self.link = re.findall(r"http://\S+/setup\S+", self.edge.log.read_text())[-1]

    def send(self, calling: str, images: int, **attributes: Any) -> None:
        self.count += 1
        given = {"PatientName": PATIENTS[self.count % len(PATIENTS)], "PatientID": f"E{1000 + self.count}"}
        given |= {"AccessionNumber": f"A{7000 + self.count}", **SENDERS.get(calling, {}), **attributes}
        files = ct_files(self.folder / f"files{self.count}", images, 24 * 1024, **given)
        storescu(files, self.edge.port, calling=calling, check=False)

    def send_contradiction(self) -> None:
        """Send two images of a study, and one of them again with another patient."""
        files = ct_files(self.folder / "contradiction", 2, 1024, PatientName=PATIENTS[0], PatientID="E1100")
        storescu(files, self.edge.port, calling="CT1")
        dataset = dcmread(files[0])
        dataset.PatientName, dataset.PatientID = PATIENTS[1], "E1101"
        dataset.save_as(files[0])
        storescu(files[:1], self.edge.port, calling="CT1")

    def past(self, name: str, height: Any, hours: float = 24.0) -> None:
        """Write synthetic measurements of the hours before."""
        now = time.time()
        moments = [now - hours * 3600 + i * 300 for i in range(int(hours * 12))]
        with closing(sqlite3.connect(self.edge.data_dir / "catalog.db", timeout=10)) as conn, conn:
            rows = [(name, at, max(0.0, height(at, now))) for at in moments]
            conn.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?, ?)", rows)

    def settled(self) -> None:
        def done() -> bool:
            queue = self.edge.api_status()["queue"]
            return not any(queue[state] for state in ("pending", "active", "deferred"))

        wait_until(done, 60, "everything has gone")


def day(peak: float) -> Any:
    """Return a backlog that follows the working hours."""
    noise = random.Random(7)

    def height(at: float, now: float) -> float:
        hour = time.localtime(at).tm_hour + time.localtime(at).tm_min / 60
        return peak * max(0.0, math.sin((hour - 7) / 11 * math.pi)) * noise.uniform(0.5, 1.0) if 7 < hour < 18 else 0.0

    return height


def main(docs: Path) -> None:
    with chromium() as browser:
        take_console(browser, docs / "console")
        take_services(browser, docs)
        take_central(browser, docs / "central")


def take_console(browser: Browser, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        stage = Stage(Path(name), stack)
        page = _signed_in(browser, stage)
        _well(stage, page, folder)
        _outage(stage, page, folder)
        _held(stage, page, folder)
        _rest(stage, browser, page, folder)


def take_services(browser: Browser, docs: Path) -> None:
    """What equipment and people ask of the gateway, and its month."""
    with tempfile.TemporaryDirectory() as name, ConsoleSite(Path(name)) as site:
        fill(site)
        page = site.open(browser, "operator", viewport={"width": 1280, "height": 860})
        page.goto(site.url)  # without the notice about the last sign-in
        for path, name in (("worklist", "worklist"), ("steps", "steps"), ("asked", "queries")):
            page.goto(f"{site.url}/{path}")
            _shoot(page, docs / "console", name)
        page.goto(f"{site.url}/report?month={time.strftime('%Y-%m')}")
        page.screenshot(path=docs / "guide" / "see-the-month.png")


def _signed_in(browser: Browser, stage: Stage) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.goto(stage.link)
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").first.fill(PASSWORD)
    page.get_by_label("Confirm password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    page.wait_for_url(stage.edge.url("/"))
    return page


def _well(stage: Stage, page: Page, folder: Path) -> None:
    free = stage.edge.api_status()["storage"]
    used = free["used_fraction"] * free["total_bytes"]
    stage.past("disk.used", lambda at, now: used - (now - at) / DAY * used * 0.06)
    stage.past("backlog/archive", day(160))
    stage.past("backlog/teleread", day(12))
    for calling, images in (("CT1", 24), ("MR1", 12), ("CR2", 4)):
        stage.send(calling, images)
    stage.settled()
    for _ in range(4):  # images are sent while the picture is taken
        stage.send("CT1", 12)
        page.wait_for_timeout(1200)
    stage.settled()
    page.wait_for_timeout(2500)
    _shoot(page, folder, "well")


def _outage(stage: Stage, page: Page, folder: Path) -> None:
    page.reload()  # without the notice about the last sign-in
    stage.archive.stop()
    for calling, images in (("CT1", 40), ("CR2", 6), ("MR1", 10)):
        stage.send(calling, images)
    wait_until(lambda: stage.edge.api_status()["destinations"]["archive"]["state"] == "down", 30, "it is noticed")
    page.wait_for_timeout(3000)
    _shoot(page, folder, "outage")
    stage.archive.start()
    stage.settled()


def _held(stage: Stage, page: Page, folder: Path) -> None:
    stage.send("DENT1", 3)  # no route matches
    stage.send("PORTABLE9", 1)  # nobody knows it
    page.wait_for_timeout(3000)
    _shoot(page, folder, "unroutable")


def _rest(stage: Stage, browser: Browser, page: Page, folder: Path) -> None:
    stage.send_contradiction()
    page.wait_for_timeout(3000)
    for path, name in (("/studies/1?proof=1", "study"), ("/queue", "queue"), ("/exceptions", "exceptions")):
        page.goto(stage.edge.url(path))
        _shoot(page, folder, name)
    received = stage.edge.api_status()["instances"]["received"]
    storescu([REAL_CT], stage.edge.port, calling="CT1")
    wait_until(lambda: stage.edge.api_status()["instances"]["received"] > received, 20, "it is here")
    page.goto(stage.edge.url(f"/instances/{received + 1}"))
    page.wait_for_function("document.querySelector('.look img').naturalWidth > 0")
    _shoot(page, folder, "look")
    _import(stage, page, folder)
    page.goto(stage.edge.url("/dry-run"))
    area = page.get_by_label("Routes")
    area.fill(area.input_value() + '\n[route.dental]\nwhen = { CallingAETitle = "DENT*" }\nto = ["teleread"]\n')
    page.get_by_role("button", name="Test with last week's images").click()
    _shoot(page, folder, "dry-run")
    state = page.context.storage_state()
    phone = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", storage_state=state)
    small = phone.new_page()
    small.goto(stage.edge.url("/"))
    small.wait_for_timeout(600)
    small.screenshot(path=folder / "phone.png")
    phone.close()


def _import(stage: Stage, page: Page, folder: Path) -> None:
    """A disc of another clinic, with a patient who is known here under another number."""
    disc = stage.folder / "disc"
    ct_files(disc, 12, 16 * 1024, PatientName=PATIENTS[0], PatientID="KH-20817", StudyDescription="CT ABDOMEN")
    done = stage.edge.cli("import", str(disc))
    assert done.returncode == 0, done.stderr
    page.goto(stage.edge.url("/import/1"))
    page.get_by_label("Whose is it here?").fill(PATIENTS[0].partition("^")[0])
    page.get_by_role("button", name="Find").click()
    page.locator("input[type=radio]").first.wait_for()
    _shoot(page, folder, "import")


def _shoot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png", full_page=True)


# -- the centre --------------------------------------------------------------------------------------------------------

SITES = 36
NEVER_SEEN, SILENT = "17", ("4", "9", "23")
ALERTS = {
    "12": ("storage-filling", "The disk is 91 % full, and scanners will be refused in 9 h"),
    "30": ("destination-down", "Destination archive does not answer"),
}


def take_central(browser: Browser, folder: Path) -> None:
    """Three sites behind one provider become silent, two have open alerts, one has never sent a heartbeat."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        CentralOffice(Path(name), some_sites(SITES, "Example Telecom")) as office,
    ):
        store = OpenDatabase(office.config.database_url())
        anna = Account("anna", UserRole.OPERATOR, hash_password(PASSWORD), time.time() - 1)
        Accounts(store, record_in_journal).put(anna, "test")
        store.close()
        for site in map(str, range(1, SITES + 1)):
            if site != NEVER_SEEN:
                _report(office, site)
        page = browser.new_context(viewport={"width": 1280, "height": 800}, ignore_https_errors=True).new_page()
        page.goto(office.url)
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.locator("h1", has_text="silent").wait_for(timeout=60_000)
        page.wait_for_timeout(8000)
        page.goto(office.url)
        _shoot(page, folder, "fleet")


def _report(office: CentralOffice, site: str) -> None:
    """Send a heartbeat; the sites that become silent have announced the next one for the next second."""
    now = time.time()
    kind, text = ALERTS.get(site, ("", ""))
    alert = {"kind": kind, "subject": "archive", "severity": "major", "text": text, "since": iso(now - 3600)}
    seen = status(alerts=[alert] if kind else [])
    body = encoded(document(site, 1, now, every_seconds=1.0 if site in SILENT else 3600.0, status=seen))
    headers = {"Edge-Site": site, "Edge-Signature": sign(key_of(site), body)}
    assert httpx.post(f"{office.url}/heartbeat", content=body, headers=headers, verify=office.context).is_success


if __name__ == "__main__":
    main(Path(sys.argv[1]))
