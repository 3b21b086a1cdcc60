"""Behind the answer: records of the journal become files of the spool and rows of the catalog.

Promise: `IntakeApplier.apply` returns when a batch's files are synced and its rows, ledger and "applied up to" are
committed, in one transaction. It may get a record again: its file has the record's name, and is replaced. An object
that cannot be read or entered goes to quarantine, and a damaged record into the ledger: neither stops the batch.

SHA-256 is taken from bytes that the record's checksum has verified. Raises Hindered, StorageUnhealthy, MemoryError:
then nothing of the batch counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace

from edge.errors import Hindered, StorageUnhealthy, Unreadable, hindrance, place_of
from edge.errors.hindrance import raise_passing
from edge.intake import Intake
from edge.intake.entries import ODD, CatalogEntry
from edge.intake.hl7_entry import RelaysOf, make_hl7_entry
from edge.journal import body_file, segment
from edge.journal.kinds import commitment_request, hl7_frame, instance, performed_step
from edge.journal.kinds.instance import RecordedInstance
from edge.journal.record import RecordIdentity, UnknownFormat
from edge.journal.replay import BodyDamaged, DamagedPart, Item, JournalRecord, RecordDamage, read_again
from edge.journal.segment import storage_errors
from edge.model import ContextKey
from edge.spool import HELPERS, Spool, Stored
from edge.store import journal_progress, ledger
from edge.store.commitment_entry import make_commitment_entry
from edge.store.database import Store, Transaction
from edge.store.performed_step_entry import make_step_entry

log = logging.getLogger(__name__)

#: Objects from this size on are prepared beside one another: to hand over a shorter one costs more than it saves.
BESIDE_BYTES = 64 << 10


class IntakeApplier:
    """See the module's docstring. One thread at a time."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        intake: Intake,
        relays: RelaysOf = dict,
        on_hl7: Callable[[], None] = lambda: None,
    ) -> None:
        """`relays` gives the current ones. `on_hl7` is called after the commit of HL7 messages."""
        self._db, self._spool, self._intake = db, spool, intake
        #: Code of a kind (edge.journal.kinds) -> what makes its entry. Raises BodyDamaged and what `apply` raises.
        self._entry_makers: dict[int, Callable[[JournalRecord], CatalogEntry]] = {
            instance.CODE: self._instance_entry,
            commitment_request.CODE: make_commitment_entry,
            performed_step.CODE: make_step_entry,
            hl7_frame.CODE: lambda record: make_hl7_entry(record, relays, on_hl7, intake.checks.forget),
        }
        self._prepared: dict[RecordIdentity, CatalogEntry | RecordDamage] = {}
        self._beside: dict[RecordIdentity, Future[CatalogEntry | RecordDamage]] = {}

    def read_applied(self) -> Mapping[int, int]:
        with self._db.reading() as conn:
            return journal_progress.read_applied(conn)

    def prepare(self, item: Item) -> None:
        if not isinstance(item, JournalRecord):
            return
        if item.memory is not None and len(item.memory) >= BESIDE_BYTES and HELPERS > 1:
            preparing = hindrance.submit(self._spool.helpers, self._entry_of, item)
            if preparing is not None:
                self._beside[item.identity] = preparing
                return
        self._prepared[item.identity] = self._entry_of(item)

    def await_prepared(self, identity: RecordIdentity) -> None:
        if identity in self._beside:
            wait([self._beside[identity]])

    def apply(self, batch: Sequence[Item], upto: Mapping[int, int]) -> None:
        entries: list[CatalogEntry] = []
        damaged: list[RecordDamage] = []
        wait(self._beside.values())  # else one that is made again might still be written
        prepared, self._prepared = self._prepared, {}  # after a failure all is made again
        beside, self._beside = self._beside, {}
        prepared |= {identity: preparing.result() for identity, preparing in beside.items()}
        for item in batch:
            found = item if isinstance(item, RecordDamage) else prepared.get(item.identity) or self._entry_of(item)
            if isinstance(found, RecordDamage):
                damaged.append(found)
            else:
                entries.append(found)
        for each in damaged:
            segment.keep_damaged(each.segment)
        if entries:
            self._spool.sync_all()

        def also(conn: Transaction) -> None:
            for each in damaged:
                payload = {"record": each.identity.name, "fault": each.where.value}
                ledger.append(conn, time.time(), ledger.LOST, ledger.EDGE, [], payload=payload)
            journal_progress.note_applied(conn, upto)

        self._intake.enter_all(entries, also)
        for item in batch:  # an object's file has been moved; other kinds leave theirs
            if isinstance(item, JournalRecord) and item.head.file:
                with contextlib.suppress(OSError):  # the next start removes it
                    item.part10[0].unlink(missing_ok=True)
        for each in damaged:
            log.critical("record %s of the journal is damaged (%s)", each.identity.name, each.where.value)

    def _entry_of(self, record: JournalRecord) -> CatalogEntry | RecordDamage:
        head = record.head
        if head.kind not in self._entry_makers:
            raise UnknownFormat(f"the journal has a record of kind {head.kind}: go back to the newer version")
        entry = read_again(lambda: self._entry_or_none(record))
        if entry is not None:
            return entry
        self._put_aside(record)
        return RecordDamage(head.identity, record.segment, head.offset, DamagedPart.BODY, head)

    def _entry_or_none(self, record: JournalRecord) -> CatalogEntry | None:
        """None: its body is damaged, or the disk cannot read it at this moment."""
        try:
            return self._entry_makers[record.head.kind](record)
        except BodyDamaged:
            return None

    def _put_aside(self, record: JournalRecord) -> None:
        """The file of a damaged body, from wherever it is, goes beside the segments for a person."""
        if record.head.file:
            home = record.part10[0]
            for path in (home, *self._spool.root.glob(f"*/{record.identity.name}.dcm")):
                if path.exists():
                    body_file.keep_damaged_file(path, home)

    def _instance_entry(self, record: JournalRecord) -> CatalogEntry:
        found = instance.decode(record.head.facts)
        return self._entry(replace(self._put(record, found), xxh3=record.head.xxh3), found)

    def _put(self, record: JournalRecord, found: RecordedInstance) -> Stored:
        """The file, from the receive buffer, or from the segment where that is gone or damaged."""
        head, at = record.head, found.header.origin.received_at
        if head.file:
            return self._take(record, at)
        if record.memory is not None:
            try:
                return self._spool.put(head.identity.name, at, head.prefix, record.bodies())
            except BodyDamaged as error:
                log.error("%s: it is read from the disk", error)
        return self._spool.put(head.identity.name, at, head.prefix, replace(record, memory=None).bodies())

    def _take(self, record: JournalRecord, received_at: float) -> Stored:
        """A longer object's own file, moved as it is; it has its place already where that was done before a crash."""
        head, (path, _, size) = record.head, record.part10
        name = self._spool.name_of(record.identity.name, received_at)
        if not path.exists():
            path = self._spool.path_of(name)
        digest = hashlib.sha256()
        with storage_errors("read a file of the journal"):
            for part in record.bodies(path):
                digest.update(part)
        self._spool.take(path, name)
        return Stored(name, size, len(head.prefix), digest.digest())

    def _entry(self, stored: Stored, found: RecordedInstance) -> CatalogEntry:
        header, policy, intake = found.header, self._intake.policy, self._intake
        context_key = ContextKey(header.sop_class_uid, header.transfer_syntax_uid)
        reason = found.reason
        if found.is_readable:
            try:
                if not found.has_attributes or found.header_keys != policy.header.name:
                    header = intake.reread_header(
                        stored.path, context_key, header.sop_instance_uid, header.origin, policy
                    )
                return intake.prepare_entry(stored, header, policy)
            except Unreadable as error:
                reason = str(error)
            except (Hindered, StorageUnhealthy, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - one odd object must not stop those behind it
                if isinstance(error, OSError):
                    raise_passing(error)
                log.error("an object goes to quarantine, for its route cannot be found: %s", place_of(error))
                reason = ODD
        return intake.prepare_quarantine(stored, context_key, header.sop_instance_uid, header.origin, reason)


def disk_bytes(spool: Spool) -> int:
    """The size of the journal's file system, in bytes. Raises OSError."""
    found = os.statvfs(spool.root)
    return found.f_blocks * found.f_frsize
