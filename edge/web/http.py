"""uvicorn with every wait, length and count bounded: how `edge.web.server` speaks HTTP."""

from __future__ import annotations

import asyncio
import sys
import threading
from http import HTTPStatus
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from edge.web.listener import bare_answer

#: A caller has so long to say what it wants, and a whole exchange so long, answer taken.
REQUEST_SECONDS = 5.0
EXCHANGE_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 5
MAX_HEAD = 16 * 1024
#: The least that must come of a body in that time, until it is whole.
BODY_LEAST_BYTES, BODY_PACE_SECONDS = 8 * 1024, 10.0
#: On stop, answers under way have so long.
STOP_SECONDS = 3


class Uvicorn(Server):
    """Ends when an event says so, whenever that came."""

    def __init__(self, app: Any, ending: threading.Event) -> None:
        config = Config(
            app,
            interface="asgi3",
            http=Bounded,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        super().__init__(config)
        self._ending = ending

    async def on_tick(self, counter: int) -> bool:
        return self._ending.is_set() or await super().on_tick(counter)


class Bounded(H11Protocol):
    """One connection that cannot wait without end."""

    _patience: asyncio.TimerHandle | None = None
    _pace: asyncio.TimerHandle | None = None
    _came = 0  # bytes since the pace was last checked

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        if self._pace is not None:
            self._pace.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        if self._idle and self._patience is None:
            self._wait(REQUEST_SECONDS)
        was = self.cycle
        super().data_received(data)
        if self.cycle is not was and not self._idle:
            self._wait(EXCHANGE_SECONDS)
            self._watch_pace()

    def _watch_pace(self) -> None:
        """Begin to watch how fast a body comes, where it is not here already."""
        if self._pace is not None:
            self._pace.cancel()
        self._came = 0
        self._pace = self.loop.call_later(BODY_PACE_SECONDS, self._look_at_pace)

    def _look_at_pace(self) -> None:
        self._pace = None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or self._idle or not cycle.more_body:
            return
        if self._came < BODY_LEAST_BYTES and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._watch_pace()

    def on_response_complete(self) -> None:
        if not self.transport.get_write_buffer_size():  # else the caller has still to take it, within its time
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
        if self._idle and not self.transport.get_write_buffer_size():
            self._end_with(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.abort()

    def _end_with(self, status: HTTPStatus) -> None:
        if self._idle:
            self.transport.write(bare_answer(status))
        self.transport.close()
