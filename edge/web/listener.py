"""A listening socket that grants each caller its share of connections (edge.shares), before anything is read of it.

Who is named may use the places that are kept: callers on this machine, trusted proxies, and ProvenCallers. Where a
caller wants a place that another one has far too many of, the oldest connection of the latter ends for it. Who gets
none is answered so, where it speaks in clear, and closed.

asyncio accepts in one thread; `connections` may be asked from any.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from edge import sockets
from edge.shares import Full, Places, ProvenCallers, Share, caller_of, is_local_caller
from edge.web.hosts import is_within


class _Connection(socket.socket):
    """Gives its place back when it is closed."""

    given_back: Callable[[], None] | None = None

    def close(self) -> None:
        if self.given_back is not None:
            give_back, self.given_back = self.given_back, None
            give_back()
        super().close()


class Listener(socket.socket):
    """See the module's promise."""

    def __init__(
        self,
        host: str,
        port: int,
        share: Share,
        *,
        known: ProvenCallers,
        proxies: tuple[str, ...] = (),
        refusal: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Bind and listen; raises OSError. Port 0: any. `refusal`: what those get who have no place; empty: nothing."""
        made = sockets.listen_on(host, port)
        super().__init__(made.family, made.type, made.proto, fileno=made.detach())
        self._places, self._known, self._proxies = Places(share), known, proxies
        self._refusal, self._clock = refusal, clock
        self._open: dict[_Connection, str] = {}  # the oldest first, with its caller

    @property
    def connections(self) -> int:
        """How many there are now."""
        return self._places.total

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection that has a place. Raises BlockingIOError where nobody waits."""
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
            greedy = caller if full is Full.EACH else self._places.greedier_than(caller)
            if full is Full.EACH or not self._end_oldest(greedy):
                return False
            self._places.add(caller)
        self._open[connection] = caller

        def give_back() -> None:
            del self._open[connection]
            self._places.give_back(caller)

        connection.given_back = give_back
        return True

    def _is_named(self, address: str) -> bool:
        is_trusted = is_local_caller(address) or is_within(address, self._proxies)
        return is_trusted or self._known.has(address, self._clock())

    def _end_oldest(self, caller: str) -> bool:
        """End the oldest connection of a caller, which asyncio closes then."""
        oldest = next((each for each, whose in self._open.items() if whose == caller and each.given_back), None)
        if oldest is None:
            return False
        assert oldest.given_back is not None
        give_back, oldest.given_back = oldest.given_back, None
        give_back()
        try:
            oldest.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has gone by itself
        return True

    def _turn_away(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            connection.send(self._refusal)
        except OSError:
            pass  # it has gone
        connection.close()


def bare_answer(status: HTTPStatus) -> bytes:
    """An answer of its own, before or without a request that could be read (RFC 9112)."""
    body = f"{status.phrase}\n"
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", body]).encode("ascii")
