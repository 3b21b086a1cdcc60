"""Objects in: from DCMTK's storescu to Edge, storescp and Orthanc, over one association and over many at once.

Edge's archive is away all the while, so that each object is stored, catalogued and queued, and nothing is forwarded.
The time is the sender's, from its start to its end; processor time counts until all is stored and catalogued.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench.lean import send_lean
from tests.bench.peers import (
    AS_SHIPPED,
    EDGE,
    FORKING,
    HERE,
    ORTHANC,
    STORESCP,
    STORESCU,
    Gateway,
    Place,
    Placed,
    cpu_seconds,
    receiver,
    send,
)
from tests.bench.row import CPU, SECONDS, Figures, Target
from tests.bench.stage import GB, KIB, Objects, Stage

EDGE_NODELAY = "edge, TCP_NODELAY"


@dataclass(frozen=True)
class Inward:
    """So many objects of one size over so many associations."""

    name: str
    what: str
    count: int
    size: int
    streams: int
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    few: int = 100

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), self.size)
        with stage.directory() as directory, receiver(peer, directory) as server:
            at_rest(server, stage)
            return receive(server, objects, self.streams, HERE)


def at_rest(server: Placed, stage: Stage) -> None:
    """Edge is measured as one that has run for a while."""
    if isinstance(server, Gateway) and not stage.quick:
        server.wait_at_rest()


def receive(server: Placed, objects: Objects, streams: int, place: Place) -> dict[str, float]:
    """Have a server receive some objects; the sender's seconds, and the server's processor time."""
    before = cpu_seconds(server.pid)
    usage = send(STORESCU, objects.folders, server.port, server.ae_title, streams=streams, place=place)
    stored = server.stored()
    used = cpu_seconds(server.pid) - before
    assert stored == objects.count, f"{server.name} holds {stored} of {objects.count} objects"
    return {SECONDS: usage.seconds, CPU: used / objects.gigabytes}


@dataclass(frozen=True)
class AsShipped:
    """The sender has Nagle's algorithm on, as Debian ships it, and so have the servers; Edge once more without."""

    name: str
    what: str
    count: int
    size: int
    few: int = 20
    peers: tuple[str, ...] = (EDGE, EDGE_NODELAY, STORESCP, ORTHANC)
    targets: tuple[Target, ...] = (Target(SECONDS, (EDGE_NODELAY,), 1 / 1.3, 1 / 1.1), Target(SECONDS, (STORESCP,)))

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(self.count, self.few), self.size)
        place = HERE if peer == EDGE_NODELAY else AS_SHIPPED
        kind = EDGE if peer == EDGE_NODELAY else peer
        with stage.directory() as directory, receiver(kind, directory, place=place) as server:
            return receive(server, objects, 1, place)


EACH, P99, P999, LONGEST = "ms an object", "ms, answers p99", "ms, answers p99.9", "ms, longest answer"
APPLIED = "s, applied behind the last answer"


@dataclass(frozen=True)
class Lean:
    """One slice from memory, under new UIDs: `count` objects, or as many as go in `seconds`."""

    name: str
    what: str
    size: int
    streams: int
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    count: int = 0
    seconds: float = 0.0

    def measure(self, peer: str, stage: Stage) -> Figures:
        slice_ = stage.objects(1, self.size).files()[0]
        count, seconds = stage.few(self.count, self.count // 20), stage.few(int(self.seconds), 2)
        with stage.directory() as directory, receiver(peer, directory) as server:
            at_rest(server, stage)
            before = cpu_seconds(server.pid)
            sent = send_lean(server.port, server.ae_title, slice_, self.streams, count, seconds)
            ended = time.monotonic()
            stored = server.stored()
            applied, used = time.monotonic() - ended, cpu_seconds(server.pid) - before
        assert stored == len(sent.answers), f"{server.name} holds {stored} of {len(sent.answers)} objects"
        each = sent.seconds / stored
        return {
            EACH: 1000 * each,
            P99: 1000 * sent.percentile(0.99),
            P999: 1000 * sent.percentile(0.999),
            LONGEST: 1000 * sent.percentile(1.0),
            APPLIED: applied,
            CPU: used / (stored * self.size / GB),
        }


def _one(at_least: float, aim: float, orthanc: float, best: float | None = None) -> tuple[Target, ...]:
    return Target(SECONDS, (ORTHANC,), orthanc, best), Target(SECONDS, (STORESCP,), at_least, aim)


def _many(at_least: float, aim: float, orthanc: float, best: float) -> tuple[Target, ...]:
    return Target(SECONDS, (ORTHANC,), orthanc, best), Target(SECONDS, (FORKING,), at_least, aim)


ALONE, FORKED = (EDGE, STORESCP, ORTHANC), (EDGE, FORKING, ORTHANC)
CT, SMALL = 512 * KIB, 10 * KIB
CPU_TARGETS = (Target(CPU, (ORTHANC,), 1.0), Target(CPU, (STORESCP,), None, 1.0))
# fmt: off
ROWS = (
    Inward("in-1", "in, CT 512 KiB, 1 association", 600, CT, 1, ALONE, (*_one(0.55, 1.0, 3.0), *CPU_TARGETS)),
    Inward("in-4", "in, CT 512 KiB, 4 associations", 600, CT, 4, FORKED, _many(0.9, 1.3, 1.5, 2.0)),
    Inward("in-8", "in, CT 512 KiB, 8 associations", 600, CT, 8, FORKED, _many(0.9, 1.3, 1.5, 2.0)),
    Inward("small-1", "in, 10 KB, 1 association", 20_000, SMALL, 1, ALONE, _one(0.5, 0.9, 1.5, 2.5), 1000),
    Inward("small-8", "in, 10 KB, 8 associations", 20_000, SMALL, 8, FORKED, _many(0.5, 0.9, 1.5, 2.5), 1000),
    Lean("lean-1", "in, CT 512 KiB, lean sender, 1 association", CT, 1, (EDGE, STORESCP), (
        Target(EACH, (STORESCP,), 0.75), Target(APPLIED, at_least=2.0)), 600),
    Lean("lean-8", "in, CT 512 KiB, lean sender, 8 associations", CT, 8, (EDGE, FORKING), (
        Target(EACH, (FORKING,), 0.75, 1.0), Target(CPU, at_least=3.7, aim=3.0), Target(APPLIED, at_least=2.0)), 600),
    Lean("answers", "answers, 10 KB, lean sender, 1 association", SMALL, 1, (EDGE, STORESCP), (
        Target(EACH, at_least=0.6), Target(P99, at_least=2.0), Target(P999, at_least=5.0)), 10_000),
    Lean("sustained-8", "60 s without pause, CT 512 KiB, 8 associations", CT, 8, (EDGE,), (
        Target(EACH), Target(LONGEST, at_least=500.0), Target(APPLIED, at_least=2.0)), seconds=60),
    Lean("sustained-10k", "60 s without pause, 10 KB, 1 association", SMALL, 1, (EDGE,), (
        Target(EACH), Target(LONGEST, at_least=500.0), Target(APPLIED, at_least=2.0)), seconds=60),
    AsShipped("nagle-ct", "in, CT 512 KiB, sender as shipped", 600, CT),
    AsShipped("nagle-10k", "in, 10 KB, sender as shipped", 3000, SMALL),
    AsShipped("nagle-50k", "in, 50 KB, sender as shipped", 300, 50 * KIB),
)
# fmt: on
