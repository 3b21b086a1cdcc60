"""A disk that is full, read-only or slow, and a clock that jumps: the gateway runs on and says what is wrong."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.peers import requires, wait_until
from tests.support.set_clock import SetClock
from tests.torture.custody import Archive, Custody, Load, Made, Sender, echo_seconds
from tests.torture.disk import Disk
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score

FULL = "[storage]\nwarn = 0.98\nrefuse = 0.99\n"
KEPT = "all that was answered is kept or delivered, whole"
DAY = 86_400


class Scene:
    """A gateway, its archive and its senders."""

    def __init__(self, place: Path, chance: random.Random, stack: ExitStack, disk: Disk | None = None, more: str = ""):
        self.custody, self.chance, self.made = Custody(), chance, Made(place / "made")
        self.archive = stack.enter_context(Archive(self.custody))
        data = disk.path / "data" if disk else None
        self.gateway = stack.enter_context(
            Gateway(place / "edge", archive_at(self.archive.port, more=more), None, data)
        )

    def senders(self, count: int = 3) -> list[Sender]:
        chances = [random.Random(self.chance.random()) for _ in range(count)]
        return [Sender(self.gateway.port, self.made, self.custody, chance) for chance in chances]

    def send(self, count: int) -> int:
        """How many of so many were answered with success."""
        before = self.custody.taken
        self.senders(1)[0].send(count)
        return self.custody.taken - before

    def settled(self) -> list[str]:
        """Wait until all is delivered; what is wrong then."""
        self.gateway.drained(180)
        wrong = self.custody.check(self.gateway.data_dir, self.archive)
        return wrong + [f"{uid} never arrived" for uid in self.custody.accepted if uid not in self.archive]


@dataclass(frozen=True)
class Full:
    name: str = "disk-full"
    what: str = "a small disk is filled to the last byte under load, and freed again"
    survives: str = "refused with A700 while full, taken again within 5 s of room; " + KEPT
    long: int = 20
    quick: int = 4

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            disk = stack.enter_context(Disk(place / "disk", mib=96))
            scene = Scene(place, budget.chance(), stack, disk, FULL)
            scene.gateway.start()
            slowest = 0.0
            for number in budget.rounds():
                scene.custody.forget_refusals()
                filler = disk.path / "filler"
                with Load(scene.senders()):
                    fill(filler)
                    wait_until(partial(_is_refused, scene, filler), 60, "something is refused", 0.5)
                refused = list(scene.custody.refused.values())
                wrong = [f"refused with {status:04X}" for status in refused if status not in (0xA700, 0xA702)][:1]
                filler.unlink()
                began = time.monotonic()
                wait_until(lambda: scene.send(1), 120, "an object is taken again")
                slowest = max(slowest, time.monotonic() - began)
                wrong += [] if slowest < budget.within(5) else [f"taken again only after {slowest:.1f} s"]
                score.tell(wrong + scene.settled(), f"fill {number}")
            score.figures = {"objects answered": scene.custody.taken, "s until taken again, most": slowest}
        return score


def _is_refused(scene: Scene, filler: Path) -> bool:
    """Was anything refused, on a disk that is full again?"""
    fill(filler)
    scene.send(1)
    return bool(scene.custody.refused)


def fill(path: Path) -> None:
    """To the last byte."""
    with path.open("ab", 0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@dataclass(frozen=True)
class ReadOnly:
    name: str = "read-only"
    what: str = "the kernel remounts the file system read-only under load; then repair and restart"
    survives: str = "it lives, refuses and says so; " + KEPT
    long: int = 20
    quick: int = 3

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            disk = stack.enter_context(Disk(place / "disk", options="errors=remount-ro"))
            scene = Scene(place, budget.chance(), stack, disk)
            for number in budget.rounds():
                scene.gateway.start()
                scene.custody.forget_refusals()
                with Load(scene.senders()):
                    time.sleep(0.3)
                    disk.fail()
                    time.sleep(0.7)
                wrong = [] if scene.send(1) == 0 else ["an object was taken on a read-only disk"]
                try:
                    wait_until(partial(_refuses_aloud, scene.gateway), 60, "it says that it refuses")
                except AssertionError as error:
                    wrong.append(str(error))
                scene.gateway.kill()
                scene.custody.forget_refusals()  # from such a disk nothing can be removed, what was refused neither
                disk.again()
                scene.gateway.start()
                score.tell(wrong + scene.settled(), f"round {number}")
                scene.gateway.kill()
            score.figures = {"objects answered": scene.custody.taken}
        return score


def _refuses_aloud(gateway: Gateway) -> bool:
    status = gateway.status()
    return status["state"] == "refusing" and bool(status["alerts"])


@dataclass(frozen=True)
class Slow:
    name: str = "slow-disk"
    what: str = "every sync takes 50 ms longer, every write 1 ms: a disk about 100 times slower"
    survives: str = "everything is answered and delivered, an echo within a second throughout; " + KEPT
    long: int = 600
    quick: int = 60

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            scene = Scene(place, budget.chance(), stack)
            scene.gateway.start()
            slowest = 0.0
            with slowed(scene.gateway, place / "strace"), Load(scene.senders(2)):
                end = time.monotonic() + budget.few(3600, 600)
                while scene.custody.taken < budget.most and time.monotonic() < end:
                    time.sleep(0.2)
                    slowest = max(slowest, echo_seconds(scene.gateway.port))
            wrong = scene.settled()
            wrong += [] if scene.custody.taken >= budget.most else [f"only {scene.custody.taken} were answered"]
            wrong += [f"an echo took {slowest:.2f} s"] if slowest > budget.within(1) else []
            wrong += [f"{len(scene.custody.refused)} were refused"] if scene.custody.refused else []
            score.tried = score.survived = scene.custody.taken
            if wrong:
                score.tell(wrong)
            score.figures = {"s of an echo, most": slowest}
        return score


@contextmanager
def slowed(gateway: Gateway, log: Path) -> Iterator[None]:
    syncs, writes = "fsync,fdatasync,syncfs", "write,writev,pwrite64,rename,unlink"
    slow = [f"inject={syncs}:delay_enter=50000", "-e", f"inject={writes}:delay_enter=1000"]
    pids = [each.pid for each in gateway.processes()]
    attached = [word for pid in pids for word in ("-p", str(pid))]
    command = [requires("strace"), "-f", "-o", str(log), "-e", f"trace={syncs},{writes}", "-e", *slow, *attached]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    mark = f"TracerPid:\t{tracer.pid}\n"
    try:
        wait_until(
            lambda: all(mark in Path(f"/proc/{pid}/status").read_text() for pid in pids), 60, "strace is attached"
        )
        yield
    finally:
        tracer.terminate()
        tracer.wait(60)


@dataclass(frozen=True)
class Jumps:
    """The archive is away while the clock jumps: what waits for a time must not wait for the wrong one."""

    name: str = "clock"
    what: str = "the clock jumps a day forward or back, under load, while the archive is there or away"
    survives: str = "runs on, and delivers within two minutes; nothing goes before its time; " + KEPT
    long: int = 24
    quick: int = 4

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            scene = Scene(place, budget.chance(), stack)
            clock = SetClock(place / "clock")
            scene.gateway.environment = clock.environment
            scene.gateway.start()
            offset, slowest = 0, 0.0
            for number in budget.rounds():
                scene.archive.closed = number % 4 in (1, 2)
                offset += DAY if number % 2 else -DAY
                with Load(scene.senders()):
                    time.sleep(1.0)
                    clock.set_ahead(offset)
                    time.sleep(1.5)
                scene.archive.closed = False
                began = time.monotonic()
                try:
                    scene.gateway.drained(budget.few(120, 600))
                    wrong = scene.settled()
                except AssertionError as error:
                    wrong = [str(error)]
                slowest = max(slowest, time.monotonic() - began)
                evicted = scene.gateway.status()["instances"]["evicted"]
                wrong += [f"{evicted} evicted before their time"] if evicted else []
                score.tell(wrong, f"jump {number} to {offset:+d} s")
            score.figures = {"objects answered": scene.custody.taken, "s until all is delivered, most": slowest}
        return score


ROWS = (Full(), ReadOnly(), Slow(), Jumps())
