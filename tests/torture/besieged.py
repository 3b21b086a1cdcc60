"""The gateway among those who come to its door without good intent; a good modality must see nothing of it."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from edge.errors import EdgeError
from tests.support.certificates import Authority
from tests.support.peers import free_port
from tests.torture.custody import Custody, Made, Sender, echo_seconds
from tests.torture.gateway import Gateway, archive_at
from tests.torture.messages import ASSOCIATE
from tests.torture.row import Budget

MB = 1_000_000
#: What an attack may cost, at most.
ECHO_SECONDS, GROWTH_BYTES = 1.0, 50 * MB


@dataclass
class Watch:
    """A good modality that echoes all the while, and what the gateway costs."""

    gateway: Gateway
    most_seconds: float = ECHO_SECONDS
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    most: int = 0
    before: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.slowest = max(self.slowest, echo_seconds(self.gateway.port))
            except (EdgeError, OSError) as error:
                self.failures.append(f"a good modality's echo failed: {error}")
            self.most = max(self.most, self.gateway.memory())
            self._over.wait(0.1)

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        thread = threading.Thread(target=self._run)
        for _ in range(30):
            echo_seconds(self.gateway.port)  # what is loaded at first use is not growth
        self.before = self.most = self.gateway.memory()
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(60)

    def wrong(self) -> list[str]:
        if self.gateway.has_ended():
            return ["the gateway has died"]
        wrong = self.failures[:2]
        wrong += [f"an echo took {self.slowest:.2f} s"] if self.slowest > self.most_seconds else []
        grown = self.most - self.before
        wrong += [f"{grown / MB:.0f} MB more"] if grown > GROWTH_BYTES else []
        return wrong

    def figures(self) -> dict[str, float | str]:
        return {"s of a good echo, most": self.slowest, "MB more": (self.most - self.before) / MB}


class Besieged(Gateway):
    """A gateway with a TLS port, too, and nobody at the archive's. `scanner`: what one of the site's has for TLS."""

    def __init__(self, directory: Path) -> None:
        authority, self.tls_port = Authority(directory / "authority"), free_port()
        own, scanner = authority.issue("edge.test", "127.0.0.1"), authority.issue("ct1.test")
        self.scanner = ssl.create_default_context(cafile=authority.ca)
        self.scanner.load_cert_chain(scanner.certificate, scanner.key)
        files = f'certificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{authority.ca}"\n'
        super().__init__(directory, archive_at(free_port(), more=f"[tls]\nport = {self.tls_port}\n{files}"))


@contextmanager
def attacked(place: Path, budget: Budget) -> Iterator[tuple[Besieged, Watch]]:
    """A gateway with a good modality."""
    with Besieged(place / "edge") as gateway:
        gateway.start()
        Sender(gateway.port, Made(place / "made"), Custody(), random.Random(1)).send(20)
        with Watch(gateway, budget.within(ECHO_SECONDS)).looking() as watch:
            yield gateway, watch
        # Everything that the attack opened is gone when it is over.
        gateway.kill()


def connect(port: int) -> socket.socket:
    """From an address of the attacker's own: the good modality has 127.0.0.1."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=("127.0.0.2", 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def associated(port: int) -> socket.socket:
    sock = connect(port)
    sock.sendall(ASSOCIATE)
    head = exactly(sock, 6)
    exactly(sock, int.from_bytes(head[2:], "big"))
    return sock


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def open_sockets(gateway: Gateway) -> int:
    """Connections to its DICOM port that the gateway holds open."""
    held = [each for process in gateway.processes() for each in process.net_connections("tcp")]
    return sum(1 for each in held if each.status != psutil.CONN_LISTEN and each.laddr.port == gateway.port)
