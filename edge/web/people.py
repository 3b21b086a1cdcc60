"""The administrators' page of accounts: add, change, disable, unlock, remove."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from edge.web import passwords
from edge.web.accounts import Account, AccountError, Accounts, UserRole, end_of_day, last_day, parse_name
from edge.web.guard import Visitor, visitor_of
from edge.web.pages import Pages


class AccountsPage:
    def __init__(self, accounts: Accounts, pages: Pages, clock: Callable[[], float] = time.time) -> None:
        self._accounts, self._pages, self._clock = accounts, pages, clock

    def index(self, request: Request, fault: str = "", notice: str = "", code: int = 200) -> Response:
        """GET /accounts."""
        found = [(each, each.state(self._clock())) for each in self._accounts.all()]
        return self._pages.render(
            request, "accounts.html", code=code, accounts=found, last_day=last_day, fault=fault, notice=notice
        )

    def add(self, request: Request) -> Response:
        """POST /accounts/add."""
        visitor = visitor_of(request)
        try:
            name = parse_name(visitor.field("name"))
            role, expires_at = _parse_role(visitor.field("role")), end_of_day(visitor.field("expires"))
            password = new_password(visitor, name) if visitor.field("password") else ""
            self._accounts.add(Account(name, role, password, self._clock(), expires_at=expires_at), visitor.name)
        except AccountError as error:
            return self.index(request, fault=str(error), code=422)
        return self.index(request, notice=f'Account "{name}" was created.')

    def change(self, request: Request) -> Response:
        """POST /accounts/change: one change of another user's account."""
        visitor = visitor_of(request)
        name = visitor.field("name")
        try:
            if name == visitor.name:
                raise AccountError("you cannot change or remove your own account here; another administrator can")
            if visitor.field("what") == "remove":
                if not self._accounts.remove(name, visitor.name):
                    raise AccountError("the account no longer exists")
                return self.index(request, notice=f"{name} was removed and signed out everywhere.")
            change, record, notice = _parse_change(visitor, name, self._clock())
            self._accounts.change(name, visitor.name, change, record)
            return self.index(request, notice=f"{name} {notice}.")
        except AccountError as error:
            return self.index(request, fault=str(error), code=422)


def _parse_change(visitor: Visitor, name: str, now: float) -> tuple[Callable[[Account], Account], str, str]:
    """Return the change of an account, the text for the record (empty: its summary), and what the page says."""
    what = visitor.field("what")
    if what == "role":
        role = _parse_role(visitor.field("role"))
        notice = f"is now {role.name.lower()} and must sign in again"
        return lambda each: replace(each, role=role, changed_at=now), "", notice
    if what == "password":
        new = new_password(visitor, name)
        notice = "has a new password and was signed out everywhere"
        return lambda each: replace(each, password=new, changed_at=now), "a new password", notice
    if what == "disable":
        return lambda each: replace(each, disabled=True, changed_at=now), "", "was disabled and signed out everywhere"
    if what == "enable":
        return lambda each: replace(each, disabled=False), "", "was enabled"
    if what == "unlock":
        return lambda each: each, "unlocked", "was unlocked"
    if what == "expires":
        expires_at = end_of_day(visitor.field("expires"))
        day = "does not expire" if expires_at is None else f"expires after {last_day(expires_at)}"
        return lambda each: replace(each, expires_at=expires_at), "", day
    raise AccountError("expected a change that the page offers")


def new_password(visitor: Visitor, name: str) -> str:
    """Return the hash of the password that a form contains twice. Raises AccountError."""
    password = visitor.raw_field("password")
    if password != visitor.raw_field("again"):
        raise AccountError("the two passwords differ; type the same password twice")
    return passwords.hash_password(passwords.require_strong(password, name))


def _parse_role(word: str) -> UserRole:
    try:
        return UserRole[word.upper()]
    except KeyError:
        raise AccountError("expected a role: viewer, operator or admin") from None
