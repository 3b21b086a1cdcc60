"""The console: for machines without sign-in, for people with it.

    GET /healthz     200 alive
    GET /readyz      200 accepting; 503 with the reason
    GET /metrics     Prometheus
    GET /api/status  the JSON of `edge status --json`
      everything else  the pages of edge.console.application, loaded at the first request

What needs no sign-in contains no PHI and changes nothing. Limits: edge.web.server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from edge.errors import place_of
from edge.network.shares import ProvenCallers
from edge.web.hosts import is_ours
from edge.web.server import WebServer
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)
log.addFilter(FewLines())  # any caller causes lines

#: Machine requests that are answered at a time; more wait in order, and edge.web.server limits their number.
MACHINE_WORKERS = 4
PLAIN_TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"

#: What a foreign page must not read through a name that it controls (DNS rebinding).
GUARDED = frozenset({"/metrics", "/api/status"})

Application = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to a machine's request."""

    status: HTTPStatus
    body: str
    content_type: str = PLAIN_TEXT
    allow: str = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        named = {
            "content-type": self.content_type,
            "content-length": str(len(self.body.encode())),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "allow": self.allow,
        }
        return [(name.encode(), value.encode()) for name, value in named.items() if value]


def _host(scope: Any) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _failure(status: HTTPStatus, allow: str = "") -> HttpResponse:
    return HttpResponse(status, f"{status.phrase}\n", allow=allow)


class Console(WebServer):
    """The HTTP server of the gateway. Each function is called in a thread, once per request."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
        ready: Callable[[], tuple[bool, str]],
        pages: Callable[[], Application] | None = None,
        names: frozenset[str] = frozenset(),
        proxies: Sequence[str] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Bind the address. Port 0: any; see `port`. Raises OSError.

        `ready` returns whether objects are accepted and, if not, why. `pages` builds the pages for people. `names`: the
        host names under which GUARDED paths are answered (edge.web.hosts.is_ours). `proxies`: trusted ones, whose
        connections may use the reserved places.
        """
        self.known = ProvenCallers()
        super().__init__(self._serve, host, port, "console", self.known, proxies, context)
        self._workers = ThreadPoolExecutor(MACHINE_WORKERS, thread_name_prefix="console")
        self._build, self._names = pages, names
        self._pages: Application | None = None
        self._building = asyncio.Lock()
        self._machine: dict[str, Callable[[], HttpResponse]] = {
            "/healthz": lambda: HttpResponse(HTTPStatus.OK, "alive\n"),
            "/readyz": lambda: _readiness(*ready()),
            "/metrics": lambda: HttpResponse(HTTPStatus.OK, metrics(), METRICS),
            "/api/status": lambda: HttpResponse(HTTPStatus.OK, json.dumps(status()) + "\n", JSON),
        }

    def stop(self) -> None:
        """Stop listening, and complete the requests in progress."""
        super().stop()
        self._workers.shutdown()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        page = self._machine.get(scope["path"])
        if page is None and self._build is not None:
            application = await self._application()
            await application(scope, receive, send)
            return
        if scope["path"] in GUARDED and not is_ours(_host(scope), self._names):
            answer = _failure(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._workers, _answer, scope["path"], scope["method"], page
            )
        await send({"type": "http.response.start", "status": answer.status.value, "headers": answer.headers()})
        await send({"type": "http.response.body", "body": answer.body.encode()})

    async def _application(self) -> Application:
        """Build the pages at the first request: a site that does not use them saves the memory."""
        async with self._building:
            if self._pages is None:
                assert self._build is not None
                self._pages = await asyncio.get_running_loop().run_in_executor(self._workers, self._build)
        return self._pages


def _answer(path: str, method: str, page: Callable[[], HttpResponse] | None) -> HttpResponse:
    if page is None:
        return _failure(HTTPStatus.NOT_FOUND)
    if method not in ("GET", "HEAD"):
        return _failure(HTTPStatus.METHOD_NOT_ALLOWED, allow="GET, HEAD")
    try:
        return page()
    except Exception as error:  # noqa: BLE001 - a failure of the store must not stop the console
        log.error("%s cannot be answered: %s", path, place_of(error))
        return _failure(HTTPStatus.INTERNAL_SERVER_ERROR)


def _readiness(ready: bool, reason: str) -> HttpResponse:
    if ready:
        return HttpResponse(HTTPStatus.OK, "accepting\n")
    return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason or 'not accepting'}\n")
