"""A real Chromium for the tests, Debian's own, without any network but the loopback.

Its shell without windows signs in and shows pages as the whole does, for a third of the work: that watches over
passwords, profiles and updates. Where a machine has the whole alone, that is taken.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.peers import requires

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: What is asked beyond axe-core's own choice: WCAG 2.2, 2.5.8; and only what is wrong is listed.
AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
FAULTS = f"axe.run({json.dumps(AXE)}).then(each => each.violations)"
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
#: Tables without a caption, or without heads of columns or rows; but for those of the guide.
NAMELESS = """
    [...document.querySelectorAll("table")]
    .filter(each => !each.closest(".prose") && (!each.caption || !each.querySelector("th[scope]"))).length
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        program = shutil.which("chromium-headless-shell") or requires("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


def listening(page: Page) -> list[str]:
    """What the page complains about from now on: scripts that fail, what the content policy forbids."""
    heard: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            heard.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


def keep_picture(page: Page, group: str, path: str) -> None:
    """Keep a picture of a page below the folder EDGE_PICTURES, where it is set: for whoever changes how pages look."""
    if folder := os.environ.get("EDGE_PICTURES"):
        name = path.strip("/").translate(str.maketrans("/?=&", "----")) or "first"
        page.screenshot(path=Path(folder) / group / f"{name}.png", full_page=True)


#: On a desk by day, and on a phone by night.
LOOKS = ("light", 1440), ("dark", 390)


def find_barriers_in_each_look(page: Page, group: str, path: str) -> list[str]:
    """What keeps somebody from using a page that is open, on a desk and on a phone; a picture of each is kept."""
    faults = []
    for theme, width in LOOKS:
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        faults += [f"{theme}, {width}: {each}" for each in find_barriers(page)]
        keep_picture(page, f"{group}-{width}", path)
    return faults


def find_barriers(page: Page) -> list[str]:
    """What keeps somebody from using a page, every form open: rules of axe-core, tables, and scrolling sideways."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate(FAULTS)
    faults = [f"{each['id']}: {node['html'][:120]}" for each in found for node in each["nodes"]]
    faults += ["the page scrolls sideways"] * page.evaluate(SIDEWAYS)
    return faults + ["a table without caption or heads"] * page.evaluate(NAMELESS)
