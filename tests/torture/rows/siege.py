"""Many connections of one kind, held as long as the gateway lets them: silence, halves, lies about lengths."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.dicom.acse import Context, Request, request_pdu
from tests.torture.besieged import Besieged, associated, attacked, connect
from tests.torture.messages import ASSOCIATE, p_data, store_command
from tests.torture.row import Budget, Score

CUT_SECONDS = 30.0


@dataclass(frozen=True)
class Siege:
    """Many connections of one kind, held as long as the gateway lets them; each must be cut."""

    name: str
    what: str
    count: int
    lay: Callable[[Besieged, int], socket.socket | None]
    trickle: bytes = b""  # sent a byte a second
    cut_seconds: float = CUT_SECONDS
    survives: str = "each is cut within 30 s; a good echo within 1 s throughout, 50 MB more at most"
    long: int = 0
    quick: int = 0

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with attacked(place, budget) as (gateway, watch):
            opened = {}
            began = time.monotonic()
            for number in range(self.count):
                sock = self.lay(gateway, number)
                if sock is not None:
                    sock.setblocking(False)
                    opened[sock] = time.monotonic()
            longest = budget.within(self.cut_seconds + 5)
            lasted = self._outlast(opened, longest)
            left = [sock for sock in opened if sock not in lasted]
            for sock in opened:
                sock.close()
            slowest = max([*lasted.values(), 0.0])
            wrong = watch.wrong()
        score.tried = self.count
        score.survived = self.count - len(left) if not wrong else 0
        score.faults = wrong + ([f"{len(left)} were not cut within {longest:g} s"] if left else [])
        score.figures = {
            "s until cut, most": slowest,
            "s to lay": time.monotonic() - began - slowest,
            **watch.figures(),
        }
        return score

    def _outlast(self, opened: dict[socket.socket, float], longest: float) -> dict[socket.socket, float]:
        """How long each was let: until the gateway closed it, or would not take another byte."""
        lasted: dict[socket.socket, float] = {}
        trickled = 0
        with selectors.DefaultSelector() as selector:
            for sock in opened:
                selector.register(sock, selectors.EVENT_READ)
            end, tick = time.monotonic() + longest, time.monotonic()
            while len(lasted) < len(opened) and time.monotonic() < end:
                for key, _ in selector.select(0.2):
                    if _is_over(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        lasted[key.fileobj] = time.monotonic() - opened[key.fileobj]  # type: ignore[index]
                if self.trickle and time.monotonic() - tick > 1:
                    tick, trickled = time.monotonic(), trickled + 1
                    for sock in opened.keys() - lasted.keys():
                        _whisper(sock, self.trickle[trickled % len(self.trickle)])
        return lasted


def _is_over(sock: socket.socket) -> bool:
    try:
        return not sock.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _whisper(sock: socket.socket, byte: int) -> None:
    try:
        sock.send(bytes([byte]))
    except OSError:
        pass  # it has been cut: its reader will see


def silent(gateway: Besieged, number: int) -> socket.socket:
    return connect(gateway.port)


def silent_at_tls(gateway: Besieged, number: int) -> socket.socket | None:
    """Nothing; half a ClientHello; or the whole handshake, and then nothing."""
    sock = connect(gateway.tls_port)
    if number % 3 == 1:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    if number % 3 < 2:
        return sock
    try:
        secured = gateway.scanner.wrap_socket(sock, server_hostname="127.0.0.1")
    except OSError:
        return None  # there are too many of us: it is closed
    return socket.socket(fileno=secured.detach())


def half_a_request(gateway: Besieged, number: int) -> socket.socket:
    sock = connect(gateway.port)
    sock.sendall(ASSOCIATE[: 1 + number % (len(ASSOCIATE) - 1)])
    return sock


def half_a_pdu(gateway: Besieged, number: int) -> socket.socket:
    """Within an association; every other one in the midst of a C-STORE's data set."""
    sock = associated(gateway.port)
    if number % 2:
        sock.sendall(p_data(store_command(), 3))
    sock.sendall(p_data(bytes(1000), 0)[: 3 + number % 900])
    return sock


def huge_request(gateway: Besieged, number: int) -> socket.socket:
    sock = connect(gateway.port)
    sock.sendall(struct.pack(">BxL", 1, 0xFFFFFFFF - number) + bytes(1000))
    return sock


def huge_pdu(gateway: Besieged, number: int) -> socket.socket:
    sock = associated(gateway.port)
    sock.sendall(struct.pack(">BxL", 4, 0xFFFFFFFF - number) + bytes(1000))
    return sock


def endless_command(gateway: Besieged, number: int) -> socket.socket | None:
    """Fragments of a command set that never comes to its last."""
    sock = associated(gateway.port)
    try:
        for _ in range(200):
            sock.sendall(p_data(bytes(4000), 1))
    except OSError:
        pass  # cut already
    return sock


def gigantic_command(gateway: Besieged, number: int) -> socket.socket | None:
    """One element of a command set that says it has 4 GB."""
    sock = associated(gateway.port)
    sock.sendall(p_data(struct.pack("<HHL", 0, 0x1000, 0xFFFFFFFF) + bytes(100), 3))
    return sock


def contexts_by_the_hundred(gateway: Besieged, number: int) -> socket.socket | None:
    """More contexts than there are IDs, the same ones again, none at all, some with hundreds of syntaxes."""
    sock = connect(gateway.port)
    syntaxes = tuple(f"1.2.{n}" for n in range(400 if number % 2 else 1))
    contexts = tuple(Context(1 + 2 * (n % 128), f"1.2.840.{n}", syntaxes) for n in range(0 if number % 3 == 0 else 300))
    try:
        sock.sendall(request_pdu(Request("EVIL", "EDGE", contexts[: 4 if number % 2 else 300], 16_384)))
        sock.settimeout(2)
        sock.recv(65_536)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # cut
    return sock


ROWS = (
    Siege("silent", "1,000 connections that say nothing", 1000, silent),
    Siege(
        "silent-tls",
        "1,000 connections to the TLS port: nothing, half a ClientHello, or a handshake and then nothing",
        1000,
        silent_at_tls,
    ),
    Siege(
        "half-pdus",
        "100 half P-DATA PDUs within associations, half of them within an object",
        100,
        half_a_pdu,
        cut_seconds=32,
    ),
    Siege("half-requests", "100 half A-ASSOCIATE-RQs", 100, half_a_request),
    Siege("trickle", "100 clients that send a byte a second of an A-ASSOCIATE-RQ", 100, half_a_request, trickle=b"\0"),
    Siege(
        "trickle-inside",
        "100 clients that send a byte a second of a PDU within an association",
        100,
        half_a_pdu,
        trickle=b"\0",
        cut_seconds=32,
    ),
    Siege("huge-requests", "100 A-ASSOCIATE-RQs of 4 GB", 100, huge_request),
    Siege("huge-pdus", "100 P-DATA PDUs of 4 GB", 100, huge_pdu),
    Siege("endless-commands", "50 commands that never end", 50, endless_command),
    Siege("gigantic-commands", "100 command elements of 4 GB", 100, gigantic_command),
    Siege("contexts", "100 requests with hundreds of contexts and syntaxes, or none", 100, contexts_by_the_hundred),
)
