"""The bodies of heartbeats, before it is known who sent them: refused by their headers, or counted while held.

Without a site, a signature and a length that may be right nothing is read. Whether there is such a site is not said
before the signature is checked, so that nobody learns which sites there are. The bytes that are held are bounded for
each caller and in all (network.shares); half of them are for callers from which a signed heartbeat has come before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import Request

from edge.central.receive import MAX_BYTES, HeartbeatResponse
from edge.network import shares
from edge.network.shares import Places, ProvenCallers, caller_of, is_local_caller

#: The longest that a heartbeat takes to arrive, in seconds.
BODY_SECONDS = 20.0

UNSIGNED = HeartbeatResponse(401, {"error": "not signed by a site that is known here"})
NO_LENGTH = HeartbeatResponse(411, {"error": "without Content-Length"})
TOO_LONG = HeartbeatResponse(413, {"error": "too long"})
TOO_SLOW = HeartbeatResponse(408, {"error": "too slow"})
TOO_MUCH = HeartbeatResponse(503, {"error": "too much at once; try again"})

_SIGNATURE = re.compile(r"sha256=[0-9a-f]{64}")


class BodyRefused(Exception):
    """A request is not taken; `answer` says why."""

    def __init__(self, answer: HeartbeatResponse) -> None:
        super().__init__()
        self.answer = answer


def length_of(headers: Mapping[str, str]) -> int:
    """How long the body is. Raises BodyRefused for a request that can be no heartbeat, by its headers alone."""
    if not headers.get("edge-site") or not _SIGNATURE.fullmatch(headers.get("edge-signature", "")):
        raise BodyRefused(UNSIGNED)
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal()):
        raise BodyRefused(NO_LENGTH)
    if len(length) > len(str(MAX_BYTES)) or int(length) > MAX_BYTES:
        raise BodyRefused(TOO_LONG)
    return int(length)


class Bodies:
    """Holds them while they are received and checked."""

    def __init__(self, known: ProvenCallers) -> None:
        """`known`: callers from which signed heartbeats came; it learns more of them."""
        self._places, self._known = Places(shares.BODIES), known

    @asynccontextmanager
    async def receive_body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; what it takes is given back at the end. Raises BodyRefused."""
        length, address = length_of(request.headers), request.client.host if request.client else ""
        is_named = is_local_caller(address) or self._known.has(address, time.time())
        caller = caller_of(address)
        if self._places.take(caller, length, kept=0.0 if is_named else 1.0) is not None:
            raise BodyRefused(TOO_MUCH)
        try:
            yield await asyncio.wait_for(_read(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise BodyRefused(TOO_SLOW) from None
        finally:
            self._places.give_back(caller, length)

    def note_signed(self, request: Request) -> None:
        """Its signature was right."""
        if request.client is not None:
            self._known.remember(request.client.host, time.time())


async def _read(request: Request) -> bytes:
    """The body; h11 gives no more of it than Content-Length says."""
    return b"".join([piece async for piece in request.stream()])
