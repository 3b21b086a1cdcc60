"""The receiving half of edge.dicom.wire: the bytes of every image that comes pass here.

PDUs are walked inside one reused buffer, and views of it handed out; or a data set is received where its owner wants it
(`read_data_set_to`): then only headers and what came with them pass through the buffer.

Every wait is bounded: a PDU must be complete within PDU_SECONDS of its first byte, in a message LEAST_BYTES must come
in that time, a peer may be silent inside a message as long, between messages for `idle` seconds; of a data set that is
received in place LEAST_BYTES must come in that time, or all of it. Lengths are bounded before anything is allocated. A
violation raises ProtocolError; a lost, reset or silent connection raises PeerError.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Protocol

from edge.dicom import command as dimse
from edge.dicom.command import Command
from edge.dicom.pdu import (
    A_ABORT,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    IDLE_SECONDS,
    LEAST_BYTES,
    MAX_COMMAND,
    MAX_PDU_IN,
    P_DATA_TF,
    PDU_SECONDS,
    Aborted,
    Released,
)
from edge.errors import PeerError, ProtocolError

BUFFER = 2 * (MAX_PDU_IN + 6)
#: Between messages no more is received at once: a small object whole, of others the command, and little to be copied.
MESSAGE_START_BYTES = 16_384

_LATE = "neither a whole PDU nor {} bytes of a message came in {:.0f} s"
_PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_TIMEVAL = struct.Struct("@ll")  # socket(7), SO_RCVTIMEO

Sink = Callable[[list[memoryview]], None]


class DataSetTarget(Protocol):
    """Where the bytes of a data set go. What it raises leaves the association unusable."""

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""

    def took(self, count: int) -> None:
        """Note that `count` bytes of the room are filled."""


class _FellSilent(ProtocolError):
    """Nothing came while it was waited for."""


class _Receiving:
    """What a failed receive means. One for all: it has no state."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TimeoutError | BlockingIOError):
            raise _FellSilent(_LATE.format(LEAST_BYTES, PDU_SECONDS)) from None
        if isinstance(error, OSError):
            raise PeerError(f"the connection was lost ({error.strerror or error})") from None


_receiving = _Receiving()


