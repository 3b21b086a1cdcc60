"""One connection to a receiver of HL7: a message out, its acknowledgement in. One message is outstanding at a time.

An acknowledgement counts only when its MSA-2 is the message's MSH-10: a late one never counts for the next
message. After a silence the connection is closed, so that no late one can come.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from edge.errors import PeerError
from edge.hl7.acknowledgement import list_codes
from edge.hl7.framing import FrameReader, FrameTooLong, frame
from edge.hl7.message import Hl7Message, parse_message, split_batch
from edge.outbound.relay.decision import ReceiverAnswer

CONNECT_SECONDS = 10.0
#: An acknowledgement has at most this number of bytes; behind its FS this long a silence ends it.
MOST_ACK_BYTES, FS_SECONDS = 1 << 20, 0.3
#: Nobody waits for an answer to a message that asks for none (MSH-15 and MSH-16 NE).
UNANSWERED = ReceiverAnswer("AA")

BeginTls = Callable[[socket.socket, float], socket.socket]


class RelayConnection:
    """See the module's docstring. One thread at a time."""

    def __init__(self, host: str, port: int, answer_seconds: float, secure: BeginTls | None = None) -> None:
        """`secure` begins TLS on a new connection."""
        self._address, self._answer_seconds, self._secure = (host, port), answer_seconds, secure
        self._sock: socket.socket | None = None
        self._reader = FrameReader(MOST_ACK_BYTES)

    def exchange(self, data: bytes) -> ReceiverAnswer:
        """Send a message and wait for its acknowledgement. Raises PeerError: then the connection is closed."""
        message = parse_message(data)
        is_kept = self._sock is not None
        try:
            return self._exchange(message)
        except (OSError, PeerError) as error:
            self.close()
            if not (is_kept and isinstance(error, _Closed)):
                raise _as_peer_error(error) from None
        try:  # a connection that was idle had ended: the same bytes again on a new one
            return self._exchange(message)
        except (OSError, PeerError) as error:
            self.close()
            raise _as_peer_error(error) from None

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _exchange(self, message: Hl7Message) -> ReceiverAnswer:
        sock = self._connect()
        self._drop_late(sock)
        sock.settimeout(self._answer_seconds)
        sock.sendall(frame(message.data))
        if not list_codes(message, None):
            return UNANSWERED
        end = time.monotonic() + self._answer_seconds
        while True:
            for one in self._receive(sock, end):
                found = _answer_to(message.control_id, one)
                if found is not None:
                    return found

    def _connect(self) -> socket.socket:
        if self._sock is None:
            sock = socket.create_connection(self._address, CONNECT_SECONDS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock = self._secure(sock, CONNECT_SECONDS) if self._secure else sock
            self._reader = FrameReader(MOST_ACK_BYTES)
        return self._sock

    def _drop_late(self, sock: socket.socket) -> None:
        """What has come since the last exchange belongs to no message of now."""
        sock.setblocking(False)
        try:
            while data := sock.recv(65_536):
                self._feed(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            raise _Closed from None
        raise _Closed

    def _receive(self, sock: socket.socket, end: float) -> list[bytes]:
        left = end - time.monotonic()
        if left <= 0:
            raise PeerError(f"no acknowledgement within {self._answer_seconds:.0f} s")
        sock.settimeout(min(left, FS_SECONDS) if self._reader.is_pending else left)
        try:
            data = sock.recv(65_536)
        except TimeoutError:
            return self._reader.end_pending()
        if not data:
            if self._reader.is_pending:
                return self._reader.end_pending()
            raise _Closed
        return self._feed(data)

    def _feed(self, data: bytes) -> list[bytes]:
        try:
            return self._reader.feed(data)
        except FrameTooLong:
            raise PeerError(f"an acknowledgement has more than {MOST_ACK_BYTES} bytes") from None


class _Closed(PeerError):
    """The receiver has closed the connection."""

    def __init__(self) -> None:
        super().__init__("the receiver has closed the connection before it acknowledged the message")


def _as_peer_error(error: OSError | PeerError) -> PeerError:
    if isinstance(error, PeerError):
        return error
    return PeerError(error.strerror or ("it does not answer" if isinstance(error, TimeoutError) else str(error)))


def _answer_to(control_id: str, data: bytes) -> ReceiverAnswer | None:
    """The acknowledgement of a message in a frame, which may be a batch; None: it is another message's."""
    for one in split_batch(data).messages:
        message = parse_message(one)
        msa = message.first("MSA")
        if msa is not None and msa.raw(2).strip() == control_id:
            err = message.first("ERR")
            words = (msa.text(3), err.text(8) if err else "", err.text(3, 2) if err else "")
            return ReceiverAnswer(msa.text(1).upper(), "; ".join(dict.fromkeys(filter(None, words))))
    return None
