"""Protection against a wrong clock.

Promise: whatever the clock said before, nothing waits longer than its own longest wait, and no age is counted from a
time in the future: `correct` shortens such waits, at the start, when the clock is set back, and every few minutes. A
clock that leaps ahead, and that nothing sets, lets nothing expire early: see `Watch.doubtful`.

Limits: times that are a record (when something was received, sent, written in the ledger) stay as written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

#: A difference between the clock and the time that has passed is a leap from this number of seconds on.
LEAP_SECONDS = 60.0
#: A clock that was ahead this long, and is not set by anything, is believed.
BELIEVED_SECONDS = 86400.0
#: Longer than anybody leaves a gateway switched off: found at the start, it is a leap.
LONGEST_DOWNTIME_SECONDS = 7 * 86400.0
#: Not a leap: clocks are set by fractions of a second.
SLACK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Waits:
    """The longest that each kind of work ever waits, in seconds."""

    retry: float
    lease: float
    report: float


#: What is put right, each a statement with :now and one of the longest waits. A time that decides, and that is beyond
#: both, was written by a clock that was ahead.
_CORRECTIONS = (
    "UPDATE delivery SET not_before = :now WHERE state = 'deferred' AND not_before > :now + :retry + :slack",
    "UPDATE delivery SET queued_at = :now WHERE state = 'pending' AND queued_at > :now + :slack",
    "UPDATE delivery SET queued_at = :now WHERE state = 'deferred' AND queued_at > :now + :slack",
    "UPDATE delivery SET queued_at = :now WHERE state = 'held' AND queued_at > :now + :slack",
    "UPDATE delivery SET lease_until = :now + :lease WHERE state = 'active' AND lease_until > :now + :lease + :slack",
    "UPDATE delivery SET sent_at = :now WHERE state = 'sent' AND sent_at > :now + :slack",
    "UPDATE commitment SET deadline = :now + :report WHERE ended_at IS NULL AND deadline > :now + :report + :slack",
    "UPDATE commitment SET asked_at = :now WHERE ended_at IS NULL AND asked_at > :now + :slack",
    "UPDATE commitment SET ended_at = :now WHERE ended_at > :now + :slack",
    "UPDATE commitment_request SET not_before = min(not_before, :now), requested_at = min(requested_at, :now),"
    " tried_at = min(tried_at, :now) WHERE state <> 'reported'"
    " AND max(not_before - :retry, requested_at, coalesce(tried_at, 0)) > :now + :slack",
    "UPDATE step_delivery SET not_before = :now WHERE state = 'pending' AND not_before > :now + :retry + :slack",
    "UPDATE performed_step SET compare_at = :now WHERE compare_at > :now + :retry + :slack",
    "UPDATE worklist_source SET as_of = min(as_of, :now), failed_at = min(failed_at, :now)"
    " WHERE max(coalesce(as_of, 0), coalesce(failed_at, 0)) > :now + :slack",
    "UPDATE prefetch_request SET not_before = :now WHERE not_before > :now + :retry + :slack",
    "UPDATE prefetch_study SET not_before = :now WHERE not_before > :now + :retry + :slack",
    "UPDATE instance SET confirmed_at = :now WHERE state = 'stored' AND open_deliveries = 0 AND hold = ''"
    " AND confirmed_at IS NOT NULL AND confirmed_at > :now + :slack",
    "UPDATE instance SET discarded_at = :now WHERE state = 'discarded' AND deleted_at IS NULL"
    " AND discarded_at > :now + :slack",
    "UPDATE delivery SET broke_at = :now WHERE state = 'deferred' AND broke_at > :now + :slack",
    "UPDATE delivery SET broke_at = :now WHERE state = 'active' AND broke_at > :now + :slack",
    "UPDATE delivery SET broke_at = :now WHERE state = 'pending' AND broke_at > :now + :slack",
    "UPDATE taken_along SET noted_at = :now WHERE noted_at > :now + :slack",
    "UPDATE study_patient SET alarmed_at = :now WHERE alarmed_at IS NOT NULL AND settled_at IS NULL"
    " AND alarmed_at > :now + :slack",
    "UPDATE destination SET since = min(since, :now), last_success = min(last_success, :now), retry_at ="
    " min(retry_at, :now + :retry) WHERE max(since, coalesce(last_success, 0), coalesce(retry_at, 0) - :retry)"
    " > :now + :slack",
    "UPDATE message SET at = :now WHERE at > :now + :slack",
    "UPDATE alert SET since = min(since, :now), seen_at = min(seen_at, :now), gone_at = min(gone_at, :now),"
    " escalated_at = min(escalated_at, :now), acknowledged_at = min(acknowledged_at, :now)"
    " WHERE ended_at IS NULL AND max(since, seen_at, coalesce(gone_at, 0), coalesce(escalated_at, 0),"
    " coalesce(acknowledged_at, 0)) > :now + :slack",
    "UPDATE downtime SET began = min(began, :now), ended = :now WHERE ended > :now + :slack",
    "UPDATE account SET changed_at = :now WHERE changed_at > :now + :slack",
    "UPDATE peer SET first_seen = min(first_seen, :now), last_seen = min(last_seen, :now),"
    " last_stored = min(last_stored, :now), described_at = min(described_at, :now)"
    " WHERE max(last_seen, coalesce(last_stored, 0), coalesce(described_at, 0)) > :now + :slack",
    "DELETE FROM heard WHERE hour > CAST((:now + :slack) / 3600 AS INTEGER)",
    "DELETE FROM sample WHERE at > :now + :slack",
)
#: The latest that the clock must have shown, by what was written with it; each found by an index.
_LATEST = """
SELECT max(coalesce(at, 0)) FROM (
    SELECT max(not_before) - :retry AS at FROM delivery WHERE state = 'deferred'
    UNION ALL SELECT max(lease_until) - :lease FROM delivery WHERE state = 'active'
    UNION ALL SELECT max(sent_at) FROM delivery WHERE state = 'sent' AND transaction_id IS NULL
    UNION ALL SELECT max(deadline) - :report FROM commitment WHERE ended_at IS NULL
    UNION ALL SELECT max(confirmed_at) FROM instance WHERE state = 'stored' AND open_deliveries = 0 AND hold = ''
        AND confirmed_at IS NOT NULL
    UNION ALL SELECT max(at) FROM sample WHERE name = 'disk.used'
    UNION ALL SELECT max(last_seen) FROM peer
    UNION ALL SELECT max(since) FROM alert WHERE ended_at IS NULL
    UNION ALL SELECT at FROM (SELECT at FROM ledger ORDER BY seq DESC LIMIT 1)
)
"""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a wrong clock had written, and what became of it."""

    at: float  # when it was put right, seconds since 1970
    rows: int
    ahead_seconds: float  # how far the clock had been ahead


