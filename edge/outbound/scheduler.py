"""Between a destination's writer and its senders: leases on one side, results on the other. No database.

The writer (edge.outbound) brings leases and takes results, a batch at a time; senders (edge.outbound.transport) take
jobs and report how each ended. This decides, under one lock, how many may go, what is leased next, and what a failure
means:

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
from dataclasses import replace

from edge.dicom.scu import can_propose
from edge.dicom.status import is_out_of_resources, meaning_of
from edge.errors import AssociationRejected, PeerError, ProtocolError, Unavailable
from edge.model import AttemptResult, ContextKey, Lease, Outcome, Parameter, Reason, ReasonCode
from edge.outbound import pace
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job, JobResult, Killable, Leased, WriteBatch
from edge.outbound.suspects import again_after, must_hold
from edge.outbound.table import ATTEMPTS, TURN_SECONDS, Table
from edge.store.leases import LEASE_SECONDS
from edge.store.reasons import words
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

#: Results are written when SETTLE_AT wait, the first has waited for SETTLE_SECONDS, or nothing else is under way;
#: senders pause at UNSETTLED.
SETTLE_AT, UNSETTLED, SETTLE_SECONDS = 32, 64, 0.1
#: Between leases while work trickles in: it gathers, and the receivers' commits are not crowded.
GATHER_SECONDS = 0.02
#: How often to poll for work that was not announced, and after a failed write.
POLL_SECONDS, FULL_SECONDS = 30.0, 1.0
RENEW_SECONDS = LEASE_SECONDS / 3


class DeliveryScheduler(Table):
    """See the module's docstring. Thread-safe."""

    # -- for everybody ------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """There is new work in the catalog. Cheap."""
        if not self._news:
            with self._for_writer:
                self._news = True
                self._nudge()

    def try_now(self) -> None:
        """Find out at once whether a destination that is down is back."""
        with self._for_writer:
            if not self._circuit.is_up:
                self._circuit = replace(self._circuit, retry_at=self._monotonic())
            self._news = True
            self._nudge()

    def close(self) -> None:
        """Nothing new begins; what is under way may end."""
        with self._for_writer:
            self._closing = True
            self._for_senders.notify_all()
            self._for_writer.notify()

    def give_up(self, reason: str) -> None:
        """Nothing can be written down any more: nothing more is sent."""
        log.critical("%s: forwarding has stopped: %s", self._name, reason)
        with self._for_writer:
            self._set(pace.Circuit(failures=1, retry_at=math.inf, reason=reason))
            self._retry_at, self._given_up = None, True
        self.close()

    # -- for the writer -----------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Until there is something to do; False at the end, when only a last batch is left."""
        with self._for_writer:
            while not (self._closing and not self._crew):
                now = self._monotonic()
                self._watch(now)
                due = self._due(now)
                if due <= now:
                    return True
                self._writer_waits_until = due
                self._for_writer.wait(due - now)
                self._writer_waits_until = 0.0
            return False

    def wanted_senders(self) -> list[SenderRole]:
        """The senders that are wanted now: for work, one for each job that finds none free, as far as they pay."""
        with self._for_writer:
            return self._openings(self._monotonic())

    def add_sender(self, sender: Killable, role: SenderRole = SenderRole.WORK) -> Job | None:
        """It is there from now on; with the one job that it carries alone."""
        with self._for_writer:
            self._crew.add(sender, role)
            self._wants_probe = self._wants_probe and role is not SenderRole.PROBE
            job = self._suspect if role is SenderRole.ALONE else None
            if job is not None:
                self._suspect, now = None, self._monotonic()
                job.begin(sender, now)
                self._turn_at = now + TURN_SECONDS
                self._under_way_by_id[job.lease.delivery_id] = job
            return job

    def next_batch(self) -> WriteBatch:
        """What is to be written down now, and how much to lease."""
        with self._for_writer:
            now = self._monotonic()
            if now >= self._poll_at:
                self._news, self._poll_at = True, now + POLL_SECONDS
                self._suspect_at = now if not self._crew.count(SenderRole.ALONE) else self._suspect_at
            if self._closing and not self._crew:
                self._recall([*self._pending.clear(), *self._under_way()])
                self._under_way_by_id, self._converting, self._suspect = {}, {}, None
            renew: list[Lease] = []
            if now >= self._renew_at:
                renew = [job.lease for job in (*self._under_way(), *self._pending)]
                self._renew_at = now + RENEW_SECONDS
            health = self.health() if self._results or not self._is_health_noted else None
            limit, size, sample = self._room(now)
            suspect = self._is_suspect_due(now)
            if suspect:
                self._suspect_at = math.inf
            batch = WriteBatch(self._clock(), self._results, self._back, renew, health, limit, size, sample, suspect)
            self._results, self._back, self._is_health_noted = [], [], True
            self._writing = len(batch.results)
            self._news = self._news and not batch.limit
            return batch

    def restore_batch(self, batch: WriteBatch) -> None:
        """A batch could not be written: all of it is to be done later."""
        with self._for_writer:
            self._results[:0], self._back[:0], self._writing = batch.results, batch.back, 0
            self._is_health_noted, self._news = False, True
            self._not_before = self._monotonic() + FULL_SECONDS

    def finish_batch(self, batch: WriteBatch, leased: Leased) -> None:
        """A batch is written, and this was leased."""
        with self._for_writer:
            now = self._monotonic()
            held = {job.lease.delivery_id: job for job in (*self._under_way(), *self._pending)}
            self._leases, self._writing = self._leases + 1, 0
            for each in (*leased.sample, *leased.leases, *leased.suspect):
                if (job := held.get(each.delivery_id)) is not None:
                    job.lease = each  # the one before lapsed while it was under way
                else:
                    self._add(Job(each, self._leases, alone=each in leased.suspect, sample=each in leased.sample))
            if leased.next_suspect is not None:
                self._suspect_at = min(self._suspect_at, now + max(0.0, leased.next_suspect - self._clock()))
            if not self._sender_limit(now):
                self._recall(self._pending.clear())  # it went down meanwhile
            self._wants_sample = self._wants_sample and not batch.sample
            self._news = self._news or bool(leased.leases)
            if len(leased.leases) < batch.limit:
                self._not_before = now + GATHER_SECONDS
            if not self._circuit.is_up and (batch.limit or batch.sample) and not len(self._pending):
                self._wants_probe = True  # nothing is queued: only find out whether it is back
            self._for_senders.notify_all()

    def _add(self, job: Job) -> None:
        if not can_propose(job.lease.context_key):
            self._under_way_by_id[job.lease.delivery_id] = job
            self.hold(job, Reason(ReasonCode.NO_CONTEXT))
        elif job.alone:
            self._suspect = job
        else:
            self._pending.add(job)

    def _due(self, now: float) -> float:
        """When the writer is to act."""
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

    def _nudge(self) -> None:
        """Wake the writer where it is due before it would wake by itself."""
        if self._writer_waits_until and self._due(self._monotonic()) < self._writer_waits_until:
            self._for_writer.notify()

    # -- for the senders ---------------------------------------------------------------------------------------------

    def note_association(self, sender: Killable, round_trip: float = 0.0) -> None:
        """The sender has an association, over a line of `round_trip` seconds."""
        with self._for_senders:
            self._crew.note_answer(sender, 0.0)
            size = sum(job.lease.size for job in self._pending) / max(1, len(self._pending))
            self._tuner.note_association(round_trip, size)
            self._nudge()

    def take(
        self, sender: Killable, contexts: Collection[ContextKey], wait: float, *, is_first: bool = True
    ) -> Job | None:
        """The most urgent job of these presentation contexts, within `wait` seconds. `is_first`: none was answered yet.

        None: there is no such work, another association is due, or there are more senders than there should be. Each
        job taken is then to be given to exactly one of the methods below.
        """
        end = self._monotonic() + wait
        with self._for_senders:
            while True:
                now = self._monotonic()
                if self._closing:
                    return None
                if self._crew.count(SenderRole.WORK) > self._sender_limit(now) or self._gives_way(now):
                    self._crew.remove(sender)  # now, so that not all of them go
                    return None
                if self._writing + len(self._results) >= UNSETTLED:
                    self._for_senders.wait(1.0)
                    continue
                job = self._pending.take(contexts)
                if job is not None and job.returned and not is_first:
                    self._pending.add(job)  # it goes first on an association: else it might end between two again
                    return None
                if job is not None:
                    job.begin(sender, now)
                    self._under_way_by_id[job.lease.delivery_id] = job
                    if not self._pending:  # else nothing is due that was not: it counts as before
                        self._nudge()
                    return job
                left = end - now
                if len(self._pending) or left <= 0:
                    return None
                self._for_senders.wait(left)

    def pending_contexts(self, sender: Killable) -> list[ContextKey]:
        """The presentation contexts of pending jobs, the most urgent first; none for a sender that must end."""
        with self._for_senders:
            wanted = sender in self._crew and not self._closing
            return list(dict.fromkeys(job.lease.context_key for job in self._pending)) if wanted else []

    def put_back(self, job: Job) -> None:
        """It was not tried, or has been converted: it is work for the next sender, or goes back where none may go."""
        with self._for_senders:
            if not self._is_ours(job):
                job.drop_copy()
            elif not self._sender_limit(self._monotonic()) or (job.alone and self._suspect is not None):
                self._recall([job])
            else:
                self._add(job)
                self._for_senders.notify()
            self._nudge()

    def note_on_its_way(self, job: Job) -> None:
        """All of it has gone to the socket; one answer for many objects is still to come: more may be leased."""
        with self._for_senders:
            job.is_on_its_way = True
            self._nudge()

    def start_conversion(self, job: Job) -> None:
        """It is being converted; then it ends, or is put back."""
        with self._for_senders:
            if self._is_ours(job):
                self._converting[job.lease.delivery_id] = job

    def note_answer(self, job: Job, status: int, comment: str, seconds: float, waited: float | None = None) -> None:
        """The destination answered for the object, which took `seconds`; `comment`: its own words, may name a patient.

        `status`: as of a C-STORE. `waited`: for the answer, where that was for several objects.
        """
        meaning = meaning_of(status)
        with self._for_senders:
            now = self._monotonic()
            if job.sender is not None:
                self._crew.note_answer(job.sender, now)
            self._last_answer = answered_at = self._clock()
            self._suspicion.note_answer()
            self._loan.note_answer(seconds if waited is None else waited)
            self.answers.add(seconds, job.lease.size, is_refused=meaning.outcome is not Outcome.SENT)
            if is_out_of_resources(status):
                self._note_refusal(now, meaning.text)
            else:
                self._note_taken()
            if meaning.outcome is Outcome.SENT:
                self._last_success = answered_at
                octets = job.copy.size if job.copy is not None else job.lease.size
                self._meter.add(seconds, octets)
                self._throughput.add(now, seconds, octets)
                self._tuner.note_sent(now, octets, len(self._pending) > 0)
            outcome, reason = self._bound_attempts(job, status, meaning)
            self._end(job, outcome, reason, status, peer_text=comment)

    def fail(self, job: Job, parameters: dict[str, Parameter]) -> None:
        """The destination failed on the object, perhaps not the next time: a bounded number of times."""
        attempts = job.lease.attempts + 1
        with self._for_senders:
            self._last_answer = self._clock()
            self._suspicion.note_answer()
            self._note_taken()
            if attempts < ATTEMPTS:
                self._end(job, Outcome.DEFER, Reason(ReasonCode.FAILED, parameters))
            else:
                self._end(job, Outcome.HOLD, Reason(ReasonCode.REFUSED, {**parameters, "attempts": attempts}))

    def skip(self, job: Job, site: str) -> None:
        """It has passed the destination's site before: it does not go there."""
        with self._for_senders:
            self._end(job, Outcome.SKIP, Reason(ReasonCode.CANCELLED, {"passed": site}))

    def hold(self, job: Job, reason: Reason) -> None:
        """It cannot be sent at all."""
        with self._for_senders:
            self._end(job, Outcome.HOLD, reason)

    def hold_lost(self, job: Job, **parameters: Parameter) -> None:
        """Our file is not what was received; `parameters` of the reason say how."""
        reason = Reason(ReasonCode.DAMAGED, parameters)
        log.critical("instance %d is lost: %s", job.lease.instance_id, words(reason))
        with self._for_senders:
            self._end(job, Outcome.HOLD, reason, lost=True)

    def defer(self, job: Job, **parameters: Parameter) -> None:
        """We could not try, by no fault of the destination; `parameters` of the reason say why."""
        with self._for_senders:
            self._end(job, Outcome.DEFER, Reason(ReasonCode.INTERNAL, parameters))

    def note_break(self, sender: Killable, job: Job | None, error: PeerError, is_first: bool = True) -> None:
        """No association, or no answer to C-ECHO (no job); or it ended with the job under way, its first one or not."""
        with self._for_senders:
            now = self._monotonic()
            if self._crew.remove(sender) is None:
                return  # it was stopped by force: what it carried goes back
            if job is not None:
                self._note_break_with(job, error, is_first, now)
            elif isinstance(error, Unavailable) and error.seconds is not None:
                self._set(self._circuit.with_pause(now, error.seconds, str(error), self._chance()))
            elif isinstance(error, Unavailable):
                self._set(self._circuit.with_failure(now, str(error), self._chance()))
            elif not self._crew.serves_others(error):
                for_good = isinstance(error, AssociationRejected) and error.result == 1
                longest = pace.REJECTED_LONGEST if for_good else pace.LINK_LONGEST
                self._set(self._circuit.with_failure(now, str(error), self._chance(), longest))
            else:
                log.info("%s: %d associations at once are enough: %s", self._name, len(self._crew), error)
                self._tuner.note_failure(now, len(self._crew))

    def _note_break_with(self, job: Job, error: PeerError, is_first: bool, now: float) -> None:
        """Is it the object? An association may also end between two, so that only its first one is sure to be meant."""
        if not (is_first or job.silent_seconds or job.returned or isinstance(error, ProtocolError)):
            job.returned = True
            self.put_back(job)
            return
        breaks = job.lease.breaks + 1
        silence: dict[str, Parameter] = {"silent_seconds": round(job.silent_seconds, 3)}
        how = silence if job.silent_seconds else {"error": str(error)}
        self._wants_sample = self._wants_sample or not self._loan.is_measured
        begun = self._clock() - (now - job.begun)
        if must_hold(breaks, job.lease.broke_at, self._last_answer):
            reason = Reason(ReasonCode.BREAKS_ASSOCIATION, {"breaks": breaks, **how})
            log.warning("%s: instance %d is held: %s", self._name, job.lease.instance_id, words(reason))
            self._end(job, Outcome.HOLD, reason, broke_at=begun)
            return
        if not job.alone:
            self._suspicion.note_fresh_break(now, self._chance())
        elif self._last_answer is None or self._last_answer <= (job.lease.broke_at or 0.0):
            self._suspicion.note_alone_break(now, self._chance())
        wait = again_after(breaks, self._chance(), is_late=bool(job.silent_seconds))
        self._suspect_at = min(self._suspect_at, now + wait)
        reason = Reason(ReasonCode.UNREACHABLE, how)
        why = words(reason)
        log.info("%s: an association ended with instance %d (%d): %s", self._name, job.lease.instance_id, breaks, why)
        self._end(job, Outcome.DEFER, reason, broke_at=begun, wait=wait)

    def note_shortage(self, sender: Killable, why: str) -> None:
        """The sender cannot work for want of something of ours: that says nothing of the destination."""
        with self._for_senders:
            self._crew.remove(sender)
            self._not_before = self._monotonic() + FULL_SECONDS
            log.warning("%s cannot be tried now: %s", self._name, why)
            self.remove_sender(sender)

    def is_there(self, sender: Killable) -> None:
        """Nothing was sent, but the destination answers; a probe goes on as a sender of what waits."""
        with self._for_senders:
            self._crew.change(sender, SenderRole.WORK)
            self._suspicion.note_echo()
            self._set(self._circuit.with_answer())
            self._nudge()

    def remove_sender(self, sender: Killable) -> None:
        """The sender has ended; what it still has was not tried."""
        with self._for_senders:
            self._crew.remove(sender)
            for job in [each for each in self._under_way_by_id.values() if each.sender is sender]:
                if job.alone:
                    self._is_ours(job)
                    self._recall([job])
                else:
                    self.put_back(job)
            self._for_writer.notify()

    def _end(
        self,
        job: Job,
        outcome: Outcome,
        reason: Reason,
        status: int | None = None,
        *,
        peer_text: str = "",
        lost: bool = False,
        broke_at: float | None = None,
        wait: float | None = None,
    ) -> None:
        """A job has ended; the writer will record it. It is tried again after `wait` seconds."""
        copy = job.copy.as_sent if job.copy is not None else None
        job.drop_copy()
        if not self._is_ours(job):
            return
        retry_at = 0.0
        if outcome is Outcome.DEFER:
            if wait is None:
                wait = backoff(job.lease.attempts + 1, pace.LATER_FIRST, pace.OWN_LONGEST, self._chance())
            retry_at = self._clock() + wait
        if not self._results:
            self._oldest_result = self._monotonic()
        attempt = AttemptResult(job.lease, outcome, reason, status, retry_at, broke_at, peer_text)
        self._results.append(JobResult(attempt, lost, copy))
        self._nudge()
