"""Copies of data sets on disk: the original as plain elements, and a Part 10 file of its bytes with edits.

A deflated data set (PS3.5 section A.5) is inflated into an unnamed file first, and deflated again on the way out, so
that its elements can be changed like others. Memory does not grow with the object.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import xxhash

from edge.dicom.elements import DEFLATED
from edge.dicom.header import Read, read_at
from edge.errors import TransformError
from edge.text import MIB

_STEP = MIB
#: Of an inflated data set, so that a few bytes do not fill the disk.
LARGEST_INFLATED = 1024 * MIB


@dataclass(frozen=True, slots=True)
class PlainDataSet:
    """A data set that is not deflated."""

    read: Read
    length: int


@dataclass(frozen=True, slots=True)
class WrittenCopy:
    """A Part 10 file that was written; it can be made again, so it is not synced."""

    path: Path
    dataset_offset: int
    size: int  # of the file, in bytes
    sha256: bytes  # of its data set
    xxh3: bytes


@contextmanager
def read_plain(fd: int, offset: int, length: int, transfer_syntax_uid: str, folder: Path) -> Iterator[PlainDataSet]:
    """The data set at `offset` of an open file. Raises TransformError, OSError where the disk fails."""
    if transfer_syntax_uid not in DEFLATED:
        yield PlainDataSet(read_at(fd, offset), length)
        return
    with TemporaryFile(buffering=0, dir=folder) as plain:
        inflated = 0
        for piece in _inflate(fd, offset, length):
            inflated += plain.write(piece)
            if inflated > LARGEST_INFLATED:
                raise TransformError(f"too large to change: more than {LARGEST_INFLATED // MIB} MiB inflated")
        inner = plain.fileno()
        yield PlainDataSet(read_at(inner, 0), inflated)


def _inflate(fd: int, offset: int, length: int) -> Iterator[bytes]:
    inflate, at, end = zlib.decompressobj(-zlib.MAX_WBITS), offset, offset + length
    while not inflate.eof:
        deflated = inflate.unconsumed_tail
        if not deflated:
            deflated = os.pread(fd, min(_STEP, end - at), at) if at < end else b""
            at += len(deflated)
        try:
            piece = inflate.decompress(deflated, _STEP)
        except zlib.error:
            raise TransformError("cannot be changed: the data set cannot be inflated") from None
        if not deflated and not piece and not inflate.eof:
            raise TransformError("cannot be changed: the deflated data set is cut short")
        yield piece


def write_copy(path: Path, head: bytes, pieces: Iterable[bytes], transfer_syntax_uid: str) -> WrittenCopy:
    """Write a new file (mode 0600) of a head and the pieces of a plain data set. None is left after an error."""
    sha256, xxh3, size = hashlib.sha256(), xxhash.xxh3_128(), len(head)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_fully(fd, head)
        for piece in encode_pieces(pieces, transfer_syntax_uid):
            _write_fully(fd, piece)
            sha256.update(piece)
            xxh3.update(piece)
            size += len(piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return WrittenCopy(path, len(head), size, sha256.digest(), xxh3.digest())


def encode_pieces(pieces: Iterable[bytes], transfer_syntax_uid: str) -> Iterable[bytes]:
    """The pieces of a plain data set as its transfer syntax has them: deflated, or as they are."""
    return _deflate(pieces) if transfer_syntax_uid in DEFLATED else pieces


def _deflate(pieces: Iterable[bytes]) -> Iterator[bytes]:
    deflate, size = zlib.compressobj(wbits=-zlib.MAX_WBITS), 0
    for piece in pieces:
        made = deflate.compress(piece)
        size += len(made)
        yield made
    made = deflate.flush()
    yield made + bytes((size + len(made)) & 1)


def _write_fully(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def digests_of(path: Path, offset: int) -> tuple[bytes, bytes]:
    """SHA-256 and XXH3-128 of a file's data set."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while piece := file.read(_STEP):
            sha256.update(piece)
            xxh3.update(piece)
    return sha256.digest(), xxh3.digest()
