"""One look at every request before a page sees it, and at every answer before it leaves.

In: the Host must be an address or a name of ours (a page elsewhere must not reach us by DNS rebinding); a POST must be
a short form that carries the CSRF token of a page we showed to this browser; who asks is found by the session's
cookie, or by a header of a trusted proxy; where the site has a banner, it must have been acknowledged. Out: nothing but
our own scripts and styles may run (no inline ones), nobody may frame us, nothing is stored by caches. What fails is
logged by its place, never with its words, and answered 500; what a request says is made printable before it is logged,
and callers who have not signed in have only so many lines.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from anyio import to_thread
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import EdgeError, place_of
from edge.shares import FORMS_SENT, LINES, Budget, Places, ProvenCallers, caller_of, parse_address
from edge.text import printable
from edge.web.accounts import LOCK_AFTER, Account, Accounts, Role
from edge.web.hosts import is_ours, is_within
from edge.web.sessions import (
    ADMIN_IDLE_SECONDS,
    IDLE_SECONDS,
    Session,
    Sessions,
    csrf_fits,
    csrf_of,
    new_token,
)

log = logging.getLogger(__name__)

#: Pages that are made at a time; more wait their turn.
WORKERS = 8
MAX_FORM = 256 * 1024
MAX_FIELDS = 5000
#: Characters of a path in the log.
MAX_PATH = 200
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
UNKNOWN_NAME = "This address is not known here. Name it in console.names of the configuration.\n"
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs from site to site."""

    cookie: str  # its name: two gateways behind tunnels to one browser must not take each other's
    names: frozenset[str] = frozenset()  # host names of ours, in lower case, besides localhost and addresses
    user_header: str = ""  # the header in which a trusted proxy names the person; empty: there is none
    proxies: tuple[str, ...] = ()  # addresses or networks that are trusted to do so
    default_role: Role | None = None  # of a person whom the proxy names and no account knows; None: not let in
    banner: str = ""  # acknowledged before anybody comes in; empty: there is none
    lock_after: int = LOCK_AFTER  # failures in a row that lock an account
    idle: float = IDLE_SECONDS  # seconds without use that end a session
    admin_idle: float = ADMIN_IDLE_SECONDS  # the same, of an administrator's

    def idle_of(self, role: Role) -> float:
        return self.admin_idle if role is Role.ADMIN else self.idle


@dataclass(slots=True)
class Visitor:
    """Who makes a request."""

    address: str
    secure: bool
    token: str
    session: Session | None = None
    account: Account | None = None
    form: dict[str, list[str]] = field(default_factory=dict)
    set_cookie: bool = False

    @property
    def csrf(self) -> str:
        return csrf_of(self.token)

    def may(self, role: Role) -> bool:
        return self.account is not None and self.account.role >= role

    @property
    def sees_patients(self) -> bool:
        return self.may(Role.OPERATOR)

    @property
    def name(self) -> str:
        return self.account.name if self.account else ""

    def field(self, name: str) -> str:
        """One value of the posted form, trimmed."""
        return (self.form.get(name) or [""])[0].strip()


def visitor_of(request: Request) -> Visitor:
    found = request.scope["state"]["visitor"]
    assert isinstance(found, Visitor)
    return found


