"""DICOMweb beside Orthanc with its plugin: STOW-RS in, studies and metadata out; CT of 512 KiB over one connection.

The sender and reader do nothing but move bytes: bodies are made before, and answers are dropped as they come. Time is
theirs, from the first byte to the end of the last answer.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from tests.bench.peers import EDGE, ORTHANC, Gateway, Placed, QuietOrthanc, archive_at
from tests.bench.row import Figures, Target
from tests.bench.stage import KIB, Objects, Stage
from tests.support.peers import free_port
from tests.support.web_archive import web_plugin

TOKEN = "a-token-of-the-bench-0123456789"
BOUNDARY = "boundary-of-the-bench"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
RATE = "s/GB"
#: Objects in one STOW-RS request.
TOGETHER = 20


@dataclass(frozen=True)
class WebServer:
    """A server that is measured, and where its services are."""

    server: Placed
    port: int


@contextmanager
def web_server(peer: str, directory: Path) -> Iterator[WebServer]:
    if peer == EDGE:
        port, token = free_port(), directory / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        more = f'[query]\n[dicomweb]\nport = {port}\n[client.bench]\ntoken = "{token}"\n'
        more += 'services = ["query", "retrieve", "store"]\n'
        with Gateway(directory / "edge", archive_at(free_port(), more=more)) as gateway:
            yield WebServer(gateway, port)
        return
    plugins = web_plugin(directory / "orthanc")
    settings: dict[str, Any] = {"Plugins": [str(plugins)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with QuietOrthanc(directory / "orthanc", free_port(), **settings) as orthanc:
        yield WebServer(orthanc, orthanc.http_port)


def _bodies(objects: Objects) -> list[bytes]:
    files = objects.files()
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    groups = (files[at : at + TOGETHER] for at in range(0, len(files), TOGETHER))
    closing = f"\r\n--{BOUNDARY}--\r\n".encode()
    return [b"".join(head + path.read_bytes() for path in group) + closing for group in groups]


def stow(there: WebServer, objects: Objects) -> float:
    """Store all; the seconds that it took."""
    bodies = _bodies(objects)
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    connection = http.client.HTTPConnection("127.0.0.1", there.port, timeout=100)
    began = time.monotonic()
    for body in bodies:
        connection.request("POST", "/dicom-web/studies", body, {**HEADERS, "Content-Type": kind})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said[:200]
    seconds = time.monotonic() - began
    connection.close()
    return seconds


def read(there: WebServer, path: str, accept: str) -> tuple[float, int]:
    """The seconds of one GET, and the bytes that came."""
    connection = http.client.HTTPConnection("127.0.0.1", there.port, timeout=100)
    buffer, count = bytearray(1 << 20), 0
    began = time.monotonic()
    connection.request("GET", f"/dicom-web{path}", headers={**HEADERS, "Accept": accept})
    answer = connection.getresponse()
    while part := answer.readinto(buffer):
        count += part
    seconds = time.monotonic() - began
    assert answer.status == 200
    connection.close()
    return seconds, count


@dataclass(frozen=True)
class Stow:
    """STOW-RS in."""

    name: str = "stow-in"
    what: str = f"STOW-RS in, CT 512 KiB, {TOGETHER} a request"
    count: int = 600
    peers: tuple[str, ...] = (EDGE, ORTHANC)
    # 300 MB/s, and 1.5 times Orthanc's
    targets: tuple[Target, ...] = (Target(RATE, (ORTHANC,), 1.5), Target(RATE, at_least=1 / 0.3))

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, 60), 512 * KIB)
        with stage.directory() as directory, web_server(peer, directory) as there:
            seconds = stow(there, objects)
            assert there.server.stored() == objects.count
            return {RATE: seconds / objects.gigabytes}


@dataclass(frozen=True)
class Wado:
    """What WADO-RS gives of a study or series, the best of three."""

    name: str
    what: str
    path: Callable[[str, str], str]
    accept: str
    figure: str
    targets: tuple[Target, ...]
    count: int = 120
    peers: tuple[str, ...] = (EDGE, ORTHANC)

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, 60), 512 * KIB, series=1)
        with stage.directory() as directory, web_server(peer, directory) as there:
            stow(there, objects)
            assert there.server.stored() == objects.count
            time.sleep(2.0)  # what is done behind the answer is done, at both
            first = pydicom.dcmread(objects.files()[0], stop_before_pixels=True)
            path = self.path(first.StudyInstanceUID, first.SeriesInstanceUID)
            seconds, count = min(read(there, path, self.accept) for _ in range(3))
            return {self.figure: seconds * 1e9 / count if self.figure == RATE else 1000 * seconds}


MILLISECONDS = "ms"

ROWS = (
    Stow(),
    Wado(
        "wado-study",
        "WADO-RS, a series of 512 KiB slices",
        lambda study, series: f"/studies/{study}/series/{series}",
        'multipart/related; type="application/dicom"; transfer-syntax=*',
        RATE,
        (Target(RATE, (ORTHANC,), 1.2), Target(RATE, at_least=1 / 0.4)),
    ),
    Wado(
        "wado-metadata",
        "WADO-RS, metadata of a series",
        lambda study, series: f"/studies/{study}/series/{series}/metadata",
        "application/dicom+json",
        MILLISECONDS,
        (Target(MILLISECONDS, (ORTHANC,), 1.2), Target(MILLISECONDS, at_least=30.0)),
    ),
)
