"""What every page has in common: sign-in, roles, CSRF, host names, headers, throttling, colours. Without a catalog."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from edge.text import as_sentence
from edge.web import pages, passwords, plot, sessions, throttle
from edge.web.accounts import Account, AccountError, UserRole
from edge.web.guard import Rules
from tests.support.web_site import HASH, PASSWORD, SECRET, Site, csrf, sign_in


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """For tests that leave nothing behind."""
    made = Site(Rules("edge-test", frozenset({"edge.clinic.test"})))
    yield made
    made.close()


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(rules: Rules | None = None) -> Site:
        made.append(Site(rules))
        return made[-1]

    yield make
    for site in made:
        site.close()


# -- who may what ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (None, "/", 303),
        (None, "/operate", 303),
        (None, "/accounts", 303),
        (None, "/sign-in", 200),
        (None, "/static/style.css", 200),
        (None, "/static/../accounts.py", 303),
        (UserRole.VIEWER, "/", 200),
        (UserRole.VIEWER, "/operate", 403),
        (UserRole.VIEWER, "/accounts", 403),
        (UserRole.OPERATOR, "/operate", 200),
        (UserRole.OPERATOR, "/accounts", 403),
        (UserRole.ADMIN, "/operate", 200),
        (UserRole.ADMIN, "/accounts", 200),
    ],
)
def test_roles(shared: Site, role: UserRole | None, path: str, status: int) -> None:
    client = shared.browser() if role is None else shared.signed_in(role)
    answer = client.get(path)
    if path == "/static/../accounts.py":
        assert answer.status_code in (303, 404)
    else:
        assert answer.status_code == status


def test_a_post_needs_a_token_of_the_same_browser(shared: Site) -> None:
    client, other = shared.signed_in(UserRole.OPERATOR), shared.signed_in(UserRole.OPERATOR)
    token = csrf(client, "/password")
    assert client.post("/operate", data={"csrf": token}).status_code == 200
    for given in ({"x": "y"}, {"csrf": ""}, {"csrf": csrf(other, "/password")}):
        assert client.post("/operate", data=given).status_code == 403
    assert client.post("/operate", data={"csrf": token}, headers={"Origin": "http://evil.test"}).status_code == 403
    assert client.post("/operate", json={"csrf": token}).status_code == 415
    assert client.post("/operate", data={"csrf": token, "x": "y" * 300_000}).status_code == 413


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:8042", 200), ("10.1.2.3", 200), ("edge.clinic.test", 200),
     ("EDGE.clinic.test:8042", 200), ("evil.test", 421), ("evil.test:8042", 421), ("127.0.0.1.evil.test", 421),
     ("", 421), ("[", 421)],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_not_answered(shared: Site, host: str, status: int) -> None:
    assert shared.browser().get("/sign-in", headers={"Host": host}).status_code == status


def test_every_answer_is_sealed(shared: Site) -> None:
    for path in ("/", "/sign-in", "/nowhere", "/operate"):
        told = shared.browser().get(path).headers
        policy = told["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (told["x-content-type-options"], told["cache-control"]) == ("nosniff", "no-store")
        assert "server" not in told
    cookie = shared.browser().get("/sign-in").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # it is not TLS here


def test_no_page_has_scripts_or_styles_of_its_own() -> None:
    for path in Path(pages.__file__).parent.parent.rglob("templates/*.html"):
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=|javascript:|https?://", text), path


def test_an_internal_error_shows_no_details(shared: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = shared.signed_in(UserRole.VIEWER).get("/fails")
    assert answer.status_code == 500
    assert SECRET not in answer.text + caplog.text
    assert "ValueError" in caplog.text


# -- sign-in -----------------------------------------------------------------------------------------------------------


def test_a_session_begins_and_ends(sites: Callable[..., Site]) -> None:
    site = sites()
    client = site.signed_in(UserRole.VIEWER)
    old = client.cookies["edge-test"]
    assert client.get("/").status_code == 200
    site.clock.now += sessions.SESSION_IDLE_SECONDS - 1
    assert client.get("/", headers={"HX-Request": "true"}).status_code == 200  # a page that refreshes itself
    site.clock.now += 2
    assert client.get("/").status_code == 303
    assert sign_in(client, "viewer").status_code == 303
    assert client.cookies["edge-test"] != old
    for _ in range(60):
        site.clock.now += sessions.SESSION_IDLE_SECONDS - 1
        if client.get("/").status_code == 303:
            break
    assert site.clock.now - time.time() < sessions.LIFE_SECONDS * 1.2 + 2 * sessions.SESSION_IDLE_SECONDS


def test_signing_out_and_losing_the_account_end_it(sites: Callable[..., Site]) -> None:
    site = sites()
    client = site.signed_in(UserRole.VIEWER)
    assert client.post("/sign-out", data={"csrf": csrf(client, "/password")}).status_code == 303
    assert client.get("/").status_code == 303
    assert site.accounts.signed_out == ["viewer"]
    assert "You are signed out" in client.get("/sign-in?out=1").text
    sign_in(client, "viewer")
    site.accounts.remove("viewer", "")
    assert client.get("/").status_code == 303
    site.clock.now += 10
    site.add("viewer", UserRole.VIEWER)
    site.clock.now += 10
    sign_in(client, "viewer")
    site.accounts.put(Account("viewer", UserRole.VIEWER, HASH, site.clock() + 1), "")  # a new password
    assert client.get("/").status_code == 303


@pytest.mark.parametrize("to", ["//evil.test", "https://evil.test/", "/\\evil.test", "evil"])
def test_the_sign_in_leads_nowhere_else(shared: Site, to: str) -> None:
    shared.add("viewer", UserRole.VIEWER)
    assert sign_in(shared.browser(), "viewer", to=to).headers["location"] == "/"


def test_unknown_and_wrong_names_get_the_same_answer_in_the_same_time(sites: Callable[..., Site]) -> None:
    site = sites()
    site.add("anna", UserRole.VIEWER)
    for name in ("anna", "nobody"):
        answer = sign_in(site.browser(), name, "wrong password")
        assert answer.status_code == 401
        assert "Name or password is wrong" in answer.text
    assert site.accounts.signed_in == [("anna", False), ("", False)]  # what is no account may be a password


def test_guessing_is_throttled_for_an_address(sites: Callable[..., Site]) -> None:
    site = sites()
    site.add("anna", UserRole.VIEWER)
    client = site.browser()
    told = [sign_in(client, "nobody", "wrong password").status_code for _ in range(throttle.FREE_FAILURES + 1)]
    assert told == [401] * throttle.FREE_FAILURES + [429]
    answer = sign_in(client, "anna")
    assert answer.status_code == 429  # the right one, too
    assert int(answer.headers["retry-after"]) >= 1
    site.clock.now += 2
    assert sign_in(client, "anna").status_code == 303


def test_the_throttle_doubles_up_to_its_most() -> None:
    made, now, waits = throttle.Throttle(), 0.0, []
    for _ in range(25):
        while (wait := made.begin("10.0.0.1", now)) > 0:
            waits.append(wait)
            now += wait
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == throttle.MAX_WAIT_SECONDS


@pytest.mark.parametrize("account", [None, Account("proxied", UserRole.VIEWER, "", 0.0)])
def test_who_has_no_password_takes_as_long_as_a_wrong_one(
    account: Account | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is derived in the same way, at the same cost, and once: that is what takes the time."""
    is_right, asked = passwords._is_right, list[tuple[list[str], int, int]]()

    def noted(kept: str, password: str) -> bool:
        *costs, salt, digest = kept.split("$")
        asked.append((costs, len(salt), len(digest)))
        return is_right(kept, password)

    monkeypatch.setattr(passwords, "_is_right", noted)
    for each in (Account("anna", UserRole.VIEWER, HASH, 0.0), account):
        assert not passwords.is_password_of(each, "wrong password")
    wrong, none = asked
    assert none == wrong


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "anna.anna.anna", "x" * 1000])
def test_weak_passwords_are_not_taken(password: str) -> None:
    with pytest.raises(AccountError):
        passwords.require_strong(password, "Anna.Anna.Anna")


