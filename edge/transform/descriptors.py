"""Files by their descriptor alone: opened elsewhere, read and written by position.

Nothing here asks the system for more than pread, pwrite and lseek, so it works where everything else is denied.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_BUFFER = 65_536  # bytes


class _ByPosition(io.RawIOBase):
    """A descriptor with a position of its own. `close` leaves the descriptor open and ends the use of it."""

    def __init__(self, descriptor: int, *, readable: bool, writable: bool) -> None:
        self._descriptor, self._readable, self._writable = descriptor, readable, writable
        self._at = 0

    def readable(self) -> bool:
        return self._readable

    def writable(self) -> bool:
        return self._writable

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = os.preadv(self._descriptor, [buffer], self._at)
        self._at += count
        return count

    def write(self, data: ReadableBuffer) -> int:
        if self.closed:
            raise ValueError("write to a closed file")
        count = os.pwrite(self._descriptor, data, self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        if base is None:
            base = os.lseek(self._descriptor, 0, os.SEEK_END)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at


def reader(descriptor: int) -> io.BufferedReader:
    """A descriptor to read."""
    return io.BufferedReader(_ByPosition(descriptor, readable=True, writable=False), _BUFFER)


def writer(descriptor: int) -> io.BufferedWriter:
    """A descriptor to write."""
    return io.BufferedWriter(_ByPosition(descriptor, readable=False, writable=True), _BUFFER)


def new_file(descriptor: int) -> io.BufferedRandom:
    """A descriptor to write and to read again."""
    return io.BufferedRandom(_ByPosition(descriptor, readable=True, writable=True), _BUFFER)
