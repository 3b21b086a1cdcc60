"""Reads a source into staged files: each copied, synced and recognized; what is known of it goes into the catalog.

Promise: what is entered is whole and on stable storage. An import that broke off goes on with what is missing. Runs in
the command's process, or in the gateway; the catalog is changed by `change` alone, which names a change of
edge.daemon.changes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edge.errors import StorageFull, Unreadable, hindrance
from edge.importer.directory import MAX_DIRECTORY, compare_directory, list_referenced
from edge.importer.recognize import FileKind, Recognized, recognize
from edge.importer.sources import SkipCode, SkippedFile, SourceFile, SourceWalk, is_full
from edge.journal.segment import sync_folder
from edge.text import MIB

#: Where staged files are, below the data directory.
STAGED_FOLDER = "imports"
#: Files that are entered at a time.
_BATCH = 50
#: Names of files that a DICOMDIR names and that are not there: the most that are kept.
_MOST_MISSING = 200

#: (change, its fields) -> its answer
StagedChange = Callable[..., dict[str, Any]]


@dataclass(slots=True)
class StagingProgress:
    """What has been read so far."""

    batch: int = 0
    files: int = 0
    bytes: int = 0
    objects: int = 0
    known: int = 0  # staged by an earlier run of the same import
    foreign: int = 0
    skipped: list[SkippedFile] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlisted: int = 0

    @property
    def is_whole(self) -> bool:
        """Was nothing left out that could have been an image?"""
        return not self.skipped and not self.missing


class Stager:
    """Stages one source."""

    def __init__(
        self,
        data_dir: Path,
        change: StagedChange,
        check_room: Callable[[], None],
        report: Callable[[StagingProgress], None] = lambda _: None,
    ) -> None:
        """`check_room` raises StorageFull; `report` is called after each file."""
        self._folder, self._change = data_dir / STAGED_FOLDER, change
        self._check_room, self._report = check_room, report
        self._progress = StagingProgress()
        self._entered: list[dict[str, Any]] = []
        self._directories: dict[str, list[str]] = {}
        self._present: dict[str, list[str]] = {}

    def stage(self, path: Path, source: str, door: str) -> StagingProgress:
        """Read a path to its end. Raises OSError, and EdgeError where nothing can be entered."""
        progress = self._progress
        begun = self._change("import-begin", source=source, door=door)
        progress.batch = begun["batch"]
        known = {name: (size, modified) for name, size, modified in begun["members"]}
        folder = self._folder / str(progress.batch)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = []
        for found in SourceWalk(path).files():
            progress.files += 1
            if isinstance(found, SkippedFile):
                progress.skipped.append(found)
            else:
                names.append(found.name)
                if known.get(found.name) == (found.size, found.modified):
                    progress.known += 1
                else:
                    self._stage_file(found, folder)
            self._report(progress)
        self._enter()
        self._compare_directories(names)
        self._end()
        return progress

    def _stage_file(self, found: SourceFile, folder: Path) -> None:
        """Copy one file, and keep it where it is of use."""
        path = folder / f"{secrets.token_hex(8)}.part"
        try:
            self._check_room()
            digest, size = self._copy(found, path)
            self._recognize(found, path, digest, size)
        except StorageFull:
            path.unlink(missing_ok=True)
            raise
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            path.unlink(missing_ok=True)
            if is_full(error):
                raise hindrance.error_for(hindrance.cause_of(error), "files cannot be staged") from error
            code = SkipCode.UNREADABLE if isinstance(error, PermissionError) else SkipCode.BROKEN
            detail = getattr(error, "strerror", "") or str(error)
            self._progress.skipped.append(SkippedFile(found.name, code, detail[:120]))

    def _copy(self, found: SourceFile, path: Path) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as target, found.open() as file:
            while chunk := file.read(MIB):
                size += len(chunk)
                if size > found.size:
                    raise OSError(0, "it has more bytes than it said")
                if size % (64 * MIB) < len(chunk):
                    self._check_room()
                digest.update(chunk)
                target.write(chunk)
        if size < found.size:
            raise OSError(0, "it has fewer bytes than it said")
        self._progress.bytes += size
        return digest.hexdigest(), size

    def _recognize(self, found: SourceFile, path: Path, digest: str, size: int) -> None:
        with path.open("rb") as file:
            seen = recognize(file.fileno(), size)
            if seen.kind is FileKind.DICOM or seen.kind.is_wrapped:
                os.fsync(file.fileno())
            elif seen.kind is FileKind.DICOMDIR:
                self._note_directory(found.name, file, seen)
        if seen.kind is FileKind.BROKEN:
            self._progress.skipped.append(SkippedFile(found.name, SkipCode.BROKEN, seen.fault[:120]))
        elif seen.kind is FileKind.FOREIGN:
            self._progress.foreign += 1
        if seen.kind is not FileKind.DICOM and not seen.kind.is_wrapped:
            path.unlink()
            return
        final = path.with_suffix("")
        path.rename(final)
        self._progress.objects += 1
        self._note(found, final, digest, size, seen)

    def _note(self, found: SourceFile, path: Path, digest: str, size: int, seen: Recognized) -> None:
        facts = dict(seen.facts)
        if seen.kind is FileKind.DICOM:
            self._present.setdefault(_folder_of(found.name), []).append(found.name)
        self._entered.append(
            {
                **facts,
                "name": found.name,
                "kind": seen.kind.value,
                "size": size,
                "modified": found.modified,
                "path": f"{path.parent.name}/{path.name}",
                "sha256": digest,
                "sop_class_uid": facts.get("sop_class_uid", ""),
                "sop_instance_uid": facts.get("sop_instance_uid", ""),
                "transfer_syntax_uid": seen.transfer_syntax_uid,
                "dataset_offset": seen.dataset_offset,
            }
        )
        if len(self._entered) >= _BATCH:
            self._enter()

    def _enter(self) -> None:
        """Make the names of the staged files durable, then enter them."""
        if not self._entered:
            return
        sync_folder(self._folder / str(self._progress.batch))
        self._change("import-add", batch=self._progress.batch, objects=self._entered)
        self._entered = []

    # -- directories --------------------------------------------------------------------------------------------------

    def _note_directory(self, name: str, file: IO[bytes], seen: Recognized) -> None:
        file.seek(seen.dataset_offset)
        try:
            listed = list_referenced(file.read(MAX_DIRECTORY), seen.transfer_syntax_uid)
        except Unreadable:
            self._progress.skipped.append(SkippedFile(name, SkipCode.BROKEN, "its DICOMDIR cannot be read"))
            return
        self._directories[_folder_of(name)] = listed

    def _compare_directories(self, names: list[str]) -> None:
        """Compare each DICOMDIR with the files beside and below it."""
        progress = self._progress
        images = {name for found in self._present.values() for name in found}
        for folder, listed in self._directories.items():
            below = [name.removeprefix(folder) for name in names if name.startswith(folder)]
            progress.missing += [f"{folder}{each}" for each in compare_directory(listed, below).missing]
            mine = [name.removeprefix(folder) for name in images if name.startswith(folder)]
            progress.unlisted += len(compare_directory(listed, mine).unlisted)

    def _end(self) -> None:
        progress = self._progress
        skipped = [[each.name, each.code.value, each.detail] for each in progress.skipped]
        for i in range(0, len(skipped), _BATCH):
            self._change("import-skip", batch=progress.batch, skipped=skipped[i : i + _BATCH])
        self._change(
            "import-end",
            batch=progress.batch,
            foreign=progress.foreign,
            missing=progress.missing[:_MOST_MISSING],
            unlisted=progress.unlisted,
        )


def _folder_of(name: str) -> str:
    """The folder of a file with its "/"; empty: the top."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash
