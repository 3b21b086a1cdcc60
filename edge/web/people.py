"""The administrators' list of accounts: added, changed, disabled, unlocked, removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.web import accounts as kept
from edge.web import passwords
from edge.web.accounts import Account, AccountError, Accounts, Role
from edge.web.guard import needs, visitor_of
from edge.web.pages import Pages


class People:
    """The pages of this module; `routes` go into the application."""

    def __init__(self, accounts: Accounts, pages: Pages, clock: Callable[[], float] = time.time) -> None:
        self._accounts, self._pages, self._clock = accounts, pages, clock
        self._changes: dict[str, Callable[[Request, Account], str]] = {
            "remove": self._remove,
            "role": self._set_role,
            "password": self._set_password,
            "disable": self._disable,
            "enable": self._enable,
            "unlock": self._unlock,
            "expires": self._set_last_day,
        }

    def routes(self) -> list[Route]:
        post = ["POST"]
        return [
            Route("/accounts", needs(Role.ADMIN, self.list_accounts)),
            Route("/accounts/add", needs(Role.ADMIN, self.add), methods=post),
            Route("/accounts/change", needs(Role.ADMIN, self.change), methods=post),
        ]

    def list_accounts(self, request: Request, fault: str = "", notice: str = "", status: int = 200) -> Response:
        now = self._clock()
        found = [(each, each.state(now)) for each in self._accounts.all()]
        return self._pages.render(
            request, "accounts.html", code=status, accounts=found, last_day=kept.last_day, fault=fault, notice=notice
        )

    def add(self, request: Request) -> Response:
        visitor = visitor_of(request)
        try:
            name = kept.checked_name(visitor.field("name"))
            if self._accounts.find(name):
                raise AccountError(f"there is an account {name} already")
            role, expires_at = _role(visitor.field("role")), kept.end_of_day(visitor.field("expires"))
            password = passwords.hashed(new_password(request, name)) if visitor.field("password") else ""
            made = Account(name, role, password, self._clock(), expires_at=expires_at)
            self._accounts.put(made, visitor.name)
        except AccountError as error:
            return self.list_accounts(request, fault=sentence(error), status=422)
        return self.list_accounts(request, notice=f"{name} may sign in.")

    def change(self, request: Request) -> Response:
        """One change of somebody else's account."""
        visitor = visitor_of(request)
        account = self._accounts.find(visitor.field("name"))
        change = self._changes.get(visitor.field("what"))
        try:
            if account is None:
                raise AccountError("there is no such account any more")
            if change is None:
                raise AccountError("expected a change that the page offers")
            if account.name == visitor.name:
                raise AccountError("nobody changes or removes the own account here; another administrator can")
            return self.list_accounts(request, notice=change(request, account))
        except AccountError as error:
            return self.list_accounts(request, fault=sentence(error), status=422)

    def _put(self, request: Request, account: Account, what: str = "") -> None:
        self._accounts.put(account, visitor_of(request).name, what)

    def _remove(self, request: Request, account: Account) -> str:
        self._accounts.remove(account.name, visitor_of(request).name)
        return f"{account.name} is removed, and signed out everywhere."

    def _set_role(self, request: Request, account: Account) -> str:
        role = _role(visitor_of(request).field("role"))
        self._put(request, replace(account, role=role, changed_at=self._clock()))
        return f"{account.name} is {role.name.lower()} now, and has to sign in again."

    def _set_password(self, request: Request, account: Account) -> str:
        new = passwords.hashed(new_password(request, account.name))
        self._put(request, replace(account, password=new, changed_at=self._clock()), "a new password")
        return f"{account.name} has a new password, and is signed out everywhere."

    def _disable(self, request: Request, account: Account) -> str:
        self._put(request, replace(account, disabled=True, changed_at=self._clock()))
        return f"{account.name} is disabled, and signed out everywhere."

    def _enable(self, request: Request, account: Account) -> str:
        self._put(request, replace(account, disabled=False))
        return f"{account.name} is enabled."

    def _unlock(self, request: Request, account: Account) -> str:
        self._put(request, account, "unlocked")
        return f"{account.name} is unlocked."

    def _set_last_day(self, request: Request, account: Account) -> str:
        expires_at = kept.end_of_day(visitor_of(request).field("expires"))
        self._put(request, replace(account, expires_at=expires_at))
        return f"{account.name} expires {'never' if expires_at is None else f'after {kept.last_day(expires_at)}'}."


def new_password(request: Request, name: str) -> str:
    """The password of a form that asks for it twice. Raises AccountError."""
    form = visitor_of(request).form
    first, again = ((form.get(key) or [""])[0] for key in ("password", "again"))
    if first != again:
        raise AccountError("the two passwords differ; type the same twice")
    return passwords.checked_password(first, name)


def sentence(error: AccountError) -> str:
    """An error as a sentence of a page."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _role(word: str) -> Role:
    try:
        return Role[word.upper()]
    except KeyError:
        raise AccountError("expected a role: viewer, operator or admin") from None
