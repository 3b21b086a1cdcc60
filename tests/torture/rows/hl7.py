"""SIGKILL behind the answer to an HL7 message, and at any moment while messages come."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.support.hl7 import MllpClient, update
from tests.support.nursery import Nursery
from tests.support.peers import free_port
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score, not_once

FEED = '[hl7]\nhost = "127.0.0.1"\nport = {port}\n[feed.his]\nhosts = ["127.0.0.1"]\nauthority = "MTF0067"\n'
_SURVIVES = "each message that was answered AA is applied once, and no older one behind a newer one"
#: Patients that the messages are about.
PATIENTS = 3


@dataclass(frozen=True)
class Hl7Kill:
    name: str = "hl7-kill"
    what: str = "SIGKILL right behind the answer to an HL7 message, before it is applied"
    survives: str = _SURVIVES
    long: int = 1_000
    quick: int = 20

    def play(self, place: Path, budget: Budget) -> Score:
        score, port, answered = Score(), free_port(), list[str]()
        config = archive_at(free_port(), more=FEED.format(port=port))
        with Nursery() as nursery, Gateway(place / "edge", config, nursery) as edge:
            edge.start()
            for number in budget.rounds(score):
                catalog = sqlite3.connect(edge.data_dir / "catalog.db", 60, isolation_level=None)
                catalog.execute("BEGIN IMMEDIATE")  # until the kill the record alone has the message
                for turn in range(3):  # a connection each, as many senders do
                    with MllpClient(port, seconds=60.0) as client:
                        name = f"R{number}.{turn}"
                        answered += [name] * (_send(client, name, number % PATIENTS) == "AA")
                edge.kill()
                catalog.close()
                edge.start()
                edge.settled()
                score.tell(find_faults(edge.data_dir, answered), f"round {number}")
        score.figures = {"messages answered": len(answered)}
        return score


@dataclass(frozen=True)
class Hl7KillAnywhere:
    name: str = "hl7-kill-anywhere"
    what: str = "SIGKILL of the gateway, or of the process that receives HL7, at any moment while messages come"
    survives: str = _SURVIVES
    long: int = 1_000
    quick: int = 20

    def play(self, place: Path, budget: Budget) -> Score:
        score, port, answered = Score(), free_port(), list[str]()
        config = archive_at(free_port(), more=FEED.format(port=port))
        with Nursery() as nursery, Gateway(place / "edge", config, nursery) as edge:
            edge.start()
            for number in budget.rounds(score):
                chance, stop = budget.chance(number), threading.Event()
                sender = threading.Thread(target=_stream, args=(port, number, answered, stop))
                sender.start()
                time.sleep(chance.uniform(0.0, 0.3))
                if chance.random() < 0.5:
                    kill_receiver()
                    time.sleep(chance.uniform(0.0, 0.3))
                edge.kill()
                stop.set()
                sender.join()
                edge.start()
                edge.settled()
                score.tell(find_faults(edge.data_dir, answered), f"round {number}")
        score.figures = {"messages answered": len(answered)}
        return score


def _send(client: MllpClient, name: str, patient: int) -> str:
    return client.ask(update(name, f"P{patient}", f"NAME^{name}"))[0].code


def _stream(port: int, number: int, answered: list[str], stop: threading.Event) -> None:
    """A connection each; what was not answered is sent again, the same bytes, before the next."""
    turn = 0
    while not stop.is_set():
        name = f"R{number}.{turn}"
        try:
            with MllpClient(port, seconds=2.0) as client:
                if _send(client, name, number % PATIENTS) == "AA":
                    answered.append(name)
                    turn += 1
        except (OSError, EOFError):
            stop.wait(0.01)


def kill_receiver() -> None:
    """The processes that receive HL7 of gateways of ours."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() == "edge-hl7" and path.stat().st_uid == os.getuid():
                session = os.getsid(int(path.name))
                if session in _sessions():
                    os.kill(int(path.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def _sessions() -> set[int]:
    """Sessions of processes that descend from this one."""
    found, waiting = set[int](), [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            found.add(os.getsid(pid))
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def find_faults(data_dir: Path, answered: Sequence[str]) -> list[str]:
    """What is lost, is there twice, or came behind a newer one."""
    with closing(sqlite3.connect(data_dir / "catalog.db")) as conn:
        rows = conn.execute("SELECT control_id, state FROM hl7_message ORDER BY id").fetchall()
        events = conn.execute("SELECT patient_key, after FROM patient_event ORDER BY id").fetchall()
    wrong = not_once(answered, (row[0] for row in rows))
    wrong += [f"{each} is {state}" for each, state in rows if state not in ("applied", "unchanged")]
    latest: dict[int, tuple[int, ...]] = {}
    for patient, after in events:
        name = tuple(map(int, after.split("NAME^R")[1].split('"')[0].split(".")))
        if name <= latest.get(patient, (-1,)):
            wrong.append(f"the name of R{name[0]}.{name[1]} came behind a newer one")
        latest[patient] = name
    return wrong


ROWS = (Hl7Kill(), Hl7KillAnywhere())
