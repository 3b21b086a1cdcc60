"""uvicorn with a limit on every wait, length and count: the HTTP of `edge.web.server` and of the centre."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading
from http import HTTPStatus
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from edge.web.client_certificates import CLIENT_CERTIFICATE, CLIENT_DER
from edge.web.listener import bare_answer

#: The time for a caller to send a request's head, and for a whole exchange, until the answer is received.
HTTP_REQUEST_SECONDS = 5.0
EXCHANGE_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 5
MAX_HEAD = 16 * 1024
#: The least number of bytes of a body that must arrive in that time, until it is complete.
BODY_LEAST_BYTES, BODY_PACE_SECONDS = 8 * 1024, 10.0
#: Turns of the server's own loop.
HTTP_TURN_SECONDS = 1.0
#: The time for requests in progress at a stop.
HTTP_STOP_SECONDS = 3


class Uvicorn(Server):
    """A server that ends when an event is set, even before it has started."""

    def __init__(self, app: Any, ending: threading.Event, context: ssl.SSLContext | None = None) -> None:
        """`context`: of TLS; None: plain HTTP."""
        settings = configure(app, interface="asgi3", loop="asyncio", lifespan="off", log_level="critical")
        settings.load()
        settings.ssl = context
        super().__init__(settings)
        self._ending, self._woken = ending, asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Turn once a second, for the date in answers: uvicorn's own turns ten times, in each idle gateway."""
        self._loop = asyncio.get_running_loop()
        while not (self._ending.is_set() or await self.on_tick(0)):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), HTTP_TURN_SECONDS)

    def wake(self) -> None:
        """Look at once whether it is to end. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._woken.set)


def configure(app: Any, **more: Any) -> Config:
    """Return the settings of uvicorn with the limits of this module."""
    return Config(
        app,
        http=BoundedHttp,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=HTTP_STOP_SECONDS,
        **more,
    )


class BoundedHttp(H11Protocol):
    """One connection with limited waits."""

    _deadline: asyncio.TimerHandle | None = None
    _pace: asyncio.TimerHandle | None = None
    _came = 0  # bytes since the pace was last checked

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and (fields := secured.getpeercert()):  # verified in the handshake, or empty
            shown = {CLIENT_CERTIFICATE: fields, CLIENT_DER: secured.getpeercert(binary_form=True) or b""}
            self.app_state = {**self.app_state, **shown}
        self._wait(HTTP_REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        if self._pace is not None:
            self._pace.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        if self._idle and self._deadline is None:
            self._wait(HTTP_REQUEST_SECONDS)
        was = self.cycle
        super().data_received(data)
        if self.cycle is not was and not self._idle:
            self._wait(EXCHANGE_SECONDS)
            self._watch_pace()

    def _watch_pace(self) -> None:
        """Start the next period of the least rate of a body."""
        if self._pace is not None:
            self._pace.cancel()
        self._came = 0
        self._pace = self.loop.call_later(BODY_PACE_SECONDS, self._check_pace)

    def _check_pace(self) -> None:
        self._pace = None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or self._idle or not cycle.more_body:
            return
        if self._came < BODY_LEAST_BYTES and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._watch_pace()

    def resume_writing(self) -> None:
        """Give a long answer its time again: a part was received. Long answers exist behind a sign-in alone."""
        super().resume_writing()
        if not self._idle:
            self._wait(EXCHANGE_SECONDS)

    def on_response_complete(self) -> None:
        if not self.transport.get_write_buffer_size():  # else the caller must still receive it, within its time
            self._wait(None)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer with the status that h11 names (RFC 9110, RFC 6585), where uvicorn answers 400 to all errors."""
        self._end(HTTPStatus(getattr(sys.exc_info()[1], "error_status_hint", 400)))

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def _wait(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._idle and not self.transport.get_write_buffer_size():
            self._end(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.abort()

    def _end(self, status: HTTPStatus) -> None:
        if self._idle:
            self.transport.write(bare_answer(status))
        self.transport.close()
