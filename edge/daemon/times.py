"""The system's clock, watched: a leap is in the log, and what waits for a time that was never true waits no longer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.outbound import pace
from edge.outbound.confirm.pace import Pace
from edge.store import clock
from edge.store.database import Store, Transaction
from edge.store.leases import LEASE_SECONDS
from edge.text import span

log = logging.getLogger(__name__)

#: The longest that anything waits for its next try, and that a request for proof waits for its report; jitter included.
LONGEST_RETRY = 1.2 * max(pace.OWN_LONGEST, Pace().longest_resend)
LONGEST_REPORT = Pace().longest_deadline


class Times:
    """The gateway's watch over its clock. `check` and `correct` belong to one thread; any may ask `is_doubtful`."""

    def __init__(self, db: Store, wake_all: Callable[[], None], synchronized: Callable[[], bool | None]) -> None:
        """`wake_all` is called when something waits no longer; `synchronized`: does a time server set the clock?"""
        self._db, self._wake_all, self._synchronized = db, wake_all, synchronized
        with db.reading() as conn:
            self._watch = clock.Watch(clock.alive_at(conn))

    def check(self) -> None:
        """Has the clock leapt since the last check?"""
        leap = self._watch.observe()
        if leap:
            log.warning("the system's clock was set %s by %s", "ahead" if leap > 0 else "back", span(abs(leap)))
        if leap < 0:
            self.correct()

    def correct(self) -> None:
        """Bring back the times in the catalog that a clock wrote which was ahead."""
        now, waits = time.time(), clock.Waits(LONGEST_RETRY, LEASE_SECONDS, LONGEST_REPORT)
        with self._db.reading() as conn:
            if not clock.ahead_seconds(conn, now, waits):
                return

        def work(conn: Transaction) -> clock.Correction | None:
            found = clock.correct(conn, now, waits)
            if found is not None:
                clock.record_correction(conn, found)
            return found

        if (found := self._db.write(work)) is not None:
            ahead = span(found.ahead_seconds)
            log.warning("%d stored times lay up to %s in the future, and are corrected", found.rows, ahead)
            self._wake_all()

    def is_doubtful(self) -> bool:
        """May the clock be ahead?"""
        return self._watch.doubtful(self._synchronized())

    @property
    def leap_seconds(self) -> float:
        """The last leap, as long as the clock is doubtful; 0.0 else."""
        return self._watch.leap_seconds if self.is_doubtful() else 0.0
