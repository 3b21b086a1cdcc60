"""The line to the archive, and the archive itself, at their worst: everything arrives, once."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edge.dicom.command import Command, Element
from edge.outbound.suspects import PROVED
from tests.bench.peers import Place
from tests.bench.wan import Line, Wan
from tests.support.peers import wait_until
from tests.support.scripted import (
    Link,
    Store,
    abort_after,
    abort_midway,
    answer_after,
    answer_another,
    answer_as_echo,
    answer_twice,
    answer_with,
    ask_to_release,
    close_after_answer,
    reset_midway,
    succeed,
)
from tests.support.set_clock import SetClock
from tests.torture.custody import Archive, Custody, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.proxy import Proxy
from tests.torture.row import Budget, Score

ONCE = "everything arrives, once"


def send(gateway: Gateway, made: Made, custody: Custody, chance: random.Random, count: int) -> None:
    Sender(gateway.port, made, custody, chance).send(count)


def arrived(gateway: Gateway, custody: Custody, archive: Archive, seconds: float) -> list[str]:
    """Wait until everything has arrived; what is wrong then."""
    try:
        wait_until(lambda: all(uid in archive for uid in custody.accepted), seconds, "everything has arrived", 0.2)
        gateway.drained(300)
    except AssertionError as error:
        return [str(error)]
    return custody.check(gateway.data_dir, archive)


@dataclass(frozen=True)
class BadLine:
    """The fault begins while objects are on their way, lasts, and ends; meanwhile more come in."""

    mode: str
    what: str
    lasts: float = 6.0
    lasts_long: float = 60.0
    patience: float = 600.0
    survives: str = ONCE
    long: int = 10
    quick: int = 1

    @property
    def name(self) -> str:
        return f"wan-{self.mode}"

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, made = Score(), Custody(), Made(place / "made", (2_000, 40_000, 400_000))
        slowest = 0.0
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            proxy = stack.enter_context(Proxy(archive.port, budget.chance()))
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(proxy.port)))
            gateway.start()
            for number in budget.rounds():
                chance = budget.chance(number)
                send(gateway, made, custody, chance, 40)
                proxy.mode = self.mode
                over = time.monotonic() + budget.few(int(self.lasts_long), int(self.lasts))
                while time.monotonic() < over:
                    send(gateway, made, custody, chance, 10)
                    time.sleep(0.5)
                proxy.mode, began = "pass", time.monotonic()
                score.tell(arrived(gateway, custody, archive, self.patience), f"round {number}, seed {budget.seed}")
                slowest = max(slowest, time.monotonic() - began)
        score.figures = {
            "objects": custody.taken,
            "arrived again": archive.again,
            "s until all is there, most": slowest,
        }
        return score


@dataclass(frozen=True)
class Loss:
    name: str = "wan-loss"
    what: str = "a WAN of 80 ms and 10 Mbit/s that loses 5 % of the packets"
    survives: str = ONCE
    long: int = 10
    quick: int = 1

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, made = Score(), Custody(), Made(place / "made", (2_000, 40_000))
        with Wan(Line(0.080, 10, 0.05)) as wan:
            archive = wan.far.run(lambda: Archive(custody, address=wan.far.address))
            with archive, Gateway(place / "edge", archive_at(archive.port, host=wan.far.address)) as gateway:
                gateway.prefix = Place(wan.near).prefix
                gateway.start()
                for number in budget.rounds():
                    chance = budget.chance(number)
                    wan.near.run(lambda c=chance: send(gateway, made, custody, c, budget.few(200, 60)))  # type: ignore[misc]
                    wrong = wan.near.run(lambda: arrived(gateway, custody, archive, 600))
                    score.tell(wrong, f"round {number}, seed {budget.seed}")
        score.figures = {"objects": custody.taken, "arrived again": archive.again}
        return score


@dataclass(frozen=True)
class Outage:
    """The gateway's clock goes forward by the hour; in each hour come its images."""

    name: str = "wan-72h"
    what: str = "the archive is away for 72 h of the gateway's clock at a site's full load; then all goes"
    survives: str = ONCE + "; at most 50 MB more"
    long: int = 225_000
    quick: int = 1_440
    hours: int = 72

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, made = Score(), Custody(), Made(place / "made", (2_000,))
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            archive.closed = True
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(archive.port)))
            clock = SetClock(place / "clock")
            gateway.environment = clock.environment
            gateway.start()
            send(gateway, made, custody, budget.chance(), 100)
            before = gateway.memory()
            for hour in range(self.hours):
                clock.set_ahead(3600 * hour)
                send(gateway, made, custody, budget.chance(hour), budget.most // self.hours)
            grown = (gateway.memory() - before) / 1e6
            archive.closed, began = False, time.monotonic()
            wrong = arrived(gateway, custody, archive, budget.few(3600, 900))
            took = time.monotonic() - began
        score.tried = custody.taken
        score.survived = sum(uid in archive for uid in custody.accepted)
        if grown > 50:
            wrong.append(f"{grown:.0f} MB more")
        if wrong:
            score.tell(wrong)
        score.figures = {"MB more": grown, "s until all is there": took, "arrived again": archive.again}
        return score


# -- the peer ---------------------------------------------------------------------------------------------------------


ACTS = (
    abort_midway, abort_after, reset_midway, answer_twice, answer_another, answer_as_echo, ask_to_release,
    close_after_answer, answer_after(0.3),
)  # fmt: skip
#: Waited for by the minute: not for those in a hurry.
SLOW_ACTS = (answer_with(0xA700, "no room"),)


class Moody(Archive):
    """An archive that misbehaves by chance."""

    def __init__(self, custody: Custody, chance: random.Random, acts: tuple[Store, ...]) -> None:
        super().__init__(custody)
        self.chance, self.is_moody, self._acts = chance, True, acts
        self.misdeeds: Counter[str] = Counter()  # by SOP Instance UID

    def _store(self, link: Link, context: int, command: Command) -> None:
        act = self.chance.choice(self._acts) if self.is_moody and self.chance.random() < 0.1 else succeed
        if act is not succeed:
            self.misdeeds[command.text(Element.AFFECTED_SOP_INSTANCE_UID)] += 1
        act(link, context, command)


@dataclass(frozen=True)
class MoodyPeer:
    name: str = "peer-moody"
    what: str = (
        "an archive that aborts, resets, answers late, twice, another message or with a transient failure, by chance"
    )
    survives: str = ONCE + "; what breaks three associations by chance is held until a person sends it"
    long: int = 20
    quick: int = 1

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, made = Score(), Custody(), Made(place / "made", (2_000, 40_000, 200_000))
        released = 0
        with ExitStack() as stack:
            archive = stack.enter_context(Moody(custody, budget.chance(), ACTS if budget.quick else ACTS + SLOW_ACTS))
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(archive.port)))
            gateway.start()
            for number in budget.rounds():
                archive.is_moody = True
                send(gateway, made, custody, budget.chance(number), 200)
                time.sleep(budget.few(20, 8))
                archive.is_moody = False
                gateway.drained(budget.few(900, 600))
                held, wrong = release_held(gateway, archive)
                released += held
                wrong += arrived(gateway, custody, archive, 600)
                score.tell(wrong, f"round {number}, seed {budget.seed}")
        score.figures = {
            "objects": custody.taken,
            "misdeeds": archive.misdeeds.total(),
            "held, and released by hand": released,
            "arrived again": archive.again,
        }
        return score