class PduReader:
    """One established association's socket, from the P-DATA state on, and what it receives."""

    def __init__(self, sock: socket.socket, *, waits_in_kernel: bool) -> None:
        self.sock = sock
        self._blocks = waits_in_kernel and type(sock) is socket.socket
        self._limits = {socket.SO_RCVTIMEO: 0.0, socket.SO_SNDTIMEO: 0.0}  # seconds, where it blocks
        self._owes_ack = True  # the kernel may wait with its next ACK
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.received = 0
        self._waited, self._came = 0.0, 0  # within a message: seconds, and `received` when they began
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._at = 0  # next unread byte
        self._end = 0  # end of what has been received
        self._pdu_end = 0  # end of the P-DATA PDU that _at stands in
        self._poll: select.poll | None = None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._blocks:
            sock.setblocking(True)

    def read_command(self, idle: float = IDLE_SECONDS) -> tuple[int, Command]:
        """The next message's presentation context ID and command set. Raises Released, Aborted, PeerError."""
        fragments: list[bytes] = []
        size, context = 0, -1
        self._waited, self._came = 0.0, self.received
        while True:
            pdv = self._pdv()
            if pdv is None:
                self._fill(PDU_SECONDS if fragments else idle, within=bool(fragments), most=MESSAGE_START_BYTES)
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
                    return context, dimse.decode_command(view)
                fragments.append(bytes(view))
                return context, dimse.decode_command(b"".join(fragments))
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

    def read_data_set_to(self, context: int, target: DataSetTarget) -> int:
        """Receive the data set into `target`; returns its length."""
        size = 0
        while True:
            length, is_last = self._fragment_head(context)
            size += length
            while length and self._at < self._end:
                length -= self._hand_over(length, target)
            if length:
                self._receive_rest(length, is_last, target)
            if is_last:
                return size

    def _fragment_head(self, context: int) -> tuple[int, bool]:
        """The next PDV of a data set: the length of its fragment, which is to be read next, and is it the last?"""
        while self._at == self._pdu_end:
            self._need(6)
            kind, length = _PDU_HEADER.unpack_from(self._buffer, self._at)
            if kind != P_DATA_TF:
                self._control(kind, length)
                self._need(10)
                continue
            self._begin_pdu(length)
        if self._pdu_end - self._at >= 6:
            self._need(6)
        pdv_context, control, length = self._pdv_head()
        self._at += 6
        if control & 1 or pdv_context != context:
            raise ProtocolError("a fragment of another message came inside a data set")
        return length, bool(control & 2)

    def _hand_over(self, length: int, target: DataSetTarget) -> int:
        """Copy of a fragment what is in the buffer already, and there is room for."""
        room = target.room()
        count = min(length, self._end - self._at, len(room))
        room[:count] = self._view[self._at : self._at + count]
        self._at += count
        target.took(count)
        return count

    def _receive_rest(self, length: int, is_last: bool, target: DataSetTarget) -> None:
        """Receive what is left of a fragment, and with it the head of the next one: the buffer is empty."""
        self._at, self._end, self._pdu_end = 0, 0, self._pdu_end - self._at
        while length:
            room = target.room()[:length]
            head = 0 if is_last or len(room) < length else 6 if self._pdu_end > length else 12
            count = self._receive_some([room, self._view[:head]], whole=True)
            taken = min(count, len(room))
            target.took(taken)
            length, self._pdu_end, self._end = length - taken, self._pdu_end - taken, count - taken

    def _need(self, count: int) -> None:
        """Have this number of bytes in the buffer from _at on, within a message."""
        while self._end - self._at < count:
            self._compact()
            self._end += self._receive_some([self._view[self._end : MESSAGE_START_BYTES]], whole=False)

    def _receive_some(self, views: list[memoryview], *, whole: bool) -> int:
        """Receive into views within a message: until they are full, where the call itself waits; else what there is."""
        start = time.monotonic()
        left = PDU_SECONDS - self._waited
        if left <= 0:
            raise ProtocolError(_LATE.format(LEAST_BYTES, PDU_SECONDS))
        self._wait_up_to(left)
        with _receiving:
            if whole and self._blocks:
                count = self.sock.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]
            else:
                count = self.sock.recv_into(views[0])
        self._note_received(count)
        self._waited += time.monotonic() - start
        if self.received - self._came >= LEAST_BYTES:
            self._waited, self._came = 0.0, self.received
        return count

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
        if self._end < self._pdu_end:
            return None
        while self._at == self._pdu_end:
            if self._end - self._at < 6:
                return None
            kind, length = _PDU_HEADER.unpack_from(self._buffer, self._at)
            if kind != P_DATA_TF:
                self._control(kind, length)
                return None
            if self._end - self._at < 6 + length <= MAX_PDU_IN + 6:
                return None
            self._begin_pdu(length)
        context, control, length = self._pdv_head()
        start, self._at = self._at + 6, self._at + 6 + length
        return context, control, self._view[start : self._at]

    def _begin_pdu(self, length: int) -> None:
        if length > MAX_PDU_IN:
            raise ProtocolError(f"a P-DATA-TF PDU of {length} bytes where {MAX_PDU_IN} were agreed")
        self._at += 6
        self._pdu_end = self._at + length

    def _pdv_head(self) -> tuple[int, int, int]:
        """What the PDV at _at says: context, message control header, length of its fragment."""
        if self._pdu_end - self._at < 6:
            raise ProtocolError("a P-DATA-TF PDU ends inside a PDV header")
        length, context, control = _PDV_HEADER.unpack_from(self._buffer, self._at)
        if length < 2 or self._at + 4 + length > self._pdu_end:
            raise ProtocolError(f"a PDV of {length} bytes does not fit in its PDU")
        return context, control, length - 2

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

    def _fill(self, wait: float, within: bool = True, most: int = BUFFER) -> None:
        """Receive until the PDU at _at is whole: its first byte within `wait` seconds, its last PDU_SECONDS later.

        `within` a message the wait for the first byte counts, too: LEAST_BYTES in PDU_SECONDS, our own work apart.
        `most`: bytes that are received at once.
        """
        self._compact()
        begun = within or bool(self._end)
        start = time.monotonic()
        patience = PDU_SECONDS - self._waited
        until = start + (patience if begun else wait)
        while True:
            self._receive(until, most)
            if self._whole():
                break
            if not begun:
                begun, start = True, time.monotonic()
                until = start + patience
        if begun:
            self._waited += time.monotonic() - start
        if self.received - self._came >= LEAST_BYTES:
            self._waited, self._came = 0.0, self.received

    def _wait_up_to(self, seconds: float, limit: int = socket.SO_RCVTIMEO) -> None:
        """Bound each wait on the socket; a hundredth longer will do, for a change costs a system call."""
        current = self._limits[limit] if self._blocks else self.sock.gettimeout()
        if current is not None and seconds <= current <= seconds * 1.01:
            return
        if self._blocks:
            self._limits[limit] = seconds
            whole = int(seconds)
            self.sock.setsockopt(
                socket.SOL_SOCKET, limit, _TIMEVAL.pack(whole, min(int((seconds - whole) * 1e6) + 1, 999_999))
            )
        else:
            self.sock.settimeout(seconds)

    def _receive(self, until: float, most: int) -> None:
        """Receive something into the buffer before this moment."""
        start = time.monotonic()
        while (left := until - time.monotonic()) > 0:
            # One limit for all waits in the kernel: a longer one is waited for again.
            self._wait_up_to(min(left, PDU_SECONDS) if self._blocks else left)
            try:
                with _receiving:
                    count = self.sock.recv_into(self._view[self._end : self._end + most])
            except _FellSilent:
                continue
            self._note_received(count)
            self._end += count
            return
        if self._end or self.received > self._came:
            raise ProtocolError(_LATE.format(LEAST_BYTES, PDU_SECONDS))
        raise PeerError(f"the peer fell silent: nothing came for {time.monotonic() - start:.0f} s")

    def _note_received(self, count: int) -> None:
        if count == 0:
            raise PeerError("the peer closed the connection without releasing the association")
        if self._owes_ack and _QUICKACK is not None:
            # A sender with Nagle on waits for our ACK before its next small segment; after a send the kernel delays.
            self.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            self._owes_ack = False
        self.received += count

    def _whole(self) -> bool:
        if self._at < self._pdu_end:
            return self._end >= self._pdu_end
        if self._end - self._at < 6:
            return False
        kind, length = _PDU_HEADER.unpack_from(self._buffer, self._at)
        return bool(self._end - self._at >= 6 + length or length > MAX_PDU_IN or kind != P_DATA_TF)

    def _compact(self) -> None:
        """Move the unread tail to the front of the buffer. Views handed out before are void."""
        left = self._end - self._at
        if self._at and left:
            self._view[:left] = bytes(self._view[self._at : self._end])
        self._at, self._end, self._pdu_end = 0, left, self._pdu_end - self._at
