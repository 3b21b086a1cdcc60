"""Both ends of the gateway, with a memory, and the question that every round ends with: has anything been lost?

The sender remembers every SOP Instance UID and digest with what it was told; the archive every UID and digest that it
has taken, in all rounds. `Custody.check` holds the one against the other and against the gateway's disk.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from edge.dicom import command as dimse
from edge.dicom.acse import Context, Request
from edge.dicom.command import Command, CommandField, Element
from edge.dicom.pdu import Released
from edge.dicom.scu import Association, Patience
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH, VERIFICATION
from edge.errors import EdgeError
from tests.support.objects import ct_files, dataset, new_uid, sop_instance_uid
from tests.support.scripted import Link, Received, ScriptedScp, accept, succeed

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SUCCESS = 0x0000
#: What is answered is in the catalog after these seconds at the most: until then it is in the journal.
APPLY_SECONDS = 60.0
#: Where a sender that gives up counts as refused: others may use the machine.
UNHURRIED = Patience(connect=60, associate=60, answer=60)


class Made:
    """Small CT objects without end, each with a UID of its own; made by replacing the UID in a template."""

    def __init__(self, directory: Path, sizes: tuple[int, ...] = (2_000, 9_000, 40_000)) -> None:
        self._templates = []
        for size in sizes:
            (path,) = ct_files(directory / f"{size}", 1, size)
            self._templates.append((dataset(path), sop_instance_uid(path).encode()))

    def one(self, chance: random.Random) -> tuple[str, bytes]:
        template, marker = chance.choice(self._templates)
        uid = new_uid()
        return uid, template.replace(marker, uid.encode())


class Custody:
    """What was promised, and where it is. Thread-safe; one for all rounds of a row."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.accepted: dict[str, bytes] = {}  # SOP Instance UID -> SHA-256 of the data set
        self.refused: dict[str, int] = {}  # -> status
        self.offered: dict[str, bytes] = {}  # everything that any sender has begun to send
        self.open: set[str] = set()  # accepted, and not known to be at every archive
        self.taken = 0  # accepted, in all

    def offers(self, uid: str, digest: bytes) -> None:
        with self._lock:
            self.offered[uid] = digest

    def answered(self, uid: str, digest: bytes, status: int) -> None:
        with self._lock:
            if status == SUCCESS:
                self.accepted[uid] = digest
                self.open.add(uid)
                self.refused.pop(uid, None)
                self.taken += 1
            elif uid not in self.accepted:
                self.refused[uid] = status

    # -- the invariant ------------------------------------------------------------------------------------------------

    def check(self, data_dir: Path, *archives: Archive, seconds: float = APPLY_SECONDS) -> list[str]:
        """What is wrong; an empty list when nothing is. The gateway runs meanwhile.

        Everything that was answered with success is at every archive, or in the catalog with its whole file; what
        archives got is what was sent, each UID with one digest; nothing that was refused is kept as accepted.
        `seconds`: what is answered may be in the journal, and not yet in the catalog, for this time.
        """
        wrong = [fault for archive in archives for fault in archive.faults]
        with self._lock:
            waiting = list(self.open)
        left = [uid for uid in waiting if not (archives and all(uid in archive for archive in archives))]
        rows = applied(data_dir, left, seconds)
        for uid in left:
            if fault := self._at_home(uid, rows.get(uid, []), data_dir):
                wrong.append(f"{uid} was answered with success and {fault}")
        wrong += self._kept_though_refused(data_dir, archives)
        with self._lock:
            self.open -= set(waiting) - set(left)
        return wrong

    def _at_home(self, uid: str, rows: list[Row], data_dir: Path) -> str:
        """What is wrong with an instance at the gateway, in words; empty when it is whole."""
        if not rows:
            return "is not in the catalog"
        digest = self.accepted[uid]
        row = next((each for each in rows if each.sha256 == digest), None)
        if row is None:
            return "is in the catalog with other bytes"
        if row.state not in ("stored", "conflict"):
            return f"is {row.state} in the catalog, and not at every archive"
        path = data_dir / "spool" / row.path
        if not path.exists():
            return "its file is gone"
        if hashlib.sha256(path.read_bytes()[row.dataset_offset :]).digest() != digest:
            return "its file is not what was sent"
        return ""

    def _kept_though_refused(self, data_dir: Path, archives: tuple[Archive, ...]) -> Iterator[str]:
        refused = list(self.refused)
        rows = catalogued(data_dir, refused)
        for uid in refused:
            if any(row.state != "quarantined" for row in rows.get(uid, [])):
                yield f"{uid} was refused with {self.refused[uid]:04X} and is kept as accepted"
            elif any(uid in archive for archive in archives):
                yield f"{uid} was refused with {self.refused[uid]:04X} and has been forwarded"

    def forget_refusals(self) -> None:
        """The sender has given up on them: it may not matter any more."""
        with self._lock:
            self.refused.clear()


@dataclass(frozen=True)
class Row:
    state: str
    sha256: bytes
    path: str
    dataset_offset: int


def catalogued(data_dir: Path, uids: list[str]) -> dict[str, list[Row]]:
    """The catalog's rows of some SOP Instance UIDs, read by a connection of our own."""
    found: dict[str, list[Row]] = {}
    if not (data_dir / "catalog.db").exists():
        return found
    with closing(sqlite3.connect(f"file:{data_dir / 'catalog.db'}?mode=ro", uri=True, timeout=30)) as conn:
        for uid in uids:
            rows = conn.execute(
                "SELECT state, sha256, path, dataset_offset FROM instance WHERE sop_instance_uid = ?", (uid,)
            )
            found[uid] = [Row(*row) for row in rows]
    return found