def test_the_first_account_is_made_once_by_the_link(sites: Callable[..., Site]) -> None:
    site = sites()
    client = site.browser()
    link = site.setup.link("")
    assert link
    token = link.partition("token=")[2]
    assert client.get("/setup?token=guessed").status_code == 403
    given = {"csrf": csrf(client, link), "token": token, "name": "anna", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/setup", data=given | {"again": "another one, typed"}).status_code == 422
    assert client.post("/setup", data=given | {"token": "guessed"}).status_code == 403
    assert client.post("/setup", data=given).status_code == 303
    assert client.get("/accounts").status_code == 200  # signed in, as administrator
    assert site.setup.link("") is None
    late = site.browser()
    assert late.post("/setup", data=given | {"csrf": csrf(late)}).status_code == 403


def test_accounts_are_added_changed_and_removed(sites: Callable[..., Site]) -> None:
    site = sites()
    admin = site.signed_in(UserRole.ADMIN)
    token = csrf(admin, "/accounts")
    given = {"csrf": token, "name": "ben", "role": "viewer", "password": PASSWORD, "again": PASSWORD}
    assert admin.post("/accounts/add", data=given).status_code == 200
    assert admin.post("/accounts/add", data=given).status_code == 422  # there is one already
    site.clock.now += 2
    ben = site.browser()
    assert sign_in(ben, "ben").status_code == 303
    site.clock.now += 2
    change = {"csrf": token, "name": "ben"}
    assert admin.post("/accounts/change", data=change | {"what": "role", "role": "operator"}).status_code == 200
    assert ben.get("/").status_code == 303  # another role is another session
    assert admin.post("/accounts/change", data=change | {"what": "role", "role": "god"}).status_code == 422
    assert admin.post("/accounts/change", data=change | {"what": "remove"}).status_code == 200
    assert sign_in(ben, "ben").status_code == 401
    assert admin.post("/accounts/change", data={"csrf": token, "name": "admin", "what": "remove"}).status_code == 422


def test_one_changes_the_own_password(sites: Callable[..., Site]) -> None:
    site = sites()
    client, elsewhere = site.signed_in(UserRole.VIEWER), site.browser()
    sign_in(elsewhere, "viewer")
    given = {
        "csrf": csrf(client, "/password"),
        "old": "wrong",
        "password": "another good one",
        "again": "another good one",
    }
    assert client.post("/password", data=given).status_code == 422
    site.clock.now += 5
    assert client.post("/password", data=given | {"old": PASSWORD}).status_code == 303
    assert client.get("/").status_code == 200
    assert elsewhere.get("/").status_code == 303


# -- behind a proxy that knows people ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "default", "name", "status"),
    [
        (("127.0.0.0/8",), None, "CN=OPERATOR.1", 200),  # an account without password
        (("127.0.0.0/8",), None, "CN=STRANGER.2", 303),  # no account: not admitted
        (("127.0.0.0/8",), UserRole.OPERATOR, "CN=STRANGER.2", 200),
        (("127.0.0.0/8",), UserRole.VIEWER, "CN=STRANGER.2", 403),
        (("10.0.0.1",), UserRole.ADMIN, "CN=OPERATOR.1", 303),  # it says so, but nobody trusts it
        ((), UserRole.ADMIN, "CN=OPERATOR.1", 303),
        (("127.0.0.0/8",), UserRole.ADMIN, "", 303),
    ],
)
def test_a_trusted_proxy_vouches(
    sites: Callable[..., Site], proxies: tuple[str, ...], default: UserRole | None, name: str, status: int
) -> None:
    site = sites(Rules("edge-test", frozenset(), "X-Remote-User", proxies, default))
    site.accounts.put(Account("CN=OPERATOR.1", UserRole.OPERATOR, "", 0.0), "")
    client = site.browser()
    assert client.get("/operate", headers={"X-Remote-User": name}).status_code == status
    if status == 200:
        assert client.get("/operate").status_code == 303  # without the proxy's word the cookie is worth nothing
        token = csrf_with(client, name)
        given, headers = {"csrf": token}, {"X-Remote-User": name, "X-Forwarded-Proto": "https"}
        assert client.post("/operate", data=given, headers=headers).status_code == 200
        assert site.accounts.signed_in[0] == (name, True)


