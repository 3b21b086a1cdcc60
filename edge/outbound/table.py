"""The state of a destination's scheduler, and its decisions: how many may go, what is due, what is leased next.

Guarded by the scheduler's lock. Times of the fields are monotonic where nothing else is said.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from edge.model import ContextKey, Lease
from edge.network.answer_times import AnswerTally
from edge.outbound import pace
from edge.outbound.crew import Crew, SenderRole
from edge.outbound.job import Health, Job, JobResult, Killable, PendingJobs, WriteBatch
from edge.outbound.suspects import Suspicion
from edge.store.destinations import KnownHealth

log = logging.getLogger(__name__)

#: Associations beside the allowed ones, for objects that do not move on.
MOST_LATE = 32
#: Between checks whether what is under way progresses, while other work waits for its place.
WATCH_SECONDS = 0.05
#: Until a suspect that could not be tried may be leased again.
UNTRIED_SECONDS = 1.0
#: Results are written when SETTLE_AT wait, the first has waited for SETTLE_SECONDS, or nothing else is under way.
SETTLE_AT, SETTLE_SECONDS = 32, 0.1
#: From one object that goes alone to the next, where others want its place.
TURN_SECONDS = 10.0


class Table:
    """See the module's docstring."""

    def __init__(
        self,
        name: str,
        associations: int | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock` for times that are stored, `monotonic` for durations; `chance` in [0, 1) spreads retries."""
        self._name, self._clock, self._monotonic, self._chance = name, clock, monotonic, chance
        lock = threading.RLock()
        self._for_senders = threading.Condition(lock)  # something to take; also the lock of all below
        self._for_writer = threading.Condition(lock)
        self._writer_waits_until = 0.0
        self._pending = PendingJobs()
        self._under_way_by_id: dict[int, Job] = {}  # by delivery id, as are those that are being converted
        self._converting: dict[int, Job] = {}
        self._results: list[JobResult] = []
        self._writing = 0  # results in the batch that is being written
        self._oldest_result = 0.0
        self._back: list[Lease] = []
        self._crew = Crew()
        self._most = associations
        self.answers = AnswerTally()  # since the start
        self._circuit, self._tuner, self._meter = pace.UP, pace.Tuner(associations), pace.Meter()
        self._throughput, self._loan, self._suspicion = pace.Throughput(), pace.Loan(), Suspicion()
        self._refusals = pace.REFUSALS
        self._suspect: Job | None = None  # leased, until a sender of its own takes it
        self._suspect_at = 0.0  # when the next one is due, as far as is known
        self._turn_at = 0.0  # when one may take a place that others want
        self._wants_sample = self._wants_probe = False
        self._last_answer: float | None = None  # to any C-STORE, seconds since 1970
        self._taken = set[ContextKey]()  # kinds of objects that the destination has stored since the start
        self._since = clock()
        self._retry_at: float | None = None
        self._last_success: float | None = None
        self._last_error: str | None = None
        self._is_health_noted = self._closing = self._given_up = False
        self._news = True  # there may be pending work in the catalog
        self._leases = 0
        self._not_before = self._poll_at = self._renew_at = self._watch_at = 0.0

    def remember(self, health: KnownHealth) -> None:
        """Take over what the last run knew: a destination that was down then is tried with one probe first."""
        self._last_success, self._last_error = health.last_success, health.last_error
        self._last_answer = health.last_success
        if health.state == "down":
            self._since = health.since
            self._circuit = pace.Circuit(
                failures=1, retry_at=self._monotonic(), reason=health.last_error or "", refuses=health.refuses
            )

    @property
    def line_rate(self) -> float | None:
        """Bytes a second that all senders' associations carry while they send; None: not measured."""
        with self._for_senders:
            return self._meter.bytes_per_second(max(1, self._crew.count(SenderRole.WORK))) or None

    def health(self) -> Health:
        with self._for_writer:
            count = len(self._crew)
            rate = self._throughput.rate
            state = "up" if self._circuit.is_up else "down"
            answers = replace(self.answers, counts=list(self.answers.counts))
            known = (state, self._since, self._retry_at, self._last_success, self._last_error)
            refuses = self._circuit.refuses
            return Health(*known, refuses, count, rate, answers)

    def skip_lease(self, batch: WriteBatch) -> None:
        """Ask again for what a batch was to lease, and did not."""
        with self._for_writer:
            self._writing, self._is_health_noted, self._news = 0, False, True
            self._suspect_at = self._monotonic() if batch.suspect else self._suspect_at

    def stop_all(self) -> list[Killable]:
        """Give up all senders, to be stopped by force: what they carry goes back. After `close`."""
        with self._for_writer:
            self._for_writer.notify()
            return list(self._crew.clear())

    def _sender_limit(self, now: float) -> int:
        """How many senders of role WORK there may be."""
        if self._closing:
            return 0
        if not self._circuit.is_up:
            return self._circuit.allows(now, 1) if self._circuit.is_full else 0
        late = self._count_late() if self._loan.has_late and self._tuner.can_grow(now) else 0
        return self._tuner.limit(now) + min(2 * late, MOST_LATE)

    def _count_late(self) -> int:
        return sum(1 for job in self._under_way_by_id.values() if job.late and not job.alone)

    def _has_room_beside(self, now: float) -> bool:
        """May an association for one object be opened beside those for work?"""
        if not self._circuit.is_up or self._suspicion.wants_check or self._crew.count(SenderRole.ALONE):
            return False
        return self._tuner.can_grow(now) or self._crew.count(SenderRole.WORK) < self._tuner.limit(now)

    def _must_yield(self, now: float) -> bool:
        """Does an association between two objects give its place to one that goes alone, where there is no other?"""
        return self._suspect is not None and self._circuit.is_up and not self._has_room_beside(now)

    def _is_suspect_due(self, now: float) -> bool:
        """Is a suspect to be leased? Where associations are few: when nothing else waits, or now and then."""
        if self._closing or not self._circuit.is_up or self._suspect is not None or self._crew.count(SenderRole.ALONE):
            return False
        if now < max(self._suspect_at, self._suspicion.alone_at):
            return False
        return self._tuner.can_grow(now) or now >= self._turn_at or not (len(self._pending) or self._news)

    def _is_probe_due(self, now: float) -> bool:
        """Is C-ECHO to be sent: it is down, or several objects in a row have broken their associations?"""
        if self._circuit.is_up:
            is_due = self._suspicion.wants_check and (
                self._tuner.can_grow(now) or len(self._crew) < self._tuner.limit(now)
            )
        else:
            is_due = now >= self._circuit.retry_at and not self._crew
            is_due = is_due and (self._wants_probe or not self._circuit.is_full)
        return is_due and not self._crew.count(SenderRole.PROBE)

    def _openings(self, now: float) -> list[SenderRole]:
        if self._closing:
            return []
        if self._is_probe_due(now):
            return [SenderRole.PROBE]
        if self._suspect is not None and self._has_room_beside(now):
            return [SenderRole.ALONE]
        if not self._pending or self._suspicion.wants_check:
            return []
        working = self._crew.count(SenderRole.WORK)
        more = self._sender_limit(now) - working
        if more <= 0:
            return []
        idle = working - sum(1 for job in self._under_way_by_id.values() if not job.alone)
        return [SenderRole.WORK] * max(0, min(more, len(self._pending) - idle))

    def _due(self, now: float) -> float:
        """The moment at which the writer is to act."""
        if self._back or len(self._results) >= SETTLE_AT or not self._is_health_noted:
            return max(self._not_before, now)
        limit, _, sample = self._room(now)
        if limit or sample or self._openings(now):
            return max(self._not_before, now)
        busy = self._under_way_by_id or self._converting or self._pending
        times = [self._poll_at]
        if self._results:
            times.append(self._oldest_result + SETTLE_SECONDS if busy else now)
        if now < self._circuit.retry_at:
            times.append(self._circuit.retry_at)
        if now < self._suspicion.fresh_at:
            times.append(self._suspicion.fresh_at)
        due = max(self._suspect_at, self._suspicion.alone_at)
        if due < math.inf and self._is_suspect_due(max(now, due)):
            times.append(due)
        if busy:
            times.append(self._renew_at)
        if self._pending or (self._under_way_by_id and self._suspect_at <= now):
            times.append(self._watch_at)
        return max(self._not_before, min(times))

    def _wake_writer(self) -> None:
        """Wake the writer where it is due before it would wake by itself."""
        if self._writer_waits_until and self._due(self._monotonic()) < self._writer_waits_until:
            self._for_writer.notify()

    def _waits(self, job: Job, now: float) -> bool:
        """Does something else wait for the place of this job?"""
        others = len(self._pending) > 0 and self._crew.count(SenderRole.WORK) >= self._tuner.limit(now)
        if job.alone:
            return now >= self._suspect_at or (not self._tuner.can_grow(now) and len(self._pending) > 0)
        return others

    def _watch(self, now: float) -> None:
        """Does everything under way move on? What does not keeps others from its place for a bounded time."""
        if now < self._watch_at:
            return
        self._watch_at = now + WATCH_SECONDS
        jobs = [job for job in self._under_way_by_id.values() if job.sender is not None]
        for job in jobs:
            job.notice(now)
        for job in sorted(jobs, key=lambda each: each.still_since):
            if now - job.still_since <= self._loan.seconds(now, job.alone) or not self._waits(job, now):
                continue
            if not job.late:
                job.late = True
                self._loan.note_late(now)
                self._wants_sample = self._wants_sample or not self._loan.is_measured
            if job.alone or not self._tuner.can_grow(now) or self._count_late() > MOST_LATE:
                self._cut(job, now)

    def _cut(self, job: Job, now: float) -> None:
        if job.sender is not None and not job.silent_seconds:
            job.silent_seconds = now - job.still_since
            job.sender.kill()

    def _room(self, now: float) -> tuple[int, int, bool]:
        """How much to lease, (instances, bytes, a sample): a second's worth when half of that is gone."""
        allowed = self._sender_limit(now)
        if not allowed or self._suspicion.wants_check or now < self._suspicion.fresh_at:
            return 0, 0, False
        going = [each for each in self._under_way_by_id.values() if not each.is_on_its_way]
        count = len(going) + len(self._converting) + len(self._pending)
        if not self._circuit.is_up or self._suspicion.is_slow:
            if count or self._crew or self._wants_probe:
                return 0, 0, False
            elsewhere = (self._circuit.failures + self._suspicion.fresh) % 2 == 1
            return (0, 0, True) if elsewhere else (1, 1, False)
        sample = self._wants_sample
        instances, size = self._meter.lease_size(allowed)
        instances = max(instances, allowed + 1)
        if not self._news or 2 * count > instances:
            return 0, 0, sample
        size -= sum(job.lease.size for job in (*going, *self._converting.values(), *self._pending))
        if count > allowed and size <= 0:
            return 0, 0, sample
        return instances - count, max(1, size), sample

    def _under_way(self) -> list[Job]:
        waiting = [] if self._suspect is None else [self._suspect]
        return [*self._under_way_by_id.values(), *self._converting.values(), *waiting]

    def _is_ours(self, job: Job) -> bool:
        """Take a job from its sender; False where it went back without its sender, at the end."""
        where = self._under_way_by_id if job.lease.delivery_id in self._under_way_by_id else self._converting
        job.sender = None
        return where.pop(job.lease.delivery_id, None) is job

    def _recall(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            job.drop_copy()
            self._back.append(job.lease)
            if job.alone:
                self._suspect_at = min(self._suspect_at, self._monotonic() + UNTRIED_SECONDS)

    def _set(self, circuit: pace.Circuit) -> None:
        if self._given_up:
            return
        before, self._circuit = self._circuit, circuit
        if circuit.is_up != before.is_up:
            self._since = self._clock()
            self._is_health_noted, self._news = False, True
        if circuit.is_up:
            self._retry_at = None
            if not before.is_up:
                log.info("%s is up", self._name)
        elif circuit is not before:
            self._is_health_noted = False
            self._retry_at = self._clock() + circuit.retry_at - self._monotonic()
            self._last_error = circuit.reason
            self._recall(self._pending.clear())
            if self._suspect is not None:
                self._recall([self._suspect])
                self._suspect = None
            self._suspicion.note_echo()
            self._for_senders.notify_all()  # those that wait for work go
            self._tuner = pace.Tuner(self._most)  # what paid before the outage may not pay after it
            if circuit.reason != before.reason:
                log.warning("%s is down: %s", self._name, circuit.reason)
