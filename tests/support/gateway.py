"""The receiving half of the gateway inside the test's process: real sockets, real files, real SQLite."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.config import load_config
from edge.config.sections import Config
from edge.daemon.retrievals import SpoolReaders
from edge.intake import Intake
from edge.intake.apply import IntakeApplier
from edge.intake.policy import Policy
from edge.journal.segment import RingSize
from edge.journal.service import JournalService
from edge.model import Origin
from edge.network.tls import Keyring
from edge.query import process
from edge.query.answering import Answering
from edge.query.asking import NotedQuery, listen_for_doors
from edge.query.server import AnswerServer
from edge.query.unapplied import JournalView
from edge.scp.association import Receiver, equipment_of
from edge.scp.callers import Callers
from edge.scp.capacity import Associations
from edge.scp.dicom_protocol import DicomProtocol
from edge.scp.gateway_link import LocalLink, MadeCopy
from edge.scp.listener import ConnectionListener
from edge.scp.ports import Ports, hand_on
from edge.scp.recorder import Recorder
from edge.scp.rejections import Refusals
from edge.scp.services.mpps_register import StepRegister
from edge.scp.services.storage_commitment_register import RequestRegister
from edge.scp.services.worklist_reader import WorklistReader
from edge.scp.services.worklist_source import WorklistCache
from edge.spool import Spool
from edge.storage import recovery
from edge.store import rejection_notes
from edge.store.database import Store
from edge.store.read_only import CatalogReader
from tests.support.ledger_rows import with_words
from tests.support.peers import wait_until
from tests.support.slots import count_used

#: A small journal, which its tests fill.
RING, SLOTS = RingSize(16, 2 << 20), 8
#: By which the age of what is served is judged; tests set it.
CLOCK: Callable[[], float] = time.time

CONFIG = """
[site]
id = "0067"
name = "Test Clinic"
data_dir = "data"
[listen]
ae_title = "EDGE"
[modality.any]
ae_title = "*"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[route.everything]
to = ["archive"]
"""


def configuration(tmp_path: Path, text: str = CONFIG) -> Config:
    folder = tmp_path / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "site.toml").write_text(text)
    return load_config(folder)


class NoCopies:
    """See edge.scp.gateway_link.Copies; none can be made."""

    def start(self, _path: str, _target_syntax: str, _destination: str) -> int:
        return 0

    def find(self, _token: int) -> MadeCopy:
        return MadeCopy()

    def drop(self, _token: int) -> None: ...


class Receiving:
    """Door, receiver, intake, spool and catalog, joined as the daemon joins them; nothing is forwarded."""

    def __init__(self, tmp_path: Path, text: str = CONFIG, check_room: Callable[[], None] = lambda: None) -> None:
        self.config = configuration(tmp_path, text)
        self.data_dir = tmp_path / "data"
        self._check_room = check_room
        self.queued: list[str] = []
        self.reports: list[Any] = []
        self.noted: list[NotedQuery] = []
        self.damaged: list[str] = []  # paths that retrievals found damaged
        self.refusals, self.callers = Refusals(), Callers()
        refused, hindered = self.refusals.note_refused, lambda cause: None
        self.associations = Associations(
            lambda title, address: equipment_of(self.config, title, address),
            self._end_idle,
        )
        self.link = LocalLink(
            self.associations,
            self.callers.note,
            refused,
            hindered,
            self._keeps_unreadable,
            self._report,
            self._fail,
            RequestRegister(),
            StepRegister(),
            self._read_worklist,
            NoCopies(),
            SpoolReaders(),
            self.noted.append,
            is_forbidden=self._is_forbidden,
            note_damaged=self.damaged.append,
        )
        self._open()
        self._answers = self._open_answers()
        registers = self.link.commitments, self.link.steps, WorklistCache(self.link.read_worklist)
        self.receiver = Receiver(self.config, self.recorder, check_room, self.link, *registers, self.data_dir)
        self.keyring = keyring = Keyring(self.config.tls) if self.config.tls.is_on else None
        self._feed, feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        context = (lambda: keyring.listening) if keyring else None
        self.door = ConnectionListener(feed, self.receiver.serve, DicomProtocol(), self.link, context)
        self.ports = Ports("127.0.0.1", 0, 0 if keyring else None, refused, hindered)
        self.port, self.tls_port = self.ports.port, self.ports.tls_port

    def _open_answers(self) -> AnswerServer | None:
        """What answers queries, in a thread of this process."""
        if not self.config.serves_queries:
            return None
        self.reader = CatalogReader(self.data_dir / "catalog.db")
        view = JournalView(self.journal.ring.folder, self.journal.ring.control)
        self.answering = Answering(self.reader, lambda: self.config, lambda: self.intake.policy.header, view)
        server = AnswerServer(
            listen_for_doors(self.data_dir), lambda asked, data: process.answer(self.answering, asked, data)
        )
        server.start()
        return server

    def _open(self) -> None:
        self.spool = Spool(self.data_dir, self._check_room)
        self._db = Store(self.data_dir / "catalog.db")
        self.intake = Intake(self._db, self.spool, Policy.from_config(self.config), self.queued.extend)
        self.applier = IntakeApplier(self._db, self.spool, self.intake)
        self.journal = JournalService(self.data_dir, RING, self.applier, self._db.fail)
        self._db.on_failure = self.journal.refuse
        self.journal_door = self.journal.open_door(SLOTS)
        search = self.intake.policy.header
        self.recorder = Recorder(
            self.journal_door, search, self.spool.check_room, self.link.keeps_unreadable, self.link.fail
        )

    @property
    def db(self) -> Store:
        """The catalog, once it has what was answered."""
        if self._db.failure is None:
            self.journal.settle(20)
        return self._db

    def _end_idle(self, caller: str, modality: str) -> bool:
        return self.receiver.end_idle(caller, modality)

    def _is_forbidden(self, uid: str) -> bool:
        with self.db.reading() as conn:
            return rejection_notes.is_forbidden(conn, uid)

    def _keeps_unreadable(self, origin: Origin, size: int) -> bool:
        return self.intake.keeps_unreadable(origin, size)

    def _read_worklist(self, modality: str, stamp: str, offset: int) -> dict[str, Any]:
        return WorklistReader(self._db, lambda: self.config, CLOCK).read_page(modality, stamp, offset)

    def _fail(self, reason: str) -> None:
        self._db.fail(reason)

    def _hand_on(self, sock: socket.socket, address: str, is_secure: bool) -> None:
        self.link.note_handed_on()
        hand_on(self._feed, sock, address, is_secure)

    def crash(self) -> None:
        """End as kill -9 does: nothing is applied, closed or said. Only what the disk has is left."""
        self.journal._ending.set()
        os.eventfd_write(self.journal._wake, 1)
        self.journal._prepare.set()
        self.journal._applying.join(60)
        self.journal._preparing.join(60)
        self.spool.close()
        self._db.close()

    def restart(self) -> None:
        """What a new process does with the same directory."""
        self._open()
        self.receiver.recorder = self.recorder
        recovery.at_start(self._db, self.spool)
        self.replayed = self.journal.start()
        if self._db.failure is None:
            self.settle()
            future = time.time() + 60
            recovery.reconcile(self._db, self.spool, self.intake, future, threading.Event().wait, time.time, rest=0)

    def _report(self, *report: Any) -> bool:
        self.reports.append(report)
        return True

    def refused(self, many: int = 1) -> list[str]:
        """Why callers were refused since the last time this was asked, as soon as there are so many.

        A caller may know of its end before the door has noted why.
        """
        told: list[str] = []

        def enough() -> bool:
            told.extend(refusal.why for refusal in self.refusals.take())
            return len(told) >= many

        wait_until(enough, 5, f"{many} refusals")
        return told

    def settle(self) -> None:
        """Wait until all that was answered is in the spool and in the catalog."""
        assert self.journal.settle(60), self._db.failure or "the journal is not applied"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.db.reading() as conn:
            return [tuple(row) for row in with_words(conn).execute(sql)]

    def files(self) -> list[Path]:
        if self._db.failure is None:
            self.settle()
        return sorted((self.data_dir / "spool").rglob("*.dcm"))

    def partials(self) -> list[Path]:
        return list((self.data_dir / "incoming").iterdir())

    @property
    def is_receiving(self) -> bool:
        """Is an object being received, or applied?"""
        return count_used(self.journal_door.slots) > 0

    def __enter__(self) -> Receiving:
        self.journal.start()
        self.door.open()
        self.ports.open(self._hand_on)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.ports.close()
        if self._answers is not None:
            self._answers.stop()
            self.reader.close()
        self._feed.close()
        self.door.join()
        self.receiver.drain(0.2)
        self.journal_door.close()
        self.journal.stop()
        self._db.close()
        self.spool.close()
