"""The files of a path: of folders, ZIP archives and images of discs, also of those inside each other, within limits.

Promise: no link is followed, nothing is unpacked by the name that it has, and what is not read is named with the
reason. Files are given one by one, each as a stream that ends; nothing is held.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast

from edge.errors import hindrance
from edge.errors.hindrance import CauseClass
from edge.importer import iso9660
from edge.importer.iso9660 import ExtentReader, ImageFault, UdfImage
from edge.text import MIB


class SkipCode(str, Enum):
    """Why a file is left out. All but FOREIGN make an import end with exit code 1."""

    FOREIGN = "foreign"  # no DICOM object and nothing that is wrapped: a viewer, a leaflet
    LINK = "link"
    SPECIAL = "special"  # a device, a pipe, a socket
    SLIP = "slip"  # its name leads out of its archive
    ENCRYPTED = "encrypted"
    BOMB = "bomb"  # it would grow beyond what an archive of images does
    DEEP = "deep"  # archives inside archives
    TOO_MANY = "too-many"
    BROKEN = "broken"
    UDF = "udf"
    UNREADABLE = "unreadable"  # the system does not let it be read
    NO_ROOM = "no-room"


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is left out."""

    name: str
    code: SkipCode
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `open` gives its bytes once, from the beginning."""

    name: str  # below the source
    size: int
    modified: float  # seconds since 1970; of what is in an archive: when that was
    open: Callable[[], AbstractContextManager[BinaryIO]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be in a source."""

    files: int = 200_000
    depth: int = 32  # folders
    archives: int = 3  # inside each other
    ratio: float = 250.0  # bytes unpacked for each packed one
    least: int = 64 * MIB  # what is smaller once it is unpacked is no bomb
    unpacked: int = 512 * 1024 * MIB


Found = SourceFile | SkippedFile