def csrf_with(client: httpx.Client, name: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get("/", headers={"X-Remote-User": name}).text)
    assert found
    return found[1]


def test_the_cookie_is_secure_where_the_proxy_speaks_tls(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", proxies=("127.0.0.1",)))
    answer = site.browser().get("/sign-in", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]


# -- how it looks ------------------------------------------------------------------------------------------------------


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, contrast ratio."""
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_pair_of_colours_has_enough_contrast(theme: str) -> None:
    css = (Path(pages.__file__).parent / "static" / "style.css").read_text()
    light, dark = css.partition("@media (prefers-color-scheme: dark)")[::2]
    found = colours(light) if theme == "light" else colours(dark.partition("}\n}")[0])
    papers = ("paper", "card", "sunk", "accent-soft", "good-soft", "warn-soft", "bad-soft", "idle-soft")
    texts = [(text, paper) for text in ("ink", "dim", "accent") for paper in papers]
    texts += [
        (state, paper) for state in ("good", "warn", "bad", "idle") for paper in ("card", "sunk", f"{state}-soft")
    ]
    texts += [("on-accent", "accent")]
    poor = {pair: contrast(found[pair[0]], found[pair[1]]) for pair in texts}
    assert not {pair: ratio for pair, ratio in poor.items() if ratio < 4.5}
    assert all(contrast(found["edge"], found[paper]) >= 3 for paper in ("card", "paper", "sunk"))  # borders of fields


def test_a_plot_keeps_its_peaks_and_says_what_it_shows() -> None:
    day = 86400.0
    points = [(i * 60.0, 5000.0 if i == 700 else 1.0) for i in range(1440)]
    drawn = str(plot.over_time(points, 0.0, day, label="Waiting <b>", forecast=(day + 7200, 0.0)))
    assert "5,000" in drawn
    assert drawn.count(",") < 500
    assert "Waiting &lt;b&gt;" in drawn
    assert "plot-forecast" in drawn
    assert "nothing measured yet" in str(plot.over_time([], 0.0, day, label=""))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("the two passwords differ", "The two passwords differ."),
        ("archive does not answer", "Archive does not answer."),
        ("ct1 is there already", "ct1 is there already."),
        ("20-extra.toml:2: unknown key", "20-extra.toml:2: unknown key."),
        ("Choose an action.", "Choose an action."),
        ("", ""),
    ],
)
def test_an_error_is_a_sentence_and_a_name_keeps_its_letters(error: str, sentence: str) -> None:
    assert as_sentence(error) == sentence
