"""Bits rot on the disk: found by `edge verify` and at sending, never forwarded as good; a lost catalog is made anew."""

from __future__ import annotations

import json
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.nursery import Nursery
from tests.torture.custody import Archive, Custody, Load, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score


def flip(path: Path, chance: random.Random) -> None:
    """Turn one bit of a file over, anywhere."""
    with path.open("r+b") as file:
        at = chance.randrange(path.stat().st_size)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


@dataclass(frozen=True)
class Files:
    name: str = "rot-files"
    what: str = "a bit is flipped in every second spooled file while the archive is away"
    survives: str = "found by `edge verify`, each; no wrong bit is forwarded, all that is whole is; alarmed"
    long: int = 1_000
    quick: int = 40

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, chance = Score(), Custody(), budget.chance()
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            archive.closed = True
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(archive.port)))
            gateway.start()
            Sender(gateway.port, Made(place / "made"), custody, chance).send(2 * budget.most)
            gateway.stop()
            files = sorted((gateway.data_dir / "spool").rglob("*.dcm"))
            rotten = {str(path.relative_to(gateway.data_dir / "spool")) for path in files[::2]}
            for path in files[::2]:
                flip(path, chance)
            found = {each["path"] for each in self._verify(gateway)}
            archive.closed = False
            gateway.start()
            gateway.drained(180)
            held = gateway.status()["instances"]["lost"]
            rotted = sum(uid not in archive for uid in custody.accepted)
            score.tell(archive.faults, "what arrived")  # a bit of the file's own head harms no image
            # The scrub, where it has had the time, marks those as well whose head alone is rotten: they have arrived.
            is_told = rotted <= held <= len(rotten)
            score.tell([] if is_told else [f"{rotted} did not arrive, {held} are marked lost"], "what did not")
            score.tell([] if gateway.status()["alerts"] else ["no alarm"], "alarms")
            score.tell([f"{len(found)} found of {len(rotten)}"] if len(found) != len(rotten) else [], "edge verify")
            for name in sorted(rotten):
                score.tell([] if name in found else ["not found by edge verify"], name)
        return score

    @staticmethod
    def _verify(gateway: Gateway) -> list[dict[str, str]]:
        done = gateway.cli("verify", "--json", timeout=300)
        assert done.returncode in (0, 1), done.stderr
        damaged: list[dict[str, str]] = json.loads(done.stdout)["damaged"]
        return damaged


@dataclass(frozen=True)
class LostCatalog:
    """Between the kill and the loss the gateway may have answered what only the log and the spool have."""

    name: str = "lost-catalog"
    what: str = "SIGKILL under load, the catalog and its log are removed or overwritten, `edge recover`, start"
    survives: str = "all that was answered is kept or delivered, whole"
    long: int = 100
    quick: int = 4

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody = Score(), Custody()
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            nursery = stack.enter_context(Nursery())
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(archive.port), nursery))
            made = Made(place / "made")
            gateway.start()
            for number in budget.rounds():
                chance = budget.chance(number)
                with Load([Sender(gateway.port, made, custody, random.Random(chance.random())) for _ in range(3)]):
                    time.sleep(chance.uniform(0.2, 1.0))
                    gateway.kill()
                self._lose(gateway.data_dir, chance)
                done = gateway.cli("recover", timeout=300)
                gateway.start()
                gateway.drained(300)
                wrong = (
                    []
                    if done.returncode in (0, 1)
                    else [f"edge recover ended with {done.returncode}: {done.stderr[-300:]}"]
                )
                wrong += custody.check(gateway.data_dir, archive)
                wrong += [f"{uid} never arrived" for uid in custody.accepted if uid not in archive]
                score.tell(wrong, f"round {number}, seed {budget.seed}")
        score.figures = {"objects answered": custody.taken, "arrived again, the same bytes": archive.again}
        return score

    @staticmethod
    def _lose(data_dir: Path, chance: random.Random) -> None:
        catalog = data_dir / "catalog.db"
        if chance.random() < 0.5:
            for path in data_dir.glob("catalog.db*"):
                path.unlink()
        else:
            with catalog.open("r+b") as file:
                file.write(chance.randbytes(4096 * 4))
            for path in data_dir.glob("catalog.db-*"):
                path.unlink()


ROWS = (Files(), LostCatalog())
