"""PDUs on a blocking socket (PS3.8 section 9.3): the P-DATA path that carries every byte of every image, both ways.

Reading walks the PDUs inside one reused buffer and hands out views of it; nothing is copied before it reaches its file.
Writing interleaves PDV headers with data read straight into place, and sends command and data set together.

Every wait is bounded: a PDU must be complete within PDU_SECONDS of its first byte, in a message LEAST_BYTES must come
in that time, a peer may be silent inside a message as long, between messages for `idle` seconds. Lengths are
bounded before anything is allocated. A violation raises ProtocolError; a lost, reset or silent connection raises
PeerError; the association is then of no more use and its owner must abort it.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from edge.dicom import command as dimse
from edge.dicom.command import Command
from edge.errors import PeerError, ProtocolError, Unreadable
from edge.network import tls
from edge.network.sockets import unsent_bytes

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = range(1, 8)

#: Longest P-DATA-TF variable field that we take (we say so in A-ASSOCIATE). DCMTK sends no longer ones.
MAX_PDU_IN = 131_072
#: Longest P-DATA-TF that we send to a peer that names no limit.
MAX_PDU_OUT = 262_144
#: Shortest that we send; DICOM names no least length, and implementations none below 4096. Keeps a send below IOV_MAX.
MIN_PDU_OUT = 1024
#: Longest A-ASSOCIATE-RQ: 128 presentation contexts and the user information, each as long as its length field allows.
MAX_ASSOCIATE = 68 + (4 + 0xFFFF) * (128 + 2)
#: Longest answer to one of ours: an item for each of 128 contexts, and the user information.
MAX_ACCEPT = 131_072
MAX_COMMAND = 65_536
PDU_SECONDS = 25.0
#: What must come of a message in PDU_SECONDS of waiting for it, where it has as many: less than an old modem carries.
LEAST_BYTES = 8_192
IDLE_SECONDS = 600.0
BUFFER = 2 * (MAX_PDU_IN + 6)
#: Outgoing bytes assembled for one send: a CT slice in the PDUs that DCMTK takes, and its command.
SEND_BUFFER = 4 * 131_078 + 8192

_LATE = "neither a whole PDU nor {} bytes of a message came in {:.0f} s"
_PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_PDU_AND_PDV_HEADER = struct.Struct(">BxLLBB")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

Sink = Callable[[list[memoryview]], None]


class Digest(NamedTuple):
    """What the bytes of a data set must come to, and by what: an algorithm as hashlib and xxhash have it."""

    algorithm: Callable[[], Any]
    value: bytes


class Released(Exception):
    """The peer asked to release the association: the ordinary end, not an error."""


class Aborted(PeerError):
    """The peer sent A-ABORT."""

    def __init__(self, source: int, reason: int) -> None:
        who = "its user" if source == 0 else "its provider"
        super().__init__(f"the peer aborted the association ({who}, reason {reason})")
        self.source, self.reason = source, reason


def release_rq() -> bytes:
    return struct.pack(">BxLL", A_RELEASE_RQ, 4, 0)


def release_rp() -> bytes:
    return struct.pack(">BxLL", A_RELEASE_RP, 4, 0)


def abort(source: int = 2, reason: int = 0) -> bytes:
    """A-ABORT; source 0 is the service user, 2 the provider (PS3.8 section 9.3.8)."""
    return struct.pack(">BxLxxBB", A_ABORT, 4, source, reason)


class Wire:
    """One established association's socket, from the P-DATA state on."""

    def __init__(self, sock: socket.socket, max_pdu_out: int = 16_384, rest: bytes = b"") -> None:
        """`max_pdu_out`: what the peer takes (0: no limit). `rest`: bytes that came behind the A-ASSOCIATE PDU."""
        self.sock = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        # Fragments are of even length (PS3.8 annex E.2); a limit too small to be meant is not followed.
        self.fragment_out = (min(max(max_pdu_out or MAX_PDU_OUT, MIN_PDU_OUT), MAX_PDU_OUT) - 6) & ~1
        self.received = self._sent = 0
        self._waited, self._came = 0.0, 0  # within a message: seconds, and `received` when they began
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest
        self._at = 0  # next unread byte
        self._end = len(rest)  # end of what has been received
        self._pdu_end = 0  # end of the P-DATA PDU that _at stands in
        self._out: bytearray | None = None
        self._poll: select.poll | None = None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_command(self, idle: float = IDLE_SECONDS) -> tuple[int, Command]:
        """The next message's presentation context ID and command set. Raises Released, Aborted, PeerError."""
        fragments: list[bytes] = []
        size, context = 0, -1
        self._waited, self._came = 0.0, self.received
        while True:
            pdv = self._pdv()
            if pdv is None:
                self._fill(PDU_SECONDS if fragments else idle, within=bool(fragments))
                continue
            pdv_context, control, view = pdv
            if not control & 1:
                raise ProtocolError("a data set fragment came where a command was due")
            if context not in (-1, pdv_context):
                raise ProtocolError("the presentation context changed within a command")
            context = pdv_context
            size += max(len(view), 1)  # empty fragments without end are an endless command, too
            if size > MAX_COMMAND:
                raise ProtocolError(f"a command set of more than {MAX_COMMAND} bytes")
            if control & 2:
                if not fragments:
                    return context, dimse.decode(view)
                fragments.append(bytes(view))
                return context, dimse.decode(b"".join(fragments))
            fragments.append(bytes(view))

    def read_data_set(self, context: int, sink: Sink) -> int:
        """Hand the data set's fragments, as views valid during the call only, to `sink`; returns its length."""
        size = 0
        views: list[memoryview] = []
        while True:
            pdv = self._pdv()
            if pdv is None:
                if views:
                    sink(views)
                    views = []
                self._fill(PDU_SECONDS)
                continue
            pdv_context, control, view = pdv
            if control & 1 or pdv_context != context:
                raise ProtocolError("a fragment of another message came inside a data set")
            size += len(view)
            if view:
                views.append(view)
            if control & 2:
                if views:
                    sink(views)
                return size

    @property
    def is_closed(self) -> bool:
        """Has it ended, so that nothing may be asked of it any more?"""
        return self.sock.fileno() < 0

    def has_something(self, seconds: float) -> bool:
        """Has the peer sent something, or does it within `seconds`? Its leaving counts, too."""
        if self._end > self._at or (self._tls is not None and self._tls.pending()):
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)
        return bool(self._poll.poll(seconds * 1000)) and (self._tls is None or self._takes_in())

    def _takes_in(self) -> bool:
        """TLS may have received what is its own alone (new keys); what it hands out goes to the buffer."""
        self._compact()
        self.sock.settimeout(0.0)
        try:
            count = self.sock.recv_into(self._view[self._end :])
        except ssl.SSLWantReadError:
            return False
        except OSError:
            return True  # it has gone: the next read says how
        self._end += count
        self.received += count
        return True

    def _pdv(self) -> tuple[int, int, memoryview] | None:
        """The next PDV of which the whole PDU is in the buffer: (context, message control header, fragment)."""
        while self._at == self._pdu_end:
            if self._end - self._at < 6:
                return None
            kind, length = _PDU_HEADER.unpack_from(self._buffer, self._at)
            if kind != P_DATA_TF:
                self._control(kind, length)
                return None
            if length > MAX_PDU_IN:
                raise ProtocolError(f"a P-DATA-TF PDU of {length} bytes where {MAX_PDU_IN} were agreed")
            if self._end - self._at < 6 + length:
                return None
            self._at += 6
            self._pdu_end = self._at + length
        if self._pdu_end - self._at < 6:
            raise ProtocolError("a P-DATA-TF PDU ends inside a PDV header")
        length, context, control = _PDV_HEADER.unpack_from(self._buffer, self._at)
        start, end = self._at + 6, self._at + 4 + length
        if length < 2 or end > self._pdu_end:
            raise ProtocolError(f"a PDV of {length} bytes does not fit in its PDU")
        self._at = end
        return context, control, self._view[start:end]

    def _control(self, kind: int, length: int) -> None:
        """Any PDU other than P-DATA: raises what it means, or returns while it is incomplete."""
        if kind not in (A_RELEASE_RQ, A_RELEASE_RP, A_ABORT) or length != 4:
            raise ProtocolError(f"a PDU of type 0x{kind:02X} and {length} bytes where data or release was due")
        if self._end - self._at < 10:
            return
        body = self._buffer[self._at + 6 : self._at + 10]
        self._at += 10
        self._pdu_end = self._at
        if kind == A_ABORT:
            raise Aborted(body[2], body[3])
        raise Released

    def _fill(self, wait: float, within: bool = True) -> None:
        """Receive until the PDU at _at is whole: its first byte within `wait` seconds, its last PDU_SECONDS later.

        `within` a message the wait for the first byte counts, too: LEAST_BYTES in PDU_SECONDS, our own work apart.
        """
        self._compact()
        begun = within or bool(self._end)
        start = time.monotonic()
        patience = PDU_SECONDS - self._waited
        if patience <= 0:
            raise ProtocolError(_LATE.format(LEAST_BYTES, PDU_SECONDS))
        self._wait_up_to(patience if begun else wait)
        while True:
            self._receive()
            if self._whole():
                break
            if not begun:
                begun, start = True, time.monotonic()
            left = start + patience - time.monotonic()
            if left <= 0:
                raise ProtocolError(_LATE.format(LEAST_BYTES, PDU_SECONDS))
            self._wait_up_to(left)
        if begun:
            self._waited += time.monotonic() - start
        if self.received - self._came >= LEAST_BYTES:
            self._waited, self._came = 0.0, self.received

    def _wait_up_to(self, seconds: float) -> None:
        """Bound each wait on the socket; a hundredth longer will do, for a change costs a system call."""
        current = self.sock.gettimeout()
        if current is None or not seconds <= current <= seconds * 1.01:
            self.sock.settimeout(seconds)

    def _receive(self) -> None:
        try:
            count = self.sock.recv_into(self._view[self._end :])
        except TimeoutError:
            if self._end or self.received > self._came:
                raise ProtocolError(_LATE.format(LEAST_BYTES, PDU_SECONDS)) from None
            raise PeerError(f"the peer fell silent: nothing came for {self.sock.gettimeout() or 0:.0f} s") from None
        except OSError as error:
            raise PeerError(f"the connection was lost ({error.strerror or error})") from None
        if count == 0:
            raise PeerError("the peer closed the connection without releasing the association")
        if _QUICKACK is not None:
            # A sender with Nagle on waits for our ACK before its next small segment; the kernel forgets the flag.
            self.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self._end += count
        self.received += count

    def _whole(self) -> bool:
        if self._end - self._at < 6:
            return False
        kind, length = _PDU_HEADER.unpack_from(self._buffer, self._at)
        return bool(self._end - self._at >= 6 + length or length > MAX_PDU_IN or kind != P_DATA_TF)

    def _compact(self) -> None:
        """Move the unread tail to the front of the buffer. Views handed out before are void."""
        left = self._end - self._at
        if self._at and left:
            self._view[:left] = bytes(self._view[self._at : self._end])
        self._at, self._end, self._pdu_end = 0, left, 0

    # -- writing ------------------------------------------------------------------------------------------------------

    def send_raw(self, data: bytes | bytearray | memoryview, wait: float = PDU_SECONDS) -> None:
        """Send all of it; `wait` bounds each time that nothing moves, not the whole."""
        view = memoryview(data)
        try:
            self._wait_up_to(wait)
            while view:
                count = self.sock.send(view)
                self._sent += count
                view = view[count:]
        except TimeoutError:
            raise PeerError(f"the peer took no more data for {wait:.0f} s") from None
        except OSError as error:
            raise PeerError(f"the connection was lost while sending ({error.strerror or error})") from None

    def moved(self) -> int:
        """Bytes that have come, and that the peer's side has acknowledged. From any thread."""
        return self.received + self._sent - unsent_bytes(self.sock)

    def send_message(self, context: int, elements: dict[int, int | str], data_set: bytes = b"") -> None:
        """Send a command, and a small data set held in memory where there is one."""
        message = bytearray(self._fragments(context, 1, dimse.encode(elements)))
        if data_set:
            message += self._fragments(context, 0, data_set)
        self.send_raw(message)

    def _fragments(self, context: int, kind: int, data: bytes) -> bytes:
        parts = []
        for at in range(0, len(data), self.fragment_out):
            piece = data[at : at + self.fragment_out]
            last = 2 if at + len(piece) == len(data) else 0
            parts.append(
                _PDU_AND_PDV_HEADER.pack(P_DATA_TF, len(piece) + 6, len(piece) + 2, context, kind | last) + piece
            )
        return b"".join(parts)

    def send_file(
        self,
        context: int,
        elements: dict[int, int | str],
        fd: int,
        offset: int,
        length: int,
        expected: Digest | None,
        pad: bool = False,
    ) -> None:
        """Send a command and, behind it, `length` bytes of the file from `offset` as its data set.

        The bytes are checked before the last of them goes: where they are not the `expected` ones, the peer never has a
        whole object, and Unreadable is raised: the caller must abort the association. With `pad`, a zero byte follows
        where the length is odd (PS3.5 section A.5): no fragment may be odd (PS3.8 annex E.2).
        """
        if self._out is None:
            self._out = bytearray(max(SEND_BUFFER, self.fragment_out + 12 + MAX_COMMAND))
        view = memoryview(self._out)
        head = self._fragments(context, 1, dimse.encode(elements))
        if not length:  # even an empty data set has its last fragment
            head += _PDU_AND_PDV_HEADER.pack(P_DATA_TF, 6, 2, context, 2)
        view[: len(head)] = head
        used, sent, running = len(head), 0, expected.algorithm() if expected else None
        odd = length & 1 if pad else 0
        while sent < length:
            slots, used = self._lay_out(context, used, length + odd - sent)
            wanted = sum(map(len, slots))
            if odd and sent + wanted > length:
                view[used - 1] = 0
                slots[-1], wanted = slots[-1][:-1], wanted - 1
            if os.preadv(fd, slots, offset + sent) != wanted:
                raise Unreadable("the spooled file is shorter than the catalog says")
            sent += wanted
            if expected is not None and running is not None:
                for slot in slots:
                    running.update(slot)
                if sent == length and running.digest() != expected.value:
                    raise Unreadable("the spooled file's bytes are not those that were received (checksum differs)")
            self.send_raw(view[:used])
            used = 0
        if used:
            self.send_raw(view[:used])

    def _lay_out(self, context: int, used: int, left: int) -> tuple[list[memoryview], int]:
        """Headers into the buffer from `used` on, for as much of `left` bytes as fits: (where data goes, its end)."""
        assert self._out is not None
        view = memoryview(self._out)
        slots: list[memoryview] = []
        while left and used + 12 < len(view):
            size = min(self.fragment_out, left)
            if used + 12 + size > len(view) and slots:
                break
            left -= size
            _PDU_AND_PDV_HEADER.pack_into(view, used, P_DATA_TF, size + 6, size + 2, context, 0 if left else 2)
            slots.append(view[used + 12 : used + 12 + size])
            used += 12 + size
        return slots, used

    # -- the end ------------------------------------------------------------------------------------------------------

    def abort(self, source: int = 2, reason: int = 0) -> None:
        """A-ABORT as well as it may reach, then close. Never raises."""
        try:
            self.sock.settimeout(1.0)
            self.sock.send(abort(source, reason))
        except OSError:
            pass  # the peer is gone already: nothing is left to tell it
        self.close()

    def hang_up(self, how: int) -> None:
        """shutdown(2), also from another thread: a wait on the socket ends. Never raises."""
        # Not by SSLSocket.shutdown: that forgets TLS, and what its owner sends next would go out in clear.
        try:
            socket.socket.shutdown(self.sock, how)
        except OSError:
            pass  # it has ended by itself

    def close(self) -> None:
        if self._tls is not None:
            tls.send_close_notify(self._tls)
        self.sock.close()
