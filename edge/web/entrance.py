"""Signing in and out, the first account, one's password, and the administrators' list of accounts.

While there is no account, whoever has the one-time setup link makes the first administrator; there is no default
password. The link is in the log of the start, and a command prints it again: both need the machine's own rights.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge.ops.words import span
from edge.web import accounts as kept
from edge.web import pages as page
from edge.web.accounts import Account, AccountError, Accounts, Role, Throttle
from edge.web.guard import needs, open_to_all, visitor_of
from edge.web.pages import Pages
from edge.web.sessions import Sessions
from edge.web.setup import Setup


class Entrance:
    """The pages of this module; `routes` go into the application."""

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        pages: Pages,
        setup: Setup,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._accounts, self._sessions, self._pages, self._setup, self._clock = accounts, sessions, pages, setup, clock
        self._throttle = Throttle()

    def routes(self) -> list[Route]:
        post = ["POST"]
        return [
            Route("/static/{name}", open_to_all(page.static)),
            Route("/sign-in", open_to_all(self.sign_in), methods=["GET", "POST"]),
            Route("/sign-out", open_to_all(self.sign_out), methods=post),
            Route("/setup", open_to_all(self.set_up), methods=["GET", "POST"]),
            Route("/password", needs(Role.VIEWER, self.password), methods=["GET", "POST"]),
            Route("/accounts", needs(Role.ADMIN, self.list_accounts)),
            Route("/accounts/add", needs(Role.ADMIN, self.add), methods=post),
            Route("/accounts/change", needs(Role.ADMIN, self.change), methods=post),
        ]

    # -- in and out ---------------------------------------------------------------------------------------------------

    def sign_in(self, request: Request) -> Response:
        visitor = visitor_of(request)
        to = _inside(visitor.field("to") or request.query_params.get("to", "/"))
        if request.method != "POST":
            return self._sign_in_page(request, to)
        name, now = visitor.field("name")[: kept.MAX_NAME], self._clock()
        if wait := self._throttle.begin(name, visitor.address, now):
            fault = f"Too many tries. Wait {span(max(1.0, wait))}, then try again."
            return self._sign_in_page(request, to, fault, name, 429, retry=int(wait) + 1)
        account = self._accounts.find(name)
        success = kept.matches(account, (visitor.form.get("password") or [""])[0])
        self._accounts.record_sign_in(account.name if account else "", visitor.address, success)
        if not success:
            return self._sign_in_page(request, to, "Name or password is wrong.", name, 401)
        self._throttle.succeeded(name, visitor.address)
        self._begin(request, name)
        return RedirectResponse(to, 303)

    def _sign_in_page(
        self, request: Request, to: str, fault: str = "", name: str = "", status: int = 200, retry: int = 0
    ) -> Response:
        answer = self._pages.render(
            request, "sign-in.html", code=status, to=to, fault=fault, name=name, setup=self._setup.needed
        )
        if retry:
            answer.headers["retry-after"] = str(retry)
        return answer

    def _begin(self, request: Request, name: str) -> None:
        """A new session with a new token: what the browser had before sign-in is worth nothing now."""
        visitor = visitor_of(request)
        self._sessions.end(visitor.token)
        visitor.token, visitor.session = self._sessions.begin(name, self._clock())
        visitor.set_cookie = True

    def sign_out(self, request: Request) -> Response:
        self._sessions.end(visitor_of(request).token)
        return RedirectResponse("/sign-in", 303)

    def set_up(self, request: Request) -> Response:
        visitor = visitor_of(request)
        token = visitor.field("token") or request.query_params.get("token", "")
        if wait := 0.0 if self._setup.fits(token) else self._throttle.begin("", visitor.address, self._clock()):
            return self._pages.render(request, "setup.html", code=429, token="", fault=f"Wait {span(wait)}.")
        if not self._setup.fits(token):
            return self._pages.render(request, "setup.html", code=403, token="")
        if request.method != "POST":
            return self._pages.render(request, "setup.html", token=token)
        try:
            name = kept.checked_name(visitor.field("name"))
            account = Account(name, Role.ADMIN, kept.hashed(self._new_password(request, name)), self._clock())
        except AccountError as error:
            return self._pages.render(request, "setup.html", code=422, token=token, fault=_sentence(error))
        if not self._setup.spend(token, account):
            return self._pages.render(request, "setup.html", code=403, token="")
        self._accounts.record_sign_in(name, visitor.address, True)
        self._begin(request, name)
        return RedirectResponse("/", 303)

    def _new_password(self, request: Request, name: str) -> str:
        """The password of a form that asks for it twice. Raises AccountError."""
        form = visitor_of(request).form
        first, again = ((form.get(key) or [""])[0] for key in ("password", "again"))
        if first != again:
            raise AccountError("the two passwords differ; type the same twice")
        return kept.checked_password(first, name)

    # -- accounts -----------------------------------------------------------------------------------------------------

    def password(self, request: Request) -> Response:
        visitor = visitor_of(request)
        account = visitor.account
        assert account is not None
        if request.method != "POST":
            return self._pages.render(request, "password.html", has_password=bool(account.password))
        now = self._clock()
        try:
            if self._throttle.begin(account.name, visitor.address, now):
                raise AccountError("too many tries; wait a minute")
            if not kept.matches(account, (visitor.form.get("old") or [""])[0]):
                raise AccountError("the present password is wrong")
            self._throttle.succeeded(account.name, visitor.address)
            new = kept.hashed(self._new_password(request, account.name))
        except AccountError as error:
            told = {"fault": _sentence(error), "has_password": bool(account.password)}
            return self._pages.render(request, "password.html", code=422, **told)
        self._accounts.put(Account(account.name, account.role, new, now), account.name)
        self._begin(request, account.name)  # every other session of the account has ended
        return RedirectResponse("/", 303)

    def list_accounts(self, request: Request, fault: str = "", notice: str = "", status: int = 200) -> Response:
        return self._pages.render(
            request, "accounts.html", code=status, accounts=list(self._accounts.all()), fault=fault, notice=notice
        )

    def add(self, request: Request) -> Response:
        visitor = visitor_of(request)
        try:
            name = kept.checked_name(visitor.field("name"))
            if self._accounts.find(name):
                raise AccountError(f"there is an account {name} already")
            password = kept.hashed(self._new_password(request, name)) if visitor.field("password") else ""
            self._accounts.put(Account(name, _role(visitor.field("role")), password, self._clock()), visitor.name)
        except AccountError as error:
            return self.list_accounts(request, fault=_sentence(error), status=422)
        return self.list_accounts(request, notice=f"{name} may sign in.")

    def change(self, request: Request) -> Response:
        """Another role, a new password, or away."""
        visitor = visitor_of(request)
        account = self._accounts.find(visitor.field("name"))
        try:
            if account is None:
                raise AccountError("there is no such account any more")
            if account.name == visitor.name:
                raise AccountError("nobody changes or removes the own account here; another administrator can")
            return self.list_accounts(request, notice=self._change(request, account, visitor.field("what")))
        except AccountError as error:
            return self.list_accounts(request, fault=_sentence(error), status=422)

    def _change(self, request: Request, account: Account, what: str) -> str:
        visitor, now = visitor_of(request), self._clock()
        if what == "remove":
            self._accounts.remove(account.name, visitor.name)
            return f"{account.name} is removed, and signed out everywhere."
        if what == "role":
            role = _role(visitor.field("role"))
            self._accounts.put(Account(account.name, role, account.password, now), visitor.name)
            return f"{account.name} is {role.name.lower()} now, and has to sign in again."
        new = kept.hashed(self._new_password(request, account.name))
        self._accounts.put(Account(account.name, account.role, new, now), visitor.name)
        return f"{account.name} has a new password, and is signed out everywhere."


def _role(word: str) -> Role:
    try:
        return Role[word.upper()]
    except KeyError:
        raise AccountError("expected a role: viewer, operator or admin") from None


def _inside(path: str) -> str:
    """A path of ours: a link must not lead elsewhere by way of the sign-in."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def _sentence(error: AccountError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
