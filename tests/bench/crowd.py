"""Many modalities at once: associations that stay open, each sending a slice at its own second."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import command as dimse
from edge.dicom.acse import Context, Request, parse_accept, request_pdu
from edge.dicom.command import CommandField, Element
from tests.support.objects import dataset, new_uid, read_meta, sop_instance_uid

SOP_CLASS, TRANSFER_SYNTAX = 0x0002, 0x0010
CONTEXT_ID = 1
P_DATA, RELEASE = 0x04, bytes.fromhex("05 00 00000004 00000000")
COMMAND_LAST, DATA, DATA_LAST = 3, 0, 2
#: UIDs stand in the first bytes of a message.
HEAD = 8192
#: Modalities have addresses of their own: a gateway gives one address but a part of its associations.
ADDRESSES = 20
#: Whoever waits longer for an answer has been timed out.
PATIENCE = 30.0


@dataclass(frozen=True)
class Slice:
    """One object, to be sent again and again under new UIDs."""

    path: Path

    def context(self) -> Context:
        meta = read_meta(self.path.read_bytes())[0]
        sop_class, syntax = (meta[number].rstrip(b"\0").decode() for number in (SOP_CLASS, TRANSFER_SYNTAX))
        return Context(CONTEXT_ID, sop_class, (syntax,))

    def message(self, max_pdu: int) -> bytes:
        """A whole C-STORE request (PS3.7 section 9.3.1) in P-DATA-TF PDUs (PS3.8 section 9.3.5)."""
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: self.context().abstract_syntax,
            Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
            Element.MESSAGE_ID: 1,
            Element.PRIORITY: 0,
            Element.DATA_SET_TYPE: dimse.DATA_SET,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid(self.path),
        }
        data = dataset(self.path)
        return _pdu(dimse.encode(elements), COMMAND_LAST) + b"".join(_fragments(data, max_pdu - 6))


def _fragments(data: bytes, most: int) -> Iterator[bytes]:
    for at in range(0, len(data), most):
        yield _pdu(data[at : at + most], DATA_LAST if at + most >= len(data) else DATA)


def _pdu(fragment: bytes, control: int) -> bytes:
    size = len(fragment)
    return struct.pack(">BxLLBB", P_DATA, size + 6, size + 2, CONTEXT_ID, control) + fragment


def answer_times(port: int, slice_: Path, associations: int, rounds: int) -> list[float]:
    """Seconds from each slice's last byte, given to the kernel, to its answer. Raises AssertionError on a refusal."""
    return asyncio.run(_crowd(port, Slice(slice_), associations, rounds))


async def _crowd(port: int, slice_: Slice, associations: int, rounds: int) -> list[float]:
    request = request_pdu(Request("CT1", "EDGE", (slice_.context(),), 0))
    sockets = [await _open(port, request, f"127.0.0.{2 + number % ADDRESSES}") for number in range(associations)]
    try:
        message = slice_.message(sockets[0][1])
        marker, begin = sop_instance_uid(slice_.path).encode(), time.monotonic() + 0.5
        visits = [
            _visit(sock, message, marker, begin + number / associations, rounds)
            for number, (sock, _) in enumerate(sockets)
        ]
        return [seconds for visit in await asyncio.gather(*visits) for seconds in visit]
    finally:
        for sock, _ in sockets:
            sock.close()


async def _open(port: int, request: bytes, address: str) -> tuple[socket.socket, int]:
    """An association from this address, and the longest PDU that it takes."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.bind((address, 0))
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await loop.sock_sendall(sock, request)
    accept = await _read_pdu(sock)
    assert accept[0] == 2, "an association was refused"
    return sock, min(parse_accept(accept).max_pdu or 131_072, 131_072)


async def _visit(sock: socket.socket, message: bytes, marker: bytes, begin: float, rounds: int) -> list[float]:
    loop = asyncio.get_running_loop()
    head, rest, times = message[:HEAD], memoryview(message)[HEAD:], []
    for number in range(rounds):
        await asyncio.sleep(begin + number - time.monotonic())
        await loop.sock_sendall(sock, head.replace(marker, new_uid().encode()))
        await loop.sock_sendall(sock, rest)
        sent = time.monotonic()
        pdu = await _read_pdu(sock)
        times.append(time.monotonic() - sent)
        assert pdu[0] == P_DATA, f"PDU type {pdu[0]} instead of an answer"
        status = dimse.decode_command(pdu[12:]).number(Element.STATUS)
        assert status == 0, f"a slice was refused with status {status:#06x}"
    await loop.sock_sendall(sock, RELEASE)
    return times


async def _read_pdu(sock: socket.socket) -> bytes:
    head = await _read(sock, 6)
    return head + await _read(sock, int.from_bytes(head[2:], "big"))


async def _read(sock: socket.socket, size: int) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    while len(got) < size:
        more = await asyncio.wait_for(loop.sock_recv(sock, size - len(got)), PATIENCE)
        assert more, "the gateway hung up"
        got += more
    return got
