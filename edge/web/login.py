"""Sign-in and sign-out: the banner, the first account, the user's own password. All accounts: edge.web.people.

If the site has a banner, nothing else is shown before it is acknowledged at each sign-in, also to users of a trusted
proxy. While there is no account, a one-time setup link creates the first administrator; there is no default password.
The link is in the log of the start, and a command prints another: both need access to the machine.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge.network.shares import Budget
from edge.text import span
from edge.web import passwords
from edge.web.accounts import ACCOUNT_LOCK_SECONDS, MAX_NAME, Account, AccountError, Accounts, UserRole, parse_name
from edge.web.endpoints import needs, open_to_all
from edge.web.guard import Rules, visitor_of
from edge.web.pages import Pages, serve_static
from edge.web.people import AccountsPage, new_password
from edge.web.sessions import BrowserSession, Sessions
from edge.web.setup import Setup
from edge.web.throttle import Throttle

#: Rows of the record about unknown names in one period, and its seconds.
_UNKNOWN_ROWS, _UNKNOWN_SECONDS = 20, 3600.0
#: Passwords that are checked at a time: each uses one of the guard's PAGE_WORKERS; the others serve signed-in users.
_MOST_ATTEMPTS = 4


class Login:
    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        pages: Pages,
        setup: Setup,
        clock: Callable[[], float] = time.time,
        rules: Rules | None = None,
    ) -> None:
        self._accounts, self._sessions, self._pages, self._setup, self._clock = accounts, sessions, pages, setup, clock
        self._rules = rules or Rules("edge")
        self._throttle = Throttle()
        self._unknown = Budget(_UNKNOWN_ROWS, _UNKNOWN_SECONDS)
        self._one_at_a_time, self._places = threading.Lock(), threading.Semaphore(_MOST_ATTEMPTS)
        self._key = secrets.token_bytes(32)

    def routes(self) -> list[Route]:
        """Return the routes of these pages, of the accounts and of the static files."""
        accounts = AccountsPage(self._accounts, self._pages, self._clock)
        post, both = ["POST"], ["GET", "POST"]
        return [
            Route("/static/{name}", open_to_all(serve_static)),
            Route("/sign-in", open_to_all(self.sign_in), methods=both),
            Route("/sign-out", open_to_all(self.sign_out), methods=post),
            Route("/setup", open_to_all(self.set_up), methods=both),
            Route("/password", needs(UserRole.VIEWER, self.password), methods=both),
            Route("/accounts", needs(UserRole.ADMIN, accounts.index)),
            Route("/accounts/add", needs(UserRole.ADMIN, accounts.add), methods=post),
            Route("/accounts/change", needs(UserRole.ADMIN, accounts.change), methods=post),
        ]

    # -- the banner ---------------------------------------------------------------------------------------------------

    def _banner(self, request: Request, action: str, submits: bool, **given: str) -> Response | None:
        """Return the page with the banner until this browser has acknowledged it for this sign-in."""
        visitor = visitor_of(request)
        if not self._rules.banner or visitor.field("acknowledge"):
            return None
        if hmac.compare_digest(visitor.field("acknowledged").encode("utf-8", "replace"), self._mark(request).encode()):
            return None
        return self._pages.render(
            request,
            "banner.html",
            code=403 if submits else 200,
            banner=self._rules.banner,
            action=action,
            given=given,
            signed_out="out" in request.query_params,
        )

    def _mark(self, request: Request) -> str:
        """Return what a form contains after the banner; it is not valid in another browser, or after a restart."""
        token = visitor_of(request).token.encode("utf-8", "replace")
        return hmac.new(self._key, token, "sha256").hexdigest() if self._rules.banner else ""

    # -- sign-in and sign-out -----------------------------------------------------------------------------------------

    def sign_in(self, request: Request) -> Response:
        """GET and POST /sign-in."""
        visitor = visitor_of(request)
        to = _local_path(visitor.field("to") or request.query_params.get("to", "/"))
        submits = request.method == "POST" and not visitor.field("acknowledge")
        if banner := self._banner(request, "/sign-in", submits, to=to):
            return banner
        if visitor.session is not None and visitor.session.vouched:  # the proxy has authenticated the user
            visitor.session.acknowledged = True
            return RedirectResponse(to, 303)
        if not submits:
            return self._sign_in_page(request, to)
        if wait := self._throttle.begin(visitor.address, self._clock()):
            fault = f"Too many attempts. Wait {span(max(1.0, wait))}, then try again."
            return self._sign_in_page(request, to, fault, 429, retry=int(wait) + 1)
        if not self._places.acquire(blocking=False):
            fault = "Too many people are signing in. Try again in a few seconds."
            return self._sign_in_page(request, to, fault, 429, retry=2)
        try:
            name = visitor.field("name")[:MAX_NAME]
            account = self._authenticate(name, visitor.raw_field("password"), visitor.address, signs_in=True)
        finally:
            self._places.release()
        if account is None:  # the same text for every reason: it must not reveal which names exist
            fault = (
                "Name or password is wrong, or the account is locked, disabled or expired."
                f" After {self._rules.lock_after} failures an account is locked for {span(ACCOUNT_LOCK_SECONDS)};"
                " an administrator can unlock it."
            )
            return self._sign_in_page(request, to, fault, 401)
        self._throttle.forget_latest(visitor.address)
        self._begin(request, account)
        return RedirectResponse(to, 303)

    def _authenticate(self, name: str, password: str, address: str, *, signs_in: bool) -> Account | None:
        """Return the account if the password is right and it may sign in. One at a time: simultaneous attempts are
        counted in order, so that the limit of failures holds for them too."""
        now = self._clock()
        with self._one_at_a_time:
            account = self._accounts.find(name)
            right = passwords.is_password_of(account, password)
            if account is None:
                left_out = self._unknown.take(now)
                if left_out is not None:
                    self._accounts.record_unknown_name(address, left_out)
                return None
            if not right or not account.may_sign_in(now):
                self._accounts.record_failure(account, address, now, self._rules.lock_after)
                return None
            if signs_in:
                self._accounts.record_sign_in(account.name, address, now)
        if passwords.is_outdated(account):
            former, stored = account.password, passwords.hash_password(password)
            record = "password stored with the current method"
            with suppress(AccountError):  # it was changed meanwhile
                account = self._accounts.change(name, name, lambda each: each.with_password(former, stored), record)
        return account

    def _sign_in_page(self, request: Request, to: str, fault: str = "", code: int = 200, retry: int = 0) -> Response:
        answer = self._pages.render(
            request,
            "sign-in.html",
            code=code,
            to=to,
            fault=fault,
            name=visitor_of(request).field("name")[:MAX_NAME],
            setup=self._setup.is_needed(),
            acknowledged=self._mark(request),
            signed_out="out" in request.query_params,
        )
        if retry:
            answer.headers["retry-after"] = str(retry)
        return answer

    def _begin(self, request: Request, account: Account) -> None:
        """Begin a session with a new token: a token from before the sign-in is not valid in it."""
        visitor = visitor_of(request)
        self._sessions.end(visitor.token)
        visitor.session = BrowserSession(account.name, self._clock(), self._rules.idle_of(account.role))
        visitor.token = self._sessions.begin(visitor.session)
        visitor.session.kept["welcome"] = account.use
        visitor.set_cookie = True

    def sign_out(self, request: Request) -> Response:
        """POST /sign-out."""
        visitor = visitor_of(request)
        self._sessions.end(visitor.token)
        if visitor.account is not None:
            self._accounts.record_sign_out(visitor.name, visitor.address)
        return RedirectResponse("/sign-in?out=1", 303)

    # -- accounts and passwords ---------------------------------------------------------------------------------------

    def set_up(self, request: Request) -> Response:
        """GET and POST /setup: create the first account."""
        visitor, now = visitor_of(request), self._clock()
        token = visitor.field("token") or request.query_params.get("token", "")
        context: dict[str, Any] = {"token": "", "acknowledged": ""}
        if not self._setup.is_valid(token):
            if wait := self._throttle.begin(visitor.address, now):
                context["fault"] = f"Wait {span(wait)}."
            return self._pages.render(request, "setup.html", code=429 if wait else 403, **context)
        submits = request.method == "POST" and not visitor.field("acknowledge")
        if banner := self._banner(request, "/setup", submits, token=token):
            return banner
        given: dict[str, Any] = {"token": token, "acknowledged": self._mark(request)}
        if not submits:
            return self._pages.render(request, "setup.html", **given)
        try:
            name = parse_name(visitor.field("name"))
            account = Account(name, UserRole.ADMIN, new_password(visitor, name), now)
        except AccountError as error:
            return self._pages.render(request, "setup.html", code=422, **given, fault=str(error))
        if not self._setup.spend(token, account):
            return self._pages.render(request, "setup.html", code=403, **context)
        self._accounts.record_sign_in(name, visitor.address, now)
        self._begin(request, account)
        return RedirectResponse("/", 303)

    def password(self, request: Request) -> Response:
        """GET and POST /password: the user's own password, and how the account was used."""
        visitor, now, fault = visitor_of(request), self._clock(), ""
        account = visitor.account
        assert account is not None
        if request.method == "POST":
            try:
                if self._throttle.begin(visitor.address, now):
                    raise AccountError("too many attempts; wait a minute")
                former = self._authenticate(account.name, visitor.raw_field("old"), visitor.address, signs_in=False)
                if former is None:
                    locked = f"the account is locked for {span(ACCOUNT_LOCK_SECONDS)}"
                    raise AccountError(f"the current password is wrong, or {locked}; an administrator can unlock it")
                self._throttle.forget_latest(visitor.address)
                old, new = former.password, new_password(visitor, account.name)
                changed = self._accounts.change(
                    account.name,
                    account.name,
                    lambda each: replace(each.with_password(old, new), changed_at=now),
                    "a new password, by its owner",
                )
                self._begin(request, changed)  # every other session of the account has ended
                return RedirectResponse("/", 303)
            except AccountError as error:
                fault = str(error)
        return self._pages.render(request, "password.html", code=422 if fault else 200, fault=fault, account=account)


def _local_path(path: str) -> str:
    """Return a path of this server; "/" for others: a link must not lead to another site by way of the sign-in."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
