"""The import thread of the gateway: uploads and watched folders are staged, assigned studies go into the journal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edge.config.sections import Config, DropSection
from edge.identity.order import OrderStatus
from edge.importer.admit import Admitter
from edge.importer.folders import DropFolder, mark_files, put_aside, remove_path, remove_unchanged
from edge.importer.staging import STAGED_FOLDER, StagedChange, Stager
from edge.importer.whose import identity_of_order, list_differences
from edge.scp.recorder import Recorder
from edge.store import imports, orders
from edge.store.database import Store
from edge.store.imports import ImportState, ImportStudy
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

IMPORT_THREAD = ThreadSpec(
    "import", __name__, "imports; the journal; staged files, and those of watched folders", "after an object"
)
#: Watched folders are read, and what was not accepted comes again, after this time.
IMPORT_TICK_SECONDS = 2.0
UPLOADS_FOLDER = "uploads"
#: The door of an import by upload, and what its source begins with: the name of the folder follows.
_UPLOAD_DOOR, _UPLOAD_SOURCE = "upload", "upload "
#: An upload to which nothing was added for the first time is removed, which is checked after the second.
_UPLOAD_SECONDS, _TIDY_SECONDS = 86_400.0, 3_600.0


class ImportService:
    """See the module's docstring. Any thread may `submit`."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        recorder: Recorder,
        change: Callable[[str, dict[str, Any]], dict[str, Any]],
        check_room: Callable[[], None],
    ) -> None:
        """`change` carries out a change of edge.daemon.changes. `check_room` raises StorageFull."""
        self._db, self._config, self._change = db, config, change
        self._check_room, self.recorder = check_room, recorder
        data_dir = config().site.data_dir
        self._data_dir = data_dir
        titles = lambda: (config().listen.ae_title, config().site.id)  # noqa: E731
        self._admitter = Admitter(db, data_dir, recorder, titles)
        self._tidy_at = 0.0
        self._folders: dict[str, DropFolder] = {}
        self._unreadable: set[str] = set()  # names of folders that cannot be read, which is logged once
        self.worker = Worker(IMPORT_THREAD, self._step)

    @property
    def uploads_folder(self) -> Path:
        return self._data_dir / STAGED_FOLDER / UPLOADS_FOLDER

    def check_room(self) -> None:
        """Raises StorageFull while the file system is too full."""
        self._check_room()

    def submit(self, folder: Path, who: str) -> None:
        """Have uploaded files staged; what is on record is staged after a restart, too. Raises EdgeError."""
        self._change("import-begin", {"source": _UPLOAD_SOURCE + folder.name, "door": _UPLOAD_DOOR, "who": who})
        self.worker.wake()

    def _list_uploads(self) -> dict[Path, str]:
        """List the uploads that are still to be staged, and who sent each."""
        with self._db.reading() as conn:
            found = imports.list_open_batches(conn, _UPLOAD_DOOR)
        folders = {self.uploads_folder / source.removeprefix(_UPLOAD_SOURCE): who for source, who in found}
        return {folder: who for folder, who in folders.items() if folder.is_dir()}

    def _remove_old_uploads(self) -> None:
        """Remove uploads to which nothing was added for a day, and which nobody wants staged."""
        for folder in set(self.uploads_folder.glob("*")) - self._list_uploads().keys():
            newest = max((each.stat().st_mtime for each in (folder, *folder.rglob("*"))), default=0.0)
            if time.time() - newest > _UPLOAD_SECONDS:
                remove_path(folder)

    def _step(self) -> float:
        now = time.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_SECONDS
            self._remove_old_uploads()
        with self._db.reading() as conn:
            assigned = imports.list_assigned(conn)
        for study in assigned:
            if not self._admitter.bring_in(study, lambda: self.worker.is_stopping):
                break
        self._stage_all()
        return 0.0 if assigned else IMPORT_TICK_SECONDS

    def _stage_all(self) -> None:
        """Read watched folders and uploads. One that cannot be read keeps no other back: the first error comes last."""
        works = [partial(self._watch, drop) for drop in self._config().drops.values()]
        works += [partial(self._stage_upload, *upload) for upload in self._list_uploads().items()]
        errors: list[Exception] = []
        for work in works:
            if self.worker.is_stopping:
                break
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise errors[0]

    # -- staging ------------------------------------------------------------------------------------------------------

    def _stage_upload(self, folder: Path, who: str) -> None:
        self._stager(who).stage(folder, _UPLOAD_SOURCE + folder.name, _UPLOAD_DOOR)
        remove_path(folder)

    def _stager(self, who: str) -> Stager:
        change: StagedChange = lambda name, **fields: self._change(name, {**fields, "who": who})  # noqa: E731
        return Stager(self._data_dir, change, self._check_room)

    # -- watched folders ----------------------------------------------------------------------------------------------

    def _watch(self, drop: DropSection) -> None:
        folder = self._folders.get(drop.name)
        if folder is None or (folder.path, folder.quiet) != (drop.path, drop.quiet):
            folder = self._folders[drop.name] = DropFolder(drop.path, drop.quiet)
        try:
            ready = folder.list_ready(time.monotonic())
        except OSError as error:  # the other folders are watched, and studies are imported, all the same
            if drop.name not in self._unreadable:
                log.error("the folder of [drop.%s] cannot be read: %s", drop.name, error.strerror)
            self._unreadable.add(drop.name)
            return
        self._unreadable.discard(drop.name)
        for path in ready:
            self._take(drop, path)

    def _take(self, drop: DropSection, path: Path) -> None:
        """Stage one file or folder of a watched folder, and find its order where that is asked for."""
        door, before = f"drop {drop.name}", mark_files(path)
        found = self._stager(door).stage(path, path.name, door)
        if (found.objects or found.known) and not found.skipped:
            remove_unchanged(path, before)
        else:
            put_aside(drop.path, path)
            log.warning("what cannot be used of [drop.%s] is in %s/refused", drop.name, drop.path)
        if drop.identity == "worklist":
            with self._db.reading() as conn:
                staged = imports.list_import_studies(conn, found.batch)
            for study in staged:
                if study.state is ImportState.STAGED:
                    self._assign_by_worklist(study, path.name, door)

    def _assign_by_worklist(self, study: ImportStudy, name: str, door: str) -> None:
        """Assign a study to the one open order that it names exactly; else it waits for a person."""
        accession = study.accession or name.partition(".")[0].partition("_")[0].strip()
        with self._db.reading() as conn:
            found = orders.find_orders(conn, accession=accession) if accession else []
        still_open = [each for each in found if each.status in (OrderStatus.OPEN, OrderStatus.IN_PROGRESS)]
        if len(still_open) != 1 or list_differences(study.patient, identity_of_order(still_open[0])):
            log.info("a study of %s waits for a person: no single order names it", door)
            return
        self._change("import-assign", {"study": study.id, "order": still_open[0].id, "reason": "", "who": door})
