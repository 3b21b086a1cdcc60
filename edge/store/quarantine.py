"""Limits of quarantine: a part of the disk for all, and of one caller a tenth of that ([quarantine] most).

So junk cannot fill the disk and close the door to every scanner. What an object counts is its bytes, and at least
network.shares.QUARANTINE_LEAST for its inode and its rows. Beyond its share a caller's unreadable objects are not kept;
they are answered as before, that they failed, and their sender keeps them. What can be read is taken as ever.

The catalog is asked at the first object, and again at most once in REREAD_SECONDS while something does not fit.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge.network.shares import QUARANTINE_EACH, QUARANTINE_LEAST, Share, caller_of, limit_met
from edge.store.database import Store, Transaction

REREAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Unkept:
    """Objects that were not kept since quarantine became full for their sender; times in seconds since 1970."""

    count: int
    since: float
    last: float
    sender: str  # the AE title of the last one
    address: str


class QuarantineShare:
    """Decides whether an unreadable object is kept. Thread-safe."""

    def __init__(
        self,
        db: Store,
        total_bytes: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total_bytes`: of the file system."""
        self._db, self._total_bytes, self._monotonic = db, total_bytes, monotonic
        self._lock = threading.Lock()
        self._held: Counter[str] | None = None  # bytes by caller; None: not yet asked for
        self._read_at = 0.0
        self._unkept: Unkept | None = None
        self._share = Share(0, 0)  # at the last object

    def take(self, most: float, sender: str, address: str, size: int) -> bool:
        """Decide whether an object of `size` bytes is kept, and count it. `most`: the part of the disk for all."""
        total = int(most * self._total_bytes())
        share = self._share = Share(int(QUARANTINE_EACH * total), total)
        caller, count = caller_of(address), max(size, QUARANTINE_LEAST)
        with self._lock:
            held = self._held if self._held is not None else self._read()
            if self._is_beyond(share, held, caller, count) and self._monotonic() - self._read_at >= REREAD_SECONDS:
                held = self._read()  # a person may have decided about some of them
            if self._is_beyond(share, held, caller, count):
                self._note(sender, address)
                return False
            held[caller] += count
            return True

    @staticmethod
    def _is_beyond(share: Share, held: Counter[str], caller: str, count: int) -> bool:
        return limit_met(share, held[caller], held.total(), count, 1.0) is not None

    def _read(self) -> Counter[str]:
        with self._db.reading() as conn:
            self._held = in_quarantine(conn)
        self._read_at = self._monotonic()
        return self._held

    def _note(self, sender: str, address: str) -> None:
        now, known = time.time(), self._unkept
        found = replace(known, count=known.count + 1) if known else Unkept(1, now, now, sender, address)
        self._unkept = replace(found, last=now, sender=sender, address=address)

    def unkept(self) -> Unkept | None:
        """Report what was not kept, until there is room again for its sender; None: everything was kept."""
        with self._lock:
            if self._unkept is not None and self._monotonic() - self._read_at >= REREAD_SECONDS:
                caller = caller_of(self._unkept.address)
                if not self._is_beyond(self._share, self._read(), caller, QUARANTINE_LEAST):
                    self._unkept = None
            return self._unkept


def in_quarantine(conn: Transaction) -> Counter[str]:
    """Count the bytes in quarantine by caller."""
    rows = conn.execute(
        "SELECT address, sum(max(size, ?)) FROM instance"
        " WHERE state = 'quarantined' AND state IN ('conflict', 'quarantined', 'lost') GROUP BY address",
        (QUARANTINE_LEAST,),
    )
    found: Counter[str] = Counter()
    for address, count in rows:
        found[caller_of(address)] += count
    return found


def total_bytes(path: Path) -> int:
    """Get the size of a file system, as far as it is open to the gateway. Raises OSError."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
