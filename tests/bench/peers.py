"""The peers at their best, and Edge: the servers of tests/support/peers.py without their chatter, and DCMTK's senders.

A `Place` says where a process runs (which network namespace) and with which TCP: Nagle's algorithm off, or on as Debian
ships DCMTK and Orthanc.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from edge.journal.ring import JOURNAL_FOLDER
from edge.journal.service import AHEAD_AT_REST
from tests.bench.row import CPU, SECONDS
from tests.bench.stage import Objects
from tests.bench.wan import Namespace
from tests.support.nursery import Child
from tests.support.peers import ENVIRONMENT, Edge, Orthanc, Peer, StoreScp, free_port, http_get, requires, wait_until

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

EDGE, STORESCP, FORKING, ORTHANC = "edge", "storescp", "storescp --fork", "Orthanc"
STORESCU, DCMSEND = "storescu", "dcmsend"
#: No measurement may take longer, in seconds.
LONGEST = 1800.0


@dataclass(frozen=True)
class Place:
    """Where a process runs, and whether it sends small segments at once."""

    namespace: Namespace | None = None
    nodelay: bool = True

    @property
    def prefix(self) -> list[str]:
        return self.namespace.prefix if self.namespace else []

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        return given if self.nodelay else {key: value for key, value in given.items() if key != "TCP_NODELAY"}


HERE = Place()
AS_SHIPPED = replace(HERE, nodelay=False)


class Placed(Peer):
    """A server that runs in a place."""

    place = HERE
    ae_title: str
    port: int

    def at(self, place: Place) -> Self:
        self.place = place
        return self

    def command(self) -> list[str]:
        return [*self.place.prefix, *super().command()]

    def environment(self) -> dict[str, str]:
        return self.place.environment(super().environment())

    def is_ready(self) -> bool:
        return _listens(self.pid, self.port)

    def stored(self) -> int:
        """Objects that it holds."""
        raise NotImplementedError


class Gateway(Placed, Edge):
    ae_title = "EDGE"

    def spawn(self, log: BinaryIO) -> subprocess.Popen[bytes] | Child:
        return Peer.spawn(self, log)  # not forked: it shares nothing with others, for its memory is measured

    def is_ready(self) -> bool:
        return self._http(self.until)[0] == 200

    def _http(self, path: str) -> tuple[int, bytes]:
        url = self.url(path)
        return self.place.namespace.run(lambda: http_get(url)) if self.place.namespace else http_get(url)

    def stored(self) -> int:
        return int(self.api_status()["instances"]["received"])

    def wait_at_rest(self) -> None:
        """As a gateway that has run for half a minute: its journal has the segments that it keeps ready."""
        folder = self.data_dir / JOURNAL_FOLDER
        wait_until(
            lambda: len(list(folder.glob("*.seg"))) >= AHEAD_AT_REST, 90, "the journal is laid out", interval=0.5
        )


class Storescp(Placed, StoreScp):
    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--verbose"]

    def stored(self) -> int:
        with os.scandir(self.store) as entries:
            return sum(1 for _ in entries)


class QuietOrthanc(Placed, Orthanc):
    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--verbose-dicom"]

    def is_ready(self) -> bool:
        return _listens(self.pid, self.port) and http_get(self.url("/system"))[0] == 200

    def stored(self) -> int:
        return self.count()

    def post(self, path: str, body: bytes) -> bytes:
        request = urllib.request.Request(self.url(path), data=body, method="POST")
        with urllib.request.urlopen(request, timeout=LONGEST) as response:
            return bytes(response.read())


def receiver(peer: str, directory: Path, archive_port: int = 0, place: Place = HERE) -> Placed:
    """A server by its name in the table, not started; what stores and forwards knows an archive on `archive_port`."""
    port = archive_port or free_port()
    if peer == EDGE:
        return Gateway(directory, archive_at(port)).at(place)
    if peer == ORTHANC:
        known = {"archive": ["ARCHIVE", "127.0.0.1", port]}
        more: dict[str, Any] = {"DicomModalities": known, "DicomThreadsCount": 16, "ConcurrentJobs": 4}
        return QuietOrthanc(directory, free_port(), **more).at(place)
    return Storescp(directory, fork=peer == FORKING).at(place)


def archive_at(port: int, host: str = "127.0.0.1", more: str = "") -> str:
    """Configuration of Edge: all goes to one archive, which answers for itself."""
    return (
        f'[destination.archive]\nae_title = "ARCHIVE"\nhost = "{host}"\nport = {port}\nconfirm = "status"\n'
        f'[route.everything]\nto = ["archive"]\n{more}'
    )


def _listens(pid: int, port: int) -> bool:
    """True once the process's own network namespace has a listener on the port; nobody is called for it."""
    rows: list[str] = []
    for table in ("tcp", "tcp6"):
        try:
            rows += Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            pass  # no such protocol, or the process has just ended: its starter looks
    return any(at.endswith(f":{port:04X}") and state == "0A" for _, at, _, state, *_ in map(str.split, rows))


