"""HTTP/1.1 to one server, one request at a time on a kept connection; large bodies go from files (RFC 9110, RFC 9112).

Raises PeerError for whatever the server or the line does. Limits: _CONNECT_SECONDS for a connection with TLS,
_PROGRESS_SECONDS for bytes to come or go, _ANSWER_SECONDS for an answer to begin, and a length for its body.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edge import __version__
from edge.config.secret import SecretError, read_secret
from edge.errors import PeerError
from edge.network.sockets import shut_down, unsent_bytes
from edge.network.tls import TlsError, certificate_of, expires, explain, stamps

_CONNECT_SECONDS, _PROGRESS_SECONDS, _ANSWER_SECONDS = 10.0, 30.0, 120.0
HTTP_ANSWER_BYTES = 64 << 20
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of an open file."""

    fd: int
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class HttpResult:
    """A server's answer; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def phrase(self) -> str:
        return phrase_of(self.status)


class HttpStream:
    """An answer whose body is read piece by piece."""

    def __init__(self, client: HttpClient, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers = answer.status, _headers_of(answer)
        self._client, self._answer = client, answer

    @property
    def phrase(self) -> str:
        return phrase_of(self.status)

    def pieces(self) -> Iterator[bytes]:
        """The body, to its end. Raises PeerError where it is cut."""
        while piece := self._client.read_piece(self._answer):
            yield piece
        if self._answer.length:  # a body of a known length that ended before it
            self._client.close()
            raise PeerError(f"{self._client.netloc} ended the connection within an answer")

    def close(self) -> None:
        """What was not read ends the connection; the next request opens another one."""
        if not self._answer.isclosed() or self._answer.will_close:
            self._client.close()
        self._answer.close()  # it holds the connection's descriptor


def phrase_of(status: int) -> str:
    """A status with its own words, never the server's."""
    return f"{status} {http.client.responses.get(status, '')}".rstrip()


