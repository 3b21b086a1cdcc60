"""A reserve of disk space: with it the gateway starts and records even on a file system that is completely full.

A file of some megabytes and a few empty ones are kept in data_dir. When room is needed, all are released at once, for
the catalog, its log, its log's index and the control socket. They are made again where there is twice as much
room. Whatever kind of room is used up (bytes, inodes, a quota, blocks smaller than a page), these gave it back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge.errors import Hindered, hindrance
from edge.errors.hindrance import CauseClass
from edge.model import Disk

log = logging.getLogger(__name__)
T = TypeVar("T")

#: What is kept free for the catalog by a file that can be let go of: so much, but not more than this part of the disk.
RESERVE_BYTES, RESERVE_FRACTION = 64 << 20, 0.02
#: Names kept by empty files, and the part of the inodes that they may take.
SPARE_NAMES, SPARE_FRACTION = 16, 0.05
#: A start with less room than this takes the reserve beforehand.
START_BYTES, START_INODES = 1 << 20, 8


class ReserveFile:
    """Room for the catalog on a full disk: without it, what was sent could not be noted, and so nothing evicted."""

    def __init__(self, data_dir: Path, disk: Callable[[], Disk]) -> None:
        self._path, self._disk = data_dir / "ballast", disk  # language: names on disk
        self._names = data_dir / "ballast.names"  # language: names on disk

    def drop(self) -> bool:
        """Give the room to the catalog. False when it was given already."""
        given = [path for path in (self._path, *self._spare_names()) if _remove(path)]
        if given:
            log.error("the disk is full: the catalog lives on its reserve now")
        return bool(given)

    def spend(self, work: Callable[[], T]) -> T:
        """Do what a full disk may prevent, on the reserve if need be. Raises what `work` raises."""
        try:
            return work()
        except (OSError, Hindered) as error:
            cause = hindrance.refine(hindrance.cause_of(error), self._path.parent)
            if hindrance.classify_cause(cause) is not CauseClass.FULL or not self.drop():
                raise
        return work()

    def drop_if_tight(self) -> None:
        """Release the reserve at a start where room is so short that even a mapped page might lack it."""
        disk = self._disk()
        if disk.free_bytes < START_BYTES or (disk.total_inodes and disk.free_inodes < START_INODES):
            self.drop()

    def keep(self) -> None:
        """Have the reserve, where there is twice its room."""
        disk = self._disk()
        size = min(RESERVE_BYTES, int(disk.total_bytes * RESERVE_FRACTION))
        if not self._path.exists() and disk.free_bytes >= 2 * size:
            self._allocate(size)
        missing = min(SPARE_NAMES, int(disk.total_inodes * SPARE_FRACTION)) - len(self._spare_names())
        if missing > 0 and disk.free_inodes >= 2 * SPARE_NAMES:
            self._keep_names()

    def _allocate(self, size: int) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            _remove(self._path)
            log.warning("no reserve for the catalog: %s", error.strerror)

    def _keep_names(self) -> None:
        try:
            self._names.mkdir(mode=0o700, exist_ok=True)
            for number in range(min(SPARE_NAMES, int(self._disk().total_inodes * SPARE_FRACTION))):
                (self._names / f"{number:02}").touch(mode=0o600)
        except OSError as error:
            log.warning("no names in reserve: %s", error.strerror)

    def _spare_names(self) -> list[Path]:
        try:
            return list(self._names.iterdir())
        except OSError:
            return []


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False  # it was given already, or the file system takes no change
    return True
