"""Signing in as an assessor asks for it: banner, lock, sessions, last sign-in, passwords, accounts that end."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from edge.console.accounts import record_in_ledger
from edge.web import passwords, setup
from edge.web.accounts import (
    ACCOUNT_LOCK_SECONDS,
    FAILURE_SECONDS,
    Account,
    AccountError,
    Accounts,
    Use,
    UserRole,
    end_of_day,
    last_day,
)
from edge.web.guard import Rules
from edge.web.setup import Setup
from tests.support.console_site import ConsoleSite
from tests.support.ledger_rows import with_words
from tests.support.peers import wait_until
from tests.support.web_site import HASH, PASSWORD, Kept, Site, csrf, sign_in

BANNER = "You are accessing a test system.\nBy using it you consent to <monitoring>."
WRONG = "a wrong password"


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(rules: Rules | None = None) -> Site:
        made.append(Site(rules))
        return made[-1]

    yield make
    for site in made:
        site.close()


# -- the banner --------------------------------------------------------------------------------------------------------


def marked(text: str) -> str:
    found = re.search(r'name="acknowledged" value="([0-9a-f]+)"', text)
    assert found
    return found[1]


def acknowledge(client: httpx.Client, path: str = "/sign-in", **given: str) -> httpx.Response:
    return client.post(path, data={"csrf": csrf(client), "acknowledge": "yes", **given})


def test_nobody_signs_in_before_the_banner_is_acknowledged(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", banner=BANNER))
    site.add("anna", UserRole.VIEWER)
    client = site.browser()
    shown = client.get("/sign-in?to=/operate").text
    assert "You are accessing a test system.\nBy using it you consent to &lt;monitoring&gt;." in shown
    assert 'name="password"' not in shown
    given = {"csrf": csrf(client), "name": "anna", "password": PASSWORD, "to": "/"}
    for mark in ({}, {"acknowledged": ""}, {"acknowledged": "0" * 64}, {"acknowledged": "ü"}):
        assert client.post("/sign-in", data=given | mark).status_code == 403
        assert client.get("/").status_code == 303
    form = acknowledge(client, to="/operate")
    assert 'name="password"' in form.text
    assert 'value="/operate"' in form.text
    mark = {"acknowledged": marked(form.text)}
    other = site.browser()
    assert other.post("/sign-in", data=given | mark | {"csrf": csrf(other)}).status_code == 403  # not its own
    refused = client.post("/sign-in", data=given | mark | {"password": WRONG})
    assert refused.status_code == 401
    assert client.post("/sign-in", data=given | {"acknowledged": marked(refused.text)}).status_code == 303
    assert client.get("/").status_code == 200
    client.post("/sign-out", data={"csrf": csrf(client, "/password")})
    assert BANNER.partition("\n")[0] in client.get("/sign-in").text  # each time


def test_the_first_account_is_made_behind_the_banner(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", banner=BANNER))
    client, link = site.browser(), site.setup.link("")
    assert link
    assert "You are accessing" in client.get(link).text
    token = link.partition("token=")[2]
    given = {"csrf": csrf(client), "token": token, "name": "anna", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/setup", data=given).status_code == 403
    assert not site.accounts.all()
    mark = marked(acknowledge(client, "/setup", token=token).text)
    assert client.post("/setup", data=given | {"acknowledged": mark}).status_code == 303


def test_a_user_named_by_a_proxy_acknowledges_too(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", frozenset(), "X-Remote-User", ("127.0.0.1",), UserRole.OPERATOR, banner=BANNER))
    client = site.browser()
    client.headers["X-Remote-User"] = "CN=OPERATOR.1"
    assert client.get("/operate").headers["location"] == "/sign-in?to=/operate"
    assert "You are accessing" in client.get("/sign-in?to=/operate").text
    assert client.post("/operate", data={"csrf": csrf(client)}).status_code == 303
    assert acknowledge(client, to="/operate").headers["location"] == "/operate"
    assert client.get("/operate").status_code == 200


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_three_failures_lock_an_account_and_time_or_an_administrator_unlocks_it(sites: Callable[..., Site]) -> None:
    site = sites()
    site.add("anna", UserRole.VIEWER)
    admin, client = site.signed_in(UserRole.ADMIN), site.browser()
    texts = {sign_in(client, "anna", WRONG).text.partition("Name or")[2][:60] for _ in range(3)}
    answer = sign_in(client, "anna")
    assert answer.status_code == 401  # the right password, too
    assert answer.text.partition("Name or")[2][:60] in texts  # and nobody learns that there is such an account
    assert "locked" in admin.get("/accounts").text
    site.clock.now += ACCOUNT_LOCK_SECONDS + 1
    assert sign_in(site.browser(), "anna").status_code == 303
    for _ in range(3):
        sign_in(client, "anna", WRONG)
    site.clock.now += 60
    assert sign_in(site.browser(), "anna").status_code == 401
    admin = site.signed_in(UserRole.ADMIN)
    given = {"csrf": csrf(admin, "/accounts"), "name": "anna", "what": "unlock"}
    assert admin.post("/accounts/change", data=given).status_code == 200
    assert sign_in(site.browser(), "anna").status_code == 303


def test_a_lock_ends_no_session_of_its_owner(sites: Callable[..., Site]) -> None:
    site = sites()
    client, other = site.signed_in(UserRole.VIEWER), site.browser()
    for _ in range(3):
        sign_in(other, "viewer", WRONG)
    assert client.get("/").status_code == 200


def test_tries_that_come_together_are_counted_one_by_one(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites(Rules("edge-test", proxies=("127.0.0.1",)))
    site.add("anna", UserRole.VIEWER)
    matches, trying, together = passwords.is_password_of, threading.Lock(), []

    def watched(account: Account | None, password: str) -> bool:
        if not trying.acquire(blocking=False):
            together.append(password)
            return False
        try:
            return matches(account, password)  # takes the time in which another try would come
        finally:
            trying.release()

    monkeypatch.setattr(passwords, "is_password_of", watched)
    clients = [site.browser() for _ in range(8)]
    for number, client in enumerate(clients):
        client.headers["X-Forwarded-For"] = f"10.0.0.{number}"
    forms = [(each, {"csrf": csrf(each), "name": "anna", "password": WRONG}) for each in clients]
    threads = [threading.Thread(target=each.post, args=("/sign-in",), kwargs={"data": form}) for each, form in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together, "a try began before the one before it was counted"
    assert site.accounts.by_name["anna"].use.locked_until is not None
    assert 4 <= site.accounts.by_name["anna"].use.failures <= 8  # the others were asked to come again


def test_a_crowd_at_the_door_leaves_those_inside_their_places(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites(Rules("edge-test", proxies=("127.0.0.1",)))
    inside = site.signed_in(UserRole.VIEWER)
    begun, go_on = threading.Event(), threading.Event()

    def slow(account: Account | None, password: str) -> bool:
        begun.set()
        return go_on.wait(20) and False

    monkeypatch.setattr(passwords, "is_password_of", slow)
    crowd = [site.browser() for _ in range(16)]
    forms = [(each, {"csrf": csrf(each), "name": "nobody", "password": "x"}) for each in crowd]
    answers: list[int] = []

    def try_one(number: int, client: httpx.Client, form: dict[str, str]) -> None:
        headers = {"X-Forwarded-For": f"10.0.0.{number}"}
        answers.append(client.post("/sign-in", data=form, headers=headers).status_code)

    threads = [threading.Thread(target=try_one, args=(number, *each)) for number, each in enumerate(forms)]
    try:
        for thread in threads:
            thread.start()
        assert begun.wait(60)
        assert inside.get("/", timeout=5).status_code == 200
        wait_until(lambda: len(answers) >= len(crowd) - 4, 10, "those beyond the places are answered")
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(set(answers)) == [401, 429]
    assert answers.count(401) <= 4


@pytest.mark.parametrize(
    ("times", "locked"),
    [((0, 1, 2), True), ((0, 1), False), ((0, 1, FAILURE_SECONDS + 2), False), ((0, 899, 1000, 1001), True)],
)
def test_only_failures_within_the_time_count(times: tuple[float, ...], locked: bool) -> None:
    use = Use()
    for at in times:
        use = use.after_failure(at, 3)
    assert use.is_locked(times[-1]) == locked
    assert use.failures == len(times)


def test_a_clock_that_was_wrong_locks_nobody_for_good() -> None:
    use = Use()
    for _ in range(3):
        use = use.after_failure(1e9, 3)
    assert use.is_locked(1e9)
    assert not use.is_locked(0.0)
    later = use
    for second in range(100):
        later = later.after_failure(1e9 + second, 3)
    assert later.locked_until == use.locked_until  # who goes on trying makes it no longer


def test_the_number_of_failures_is_configurable(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", lock_after=1))
    site.add("anna", UserRole.VIEWER)
    sign_in(site.browser(), "anna", WRONG)
    assert sign_in(site.browser(), "anna").status_code == 401


def test_a_wrong_present_password_counts_as_well(sites: Callable[..., Site]) -> None:
    site = sites()
    client = site.signed_in(UserRole.VIEWER)
    given = {"csrf": csrf(client, "/password"), "old": WRONG, "password": "x", "again": "x"}
    for _ in range(3):
        assert client.post("/password", data=given).status_code == 422
    assert site.accounts.by_name["viewer"].use.is_locked(site.clock())
    right = given | {"old": PASSWORD, "password": "another good one", "again": "another good one"}
    assert "or the account is locked for 15 min" in client.post("/password", data=right).text


def test_names_that_are_no_account_fill_no_record(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", proxies=("127.0.0.1",)))
    client = site.browser()
    token = csrf(client)
    for number in range(30):
        client.headers["X-Forwarded-For"] = f"10.0.{number}.1"
        client.post("/sign-in", data={"csrf": token, "name": f"n{number}", "password": "x"})
    assert len(site.accounts.signed_in) == 20


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_an_account_has_so_many_sessions_and_the_oldest_ends(sites: Callable[..., Site]) -> None:
    site = sites()
    site.add("anna", UserRole.VIEWER)
    clients = []
    for _ in range(4):
        clients.append(site.browser())
        site.clock.now += 1
        assert sign_in(clients[-1], "anna").status_code == 303
    assert [each.get("/").status_code for each in clients] == [303, 200, 200, 200]
    site.add("ben", UserRole.VIEWER)
    assert sign_in(site.browser(), "ben").status_code == 303
    assert clients[1].get("/").status_code == 200  # somebody else's count for themselves


def test_an_administrator_s_session_ends_sooner(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", idle=100.0, admin_idle=50.0))
    viewer, admin = site.signed_in(UserRole.VIEWER), site.signed_in(UserRole.ADMIN)
    site.clock.now += 51
    assert viewer.get("/").status_code == 200
    assert admin.get("/").status_code == 303
    site.clock.now += 101
    assert viewer.get("/").status_code == 303


def test_the_last_sign_in_is_shown_once_with_its_failures(sites: Callable[..., Site]) -> None:
    site = sites()
    client = site.signed_in(UserRole.VIEWER)
    assert "First sign-in" in client.get("/operate-not").text + client.get("/").text
    assert "Last sign-in" not in client.get("/accounts").text
    for _ in range(2):
        sign_in(site.browser(), "viewer", WRONG)
    again = site.browser()
    sign_in(again, "viewer")
    shown = again.get("/").text
    assert re.search(r"Last sign-in <time.*</time> from 127\.0\.0\.1; 2 failed attempts since then\.", shown)
    assert '<p class="message warn">' in shown
    assert '<p class="message warn">' not in again.get("/").text


# -- accounts that end -------------------------------------------------------------------------------------------------


def test_an_account_is_disabled_and_expires_at_once(sites: Callable[..., Site]) -> None:
    site = sites()
    admin, client = site.signed_in(UserRole.ADMIN), site.signed_in(UserRole.VIEWER)
    given = {"csrf": csrf(admin, "/accounts"), "name": "viewer"}
    assert "was disabled" in admin.post("/accounts/change", data=given | {"what": "disable"}).text
    assert client.get("/").status_code == 303
    assert sign_in(client, "viewer").status_code == 401
    assert "was enabled" in admin.post("/accounts/change", data=given | {"what": "enable"}).text
    site.clock.now += 1
    assert sign_in(client, "viewer").status_code == 303
    day = last_day(site.clock() + 86400)
    assert "expires after" in admin.post("/accounts/change", data=given | {"what": "expires", "expires": day}).text
    assert client.get("/").status_code == 200
    site.accounts.by_name["viewer"] = replace(site.accounts.by_name["viewer"], expires_at=site.clock() + 5)
    site.clock.now += 6
    assert client.get("/").status_code == 303
    assert sign_in(client, "viewer").status_code == 401
    assert admin.post("/accounts/change", data=given | {"what": "expires", "expires": "soon"}).status_code == 422


@pytest.mark.parametrize("what", ["role", "disable", "remove", "password"])
def test_who_sets_a_password_undoes_nothing_that_an_administrator_does_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    chosen, reset, hash_password = "quiet lantern over snow", "violet anchor by noon", passwords.hash_password
    with ConsoleSite(tmp_path) as site:
        admin, operator = site.person("admin"), site.person("operator")
        given = {"csrf": csrf(admin, "/accounts"), "name": "operator", "what": what, "role": "viewer"}
        given |= {"password": reset, "again": reset}

        def hash_in_the_midst(password: str) -> str:
            if password == chosen:
                assert admin.post("/accounts/change", data=given).status_code == 200
            return hash_password(password)

        monkeypatch.setattr(passwords, "hash_password", hash_in_the_midst)
        form = {"csrf": csrf(operator, "/password"), "old": PASSWORD, "password": chosen, "again": chosen}
        operator.post("/password", data=form)
        found = Accounts(site.db, record_in_ledger).find("operator")
    assert (found is None) == (what == "remove")
    if found is not None:
        assert found.disabled == (what == "disable")
        assert found.role == (UserRole.VIEWER if what == "role" else UserRole.OPERATOR)
        assert passwords.is_password_of(found, reset if what == "password" else chosen)


def test_of_two_administrators_who_add_one_name_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_password = passwords.hash_password
    with ConsoleSite(tmp_path) as site:
        accounts, admin = Accounts(site.db, record_in_ledger), site.person("admin")

        def hash_in_the_midst(password: str) -> str:
            accounts.put(Account("nora", UserRole.VIEWER, HASH, 1.0), "another")
            return hash_password(password)

        monkeypatch.setattr(passwords, "hash_password", hash_in_the_midst)
        password = {"password": "quiet lantern over snow", "again": "quiet lantern over snow"}
        form = {"csrf": csrf(admin, "/accounts"), "name": "nora", "role": "admin", **password}
        assert "exists already" in admin.post("/accounts/add", data=form).text
        found = accounts.find("nora")
        assert found is not None
        assert found.role is UserRole.VIEWER


def test_whom_a_proxy_names_is_not_let_in_when_disabled(sites: Callable[..., Site]) -> None:
    site = sites(Rules("edge-test", frozenset(), "X-Remote-User", ("127.0.0.1",), UserRole.ADMIN))
    site.accounts.put(Account("anna", UserRole.VIEWER, "", 0.0, disabled=True), "")
    assert site.browser().get("/", headers={"X-Remote-User": "anna"}).status_code == 303


def test_a_last_day_ends_at_its_end() -> None:
    end = end_of_day("2026-12-31")
    assert end is not None
    assert last_day(end) == "2026-12-31"
    assert (end_of_day(""), end_of_day("never"), last_day(None)) == (None, None, "never")
    for text in ("2026-13-01", "31.12.2026", "9999-12-31T", "²"):
        with pytest.raises(AccountError):
            end_of_day(text)


def test_a_setup_link_ends(sites: Callable[..., Site]) -> None:
    now = [0.0]
    made = Setup(Kept(), lambda: now[0])
    first = made.link("")
    assert first
    assert made.is_valid(first.partition("token=")[2])
    now[0] = setup.LINK_SECONDS + 1
    assert not made.is_valid(first.partition("token=")[2])
    assert not made.spend(first.partition("token=")[2], Account("anna", UserRole.ADMIN, "", 0.0))
    second = made.link("")
    assert second
    assert second != first
    assert made.spend(second.partition("token=")[2], Account("anna", UserRole.ADMIN, "", 0.0))
    assert not made.is_valid("ü")


# -- the catalog -------------------------------------------------------------------------------------------------------


def test_accounts_of_the_catalog_keep_their_use_and_every_event_is_in_the_ledger(tmp_path: Path) -> None:
    from edge.console.accounts import record_in_ledger
    from edge.store.database import Store
    from edge.web.accounts import Accounts

    db = Store(tmp_path / "catalog.db")
    kept = Accounts(db, record_in_ledger)
    try:
        kept.put(Account("anna", UserRole.VIEWER, HASH, 1.0, expires_at=end_of_day("2030-12-31")), "root")
        for second in range(5):
            found = kept.find("anna")
            assert found
            kept.record_failure(found, "10.0.0.1", 1000.0 + second, 3)
        locked = kept.find("anna")
        assert locked
        assert locked.use.is_locked(1004.0)
        assert locked.use.failures == 5
        kept.put(locked, "root", "unlocked")
        kept.record_sign_in("anna", "10.0.0.2", 1010.0)
        assert kept.find("anna") == replace(locked, use=Use(1010.0, "10.0.0.2"))
        kept.record_sign_out("anna", "10.0.0.2")
        kept.record_unknown_name("10.0.0.3", 7)
        with db.reading() as conn:
            sql = "SELECT event, who, words(event, detail, payload), instances FROM ledger ORDER BY seq"
            rows = [tuple(row) for row in with_words(conn).execute(sql)]
    finally:
        db.close()
    refused = ("refused", "anna", "sign-in at the console, from 10.0.0.1", "[]")
    assert rows == [
        ("configured", "root", "account anna: viewer, until 2030-12-31", "[]"),
        *[refused] * 3,
        (
            "configured",
            "edge",
            "account anna: locked until 1970-01-01T00:31:42Z after 3 failures, from 10.0.0.1",
            "[]",
        ),
        ("configured", "root", "account anna: unlocked", "[]"),
        ("signed-in", "anna", "at the console, from 10.0.0.2", "[]"),
        ("signed-in", "anna", "signed out at the console, from 10.0.0.2", "[]"),
        ("refused", "", "sign-in at the console, from 10.0.0.3 (and 7 more like it)", "[]"),
    ]


def test_a_catalog_of_before_keeps_its_accounts(tmp_path: Path) -> None:
    from importlib import resources

    from edge.store.database import connect, migrate
    from edge.web.accounts import find

    conn = connect(tmp_path / "catalog.db")
    try:
        for entry in sorted((resources.files("edge.store") / "migrations").iterdir(), key=lambda each: each.name):
            if entry.name.endswith(".sql") and int(entry.name[:4]) <= 8:
                conn.executescript(entry.read_text())
        conn.execute("PRAGMA user_version = 8")
        conn.execute("INSERT INTO account VALUES ('anna', 'operator', ?, 5.0)", (HASH,))
        migrate(conn)
        found = find(conn, "anna")
    finally:
        conn.close()
    assert found == Account("anna", UserRole.OPERATOR, HASH, 5.0)
    assert found.may_sign_in(10.0)
