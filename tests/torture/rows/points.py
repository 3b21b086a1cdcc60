"""A blow at every step that the gateway takes to the outside world, one after the other.

A journey is short and always the same: it starts on what a killed gateway left, receives, forwards, settles and stops
(or: proves; or: evicts). In each try another of its steps is struck: the process dies before it, or the call fails with
an error of the disk. Then it starts again, unharmed, and everything must be where it was promised.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import part10
from edge.dicom.scu import Patience
from edge.model import ContextKey, Origin
from tests.support.nursery import Nursery
from tests.support.peers import ENVIRONMENT, REPOSITORY, wait_until
from tests.torture.custody import APPLY_SECONDS, CT, EXPLICIT, Archive, Custody, Made, Sender, applied
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Lacking, Score
from tests.torture.tracer import Step, read_report

BACKLOG, OBJECTS = 4, 3
EVICTING = '[storage]\nwarn = 0.001\nrefuse = 0.99\n[retention]\nkeep = "0s"\n'
#: A journey that has struck trouble goes no further than so many seconds.
LONGEST = 8.0
SYNCS = ("fsync", "fdatasync", "syncfs")
#: Writes a record of the journal, and flushes it.
FLUSH = "pwritev2"
#: Of a new segment's name, or of a long object's.
NAMES_SYNC = "fsync journal"
#: Of all that a batch has put into the spool, and how that is written: for the first time, and again.
SPOOL_SYNC, SPOOL_WRITES = "syncfs data directory", ("writev spooled file", "writev partial file")
#: What may fail without a word: it is there already, or is made again at the next start.
HARMLESS = {
    *("mkdir data directory", "mkdir incoming", "mkdir spool", "mkdir journal"),
    *("unlink control.sock", "sendto socket", "recvfrom socket"),
    "fallocate catalog.db-shm",  # SQLite lays out itself what it maps
    "fdatasync data directory",  # SQLite's own, which it passes over; we have synced the catalog's name ourselves
}  # fmt: skip
#: A record, with its flush and without.
WRITTEN = ("pwritev2 segment", "pwritev segment")
#: Of the whole gateway, and of one of its processes.
KILLS = ("kill", "kill-own")
#: Where a receiving process writes and answers.
RECEIVER_SITES = (
    *("pwritev2 segment", "pwrite64 segment", "fdatasync segment", "sendto socket", "sendmsg socket"),
    *("write partial file", "pwrite64 partial file", "pwritev partial file", "fdatasync partial file"),
)
#: A blow that never falls.
NEVER = "nothing#1"


# -- a life under the tracer ------------------------------------------------------------------------------------------


class Traced:
    """One life of the gateway, and its steps."""

    def __init__(self, gateway: Gateway, report: Path, kind: str, at: str, act: str) -> None:
        self.gateway, self.report = gateway, report
        gateway.spawn(wait=True)
        self._tracer = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.tracer", str(gateway.pid), str(report), kind, at, act],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
        )
        assert self._tracer.stdout is not None
        if self._tracer.stdout.readline() != b"attached\n":
            gateway.kill()
            raise Lacking(f"no process can be traced here: {self._tracer.communicate()[1].decode()[-300:]}")

    def end(self) -> list[Step]:
        """End the gateway if it lives, and say what it did."""
        if self.gateway.has_ended():
            self.gateway.reap()
        else:
            self.gateway.kill()
        self._tracer.communicate(timeout=60)
        return read_report(self.report)


# -- journeys ---------------------------------------------------------------------------------------------------------


class Journey:
    """Receives, forwards, settles, stops; begins on what a killed gateway left."""

    name = "way"
    confirm = "status"
    #: SQL: how much of the way is still to go.
    left = "SELECT count(*) FROM delivery WHERE state <> 'confirmed'"

    def __init__(self, place: Path, chance: random.Random, stack: ExitStack) -> None:
        self.custody, self.chance = Custody(), chance
        self.archive = stack.enter_context(Archive(self.custody))
        config = archive_at(self.archive.port, self.confirm)
        self.gateway = stack.enter_context(Gateway(place / "edge", config, stack.enter_context(Nursery())))
        self.made, self.long = Made(place / "made", (2_000, 200_000)), Made(place / "long", (1_500_000,))
        self.template, self.report = place / "template", place / "steps"
        self.prepare()
        shutil.copytree(self.gateway.data_dir, self.template, ignore=shutil.ignore_patterns("*.sock"))

    def prepare(self) -> None:
        """A backlog, two leases, a partial file, a whole file that the catalog does not know."""
        self.archive.closed = True
        self.gateway.start()
        self.send(BACKLOG)
        self.gateway.settled()
        self.gateway.kill()
        self.archive.closed = False
        data = self.gateway.data_dir
        with closing(sqlite3.connect(data / "catalog.db")) as conn, conn:
            conn.execute("UPDATE delivery SET state = 'active', lease_until = 9e9 WHERE id <= 2")
            conn.execute("DELETE FROM destination")
        uid, body = self.made.one(self.chance)
        self.custody.offers(uid, hashlib.sha256(body).digest())
        head = part10.preamble_and_meta(ContextKey(CT, EXPLICIT), uid, Origin("CT1", "EDGE", "127.0.0.1", time.time()))
        (next((data / "spool").iterdir()) / "00000000000000aa.dcm").write_bytes(head + body)
        (data / "incoming" / "00.part").write_bytes(head)

    def travel(self) -> None:
        self.send(OBJECTS)
        self.arrive()
        self.terminate()

    # -- what journeys are made of

    def send(self, count: int) -> None:
        patience = Patience(connect=5, associate=10, answer=10)
        first = [self.long.one(self.chance)]  # it does not fit a receive buffer
        Sender(self.gateway.port, self.made, self.custody, self.chance, patience, first).send(count)

    def arrive(self) -> bool:
        """Wait until nothing is left to do; False when the gateway has ended, or gets no further."""
        end = time.monotonic() + LONGEST
        # What was answered a moment ago is not in the catalog yet.
        while self.count(self.left) or any(uid not in self.archive for uid in list(self.custody.open)):
            if self.gateway.has_ended() or time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def count(self, sql: str) -> int:
        with closing(sqlite3.connect(f"file:{self.gateway.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
            return int(conn.execute(sql).fetchone()[0])

    def terminate(self) -> None:
        self.ending = len(read_report(self.report))  # behind it the log is copied into the database, or stays
        if not self.gateway.has_ended():
            with suppress(ProcessLookupError):  # struck since
                os.kill(self.gateway.pid, signal.SIGTERM)
            wait_until(self.gateway.has_ended, 60, "the gateway has stopped", interval=0.005)

    # -- tries

    def strike(self, kind: str, at: str, act: str) -> list[Step]:
        """One try: from the template, with one blow. Returns the steps that were taken."""
        shutil.rmtree(self.gateway.data_dir)
        # As a sparse copy: the segments of the journal are mostly zeros.
        subprocess.run(["cp", "-a", "--sparse=always", str(self.template), str(self.gateway.data_dir)], check=True)
        self.custody.forget_refusals()
        self.gateway.log.write_text("")
        self.ending = sys.maxsize
        traced = Traced(self.gateway, self.report, kind, at, act)
        try:
            if self.gateway.becomes_ready():  # however slow it is: it may say what has struck it at its end alone
                self.travel()
        finally:
            steps = traced.end()
        return steps

    def survived(self) -> list[str]:
        """Start unharmed, and look at everything."""
        self.gateway.start()
        self.gateway.drained(300)  # what could not be read once is tried again minutes later
        wrong = self.custody.check(self.gateway.data_dir, self.archive)
        wrong += [f"{uid} never arrived" for uid in self.custody.accepted if uid not in self.archive]
        try:
            wait_until(self._spool_is_as_catalogued, 30, "the files of the spool are those of the catalog")
        except AssertionError as error:
            wrong.append(str(error))
        lost = self.gateway.status()["instances"]["lost"]
        wrong += [f"{lost} instances are lost"] if lost else []
        self.gateway.kill()
        return wrong

    def _spool_is_as_catalogued(self) -> bool:
        root = self.gateway.data_dir / "spool"
        files = {str(path.relative_to(root)) for path in root.glob("*/*")}
        with closing(sqlite3.connect(f"file:{self.gateway.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
            rows = conn.execute("SELECT path FROM instance WHERE state IN ('stored', 'conflict', 'quarantined')")
            return files == {row[0] for row in rows} and not list((self.gateway.data_dir / "incoming").iterdir())


class Proof(Journey):
    """All has been sent; the archive is asked for its storage commitment, and gives it."""

    name, confirm = "proof", "commitment"

    def prepare(self) -> None:
        self.gateway.start()
        self.send(BACKLOG)
        self.gateway.settled()
        wait_until(lambda: not self.count("SELECT count(*) FROM delivery WHERE state <> 'sent'"), 60, "all is sent")
        self.gateway.kill()

    def travel(self) -> None:
        self.arrive()
        self.terminate()


class Eviction(Journey):
    """All is confirmed, and the disk is fuller than it may be."""

    name = "eviction"
    left = "SELECT count(*) FROM instance WHERE state <> 'evicted'"

    def prepare(self) -> None:
        self.gateway.start()
        self.send(BACKLOG)
        self.gateway.drained()
        self.gateway.kill()

    def strike(self, kind: str, at: str, act: str) -> list[Step]:
        self.gateway.configure(archive_at(self.archive.port, more=EVICTING))
        return super().strike(kind, at, act)

    def survived(self) -> list[str]:
        """Nothing is evicted now: what is gone without having been noted shows."""
        self.gateway.configure(archive_at(self.archive.port))
        return super().survived()

    def travel(self) -> None:
        if self.arrive():
            time.sleep(0.1)  # the files follow the rows
        self.terminate()


# -- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """`act`: what happens at the point. `kind`: which calls are points; `sites`: of these only, where there are any."""

    name: str
    what: str
    act: str
    kind: str = "writes"
    sites: tuple[str, ...] = ()
    survives: str = (
        "all that was answered is kept or delivered, whole; nothing that was refused is; spool and catalog agree"
    )
    long: int = 0
    quick: int = 0

    def play(self, place: Path, budget: Budget) -> Score:
        score, sites = Score(), set[str]()
        for make in (Journey, Proof, Eviction):
            with ExitStack() as stack:
                journey = make(place / make.name, budget.chance(), stack)
                steps = journey.strike(self.kind, NEVER, "none")
                usual = troubles_told(journey)
                score.tell(journey.survived(), f"{make.name}, unharmed")
                for at in self._points(steps, budget):
                    taken = journey.strike(self.kind, at, self.act)
                    struck = next((step for step in taken if step.struck), None)
                    if struck is None:  # this time there was none so late
                        score.tell(journey.survived(), f"{make.name}, unharmed")
                        continue
                    sites.add(f"{make.name}: {struck.site}")
                    if self.act not in KILLS and struck.target.endswith("-wal"):
                        journey.custody.forget_refusals()  # whether a commit that failed has happened nobody can know
                    wrong = [*self._said(journey, struck, taken, usual), *journey.survived()]
                    score.tell(wrong, f"{make.name}, {at}")
                    if budget.is_enough(score):
                        return score
        score.figures = {"different sites": len(sites)}
        return score

    def _points(self, steps: list[Step], budget: Budget) -> Iterator[str]:
        """Every step, by its site. In a hurry one a site, two of a sync or a kill; like ones in a row are one."""
        counts, runs, before = Counter[str](), Counter[str](), ""
        for step in steps:
            if self.sites and step.site not in self.sites:
                continue
            counts[step.site] += 1
            is_new = step.site != before or self.act not in KILLS
            runs[step.site] += is_new
            few = 2 if step.call in SYNCS or self.act in KILLS else 1
            if not budget.quick or (is_new and runs[step.site] <= few):
                yield f"{step.site}#{counts[step.site]}"
            before = step.site

    def _said(self, journey: Journey, struck: Step, taken: list[Step], usual: set[str]) -> list[str]:
        """A disk that fails is spoken of, where it matters; and a sync that failed is not believed later."""
        if self.act in KILLS or struck.site in HARMLESS:
            return []
        is_silent = troubles_told(journey) <= usual and struck.number <= journey.ending
        return [f"{self.act}, and it says nothing of it"] * is_silent + synced_again(taken)


def troubles_told(journey: Journey) -> set[str]:
    """What the gateway has warned of, without figures and tokens: any start on what was killed warns of something."""
    lines = journey.gateway.log.read_text().splitlines()
    return {re.sub(r"token=\S+|\d+", "#", line) for line in lines if not line.startswith("INFO")}


def synced_again(steps: list[Step]) -> list[str]:
    """A sync that failed is not repeated on the same file as if it had helped: first its contents are written again."""
    struck = next((step for step in steps if step.struck), None)
    if struck is None or struck.call not in (*SYNCS, FLUSH):
        return []
    if struck.site == SPOOL_SYNC and not owes_contents(steps, struck):
        return []
    for step in steps:
        if step.number <= struck.number:
            continue
        if is_written_again(struck, step):
            return []
        if step.target == struck.target and step.call in (*SYNCS, FLUSH) and not is_of_another(struck, step):
            return [f"{step.call} on {step.target} after its sync had failed"]
    return []


def is_of_another(struck: Step, step: Step) -> bool:
    """Is a sync of the same file or folder no repetition of the one that was struck?"""
    if struck.site == NAMES_SYNC:
        return step.thread != struck.thread  # it syncs a name of its own
    return struck.site == SPOOL_SYNC and step.call != struck.call  # SQLite's, of the name of its log


def owes_contents(steps: list[Step], struck: Step) -> bool:
    """Has a file of the spool been written since its last sync? A long object is synced by itself, and only renamed."""
    behind = [step.site for step in steps if step.number < struck.number]
    last = max((number for number, site in enumerate(behind) if site == SPOOL_SYNC), default=-1)
    return any(site in SPOOL_WRITES for site in behind[last + 1 :])


def is_written_again(struck: Step, step: Step) -> bool:
    """Has what a failed sync was for been made again? Of the journal only: its segments are laid out from zero, and its
    records become files of the spool once more."""
    if struck.site == SPOOL_SYNC:
        return step.site in SPOOL_WRITES
    if struck.site == NAMES_SYNC:
        return step.thread == struck.thread and step.site in ("rename new segment", "unlink partial file")
    if struck.site == "pwritev2 segment":
        return step.call == "rename" and Path(step.target).stem == Path(struck.target).stem
    return struck.target.endswith(".new") and step.call == "unlink" and step.target == struck.target


@dataclass(frozen=True)
class Order:
    """The kernel's own testimony. A power cut alone does not show each missing sync: a later one may do its work."""

    name: str = "sync-order"
    what: str = "objects are received under the tracer, and the order of the operations on each is checked"
    survives: str = "each answer follows its record; each file is synced, and then the catalog"
    long: int = 1_000
    quick: int = 60

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            journey = Journey(place / "order", budget.chance(), stack)
            journey.archive.closed = True
            traced = Traced(journey.gateway, journey.report, "writes", NEVER, "none")
            assert journey.gateway.becomes_ready(), journey.gateway.words()
            journey.send(budget.most)
            applied(journey.gateway.data_dir, list(journey.custody.accepted), APPLY_SECONDS)
            steps = traced.end()
        answers = answers_of(steps, budget.most)
        score.tell([] if len(answers) >= budget.most else [f"only {len(answers)} answers"], "all are answered")
        files = [number for number, step in enumerate(steps) if step.site == "writev spooled file"]
        for number in (*answers, *files):
            score.tell(out_of_order(steps, number), f"step {steps[number].number}")
        return score


