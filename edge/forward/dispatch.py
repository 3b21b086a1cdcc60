"""Between a destination's clerk and its senders: leased work on one side, what came of it on the other. No database.

The clerk (edge.forward) brings leases in and takes results away in turns; senders (edge.forward.sender) take jobs and
tell how each ended. Here it is decided, under one lock, how many may go, what is leased next, and what a failure
means:

- a destination that fails while nothing else of it answers is down: its work goes back, and one probe at a time finds
  out when it is back (edge.forward.pace.Circuit); where others answer, only that association is given up;
- an instance that broke its association waits on its own, ever longer, so that the others go first.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable

from edge.backoff import backoff
from edge.dicom.association import can_propose
from edge.dicom.status import is_out_of_resources, judge
from edge.errors import AssociationRejected, PeerError
from edge.forward import pace
from edge.forward.job import Health, Job, Killable, Result, Stock, Turn
from edge.model import Kind, Outcome, ReasonCode, Settlement, Work
from edge.queue import LEASE_SECONDS

log = logging.getLogger(__name__)

#: Results are written down when so many wait, the first has waited so long, or nothing else is under way; senders
#: pause at UNSETTLED.
SETTLE_AT, UNSETTLED, SETTLE_SECONDS = 16, 64, 0.1
#: Between leases while work trickles in: it gathers, and the receivers' commits are not crowded.
GATHER_SECONDS = 0.02
#: How often to look for work that nobody has announced, and after a failed write.
POLL_SECONDS, FULL_SECONDS = 30.0, 1.0
RENEW_SECONDS = LEASE_SECONDS / 3
#: An association that answered so recently proves that another's failure is not the destination's.
ALIVE_SECONDS = 10.0


class Dispatch:
    """See the module's docstring. Thread-safe."""

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
        self._for_clerk = threading.Condition(lock)
        self._clerk_waits_until = 0.0
        self._stock = Stock()
        self._carried: dict[int, Job] = {}  # by delivery id, as are those that are being converted
        self._converting: dict[int, Job] = {}
        self._results: list[Result] = []
        self._writing = 0  # results in the turn that is being written down
        self._oldest_result = 0.0
        self._back: list[Work] = []
        # When the destination last answered each; None: not associated yet, 0: no answer yet.
        self._senders: dict[Killable, float | None] = {}
        self._most = associations
        self._circuit, self._tuner, self._meter = pace.UP, pace.Tuner(associations), pace.Meter()
        self._throughput = pace.Throughput()
        self._since = clock()
        self._retry_at: float | None = None
        self._last_success: float | None = None
        self._last_error: str | None = None
        self._told = self._returned = self._closing = self._given_up = False
        self._news = True  # there may be pending work in the catalog
        self._leases = 0
        self._not_before = self._poll_at = self._renew_at = 0.0

    # -- for everybody ------------------------------------------------------------------------------------------------

    def remember(self, health: Health) -> None:
        """What the last run knew: a destination that was down then is tried with one probe first."""
        self._last_success, self._last_error = health.last_success, health.last_error
        if health.state == "down":
            self._since = health.since
            self._circuit = pace.Circuit(failures=1, retry_at=self._monotonic(), reason=health.last_error or "")

    def health(self) -> Health:
        with self._for_clerk:
            count = len(self._senders)
            rate = self._throughput.rate
            state = "up" if self._circuit.is_up else "down"
            return Health(state, self._since, self._retry_at, self._last_success, self._last_error, count, rate)

    def announce(self) -> None:
        """There is new work in the catalog. Cheap."""
        if not self._news:
            with self._for_clerk:
                self._news = True
                self._nudge()

    def close(self) -> None:
        """Nothing new begins; what is under way may end."""
        with self._for_clerk:
            self._closing = True
            self._for_senders.notify_all()
            self._for_clerk.notify()

    def give_up(self, reason: str) -> None:
        """Nothing can be written down any more: nothing more is sent."""
        log.critical("%s: forwarding has stopped: %s", self._name, reason)
        with self._for_clerk:
            self._set(pace.Circuit(failures=1, retry_at=math.inf, reason=reason))
            self._retry_at, self._given_up = None, True
        self.close()

    def dismiss(self) -> list[Killable]:
        """All senders, who are to be stopped by force: what they carry goes back. After `close`."""
        with self._for_clerk:
            senders, self._senders = list(self._senders), {}
            self._for_clerk.notify()
            return senders

    # -- for the clerk ------------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Until there is something to do; False at the end, when only a last turn is left."""
        with self._for_clerk:
            while not (self._closing and not self._senders):
                now = self._monotonic()
                due = self._due(now)
                if due <= now:
                    return True
                self._clerk_waits_until = due
                self._for_clerk.wait(due - now)
                self._clerk_waits_until = 0.0
            return False

    def openings(self) -> int:
        """How many more senders are wanted: one for each job that finds none free, as far as they pay."""
        with self._for_clerk:
            idle = len(self._senders) - len(self._carried)
            return max(0, min(self._allowed() - len(self._senders), len(self._stock) - idle))

    def enlist(self, sender: Killable) -> None:
        with self._for_clerk:
            self._senders[sender] = None

    def next_turn(self) -> Turn:
        """What is to be written down now, and how much to lease."""
        with self._for_clerk:
            now = self._monotonic()
            if now >= self._poll_at:
                self._news, self._poll_at = True, now + POLL_SECONDS
            if self._closing and not self._senders:
                self._recall([*self._stock.clear(), *self._under_way()])
                self._carried, self._converting = {}, {}
            renew: list[Work] = []
            if now >= self._renew_at:
                renew = [job.work for job in (*self._under_way(), *self._stock)]
                self._renew_at = now + RENEW_SECONDS
            health = self.health() if self._results or not self._told else None
            turn = Turn(self._clock(), self._results, self._back, renew, self._returned, health, *self._room())
            self._results, self._back, self._returned, self._told = [], [], False, True
            self._writing = len(turn.results)
            self._news = self._news and not turn.limit
            return turn

    def failed(self, turn: Turn) -> None:
        """A turn could not be written down: all of it is to be done later."""
        with self._for_clerk:
            self._results[:0], self._back[:0], self._writing = turn.results, turn.back, 0
            self._returned, self._told, self._news = self._returned or turn.returned, False, True
            self._not_before = self._monotonic() + FULL_SECONDS

    def done(self, turn: Turn, leased: Iterable[Work]) -> bool:
        """A turn is written down, this was leased. True when a sender shall knock: a probe is due, without work."""
        with self._for_clerk:
            held = {*self._carried, *self._converting, *(job.work.delivery_id for job in self._stock)}
            self._leases, self._writing = self._leases + 1, 0
            new = [Job(work, self._leases) for work in leased]
            for job in new:
                if job.work.delivery_id in held:
                    continue  # its lease had lapsed while it was under way
                if can_propose(job.work.kind):
                    self._stock.add(job)
                else:
                    self._carried[job.work.delivery_id] = job
                    self.hold(job, "its SOP class or transfer syntax UID is not valid (PS3.5 section 9.1)")
            if not self._allowed():
                self._recall(self._stock.clear())  # it went down meanwhile
            self._news = self._news or bool(new) or turn.returned
            if len(new) < turn.limit:
                self._not_before = self._monotonic() + GATHER_SECONDS
            self._for_senders.notify_all()
            return bool(turn.limit) and not new and not self._circuit.is_up and self._allowed() > len(self._senders)

    def _allowed(self) -> int:
        """How many senders there may be."""
        now = self._monotonic()
        return 0 if self._closing else self._circuit.allows(now, self._tuner.allowed(now))

    def _under_way(self) -> list[Job]:
        return [*self._carried.values(), *self._converting.values()]

    def _due(self, now: float) -> float:
        """When the clerk is to act."""
        busy = self._carried or self._converting or self._stock
        times = [self._poll_at]
        if self._back or len(self._results) >= SETTLE_AT or not self._told or self._room()[0] or self.openings():
            times.append(now)
        if self._results:
            times.append(self._oldest_result + SETTLE_SECONDS if busy else now)
        if now < self._circuit.retry_at:
            times.append(self._circuit.retry_at)
        if busy:
            times.append(self._renew_at)
        return max(self._not_before, min(times))

    def _nudge(self) -> None:
        """Wake the clerk where it is due before it would wake by itself."""
        if self._clerk_waits_until and self._due(self._monotonic()) < self._clerk_waits_until:
            self._for_clerk.notify()

    def _room(self) -> tuple[int, int]:
        """How much to lease, (instances, bytes): a second's worth when half of that is gone; a probe while down."""
        allowed = self._allowed()
        count = len(self._carried) + len(self._converting) + len(self._stock)
        if not allowed:
            return 0, 0
        if not self._circuit.is_up:
            return (0, 0) if count or self._senders else (1, 1)
        instances, size = self._meter.a_second(allowed)
        instances = max(instances, allowed + 1)
        if not self._news or 2 * count > instances:
            return 0, 0
        size -= sum(job.work.size for job in (*self._under_way(), *self._stock))
        if count > allowed and size <= 0:
            return 0, 0
        return instances - count, max(1, size)

    # -- for the senders ---------------------------------------------------------------------------------------------

    def opened(self, sender: Killable, round_trip: float = 0.0) -> None:
        """The sender has an association, over a line of `round_trip` seconds."""
        with self._for_senders:
            if sender in self._senders:
                self._senders[sender] = 0.0
            if len(self._stock):
                self._tuner.opened(round_trip, sum(job.work.size for job in self._stock) / len(self._stock))
                self._nudge()

    def take(self, sender: Killable, kinds: Collection[Kind], wait: float) -> Job | None:
        """The most urgent work of these kinds, within `wait` seconds.

        None: there is no such work, another association is due, or there are more senders than there should be. Each
        job taken is then to be given to exactly one of the methods below.
        """
        end = self._monotonic() + wait
        with self._for_senders:
            while True:
                if self._closing:
                    return None
                if len(self._senders) > self._allowed():
                    self._senders.pop(sender, None)  # now, so that not all of them go
                    return None
                if self._writing + len(self._results) >= UNSETTLED:
                    self._for_senders.wait(1.0)
                    continue
                job = self._stock.take(kinds)
                if job is not None:
                    job.carrier = sender
                    self._carried[job.work.delivery_id] = job
                    self._nudge()
                    return job
                left = end - self._monotonic()
                if len(self._stock) or left <= 0:
                    return None
                self._for_senders.wait(left)

    def kinds(self, sender: Killable) -> list[Kind]:
        """The kinds in stock, the most urgent first; none for a sender who is to go."""
        with self._for_senders:
            wanted = sender in self._senders and not self._closing
            return list(dict.fromkeys(job.work.kind for job in self._stock)) if wanted else []

    def put_back(self, job: Job) -> None:
        """It was not tried, or has been converted: it is work for the next sender, or goes back where none may go."""
        with self._for_senders:
            if not self._is_ours(job):
                job.drop_copy()
            elif not self._allowed():
                self._recall([job])
            else:
                self._stock.add(job)
                self._for_senders.notify()
            self._nudge()

    def converting(self, job: Job) -> None:
        """It is being converted; then it ends, or is put back."""
        with self._for_senders:
            if self._is_ours(job):
                self._converting[job.work.delivery_id] = job

    def answered(self, job: Job, status: int, comment: str, seconds: float) -> None:
        """The destination answered the C-STORE after `seconds`."""
        verdict = judge(status)
        reason = f'{verdict.text}: "{comment}"' if comment and verdict.text else verdict.text
        with self._for_senders:
            now = self._monotonic()
            if job.carrier is not None and job.carrier in self._senders:
                self._senders[job.carrier] = now
            if is_out_of_resources(status):
                self._set(self._circuit.refused(now, verdict.text, self._chance()))
            else:
                self._set(self._circuit.answered())
            if verdict.outcome is Outcome.SENT:
                self._last_success = self._clock()
                self._meter.add(seconds, job.work.size)
                self._throughput.add(now, seconds, job.work.size)
                self._tuner.sent(now, job.work.size, len(self._stock) > 0)
            self._end(job, verdict.outcome, verdict.code, reason, status)

    def hold(self, job: Job, reason: str) -> None:
        """It cannot be sent at all."""
        with self._for_senders:
            self._end(job, Outcome.HOLD, ReasonCode.NO_CONTEXT, reason)

    def lost(self, job: Job, reason: str) -> None:
        """Our file is not what was received."""
        log.critical("instance %d is lost: %s", job.work.instance_id, reason)
        with self._for_senders:
            self._end(job, Outcome.HOLD, ReasonCode.DAMAGED, reason, lost=True)

    def defer(self, job: Job, reason: str) -> None:
        """We could not try, by no fault of the destination."""
        with self._for_senders:
            self._end(job, Outcome.DEFER, ReasonCode.INTERNAL, reason)

    def broke(self, sender: Killable, job: Job | None, error: PeerError) -> None:
        """The sender's association could not be opened (no job), or ended while the job was under way."""
        with self._for_senders:
            now = self._monotonic()
            if sender not in self._senders:
                return  # it was dismissed, and killed: what it carries goes back
            del self._senders[sender]
            if not self._shows_life(job, error, now):
                for_good = isinstance(error, AssociationRejected) and error.result == 1
                longest = pace.REJECTED_LONGEST if for_good else pace.LINK_LONGEST
                self._set(self._circuit.failed(now, str(error), self._chance(), longest))
            elif job is None:
                log.info("%s: %d associations at once are enough: %s", self._name, len(self._senders), error)
                self._tuner.failed(now, len(self._senders))
            if job is not None:
                self._end(job, Outcome.DEFER, ReasonCode.UNREACHABLE, str(error), first=pace.BROKEN_FIRST)

    def hindered(self, sender: Killable, why: str) -> None:
        """The sender cannot work for want of something of ours: that says nothing of the destination. Soon again."""
        with self._for_senders:
            self._senders.pop(sender, None)
            self._not_before = self._monotonic() + FULL_SECONDS
            log.warning("%s cannot be tried now: %s", self._name, why)
            self.left(sender)

    def _shows_life(self, job: Job | None, error: PeerError, now: float) -> bool:
        """Does the destination serve others of our associations, when one could not be opened (no job) or broke?"""
        others = list(self._senders.values())
        if job is not None:
            return any(heard and now - heard < ALIVE_SECONDS for heard in others)
        if isinstance(error, AssociationRejected) and error.result == 2 and others:
            return True  # too many at once: of those that are being opened, the last to be rejected tells
        return any(heard is not None for heard in others)

    def is_there(self) -> None:
        """Nothing was sent, but the destination answers."""
        with self._for_senders:
            self._set(self._circuit.answered())

    def left(self, sender: Killable) -> None:
        """The sender is gone; what it still has was not tried."""
        with self._for_senders:
            self._senders.pop(sender, None)
            for job in [each for each in self._carried.values() if each.carrier is sender]:
                self.put_back(job)
            self._for_clerk.notify()

    def _is_ours(self, job: Job) -> bool:
        """Take a job off the road; False where it went back without its sender, at the end."""
        where = self._carried if job.work.delivery_id in self._carried else self._converting
        job.carrier = None
        return where.pop(job.work.delivery_id, None) is job

    def _end(
        self,
        job: Job,
        outcome: Outcome,
        code: ReasonCode,
        reason: str,
        status: int | None = None,
        *,
        first: float = pace.LATER_FIRST,
        lost: bool = False,
    ) -> None:
        """A job's way is over; the clerk will write it down."""
        changed = job.change()
        job.drop_copy()
        if not self._is_ours(job):
            return
        retry_at = 0.0
        if outcome is Outcome.DEFER:
            tries = job.work.attempts + 1
            retry_at = self._clock() + backoff(tries, first, pace.OWN_LONGEST, self._chance())
        if not self._results:
            self._oldest_result = self._monotonic()
        self._results.append(Result(Settlement(job.work, outcome, reason, code, status, retry_at), lost, changed))
        self._nudge()

    def _recall(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            job.drop_copy()
            self._back.append(job.work)

    def _set(self, circuit: pace.Circuit) -> None:
        if self._given_up:
            return
        before, self._circuit = self._circuit, circuit
        if circuit.is_up != before.is_up:
            self._since = self._clock()
            self._told, self._news = False, True
        if circuit.is_up:
            self._retry_at = None
            self._returned = self._returned or before.was_outage
            if not before.is_up:
                log.info("%s is up", self._name)
        elif circuit is not before:
            self._told = False
            self._retry_at = self._clock() + circuit.retry_at - self._monotonic()
            self._last_error = circuit.reason
            self._recall(self._stock.clear())
            self._tuner = pace.Tuner(self._most)  # what paid before the outage may not pay after it
            if circuit.reason != before.reason:
                log.warning("%s is down: %s", self._name, circuit.reason)
