"""A backlog out to `storescp --fork` on the same machine: Edge, Orthanc's store job, and DCMTK's senders.

Edge takes the backlog while the archive is away; Orthanc has stored it. The time is from the first byte of the first
object at the archive to the last byte of the last one (tests.bench.peers.arrived), for all alike; processor time is
that of the sending side.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import (
    DCMSEND,
    EDGE,
    ORTHANC,
    STORESCU,
    Placed,
    QuietOrthanc,
    Storescp,
    arrived,
    cpu_seconds,
    receiver,
    send,
    wait_idle,
)
from tests.bench.row import CPU, SECONDS, Figures, Target
from tests.bench.stage import KIB, Objects, Stage

#: Over so many associations a gateway is filled.
FILLING = 4


@dataclass(frozen=True)
class Outward:
    name: str = "out"
    what: str = "out, backlog of CT 512 KiB"
    count: int = 2000
    size: int = 512 * KIB
    few: int = 100
    peers: tuple[str, ...] = (EDGE, STORESCU, DCMSEND, ORTHANC)
    targets: tuple[Target, ...] = (
        Target(SECONDS, (STORESCU, DCMSEND), 0.7, 1.2),
        Target(SECONDS, (ORTHANC,), 4.0),
        Target(CPU, (ORTHANC,), 1.0),
        Target(CPU, (STORESCU,), None, 1.0),
    )

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), self.size)
        with stage.directory() as directory:
            archive = Storescp(directory / "archive")
            if peer in (STORESCU, DCMSEND):
                with archive:
                    used = send(peer, objects.folders, archive.port, archive.ae_title).cpu
                    return {SECONDS: arrived(archive, objects.count), CPU: used / objects.gigabytes}
            with receiver(peer, directory / "gateway", archive.port) as gateway:
                fill(gateway, objects)
                return drain(gateway, archive, objects)


def fill(gateway: Placed, objects: Objects) -> None:
    """Give a gateway its backlog, and let it end what follows an arrival."""
    send(STORESCU, objects.folders, gateway.port, gateway.ae_title, streams=FILLING)
    assert gateway.stored() == objects.count, f"{gateway.name} holds {gateway.stored()} of {objects.count} objects"
    wait_idle(gateway.pid)


def drain(gateway: Placed, archive: Storescp, objects: Objects) -> dict[str, float]:
    """Bring the archive up, and wait until it has all."""
    before = cpu_seconds(gateway.pid)
    with archive:
        if isinstance(gateway, QuietOrthanc):
            _order(gateway)
        seconds = arrived(archive, objects.count)
        return {SECONDS: seconds, CPU: (cpu_seconds(gateway.pid) - before) / objects.gigabytes}


def _order(orthanc: QuietOrthanc) -> None:
    """One job for everything that Orthanc has; returns when it is done."""
    studies = orthanc.get("/studies")
    told = orthanc.post("/modalities/archive/store", json.dumps({"Resources": studies, "Synchronous": True}).encode())
    assert json.loads(told)["FailedInstancesCount"] == 0, f"Orthanc failed to send: {told.decode()}"


LUA = "function OnStoredInstance(id) SendToModality(id, 'archive') end\n"


@dataclass(frozen=True)
class Through:
    """From the modality through a gateway to the archive, all at the same time."""

    name: str = "through"
    what: str = "through while receiving, CT 512 KiB"
    count: int = 600
    size: int = 512 * KIB
    few: int = 100
    peers: tuple[str, ...] = (EDGE, ORTHANC)
    targets: tuple[Target, ...] = (Target(SECONDS, (ORTHANC,), 2.0, 4.0), Target(CPU, (ORTHANC,)))

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), self.size)
        with stage.directory() as directory, Storescp(directory / "archive") as archive:
            gateway = receiver(peer, directory / "gateway", archive.port)
            if isinstance(gateway, QuietOrthanc):
                _route(gateway, directory)
            with gateway:
                return self._pass(gateway, archive, objects)

    def _pass(self, gateway: Placed, archive: Storescp, objects: Objects) -> Figures:
        """From the modality's start to the last byte at the archive."""
        before, began = cpu_seconds(gateway.pid), time.time()
        send(STORESCU, objects.folders, gateway.port, gateway.ae_title)
        seconds = arrived(archive, objects.count, since=began)
        return {SECONDS: seconds, CPU: (cpu_seconds(gateway.pid) - before) / objects.gigabytes}


def _route(orthanc: QuietOrthanc, directory: Path) -> None:
    """Have Orthanc send on whatever it stores."""
    script = directory / "route.lua"
    script.write_text(LUA)
    settings = json.loads(orthanc.configuration.read_text())
    orthanc.configuration.write_text(json.dumps(settings | {"LuaScripts": [str(script)]}))


ROWS = (Outward(), Through())