def answers_of(steps: list[Step], count: int) -> list[int]:
    """The C-STORE answers of the association that writes records: what it sends behind its A-ASSOCIATE-AC."""
    first = next((number for number, step in enumerate(steps) if step.site in WRITTEN), len(steps))
    # Another thread may send first: the forwarder, which tries the archive again.
    sent = (step for step in steps[first:] if step.site == "sendto socket" and step.thread == steps[first].thread)
    link = next((step.target for step in sent), "")
    return [number for number, step in enumerate(steps) if link and step.target == link][1 : 1 + count]


def out_of_order(steps: list[Step], number: int) -> list[str]:
    """What is missing: before an answer its record; behind a file of the spool its sync, and then that of its rows."""
    step = steps[number]
    if step.site == "sendto socket":
        before = max((at for at in range(number) if steps[at].target == step.target), default=-1)
        is_recorded = any(each.site == "pwritev2 segment" for each in steps[before + 1 : number])
        return [] if is_recorded else ["answered before its record was written"]
    due = [SPOOL_SYNC, "fdatasync catalog.db-wal"]
    for each in steps[number + 1 :]:
        if due and each.site == due[0]:
            due.pop(0)
    return [f"not done: {site}" for site in due]


ROWS = (
    Order(),
    Points("kill-points", "SIGKILL before every step: write, sync, name, unlink, commit, send; in each path", "kill"),
    Points(
        "receiver-points",
        "SIGKILL of a receiving process alone before its records, its files and its answers",
        "kill-own",
        sites=RECEIVER_SITES,
    ),
    Points("full-points", "the disk is full (ENOSPC) at every write, sync, name", "ENOSPC"),
    Points("error-points", "the disk fails (EIO) at every write, sync, name", "EIO"),
    Points("read-points", "the disk fails (EIO) at every read", "EIO", "reads"),
)
