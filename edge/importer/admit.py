"""Staged objects whose patient is known go into the journal, as from any door.

Promise: an object counts as imported once its record is on stable storage. What is in already, by an earlier import or
by another way, is skipped. After a crash the objects that were not counted come again, with the same bytes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edge.dicom.command import SUCCESS
from edge.errors import TransformError, Transient
from edge.importer.localize import ImportDecision, localize
from edge.importer.staging import STAGED_FOLDER
from edge.importer.whose import LocalIdentity
from edge.importer.wrap import WrappedObject, read_pieces, wrap
from edge.model import ContextKey, Origin
from edge.scp.recorder import Recorder
from edge.scp.response import CANNOT_UNDERSTAND
from edge.store import imports
from edge.store.database import Store
from edge.store.imports import ImportObject, ImportStudy
from edge.transform.copying import digests_of, encode_pieces, read_plain

#: The calling AE title of what is imported; routes may name it.
IMPORT_AE = "IMPORT"
#: Objects of one transaction.
_BATCH = 20


class Admitter:
    """See the module's promise. One thread at a time."""

    def __init__(
        self,
        db: Store,
        data_dir: Path,
        recorder: Recorder,
        titles: Callable[[], tuple[str, str]],
    ) -> None:
        """`titles`: the AE title of [listen] and the site's id."""
        self._db, self._folder, self._recorder = db, data_dir / STAGED_FOLDER, recorder
        self._titles = titles

    def bring_in(self, study: ImportStudy, is_stopping: Callable[[], bool]) -> bool:
        """Bring in an assigned study. False: the gateway stops. Raises Transient where nothing is accepted now."""
        while True:
            with self._db.reading() as conn:
                batch = imports.list_import_objects(conn, study.id, state="staged", limit=_BATCH)
            if not batch:
                self._db.write(lambda conn: imports.end_study(conn, study.id))
                return True
            ended: list[tuple[int, str, str]] = []
            try:
                for each in batch:
                    if is_stopping():
                        return False
                    ended.append((each.id, *self._bring_in_object(study, each)))
            finally:
                self._settle(ended, batch)

    def _settle(self, ended: list[tuple[int, str, str]], batch: Iterable[ImportObject]) -> None:
        if not ended:
            return
        self._db.write(lambda conn: imports.settle_objects(conn, ended))
        states = {number: state for number, state, _ in ended}
        for each in batch:
            if states.get(each.id) in ("imported", "known"):
                (self._folder / each.path).unlink(missing_ok=True)

    def _bring_in_object(self, study: ImportStudy, found: ImportObject) -> tuple[str, str]:
        """Returns (state, note)."""
        identity = LocalIdentity(**(study.identity or {}))
        with self._db.reading() as conn:
            if imports.is_imported(conn, found.sha256, identity.patient_id, identity.issuer, identity.accession):
                return "known", "imported before"
        try:
            if found.kind == "dicom":
                return self._bring_in_dicom(study, found, identity)
            with (self._folder / found.path).open("rb") as file:
                return self._record(study, wrap(file, found, study, identity, self._titles()[1]))
        except TransformError as error:
            return "failed", str(error)
        except FileNotFoundError:
            return "failed", "its staged file is gone: import it again"

    def _bring_in_dicom(self, study: ImportStudy, found: ImportObject, identity: LocalIdentity) -> tuple[str, str]:
        decision = ImportDecision(self._titles()[1], f"import {study.batch_id}", study.decided_at or 0.0)
        path, offset, syntax = self._folder / found.path, found.dataset_offset, found.transfer_syntax_uid
        context_key = ContextKey(found.sop_class_uid, syntax)
        with (
            path.open("rb") as file,
            read_plain(file.fileno(), offset, file.seek(0, io.SEEK_END) - offset, syntax, path.parent) as plain,
        ):
            parts = localize(plain, syntax, identity, decision)
            if parts is not None:
                return self._record(
                    study, WrappedObject(context_key, found.sop_instance_uid, encode_pieces(parts, syntax))
                )
            with self._db.reading() as conn:
                if imports.is_received(conn, found.sop_instance_uid, digests_of(path, offset)[0]):
                    return "known", "received before"
            return self._record(study, WrappedObject(context_key, found.sop_instance_uid, read_pieces(file, offset)))

    def _record(self, study: ImportStudy, made: WrappedObject) -> tuple[str, str]:
        """Append one object to the journal. Raises Transient where nothing is accepted now."""
        called, _ = self._titles()
        origin = Origin(IMPORT_AE, called, f"import {study.batch_id}", time.time())
        recording = self._recorder.begin(made.context_key, made.sop_instance_uid, origin)
        answer = self._recorder.receive(recording, made.context_key, made.sop_instance_uid, origin, made.read_into)
        if answer.status == SUCCESS:
            return "imported", ""
        if answer.status == CANNOT_UNDERSTAND:
            return "failed", answer.comment
        raise Transient(f"an import waits: {answer.comment}")
