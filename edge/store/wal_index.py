"""The index of the catalog's log (`catalog.db-shm`), laid out beforehand: on a full disk it must not lack a block.

SQLite maps this file, and makes sure of room by writing one byte into each page of 4096 bytes. Where the blocks of the
file system are smaller, the rest of the page has no block yet; the first store there on a full disk ends the process
with SIGBUS, without a word (os_unix.c, unixShmMap). So all blocks are allocated before SQLite maps any.

The first to attach would cut the file to three bytes (os_unix.c, unixLockSharedMemory), unless somebody else holds a
shared lock on its 128th byte. An open file description lock (fcntl(2), F_OFD_SETLK) is somebody else's even in this
process. It is held as long as the file descriptor is open.

Limits: any close of this file by this process ends the locks that SQLite holds on it (fcntl(2)). So the descriptor is
to be closed when no connection is open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Of 32 KiB for 4,096 frames of the log each: enough for twice the frames after which the log restarts.
PART_BYTES = 32_768
INDEX_BYTES = 8 * PART_BYTES
_LOCK_BYTE = 128  # os_unix.c, UNIX_SHM_DMS
_FULL = (errno.ENOSPC, errno.EDQUOT)


def lay_out(database: Path) -> int | None:
    """Allocate the index of a catalog. Returns the descriptor that keeps it so; None where that cannot be had.

    Raises OSError where there is no room for it, and where descriptors are short.
    """
    path = Path(f"{database}-shm")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (PermissionError, FileNotFoundError):
        return None  # a reader who may not write: SQLite will say so
    try:
        _give_to_owner(fd, database)
        is_alone = _lock(fd, fcntl.F_WRLCK)
        size = _allocate(fd, is_alone=is_alone)
        if is_alone:  # what a crash left may be anything; zeros are an index that is made from the log
            os.pwrite(fd, bytes(size), 0)
        _lock(fd, fcntl.F_RDLCK)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def laid_out(database: Path) -> Iterator[None]:
    """Keep the index allocated around all connections of this process."""
    fd = lay_out(database)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _allocate(fd: int, *, is_alone: bool) -> int:
    """Allocate; on a nearly full disk only the first part, for the log cannot grow there either. Returns how much."""
    try:
        os.posix_fallocate(fd, 0, INDEX_BYTES)
    except OSError as error:
        if error.errno in _FULL:
            if is_alone:  # nobody maps it: what was had of the rest is given back
                os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, PART_BYTES)
            return PART_BYTES
    return INDEX_BYTES


def _lock(fd: int, kind: int) -> bool:
    """False where another process has attached."""
    # struct flock of fcntl(2), in 64 bits: type, whence, padding, start, length, pid
    wanted = struct.pack("hhxxxxqqixxxx", kind, os.SEEK_SET, _LOCK_BYTE, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EINVAL):
            return False
        raise
    return True


def _give_to_owner(fd: int, database: Path) -> None:
    """Root reads the catalog of another user: what it makes must be that user's, as SQLite does it itself."""
    if os.geteuid() == 0:
        with suppress(OSError):
            owner = os.stat(database)
            os.fchown(fd, owner.st_uid, owner.st_gid)
