"""SIGKILL around what equipment and RIS exchange: performed steps on their way, earlier studies that are fetched."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt

from edge.dicom.performed_step import MODALITY_PERFORMED_PROCEDURE_STEP
from edge.errors import EdgeError
from tests.support.nursery import Nursery
from tests.support.objects import ct_files
from tests.support.peers import Orthanc, free_port, storescu, wait_until
from tests.support.performing import CREATED, ended, send_step
from tests.support.worklists import ITEMS, WorklistScp
from tests.torture.gateway import Gateway
from tests.torture.row import Budget, Score

STEPS = """
[modality.ct1]
ae_title = "CT1"
services = ["echo", "store", "mpps"]
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {port}
[mpps]
to = ["ris"]
"""


class StrictRis:
    """Keeps PS3.4 annex F, and notes what comes out of order."""

    def __init__(self, port: int) -> None:
        self.steps: dict[str, list[str]] = defaultdict(list)
        self.disorder: list[str] = []
        self._lock = threading.Lock()
        ae = AE("RIS")
        ae.add_supported_context(MODALITY_PERFORMED_PROCEDURE_STEP)
        handlers: list[Any] = [(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)]
        self._server: Any = ae.start_server(("127.0.0.1", port), False, evt_handlers=handlers)

    def _create(self, event: Any) -> tuple[int, Any]:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            if self.steps[uid]:
                return 0x0111, None
            self.steps[uid].append("create")
            return 0, event.attribute_list

    def _set(self, event: Any) -> tuple[int, Any]:
        uid, state = (
            str(event.request.RequestedSOPInstanceUID),
            str(event.modification_list.get((0x0040, 0x0252)).value),
        )
        with self._lock:
            if not self.steps[uid]:
                self.disorder.append(f"{uid}: an N-SET before its N-CREATE")
                return 0x0112, None
            if self.steps[uid][-1] == "COMPLETED":
                return 0x0110, None
            self.steps[uid].append(state)
            return 0, event.modification_list

    def close(self) -> None:
        self._server.shutdown()


@dataclass(frozen=True)
class PerformedStepKill:
    name: str = "step-kill"
    what: str = "SIGKILL right behind the answer to an N-CREATE or N-SET, and while the RIS is sent to"
    survives: str = "each step that was answered is at the RIS in order, once, and in its final state"
    long: int = 500
    quick: int = 15

    def play(self, place: Path, budget: Budget) -> Score:
        score, port, answered = Score(), free_port(), dict[str, list[str]]()
        ris = StrictRis(port)
        with Nursery() as nursery, Gateway(place / "edge", STEPS.format(port=port), nursery) as gateway:
            gateway.start()
            for number in budget.rounds(score):
                uid = f"1.2.826.{number}"
                answered[uid] = _perform_and_kill(gateway, uid, budget.chance(number))
                gateway.start()
                gateway.settled()
                lost = [f"{uid} lost {each}" for each in answered[uid] if each not in _recorded(gateway, uid)]
                score.tell(lost, f"round {number}")
            wanted = {uid: each for uid, each in answered.items() if each}
            # What was recorded and not answered any more is sent, too: the RIS may have more than was answered.
            wait_until(lambda: all(len(ris.steps[uid]) >= len(each) for uid, each in wanted.items()), 120, "the RIS")
            wrong = [f"{uid}: {ris.steps[uid]}" for uid, each in wanted.items() if ris.steps[uid][: len(each)] != each]
            score.tell([*ris.disorder, *wrong], "at the RIS")
        ris.close()
        score.figures = {"messages answered": sum(map(len, answered.values()))}
        return score


def _perform_and_kill(gateway: Gateway, uid: str, chance: random.Random) -> list[str]:
    """A step, with the kill behind one of its answers, or in the midst. What was answered with success."""
    done, kill_after = list[str](), chance.choice(("create", "COMPLETED", "time"))
    killer = threading.Timer(chance.uniform(0.0, 0.2), os.killpg, (gateway.pid, signal.SIGKILL))
    if kill_after == "time":
        killer.start()
    try:
        for state, data, is_set in (("create", CREATED, False), ("COMPLETED", ended(["1.5"]), True)):
            if send_step(gateway.port, uid, data, is_set=is_set).status == 0:
                done.append(state)
            if kill_after == state:
                gateway.kill()
                return done
    except (EdgeError, OSError):
        pass  # it fell before its answer
    if kill_after == "time":
        killer.join()
    gateway.kill()
    return done


def _recorded(gateway: Gateway, uid: str) -> list[str]:
    """What the catalog has of a step."""
    with closing(sqlite3.connect(gateway.data_dir / "catalog.db")) as conn:
        row = conn.execute("SELECT state FROM performed_step WHERE sop_instance_uid = ?", (uid,)).fetchone()
    return [] if row is None else ["create", *(["COMPLETED"] if row[0] == "COMPLETED" else [])]


FETCHES = """
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {ris}
[destination.vna]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive}
[worklist]
from = "ris"
refresh = "1s"
[prefetch.all]
from = "vna"
share = 0.5
"""


@dataclass(frozen=True)
class PrefetchKill:
    name: str = "prefetch-kill"
    what: str = "SIGKILL while an earlier study is fetched"
    survives: str = "each of its images is here once, none was fetched twice, and none is owed to anybody"
    long: int = 50
    quick: int = 3

    def play(self, place: Path, budget: Budget) -> Score:
        score, ris_port, edge_port = Score(), free_port(), free_port()
        ris = WorklistScp(place / "ris", ris_port)
        ris.put(ITEMS[:1])
        jane = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20260101"}
        with ris, Orthanc(place / "archive", edge_port) as archive, Nursery() as nursery:
            config = FETCHES.format(ris=ris_port, archive=archive.port)
            for number in budget.rounds(score):
                files = ct_files(place / f"prior-{number}", 40, 20_000, **jane)
                storescu(files, archive.port, called="ORTHANC")
                with Gateway(place / f"edge-{number}", config, nursery) as gateway:
                    gateway.start()
                    time.sleep(budget.chance(number).uniform(0.5, 3.0))
                    gateway.kill()
                    gateway.start()
                    wait_until(lambda gateway=gateway: _fetched(gateway) == 40, 300, "all of it")  # type: ignore[misc]
                    score.tell(wrong_of_fetched(gateway), f"round {number}")
                for identifier in archive.instances().values():
                    archive.delete(identifier)
        return score


def _fetched(gateway: Gateway) -> int:
    with closing(sqlite3.connect(gateway.data_dir / "catalog.db")) as conn:
        return int(conn.execute("SELECT count(DISTINCT sop_instance_uid) FROM instance").fetchone()[0])


def wrong_of_fetched(gateway: Gateway, besides: Collection[str] = ()) -> list[str]:
    """What was fetched is here once and owed to nobody. `besides`: UIDs of what equipment has sent."""
    with closing(sqlite3.connect(gateway.data_dir / "catalog.db")) as conn:
        twice = conn.execute(
            "SELECT sop_instance_uid FROM instance GROUP BY sop_instance_uid HAVING count(*) > 1"
        ).fetchall()
        rows = conn.execute("SELECT i.sop_instance_uid FROM delivery d JOIN instance i ON i.id = d.instance_id")
        owed = sum(uid not in besides for (uid,) in rows)
    return [*(f"{row[0]} is here twice" for row in twice), *([f"{owed} deliveries are owed"] if owed else [])]


ROWS = (PerformedStepKill(), PrefetchKill())