def applied(data_dir: Path, uids: list[str], seconds: float) -> dict[str, list[Row]]:
    """The same, once each has a row, or after `seconds`."""
    end = time.monotonic() + seconds
    rows = catalogued(data_dir, uids)
    while not all(rows.values()) and time.monotonic() < end:
        time.sleep(0.02)
        rows = catalogued(data_dir, uids)
    return rows


# -- the archive ------------------------------------------------------------------------------------------------------


class Archive(ScriptedScp):
    """A storage SCP that survives all rounds, keeps digests, and notes what nobody sent and what came twice."""

    def __init__(self, custody: Custody, name: str = "archive", **how: Any) -> None:
        super().__init__(associations=[_unless_closed], **how)
        self.custody, self.name = custody, name
        self.closed = False  # then it hangs up on everybody
        self.digests: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.again = 0  # second arrivals, byte for byte the same

    def keep(self, received: Received) -> None:
        uid, digest = received.sop_instance_uid, hashlib.sha256(received.data_set).digest()
        with self._lock:
            if self.custody.offered.get(uid) != digest:
                self.faults.append(f"{self.name} got {uid} with bytes that nobody sent")
            elif uid in self.digests:
                self.again += 1
            self.digests[uid] = digest

    def __contains__(self, uid: str) -> bool:
        return uid in self.digests

    def _converse(self, link: Link) -> None:
        """Like any other; and it proves what it has, on the association of the request (PS3.4 annex J)."""
        while True:
            try:
                context, command = link.wire.read_command(60.0)
            except Released:
                return self._end(link)
            field = command.number(Element.COMMAND_FIELD)
            if field == CommandField.C_ECHO_RQ:
                link.respond(context, command, 0)
            elif field == CommandField.N_ACTION_RQ:
                self._prove(link, context, command)
            elif field == CommandField.C_STORE_RQ:
                self._store(link, context, command)
                if link.wire.sock.fileno() < 0:
                    return None

    def _store(self, link: Link, context: int, command: Command) -> None:
        succeed(link, context, command)

    def _prove(self, link: Link, context: int, command: Command) -> None:
        pieces: list[bytes] = []
        link.wire.read_data_set(context, lambda views: pieces.extend(map(bytes, views)))
        implicit = link.contexts[context][1] == IMPLICIT_VR_LITTLE_ENDIAN
        request = read_dataset(BytesIO(b"".join(pieces)), implicit, True)
        link.respond(context, command, 0)
        here = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in self]
        report = Dataset()
        report.TransactionUID, report.ReferencedSOPSequence = request.TransactionUID, here
        event: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
            Element.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
            Element.MESSAGE_ID: 1,
            Element.DATA_SET_TYPE: dimse.DATA_SET,
            Element.AFFECTED_SOP_INSTANCE_UID: command.text(Element.REQUESTED_SOP_INSTANCE_UID),
            Element.EVENT_TYPE_ID: 1,
        }
        blob = DicomBytesIO()
        blob.is_implicit_VR, blob.is_little_endian = implicit, True
        write_dataset(blob, report)
        link.wire.send_message(context, event, blob.getvalue())

    def _serve(self, sock: socket.socket) -> None:
        super()._serve(sock)
        with self._lock:  # thousands of rounds: forget what is over
            if sock in self._sockets:
                self._sockets.remove(sock)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            del self.requests[:-8]


def _unless_closed(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
    return None if getattr(scp, "closed", False) else accept()(scp, sock, request)


# -- the sender -------------------------------------------------------------------------------------------------------


@dataclass
class Sender:
    """One association at a time to the gateway; objects without end, until it breaks or is told to stop."""

    port: int
    made: Made
    custody: Custody
    chance: random.Random
    patience: Patience = field(default_factory=lambda: Patience(connect=5, associate=10, answer=30))
    again: list[tuple[str, bytes]] = field(default_factory=list)  # unanswered: to be sent again
    called: str = "EDGE"

    def send(self, most: int = 1 << 30, until: threading.Event | None = None) -> int:
        """Send until the association breaks, `most` are answered, or `until`. Returns how many were answered."""
        try:
            association = Association.open(
                "127.0.0.1", self.port, "CT1", self.called, [Context(1, CT, (EXPLICIT,))], patience=self.patience
            )
        except (EdgeError, OSError):
            return 0
        count = 0
        try:
            while count < most and not (until and until.is_set()):
                self._one(association)
                count += 1
            association.release(1.0)
        except (EdgeError, OSError):
            pass  # no answer: nothing was promised
        return count

    def _one(self, association: Association) -> None:
        # What got no answer is sent again, as a scanner does: the same bytes under the same UID.
        uid, data = self.again.pop() if self.again else self.made.one(self.chance)
        digest = hashlib.sha256(data).digest()
        self.custody.offers(uid, digest)
        self.again.append((uid, data))
        self.custody.answered(uid, digest, store(association, uid, data))
        self.again.pop()


def store(association: Association, uid: str, data: bytes, context: int = 1, sop_class: str = CT) -> int:
    """C-STORE from memory: its status. Raises PeerError where none came."""
    fd = os.memfd_create("object")
    try:
        os.write(fd, data)
        return association.store(context, sop_class, uid, fd, 0, len(data))[0]
    finally:
        os.close(fd)


class Load:
    """Senders in threads of their own, until they are stopped or the gateway is gone."""

    def __init__(self, senders: list[Sender]) -> None:
        self._over = threading.Event()
        self._senders = senders
        self._threads = [threading.Thread(target=each.send, kwargs={"until": self._over}) for each in senders]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a sender hangs"


def echo_seconds(port: int) -> float:
    """How long an association with one C-ECHO takes."""
    began = time.monotonic()
    association = Association.open(
        "127.0.0.1", port, "CT1", "EDGE", [Context(1, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    )
    association.echo(1)
    association.release()
    return time.monotonic() - began
