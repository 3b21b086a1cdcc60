"""Queries under torture: processes are killed while they are answered, and a crowd asks for everything, slowly."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline
from edge.dicom.scu import Association
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND, VERIFICATION
from edge.errors import PeerError
from edge.store.database import Store
from tests.support.many_studies import fill_catalog
from tests.support.peers import free_port
from tests.torture.custody import UNHURRIED, Custody, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import HURRIED_SECONDS, Budget, Score, percentile

QUERY = """
[query]
[modality.any]
ae_title = "*"
services = ["echo", "store", "query", "retrieve"]
associations = 500
"""
MB = 1 << 20
#: A turn of the process that answers, with the callers before it, and a machine that others use.
ECHO_SECONDS = 2.0
ANSWERS_MB = 256
ANSWERS_SECONDS = 300.0


def start_filled(place: Path, studies: int) -> Gateway:
    """A gateway whose catalog has some studies that no file has; not started."""
    gateway = Gateway(place / "edge", archive_at(free_port(), more=QUERY))
    gateway.data_dir.mkdir(parents=True, exist_ok=True)
    db = Store(gateway.data_dir / "catalog.db")
    db.write(lambda conn: fill_catalog(conn, studies))
    db.close()
    return gateway


def associate(port: int) -> Association:
    contexts = [Context(1, STUDY_ROOT_FIND, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    contexts.append(Context(3, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)))
    return Association.open("127.0.0.1", port, "VIEWER", "EDGE", contexts)


def ask_all(association: Association, pause: float = 0.0) -> Iterator[int]:
    """The status of each answer to a query for every study."""
    asked = items.item({0x00080052: "STUDY", 0x0020000D: "", 0x00100010: "", 0x00100020: ""})
    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
        Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
        Element.PRIORITY: 0,
    }
    data = items.encode_items(asked, IMPLICIT_VR_LITTLE_ENDIAN)
    for answer in association.request(1, request, data, deadline=Deadline(600, 300)):
        association.skip(answer)
        if pause:
            time.sleep(pause)
        yield answer.status


def victims(gateway: Gateway) -> list[int]:
    return [each.pid for each in gateway.named("edge-answers", "edge-receiver")]


@dataclass(frozen=True)
class QueryKill:
    name: str = "query-kill"
    what: str = "SIGKILL of a receiving process, or of the one that answers, while a query is answered"
    survives: str = "an answer that ends with success is complete; the next one comes"
    long: int = 300
    quick: int = 12
    studies: int = 400

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with start_filled(place, self.studies) as gateway:
            gateway.start()
            for number in budget.rounds(score):
                wrong = self._round(gateway, budget.chance(number))
                score.tell(wrong, f"round {number}, seed {budget.seed}")
        return score

    def _round(self, gateway: Gateway, chance: random.Random) -> list[str]:
        delay = chance.uniform(0.0, 0.15)
        killer = threading.Timer(delay, lambda: _kill(chance.choice(victims(gateway))))
        killer.start()
        wrong, _ = self._ask(gateway, "while one is killed")
        killer.join()
        end = time.monotonic() + HURRIED_SECONDS
        while time.monotonic() < end and not wrong:
            wrong, is_answered = self._ask(gateway, "afterwards")
            if is_answered:
                return wrong
            time.sleep(0.3)  # a process that was killed is being replaced
        return wrong or ["afterwards: no answer"]

    def _ask(self, gateway: Gateway, when: str) -> tuple[list[str], bool]:
        """What is wrong with the answer, and whether there was one."""
        try:
            association = associate(gateway.port)
            found = list(ask_all(association))
            association.release()
        except PeerError:
            return [], False
        count, status = sum(each in PENDING for each in found), found[-1]
        if status:
            return [], False
        return [] if count == self.studies else [f"{when}: success with {count} of {self.studies}"], True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@dataclass(frozen=True)
class Askers:
    name: str = "askers"
    what: str = "callers who all ask for everything, most of them slow readers, while a scanner stores"
    survives: str = "an echo is answered at once, the scanner is served, memory is bounded, who reads gets all"
    long: int = 1000
    quick: int = 40
    studies: int = 1000

    def play(self, place: Path, budget: Budget) -> Score:
        score, counts, stopping = Score(), list[int](), threading.Event()
        with start_filled(place, self.studies) as gateway:
            gateway.start()
            callers = [
                threading.Thread(target=self._call, args=(gateway, n, counts, stopping)) for n in range(budget.most)
            ]
            for caller in callers:
                caller.start()
            echoes, refused = self._use(gateway, place, budget, counts)
            stopping.set()
            memory = max(each.memory_info().rss for each in gateway.named("edge-answers")) / MB
            for caller in callers:
                caller.join(60)
        score.figures = {"s to an echo, most": max(echoes), "MB to answer": memory, "complete answers": len(counts)}
        slow = percentile(echoes, 0.99)
        wrong = [f"an echo took {slow:.2f} s (p99)"] if slow > budget.within(ECHO_SECONDS) else []
        wrong += [f"{memory:.0f} MB"] if memory > ANSWERS_MB else []
        wrong += [f"{refused} objects were refused"] if refused else []
        wrong += (
            ["an answer that ended with success was not complete"]
            if min(counts, default=self.studies) < self.studies
            else []
        )
        wrong += ["nobody had an answer"] if not counts else []
        score.tell(wrong)
        return score

    def _call(self, gateway: Gateway, number: int, counts: list[int], stopping: threading.Event) -> None:
        """Every tenth caller reads on; the others read an answer in two seconds."""
        while not stopping.is_set():
            try:
                association = associate(gateway.port)
            except PeerError:
                stopping.wait(0.5)  # no place for it now
                continue
            try:
                found = 0
                for status in ask_all(association, 0.0 if number % 10 == 0 else 2.0):
                    found += status in PENDING
                    if stopping.is_set():
                        association.abort()
                        return
                    if status == 0:
                        counts.append(found)
                association.release()
            except PeerError:
                association.abort()

    @staticmethod
    def _use(gateway: Gateway, place: Path, budget: Budget, answers: list[int]) -> tuple[list[float], int]:
        """Echoes and objects for a while: the seconds of each echo, and how many objects were refused.

        It goes on until somebody has all answers: each caller has a share of a machine that may be slow.
        """
        echoes, custody, made = list[float](), Custody(), Made(place / "made", (20_000,))
        chance, end, sent = budget.chance(), time.monotonic() + budget.few(60, 15), 0
        while time.monotonic() < end or (not answers and time.monotonic() < end + ANSWERS_SECONDS):
            Sender(gateway.port, made, custody, chance, UNHURRIED).send(5)
            sent += 5
            try:
                association = associate(gateway.port)
            except PeerError:
                continue
            began = time.monotonic()
            association.echo(3)
            echoes.append(time.monotonic() - began)
            association.release()
        return echoes or [60.0], max(0, sent - custody.taken)


ROWS = (QueryKill(), Askers())