def ahead_seconds(conn: Transaction, now: float, waits: Waits) -> float:
    """How far the clock that wrote the catalog was ahead of `now`; 0.0 where it was not."""
    latest = conn.execute(_LATEST, asdict(waits)).fetchone()[0] or 0.0
    return float(latest - now) if latest - now > SLACK_SECONDS else 0.0


def correct(conn: Transaction, now: float, waits: Waits) -> Correction | None:
    """Bring back what waits for a time that a wrong clock had set; None when there was nothing."""
    ahead = ahead_seconds(conn, now, waits)
    if not ahead:
        return None
    given = {"now": now, "slack": SLACK_SECONDS} | asdict(waits)
    rows = sum(conn.execute(statement, given).rowcount for statement in _CORRECTIONS)
    return Correction(now, rows, ahead) if rows else None


#: Where the last correction is kept, in the table of the gateway's own facts.
_FACT = "clock_corrected"


def record_correction(conn: Transaction, found: Correction) -> None:
    """Keep a correction for the alert that reports it."""
    remember(conn, _FACT, json.dumps(asdict(found)))


def last_correction(conn: Transaction) -> Correction | None:
    kept = recall(conn, _FACT)
    return Correction(**json.loads(kept)) if kept else None


def alive_at(conn: Transaction) -> float | None:
    """The last sign of life that the catalog has."""
    kept = recall(conn, "alive_at")
    return float(kept) if kept else None


def boot_seconds() -> float:
    """Seconds that have passed, sleep of the machine included: nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Watch:
    """Compares the clock with the time that has passed. One thread calls `observe`; any may ask `doubtful`."""

    def __init__(
        self,
        alive_at: float | None,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = boot_seconds,
    ) -> None:
        """`alive_at`: the last sign of life of the run before."""
        self._clock, self._passed = clock, passed
        now = clock()
        self._before = now - passed()
        self._leapt_at: float | None = None  # by `passed`
        self.leap_seconds = 0.0  # of the last leap; positive: ahead
        if alive_at is not None and now - alive_at > LONGEST_DOWNTIME_SECONDS:
            self._leap(now - alive_at)

    def observe(self) -> float:
        """The leap since the last call, in seconds; 0.0 where there was none."""
        offset = self._clock() - self._passed()
        leap, self._before = offset - self._before, offset
        if abs(leap) < LEAP_SECONDS:
            return 0.0
        self._leap(leap)
        return leap

    def _leap(self, seconds: float) -> None:
        self.leap_seconds = seconds
        self._leapt_at = self._passed() if seconds > 0 else None  # set back: what was ahead is over

    def doubtful(self, synchronized: bool | None) -> bool:
        """May the clock be ahead? After a leap, until a time server vouches for it or a day has passed."""
        if self._leapt_at is None or synchronized:
            return False
        return self._passed() - self._leapt_at < BELIEVED_SECONDS
