"""Segments: their header, the ring's size (pure), and how they are laid out, recycled and opened.

A segment is written with zeros before use, so that a later flush changes no metadata of the file system. Laying out and
recycling are the daemon's alone. Raises StorageFull, Shortage or StorageUnhealthy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.errors import Cause, StorageUnhealthy, hindrance
from edge.journal.record import BLOCK, UnknownFormat
from edge.text import MIB

log = logging.getLogger(__name__)

SEGMENT_MAGIC = b"EDGESEG1"
SEGMENT_VERSION = 1
LEAST_RING, MOST_RING = 256 * MIB, 8192 * MIB
MOST_SEGMENT = 16 * MIB
#: On a small file system the ring takes no more than this share of it.
SMALL_SHARE = 8
#: The ring takes this share of the file system, and has this number of segments at least.
SHARE, LEAST_SEGMENTS = 50, 32
SUFFIX, NEW_SUFFIX, DAMAGED_SUFFIX = ".seg", ".new", ".damaged"
#: Zeros are synced after this number of bytes: an association's flush is not to wait behind a whole segment.
SYNC_EVERY = 4 * MIB

#: What a flush, or the opening before it, may lack without the disk being broken: its segment is
#: not used on, and others may be.
MAY_STOP_A_FLUSH = frozenset({Cause.BYTES, Cause.INODES, Cause.QUOTA, Cause.MEMORY, Cause.BUSY, Cause.DESCRIPTORS})

_HEADER = struct.Struct("<8sHHLQ16sQ")
_SUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class RingSize:
    """How many segments, and of how many bytes."""

    segments: int
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    number: int
    generation: int
    salt: bytes
    size: int


# -- pure --------------------------------------------------------------------------------------------------------------


def ring_size(disk_bytes: int) -> RingSize:
    """The ring of a file system of this number of bytes."""
    least = min(LEAST_RING, disk_bytes // SMALL_SHARE)
    ring = min(max(disk_bytes // SHARE, least, 4 * MIB), MOST_RING)
    segment = max(min(ring // LEAST_SEGMENTS, MOST_SEGMENT) // MIB, 1) * MIB
    return RingSize(ring // segment, segment)


def encode_header(header: SegmentHeader) -> bytes:
    """One block."""
    said = _HEADER.pack(SEGMENT_MAGIC, SEGMENT_VERSION, 0, header.number, header.generation, header.salt, header.size)
    return (said + hashlib.sha256(said).digest()[:_SUM_BYTES]).ljust(BLOCK, b"\0")


def decode_header(block: bytes) -> SegmentHeader | None:
    """None when it is not whole. Raises UnknownFormat."""
    said, digest = block[: _HEADER.size], block[_HEADER.size : _HEADER.size + _SUM_BYTES]
    if said[:8] != SEGMENT_MAGIC or hashlib.sha256(said).digest()[:_SUM_BYTES] != digest:
        return None
    _, version, _, number, generation, salt, size = _HEADER.unpack(said)
    if version != SEGMENT_VERSION:
        raise UnknownFormat(f"the journal has a segment of format {version}: go back to the newer version")
    return SegmentHeader(number, generation, salt, size)


def file_name(number: int) -> str:
    return f"{number:08}{SUFFIX}"


def number_of(path: Path) -> int:
    return int(path.stem)


# -- effects -----------------------------------------------------------------------------------------------------------


def is_segment(path: Path) -> bool:
    return path.suffix == SUFFIX and path.stem.isdecimal()


def list_segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_segment(path))


@contextlib.contextmanager
def storage_errors(operation: str, *, is_flush: bool = False) -> Iterator[None]:
    """Turns an OSError into what it means; `operation` names no path."""
    try:
        yield
    except OSError as error:
        cause = hindrance.cause_of(error)
        if is_flush and cause not in MAY_STOP_A_FLUSH:
            raise StorageUnhealthy(f"could not {operation}: {error.strerror}") from error
        raise hindrance.error_for(cause, f"could not {operation}") from error


def read_segment_header(path: Path) -> SegmentHeader | None:
    """The header, from whichever copy is whole and newer; None when neither is. Raises OSError, UnknownFormat."""
    found: list[SegmentHeader] = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset in (0, os.fstat(fd).st_size // BLOCK * BLOCK - BLOCK):
            try:
                header = decode_header(os.pread(fd, BLOCK, max(offset, 0)))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                log.warning("a copy of the header of %s cannot be read: %s", path.name, error.strerror)
                continue
            if header is not None and header.number == number_of(path):
                found.append(header)
    finally:
        os.close(fd)
    return max(found, key=lambda header: header.generation, default=None)


def lay_out_segment(folder: Path, number: int, size: int, generation: int) -> None:
    """Make a new segment: zeros and headers, synced, under its name, synced. A failure leaves nothing behind."""
    new, final = folder / f"{number:08}{NEW_SUFFIX}", folder / file_name(number)
    with storage_errors("lay out a segment of the journal"):
        try:
            _write_zeros(new, size)
            _write_headers(new, SegmentHeader(number, generation, secrets.token_bytes(16), size))
            os.rename(new, final)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        sync_folder(folder)


def recycle(path: Path, generation: int) -> None:
    """Give an applied segment its next generation. Its older records are dead when this returns."""
    with storage_errors("recycle a segment of the journal", is_flush=True):
        _write_headers(path, SegmentHeader(number_of(path), generation, secrets.token_bytes(16), path.stat().st_size))


def keep_damaged(path: Path) -> None:
    """Give a segment with damage another name, for a person: the ring then lays out another in its place."""
    header = read_segment_header(path)
    generation = header.generation if header is not None else time.time_ns() // 1000
    with storage_errors("keep a damaged segment"), contextlib.suppress(FileExistsError):
        os.link(path, path.with_name(f"{path.stem}-{generation:016x}{DAMAGED_SUFFIX}"))
    with storage_errors("keep a damaged segment"):
        sync_folder(path.parent)


def _write_zeros(path: Path, size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        zeros = bytes(MIB)
        for offset in range(0, size, MIB):
            write_all(fd, memoryview(zeros)[: size - offset], offset)
            if (offset + MIB) % SYNC_EVERY == 0:
                os.fdatasync(fd)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _write_headers(path: Path, header: SegmentHeader) -> None:
    """The copy at the end first: whichever of the two a crash leaves, the newer one counts."""
    block = memoryview(encode_header(header))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in (header.size - BLOCK, 0):
            write_all(fd, block, offset)
            os.fdatasync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_for_append(path: Path) -> tuple[int, bool]:
    """(descriptor, is it O_DIRECT), of a segment that no other writer has; BlockingIOError when one has it."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        fd, is_direct = os.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd, is_direct = os.open(path, flags), False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd, is_direct