def _headers_of(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


class ClientTls:
    """What TLS with one server is made of; files that change are read again for the next connection."""

    def __init__(self, ca: str = "", certificate: str = "", key: str = "") -> None:
        self._ca, self._certificate, self._key = ca, certificate, key
        self._files = [Path(each) for each in (ca, certificate, key) if each]
        self._stamps: object = None
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self.peer_expires: float | None = None  # when the server's certificate ends, once it has been seen

    @property
    def expires(self) -> float | None:
        """When the first of our certificate and the server's ends; None: neither is known."""
        found = [self.peer_expires]
        if self._certificate:
            try:
                found.append(expires(Path(self._certificate)))
            except (OSError, TlsError):
                pass  # the next connection says what is wrong
        return min((each for each in found if each), default=None)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, name and chain verified. Raises PeerError."""
        with self._lock:
            found = stamps(self._files)
            if self._context is None or found != self._stamps:
                self._context, self._stamps = self._build(), found
            return self._context

    def _build(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._certificate:
                read_secret(Path(self._key))
                context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        except SecretError as error:
            raise PeerError(f"our own key cannot be used: {error}") from None
        except ssl.SSLError as error:
            raise PeerError(f"our own TLS files cannot be used: {error.reason or 'not in PEM'}") from None
        except OSError as error:
            raise PeerError(f"our own TLS files cannot be read: {error.strerror}") from None
        return context


class HttpClient:
    """See the module's docstring. One thread uses it; others may kill it, and count."""

    def __init__(self, url: str, tls: ClientTls | None = None) -> None:
        """Connect. Raises PeerError."""
        parts = urlsplit(url)
        self._host, self.netloc = parts.hostname or "", parts.netloc
        port = parts.port or (443 if parts.scheme == "https" else 80)
        begun = time.monotonic()
        try:
            self._sock = socket.create_connection((self._host, port), timeout=_CONNECT_SECONDS)
        except socket.gaierror:
            raise PeerError(f"the name {self._host} cannot be resolved") from None
        except TimeoutError:
            raise PeerError(f"{self.netloc} does not answer") from None
        except OSError as error:
            raise PeerError(f"{self.netloc} cannot be reached: {error.strerror or error}") from None
        self.round_trip = time.monotonic() - begun
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            self._secure(tls or ClientTls())
        self._sent = self._received = 0
        self.is_open = True

    def _secure(self, tls: ClientTls) -> None:
        try:
            self._sock = tls.context().wrap_socket(self._sock, server_hostname=self._host)
            certificate = certificate_of(self._sock)
            tls.peer_expires = certificate.expires if certificate else None
        except OSError as error:
            self._sock.close()
            raise PeerError(f"no TLS with {self.netloc}: {explain(error, self._host, is_web=True)}") from None

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Iterable[bytes | FileSlice] = (),
        length: int | None = None,
        most: int = HTTP_ANSWER_BYTES,
    ) -> HttpResult:
        """Send a request, and return the answer. `length`: of the body in bytes; `most`: of the answer's."""
        return self._receive(method, most, self._ask(method, target, headers, body, length))

    def open(self, target: str, headers: Mapping[str, str]) -> HttpStream:
        """GET whose body is still to be read, and closed."""
        return HttpStream(self, self._begin("GET", self._ask("GET", target, headers, (), None)))

    def _ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Iterable[bytes | FileSlice],
        length: int | None,
    ) -> OSError | None:
        """Send a request; what broke meanwhile, for the server may have answered before it hung up."""
        fields = {"Host": self.netloc, "User-Agent": f"edge/{__version__}", **headers}
        if length is not None:
            fields["Content-Length"] = str(length)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            self._sock.settimeout(_PROGRESS_SECONDS)
            self._send(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
            for part in body:
                self._send(part) if isinstance(part, bytes) else self._send_file(part)
        except OSError as error:
            return error
        return None

    def _send(self, data: bytes) -> None:
        self._sock.sendall(data)
        self._sent += len(data)

    def _send_file(self, part: FileSlice) -> None:
        offset, end = part.offset, part.offset + part.count
        while offset < end:
            count = min(end - offset, _PIECE)
            if isinstance(self._sock, ssl.SSLSocket):
                piece = os.pread(part.fd, count, offset)
                self._sock.sendall(piece)
                count = len(piece)
            else:
                with os.fdopen(os.dup(part.fd), "rb") as file:
                    count = self._sock.sendfile(file, offset, count)
            if not count:
                raise OSError("a file became shorter while it was sent")
            offset, self._sent = offset + count, self._sent + count

    def _begin(self, method: str, broken: OSError | None) -> http.client.HTTPResponse:
        """The answer up to its body."""
        answer = http.client.HTTPResponse(self._sock, method=method)
        try:
            self._sock.settimeout(_ANSWER_SECONDS if broken is None else 1.0)
            answer.begin()
            self._sock.settimeout(_PROGRESS_SECONDS)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise PeerError(self._explain_break(broken or error)) from None
        return answer

    def _receive(self, method: str, most: int, broken: OSError | None) -> HttpResult:
        answer = self._begin(method, broken)
        body = self.read_piece(answer, most + 1)
        if len(body) > most:
            self.close()
            raise PeerError(f"{self.netloc} answers with more than {most} bytes")
        if answer.will_close or broken is not None:
            self.close()
        return HttpResult(answer.status, _headers_of(answer), body)

    def read_piece(self, answer: http.client.HTTPResponse, most: int = _PIECE) -> bytes:
        """Read at most this number of bytes of an answer's body; empty at its end. Raises PeerError."""
        try:
            piece = answer.read(most)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise PeerError(self._explain_break(error)) from None
        self._received += len(piece)
        return piece

    def _explain_break(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.netloc} was silent"
        if isinstance(error, http.client.RemoteDisconnected) or not isinstance(error, OSError):
            return f"{self.netloc} ended the connection, or does not answer as HTTP does ({type(error).__name__})"
        return f"the connection to {self.netloc} broke: {error.strerror or type(error).__name__}"

    def is_quiet(self) -> bool:
        """Is it open, with nothing said by the server since its last answer?"""
        if not self.is_open:
            return False
        try:
            self._sock.setblocking(False)
            said = socket.socket.recv(self._sock, 1, socket.MSG_PEEK)  # below TLS, which may have something of its own
        except (BlockingIOError, InterruptedError):
            return True
        except (OSError, ValueError):
            return False
        return bool(said) and isinstance(self._sock, ssl.SSLSocket)

    def count_moved(self) -> int:
        """Bytes that the server has taken, and that have come."""
        return self._sent - unsent_bytes(self._sock) + self._received if self.is_open else 0

    def kill(self) -> None:
        """End the connection from another thread: what waits for it fails at once."""
        shut_down(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self.is_open = False
        self._sock.close()