class SourceWalk:
    """Walks through one path."""

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        self._path, self._limits, self._count = path, limits, 0

    def files(self) -> Iterator[Found]:
        """Give every file, and what is left out. Raises OSError where the path itself cannot be read."""
        if self._path.is_symlink():
            yield SkippedFile(self._path.name, SkipCode.LINK)
        elif self._path.is_dir():
            yield from self._folder(self._path, "", 0)
        else:
            self._path.stat()
            yield from self._file(self._path, self._path.name)

    # -- folders ------------------------------------------------------------------------------------------------------

    def _folder(self, folder: Path, prefix: str, depth: int) -> Iterator[Found]:
        if depth > self._limits.depth:
            yield SkippedFile(prefix, SkipCode.DEEP)
            return
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda each: each.name)
        except OSError as error:
            yield SkippedFile(prefix or folder.name, SkipCode.UNREADABLE, error.strerror or "")
            return
        for entry in found:
            name = f"{prefix}{_clean(entry.name)}"
            if entry.is_symlink():
                yield SkippedFile(name, SkipCode.LINK)
            elif entry.is_dir(follow_symlinks=False):
                yield from self._folder(Path(entry.path), f"{name}/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield from self._file(Path(entry.path), name)
            else:
                yield SkippedFile(name, SkipCode.SPECIAL)

    def _file(self, path: Path, name: str) -> Iterator[Found]:
        try:
            found = path.stat(follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                yield SkippedFile(name, SkipCode.SPECIAL)
                return
            with _open_plain(path) as file:
                kind = _archive_kind(file)
        except OSError as error:
            yield SkippedFile(name, SkipCode.UNREADABLE, error.strerror or "")
            return
        if kind:
            with _open_plain(path) as file:
                yield from self._archive(kind, file, name, found.st_mtime, 1)
            return
        yield from self._count_file(SourceFile(name, found.st_size, found.st_mtime, lambda: _open_plain(path)))

    def _count_file(self, found: SourceFile) -> Iterator[Found]:
        self._count += 1
        if self._count > self._limits.files:
            if self._count == self._limits.files + 1:
                yield SkippedFile(
                    found.name, SkipCode.TOO_MANY, f"this and what follows: at most {self._limits.files:,}"
                )
            return
        yield found

    # -- archives -----------------------------------------------------------------------------------------------------

    def _archive(self, kind: str, file: BinaryIO, name: str, modified: float, depth: int) -> Iterator[Found]:
        if depth > self._limits.archives:
            yield SkippedFile(name, SkipCode.DEEP)
            return
        walk = self._zip if kind == "zip" else self._iso
        try:
            yield from walk(file, name, modified, depth)
        except UdfImage as error:
            yield SkippedFile(name, SkipCode.UDF, str(error))
        except (ImageFault, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
            yield SkippedFile(name, SkipCode.BROKEN, str(error)[:120])

    def _zip(self, file: BinaryIO, name: str, modified: float, depth: int) -> Iterator[Found]:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
            packed = max(1, file.seek(0, io.SEEK_END))
            unpacked = sum(each.file_size for each in members)
            if unpacked > self._limits.unpacked or self._is_bomb(unpacked, packed):
                yield SkippedFile(name, SkipCode.BOMB, f"{unpacked:,} bytes of {packed:,}")
                return
            for member in members:
                shown = f"{name}/{_clean(member.filename)}"
                if fault := self._member_fault(member):
                    yield SkippedFile(shown, fault)
                    continue
                found = SourceFile(shown, member.file_size, modified, _zip_opener(archive, member))
                yield from self._inner(found, depth)

    def _member_fault(self, member: zipfile.ZipInfo) -> SkipCode | None:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or path.drive or ":" in path.parts[0][:2]:
            return SkipCode.SLIP
        if stat.S_ISLNK(member.external_attr >> 16):
            return SkipCode.LINK
        if member.flag_bits & 0x1:
            return SkipCode.ENCRYPTED
        return SkipCode.BOMB if self._is_bomb(member.file_size, member.compress_size) else None

    def _is_bomb(self, unpacked: int, packed: int) -> bool:
        return unpacked > self._limits.least and unpacked > self._limits.ratio * max(packed, 1)

    def _iso(self, file: BinaryIO, name: str, modified: float, depth: int) -> Iterator[Found]:
        for found in iso9660.list_image_files(file):
            opener = _iso_opener(file, found)
            yield from self._inner(SourceFile(f"{name}/{_clean(found.name)}", found.size, modified, opener), depth)

    def _inner(self, found: SourceFile, depth: int) -> Iterator[Found]:
        """A file of an archive, which may be an archive as well."""
        try:
            with found.open() as file:
                kind = _archive_kind_of_head(file.read(4))
            if kind is None and found.name.casefold().endswith((".iso", ".img")):
                kind = "iso"
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            yield SkippedFile(found.name, SkipCode.BROKEN, str(error)[:120])
            return
        if kind is None:
            yield from self._count_file(found)
            return
        with ExitStack() as stack:
            copy = cast("BinaryIO", stack.enter_context(TemporaryFile()))
            try:
                with found.open() as file:
                    copy_stream(file, copy, found.size)
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                yield SkippedFile(found.name, SkipCode.NO_ROOM if is_full(error) else SkipCode.BROKEN, str(error)[:120])
                return
            yield from self._archive(kind, copy, found.name, found.modified, depth + 1)


def is_full(error: Exception) -> bool:
    """Did a disk of ours have no room? That says nothing of the file that was read."""
    return hindrance.classify_cause(hindrance.cause_of(error)) is CauseClass.FULL


def copy_stream(source: IO[bytes], target: IO[bytes], most: int) -> int:
    """Copy at most `most` bytes. Raises OSError for a stream that has more than it said."""
    size = 0
    while chunk := source.read(MIB):
        size += len(chunk)
        if size > most:
            raise OSError(0, "it has more bytes than its archive says")
        target.write(chunk)
    return size


def _open_plain(path: Path) -> BinaryIO:
    """Open a file that is no link. Raises OSError."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _zip_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], AbstractContextManager[BinaryIO]]:
    return lambda: cast("AbstractContextManager[BinaryIO]", archive.open(member))


def _iso_opener(file: BinaryIO, found: iso9660.IsoFile) -> Callable[[], AbstractContextManager[BinaryIO]]:
    return lambda: closing(cast("BinaryIO", io.BufferedReader(ExtentReader(file, found))))


def _archive_kind(file: BinaryIO) -> str | None:
    kind = _archive_kind_of_head(file.read(4))
    if kind is None and iso9660.is_image(file):
        kind = "iso"
    return kind


def _archive_kind_of_head(head: bytes) -> str | None:
    return "zip" if head in (b"PK\3\4", b"PK\5\6") else None


def _clean(name: str) -> str:
    """A name as it is shown and kept: what does not print is `?`."""
    return "".join(each if each.isprintable() else "?" for each in name)[:400]
