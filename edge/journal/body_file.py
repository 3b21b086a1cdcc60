"""A data set that is longer than a receive buffer: a file beside the segments, which its record names.

Promise: when `seal` returns, the file's bytes and its name are on stable storage; only then its record is appended, and
the object answered. Behind the answer the file is moved into the spool as it is: it begins with preamble and File Meta.
A file that no record names was never answered: the next start removes it. Raises Hindered or StorageUnhealthy.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from edge.errors import hindrance
from edge.journal import record, segment

BODY_SUFFIX = ".part"
#: After this number of bytes the kernel is made to write them, and those before are waited for: the sync is short then.
WRITE_BACK_EVERY = 8 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_START, _WAIT = 2, 1 | 2 | 4  # flags of sync_file_range(2)


def body_file_name(file: bytes) -> str:
    """The name of the file that a head names."""
    return f"{file.hex()}{BODY_SUFFIX}"


class BodyFile:
    """One that is being received."""

    def __init__(self, folder: Path, prefix: bytes, pool: int = 0) -> None:
        """`pool`: of the door that receives it; the file's name begins with it."""
        self.id, self._prefix = bytes([pool]) + secrets.token_bytes(record.FILE_ID_BYTES - 1), len(prefix)
        self.length = self._written_back = 0  # of the data set, without the prefix
        self._folder, self._path = folder, folder / body_file_name(self.id)
        self._sum = record.Checksum(record.XXH3)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with segment.storage_errors("create a file of the journal"):
            self._fd = hindrance.retry_shortages(lambda: os.open(self._path, flags, 0o600))
        try:
            with segment.storage_errors("write a file of the journal"):
                segment.write_all(self._fd, memoryview(prefix), 0)
        except BaseException:
            self.discard()
            raise

    @property
    def checksum(self) -> bytes:
        """XXH3-128 of the data set."""
        return self._sum.digest()

    def write(self, view: memoryview) -> None:
        with segment.storage_errors("write a file of the journal"):
            segment.write_all(self._fd, view, self._prefix + self.length)
            self._sum.update(view)
            self.length += len(view)
            if self.length - self._written_back >= WRITE_BACK_EVERY:
                _sync_range(self._fd, self._prefix + self._written_back, self.length - self._written_back, _START)
                if self._written_back:
                    _sync_range(self._fd, 0, self._prefix + self._written_back, _WAIT)
                self._written_back = self.length

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the data set that have been written."""
        with segment.storage_errors("read a file of the journal"):
            return os.pread(self._fd, count, self._prefix + offset)

    def seal(self) -> None:
        """Make the file durable."""
        with segment.storage_errors("sync a file of the journal", is_flush=True):
            os.fdatasync(self._fd)
            segment.sync_folder(self._folder)

    def hand_over(self) -> None:
        """Leave the file to its record, whose flush begins: from here on nobody knows whether the disk has that."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    def discard(self) -> None:
        """Remove the file, unless it is its record's."""
        if self._fd >= 0:
            self.hand_over()
            with contextlib.suppress(OSError):  # the next start removes it
                self._path.unlink()


def _sync_range(fd: int, offset: int, length: int, flags: int) -> None:
    if _LIBC.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def list_files(folder: Path, pool: int | None = None) -> list[Path]:
    """All, or those that the door of a pool has received."""
    return sorted(folder.glob(f"{'' if pool is None else f'{pool:02x}'}*{BODY_SUFFIX}"))


def drop_unanswered(paths: Iterable[Path], *, keep: bool) -> None:
    """Remove what is left once all is applied: no record names it. `keep`: a damaged head may have named it."""
    for path in paths:
        if path.exists():
            keep_damaged_file(path, path) if keep else path.unlink()


def keep_damaged_file(path: Path, home: Path) -> None:
    """Put a file aside for a person, beside the segments. `home`: where it lay while it was received."""
    with segment.storage_errors("put a damaged file aside"):
        path.rename(home.with_suffix(segment.DAMAGED_SUFFIX))
