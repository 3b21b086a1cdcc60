"""The power goes: all that was not synced is lost. The gateway on ext4 and xfs; storescp and Orthanc beside it."""

from __future__ import annotations

import hashlib
import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import QuietOrthanc, Storescp
from tests.support.nursery import Nursery
from tests.support.objects import dataset
from tests.support.peers import free_port
from tests.torture.custody import Archive, Custody, Load, Made, Sender
from tests.torture.disk import Disk
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score, percentile

SENDERS = 3
CATCH_UP = 50
#: From so many rounds on the image is made anew: spool and log do not outgrow it.
FRESH = 400


@dataclass(frozen=True)
class PowerCut:
    """The daemon is stopped, its file system dies without its log, is mounted again, and the daemon starts anew."""

    kind: str
    long: int = 5_000
    quick: int = 80
    survives: str = "all that was answered is kept or delivered, whole"

    @property
    def name(self) -> str:
        return f"power-{self.kind}"

    @property
    def what(self) -> str:
        return f"power cut on {self.kind}, at a random moment, under load in and out"

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, starts = Score(), Custody(), []
        made = Made(place / "made")
        with ExitStack() as stack:
            nursery = stack.enter_context(Nursery())
            archive = stack.enter_context(Archive(custody))
            disk = stack.enter_context(Disk(place / "disk", self.kind))
            gateway = stack.enter_context(
                Gateway(place / "edge", archive_at(archive.port), nursery, disk.path / "data")
            )
            gateway.start()
            for number in budget.rounds(score):
                chance = budget.chance(number)
                if number % CATCH_UP == 0:
                    gateway.drained()
                if number % FRESH == 0:
                    gateway.stop()
                    disk.renew()
                    gateway.start()
                senders = [Sender(gateway.port, made, custody, random.Random(chance.random())) for _ in range(SENDERS)]
                with Load(senders):
                    time.sleep(chance.uniform(0.0, 0.2))
                    gateway.pause()
                    disk.lose_power()
                    gateway.kill()
                disk.again()
                starts.append(gateway.start())
                score.tell(custody.check(gateway.data_dir, archive), f"round {number}, seed {budget.seed}")
            if budget.is_enough(score):
                return score
            gateway.drained(120)
            left = [f"{uid} never arrived" for uid in custody.accepted if uid not in archive]
            score.tell(left + custody.check(gateway.data_dir, archive), "at the end")
        score.figures = {
            "objects answered": custody.taken,
            "arrived twice, the same bytes": archive.again,
            "s to ready (forked), p99": percentile(starts, 0.99),
        }
        return score


@dataclass(frozen=True)
class PeerCut:
    """The same cut on a peer, for comparison: what it answered with success and does not have afterwards."""

    peer: str
    long: int = 60
    quick: int = 6
    survives: str = "(for comparison; says nothing of Edge)"
    comparison: bool = True

    @property
    def name(self) -> str:
        return f"power-{self.peer.lower()}"

    @property
    def what(self) -> str:
        return f"the same power cut on {self.peer}, ext4 and xfs in turns"

    def play(self, place: Path, budget: Budget) -> Score:
        score, lost, answered = Score(), 0, 0
        made = Made(place / "made")
        for number in budget.rounds(score):
            chance = budget.chance(number)
            kind = ("ext4", "xfs")[number % 2]
            custody = Custody()
            with Disk(place / f"disk-{number}", kind) as disk:
                server = self._server(disk.path)
                with server:
                    os.sync()  # what it made at its start is not in question
                    senders = [
                        Sender(server.port, made, custody, random.Random(chance.random()), called=server.ae_title)
                        for _ in range(SENDERS)
                    ]
                    with Load(senders):
                        time.sleep(chance.uniform(0.2, 0.6))
                        server.pause()
                        disk.lose_power()
                        server.kill()
                disk.again()
                missing = self._missing(server, custody)
            lost += len(missing)
            answered += len(custody.accepted)
            score.tell([f"{len(missing)} of {len(custody.accepted)} answered objects are gone"] if missing else [])
        score.figures = {"objects answered": answered, "of these lost": lost}
        return score

    def _server(self, directory: Path) -> Storescp | QuietOrthanc:
        if self.peer == "Orthanc":
            return QuietOrthanc(directory, free_port())
        return Storescp(directory)

    def _missing(self, server: Storescp | QuietOrthanc, custody: Custody) -> set[str]:
        """The answered UIDs that it does not have, whole, after a start."""
        if isinstance(server, QuietOrthanc):
            with server:
                held = {}
                for uid, identifier in server.instances().items():
                    if uid in custody.accepted:
                        try:
                            held[uid] = hashlib.sha256(dataset(server.file(identifier))).digest()
                        except AssertionError:
                            held[uid] = b""  # the index names it; the file is not there
        else:
            held = {}
            for path in server.files():
                try:
                    data = dataset(path)
                except (AssertionError, IndexError):
                    continue
                held[_uid_of(data)] = hashlib.sha256(data).digest()
        return {uid for uid, digest in custody.accepted.items() if held.get(uid) != digest}


def _uid_of(data: bytes) -> str:
    """(0008,0018) of an explicit little endian data set."""
    at = data.find(b"\x08\x00\x18\x00UI")
    return data[at + 8 : at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")].rstrip(b"\0 ").decode("latin-1")


ROWS = (PowerCut("ext4"), PowerCut("xfs"), PeerCut("storescp"), PeerCut("Orthanc"))
