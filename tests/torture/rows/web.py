"""SIGKILL at a random moment, while the web door takes objects in and gives them away."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from edge.dicom.part10 import parse_meta, plain_head
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.model import ContextKey
from tests.support.peers import free_port
from tests.torture.custody import CT, Archive, Custody, Load, Made, Sender
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score, percentile

TOKEN = "a-token-of-the-torture-0123456789"
SENDERS, PARTS = 3, 8
KIND = ContextKey(CT, EXPLICIT_VR_LITTLE_ENDIAN)


def web_config(folder: Path, port: int) -> str:
    """Configuration: the web door, and one client that may do all."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "web-token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    services = '["query", "retrieve", "store"]'
    return f'[query]\n[dicomweb]\nport = {port}\n[client.torture]\ntoken = "{token}"\nservices = {services}\n'


@dataclass
class WebSender(Sender):
    """STOW-RS requests of a few parts, one after another: what an answer names as stored is in our custody."""

    batch: list[tuple[str, bytes]] = field(default_factory=list)

    def send(self, most: int = 1 << 30, until: threading.Event | None = None) -> int:
        count = 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with suppress(OSError, http.client.HTTPException):
            while count < most and not (until and until.is_set()):
                count += self._request(connection)
        connection.close()
        return count

    def _request(self, connection: http.client.HTTPConnection) -> int:
        if not self.batch:  # else it got no answer: the same again, as a sender does
            self.batch = [self.made.one(self.chance) for _ in range(self.chance.randint(1, PARTS))]
        digests = {uid: hashlib.sha256(data).digest() for uid, data in self.batch}
        for uid, digest in digests.items():
            self.custody.offers(uid, digest)
        boundary = f"{self.chance.getrandbits(128):032x}"
        heads = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(heads + plain_head(KIND, uid) + data for uid, data in self.batch)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Authorization": f"Bearer {TOKEN}",
        }
        connection.request("POST", "/dicom-web/studies", body + f"\r\n--{boundary}--\r\n".encode(), headers)
        answer = json.loads(connection.getresponse().read())
        stored = [each["00081155"]["Value"][0] for each in answer.get("00081199", {}).get("Value", [])]
        for uid in stored:
            self.custody.answered(uid, digests[uid], 0)
        self.batch = [(uid, data) for uid, data in self.batch if uid not in stored]
        return len(stored)


@dataclass(frozen=True)
class StowKill:
    """As `kill`, by STOW-RS."""

    name: str = "stow-kill"
    what: str = "SIGKILL at a random moment while STOW-RS requests of several parts come in"
    survives: str = "all that an answer named as stored is kept or delivered, whole; ready again"
    long: int = 1_000
    quick: int = 30

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, starts, port = Score(), Custody(), list[float](), free_port()
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            config = archive_at(archive.port) + web_config(place, port)
            gateway = stack.enter_context(Gateway(place / "edge", config))
            made = Made(place / "made")
            gateway.start()
            for number in budget.rounds(score):
                chance = budget.chance(number)
                senders: list[Sender] = [
                    WebSender(port, made, custody, random.Random(chance.random())) for _ in range(SENDERS)
                ]
                with Load(senders):
                    time.sleep(chance.uniform(0.0, 0.4))
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
            "s to ready, p99": percentile(starts, 0.99),
        }
        return score


@dataclass
class Reader:
    """Retrieves one study again and again by WADO-RS, until the gateway is gone."""

    port: int
    study: str
    expected: dict[str, bytes]  # SOP Instance UID -> SHA-256 of the data set
    wrong: list[str] = field(default_factory=list)
    whole: int = 0

    def send(self, most: int = 1 << 30, until: threading.Event | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with suppress(OSError, http.client.HTTPException):
            while self.whole < most and not (until and until.is_set()):
                self._read(connection)
        connection.close()
        return self.whole

    def _read(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", f"/dicom-web/studies/{self.study}", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        body = answer.read()  # raises where it is cut
        if answer.status != 200:
            self.wrong.append(f"answered {answer.status}")
            return
        boundary = (answer.getheader("Content-Type") or "").partition("boundary=")[2].encode()
        came = {}
        for part in body.split(b"\r\n--" + boundary)[1:-1]:
            file = part.partition(b"\r\n\r\n")[2]
            meta = parse_meta(file[:65536])
            came[meta.sop_instance_uid] = hashlib.sha256(file[meta.dataset_offset :]).digest()
        if came != self.expected:
            self.wrong.append(f"{len(came)} of {len(self.expected)} instances, or other bytes, in a whole answer")
        self.whole += 1


@dataclass(frozen=True)
class FetchKill:
    """Readers by WADO-RS, and the gateway is killed under them."""

    name: str = "fetch-kill"
    what: str = "SIGKILL at a random moment while a study is retrieved by WADO-RS, and STOW-RS comes in"
    survives: str = "an answer that is whole is right, another one is cut; nothing is lost; ready again"
    long: int = 500
    quick: int = 15

    def play(self, place: Path, budget: Budget) -> Score:
        score, custody, port, whole = Score(), Custody(), free_port(), 0
        with ExitStack() as stack:
            archive = stack.enter_context(Archive(custody))
            config = archive_at(archive.port) + web_config(place, port)
            gateway = stack.enter_context(Gateway(place / "edge", config))
            made = Made(place / "made", (40_000,))
            gateway.start()
            WebSender(port, made, custody, budget.chance(0)).send(40)
            gateway.drained(60)
            study, expected = study_of(made), dict(custody.accepted)
            for number in budget.rounds(score):
                chance = budget.chance(number)
                readers = [Reader(port, study, expected) for _ in range(SENDERS)]
                other = Made(place / f"made{number}")
                sender = WebSender(port, other, custody, random.Random(chance.random()))
                with Load([*readers, sender]):  # type: ignore[list-item]
                    time.sleep(chance.uniform(0.05, 0.5))
                    gateway.kill()
                gateway.start()
                wrong = [each for reader in readers for each in reader.wrong]
                whole += sum(reader.whole for reader in readers)
                score.tell(wrong + custody.check(gateway.data_dir, archive), f"round {number}, seed {budget.seed}")
        score.figures = {"objects answered": custody.taken, "studies retrieved whole": whole}
        return score


def study_of(made: Made) -> str:
    _, data = made.one(random.Random(1))
    file = plain_head(KIND, "1.2.3") + data
    with_io = pydicom.filebase.DicomBytesIO(file)
    return str(pydicom.dcmread(with_io, stop_before_pixels=True).StudyInstanceUID)


ROWS = (StowKill(), FetchKill())
