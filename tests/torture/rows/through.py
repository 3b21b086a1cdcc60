"""Retrievals under torture: kills while an archive gives a study back, and viewers that stall."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pydicom

from edge.dicom import items
from edge.dicom.command import CommandField, Element
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_GET
from edge.errors import EdgeError
from tests.support.nursery import Nursery
from tests.support.objects import ct_files, dataset, new_uid, sop_instance_uid
from tests.support.peers import free_port, storescu, wait_until
from tests.support.querying import DcmqrScp
from tests.support.viewer import ARCHIVE, COMPLETE, ECHO, GET, THROUGH, associate, call, study_keys
from tests.torture.custody import UNHURRIED, Custody, Made, Sender
from tests.torture.gateway import Gateway
from tests.torture.row import HURRIED_SECONDS, Budget, Score, percentile
from tests.torture.rows.services import wrong_of_fetched


@dataclass(frozen=True)
class RetrieveKill:
    name: str = "retrieve-kill"
    what: str = "SIGKILL while a viewer gets a study that only an archive has, by C-GET or C-MOVE"
    survives: str = "the viewer asks again and gets each image as it was, each is here once and owed to nobody"
    long: int = 100
    quick: int = 4
    images: int = 30

    def play(self, place: Path, budget: Budget) -> Score:
        score, cut = Score(), 0
        ports = {"get": free_port(), "move": free_port()}
        text = THROUGH.format(names='"get", "move"')
        text += "".join(ARCHIVE.format(name=name, title="VNA", port=port) for name, port in ports.items())
        with Nursery() as nursery, Gateway(place / "edge", text, nursery) as gateway:
            us = f"edge = (EDGE, 127.0.0.1, {gateway.port})"
            with (
                DcmqrScp(place / "get", us, ports["get"]),
                DcmqrScp(place / "move", us, ports["move"], ["--disable-get"]),
            ):
                gateway.start()
                for number in budget.rounds(score):
                    port = list(ports.values())[number % 2]
                    files = ct_files(place / f"study{number}", self.images, 100_000, StudyInstanceUID=new_uid())
                    storescu(files, port, called="VNA")
                    wrong, was_cut = _get_and_kill(gateway, files, budget.chance(number))
                    score.tell(wrong, f"round {number}")
                    cut += was_cut
        score.figures = {"retrievals that were cut": cut}
        return score


def _get_and_kill(gateway: Gateway, files: list[Path], chance: random.Random) -> tuple[list[str], bool]:
    """What is wrong, and whether the kill has met the retrieval."""
    keys = study_keys(str(pydicom.dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID))
    killer = threading.Timer(chance.uniform(0.05, 0.6), os.killpg, (gateway.pid, signal.SIGKILL))
    killer.start()
    complaints, was_cut = list[str](), False
    try:
        first = call(gateway.port, GET, keys, COMPLETE)
        complaints += [] if len(first.objects) == len(files) or first.status else ["success without all images"]
    except EdgeError:
        was_cut = True
    killer.join()
    wait_until(gateway.has_ended, 60, "it has fallen")
    gateway.kill()
    gateway.start()
    again, end = call(gateway.port, GET, keys, COMPLETE), time.monotonic() + HURRIED_SECONDS
    while again.status and time.monotonic() < end:  # an archive that has not answered in time is left out, and said
        again = call(gateway.port, GET, keys, COMPLETE)
    kept = {sop_instance_uid(path): dataset(path) for path in files}
    if again.status or again.objects != kept:
        complaints.append(f"status {again.status:04X} with {len(again.objects)} of {len(kept)}, or other bytes")
    gateway.settled()
    return [*complaints, *wrong_of_fetched(gateway)], was_cut


@dataclass(frozen=True)
class StalledViewers:
    name: str = "stalled-viewers"
    what: str = "viewers that ask for a study each and read nothing of it, while a scanner stores"
    survives: str = "the scanner is served, an echo is answered at once, who reads gets all, and nothing stays open"
    long: int = 400
    quick: int = 40
    images: int = 20

    def play(self, place: Path, budget: Budget) -> Score:
        score, study = Score(), new_uid()
        text = '[destination.none]\nae_title = "NONE"\nhost = "127.0.0.1"\nport = 9\n' + THROUGH.format(names="")
        with Gateway(place / "edge", text.replace("through = []\n", "")) as gateway:
            gateway.start()
            storescu(ct_files(place / "study", self.images, 500_000, StudyInstanceUID=study), gateway.port)
            gateway.settled()
            before = _threads(gateway)
            stalled = [self._stall(gateway.port, study) for _ in range(budget.most)]
            echoes, refused = self._use(gateway, place, budget)
            got = call(gateway.port, GET, study_keys(study))
            for each in stalled:
                each.abort()
            score.figures = {"s to an echo, most": max(echoes)}
            wrong = [] if got.status == 0 and len(got.objects) == self.images else [f"who reads gets {got.status:04X}"]
            wrong += [f"{refused} objects were refused"] if refused else []
            slow = percentile(echoes, 0.99)
            wrong += [f"an echo took {slow:.1f} s"] if slow > budget.within(2.0) else []
            wait_until(lambda: _threads(gateway) <= before + 4, 120, "those that stalled have been let go of", 0.2)
            score.tell(wrong)
        return score

    @staticmethod
    def _stall(port: int, study: str) -> Association:
        association = associate(port)
        association.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.C_GET_RQ,
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
            Element.PRIORITY: 0,
            Element.MESSAGE_ID: 1,
            Element.DATA_SET_TYPE: 1,
        }
        association.wire.send_message(
            GET, request, items.encode_items(items.item(study_keys(study)), EXPLICIT_VR_LITTLE_ENDIAN)
        )
        return association

    @staticmethod
    def _use(gateway: Gateway, place: Path, budget: Budget) -> tuple[list[float], int]:
        """Echoes and objects for a while: the seconds of each echo, and how many objects were refused."""
        echoes, custody, made = list[float](), Custody(), Made(place / "made", (20_000,))
        chance, sent = budget.chance(), 0
        for _ in range(budget.few(100, 8)):
            Sender(gateway.port, made, custody, chance, UNHURRIED).send(5)
            sent += 5
            association, began = associate(gateway.port), time.monotonic()
            association.echo(ECHO)
            echoes.append(time.monotonic() - began)
            association.release()
        return echoes, sent - custody.taken


def _threads(gateway: Gateway) -> int:
    """Of the receiving processes: an association has one."""
    return sum(each.num_threads() for each in gateway.named("edge-receiver"))


ROWS = (RetrieveKill(), StalledViewers())
