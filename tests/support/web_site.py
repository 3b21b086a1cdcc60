"""A small application behind the guard of edge.web, without a catalog: for what every page has in common."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge.web import passwords
from edge.web.accounts import Account, AccountError, Accounts, Use, UserRole
from edge.web.endpoints import needs, open_to_all
from edge.web.guard import Guard, Rules
from edge.web.login import Login
from edge.web.navigation import NavigationEntry, NavigationGroup
from edge.web.pages import Pages
from edge.web.server import WebServer
from edge.web.sessions import Sessions
from edge.web.setup import Setup
from tests.support.visitor import visitor

PASSWORD = "correct horse battery"
HASH = passwords.hash_password(PASSWORD)
SECRET = "Doe^Jane"
TEMPLATES = Path(__file__).parent  # the pages under test have none of their own


class Kept(Accounts):
    """Accounts in memory, and what was recorded of sign-ins."""

    def __init__(self) -> None:
        self.by_name: dict[str, Account] = {}
        self.signed_in: list[tuple[str, bool]] = []
        self.signed_out: list[str] = []
        self.addresses: list[str] = []

    def find(self, name: str) -> Account | None:
        return self.by_name.get(name)

    def all(self) -> list[Account]:
        return list(self.by_name.values())

    def put(self, account: Account, who: str, what: str = "") -> None:
        known = self.by_name.get(account.name, account).use
        self.by_name[account.name] = replace(account, use=replace(known, failed_at=(), locked_until=None))

    def add(self, account: Account, who: str) -> None:
        if account.name in self.by_name:
            raise AccountError(f"the account {account.name} exists already")
        self.put(account, who)

    def change(self, name: str, who: str, change: Callable[[Account], Account], what: str = "") -> Account:
        if name not in self.by_name:
            raise AccountError("the account no longer exists")
        self.put(change(self.by_name[name]), who, what)
        return self.by_name[name]

    def remove(self, name: str, who: str) -> int:
        return 1 if self.by_name.pop(name, None) else 0

    def record_sign_in(self, name: str, address: str, now: float) -> None:
        self._keep(name, Use(now, address))
        self._tell(name, True, address)

    def record_sign_out(self, name: str, address: str) -> None:
        self.signed_out.append(name)

    def record_failure(self, account: Account, address: str, now: float, lock_after: int) -> None:
        self._keep(account.name, self.by_name[account.name].use.after_failure(now, lock_after))
        self._tell(account.name, False, address)

    def record_unknown_name(self, address: str, left_out: int) -> None:
        self._tell("", False, address)

    def _keep(self, name: str, use: Use) -> None:
        if name in self.by_name:
            self.by_name[name] = replace(self.by_name[name], use=use)

    def _tell(self, name: str, success: bool, address: str) -> None:
        self.signed_in.append((name, success))
        self.addresses.append(address)


@dataclass
class Clock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


class Site:
    """A small application behind the guard."""

    def __init__(self, rules: Rules | None = None) -> None:
        rules = rules or Rules("edge-test")
        self.accounts, self.clock, self.sessions = Kept(), Clock(), Sessions()
        self.setup = Setup(self.accounts)
        self.clients: list[httpx.Client] = []
        shown = Pages(TEMPLATES, (NavigationGroup("Now", (NavigationEntry("/", "Overview"),)),), product="Edge")
        login = Login(self.accounts, self.sessions, shown, self.setup, self.clock, rules)

        def hello(request: Request) -> Response:
            return shown.render(request, "password.html", account=Account("anna", UserRole.VIEWER, HASH, 0.0))

        def fails(_: Request) -> Response:
            raise ValueError(SECRET)

        done = PlainTextResponse("done")
        routes = [
            *login.routes(),
            Route("/", needs(UserRole.VIEWER, hello)),
            Route("/operate", needs(UserRole.OPERATOR, lambda _: done), methods=["GET", "POST"]),
            Route("/fails", needs(UserRole.VIEWER, fails)),
            Route("/breaks/{rest}", open_to_all(fails)),
            Route("/n/{number:number}", open_to_all(lambda _: done)),
        ]
        guard = Guard(Starlette(routes=routes), self.accounts, self.sessions, rules, clock=self.clock)
        self.server = WebServer(guard, "127.0.0.1", 0)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"

    def add(self, name: str, role: UserRole) -> None:
        self.accounts.put(Account(name, role, HASH, self.clock() - 1), "")

    def browser(self) -> httpx.Client:
        self.clients.append(visitor(self.url, follow_redirects=False))
        return self.clients[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()

    def signed_in(self, role: UserRole) -> httpx.Client:
        name = role.name.lower()
        self.add(name, role)
        client = self.browser()
        assert sign_in(client, name).status_code == 303
        return client


def csrf(client: httpx.Client, path: str = "/sign-in") -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text)
    assert found
    return found[1]


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD, to: str = "/") -> httpx.Response:
    given = {"csrf": csrf(client), "name": name, "password": password, "to": to}
    return client.post("/sign-in", data=given)
