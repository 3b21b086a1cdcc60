"""A gateway with its archive, and an administrator at a browser: what the stories of the guide are played on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.support.browser import find_barriers
from tests.support.peers import REPOSITORY, Edge, wait_until

#: Pictures for docs/guide, copied there by whoever changes a page.
PICTURES = REPOSITORY / "build" / "guide"
NAME, PASSWORD = "anna", "correct horse battery"


@dataclass
class Desk:
    """A gateway, and an administrator at a browser."""

    edge: Edge
    page: Page

    @property
    def folder(self) -> Path:
        return self.edge.directory

    def go(self, path: str) -> Page:
        self.page.goto(self.edge.url(path))
        return self.page

    def shoot(self, name: str, *, whole: bool = False) -> None:
        """Keep a picture of the page for docs/guide: what is shown there is what is there."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)

    def sees_no_barrier(self) -> None:
        assert find_barriers(self.page) == []


def sit_down(browser: Browser, edge: Edge) -> Desk:
    """Make the first account of a running gateway, by the link in its log."""
    setup = re.compile(r"http://\S+/setup\S+")
    wait_until(lambda: setup.search(edge.log.read_text()), 60, "the setup link")
    desk = Desk(edge, browser.new_page(viewport={"width": 1100, "height": 720}))
    desk.page.goto(setup.findall(edge.log.read_text())[-1])
    desk.page.get_by_label("Name").fill(NAME)
    for field in desk.page.locator("input[type=password]").all():
        field.fill(PASSWORD)
    desk.page.locator("main button").first.click()
    desk.page.wait_for_url(edge.url("/"))
    return desk
