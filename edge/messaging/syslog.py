"""Syslog: RFC 5424 messages over UDP (RFC 5426), TCP with octet counting (RFC 6587) or TLS (RFC 5425).

Syslog has no answer. Over TCP and TLS a message counts as delivered when the other end's kernel has acknowledged its
bytes: what a cut link swallows is sent again, on a new connection. What a collector loses after that, it loses. Over
UDP nobody knows; use TLS wherever the collector can.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from edge.errors import Permanent, Transient
from edge.messaging.line import WAIT_SECONDS, Cutter, in_words, open_connection
from edge.network.sockets import unsent_bytes

# Severities (RFC 5424 section 6.2.1), and the facilities that are used here.
SYSLOG_CRITICAL, ERROR, WARNING, NOTICE = 2, 3, 4, 5
DAEMON, AUTHPRIV = 3, 10

SYSLOG_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
NILVALUE = "-"
#: Seconds for the other end to close TLS.
TLS_CLOSE_SECONDS = 0.5


def format_message(
    severity: int, msgid: str, text: str, at: float, facility: int, *, hostname: str = "", procid: str = ""
) -> bytes:
    """One message (RFC 5424 section 6): `at` in seconds since 1970, `text` in UTF-8 behind the BOM that says so."""
    stamp = datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    header = f"<{facility * 8 + severity}>1 {stamp} {_word(hostname, 255)} edge {_word(procid, 128)} {_word(msgid, 32)}"
    return f"{header} {NILVALUE} ".encode("ascii") + b"\xef\xbb\xbf" + text.encode()


def _word(text: str, longest: int) -> str:
    """PRINTUSASCII without spaces (RFC 5424 section 6)."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text)[:longest] or NILVALUE


class Syslog:
    """One collector. The connection is kept from message to message; one thread sends."""

    def __init__(
        self, host: str, port: int, transport: str, context: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """`transport` is "udp", "tcp" or "tls"; `context` makes what TLS needs, again for each connection."""
        self._host, self._port, self._transport, self._context = host, port, transport, context
        self._where = f"the syslog collector {host}:{port}"
        self._socket: socket.socket | None = None
        self._cutter = Cutter()
        self._hostname, self._procid = socket.gethostname(), str(os.getpid())

    def send(self, severity: int, msgid: str, text: str, at: float, facility: int = DAEMON) -> None:
        """Send one message. Raises Transient when it did not arrive, Permanent when it is too long for UDP."""
        datagram = format_message(severity, msgid, text, at, facility, hostname=self._hostname, procid=self._procid)
        try:
            with in_words(self._where):
                self._send(datagram)
        except Transient:
            self.close()
            raise

    def _send(self, datagram: bytes) -> None:
        sock = self._ensure_connected()
        with self._cutter.watching(lambda: sock):
            if self._transport == "udp":
                self._send_datagram(sock, datagram)
            else:
                sock.sendall(b"%d %s" % (len(datagram), datagram))
                _wait_acknowledged(sock)

    def _send_datagram(self, sock: socket.socket, datagram: bytes) -> None:
        if len(datagram) > 65_000:
            raise Permanent(f"a message of {len(datagram)} bytes is too long for syslog over UDP: use TCP or TLS")
        sock.send(datagram)

    def renew(self) -> bool:
        """Have a living connection. True when it is a new one: what was sent last over the old one may be lost."""
        before = self._socket
        try:
            with in_words(self._where):
                return self._ensure_connected() is not before
        except Transient:
            self.close()
            raise

    def lives(self) -> bool:
        """Is there a connection that the other end has not ended? May be asked from another thread."""
        sock = self._socket
        if sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        return not poll.poll(0)

    def _ensure_connected(self) -> socket.socket:
        if self._socket is not None and self._transport != "udp" and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        if self._transport == "udp":
            return _connect_udp(self._host, self._port)
        return open_connection(self._host, self._port, self._context() if self._context else None, self._cutter)

    def cut(self) -> None:
        """End what is under way, from another thread."""
        self._cutter.cut()

    def close(self) -> None:
        """The next message opens a new connection."""
        sock, self._socket = self._socket, None
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(TLS_CLOSE_SECONDS)
            try:
                sock.unwrap().close()  # close_notify: the end is no accident
            except (OSError, ValueError):
                pass  # the other end was gone before
        if sock is not None:
            sock.close()


def _connect_udp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _has_ended(sock: socket.socket) -> bool:
    """Has the other end closed or reset? A collector sends nothing, so what can be read is the end (or TLS's)."""
    sock.setblocking(False)
    try:
        return sock.recv(1024) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(WAIT_SECONDS)


def _wait_acknowledged(sock: socket.socket) -> None:
    """Wait until the other end's kernel has acknowledged every byte (tcp(7), SIOCOUTQ)."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    delay = 0.0005
    while unsent_bytes(sock):
        _raise_failure(sock)
        if time.monotonic() > deadline:
            raise TimeoutError
        pause.wait(delay)
        delay = min(delay * 2, 0.1)
    _raise_failure(sock)


def _raise_failure(sock: socket.socket) -> None:
    """Raise the socket's error: after a reset the bytes in question stay unacknowledged."""
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
