"""A listening socket that limits the connections of each caller (edge.network.shares), before any byte is read.

Callers on this machine, trusted proxies and known callers may use the reserved places. If all places are taken,
the oldest connection of the caller that has the most is closed for one that has fewer. A connection without a place
gets `refusal` and is closed.

asyncio accepts in one thread; `connections` may be called from any.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from edge.network import sockets
from edge.network.shares import Full, Places, ProvenCallers, Share, caller_of, is_local_caller, is_within


class _Connection(socket.socket):
    """A connection that gives back its place when it is closed, or before."""

    release: Callable[[], None] | None = None

    def give_back(self) -> None:
        release, self.release = self.release, None
        if release is not None:
            release()

    def close(self) -> None:
        self.give_back()
        super().close()


class Listener(socket.socket):
    """A listening socket with a limited number of connections."""

    def __init__(
        self,
        host: str,
        port: int,
        share: Share,
        *,
        known: ProvenCallers,
        proxies: tuple[str, ...] = (),
        refusal: bytes = b"",
    ) -> None:
        """Bind and listen. Raises OSError. Port 0: any. `refusal`: the answer to a caller without a place."""
        made = sockets.listen_on(host, port)
        super().__init__(made.family, made.type, made.proto, fileno=made.detach())
        self._places, self._known, self._proxies = Places(share), known, proxies
        self._refusal = refusal
        self._open: dict[_Connection, str] = {}  # the oldest first, with its caller

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return self._places.total

    def accept(self) -> tuple[socket.socket, object]:
        """Return the next connection that has a place. Raises BlockingIOError if there is none."""
        while True:
            number, address = self._accept()  # type: ignore[attr-defined]  # as socket.accept does
            connection = _Connection(self.family, self.type, self.proto, fileno=number)
            if self._take(connection, str(address[0])):
                return connection, address
            self._turn_away(connection)

    def _take(self, connection: _Connection, address: str) -> bool:
        caller = caller_of(address)
        full = self._places.take(caller, kept=0.0 if self._is_named(address) else 1.0)
        if full is not None:
            if full is Full.EACH or not self._end_oldest(self._places.caller_with_more(caller)):
                return False
            self._places.add(caller)
        self._open[connection] = caller

        def release() -> None:
            del self._open[connection]
            self._places.give_back(caller)

        connection.release = release
        return True

    def _is_named(self, address: str) -> bool:
        is_trusted = is_local_caller(address) or is_within(address, self._proxies)
        return is_trusted or self._known.has(address, time.time())

    def _end_oldest(self, caller: str) -> bool:
        """End the oldest connection of a caller; asyncio then closes it."""
        oldest = next((each for each, whose in self._open.items() if whose == caller), None)
        if oldest is None:
            return False
        oldest.give_back()
        with suppress(OSError):  # it is closed already
            oldest.shutdown(socket.SHUT_RDWR)
        return True

    def _turn_away(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):  # it is closed already
            connection.send(self._refusal)
        connection.close()


def bare_answer(status: HTTPStatus) -> bytes:
    """Return an answer without a readable request (RFC 9112)."""
    body = f"{status.phrase}\n"
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", body]).encode("ascii")
