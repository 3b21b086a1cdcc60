"""Stages troubles on a real gateway and takes the pictures of docs/console.md: `python -m tests.staged docs/console`.

The gateway, the archives and the traffic are real; only the day before is made up, so that the plots have a past.
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

from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.objects import ct_files
from tests.peers import Edge, StoreScp, storescu, wait_until

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

    def past(self, name: str, height: Any, hours: float = 24.0) -> None:
        """Make up what was measured before."""
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
    """A backlog that comes and goes with the working hours."""
    noise = random.Random(7)

    def height(at: float, now: float) -> float:
        hour = time.localtime(at).tm_hour + time.localtime(at).tm_min / 60
        return peak * max(0.0, math.sin((hour - 7) / 11 * math.pi)) * noise.uniform(0.5, 1.0) if 7 < hour < 18 else 0.0

    return height


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        stage = Stage(Path(name), stack)
        browser = stack.enter_context(chromium())
        page = _signed_in(browser, stage)
        _well(stage, page, folder)
        _outage(stage, page, folder)
        _held(stage, page, folder)
        _rest(stage, browser, page, folder)


def _signed_in(browser: Browser, stage: Stage) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.goto(stage.link)
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
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
    for _ in range(4):  # something flows while the picture is taken
        stage.send("CT1", 12)
        page.wait_for_timeout(1200)
    stage.settled()
    page.wait_for_timeout(2500)
    _shoot(page, folder, "well")


def _outage(stage: Stage, page: Page, folder: Path) -> None:
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
    for path, name in (("/studies", "studies"), ("/studies/1?proof=1", "study"), ("/queue", "queue")):
        page.goto(stage.edge.url(path))
        _shoot(page, folder, name)
    page.goto(stage.edge.url("/rehearsal"))
    area = page.get_by_label("Routes")
    area.fill(area.input_value() + '\n[route.dental]\nwhen = { CallingAETitle = "DENT*" }\nto = ["teleread"]\n')
    page.get_by_role("button", name="Try it on last week").click()
    _shoot(page, folder, "dry-run")
    state = page.context.storage_state()
    phone = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", storage_state=state)
    small = phone.new_page()
    small.goto(stage.edge.url("/"))
    small.wait_for_timeout(600)
    small.screenshot(path=folder / "phone.png")
    phone.close()


def _shoot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
