"""Signing in and out: the banner, the first account, one's password. The list of accounts: edge.web.people.

Where the site has a banner, it is shown before each sign-in, and nothing else until it is acknowledged; also to who
comes through a proxy that vouches. While there is no account, the one-time setup link makes the first administrator;
there is no default password. The link is in the log of the start, and a command prints another: both need the machine's
own rights.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge.shares import Budget
from edge.text import span
from edge.web import accounts as kept
from edge.web import pages as page
from edge.web import passwords
from edge.web.accounts import Account, AccountError, Accounts, Role
from edge.web.guard import Rules, needs, open_to_all, visitor_of
from edge.web.pages import Pages
from edge.web.people import People, new_password, sentence
from edge.web.sessions import Sessions
from edge.web.setup import Setup
from edge.web.throttle import Throttle

#: Rows in the record about names that are no account's, and in how many seconds.
UNKNOWN_ROWS, UNKNOWN_SECONDS = 20, 3600.0
#: Tries at passwords under way at a time: each holds one of the guard's WORKERS, and the others are for those inside.
MOST_TRIES = 4


class Entrance:
    """The pages of this module; `routes` go into the application."""

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
        self._unknown = Budget(UNKNOWN_ROWS, UNKNOWN_SECONDS)
        self._one_at_a_time, self._places = threading.Lock(), threading.Semaphore(MOST_TRIES)
        self._key = secrets.token_bytes(32)
        self._people = People(accounts, pages, clock)

    def routes(self) -> list[Route]:
        both = ["GET", "POST"]
        return [
            Route("/static/{name}", open_to_all(page.static)),
            Route("/sign-in", open_to_all(self.sign_in), methods=both),
            Route("/sign-out", open_to_all(self.sign_out), methods=["POST"]),
            Route("/setup", open_to_all(self.set_up), methods=both),
            Route("/password", needs(Role.VIEWER, self.password), methods=both),
            *self._people.routes(),
        ]

    # -- the banner ---------------------------------------------------------------------------------------------------

    def _banner(self, request: Request, action: str, status: int = 200, **given: str) -> Response | None:
        """The page with the banner, until this browser has acknowledged it for this sign-in; None: go on."""
        visitor = visitor_of(request)
        if not self._rules.banner or visitor.field("acknowledge"):
            return None
        if hmac.compare_digest(visitor.field("acknowledged").encode("utf-8", "replace"), self._mark(request).encode()):
            return None
        context = {
            "banner": self._rules.banner,
            "action": action,
            "given": given,
            "signed_out": "out" in request.query_params,
        }
        return self._pages.render(request, "banner.html", code=status, **context)

    def _mark(self, request: Request) -> str:
        """What a form carries after the banner; it is worth nothing in another browser, or after a restart."""
        token = visitor_of(request).token.encode("utf-8", "replace")
        return hmac.new(self._key, token, "sha256").hexdigest() if self._rules.banner else ""

    # -- in and out ---------------------------------------------------------------------------------------------------

    def sign_in(self, request: Request) -> Response:
        visitor = visitor_of(request)
        to = _inside(visitor.field("to") or request.query_params.get("to", "/"))
        signs_in = request.method == "POST" and not visitor.field("acknowledge")
        if banner := self._banner(request, "/sign-in", 403 if signs_in else 200, to=to):
            return banner
        if visitor.session is not None and visitor.session.vouched:  # no password is asked of who comes so
            visitor.session.acknowledged = True
            return RedirectResponse(to, 303)
        if not signs_in:
            return self._sign_in_page(request, to)
        name, now = visitor.field("name")[: kept.MAX_NAME], self._clock()
        if wait := self._throttle.begin(visitor.address, now):
            fault = f"Too many tries. Wait {span(max(1.0, wait))}, then try again."
            return self._sign_in_page(request, to, fault, name, 429, retry=int(wait) + 1)
        if not self._places.acquire(blocking=False):
            fault = "Too many people sign in at this moment. Try again in a few seconds."
            return self._sign_in_page(request, to, fault, name, 429, retry=2)
        try:
            account = self._tried(name, (visitor.form.get("password") or [""])[0], visitor.address, now)
        finally:
            self._places.release()
        if account is None:
            return self._sign_in_page(request, to, self._refusal(), name, 401)
        self._throttle.succeeded(visitor.address)
        self._begin(request, account)
        return RedirectResponse(to, 303)

    def _tried(self, name: str, password: str, address: str, now: float) -> Account | None:
        """The account, where the password is right and it may sign in. One at a time: tries that come together are
        counted one after the other, so that no more of them are made than the limit says."""
        with self._one_at_a_time:
            account = self._accounts.find(name)
            right = passwords.matches(account, password)
            if account is None:
                left_out = self._unknown.take(now)
                if left_out is not None:
                    self._accounts.record_unknown_name(address, left_out)
                return None
            if not right or not account.may_sign_in(now):
                self._accounts.record_failure(account, address, now, self._rules.lock_after)
                return None
            self._accounts.record_sign_in(account.name, address, now)
        if passwords.is_outdated(account):
            self._accounts.put(
                replace(account, password=passwords.hashed(password)), account.name, "password kept in another way"
            )
        return account

    def _refusal(self) -> str:
        """The same for every reason: a stranger must not learn which names there are."""
        minutes = span(kept.LOCK_SECONDS)
        return (
            f"Name or password is wrong, or the account is locked, disabled or expired. After {self._rules.lock_after}"
            f" failures an account is locked for {minutes}; an administrator can unlock it."
        )

    def _sign_in_page(
        self, request: Request, to: str, fault: str = "", name: str = "", status: int = 200, retry: int = 0
    ) -> Response:
        answer = self._pages.render(
            request,
            "sign-in.html",
            code=status,
            to=to,
            fault=fault,
            name=name,
            setup=self._setup.needed,
            acknowledged=self._mark(request),
            signed_out="out" in request.query_params,
        )
        if retry:
            answer.headers["retry-after"] = str(retry)
        return answer

    def _begin(self, request: Request, account: Account) -> None:
        """A new session with a new token: what the browser had before sign-in is worth nothing now."""
        visitor = visitor_of(request)
        self._sessions.end(visitor.token)
        idle = self._rules.idle_of(account.role)
        visitor.token, visitor.session = self._sessions.begin(account.name, self._clock(), idle=idle)
        visitor.session.kept["welcome"] = account.use
        visitor.set_cookie = True

    def sign_out(self, request: Request) -> Response:
        visitor = visitor_of(request)
        self._sessions.end(visitor.token)
        if visitor.account is not None:
            self._accounts.record_sign_out(visitor.name, visitor.address)
        return RedirectResponse("/sign-in?out=1", 303)

    def set_up(self, request: Request) -> Response:
        visitor = visitor_of(request)
        token = visitor.field("token") or request.query_params.get("token", "")
        if wait := 0.0 if self._setup.fits(token) else self._throttle.begin(visitor.address, self._clock()):
            return self._pages.render(request, "setup.html", code=429, token="", fault=f"Wait {span(wait)}.")
        if not self._setup.fits(token):
            return self._pages.render(request, "setup.html", code=403, token="")
        makes = request.method == "POST" and not visitor.field("acknowledge")
        if banner := self._banner(request, "/setup", 403 if makes else 200, token=token):
            return banner
        context: dict[str, Any] = {"token": token, "acknowledged": self._mark(request)}
        if not makes:
            return self._pages.render(request, "setup.html", **context)
        try:
            name = kept.checked_name(visitor.field("name"))
            account = Account(name, Role.ADMIN, passwords.hashed(new_password(request, name)), self._clock())
        except AccountError as error:
            return self._pages.render(request, "setup.html", code=422, **context, fault=sentence(error))
        if not self._setup.spend(token, account):
            return self._pages.render(request, "setup.html", code=403, token="")
        self._accounts.record_sign_in(name, visitor.address, self._clock())
        self._begin(request, account)
        return RedirectResponse("/", 303)

    def password(self, request: Request) -> Response:
        """One's own password, and how the account was used."""
        visitor = visitor_of(request)
        account = visitor.account
        assert account is not None
        context: dict[str, Any] = {
            "has_password": bool(account.password),
            "use": account.use,
            "expires_at": account.expires_at,
        }
        if request.method != "POST":
            return self._pages.render(request, "password.html", **context)
        now = self._clock()
        try:
            if self._throttle.begin(visitor.address, now):
                raise AccountError("too many tries; wait a minute")
            self._check_present(account.name, (visitor.form.get("old") or [""])[0], visitor.address, now)
            self._throttle.succeeded(visitor.address)
            new = passwords.hashed(new_password(request, account.name))
        except AccountError as error:
            return self._pages.render(request, "password.html", code=422, **context, fault=sentence(error))
        changed = replace(account, password=new, changed_at=now)
        self._accounts.put(changed, account.name, "a new password, by its owner")
        self._begin(request, changed)  # every other session of the account has ended
        return RedirectResponse("/", 303)

    def _check_present(self, name: str, password: str, address: str, now: float) -> None:
        """Raises AccountError: who has found an open session must not guess here without a limit."""
        with self._one_at_a_time:
            account = self._accounts.find(name)
            if account is None or account.use.is_locked(now):
                raise AccountError(
                    f"the account is locked for {span(kept.LOCK_SECONDS)}; an administrator can unlock it"
                )
            if not passwords.matches(account, password):
                self._accounts.record_failure(account, address, now, self._rules.lock_after)
                raise AccountError("the present password is wrong")


def _inside(path: str) -> str:
    """A path of ours: a link must not lead elsewhere by way of the sign-in."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
