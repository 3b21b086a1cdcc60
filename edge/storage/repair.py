"""Making a damaged file whole again, from what we have or from a destination that has the instance.

Promise: only a data set with the SHA-256 that was received counts as whole; it is entered like a new arrival
(file, name, directory, rows, in this order), and the ledger says lost, repaired, and from where. The damaged file is
kept aside in `damaged/`, for a person, never deleted. What cannot be repaired is `lost`: an alarm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge.config.sections import Config, Destination
from edge.dicom.command import SUCCESS
from edge.dicom.failures import ServiceRefused
from edge.errors import PeerError, Permanent, Unreadable
from edge.model import ContextKey, InstanceState
from edge.network import tls
from edge.query.fetching import ReadInto, TakeObject, open_fetcher
from edge.query.located import Located
from edge.spool import HASH_CHUNK, Partial, Spool, Stored
from edge.storage import verify
from edge.storage.verify import Damage, DamageKind
from edge.store import catalog, deliveries, integrity, kept_files, ledger, ledger_text
from edge.store.database import Store, Transaction
from edge.store.kept_files import FileRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What became of one instance; `text` says how it was repaired, or why it could not be."""

    instance_id: int
    whole: bool
    text: str


class Repairer:
    """See the module's promise. Thread-safe: one repair at a time."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        config: Callable[[], Config],
        queued: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """`queued` gets the destinations that may be sent something again."""
        self._db, self._spool, self._config, self._queued = db, spool, config, queued
        self._one = threading.Lock()

    def repair(self, instance: int) -> RepairResult:
        """Look at an instance's file, and repair it where that is needed. Raises Hindered or StorageUnhealthy."""
        with self._one:
            with self._db.reading() as conn:
                row, versions = kept_files.file_row(conn, instance), verify.writing_versions(conn)
            if row is None:
                return RepairResult(instance, False, "there is no such instance")
            if row.state in (InstanceState.EVICTED, InstanceState.DISCARDED):
                return RepairResult(instance, True, "")
            damage = verify.check_file(self._spool.path_of(row.path), row, versions)
            if damage is None:
                return self._back(row) if row.state is InstanceState.LOST else RepairResult(instance, True, "")
            return self._repair(damage)

    def _repair(self, damage: Damage) -> RepairResult:
        row = damage.row
        if damage.part is DamageKind.ROW:
            return RepairResult(
                row.instance_id, False, f"{damage.text}: `edge recover` rebuilds the catalog from the files"
            )
        if damage.part is DamageKind.HEAD:
            return self._rewrite(row, damage.text)
        if damage.part is DamageKind.DATA_SET and self._is_what_the_ledger_says(row):
            return RepairResult(
                row.instance_id, False, "the file is whole, but the catalog has another SHA-256: `edge recover`"
            )
        row = self._lose(row, damage.text)
        if row.state is InstanceState.EVICTED:
            self._spool.set_aside(row.path)
            return RepairResult(row.instance_id, True, "it was cached, and is forgotten: its archive has it")
        return self._fetch(row) if row.state is InstanceState.LOST else RepairResult(row.instance_id, True, "")

    def _is_what_the_ledger_says(self, row: FileRow) -> bool:
        with self._db.reading() as conn:
            witness = integrity.received_digest(conn, row)
        return bool(witness) and self._spool.digest(row.path, row.dataset_offset) == witness

    # -- losing -------------------------------------------------------------------------------------------------------

    def _lose(self, row: FileRow, text: str) -> FileRow:
        """An alarm before anything else is tried. The reason stays that of the first time. What is cached goes.

        One that came again meanwhile has another file, and is not lost.
        """
        if row.state is InstanceState.LOST:
            return row

        def work(conn: Transaction) -> FileRow:
            catalog.lose(conn, row.path, text, time.time())
            return kept_files.file_row(conn, row.instance_id) or row

        found = self._db.write(work)
        if found.state is InstanceState.LOST:
            log.critical("instance %d is lost: %s", row.instance_id, text)
        elif found.state is InstanceState.EVICTED:
            log.warning("instance %d was cached, and is forgotten: %s", row.instance_id, text)
        return found

    def _back(self, row: FileRow) -> RepairResult:
        """Enter a lost instance whose file is whole again: a person put it back, or the disk is readable again."""
        return self._enter(row, None, ledger.EDGE, {})

    # -- repairing ----------------------------------------------------------------------------------------------------

    def _rewrite(self, row: FileRow, text: str) -> RepairResult:
        """Only the head is damaged: a new file with the same data set."""
        partial = self._spool.begin(row.context_key, row.sop_instance_uid, row.origin)
        try:
            with self._spool.path_of(row.path).open("rb") as file:
                file.seek(row.dataset_offset)
                while chunk := file.read(HASH_CHUNK):
                    partial.write([memoryview(chunk)])
            stored = self._finish(partial, row)
        except BaseException:
            partial.discard()
            raise
        return self._enter(row, stored, ledger.EDGE, {"fault": text})

    def _fetch(self, row: FileRow) -> RepairResult:
        """Fetch it from the destinations that have it, one after the other."""
        tried = []
        for destination in self._holders(row):
            try:
                stored = self._get(row, destination)
            except (PeerError, Permanent) as error:
                tried.append(f"{destination.name}: {error}")
            else:
                return self._enter(row, stored, destination.name, {"source": destination.name})
        why = "; ".join(tried) or "no destination has it yet"
        log.warning("instance %d cannot be repaired: %s", row.instance_id, why)
        return RepairResult(row.instance_id, False, f"{row.reason}; not repaired: {why}")

    def _holders(self, row: FileRow) -> list[Destination]:
        with self._db.reading() as conn:
            names = deliveries.holders(conn, row.instance_id)
        configured = self._config().destinations
        return [configured[name] for name in names if name in configured]

    def _get(self, row: FileRow, destination: Destination) -> Stored:
        partial = self._spool.begin(row.context_key, row.sop_instance_uid, row.origin)
        most = row.size - row.dataset_offset

        def write(views: list[memoryview]) -> None:
            partial.write(views)
            if partial.size - partial.dataset_offset > most:
                raise Unreadable("it gives back another data set than it was sent (longer)")

        def take(_context_key: ContextKey, _uid: str, read_into: ReadInto) -> int:
            read_into(write)
            return SUCCESS

        try:
            self._fetch_object(row, destination, take)
            return self._finish(partial, row)
        except BaseException:
            partial.discard()
            raise

    def _fetch_object(self, row: FileRow, destination: Destination, take: TakeObject) -> None:
        """Fetch the object by C-GET or WADO-RS. Raises PeerError, ServiceRefused."""
        config, context_key = self._config(), row.context_key
        secure = None if destination.is_web else tls.secure(config, destination)
        wanted = Located(
            row.sop_instance_uid, context_key.sop_class_uid, "", study_uid=row.study_uid, series_uid=row.series_uid
        )
        given = destination, config.listen.ae_title, [context_key.sop_class_uid], secure
        fetcher = open_fetcher(*given, may_move=False, syntax=context_key.transfer_syntax_uid)
        try:
            count = fetcher.fetch([wanted], take)
        except BaseException:
            fetcher.abort()
            raise
        fetcher.close()
        if not count:
            raise ServiceRefused("it does not have it")

    def _finish(self, partial: Partial, row: FileRow) -> Stored:
        stored = partial.finish()
        if stored.sha256 != row.sha256:
            raise Unreadable("it gives back another data set than it was sent (SHA-256 differs)")
        return stored

    def _enter(self, row: FileRow, stored: Stored | None, who: str, how: ledger.Payload) -> RepairResult:
        """The new file takes the place of the old one, which goes aside.

        A lost one goes first: a crash then leaves the new file, which is adopted. One with a damaged head goes last:
        a crash then leaves both, of which one is a duplicate. Of one that came again meanwhile nothing is repaired.
        """

        def work(conn: Transaction) -> list[str] | None:
            if not catalog.holds_path(conn, row.path):
                return None
            if stored is not None:
                catalog.replace_file(conn, row.instance_id, stored)
            resumed = (
                deliveries.requeue_repaired(conn, row.instance_id) if catalog.mark_found(conn, row.instance_id) else []
            )
            ids = [row.instance_id]
            ledger.append(conn, time.time(), ledger.REPAIRED, who, ids, study_id=row.study_id, payload=how)
            return resumed

        is_lost = row.state is InstanceState.LOST
        if stored is not None and is_lost:
            self._spool.set_aside(row.path)
        resumed = self._db.write(work, stored.bucket if stored else None)
        if resumed is None:
            if stored is not None:
                self._spool.remove(stored.path)
            return RepairResult(row.instance_id, True, "")
        if stored is not None and not is_lost:
            self._spool.set_aside(row.path)
        text = ledger_text.render_payload(ledger.REPAIRED, how)
        log.warning("instance %d is repaired: %s", row.instance_id, text)
        self._queued(resumed)
        return RepairResult(row.instance_id, True, text)
