"""The banner and what follows it, as a person sees them in Chromium: read, accepted by keyboard, accessible."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from edge.web.accounts import UserRole
from edge.web.guard import Rules
from tests.support.browser import chromium, find_barriers, keep_picture, listening
from tests.support.web_site import PASSWORD, Site

BANNER = "You are accessing a system of the clinic.\n" + "\n".join(
    f"Paragraph {n}. " + "Words. " * 60 for n in range(8)
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site(Rules("edge-test", banner=BANNER))
    made.add("anna", UserRole.ADMIN)
    yield made
    made.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_the_banner_is_accepted_and_every_page_of_the_sign_in_is_accessible(
    site: Site, browser: Browser, theme: str, width: int
) -> None:
    size = {"width": width, "height": 844}
    context = browser.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    heard, faults = listening(page), {}
    look: Callable[[str], None] = lambda name: faults.update({name: find_barriers(page)})  # noqa: E731
    page.goto(f"{site.url}/accounts")
    expect(page.get_by_role("region", name="Before you sign in").first).to_contain_text("Paragraph 7")
    look("banner")
    keep_picture(page, f"console-{width}", "banner")
    accept = page.get_by_role("button", name="I have read this and accept it")
    accept.focus()
    page.keyboard.press("Enter")
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("a wrong password")
    look("sign-in")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("After 3 failures an account is locked for 15 min")
    look("refused")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("p.message.warn")).to_contain_text(
        "First sign-in of this account; 1 failed attempt since then."
    )
    expect(page.get_by_role("heading", name="Accounts", exact=True)).to_be_visible()
    look("accounts")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    look("signed out")
    assert not {name: found for name, found in faults.items() if found}
    assert [each for each in heard if "401" not in each] == []
    context.close()
