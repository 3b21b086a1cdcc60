"""The central office as a web application: what sites post to, and what people look at.

Heartbeats come straight to the reception; everything else passes the guard of edge.web.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.central.accounts import StoredAccounts
from edge.central.bodies import Bodies, BodyRefused
from edge.central.config import Config
from edge.central.pages import Fleet
from edge.central.receive import HeartbeatEndpoint
from edge.central.store import Store
from edge.errors import place_of
from edge.shares import ProvenCallers
from edge.web.accounts import Role
from edge.web.guard import Guard, Rules, needs, open_to_all
from edge.web.login import Entrance
from edge.web.pages import Pages, Place
from edge.web.sessions import Sessions
from edge.web.setup import Setup

log = logging.getLogger(__name__)

PLACES = (
    Place("/", "Sites"),
    Place("/incidents", "Incidents"),
    Place("/ask/filling", "Filling"),
    Place("/ask/equipment", "Equipment"),
    Place("/ask/downtime", "Downtime"),
    Place("/ask/capacity", "Capacity"),
    Place("/ask/inventory", "Inventory"),
    Place("/ask/ledgers", "Ledgers"),
    Place("/accounts", "Accounts", Role.ADMIN),
)


def build(reception: HeartbeatEndpoint, pages: ASGIApp, known: ProvenCallers) -> ASGIApp:
    """The application; its writer runs as long as it does. `known`: callers that have shown who they are."""
    bodies = Bodies(known)

    @contextlib.asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in (reception.run(), reception.keep_ticking())]
        for task in tasks:
            task.add_done_callback(_note_end)
        yield
        for task in tasks:
            task.cancel()

    async def post(request: Request) -> Response:
        headers = request.headers
        try:
            async with bodies.receive_body(request) as body:
                answer = await reception.take(headers["edge-site"], headers["edge-signature"], body)
        except BodyRefused as refused:
            answer = refused.answer
        if answer.status == 200:
            bodies.note_signed(request)
        return Response(answer.body(), answer.status, media_type="application/json")

    async def alive(_request: Request) -> Response:
        trouble = reception.trouble()
        return PlainTextResponse(f"{trouble or 'alive'}\n", 503 if trouble else 200)

    service = Starlette(
        routes=[
            Route("/heartbeat", post, methods=["POST"]),
            Route("/healthz", alive),
            Mount("/", pages),
        ],
        lifespan=life,
    )
    return OneLength(service)


def _note_end(task: asyncio.Task[None]) -> None:
    """These tasks end with the service alone; the watchdog ends a service that goes on without them."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("nothing is written any more: %s", place_of(error))


class OneLength:
    """Refuses a request with Content-Length beside Transfer-Encoding, and ends its connection (RFC 9112 section 6.3).

    A proxy before us may have found another end of it than we do.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name.lower() for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            told = "Content-Length beside Transfer-Encoding\n"
            await PlainTextResponse(told, 400, {"Connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def build_pages(
    store: Store, config: Callable[[], Config], accounts: StoredAccounts, setup: Setup, known: ProvenCallers
) -> ASGIApp:
    """The pages behind the guard; `config` is that of the moment, `setup` where the first account is made."""
    pages = Pages(Path(__file__).parent / "templates", PLACES, product="Edge central")
    central = config().central
    names = frozenset(name.lower() for name in (*central.names, central.host))
    rules = Rules(
        cookie="edge-central",
        names=names,
        banner=central.banner,
        lock_after=central.lock_after,
        idle=central.idle,
        admin_idle=central.admin_idle,
    )
    sessions = Sessions(central.sessions)
    fleet = Fleet(store, config, pages)
    routes = [
        *Entrance(accounts, sessions, pages, setup, rules=rules).routes(),
        Route("/", needs(Role.VIEWER, fleet.overview)),
        Route("/site/{id}", needs(Role.VIEWER, fleet.site)),
        Route("/incidents", needs(Role.VIEWER, fleet.list_incidents)),
        Route("/incidents/{number:number}", needs(Role.VIEWER, fleet.show_incident)),
        Route("/incidents/{number:number}/decide", needs(Role.OPERATOR, fleet.decide), methods=["POST"]),
        Route("/ask/{name}.{kind}", needs(Role.VIEWER, fleet.export)),
        Route("/ask/{name}", needs(Role.VIEWER, fleet.ask)),
        Route("/{rest:path}", open_to_all(fleet.missing)),
    ]
    return Guard(Starlette(routes=routes), accounts, sessions, rules, known)
