"""HL7 in tests: the door with journal and catalog inside the test's process, a client, receivers, and messages."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config.sections import Feed, Relay
from edge.hl7.connection import DoorLimits
from edge.hl7.door import MllpDoor
from edge.hl7.framing import FrameReader, frame
from edge.hl7.message import parse_message, split_batch
from edge.hl7.recorder import FrameRecorder
from edge.intake import Intake
from edge.intake.apply import IntakeApplier
from edge.intake.policy import Policy
from edge.journal.service import JournalService
from edge.network.tls import Keyring
from edge.scp.ports import Ports, hand_on
from edge.spool import Spool
from edge.store.database import Store
from tests.support import hl7_messages
from tests.support.gateway import CONFIG, RING, configuration

LIMITS = DoorLimits()
FEED = Feed("his", ("127.0.0.1",), "", "MTF0067")


def cases() -> list[hl7_messages.Case]:
    """The messages in their order: sent by one feed with the authority MTF0067, they come to what each case says."""
    return hl7_messages.build_cases()


def adt(event: str, control_id: str, *segments: str) -> bytes:
    head = f"MSH|^~\\&|HIS|MTF|EDGE|MTF|20260105080000||ADT^{event}|{control_id}|P|2.5.1"
    return "".join(each + "\r" for each in (head, *segments)).encode()


def update(control_id: str, number: str, name: str, born: str = "19700101") -> bytes:
    return adt("A08", control_id, f"PID|1||{number}^^^MTF0067^MR||{name}||{born}|F")


def merge(control_id: str, old: str, new: str) -> bytes:
    pid = f"PID|1||{new}^^^MTF0067^MR||TESTPATIENT^MERGED||19700101|F"
    return adt("A40", control_id, pid, f"MRG|{old}^^^MTF0067^MR")


def order(control_id: str, control: str, number: str, patient: str, study: str = "", name: str = "TEST^ORDER") -> bytes:
    head = f"MSH|^~\\&|RIS|MTF|EDGE|MTF|20260105080000||ORM^O01|{control_id}|P|2.3.1"
    obr = f"OBR|1|P{number}|F{number}|TCHEST^TEST PROCEDURE^TESTCODES||{'|' * 12}A{number}|RP{number}|SP{number}||||CT"
    segments = [head, f"PID|1||{patient}^^^MTF0067^MR||{name}||19700101|F", f"ORC|{control}|P{number}|F{number}", obr]
    if study:
        segments.append(f"ZDS|{study}^RIS^Application^DICOM")
    return "".join(each + "\r" for each in segments).encode()


@dataclass(frozen=True)
class Answer:
    """One acknowledgement."""

    code: str
    control_id: str
    error: str
    data: bytes


def read_answers(data: bytes) -> list[Answer]:
    found = []
    for one in split_batch(data).messages:
        message = parse_message(one)
        msa, err = message.first("MSA"), message.first("ERR")
        assert msa is not None, data
        error = "" if err is None else err.text(3) or err.leaf(err.repetitions(1)[0], 4)
        found.append(Answer(msa.text(1), msa.text(2), error, one))
    return found


class MllpClient:
    """A sender."""

    def __init__(self, port: int, host: str = "127.0.0.1", seconds: float = 60.0) -> None:
        self.sock = socket.create_connection((host, port), seconds)
        self._reader = FrameReader(64 << 20)
        self._frames: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.sock.sendall(frame(message))

    def receive(self) -> bytes:
        """The next frame. Raises EOFError where the other side closes."""
        while not self._frames:
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def ask(self, message: bytes) -> list[Answer]:
        self.send(message)
        return read_answers(self.receive())

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> MllpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hl7Receiving:
    """Door, journal, apply and catalog, joined as the daemon joins them; a file of its own for the catalog."""

    def __init__(self, tmp_path: Path, text: str = CONFIG, limits: DoorLimits = LIMITS) -> None:
        self.config = configuration(tmp_path, text)
        self.data_dir, self._limits = tmp_path / "data", limits
        self.feeds: dict[str, Feed] = dict(self.config.feeds) or {"his": FEED}
        self.relays: dict[str, Relay] = dict(self.config.relays)
        self.refusals: list[str] = []
        self.callers: list[tuple[str, str, str]] = []  # address, feed that is let in, what a caller lacks
        self._open()
        self._feed, feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keyring = Keyring(self.config.tls) if self.config.tls.is_on else None
        recorder = FrameRecorder(self._door, lambda: None, self._db.fail)
        context = (lambda: keyring.listening) if keyring else None
        noting = self._refused, lambda *call: self.callers.append(call), lambda: None
        self.door = MllpDoor(feed, recorder, lambda: self.feeds, *noting, context, limits)
        self.ports = Ports("127.0.0.1", 0, 0 if keyring else None, self._refused, lambda cause: None)
        self.port, self.tls_port = self.ports.port, self.ports.tls_port

    def _open(self) -> None:
        self.spool = Spool(self.data_dir, lambda: None)
        self._db = Store(self.data_dir / "catalog.db")
        self.intake = Intake(self._db, self.spool, Policy.from_config(self.config))
        applier = IntakeApplier(self._db, self.spool, self.intake, lambda: self.relays)
        self.journal = JournalService(self.data_dir, RING, applier, self._db.fail)
        self._door = self.journal.open_door(64)

    def _refused(self, address: str, title: str, why: str) -> None:
        self.refusals.append(why)

    @property
    def db(self) -> Store:
        """The catalog, once it has what was answered."""
        assert self.journal.settle(60), self._db.failure or "the journal is not applied"
        return self._db

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql, values)]

    def client(self) -> MllpClient:
        return MllpClient(self.port)

    def __enter__(self) -> Hl7Receiving:
        self.journal.start()
        self.door.open()
        self.ports.open(lambda sock, address, is_secure: hand_on(self._feed, sock, address, is_secure))
        return self

    def __exit__(self, *_: object) -> None:
        self.ports.close()
        self._feed.close()
        self.door.join()
        self._door.close()
        self.journal.stop()
        self._db.close()
        self.spool.close()


class ScriptedReceiver:
    """A receiver of relayed messages whose answers a test decides. `answer` returns what to send; None: close."""

    def __init__(self, answer: Any, port: int = 0) -> None:
        self._answer, self.received = answer, list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._served: list[tuple[socket.socket, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._served.append((sock, threading.Thread(target=self._serve, args=(sock,), daemon=True)))
            self._served[-1][1].start()

    def _serve(self, sock: socket.socket) -> None:
        reader = FrameReader(64 << 20)
        try:
            while data := sock.recv(1 << 20):
                for message in reader.feed(data):
                    self.received.append(message)
                    answer = self._answer(message)
                    if answer is None:
                        sock.close()
                        return
                    sock.sendall(answer)
        except OSError:
            return

    def __enter__(self) -> ScriptedReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock, thread in self._served:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join()
            sock.close()


def acknowledge(message: bytes, code: str = "AA", control_id: str | None = None) -> bytes:
    """An acknowledgement, framed."""
    found = parse_message(message).control_id if control_id is None else control_id
    return frame(f"MSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.3.1\rMSA|{code}|{found}\r".encode())
