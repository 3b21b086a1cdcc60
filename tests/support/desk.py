"""A gateway with its archive, and an administrator at a browser: what the stories of the guide are played on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import find_barriers
from tests.support.peers import REPOSITORY, Edge, Orthanc, wait_until

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

    def apply_routes(self, to: str, reason: str, picture: str = "", when: str = "") -> None:
        """Test a route with last week's images, and apply it."""
        page = self.go("/dry-run")
        page.get_by_label("Routes").fill(f"[route.everything]\n{when}\nto = {to}\n")
        page.get_by_role("button", name="Test with last week").click()
        expect(page.get_by_text("would have been sent elsewhere").first).to_be_visible()
        page.get_by_label("Reason").fill(reason)
        if picture:
            self.shoot(picture)
        page.get_by_role("button", name="Apply to the files").click()
        expect(page.get_by_text("The routes are written into the files")).to_be_visible()


def is_drawn(image: Locator) -> bool:
    return bool(image.evaluate("each => each.complete && each.naturalWidth > 0"))


def decide(page: Page, line: Locator, action: str, reason: str) -> None:
    """Select a line of a list, and decide about it."""
    line.get_by_role("checkbox").check()
    page.get_by_label("Action").select_option(action)
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Apply", exact=True).click()


def try_again(page: Page, archive: Orthanc, alert: str) -> None:
    """The archive runs again, and a person has it tried at the alert; the form stays if the alert is over first."""
    form = page.locator(f"#alert-{alert}")
    form.locator("summary", has_text="Try it now").click()
    form.get_by_label("Reason").fill("it runs again")
    archive.start()
    form.get_by_role("button", name="Try it now").click()


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
