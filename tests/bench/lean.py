"""A sender that costs little, as a modality with a machine of its own would: one slice from memory, again and again.

Each association is a process, and sends command and data set at once. It waits for each answer, as modalities do.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import command as dimse
from edge.dicom.acse import Request, parse_accept, request_pdu
from edge.dicom.command import Element
from tests.bench.crowd import HEAD, P_DATA, PATIENCE, RELEASE, Slice
from tests.support.objects import new_uid, sop_instance_uid


@dataclass(frozen=True)
class Sent:
    """`answers`: seconds from each object's last byte, given to the kernel, to its answer; sorted."""

    seconds: float
    answers: list[float]

    def percentile(self, share: float) -> float:
        return self.answers[min(int(len(self.answers) * share), len(self.answers) - 1)]


def send_lean(port: int, called: str, slice_: Path, associations: int, count: int = 0, seconds: float = 0.0) -> Sent:
    """Send `count` objects over so many associations, or else as many as go in so many seconds.

    Raises AssertionError on a refusal.
    """
    began = time.monotonic()
    share, end = -(-count // associations), began + seconds
    with multiprocessing.get_context("fork").Pool(associations) as pool:
        given = [(port, called, slice_, share, end)] * associations
        found = pool.starmap(_send, given, chunksize=1)
    first, last = min(each[0] for each in found), max(each[1] for each in found)
    return Sent(last - first, sorted(seconds for each in found for seconds in each[2]))


def _send(port: int, called: str, slice_: Path, count: int, end: float) -> tuple[float, float, list[float]]:
    """(begin, end, the time of each answer)."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request_pdu(Request("CT1", called, (Slice(slice_).context(),), 0)))
        accept = _read_pdu(sock)
        assert accept[0] == 2, "an association was refused"
        message = Slice(slice_).message(min(parse_accept(accept).max_pdu or 131_072, 131_072))
        began, times = time.monotonic(), _exchange(sock, message, sop_instance_uid(slice_).encode(), _until(count, end))
        ended = time.monotonic()
        sock.sendall(RELEASE)
        _read_pdu(sock)
        return began, ended, times


def _until(count: int, end: float) -> Callable[[int], bool]:
    return (lambda done: done >= count) if count else (lambda _: time.monotonic() >= end)


def _exchange(sock: socket.socket, message: bytes, marker: bytes, is_done: Callable[[int], bool]) -> list[float]:
    head, rest = message[:HEAD], memoryview(message)[HEAD:]
    times: list[float] = []
    while not is_done(len(times)):
        parts = head.replace(marker, new_uid().encode()), rest
        sent = sock.sendmsg(parts)
        if sent < len(message):
            sock.sendall(memoryview(message)[sent:] if sent >= HEAD else b"".join(parts)[sent:])
        began = time.monotonic()
        pdu = _read_pdu(sock)
        times.append(time.monotonic() - began)
        assert pdu[0] == P_DATA, f"PDU type {pdu[0]} instead of an answer"
        status = dimse.decode_command(pdu[12:]).number(Element.STATUS)
        assert status == 0, f"an object was refused with status {status:#06x}"
    return times


def _read_pdu(sock: socket.socket) -> bytes:
    head = _read(sock, 6)
    return head + _read(sock, int.from_bytes(head[2:], "big"))


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, "the receiver hung up"
        data += more
    return data
