"""Causes that keep the gateway from taking objects now: the disk guard's mark, and recent failures.

What was met is over once nothing has met it for a while and a trial succeeds: doing once what a reception does.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from edge.errors import Cause, Hindered, StorageUnhealthy, hindrance
from edge.errors.hindrance import Hindrance, Hindrances, words_of
from edge.spool.room import DiskGuard
from edge.store.database import Store

log = logging.getLogger(__name__)

TRIAL = "trial.part"  # a crash leaves it to the next start, as any partial file
TRIAL_BYTES = 8192


class Reception:
    """See the module's docstring. Thread-safe."""

    def __init__(self, guard: DiskGuard, incoming: Path, db: Store) -> None:
        self._guard, self._incoming, self._db = guard, incoming, db
        self._hindrances = Hindrances()
        self._trying = threading.Lock()

    def note(self, cause: Cause) -> None:
        """Note that something was refused. What the guard and a failed storage refuse, they say themselves."""
        if cause is not Cause.FAILED and not self._guard.refusing:
            self._hindrances.note(cause)

    def current(self) -> tuple[Hindrance, ...]:
        """What refuses scanners now, beside a failed storage."""
        full = self._guard.hindrance
        others = (each for each in self._hindrances.current if full is None or each.cause is not full.cause)
        return (*([full] if full else []), *others)

    def check(self) -> None:
        """Is what was met over? A thread of its own finds out: a trial may wait, and a caller must not."""
        if not self._hindrances.wants_trial or self._db.failure is not None or not self._trying.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._try, name="trial", daemon=True).start()
        except RuntimeError:
            self._hindrances.note(Cause.THREADS)
            self._trying.release()

    def _try(self) -> None:
        try:
            self._conclude(try_reception(self._incoming, self._db))
        finally:
            self._trying.release()

    def _conclude(self, cause: Cause | None) -> None:
        if cause is None:
            if over := self._hindrances.end_quiet():
                log.warning("objects are accepted again: the gateway is no longer %s", ", ".join(map(words_of, over)))
        elif cause is not Cause.FAILED:
            self._hindrances.note(cause)


def try_reception(incoming: Path, db: Store) -> Cause | None:
    """Write a small file, make an empty transaction. Returns what hinders; None when both succeed."""
    try:
        _write(incoming / TRIAL)
        db.write(lambda conn: None)
    except (Hindered, StorageUnhealthy, OSError, MemoryError) as error:
        return hindrance.refine(hindrance.cause_of(error), incoming)
    return None


def _write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, TRIAL_BYTES)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)
