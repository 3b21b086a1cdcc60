"""One association's socket (PS3.8 section 9.3): the P-DATA path that carries every byte of every image, both ways.

Reading is edge.dicom.pdu_reader's. Writing interleaves PDV headers with data read straight into place, and sends
command and data set together. Once an error is raised, the association is unusable: its owner must abort it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from edge.dicom import command as dimse
from edge.dicom import pdu
from edge.dicom.pdu import MAX_COMMAND, P_DATA_TF, PDU_SECONDS
from edge.dicom.pdu_reader import PduReader
from edge.errors import PeerError, Unreadable
from edge.network import tls
from edge.network.sockets import shut_down, unsent_bytes

#: Outgoing bytes assembled for one send: a CT slice in the PDUs that DCMTK takes, and its command.
SEND_BUFFER = 4 * 131_078 + 8192
#: Small messages that go together, in bytes.
SMALL_MESSAGES_BYTES = 16_384

_PDU_AND_PDV_HEADER = struct.Struct(">BxLLBB")


class Digest(NamedTuple):
    """What the bytes of a data set must come to, and by what: an algorithm as hashlib and xxhash have it."""

    algorithm: Callable[[], Any]
    value: bytes


class Wire(PduReader):
    """One established association's socket, from the P-DATA state on: both ways."""

    def __init__(self, sock: socket.socket, max_pdu_out: int = 16_384, *, waits_in_kernel: bool = False) -> None:
        """`max_pdu_out`: what the peer takes (0: no limit).

        `waits_in_kernel`: without TLS, calls that receive and send wait themselves (SO_RCVTIMEO, SO_SNDTIMEO), which
        costs no others; `bytes_moved` then grows by whole sends.
        """
        super().__init__(sock, waits_in_kernel=waits_in_kernel)
        # Fragments are of even length (PS3.8 annex E.2); a limit too small to be meant is not followed.
        self.fragment_out = (min(max(max_pdu_out or pdu.MAX_PDU_OUT, pdu.MIN_PDU_OUT), pdu.MAX_PDU_OUT) - 6) & ~1
        self._sent = 0
        self._out: bytearray | None = None
        self._unsent: list[bytes] = []  # messages that wait for the next one

    def send_raw(self, data: bytes | bytearray | memoryview, wait: float = PDU_SECONDS) -> None:
        """Send all of it; `wait` bounds each time that nothing moves, not the whole."""
        view = memoryview(data)
        try:
            self._wait_up_to(wait, socket.SO_SNDTIMEO)
            self._owes_ack = True
            while view:
                count = self.sock.send(view)
                self._sent += count
                view = view[count:]
        except (TimeoutError, BlockingIOError):
            raise PeerError(f"the peer took no more data for {wait:.0f} s") from None
        except OSError as error:
            raise PeerError(f"the connection was lost while sending ({error.strerror or error})") from None

    def bytes_moved(self) -> int:
        """Bytes that have come, and that the peer's side has acknowledged. From any thread."""
        return self.received + self._sent - unsent_bytes(self.sock)

    def send_message(
        self, context: int, elements: dict[int, int | str], data_set: bytes = b"", *, may_wait: bool = False
    ) -> None:
        """Send a command, and a small data set held in memory where there is one.

        `may_wait`: another message follows at once, and many small ones go together.
        """
        message = self._fragments(context, 1, dimse.encode(elements))
        if data_set:
            message += self._fragments(context, 0, data_set)
        self._unsent.append(message)
        if not may_wait or sum(map(len, self._unsent)) >= SMALL_MESSAGES_BYTES:
            messages, self._unsent = self._unsent, []
            self.send_raw(b"".join(messages))

    def withdraw(self) -> int:
        """Forget the messages that wait for the next one. Returns how many."""
        count, self._unsent = len(self._unsent), []
        return count

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
            self.sock.send(pdu.abort(source, reason))
        except OSError:
            pass  # the peer is gone already: nothing is left to tell it
        self.close()

    def hang_up(self, how: int) -> None:
        """shutdown(2), also from another thread: a wait on the socket ends. Never raises."""
        shut_down(self.sock, how)

    def close(self) -> None:
        if self._tls is not None:
            tls.send_close_notify(self._tls)
        self.sock.close()