class Guard:
    """Wraps the application. See the module's promise."""

    def __init__(
        self,
        app: ASGIApp,
        accounts: Accounts,
        sessions: Sessions,
        rules: Rules,
        known: ProvenCallers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`known`: learns from which addresses people have signed in."""
        self._known, self._forms = known or ProvenCallers(), Places(FORMS_SENT)
        self._app, self._accounts, self._sessions, self._rules, self._clock = app, accounts, sessions, rules, clock
        self._unknown = Budget.create(LINES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        to_thread.current_default_thread_limiter().total_tokens = WORKERS
        started = False

        async def leave(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _sealed(message["headers"], scope)
            await send(message)

        try:
            refusal = await self._look(request)
            await (refusal or self._app)(scope, receive, leave)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not be told with a patient's data in it
            self._log(scope, logging.ERROR, f"cannot be answered: {place_of(error)}")
            if not started:
                await PlainTextResponse("Something went wrong here; the log says where.\n", 500)(scope, receive, leave)

    def _log(self, scope: Scope, level: int, text: str) -> None:
        """One line about a request; `text` is ours."""
        visitor = scope.get("state", {}).get("visitor")
        left_out = 0
        if visitor is None or visitor.account is None:
            taken = self._unknown.take(self._clock(), caller_of(scope["client"][0]) if scope.get("client") else "")
            if taken is None:
                return
            left_out = taken
        more = f" (and {left_out} more like it were not logged)" if left_out else ""
        log.log(level, "%s %s%s", printable(scope["path"])[:MAX_PATH], text, more)

    async def _look(self, request: Request) -> Response | None:
        """Who is it, and may the request pass? The answer, where it may not."""
        if not is_ours(request.headers.get("host", ""), self._rules.names):
            return PlainTextResponse(UNKNOWN_NAME, 421)
        if twice := self._said_twice(request):
            if twice == self._rules.user_header.lower():  # a proxy that adds to what clients send is to be corrected
                self._log(request.scope, logging.WARNING, f"was not answered: the request says {twice} more than once")
            return PlainTextResponse(f"The request says {twice} more than once.\n", 400)
        visitor = await to_thread.run_sync(self._identify, request)
        request.scope.setdefault("state", {})["visitor"] = visitor
        request.scope["state"]["cookie"] = self._rules.cookie
        if visitor.account is not None and request.client is not None:
            self._known.remember(request.client.host, self._clock())
        if request.method != "POST":
            return None
        return await self._take_form(request, visitor)

    async def _take_form(self, request: Request, visitor: Visitor) -> Response | None:
        """Callers who have not signed in send a bounded number of forms at a time."""
        if visitor.account is not None:
            return await _read_form(request, visitor)
        caller = caller_of(visitor.address)
        if self._forms.take(caller) is not None:
            return PlainTextResponse("Too many forms at a time.\n", 503)
        try:
            return await _read_form(request, visitor)
        finally:
            self._forms.give_back(caller)

    def _said_twice(self, request: Request) -> str:
        """A header that decides who or what it is, and that is there more than once: which one is right?"""
        single = ("host", "origin", "content-type", self._rules.user_header.lower())
        return next((name for name in single if name and len(request.headers.getlist(name)) > 1), "")

    def _identify(self, request: Request) -> Visitor:
        """Find the session, by cookie or by the proxy's word."""
        now, peer = self._clock(), request.client.host if request.client else ""
        trusted = is_within(peer, self._rules.proxies)
        token = _cookie(request, self._rules.cookie)
        visitor = Visitor(_address(request, peer, trusted), _is_secure(request, trusted), token or new_token())
        visitor.set_cookie = not token
        session = self._sessions.find(token, now) if token else None
        named = request.headers.get(self._rules.user_header, "") if trusted and self._rules.user_header else ""
        if named:
            self._vouch(visitor, session, named, now)
        elif session is not None and not session.vouched:
            account = self._accounts.find(session.name)
            if account is not None and account.is_active(now) and account.changed_at <= session.began:
                visitor.session, visitor.account = session, account
        if visitor.session is not None and "hx-request" not in request.headers:
            visitor.session.seen = now  # a page that refreshes itself does not keep a session alive
        return visitor

    def _vouch(self, visitor: Visitor, session: Session | None, named: str, now: float) -> None:
        default = self._rules.default_role
        known = account = self._accounts.find(named)
        if account is None and default is not None and named.isprintable():
            account = Account(named, default, "", 0.0)
        if account is None or not account.is_active(now):
            return
        if session is None or session.name != named or not session.vouched:
            idle, acknowledged = self._rules.idle_of(account.role), not self._rules.banner
            visitor.token, session = self._sessions.begin(
                named, now, idle=idle, vouched=True, acknowledged=acknowledged
            )
            session.kept["welcome"] = known.use if known else None
            visitor.set_cookie = True
            self._accounts.record_sign_in(named, visitor.address, now)
        visitor.session = session
        visitor.account = account if session.acknowledged else None  # nobody, until the banner is acknowledged


async def _read_form(request: Request, visitor: Visitor) -> Response | None:
    """Take the posted form; the answer, where it is not one of ours."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return PlainTextResponse("Expected a form.\n", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return PlainTextResponse("The form is too long.\n", 413)
    try:
        visitor.form = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return PlainTextResponse("The form cannot be read.\n", 400)
    if not _same_origin(request) or not csrf_fits(visitor.token, visitor.field("csrf")):
        text = "This form has expired, or it did not come from here. Go back, load the page again, and repeat.\n"
        return PlainTextResponse(text, 403)
    return None


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def _address(request: Request, peer: str, trusted: bool) -> str:
    """Who asks: behind a trusted proxy, the last address of all, which it has added itself."""
    latest = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip() if trusted else ""
    found = parse_address(latest)
    return str(found) if found else peer


def _is_secure(request: Request, trusted: bool) -> bool:
    latest = ",".join(request.headers.getlist("x-forwarded-proto")).rpartition(",")[2].strip() if trusted else ""
    return request.url.scheme == "https" or latest == "https"


def _cookie(request: Request, name: str) -> str:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(request.headers.get("cookie", ""))
    except CookieError:
        return ""
    value = jar[name].value if name in jar else ""
    return value if 32 <= len(value) <= 64 else ""


def _sealed(headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The answer's headers, with those that every answer has."""
    there = {name for name, _ in headers}
    added = {**HEADERS, "cache-control": "no-store"}
    sealed = list(headers) + [(k.encode(), v.encode()) for k, v in added.items() if k.encode() not in there]
    visitor = scope.get("state", {}).get("visitor")
    if visitor is not None and visitor.set_cookie:
        flags = "; Secure" if visitor.secure else ""
        text = f"{scope['state']['cookie']}={visitor.token}; Path=/; HttpOnly; SameSite=Strict{flags}"
        sealed.append((b"set-cookie", text.encode()))
    return sealed


def row_number(text: str) -> int:
    """The number of a row, as a request gives it. Raises ValueError: none, or more digits than a database takes."""
    if not re.fullmatch(_Number.regex, text):
        raise ValueError("expected a number")
    return int(text)


class _Number(Convertor[int]):
    """`{id:number}` in a route: a row's number; more digits than a database takes are no such page."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())
Handler = Callable[[Request], Response]


def needs(role: Role, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A page for those who may see it; others sign in first, or are told. The handler runs in a thread."""

    async def endpoint(request: Request) -> Response:
        visitor = visitor_of(request)
        if visitor.account is None:
            return _to_sign_in(request)
        if visitor.account.role < role:
            text = (
                f"This needs the role {role.name.lower()}; you are signed in as {visitor.account.role.name.lower()}.\n"
            )
            return PlainTextResponse(text, 403)
        return await to_thread.run_sync(_answered, handler, request)

    return endpoint


def open_to_all(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A page that needs no sign-in; it shows nothing about patients. The handler runs in a thread."""

    async def endpoint(request: Request) -> Response:
        return await to_thread.run_sync(_answered, handler, request)

    return endpoint


def _answered(handler: Handler, request: Request) -> Response:
    try:
        return handler(request)
    except EdgeError as error:  # in our own words, without a patient's data
        return PlainTextResponse(f"{error}\n", 503)


def _to_sign_in(request: Request) -> Response:
    if "hx-request" in request.headers:  # the page that refreshes itself goes there as a whole
        return Response(status_code=204, headers={"hx-refresh": "true"})
    wanted = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/sign-in?to={wanted}" if wanted != "/" else "/sign-in", 303)
