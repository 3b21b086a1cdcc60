"""A reader for images of discs (ECMA-119, that is ISO 9660, with the names of Joliet where there are some).

Promise: bounded and without recursion; what an image says is checked before it is believed. Rock Ridge is passed over:
it would only add names and links. UDF without ISO 9660 is refused by name. Raises ImageFault.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

SECTOR = 2048
_DESCRIPTORS = 16  # the sector of the first Volume Descriptor
_MOST_DESCRIPTORS, _MOST_FOLDERS, _MOST_DEPTH = 64, 20_000, 32
_LONGEST_FOLDER = 32 << 20
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_JOLIET = (b"%/@", b"%/C", b"%/E")
_IS_FOLDER, _CONTINUES = 0x02, 0x80
_UDF_MARKS = (b"BEA01", b"NSR02", b"NSR03")


class ImageFault(Exception):
    """An image that cannot be read; the text says why."""


class UdfImage(ImageFault):
    """An image of UDF alone."""


@dataclass(frozen=True, slots=True)
class IsoFile:
    """One file of an image."""

    name: str  # with its folders, separated by "/"
    extents: tuple[tuple[int, int], ...]  # (first byte, length)

    @property
    def size(self) -> int:
        return sum(length for _, length in self.extents)


@dataclass(frozen=True, slots=True)
class _Record:
    """One entry of a folder."""

    name: str
    begin: int
    length: int
    flags: int


def is_image(file: BinaryIO) -> bool:
    """Check whether a file is an image of a disc, of ISO 9660 or UDF."""
    return bool(_marks(file) & {b"CD001", *_UDF_MARKS})


def _marks(file: BinaryIO) -> set[bytes]:
    found = set()
    for number in range(_DESCRIPTORS, _DESCRIPTORS + 8):
        file.seek(number * SECTOR + 1)
        found.add(file.read(5))
    return found


def list_image_files(file: BinaryIO) -> Iterator[IsoFile]:
    """List every file of an image, folder by folder. Raises ImageFault."""
    marks = _marks(file)
    if b"CD001" not in marks:
        raise UdfImage("a disc image in UDF: write it as ISO 9660, or copy its files into a folder")
    end = file.seek(0, io.SEEK_END)
    root, is_joliet = _find_root(file, end)
    waiting, seen = [(root, "", 0)], set()
    while waiting:
        folder, path, depth = waiting.pop()
        if folder.begin in seen:
            continue
        seen.add(folder.begin)
        if len(seen) > _MOST_FOLDERS or depth > _MOST_DEPTH:
            raise ImageFault("the image has too many or too deep folders")
        below, files = _read_folder(file, folder, path, end, is_joliet)
        waiting += [(each, f"{path}{each.name}/", depth + 1) for each in reversed(below)]
        yield from files


def _find_root(file: BinaryIO, end: int) -> tuple[_Record, bool]:
    """The root folder, by Joliet's descriptor where there is one."""
    primary = None
    for number in range(_DESCRIPTORS, _DESCRIPTORS + _MOST_DESCRIPTORS):
        file.seek(number * SECTOR)
        sector = file.read(SECTOR)
        if len(sector) < SECTOR or sector[1:6] != b"CD001" or sector[0] == _TERMINATOR:
            break
        is_joliet = sector[0] == _SUPPLEMENTARY and sector[88:91] in _JOLIET
        if is_joliet or (sector[0] == _PRIMARY and primary is None):
            root = _parse_record(sector[156:190], end, is_joliet=False)
            if is_joliet:
                return root, True
            primary = root
    if primary is None:
        raise ImageFault("the image has no volume that can be read")
    return primary, False


def _read_folder(
    file: BinaryIO, folder: _Record, path: str, end: int, is_joliet: bool
) -> tuple[list[_Record], list[IsoFile]]:
    """The folders in a folder, and its files; parts of one file that follow each other are put together."""
    if folder.length > _LONGEST_FOLDER:
        raise ImageFault(f"folder {path or '/'} is too long")
    file.seek(folder.begin)
    data = file.read(folder.length)
    if len(data) < folder.length:
        raise ImageFault(f"the image ends inside folder {path or '/'}")
    below: list[_Record] = []
    files: list[IsoFile] = []
    parts: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        length = data[at]
        if not length:  # records do not cross sectors
            at = (at // SECTOR + 1) * SECTOR
            continue
        record = _parse_record(data[at : at + length], end, is_joliet)
        at += length
        if record.name in ("\0", "\1"):
            continue
        if record.flags & _IS_FOLDER:
            below.append(record)
            continue
        parts.append((record.begin, record.length))
        if not record.flags & _CONTINUES:
            files.append(IsoFile(f"{path}{record.name}", tuple(parts)))
            parts = []
    return below, files


def _parse_record(raw: bytes, end: int, is_joliet: bool) -> _Record:
    """A directory record (ECMA-119 section 9.1)."""
    if len(raw) < 34 or 33 + raw[32] > len(raw):
        raise ImageFault("a folder of the image is damaged")
    begin, length = int.from_bytes(raw[2:6], "little") * SECTOR, int.from_bytes(raw[10:14], "little")
    if begin + raw[1] * SECTOR + length > end:
        raise ImageFault("the image is cut short: it names bytes behind its end")
    name = raw[33 : 33 + raw[32]]
    if name in (b"\0", b"\1"):
        return _Record(name.decode("ascii"), begin, length, raw[25])
    text = name.decode("utf-16-be", "replace") if is_joliet else name.decode("ascii", "replace")
    text = text.partition(";")[0].rstrip(".").replace("/", "_")
    return _Record(text or "_", begin + raw[1] * SECTOR, length, raw[25])


class ExtentReader(io.RawIOBase):
    """The bytes of one file of an image, one after another."""

    def __init__(self, file: BinaryIO, found: IsoFile) -> None:
        self._file, self._left = file, [[begin, length] for begin, length in found.extents]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while self._left and not self._left[0][1]:
            self._left.pop(0)
        if not self._left:
            return 0
        extent = self._left[0]
        self._file.seek(extent[0])
        data = self._file.read(min(len(buffer), extent[1]))
        if not data:
            raise OSError(0, "the image is cut short")
        buffer[: len(data)] = data
        extent[0], extent[1] = extent[0] + len(data), extent[1] - len(data)
        return len(data)
