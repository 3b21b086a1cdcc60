"""Messages between our own processes: each with its length in front, on a stream socket."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct(">L")
#: The longest message; the longest real one is an archive's report on some 100,000 instances.
MOST_FRAME_BYTES = 32 << 20


def send_frame(sock: socket.socket, message: bytes) -> None:
    """Raises OSError."""
    sock.sendall(_LENGTH.pack(len(message)) + message)


def receive_frame(sock: socket.socket) -> bytes:
    """The next message. Raises EOFError when the other end is closed, OSError; also where it says too long a one."""
    (length,) = _LENGTH.unpack(_receive(sock, _LENGTH.size))
    if length > MOST_FRAME_BYTES:
        raise ConnectionError("a message of one of our processes is longer than any may be")
    return _receive(sock, length)


def _receive(sock: socket.socket, length: int) -> bytes:
    found = bytearray(length)
    view = memoryview(found)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(found)
