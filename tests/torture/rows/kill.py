"""SIGKILL at a random moment, under load, in and out."""

from __future__ import annotations

import random
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.nursery import Nursery
from tests.torture.custody import Archive, Custody, Load, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score, percentile

SENDERS = 3
#: Every so many rounds the archive is let catch up, so that the backlog does not grow with the rounds.
CATCH_UP = 50
#: And every so many it begins with an empty directory: the disk has an end.
FRESH = 1000
#: A tenth of the kills comes while it starts.
IN_START = 0.1


@dataclass(frozen=True)
class Kill:
    """`forked`: the daemon is forked from a process that has imported it, which makes a round cheap."""

    name: str = "kill"
    what: str = "SIGKILL at a random moment, under load in and out; one in ten while it starts"
    survives: str = "all that was answered is kept or delivered, whole; ready again"
    long: int = 10_000
    quick: int = 60
    forked: bool = False

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, starts = Score(), Custody(), []
        with ExitStack() as stack:
            nursery = stack.enter_context(Nursery()) if self.forked else None
            archive = stack.enter_context(Archive(custody))
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(archive.port), nursery))
            made = Made(place / "made")
            gateway.start()
            for number in budget.rounds(score):
                chance = budget.chance(number)
                if number % CATCH_UP == 0:
                    gateway.drained()
                if number % FRESH == 0:
                    gateway.stop()
                    shutil.rmtree(gateway.data_dir)
                    gateway.start()
                senders = [Sender(gateway.port, made, custody, random.Random(chance.random())) for _ in range(SENDERS)]
                with Load(senders):
                    time.sleep(chance.uniform(0.0, 0.25))
                    gateway.kill()
                if chance.random() < IN_START:
                    gateway.spawn()
                    time.sleep(chance.uniform(0.0, 0.1 if self.forked else 0.8))
                    gateway.kill()
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
            "s to ready, p50": percentile(starts, 0.5),
            "s to ready, p99": percentile(starts, 0.99),
            "s to ready, most": max(starts),
        }
        # In a hurry, on a machine that others use, the time is a figure and no verdict.
        if not budget.quick and percentile(starts, 0.99) > 2.0:
            score.tell([f"ready again after {percentile(starts, 0.99):.2f} s (p99), 2 s are allowed"], "starts")
        return score


ROWS = (
    Kill(),
    Kill("kill-many", "the same, the daemon forked from a warm process: many more rounds", quick=100, forked=True),
)
