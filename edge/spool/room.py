"""Room on the disk: is there enough to take an object?"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge.config.sections import Config
from edge.errors import Cause, StorageFull
from edge.errors.hindrance import Hindrance, words_of
from edge.model import Disk

log = logging.getLogger(__name__)

#: Bytes of one object after which free room is checked again.
ROOM_EVERY = 8 << 20
#: Once refusing, objects are taken again only this much below `storage.refuse`: no flapping at the mark.
HYSTERESIS = 0.005


def disk_of(path: Path) -> Disk:
    """The file system that holds `path`, or its nearest parent that exists, as `df` reports it."""
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return disk_of(path.parent)
    used = found.f_blocks - found.f_bfree
    return Disk(
        (used + found.f_bavail) * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files - found.f_ffree + found.f_favail if found.f_files else 0,
        found.f_favail,
        bool(found.f_flag & os.ST_RDONLY),
    )


class DiskGuard:
    """May bytes be taken? Asked before every object, and again within long ones; from any thread."""

    def __init__(
        self,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        owed: Callable[[], tuple[int, int]] = lambda: (0, 0),
        most_owed: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """`owed`: files and bytes that are answered and not in the spool yet; never more than `most_owed`."""
        self._config, self._disk, self._owed, self._most_owed = config, disk, owed, most_owed or owed
        self._lock = threading.Lock()
        self._found: Hindrance | None = None  # why nothing is taken
        self.on_refusing: Callable[[], None] = lambda: None  # called when it begins: retention is to run at once

    def check_room(self) -> None:
        """Raises StorageFull while the file system is too full."""
        if found := self.hindrance:
            raise StorageFull(found.text, found.cause)

    @property
    def refusing(self) -> bool:
        return self.hindrance is not None

    @property
    def hindrance(self) -> Hindrance | None:
        """Why nothing is taken. Asked each time: statvfs(2) takes microseconds, a disk fills in a second."""
        with self._lock:
            before, found = self._found, self._measure()
            if found and before and found.cause is before.cause:
                found = replace(found, since=before.since)
            self._found = found
        if found and not before:
            log.error("nothing more is accepted: %s", found.text)
            self.on_refusing()
        elif before and not found:
            log.warning("there is room again: objects are accepted")
        return found

    def _measure(self) -> Hindrance | None:
        mark, now = self._config().storage.refuse, time.time()
        try:
            disk = self._disk()
        except OSError as error:
            text = f"the file system cannot be read ({error.strerror or error})"
            return Hindrance(Cause.UNKNOWN_ROOM, now, text=text)
        if disk.is_read_only:
            return Hindrance(Cause.READ_ONLY, now, text=f"the gateway is {words_of(Cause.READ_ONLY)}")
        limit = mark - (HYSTERESIS if self._found else 0.0)
        if disk.reduce_free(*self._most_owed()).fullest < limit:
            return None  # whatever is owed: to add that up, object by object, takes longer than all else here
        disk = disk.reduce_free(*self._owed())
        if (used := disk.used_fraction) >= limit:
            return Hindrance(Cause.BYTES, now, used, mark, f"the disk is {used:.1%} full, storage.refuse is {mark:.1%}")
        if (used := disk.used_inodes_fraction) >= limit:
            text = f"{used:.1%} of the inodes are used, storage.refuse is {mark:.1%}"
            return Hindrance(Cause.INODES, now, used, mark, text)
        return None