# Senders.


@dataclass(frozen=True)
class Usage:
    """What work has cost: time, and processor time of all who did it."""

    seconds: float
    cpu: float

    def figures(self, objects: Objects) -> dict[str, float]:
        return {SECONDS: self.seconds, CPU: self.cpu / objects.gigabytes}


def send(
    program: str,
    folders: Sequence[Path],
    port: int,
    called: str,
    *,
    host: str = "127.0.0.1",
    streams: int = 1,
    place: Place = HERE,
    calling: str = "CT1",
) -> Usage:
    """Send what lies in some folders over so many associations at once; they share the folders out."""
    options = {STORESCU: ["--required"], DCMSEND: ["--no-uid-checks"]}[program]
    peer = [*options, "--aetitle", calling, "--call", called, "--max-pdu", "131072", host, str(port)]
    command = [*place.prefix, requires(program), *peer, "--scan-directories"]
    _read_once(folders)
    before, began = _children(), time.monotonic()
    running = [_start([*command, *map(str, folders[n::streams])], place) for n in range(min(streams, len(folders)))]
    try:
        for process in running:
            said = process.communicate(timeout=LONGEST)[0].decode("utf-8", "replace")
            assert process.returncode == 0, f"{program} ended with {process.returncode}:\n{said[-2000:]}"
    finally:
        for process in running:
            process.kill()
            process.wait()
    return Usage(time.monotonic() - began, _children() - before)


def _read_once(folders: Sequence[Path]) -> None:
    """Have them in the page cache: some machines take back what nobody has read for half a minute."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                path.read_bytes()


def _start(command: list[str], place: Place) -> subprocess.Popen[bytes]:
    environment = place.environment(ENVIRONMENT)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )


# Processor time and memory.


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants, and those that it has reaped."""
    total = 0.0
    for process in family(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # ended since; its parent has its time now
        total += times.user + times.system + times.children_user + times.children_system
    return total


def wait_idle(pid: int) -> None:
    """Wait until what follows an arrival (headers, figures) is done: it is no part of what is measured next."""

    def is_idle() -> bool:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        return cpu_seconds(pid) - before < 0.25

    wait_until(is_idle, 120, "the server has nothing to do")


# At the archive.


def arrived(archive: Storescp, count: int, timeout: float = LONGEST, since: float | None = None) -> float:
    """Wait until so many objects have arrived whole.

    Returns the seconds from the first object's first byte (or from `since`, seconds since 1970) to the last one's last,
    by the file system's own times: when a file was made, and last written to. So looking seldom costs nothing.
    """
    wait_until(lambda: archive.stored() >= count, timeout, f"{count} objects at the archive", interval=0.1)
    settled = 0.0
    while (newest := max(written for _, written in file_times(archive.store).values())) != settled:
        settled = newest  # the last file is there, but is it whole?
        time.sleep(0.2)
    begun = min(born for born, _ in file_times(archive.store).values()) if since is None else since
    return newest - begun


def file_times(folder: Path) -> dict[str, tuple[float, float]]:
    """When each file was made and last written to, seconds since 1970, by the file's name."""
    command = ["find", str(folder), "-type", "f", "-exec", "stat", "--format=%.9W %.9Y %n", "{}", "+"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    times = {Path(name).name: (float(born), float(written)) for born, written, name in map(_three, rows)}
    assert all(born > 0 for born, _ in times.values()), f"the file system of {folder} keeps not when a file was made"
    return times


def _three(row: str) -> list[str]:
    return row.split(maxsplit=2)
