"""The central office as a web application: what sites post to, and what people look at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge.central.receive import MAX_BYTES, Reception


def build(reception: Reception) -> Starlette:
    """The application; its writer runs as long as it does."""

    @contextlib.asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        writer = asyncio.create_task(reception.run())
        yield
        writer.cancel()

    async def post(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return Response('{"error": "too long"}', 413, media_type="application/json")
        headers = request.headers
        answer = await reception.take(headers.get("edge-site", ""), headers.get("edge-signature", ""), body)
        return Response(answer.body(), answer.status, media_type="application/json")

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    return Starlette(
        routes=[Route("/heartbeat", post, methods=["POST"]), Route("/healthz", alive)],
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
