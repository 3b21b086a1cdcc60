"""Between a destination's clerk and its senders: leased work on one side, what came of it on the other. No database.

The clerk (edge.outbound) brings leases in and takes results away in turns; senders (edge.outbound.sender) take jobs and
tell how each ended. Here it is decided, under one lock, how many may go, what is leased next, and what a failure means:

- a destination is down when it fails without an object: no association, or no answer to C-ECHO. Its work goes back, and
  probes find out when it is back (edge.outbound.pace.Circuit); where others are served, only that one is given up;
- an object with which an association ends is a suspect (edge.outbound.suspects): it waits beside the others, is tried
  alone, a bounded number of times, and then held by name;
- an object that does not move on keeps no other from its place for long (edge.outbound.pace.Loan).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from edge.backoff import backoff
from edge.dicom.scu import can_propose
from edge.dicom.status import is_out_of_resources, meaning_of
from edge.errors import AssociationRejected, PeerError, ProtocolError
from edge.model import AttemptResult, ContextKey, Lease, Outcome, ReasonCode
from edge.outbound import pace
from edge.outbound.crew import Role
from edge.outbound.job import Job, JobResult, Killable, Leased, WriteBatch
from edge.outbound.suspects import again_after, must_hold
from edge.outbound.table import TURN_SECONDS, Table
from edge.store.deliveries import LEASE_SECONDS

log = logging.getLogger(__name__)

#: Results are written down when so many wait, the first has waited so long, or nothing else is under way; senders
#: pause at UNSETTLED.
SETTLE_AT, UNSETTLED, SETTLE_SECONDS = 16, 64, 0.1
#: Between leases while work trickles in: it gathers, and the receivers' commits are not crowded.
GATHER_SECONDS = 0.02
#: How often to look for work that nobody has announced, and after a failed write.
POLL_SECONDS, FULL_SECONDS = 30.0, 1.0
RENEW_SECONDS = LEASE_SECONDS / 3


class DeliveryScheduler(Table):
    """See the module's docstring. Thread-safe."""

    # -- for everybody ------------------------------------------------------------------------------------------------

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

    # -- for the clerk ------------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Until there is something to do; False at the end, when only a last turn is left."""
        with self._for_clerk:
            while not (self._closing and not self._crew):
                now = self._monotonic()
                self._watch(now)
                due = self._due(now)
                if due <= now:
                    return True
                self._clerk_waits_until = due
                self._for_clerk.wait(due - now)
                self._clerk_waits_until = 0.0
            return False

    def wanted_senders(self) -> list[Role]:
        """The senders that are wanted now: for work, one for each job that finds none free, as far as they pay."""
        with self._for_clerk:
            return self._openings(self._monotonic())

    def add_sender(self, sender: Killable, role: Role = Role.WORK) -> Job | None:
        """It is there from now on; with the one job that it carries alone."""
        with self._for_clerk:
            self._crew.add(sender, role)
            self._wants_probe = self._wants_probe and role is not Role.PROBE
            job = self._suspect if role is Role.ALONE else None
            if job is not None:
                self._suspect, now = None, self._monotonic()
                job.begin(sender, now)
                self._turn_at = now + TURN_SECONDS
                self._carried[job.work.delivery_id] = job
            return job

    def next_turn(self) -> WriteBatch:
        """What is to be written down now, and how much to lease."""
        with self._for_clerk:
            now = self._monotonic()
            if now >= self._poll_at:
                self._news, self._poll_at = True, now + POLL_SECONDS
                self._suspect_at = now if not self._crew.count(Role.ALONE) else self._suspect_at
            if self._closing and not self._crew:
                self._recall([*self._stock.clear(), *self._under_way()])
                self._carried, self._converting, self._suspect = {}, {}, None
            renew: list[Lease] = []
            if now >= self._renew_at:
                renew = [job.work for job in (*self._under_way(), *self._stock)]
                self._renew_at = now + RENEW_SECONDS
            health = self.health() if self._results or not self._told else None
            limit, size, sample = self._room(now)
            suspect = self._is_suspect_due(now)
            if suspect:
                self._suspect_at = math.inf
            turn = WriteBatch(self._clock(), self._results, self._back, renew, health, limit, size, sample, suspect)
            self._results, self._back, self._told = [], [], True
            self._writing = len(turn.results)
            self._news = self._news and not turn.limit
            return turn

    def failed(self, turn: WriteBatch) -> None:
        """A turn could not be written down: all of it is to be done later."""
        with self._for_clerk:
            self._results[:0], self._back[:0], self._writing = turn.results, turn.back, 0
            self._told, self._news = False, True
            self._not_before = self._monotonic() + FULL_SECONDS

    def done(self, turn: WriteBatch, leased: Leased) -> None:
        """A turn is written down, and this was leased."""
        with self._for_clerk:
            now = self._monotonic()
            held = {job.work.delivery_id for job in (*self._under_way(), *self._stock)}
            self._leases, self._writing = self._leases + 1, 0
            for work in (*leased.sample, *leased.works):
                if work.delivery_id not in held:  # else its lease had lapsed while it was under way
                    self._add(Job(work, self._leases, sample=work in leased.sample))
            for work in leased.suspect:
                if work.delivery_id not in held:
                    self._add(Job(work, self._leases, alone=True))
            if leased.next_suspect is not None:
                self._suspect_at = min(self._suspect_at, now + max(0.0, leased.next_suspect - self._clock()))
            if not self._allowed(now):
                self._recall(self._stock.clear())  # it went down meanwhile
            self._wants_sample = self._wants_sample and not turn.sample
            self._news = self._news or bool(leased.works)
            if len(leased.works) < turn.limit:
                self._not_before = now + GATHER_SECONDS
            if not self._circuit.is_up and (turn.limit or turn.sample) and not len(self._stock):
                self._wants_probe = True  # nothing is queued: only find out whether it is back
            self._for_senders.notify_all()

    def _add(self, job: Job) -> None:
        if not can_propose(job.work.kind):
            self._carried[job.work.delivery_id] = job
            self.hold(job, "its SOP class or transfer syntax UID is not valid (PS3.5 section 9.1)")
        elif job.alone:
            self._suspect = job
        else:
            self._stock.add(job)

    def _due(self, now: float) -> float:
        """When the clerk is to act."""
        if self._back or len(self._results) >= SETTLE_AT or not self._told:
            return max(self._not_before, now)
        limit, _, sample = self._room(now)
        if limit or sample or self._openings(now):
            return max(self._not_before, now)
        busy = self._carried or self._converting or self._stock
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
        if self._stock or (self._carried and self._suspect_at <= now):
            times.append(self._watch_at)
        return max(self._not_before, min(times))

    def _nudge(self) -> None:
        """Wake the clerk where it is due before it would wake by itself."""
        if self._clerk_waits_until and self._due(self._monotonic()) < self._clerk_waits_until:
            self._for_clerk.notify()

    # -- for the senders ---------------------------------------------------------------------------------------------

    def opened(self, sender: Killable, round_trip: float = 0.0) -> None:
        """The sender has an association, over a line of `round_trip` seconds."""
        with self._for_senders:
            self._crew.heard(sender, 0.0)
            if len(self._stock):
                self._tuner.opened(round_trip, sum(job.work.size for job in self._stock) / len(self._stock))
                self._nudge()

    def take(self, sender: Killable, kinds: Collection[ContextKey], wait: float) -> Job | None:
        """The most urgent work of these kinds, within `wait` seconds.

        None: there is no such work, another association is due, or there are more senders than there should be. Each
        job taken is then to be given to exactly one of the methods below.
        """
        end = self._monotonic() + wait
        with self._for_senders:
            while True:
                now = self._monotonic()
                if self._closing:
                    return None
                if self._crew.count(Role.WORK) > self._allowed(now) or self._gives_way(now):
                    self._crew.remove(sender)  # now, so that not all of them go
                    return None
                if self._writing + len(self._results) >= UNSETTLED:
                    self._for_senders.wait(1.0)
                    continue
                job = self._stock.take(kinds)
                if job is not None:
                    job.begin(sender, now)
                    self._carried[job.work.delivery_id] = job
                    if not self._stock:  # else nothing is due that was not: it counts as before
                        self._nudge()
                    return job
                left = end - now
                if len(self._stock) or left <= 0:
                    return None
                self._for_senders.wait(left)

    def kinds(self, sender: Killable) -> list[ContextKey]:
        """The kinds in stock, the most urgent first; none for a sender who is to go."""
        with self._for_senders:
            wanted = sender in self._crew and not self._closing
            return list(dict.fromkeys(job.work.kind for job in self._stock)) if wanted else []

    def put_back(self, job: Job) -> None:
        """It was not tried, or has been converted: it is work for the next sender, or goes back where none may go."""
        with self._for_senders:
            if not self._is_ours(job):
                job.drop_copy()
            elif not self._allowed(self._monotonic()) or (job.alone and self._suspect is not None):
                self._recall([job])
            else:
                self._add(job)
                self._for_senders.notify()
            self._nudge()

    def converting(self, job: Job) -> None:
        """It is being converted; then it ends, or is put back."""
        with self._for_senders:
            if self._is_ours(job):
                self._converting[job.work.delivery_id] = job

    def answered(self, job: Job, status: int, comment: str, seconds: float) -> None:
        """The destination answered the C-STORE after `seconds`; `comment`: its own words, may name a patient."""
        verdict = meaning_of(status)
        with self._for_senders:
            now = self._monotonic()
            if job.carrier is not None:
                self._crew.heard(job.carrier, now)
            self._last_answer = answered_at = self._clock()
            self._suspicion.answered()
            self._loan.answered(seconds)
            if is_out_of_resources(status):
                self._refused(now, verdict.text)
            else:
                self._answers()
            if verdict.outcome is Outcome.SENT:
                self._last_success = answered_at
                self._meter.add(seconds, job.work.size)
                self._throughput.add(now, seconds, job.work.size)
                self._tuner.sent(now, job.work.size, len(self._stock) > 0)
            outcome, code, reason = self._bounded(job, verdict)
            self._end(job, outcome, code, reason, status, peer_text=comment)

    def hold(self, job: Job, reason: str, code: ReasonCode = ReasonCode.NO_CONTEXT) -> None:
        """It cannot be sent at all."""
        with self._for_senders:
            self._end(job, Outcome.HOLD, code, reason)

    def lost(self, job: Job, reason: str) -> None:
        """Our file is not what was received."""
        log.critical("instance %d is lost: %s", job.work.instance_id, reason)
        with self._for_senders:
            self._end(job, Outcome.HOLD, ReasonCode.DAMAGED, reason, lost=True)

    def defer(self, job: Job, reason: str) -> None:
        """We could not try, by no fault of the destination."""
        with self._for_senders:
            self._end(job, Outcome.DEFER, ReasonCode.INTERNAL, reason)

    def broke(self, sender: Killable, job: Job | None, error: PeerError, is_first: bool = True) -> None:
        """No association, or no answer to C-ECHO (no job); or it ended with the job under way, its first one or not."""
        with self._for_senders:
            now = self._monotonic()
            if self._crew.remove(sender) is None:
                return  # it was dismissed, and killed: what it carries goes back
            if job is not None:
                self._broke_with(job, error, is_first, now)
            elif not self._crew.serves_others(error):
                for_good = isinstance(error, AssociationRejected) and error.result == 1
                longest = pace.REJECTED_LONGEST if for_good else pace.LINK_LONGEST
                self._set(self._circuit.failed(now, str(error), self._chance(), longest))
            else:
                log.info("%s: %d associations at once are enough: %s", self._name, len(self._crew), error)
                self._tuner.failed(now, len(self._crew))

    def _broke_with(self, job: Job, error: PeerError, is_first: bool, now: float) -> None:
        """Is it the object? An association may also end between two, so that only its first one is sure to be meant."""
        if not (is_first or job.cut or job.returned or isinstance(error, ProtocolError)):
            job.returned = True
            self.put_back(job)
            return
        breaks, reason = job.work.breaks + 1, job.cut or str(error)
        self._wants_sample = self._wants_sample or not self._loan.is_measured
        begun = self._clock() - (now - job.begun)
        if must_hold(breaks, job.work.broke_at, self._last_answer):
            words = f"each of {breaks} associations ended with it, although the destination answers: {reason}"
            log.warning("%s: instance %d is held: %s", self._name, job.work.instance_id, words)
            self._end(job, Outcome.HOLD, ReasonCode.BREAKS_ASSOCIATION, words, broke_at=begun)
            return
        if not job.alone:
            self._suspicion.fresh_broke(now, self._chance())
        elif self._last_answer is None or self._last_answer <= (job.work.broke_at or 0.0):
            self._suspicion.alone_broke(now, self._chance())
        wait = again_after(breaks, self._chance(), is_late=bool(job.cut))
        self._suspect_at = min(self._suspect_at, now + wait)
        log.info("%s: an association ended with instance %d (%d): %s", self._name, job.work.instance_id, breaks, reason)
        self._end(job, Outcome.DEFER, ReasonCode.UNREACHABLE, reason, broke_at=begun, wait=wait)

    def hindered(self, sender: Killable, why: str) -> None:
        """The sender cannot work for want of something of ours: that says nothing of the destination."""
        with self._for_senders:
            self._crew.remove(sender)
            self._not_before = self._monotonic() + FULL_SECONDS
            log.warning("%s cannot be tried now: %s", self._name, why)
            self.left(sender)

    def is_there(self, sender: Killable) -> None:
        """Nothing was sent, but the destination answers; a probe goes on as a sender of what waits."""
        with self._for_senders:
            self._crew.change(sender, Role.WORK)
            self._suspicion.checked()
            self._set(self._circuit.answered())
            self._nudge()

    def left(self, sender: Killable) -> None:
        """The sender is gone; what it still has was not tried."""
        with self._for_senders:
            self._crew.remove(sender)
            for job in [each for each in self._carried.values() if each.carrier is sender]:
                if job.alone:
                    self._is_ours(job)
                    self._recall([job])
                else:
                    self.put_back(job)
            self._for_clerk.notify()

    def _end(
        self,
        job: Job,
        outcome: Outcome,
        code: ReasonCode,
        reason: str,
        status: int | None = None,
        *,
        peer_text: str = "",
        lost: bool = False,
        broke_at: float | None = None,
        wait: float | None = None,
    ) -> None:
        """A job's way is over; the clerk will write it down. It is tried again after `wait` seconds."""
        changed = job.change()
        job.drop_copy()
        if not self._is_ours(job):
            return
        retry_at = 0.0
        if outcome is Outcome.DEFER:
            if wait is None:
                wait = backoff(job.work.attempts + 1, pace.LATER_FIRST, pace.OWN_LONGEST, self._chance())
            retry_at = self._clock() + wait
        if not self._results:
            self._oldest_result = self._monotonic()
        settlement = AttemptResult(job.work, outcome, reason, code, status, retry_at, broke_at, peer_text)
        self._results.append(JobResult(settlement, lost, changed))
        self._nudge()
