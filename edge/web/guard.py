"""Checks each request before a page receives it, and completes each answer before it leaves.

Requests: the Host must be an address or one of our names (DNS rebinding); a POST must be a short form that contains the
CSRF token of a page that this browser received; the session's cookie, or a header of a trusted proxy, identifies the
user; the banner, if there is one, must have been acknowledged. Answers: only our own scripts and styles run, none of
them inline; no other page may frame ours; caches store nothing. An internal error is logged by its place, never with
its text, and answered with 500. What a request contains is made printable before it is logged, and the lines that
callers without a session cause are limited.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.config.sections import PagesSection
from edge.errors import place_of
from edge.network.shares import FORMS_SENT, LINES, Budget, Places, ProvenCallers, caller_of, is_within, parse_address
from edge.text import printable
from edge.web.accounts import FAILURES_TO_LOCK, Account, Accounts, UserRole
from edge.web.client_certificates import CLIENT_CERTIFICATE, CLIENT_DER, certificate_user
from edge.web.hosts import is_ours
from edge.web.ocsp import accept_all, revocation_check
from edge.web.sessions import (
    ADMIN_SESSION_IDLE_SECONDS,
    SESSION_IDLE_SECONDS,
    BrowserSession,
    Sessions,
    csrf_of,
    is_csrf_of,
    new_token,
)

log = logging.getLogger(__name__)

#: Pages that are built at a time; more wait in order.
PAGE_WORKERS = 8
MAX_FORM = 256 * 1024
MAX_FIELDS = 5000
#: Parts of files are taken below this path alone.
_OCTETS, UPLOAD_PATHS = "application/octet-stream", "/import/upload/"
#: Characters of a path in the log.
MAX_PATH = 200
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
UNKNOWN_NAME = "This host name is not configured. Add it to console.names.\n"
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs between sites."""

    cookie: str  # its name: a browser may reach two gateways through tunnels, and must keep their cookies apart
    names: frozenset[str] = frozenset()  # our host names, in lower case, besides localhost and addresses
    user_header: str = ""  # the header in which a trusted proxy names the user; empty: none
    proxies: tuple[str, ...] = ()  # addresses or networks of trusted proxies
    default_role: UserRole | None = None  # of a user without an account; None: refused
    banner: str = ""  # to be acknowledged before each sign-in; empty: none
    lock_after: int = FAILURES_TO_LOCK  # consecutive failures that lock an account
    idle: float = SESSION_IDLE_SECONDS  # seconds without use that end a session
    admin_idle: float = ADMIN_SESSION_IDLE_SECONDS  # the same for an administrator's
    certificate_user: str = ""  # what of a client certificate names the user; empty: none is asked for
    is_good: Callable[[bytes], bool] = accept_all  # is a client certificate (DER) not revoked?

    @classmethod
    def from_section(cls, section: PagesSection, cookie: str, authorities: Path | None) -> Rules:
        """Build from a configuration's section. `authorities`: the file of those that issue client certificates."""
        return cls(
            cookie=cookie,
            names=frozenset(name.lower() for name in (*section.names, section.host)),
            banner=section.banner,
            lock_after=section.lock_after,
            idle=section.idle,
            admin_idle=section.admin_idle,
            certificate_user=section.certificate_user if authorities else "",
            is_good=revocation_check(section.client_ocsp, authorities),
        )

    def idle_of(self, role: UserRole) -> float:
        return self.admin_idle if role is UserRole.ADMIN else self.idle


@dataclass(slots=True)
class Visitor:
    """The browser and the user that make a request."""

    address: str
    secure: bool
    token: str
    session: BrowserSession | None = None
    account: Account | None = None
    form: dict[str, list[str]] = field(default_factory=dict)
    set_cookie: bool = False

    @property
    def csrf(self) -> str:
        return csrf_of(self.token)

    def may(self, role: UserRole) -> bool:
        return self.account is not None and self.account.role >= role

    @property
    def sees_patients(self) -> bool:
        return self.may(UserRole.OPERATOR)

    @property
    def name(self) -> str:
        return self.account.name if self.account else ""

    def raw_field(self, name: str) -> str:
        """Return one value of the posted form; empty: absent."""
        return (self.form.get(name) or [""])[0]

    def field(self, name: str) -> str:
        """Return one value of the posted form, trimmed."""
        return self.raw_field(name).strip()

    def leave_notice(self, text: str) -> None:
        """Show a sentence on the next page that is rendered for the session."""
        assert self.session is not None
        self.session.kept["notice"] = text


