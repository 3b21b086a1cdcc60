"""Spooled objects into the catalog: identity, routes, deliveries and the ledger, in one transaction.

Promise: when `enter_all` returns, the rows of all its objects are on stable storage; none of them counts when it
raises. An object may come again at any time: it is a duplicate then, a success that changes nothing. What decides
about the answer to a sender is edge.scp.recorder; it comes before this.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from edge.dicom import compact, header
from edge.dicom.header import read_header
from edge.dicom.items import MAX_DATA_SET
from edge.dicom.rejection import KEY_OBJECT_SELECTION, RejectionNote, read_note
from edge.errors import Hindered, StorageUnhealthy, Unreadable, place_of
from edge.errors.hindrance import raise_passing
from edge.intake.check_memory import CheckMemory
from edge.intake.entries import CatalogEntry, InstanceEntry, QuarantineEntry, enter_or_quarantine
from edge.intake.policy import Policy
from edge.model import ContextKey, InstanceHeader, Origin
from edge.spool import Bucket, Spool, Stored
from edge.store import companions, folding, ledger, unfolding
from edge.store.catalog import Added
from edge.store.database import Store, Transaction
from edge.store.folded_study import StudyIsFolded
from edge.store.placement_memory import Memory
from edge.store.quarantine import QuarantineShare, total_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")


class Intake:
    """See the module's promise. Thread-safe."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        policy: Policy,
        queued: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """`queued` is called after the commit with the destinations that have new work."""
        self._db, self.spool, self.policy = db, spool, policy
        self.queued = queued
        self.quarantine = QuarantineShare(db, lambda: total_bytes(spool.incoming))
        self.may_reject: Callable[[Origin], bool] = lambda _: False
        self.memory, self.checks = Memory(), CheckMemory()
        with db.reading() as conn:
            self.companions = companions.Arrivals(conn)

    def read_rejection(self, stored: Stored, facts: InstanceHeader) -> RejectionNote | None:
        """What an object rejects, where it is a rejection note."""
        length = stored.size - stored.dataset_offset
        if facts.sop_class_uid != KEY_OBJECT_SELECTION or length > MAX_DATA_SET:
            return None
        with self.spool.path_of(stored.path).open("rb") as file:
            return read_note(os.pread(file.fileno(), length, stored.dataset_offset), facts.transfer_syntax_uid)

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        """Take of a sender's share of quarantine; False: it is used up."""
        return self.quarantine.take(self.policy.quarantine_most, origin.calling_ae, origin.address, size)

    def _enter(
        self,
        stored: Stored,
        facts: InstanceHeader,
        policy: Policy,
        event: str = ledger.RECEIVED,
        also: Callable[[Transaction, Added], None] = lambda _conn, _added: None,
    ) -> Added:
        """`also` is done in the same transaction."""
        entry = self.prepare_entry(stored, facts, policy, event)

        def work(conn: Transaction) -> Added:
            added = entry.work(conn, None)
            also(conn, added)
            return added

        added = self._write(work, stored.bucket)
        entry.finish()
        return added

    def prepare_entry(
        self, stored: Stored, facts: InstanceHeader, policy: Policy, event: str = ledger.RECEIVED
    ) -> InstanceEntry:
        """Decide all that does not need the catalog."""
        return InstanceEntry(self, stored, facts, policy, event)

    def prepare_quarantine(
        self, stored: Stored, context_key: ContextKey, uid: str, origin: Origin, reason: str
    ) -> CatalogEntry:
        """Prepare the rows of an object that cannot be read or trusted."""
        return QuarantineEntry(self, stored, context_key, uid, origin, reason)

    def enter_all(self, entries: Sequence[CatalogEntry], also: Callable[[Transaction], None]) -> None:
        """Enter all, and do `also`, in one transaction. An object that the catalog cannot take goes to quarantine.

        Raises Hindered, StorageUnhealthy or MemoryError: then nothing of it counts.
        """

        def enter_together(conn: Transaction) -> None:
            nearby = Memory()
            for entry in entries:
                entry.work(conn, nearby)
            also(conn)

        def one_by_one(conn: Transaction) -> None:
            for entry in entries:
                enter_or_quarantine(conn, entry)
            also(conn)

        try:
            self._write_unfolding(enter_together, len(entries))
        except (Hindered, StorageUnhealthy, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - one odd object must not stop those beside it
            log.error("a batch is entered one by one: %s", place_of(error))
            self._write_unfolding(one_by_one, len(entries))
        for entry in entries:
            entry.finish()

    def _write_unfolding(self, work: Callable[[Transaction], None], most: int) -> None:
        """Write a batch; an object of it may be of a study that is in a yearly file."""
        for _ in range(most + 1):
            try:
                return self._db.write(work)
            except StudyIsFolded as error:
                self._unfold(error.study_uid)
        return self._db.write(work)

    def _write(self, work: Callable[[Transaction], T], bucket: Bucket | None) -> T:
        """Write in one transaction; a study that comes again after years is brought back from its yearly file first."""
        try:
            return self._db.write(work, bucket)
        except StudyIsFolded as error:
            self._unfold(error.study_uid)
        return self._db.write(work, bucket)

    def _unfold(self, uid: str) -> None:
        def unfold(conn: Transaction) -> None:
            if (folded := folding.find_study(conn, uid)) is not None:
                unfolding.restore_study(conn, folded, self._db.path.parent)

        self._db.write(unfold)

    def read_references(self, name: str) -> tuple[str, ...]:
        """The SOP Instance UIDs that a key object in the spool references (PS3.3 section C.17.6.2)."""
        meta = self.spool.read_meta(name)
        with self.spool.path_of(name).open("rb") as file:
            length = os.fstat(file.fileno()).st_size - meta.dataset_offset
            read = header.read_at(file.fileno(), meta.dataset_offset)
            return header.references(read, length, meta.context_key.transfer_syntax_uid)

    # -- what did not come by an association --------------------------------------------------------------------------

    def adopt(self, name: str) -> Added | None:
        """Enter a whole spooled file that the catalog does not know: a crash came between its name and its rows.

        Returns None when it is not ours to read; it is left where it is, and the caller says so.
        """
        path = self.spool.path_of(name)
        try:
            meta, found = self.spool.read_meta(name), path.stat()
            digest = self.spool.digest(name, meta.dataset_offset)
        except Unreadable:
            return None
        except OSError as error:  # of this file: it stops no other
            raise_passing(error)
            return None
        origin = meta.origin or Origin("", "", "", found.st_mtime)
        stored = Stored(name, found.st_size, meta.dataset_offset, digest, Bucket(path.parent))
        policy = self.policy
        try:
            facts = self.reread_header(name, meta.context_key, meta.sop_instance_uid, origin, policy)
        except Unreadable as error:
            entry = self.prepare_quarantine(stored, meta.context_key, meta.sop_instance_uid, origin, str(error))
            self._db.write(lambda conn: entry.work(conn, None), stored.bucket)
            entry.finish()
            return None
        return self._enter(stored, facts, policy, ledger.ADOPTED)

    def enter(self, stored: Stored, facts: InstanceHeader, also: Callable[[Transaction, Added], None]) -> Added:
        """Enter an object that a person releases, like an arrival; `also` is done in the same transaction."""
        return self._enter(stored, facts, self.policy, ledger.ADOPTED, also)

    def facts_of(self, name: str) -> InstanceHeader:
        """The facts of a file of the spool, by its own head. Raises Unreadable or OSError."""
        meta = self.spool.read_meta(name)
        origin = meta.origin or Origin("", "", "", self.spool.path_of(name).stat().st_mtime)
        return self.reread_header(name, meta.context_key, meta.sop_instance_uid, origin, self.policy)

    def compact_header(self, name: str) -> tuple[bytes, bool]:
        """The small elements of a file's header, and whether they are all (edge.dicom.compact).

        Raises Unreadable or OSError.
        """
        meta = self.spool.read_meta(name)
        with self.spool.path_of(name).open("rb") as file:
            offset, fd = meta.dataset_offset, file.fileno()
            length = os.fstat(fd).st_size - offset
            return compact.compact_header(header.read_at(fd, offset), length, meta.context_key.transfer_syntax_uid)

    def reread_header(
        self, name: str, context_key: ContextKey, uid: str, origin: Origin, policy: Policy
    ) -> InstanceHeader:
        """The facts of a file of the spool."""
        with self.spool.path_of(name).open("rb") as file:
            offset = self.spool.read_meta(name).dataset_offset
            length = os.fstat(file.fileno()).st_size - offset
            return read_header(header.read_at(file.fileno(), offset), length, context_key, uid, origin, policy.header)
