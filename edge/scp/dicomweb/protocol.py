"""HTTP/1.1 (RFC 9110, RFC 9112) on one connection: requests one after another, bodies in parts, answers.

Heads are read and written by h11. A body of known length is read straight from the socket, which is what makes STOW-RS
quick; a chunked one by h11. Limits: a head of MAX_REQUEST_HEAD bytes, NEXT_REQUEST_SECONDS until the next one is whole;
PROGRESS_SECONDS for anything to come or go, and a pace for bodies and answers (edge.scp.dicomweb.pace).
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote

import h11

from edge.network.sockets import shut_down, wait_writable
from edge.scp.dicomweb.pace import CallerPace
from edge.scp.listener import CLIENT_HELLO, CallerRefused

MAX_REQUEST_HEAD = 16 * 1024
#: Nothing comes, or nothing goes, for this time; and from one answer to the end of the next head.
PROGRESS_SECONDS, NEXT_REQUEST_SECONDS = 30.0, 15.0
#: Of a body that nobody reads any more: read and dropped, so that the answer is read.
MOST_DROPPED = 4 << 20
_PIECE = 256 * 1024
_LINGER_SECONDS = 2.0
MAX_QUERY_FIELDS = 500


class HttpError(Exception):
    """A request that is answered with a failure; the text is for the caller, and has no patient's data."""

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


class ConnectionEnded(Exception):
    """The caller has gone, or says nothing, or what is not HTTP."""


def closing_answer(status: HTTPStatus) -> bytes:
    """An answer without a body, which ends the connection."""
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


class HttpProtocol:
    """See edge.scp.listener.WireProtocol."""

    name = "HTTP"
    first_message = "HTTP request"
    title_bytes = 0
    too_many = closing_answer(HTTPStatus.SERVICE_UNAVAILABLE)
    too_large = closing_answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def missing(self, data: bytearray) -> int:
        if data and not self.is_plain(data[0]):
            hint = " (it speaks TLS, this port does not)" if data[0] == CLIENT_HELLO else ""
            raise CallerRefused(f"its first byte is 0x{data[0]:02X}, not an HTTP request{hint}")
        if b"\r\n\r\n" in data:
            return 0
        if len(data) >= MAX_REQUEST_HEAD:
            raise CallerRefused(f"the head of its request has more than {MAX_REQUEST_HEAD} bytes", self.too_large)
        return MAX_REQUEST_HEAD - len(data)

    def title(self, data: bytearray) -> str:
        return ""

    def is_plain(self, first: int) -> bool:
        return 0x41 <= first <= 0x5A  # a method begins with a capital letter


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The head of a request."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]  # by name in lower case; several of one name are one list (RFC 9110 section 5.3)
    length: int | None  # of the body in bytes; None: chunked
    wants_continue: bool
    stays: bool  # another request may follow
    knows_chunks: bool = True  # HTTP/1.1

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


