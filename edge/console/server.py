"""The console: for machines without sign-in, for people with it.

    GET /healthz     200 alive
    GET /readyz      200 accepting; 503 with the reason
    GET /metrics     Prometheus
    GET /api/status  the JSON of `edge status --json`
    everything else  the pages of edge.console.application, loaded when somebody first looks

What needs no sign-in carries no PHI and changes nothing. Bounds: edge.web.server.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from edge.errors import place_of
from edge.shares import ProvenCallers
from edge.web.hosts import is_ours
from edge.web.server import Server
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)
log.addFilter(FewLines())  # anybody can ask

#: Machine requests that are answered at a time; more wait their turn, and web.server bounds how many.
WORKERS = 4
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"

#: What a page elsewhere must not read by a name that it controls (DNS rebinding).
GUARDED = frozenset({"/metrics", "/api/status"})

Application = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a machine's request gets."""

    status: HTTPStatus
    body: str
    content_type: str = TEXT
    allow: str = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        told = {
            "content-type": self.content_type,
            "content-length": str(len(self.body.encode())),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }
        if self.allow:
            told["allow"] = self.allow
        return [(name.encode(), value.encode()) for name, value in told.items()]


def _host(scope: Any) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _failure(status: HTTPStatus, allow: str = "") -> HttpResponse:
    return HttpResponse(status, f"{status.phrase}\n", allow=allow)


class Console:
    """Serves until `stop`. The functions are called in threads, once for each request."""

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
    ) -> None:
        """Bind; raises OSError where the address cannot be had. Port 0: any; see `port`.

        `ready` says whether objects are accepted and, if not, why. `pages` builds the pages for people. `names`: as
        what we may be asked for figures (edge.web.hosts.is_ours); probes may call us what they like. `proxies`: trusted
        ones, whose connections may use the places that are kept.
        """
        self.known = ProvenCallers()
        self._server = Server(self._serve, host, port, "console", self.known, proxies)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="console")
        self._build, self._names = pages, names
        self._pages: Application | None = None
        self._building = asyncio.Lock()
        self._machine: dict[str, Callable[[], HttpResponse]] = {
            "/healthz": lambda: HttpResponse(HTTPStatus.OK, "alive\n"),
            "/readyz": lambda: _readiness(*ready()),
            "/metrics": lambda: HttpResponse(HTTPStatus.OK, metrics(), METRICS),
            "/api/status": lambda: HttpResponse(HTTPStatus.OK, json.dumps(status()) + "\n", JSON),
        }

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Stop listening, and let what is being answered end."""
        self._server.stop()
        self._workers.shutdown()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        page = self._machine.get(scope["path"])
        if page is None and self._build is not None:
            await (await self._people())(scope, receive, send)
            return
        if scope["path"] in GUARDED and not is_ours(_host(scope), self._names):
            answer = _failure(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._workers, _answer, scope["path"], scope["method"], page
            )
        await send({"type": "http.response.start", "status": answer.status.value, "headers": answer.headers()})
        await send({"type": "http.response.body", "body": answer.body.encode()})

    async def _people(self) -> Application:
        """The pages, which cost memory that a site without onlookers need not spend."""
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
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the store, the console says that and lives on
        log.error("%s cannot be answered: %s", path, place_of(error))
        return _failure(HTTPStatus.INTERNAL_SERVER_ERROR)


def _readiness(ready: bool, reason: str) -> HttpResponse:
    if ready:
        return HttpResponse(HTTPStatus.OK, "accepting\n")
    return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason or 'not accepting'}\n")