def release_held(gateway: Gateway, archive: Moody) -> tuple[int, list[str]]:
    """A person sends what is held: (how many, what is wrong).

    An object is held when PROVED associations ended with it. The first may have ended by what the archive did to its
    neighbour (a second answer); in the others it was alone.
    """
    listed = json.loads(gateway.cli("queue", "list", "--state", "held", "--json").stdout)
    misdeeds = {uid: archive.misdeeds[uid] for uid in (each["sop_instance_uid"] for each in listed)}
    wrong = [f"{uid} is held after {count} misdeeds" for uid, count in misdeeds.items() if count < PROVED - 1]
    for each in listed:
        gateway.cli("queue", "release", str(each["id"]), "--reason", "the archive has recovered").check_returncode()
    return len(listed), wrong


ROWS = (
    BadLine("cut", "the line is cut in the midst of objects"),
    BadLine("reset", "connections are reset in the midst of objects"),
    BadLine("hole", "a black hole: everything is accepted, nothing arrives"),
    BadLine("half-open", "the archive's end is closed, our end gets no notice", patience=400.0),
    BadLine("flap", "the line comes and goes every two seconds", lasts=12.0),
    BadLine("trickle", "a byte a second each way", lasts=20.0, lasts_long=3600.0, patience=400.0),
    Loss(),
    Outage(),
    MoodyPeer(),
)
