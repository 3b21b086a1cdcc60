"""uvicorn in a thread of its own, beside work that matters more.

The address is bound at once, so that a taken one is an error at start; what comes before the server runs waits in the
backlog. A request's head has its time and length, an exchange as a whole has its time, and there are only so many
connections: one more is told so and closed. Nothing of it is logged: callers must not fill the disk.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn import Server as Uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

#: A caller has so long to say what it wants, and a whole exchange so long, answer taken.
REQUEST_SECONDS = 5.0
EXCHANGE_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 5
MAX_HEAD = 16 * 1024
#: Connections at a time. A browser opens up to six.
MAX_CONNECTIONS = 64
#: On stop, answers under way have so long.
STOP_SECONDS = 3

App = Callable[[Any, Any, Any], Awaitable[None]]


class Server:
    """Serves an ASGI application from `start` until `stop`."""

    def __init__(self, app: App, host: str, port: int, name: str = "web") -> None:
        """Bind; raises OSError where the address cannot be had. Port 0: any; see `port`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._app = app
        self._socket = socket.create_server((host, port), family=family, backlog=64)
        self._ending = threading.Event()
        self._uvicorn: Uvicorn | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._uvicorn.server_state.connections) if self._uvicorn else 0

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and let what is being answered end."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        config = Config(
            self._app,
            http=_Bounded,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._uvicorn = _Stoppable(config, self._ending)
        self._uvicorn.run([self._socket])


class _Stoppable(Uvicorn):
    """Ends when an event says so, whenever that came."""

    def __init__(self, config: Config, ending: threading.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def on_tick(self, counter: int) -> bool:
        return self._ending.is_set() or await super().on_tick(counter)


class _Bounded(H11Protocol):
    """One connection that cannot wait for ever."""

    _patience: asyncio.TimerHandle | None = None
    _turned_away = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MAX_CONNECTIONS:
            self._turned_away = True
            transport.write(_failure(HTTPStatus.SERVICE_UNAVAILABLE))
            transport.close()
            return
        super().connection_made(transport)
        self._wait(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        if not self._turned_away:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        if self._idle and self._patience is None:
            self._wait(REQUEST_SECONDS)
        was = self.cycle
        super().data_received(data)
        if self.cycle is not was and not self._idle:
            self._wait(EXCHANGE_SECONDS)

    def on_response_complete(self) -> None:
        self._wait(None)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn answers 400 to whatever is malformed; h11 knows better (RFC 9110, RFC 6585)."""
        self._end_with(HTTPStatus(getattr(sys.exc_info()[1], "error_status_hint", 400)))

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._idle:
            self._end_with(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.abort()

    def _end_with(self, status: HTTPStatus) -> None:
        if self._idle:
            self.transport.write(_failure(status))
        self.transport.close()


def _failure(status: HTTPStatus) -> bytes:
    body = f"{status.phrase}\n"
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", body]).encode("ascii")
