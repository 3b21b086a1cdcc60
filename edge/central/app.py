"""The central office as a web application: what sites post to, and what people look at.

Heartbeats come straight to the reception; everything else passes the guard of edge.web.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from edge.central.accounts import StoredAccounts
from edge.central.config import Config
from edge.central.pages import Fleet
from edge.central.receive import MAX_BYTES, Reception
from edge.central.store import Store
from edge.web.accounts import Role
from edge.web.entrance import Entrance
from edge.web.guard import Guard, Rules, needs, open_to_all
from edge.web.pages import Pages, Place
from edge.web.sessions import Sessions
from edge.web.setup import Setup

PLACES = (
    Place("/", "Sites"),
    Place("/incidents", "Incidents"),
    Place("/ask/filling", "Filling"),
    Place("/ask/equipment", "Equipment"),
    Place("/ask/downtime", "Downtime"),
    Place("/ask/capacity", "Capacity"),
    Place("/ask/inventory", "Inventory"),
    Place("/accounts", "Accounts", Role.ADMIN),
)
#: A heartbeat has so long to arrive, in seconds.
BODY_SECONDS = 20.0


def build(reception: Reception, pages: ASGIApp) -> Starlette:
    """The application; its writer runs as long as it does."""

    @contextlib.asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        writer = asyncio.create_task(reception.run())
        yield
        writer.cancel()

    async def post(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            return Response('{"error": "too slow"}', 408, media_type="application/json")
        if body is None:
            return Response('{"error": "too long"}', 413, media_type="application/json")
        headers = request.headers
        answer = await reception.take(headers.get("edge-site", ""), headers.get("edge-signature", ""), body)
        return Response(answer.body(), answer.status, media_type="application/json")

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    return Starlette(
        routes=[
            Route("/heartbeat", post, methods=["POST"]),
            Route("/healthz", alive),
            Mount("/", pages),
        ],
        lifespan=life,
    )


async def _body(request: Request) -> bytes | None:
    """The body, unless it is too long: read no further than that."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def build_pages(store: Store, config: Config, accounts: StoredAccounts, setup: Setup) -> ASGIApp:
    """The pages behind the guard; `setup` is where the first account is made."""
    pages = Pages(Path(__file__).parent / "templates", PLACES, product="Edge central")
    central = config.central
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
    return Guard(Starlette(routes=routes), accounts, sessions, rules)
