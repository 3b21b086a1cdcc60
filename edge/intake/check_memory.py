"""Results of identity checks that let images go, by series: the next slice of a series needs no look-up.

Only what was committed is noted, and only where nothing has been forgotten since it was read: HL7, or a check that is
made again, may change any result. One that holds images is never remembered, for a person may decide at any time.
"""

from __future__ import annotations

import threading

from edge.identity.checks import CheckResult, IdentityCheck
from edge.store import identity_checks
from edge.store.database import Transaction


class CheckMemory:
    """See the module's docstring. Thread-safe."""

    MOST = 4096

    def __init__(self) -> None:
        self._lock, self._known, self.version = threading.Lock(), set[int](), 0

    def find(self, conn: Transaction, series: int) -> IdentityCheck | None:
        """The check of a series row where it matters; None: images go."""
        if series in self._known:
            return None
        return identity_checks.find_check(conn, series)

    def note(self, series: int, check: IdentityCheck | None, version: int) -> None:
        """Images of a series go, as was read at this version and is committed."""
        if check is not None and check.result is CheckResult.DIFFERS:
            return
        with self._lock:
            if version == self.version:
                if len(self._known) >= self.MOST:
                    self._known.clear()
                self._known.add(series)

    def forget(self) -> None:
        """Results may be others from now on. To be called inside the transaction that changes them."""
        with self._lock:
            self._known.clear()
            self.version += 1
