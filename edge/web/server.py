"""uvicorn in its own thread.

The constructor binds the address, so that an address in use is an error at start; connections wait until the server
runs. Limits: time and length of a request's head, least rate of its body, time of the exchange (edge.web.http), and
connections of each caller (edge.web.listener). Requests are not logged: callers must not fill the disk.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from edge.network import shares
from edge.network.shares import ProvenCallers
from edge.web.listener import Listener, bare_answer

if TYPE_CHECKING:
    from edge.web.http import Uvicorn

App = Callable[[Any, Any, Any], Awaitable[None]]


class WebServer:
    """Serves an ASGI application from `start` until `stop`."""

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        name: str = "web",
        known: ProvenCallers | None = None,
        proxies: Sequence[str] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Bind the address. Port 0: any; see `port`. Raises OSError.

        `known` and `proxies`, besides this machine: whose connections may use the reserved places. `context`: of TLS.
        """
        self._app, self._context = app, context
        refusal = b"" if context else bare_answer(HTTPStatus.SERVICE_UNAVAILABLE)
        self._socket = Listener(
            host, port, shares.CONSOLE, known=known or ProvenCallers(), proxies=tuple(proxies), refusal=refusal
        )
        self._ending = threading.Event()
        self._uvicorn: Uvicorn | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return self._socket.connections

    def start(self) -> None:
        """Start to answer requests."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and complete the requests in progress."""
        self._ending.set()
        if self._thread.is_alive():
            if self._uvicorn is not None:
                self._uvicorn.wake()
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        from edge.web import http  # noqa: PLC0415  # uvicorn loads slowly: the start does not wait for it

        self._uvicorn = http.Uvicorn(self._app, self._ending, self._context)
        self._uvicorn.run([self._socket])
