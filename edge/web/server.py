"""uvicorn in a thread of its own, beside work that matters more.

The address is bound at once, so that a taken one is an error at start; what comes before the server runs waits in the
backlog. A request's head has its time and length, its body a least rate, an exchange as a whole has its time, and each
caller has its share of connections (edge.web.listener). Nothing of it is logged: callers must not fill the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from edge import shares
from edge.shares import ProvenCallers
from edge.web.listener import Listener, bare_answer

if TYPE_CHECKING:
    from edge.web.http import Uvicorn

App = Callable[[Any, Any, Any], Awaitable[None]]


class Server:
    """Serves an ASGI application from `start` until `stop`."""

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        name: str = "web",
        known: ProvenCallers | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        """Bind; raises OSError where the address cannot be had. Port 0: any; see `port`.

        `known` and `proxies`: whose connections may use the places that are kept, beside those of this machine.
        """
        self._app = app
        refusal = bare_answer(HTTPStatus.SERVICE_UNAVAILABLE)
        self._socket = Listener(
            host, port, shares.CONSOLE, known=known or ProvenCallers(), proxies=tuple(proxies), refusal=refusal
        )
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
        return self._socket.connections

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
        from edge.web import http  # noqa: PLC0415  # uvicorn takes its time to load: the start need not wait for it

        self._uvicorn = http.Uvicorn(self._app, self._ending)
        self._uvicorn.run([self._socket])
