"""A small HTTP server: is it alive, is it ready, what are its numbers.

    GET /healthz     200 alive
    GET /readyz      200 accepting; 503 with the reason
    GET /metrics     Prometheus
    GET /api/status  the JSON of `edge status --json`

One request a connection. A request has a deadline as a whole, a greatest length, and there is a greatest number of them
at a time; more are answered 503. Nothing here carries PHI, nothing here changes anything.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from edge.errors import place_of

log = logging.getLogger(__name__)

#: A caller has so long to say what it wants, and again to take the answer.
REQUEST_SECONDS = 5.0
MAX_HEAD = 16 * 1024
#: Requests at a time.
WORKERS = 8
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets."""

    status: HTTPStatus
    body: str
    content_type: str = TEXT
    allow: str = ""

    def encode(self, *, head_only: bool) -> bytes:
        body = self.body.encode()
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        if self.allow:
            lines.append(f"Allow: {self.allow}")
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        return head if head_only else head + body


def _failure(status: HTTPStatus, allow: str = "") -> Answer:
    return Answer(status, f"{status.phrase}\n", allow=allow)


Page = Callable[[], Answer]


class Console:
    """Serves until `stop`. The three functions are called in threads, once for each request."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
        ready: Callable[[], tuple[bool, str]],
    ) -> None:
        """Bind; raises OSError where the address cannot be had. Port 0: any; see `port`.

        `ready` says whether objects are accepted and, if not, why.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=64)
        self._free = threading.BoundedSemaphore(WORKERS)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="console")
        self._thread = threading.Thread(target=self._accept, name="console", daemon=True)
        self._pages: dict[str, Page] = {
            "/healthz": lambda: Answer(HTTPStatus.OK, "alive\n"),
            "/readyz": lambda: _readiness(*ready()),
            "/metrics": lambda: Answer(HTTPStatus.OK, metrics(), METRICS),
            "/api/status": lambda: Answer(HTTPStatus.OK, json.dumps(status()) + "\n", JSON),
        }

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and let what is being answered end."""
        if self._thread.is_alive():
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._thread.join()
        self._socket.close()
        self._workers.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except ConnectionError:
                continue  # it went before it was taken
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # stop() has shut it down
                log.warning("the console cannot accept: %s", error.strerror)  # no descriptors left: others need time
                time.sleep(0.5)
                continue
            if self._free.acquire(blocking=False):
                self._workers.submit(self._serve, sock)
            else:
                self._turn_away(sock)

    @staticmethod
    def _turn_away(sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            try:
                sock.send(_failure(HTTPStatus.SERVICE_UNAVAILABLE).encode(head_only=False))
            except OSError:
                pass  # it will see the connection closed, which says the same

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                _exchange(sock, self._answer)
        except OSError:
            pass  # the caller went away or was too slow: its own affair
        finally:
            self._free.release()

    def _answer(self, method: str, path: str) -> Answer:
        page = self._pages.get(path.partition("?")[0])
        if page is None:
            return _failure(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return _failure(HTTPStatus.METHOD_NOT_ALLOWED, allow="GET, HEAD")
        try:
            return page()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the store, the console says that and lives on
            log.error("%s cannot be answered: %s", path, place_of(error))
            return _failure(HTTPStatus.INTERNAL_SERVER_ERROR)


def _readiness(ready: bool, reason: str) -> Answer:
    if ready:
        return Answer(HTTPStatus.OK, "accepting\n")
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason or 'not accepting'}\n")


def _exchange(sock: socket.socket, answer: Callable[[str, str], Answer]) -> None:
    method = "GET"
    try:
        method, path = _request_line(_read_head(sock))
        found = answer(method, path)
    except _Malformed as error:
        found = _failure(error.status)
    sock.settimeout(REQUEST_SECONDS)
    sock.sendall(found.encode(head_only=method == "HEAD"))
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(0.5)
    sock.recv(MAX_HEAD)  # a body nobody asked for: closing on it would reset the connection under our answer


class _Malformed(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def _read_head(sock: socket.socket) -> bytes:
    """The request line and the headers, within their time and length."""
    deadline = time.monotonic() + REQUEST_SECONDS
    head = b""
    while b"\r\n\r\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Malformed(HTTPStatus.REQUEST_TIMEOUT)
        sock.settimeout(left)
        try:
            chunk = sock.recv(4096)
        except TimeoutError:
            raise _Malformed(HTTPStatus.REQUEST_TIMEOUT) from None
        if not chunk:
            raise _Malformed(HTTPStatus.BAD_REQUEST)
        head += chunk
        if len(head) > MAX_HEAD:
            raise _Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return head


def _request_line(head: bytes) -> tuple[str, str]:
    """Method and path (RFC 9112 section 3)."""
    line = head.split(b"\r\n", 1)[0]
    words = line.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not line.isascii():
        raise _Malformed(HTTPStatus.BAD_REQUEST)
    return words[0].decode("ascii"), words[1].decode("ascii")
