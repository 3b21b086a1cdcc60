"""A backlog out over a WAN (tests.bench.wan), against plain TCP and DCMTK's senders.

The gateway is filled without the line, and then started at its near end while the archive listens at the far end. The
time is from the first byte that arrives to the last; for plain TCP, which moves the same bytes in one stream, too.
DCMTK's senders wait a round trip for each object: they send a part, and their time is that of the whole at that rate.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import DCMSEND, EDGE, STORESCU, Gateway, Place, Storescp, archive_at, arrived, send
from tests.bench.row import SECONDS, Figures, Row, Target
from tests.bench.rows.outward import fill
from tests.bench.stage import KIB, Objects, Stage
from tests.bench.wan import Line, Wan
from tests.support.peers import free_port, wait_until
from tests.support.web_archive import Received, Said, WebArchive, take_all

TCP = "plain TCP"
#: Bytes that a socket is asked for at once.
CHUNK = 1 << 20
#: A line that stands still for so many seconds is broken.
PATIENCE = 300.0


TERRESTRIAL, LOSSY, SATELLITE = Line(0.080, 100), Line(0.080, 100, loss=0.001), Line(0.300, 20)


@dataclass(frozen=True)
class OverWan:
    name: str
    what: str
    line: Line
    count: int
    part: int  # so many are sent by DCMTK
    size: int
    at_least: float | None
    aim: float | None
    few: int = 6
    peers: tuple[str, ...] = (EDGE, TCP, STORESCU, DCMSEND)

    @property
    def targets(self) -> tuple[Target, ...]:
        return Target(SECONDS, (TCP,), self.at_least, self.aim), Target(SECONDS, (STORESCU, DCMSEND))

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), self.size)
        if peer == TCP:
            with Wan(self.line) as wan:
                return {SECONDS: copy(wan, objects.files())}
        with stage.directory() as directory:
            if peer == EDGE:
                return {SECONDS: drain_over(self.line, directory, objects)}
            part = stage.objects(stage.few(self.part, self.few), self.size)
            with Wan(self.line) as wan, far_archive(wan, directory, free_port()) as archive:
                send(peer, part.folders, archive.port, archive.ae_title, host=wan.far.address, place=Place(wan.near))
                return {SECONDS: arrived(archive, part.count) * objects.count / part.count}


@dataclass(frozen=True)
class StowOverWan:
    """The same by STOW-RS, to a server that takes all and names each."""

    name: str = "wan-stow"
    what: str = "out by STOW-RS, 80 ms, 100 Mbit/s, CT 512 KiB"
    line: Line = TERRESTRIAL
    count: int = 200
    few: int = 6
    peers: tuple[str, ...] = (EDGE, TCP)
    targets: tuple[Target, ...] = (Target(SECONDS, (TCP,), 0.90, 0.95),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), 512 * KIB)
        if peer == TCP:
            with Wan(self.line) as wan:
                return {SECONDS: copy(wan, objects.files())}
        with stage.directory() as directory, Gateway(directory / "gateway", stow_to("http://127.0.0.1:9")) as gateway:
            fill(gateway, objects)
            gateway.stop()
            with Wan(self.line) as wan:
                return {SECONDS: stow_over(wan, gateway, objects)}


def stow_to(url: str) -> str:
    """Configuration of Edge: all goes to one archive by STOW-RS, which answers for itself."""
    return (
        f'[destination.archive]\nkind = "dicomweb"\nurl = "{url}"\nconfirm = "status"\n'
        '[route.everything]\nto = ["archive"]\n'
    )


def stow_over(wan: Wan, gateway: Gateway, objects: Objects) -> float:
    """Seconds from the first request's head at the far end to the last byte of the last body."""
    begins, ends, uids = list[float](), list[float](), set[str]()

    def take(request: Received) -> Said:
        if request.method == "POST":
            begins.append(request.began)
            ends.append(time.monotonic())
            uids.update(request.uids)
        return take_all(request)

    archive = wan.far.run(lambda: WebArchive(take, host=wan.far.address))
    try:
        gateway.configure(stow_to(archive.url))
        with gateway.at(Place(wan.near)):
            wait_until(lambda: len(uids) == objects.count, PATIENCE, "all at the far end", interval=0.5)
    finally:
        archive.close()
    return max(ends) - min(begins)


@contextmanager
def far_archive(wan: Wan, directory: Path, port: int) -> Iterator[Storescp]:
    """An archive at the far end."""
    with Storescp(directory / "archive", port=port).at(Place(wan.far)) as archive:
        yield archive


def drain_over(line: Line, directory: Path, objects: Objects) -> float:
    """Seconds that a gateway at the near end needs to send its backlog to an archive at the far end."""
    port = free_port()
    gateway = Gateway(directory / "gateway", archive_at(port))
    with gateway:
        fill(gateway, objects)
        gateway.stop()
    with Wan(line) as wan, far_archive(wan, directory, port) as archive:
        gateway.configure(archive_at(port, wan.far.address))
        with gateway.at(Place(wan.near)):
            return arrived(archive, objects.count)


def copy(wan: Wan, files: list[Path]) -> float:
    """Seconds from the first byte to the last when one TCP connection carries the bytes of some files."""
    port = free_port()
    with wan.far.run(lambda: socket.create_server((wan.far.address, port))) as server:
        sender = threading.Thread(target=_pour, args=(wan, port, files))
        sender.start()
        server.settimeout(PATIENCE)
        with server.accept()[0] as sink:
            sink.settimeout(PATIENCE)
            got = len(sink.recv(CHUNK))
            began = time.monotonic()
            while count := len(sink.recv(CHUNK)):
                got += count
            seconds = time.monotonic() - began
        sender.join()
    assert got == sum(path.stat().st_size for path in files), "plain TCP lost bytes"
    return seconds


def _pour(wan: Wan, port: int, files: list[Path]) -> None:
    with wan.near.run(lambda: socket.create_connection((wan.far.address, port))) as sock:
        for path in files:
            with path.open("rb") as file:
                sock.sendfile(file)


#: Milliseconds, of the rows that show how time over the line grows.
RTTS = (10, 40, 160, 320)
RTT_COUNT, RTT_SIZE = 100, 512 * KIB
RTT_BYTES = RTT_COUNT * RTT_SIZE
ROWS: tuple[Row, ...] = (
    OverWan("wan-512k", "out, 80 ms, 100 Mbit/s, CT 512 KiB", TERRESTRIAL, 200, 40, 512 * KIB, 0.90, 0.95),
    OverWan("wan-128k", "out, 80 ms, 100 Mbit/s, CT 128 KiB", TERRESTRIAL, 800, 100, 128 * KIB, 0.85, 0.95),
    OverWan("wan-10k", "out, 80 ms, 100 Mbit/s, 10 KB", TERRESTRIAL, 6000, 200, 10 * KIB, 0.6, 0.95, few=30),
    OverWan("wan-loss", "out, 80 ms, 100 Mbit/s, 0.1 % loss, CT 512 KiB", LOSSY, 100, 40, 512 * KIB, 0.85, 0.95),
    OverWan("wan-satellite", "out, 300 ms, 20 Mbit/s, CT 512 KiB", SATELLITE, 60, 30, 512 * KIB, 0.85, 0.95),
    StowOverWan(),
    *(
        OverWan(
            f"rtt-{ms}",
            f"out, {ms} ms, 100 Mbit/s, CT 512 KiB",
            Line(ms / 1000, 100),
            RTT_COUNT,
            20,
            RTT_SIZE,
            None,
            None,
        )
        for ms in RTTS
    ),
)