class HttpConnection:
    """See the module's docstring. One thread."""

    def __init__(
        self, sock: socket.socket, first: bytearray, address: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sock, self.address, self._clock = sock, address, clock
        self._left = bytes(first)  # what has come and is not read yet
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_HEAD)
        self._request: HttpRequest | None = None
        self._unread: int | None = 0  # bytes of the body; None: chunked, and not at its end
        self._chunk = b""  # of a chunked body, what is not read yet
        self._is_cut = False  # the body has ended early: what may still come of it is no request
        self._owes_continue = False
        self.is_waiting = False  # between two requests
        self._is_chunked = False  # the body of the answer
        self._inward, self._outward = CallerPace(), CallerPace()

    # -- requests -----------------------------------------------------------------------------------------------------

    def next_request(self) -> HttpRequest | None:
        """The head of the next request; None when the caller has ended. Raises HttpError and ConnectionEnded."""
        head = self._receive_head()
        if head is None:
            return None
        if b"\r\n " in head or b"\r\n\t" in head:  # RFC 9112 section 5.2: who is before us may read it otherwise
            raise HttpError(HTTPStatus.BAD_REQUEST, "A header has a line that is folded.")
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_HEAD)
        try:
            self._h11.receive_data(head)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(HTTPStatus(error.error_status_hint), "The request is not HTTP/1.1.") from None
        if not isinstance(event, h11.Request):
            raise HttpError(HTTPStatus.BAD_REQUEST, "The request is not HTTP/1.1.")
        if event.http_version not in (b"1.0", b"1.1"):
            raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "The request is not HTTP/1.1.")
        self._request = _read_head(event, stays=not self._is_last(event))
        self._unread, self._inward, self._chunk = self._request.length, CallerPace(), b""
        self._owes_continue = self._request.wants_continue and not self._left
        if self._unread is None and self._left:
            self._h11.receive_data(self._left)
            self._left = b""
        return self._request

    def _receive_head(self) -> bytes | None:
        """Up to the blank line; what follows it is kept. Raises HttpError and ConnectionEnded."""
        until, room = self._clock() + NEXT_REQUEST_SECONDS, memoryview(bytearray(MAX_REQUEST_HEAD))
        self.is_waiting = True
        try:
            while (end := self._left.find(b"\r\n\r\n")) < 0:
                if len(self._left) > MAX_REQUEST_HEAD:
                    raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too long.")
                if (seconds := until - self._clock()) <= 0:
                    raise ConnectionEnded("no request is whole")
                self.sock.settimeout(seconds)
                count = self._receive_into(room)
                if not count:
                    return None
                self._left += room[:count]
        finally:
            self.is_waiting = False
        self.sock.settimeout(PROGRESS_SECONDS)
        head, self._left = self._left[: end + 4], self._left[end + 4 :]
        return head

    @staticmethod
    def _is_last(event: h11.Request) -> bool:
        said = b",".join(value for name, value in event.headers if name == b"connection").lower()
        return b"close" in said or event.http_version < b"1.1"

    def _receive_into(self, room: memoryview) -> int:
        try:
            return self.sock.recv_into(room)
        except TimeoutError:
            raise ConnectionEnded("it was silent") from None
        except OSError as error:
            raise ConnectionEnded(str(error.strerror or error)) from None

    # -- the body of a request ----------------------------------------------------------------------------------------

    def read_body(self, room: memoryview) -> int:
        """Read more of the body into a buffer; 0 at its end. Raises ConnectionEnded where it is cut, or too slow."""
        if self._owes_continue:
            self._owes_continue = False
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._read_body(room)

    def _read_body(self, room: memoryview) -> int:
        try:
            return self._read_chunked(room) if self._unread is None else self._read_known(room[: self._unread])
        except ConnectionEnded:
            self._is_cut = True
            raise

    def _read_known(self, room: memoryview) -> int:
        if not room:
            return 0
        if self._left:
            count = min(len(self._left), len(room))
            room[:count], self._left = self._left[:count], self._left[count:]
        else:
            count = self._receive_body(room)
        assert self._unread is not None
        self._unread -= count
        return count

    def _read_chunked(self, room: memoryview) -> int:
        while not self._chunk:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                raise ConnectionEnded("its body is cut, or not chunked as HTTP says") from None
            if event is h11.NEED_DATA:
                self._h11.receive_data(bytes(room[: self._receive_body(room)]))
            elif isinstance(event, h11.Data):
                self._chunk = bytes(event.data)
            else:
                self._unread, self._left = 0, self._h11.trailing_data[0]
                return 0
        count = min(len(self._chunk), len(room))
        room[:count], self._chunk = self._chunk[:count], self._chunk[count:]
        return count

    def _receive_body(self, room: memoryview) -> int:
        began = self._clock()
        count = self._receive_into(room)
        if not count:
            raise ConnectionEnded("its body is cut")
        if not self._inward.is_kept(count, self._clock() - began):
            raise ConnectionEnded("its body comes too slowly")
        return count

    @property
    def has_unread_body(self) -> bool:
        return self._unread != 0

    @property
    def ends(self) -> bool:
        """Must it end behind the answer: it says so, its body is cut, or too much of that would have to be read?"""
        assert self._request is not None
        if self._is_cut or not self._request.stays:
            return True
        is_short = self._unread is not None and self._unread <= MOST_DROPPED
        return self.has_unread_body and (self._request.wants_continue or not is_short)

    def drop_body(self) -> None:
        """Read what is left of the body, so that the caller reads our answer; not for long."""
        dropped, room = 0, memoryview(bytearray(_PIECE))
        try:
            while dropped <= MOST_DROPPED and (count := self._read_body(room)):
                dropped += count
        except ConnectionEnded:
            pass

    def hang_up(self) -> None:
        """Stop receiving; called from another thread."""
        shut_down(self.sock, socket.SHUT_RD)

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what is no request; the connection ends."""
        body = f"{text}\n".encode()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self._send(head.encode() + body)

    def linger(self) -> None:
        """We have answered, and read no more of the body than the caller needs to read that."""
        if shut_down(self.sock, socket.SHUT_WR):
            self.sock.settimeout(_LINGER_SECONDS)
            self.drop_body()

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(
        self, status: HTTPStatus, headers: Mapping[str, str], body: bytes | None, length: int | None = None
    ) -> None:
        """Send the head of an answer, with its body where that is here; `length` of one that follows.

        Without either, the body follows in chunks, up to `end_body`.
        """
        assert self._request is not None
        self._outward = CallerPace()
        size = len(body) if body is not None else length
        fields = [*headers.items()]
        has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        self._is_chunked = has_body and size is None and self._request.knows_chunks
        if size is not None and has_body:
            fields.append(("Content-Length", str(size)))
        elif self._is_chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        if self.ends:
            fields.append(("Connection", "close"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode("latin-1", "replace")
        self._send(head if self._request.method == "HEAD" or not body else head + body)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._send_some(self.sock.send, view) :]

    def _send_some(self, send: Callable[..., int], *given: object) -> int:
        """The bytes that a call has sent. Raises ConnectionEnded, also where the caller reads too slowly."""
        began = self._clock()
        try:
            count = send(*given)
        except OSError as error:
            raise ConnectionEnded(str(error.strerror or error)) from None
        if not self._outward.is_kept(count, self._clock() - began):
            raise ConnectionEnded("it reads too slowly")
        return count

    def send(self, data: bytes) -> None:
        """Send a part of a body."""
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        """Send bytes of a file, without reading them where the kernel can do so (sendfile(2))."""
        if self._is_chunked and count:
            self._send(b"%x\r\n" % count)
        self._send_range(file.fileno(), offset, count)
        if self._is_chunked and count:
            self._send(b"\r\n")

    def end_body(self) -> None:
        """Note that a body whose length was not said is whole."""
        if self._is_chunked:
            self._send(b"0\r\n\r\n")

    def _send_range(self, fd: int, offset: int, count: int) -> None:
        while count:
            if isinstance(self.sock, ssl.SSLSocket):
                piece = os.pread(fd, min(count, _PIECE), offset)
                self._send(piece)
                sent = len(piece)
            else:
                sent = self._send_some(self._sendfile, fd, offset, count)
            if not sent:
                raise ConnectionEnded("a file is shorter than the catalog says")
            offset, count = offset + sent, count - sent

    def _sendfile(self, fd: int, offset: int, count: int) -> int:
        while True:
            try:
                return os.sendfile(self.sock.fileno(), fd, offset, count)
            except BlockingIOError:
                if not wait_writable(self.sock.fileno(), PROGRESS_SECONDS):
                    raise TimeoutError("it reads nothing") from None


def _read_head(event: h11.Request, *, stays: bool) -> HttpRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = event.target.decode("latin-1")
    path, _, query = target.partition("?")
    if not path.startswith("/"):  # RFC 9112 section 3.2.2: absolute form
        path = "/" + path.partition("://")[2].partition("/")[2]
    try:
        fields = tuple(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "The query has too many fields.") from None
    if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112 section 6.1: it may be smuggling
        raise HttpError(HTTPStatus.BAD_REQUEST, "Transfer-Encoding and Content-Length contradict each other.")
    is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = None if is_chunked else int(headers.get("content-length", "0") or 0)
    wants_continue = headers.get("expect", "").lower() == "100-continue"
    knows_chunks = event.http_version >= b"1.1"
    return HttpRequest(
        event.method.decode(), unquote(path), fields, headers, length, wants_continue, stays, knows_chunks
    )