def visitor_of(request: Request) -> Visitor:
    found = request.scope["state"]["visitor"]
    assert isinstance(found, Visitor)
    return found


class Guard:
    """An ASGI middleware around the pages."""

    def __init__(
        self,
        app: ASGIApp,
        accounts: Accounts,
        sessions: Sessions,
        rules: Rules,
        known: ProvenCallers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`known` learns the addresses from which users have signed in."""
        self._known, self._forms = known or ProvenCallers(), Places(FORMS_SENT)
        self._app, self._accounts, self._sessions, self._rules, self._clock = app, accounts, sessions, rules, clock
        self._unknown = Budget.create(LINES)

    def find_person(self, cookies: str) -> Account | None:
        """Find the signed-in user of a request to another door of ours, by its Cookie header."""
        token = cookie_parser(cookies).get(self._rules.cookie, "")
        now, session = self._clock(), None
        if 32 <= len(token) <= 64:
            session = self._sessions.find(token, now)
        if session is None or session.vouched or not session.acknowledged:
            return None
        account = self._accounts.find(session.name)
        is_current = account is not None and account.is_active(now) and account.changed_at <= session.began
        return account if is_current else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        to_thread.current_default_thread_limiter().total_tokens = PAGE_WORKERS
        started = False

        async def complete(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(MutableHeaders(scope=message), scope)
            await send(message)

        try:
            refusal = await self._check(Request(scope, receive))
            await (refusal or self._app)(scope, receive, complete)
        except Exception as error:  # noqa: BLE001 - the text of an internal error may contain patient data
            self._log(scope, logging.ERROR, f"cannot be answered: {place_of(error)}")
            if not started:
                text = "Internal error; the log names the place.\n"
                await PlainTextResponse(text, 500)(scope, receive, complete)

    def _log(self, scope: Scope, level: int, text: str) -> None:
        """Log one line about a request, if the caller may cause it."""
        visitor = scope.get("state", {}).get("visitor")
        left_out: int | None = 0
        if visitor is None or visitor.account is None:
            caller = caller_of(scope["client"][0]) if scope.get("client") else ""
            left_out = self._unknown.take(self._clock(), caller)
        if left_out is not None:
            more = f" (and {left_out} more like it were not logged)" if left_out else ""
            log.log(level, "%s %s%s", printable(scope["path"])[:MAX_PATH], text, more)

    async def _check(self, request: Request) -> Response | None:
        """Identify the visitor. Returns the answer if the request is refused."""
        if not is_ours(request.headers.get("host", ""), self._rules.names):
            return PlainTextResponse(UNKNOWN_NAME, 421)
        if repeated := self._repeated_header(request):
            if repeated == self._rules.user_header.lower():  # the proxy must replace a client's header, not add to it
                text = f"was not answered: the request contains {repeated} more than once"
                self._log(request.scope, logging.WARNING, text)
            return PlainTextResponse(f"The request contains {repeated} more than once.\n", 400)
        visitor = await to_thread.run_sync(self._identify, request)
        request.scope.setdefault("state", {}).update(visitor=visitor, cookie=self._rules.cookie)
        if visitor.account is not None and request.client is not None:
            self._known.remember(request.client.host, self._clock())
        return await self._take_form(request, visitor) if request.method == "POST" else None

    async def _take_form(self, request: Request, visitor: Visitor) -> Response | None:
        """Read the form. Callers without a session send a limited number of forms at a time."""
        if visitor.account is not None:
            return await _read_form(request, visitor)
        caller = caller_of(visitor.address)
        if self._forms.take(caller) is not None:
            return PlainTextResponse("Too many forms at a time.\n", 503)
        try:
            return await _read_form(request, visitor)
        finally:
            self._forms.give_back(caller)

    def _repeated_header(self, request: Request) -> str:
        """Return the name of a header that must be unique and is not; empty: none."""
        single = ("host", "origin", "content-type", self._rules.user_header.lower())
        return next((name for name in single if name and len(request.headers.getlist(name)) > 1), "")

    def _identify(self, request: Request) -> Visitor:
        """Find the session by its cookie, or by the user that a trusted proxy names."""
        now, peer = self._clock(), request.client.host if request.client else ""
        trusted = is_within(peer, self._rules.proxies)
        token = _token(request, self._rules.cookie)
        visitor = Visitor(_address(request, peer, trusted), _is_secure(request, trusted), token or new_token())
        visitor.set_cookie = not token
        session = self._sessions.find(token, now) if token else None
        named = request.headers.get(self._rules.user_header, "") if trusted and self._rules.user_header else ""
        named = named or self._certificate_user(request)
        if named:
            self._accept_named(visitor, session, named, now)
        elif session is not None and not session.vouched:
            account = self._accounts.find(session.name)
            if account is not None and account.is_active(now) and account.changed_at <= session.began:
                visitor.session, visitor.account = session, account
        if visitor.session is not None and "hx-request" not in request.headers:
            visitor.session.seen = now  # automatic refresh does not keep a session alive
        return visitor

    def _certificate_user(self, request: Request) -> str:
        """The account that the client certificate of this connection names; empty: there is none."""
        fields = request.scope.get("state", {}).get(CLIENT_CERTIFICATE)
        if not self._rules.certificate_user or not fields:
            return ""
        der = request.scope["state"].get(CLIENT_DER, b"")
        name = certificate_user(fields, self._rules.certificate_user, der)
        return name if self._accounts.find(name) is not None and self._rules.is_good(der) else ""

    def _accept_named(self, visitor: Visitor, session: BrowserSession | None, named: str, now: float) -> None:
        """Sign in the user that a trusted proxy names."""
        default = self._rules.default_role
        known = account = self._accounts.find(named)
        if account is None and default is not None and named.isprintable():
            account = Account(named, default, "", 0.0)
        if account is None or not account.is_active(now):
            return
        if session is None or session.name != named or not session.vouched:
            idle, acknowledged = self._rules.idle_of(account.role), not self._rules.banner
            session = BrowserSession(named, now, idle, vouched=True, acknowledged=acknowledged)
            visitor.token = self._sessions.begin(session)
            session.kept["welcome"] = known.use if known else None
            visitor.set_cookie = True
            self._accounts.record_sign_in(named, visitor.address, now)
        visitor.session = session
        visitor.account = account if session.acknowledged else None  # until the banner is acknowledged


async def _read_form(request: Request, visitor: Visitor) -> Response | None:
    """Read the posted form. Returns the answer if it is refused."""
    if visitor.account is not None and request.headers.get("content-type", "") == _OCTETS:
        return _check_upload(request, visitor)
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
    if not _has_our_origin(request) or not is_csrf_of(visitor.token, visitor.field("csrf")):
        text = "This form has expired, or is not from this server. Go back, reload the page, and submit it again.\n"
        return PlainTextResponse(text, 403)
    return None


def _check_upload(request: Request, visitor: Visitor) -> Response | None:
    """Check a part of a file, which its page reads: its token is in a header, which no other page can send."""
    if not request.url.path.startswith(UPLOAD_PATHS):
        return PlainTextResponse("Expected a form.\n", 415)
    if not _has_our_origin(request) or not is_csrf_of(visitor.token, request.headers.get("x-csrf", "")):
        return PlainTextResponse("This upload is not from a page of this server.\n", 403)
    return None


def _has_our_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def _latest(request: Request, header: str) -> str:
    """Return the last value of a list header: the one that the trusted proxy has added."""
    return ",".join(request.headers.getlist(header)).rpartition(",")[2].strip()


def _address(request: Request, peer: str, trusted: bool) -> str:
    found = parse_address(_latest(request, "x-forwarded-for")) if trusted else None
    return str(found) if found else peer


def _is_secure(request: Request, trusted: bool) -> bool:
    return request.url.scheme == "https" or (trusted and _latest(request, "x-forwarded-proto") == "https")


def _token(request: Request, cookie: str) -> str:
    token = request.cookies.get(cookie, "")
    return token if 32 <= len(token) <= 64 else ""


def _add_headers(headers: MutableHeaders, scope: Scope) -> None:
    """Add the headers of every answer, and the cookie of a new session."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    visitor = scope.get("state", {}).get("visitor")
    if visitor is not None and visitor.set_cookie:
        flags = "; Secure" if visitor.secure else ""
        # Lax: a link in an alert's mail opens its page for who is signed in. A form is taken with its token alone.
        cookie = f"{scope['state']['cookie']}={visitor.token}; Path=/; HttpOnly; SameSite=Lax{flags}"
        headers.append("set-cookie", cookie)
