"""The ends of attempts, and what follows: for the object, for the destination.

Failures without an object say that the destination is down, with an object that this one may be a suspect; what the
destination answered says whether it takes objects at all. See edge.outbound.scheduler.
"""

from __future__ import annotations

import logging

from edge.dicom.scu import can_propose
from edge.dicom.status import StatusMeaning, is_out_of_resources, meaning_of
from edge.errors import AssociationRejected, PeerError, ProtocolError, Unavailable
from edge.model import EMPTY_REASON, AttemptResult, Outcome, Parameter, Reason, ReasonCode
from edge.outbound import pace
from edge.outbound.job import Job, JobResult, Killable
from edge.outbound.suspects import again_after, must_hold
from edge.outbound.table import Table
from edge.store.reasons import words
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

#: Attempts after which an object that the destination fails on, perhaps not the next time, is held: some two hours.
ATTEMPTS = 12


class JobOutcomes(Table):
    """See the module's docstring. Thread-safe."""

    def note_answer(self, job: Job, status: int, comment: str, seconds: float, waited: float | None = None) -> None:
        """End a job by the destination's answer, which took `seconds`; `comment`: its own words, may name a patient.

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
                self._taken.add(job.lease.context_key)
                self._last_success = answered_at
                octets = job.copy.size if job.copy is not None else job.lease.size
                self._meter.add(seconds, octets)
                self._throughput.add(now, seconds, octets)
                self._tuner.note_sent(now, octets, len(self._pending) > 0)
            outcome, reason = self._bound_attempts(job, status, meaning)
            self._end(job, outcome, reason, status, peer_text=comment)

    def fail(self, job: Job, parameters: dict[str, Parameter], refusal: str = "") -> None:
        """Defer an object that the destination failed on, perhaps not the next time; after ATTEMPTS hold it.

        `refusal`: how it failed, where it may take no other object now either.
        """
        attempts = job.lease.attempts + 1
        with self._for_senders:
            self._last_answer = self._clock()
            self._suspicion.note_answer()
            if refusal:
                self._note_refusal(self._monotonic(), refusal)
            else:
                self._note_taken()
            if attempts < ATTEMPTS or (refusal and self._circuit.refusals > 1):
                code = ReasonCode.OUT_OF_RESOURCES if refusal else ReasonCode.FAILED
                self._end(job, Outcome.DEFER, Reason(code, parameters))
            else:
                self._end(job, Outcome.HOLD, Reason(ReasonCode.REFUSED, {**parameters, "attempts": attempts}))

    def refuse_context(self, job: Job, reason: Reason) -> None:
        """Hold an object for which the destination accepts no presentation context.

        Where it has taken such objects before, it is the destination that has changed, and perhaps for minutes.
        """
        with self._for_senders:
            is_change = job.lease.context_key in self._taken and job.lease.attempts + 1 < ATTEMPTS
            self._end(job, Outcome.DEFER if is_change else Outcome.HOLD, reason)

    def skip(self, job: Job, site: str) -> None:
        """End a job whose object has passed the destination's site before: it does not go there."""
        with self._for_senders:
            self._end(job, Outcome.SKIP, Reason(ReasonCode.CANCELLED, {"passed": site}))

    def hold(self, job: Job, reason: Reason) -> None:
        """Hold an object that cannot be sent at all."""
        with self._for_senders:
            self._end(job, Outcome.HOLD, reason)

    def hold_lost(self, job: Job, **parameters: Parameter) -> None:
        """Hold an object whose file is not what was received; `parameters` of the reason say how."""
        reason = Reason(ReasonCode.DAMAGED, parameters)
        with self._for_senders:
            self._end(job, Outcome.HOLD, reason, lost=True)

    def defer(self, job: Job, **parameters: Parameter) -> None:
        """Defer an object that could not be tried because of the gateway itself; `parameters` of the reason say why."""
        reason = Reason(ReasonCode.INTERNAL, parameters)
        log.warning("instance %d is not sent now: %s", job.lease.instance_id, words(reason))
        with self._for_senders:
            self._end(job, Outcome.DEFER, reason)

    def put_back(self, job: Job) -> None:
        """Put back a job that was not tried, or has been converted: for the next sender, or for a later lease."""
        with self._for_senders:
            if not self._is_ours(job):
                job.drop_copy()
            elif not self._sender_limit(self._monotonic()) or (job.alone and self._suspect is not None):
                self._recall([job])
            else:
                self._add(job)
                self._for_senders.notify()
            self._wake_writer()

    def note_break(self, sender: Killable, job: Job | None, error: PeerError, is_first: bool = True) -> None:
        """Note that a sender got no association or answer to C-ECHO (no job), or that a job was under way at its end.

        `is_first`: the job was the first one of the association.
        """
        with self._for_senders:
            now = self._monotonic()
            if self._crew.remove(sender) is None:
                return  # it was stopped by force: what it carried goes back
            if job is not None:
                self._note_break_with(job, error, is_first, now)
            elif isinstance(error, Unavailable) and error.seconds is not None:
                self._set(self._circuit.with_pause(now, error.seconds, str(error), self._chance()))
            elif isinstance(error, Unavailable):
                self._set(self._circuit.with_failure(now, str(error), self._chance(), refuses=True))
            elif not self._crew.serves_others(error):
                for_good = isinstance(error, AssociationRejected) and error.result == 1
                longest = pace.REJECTED_LONGEST if for_good else pace.LINK_LONGEST
                self._set(self._circuit.with_failure(now, str(error), self._chance(), longest, refuses=error.refuses))
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

    def _bound_attempts(self, job: Job, status: int, meaning: StatusMeaning) -> tuple[Outcome, Reason]:
        """What concerns the object is not tried without end."""
        attempts = job.lease.attempts + 1
        of_destination = meaning.code is ReasonCode.OUT_OF_RESOURCES and self._circuit.refusals > 1
        if meaning.outcome is Outcome.DEFER and attempts >= ATTEMPTS and not of_destination:
            return Outcome.HOLD, Reason(ReasonCode.REFUSED, {"status": status, "attempts": attempts})
        return meaning.outcome, Reason(meaning.code, {"status": status}) if status else EMPTY_REASON

    def _note_refusal(self, now: float, reason: str) -> None:
        """Note that the destination is out of resources, or says so of one object."""
        self._set(self._circuit.with_refusal(now, reason, self._chance(), self._refusals))
        if not self._circuit.is_up:
            self._refusals = max(pace.REFUSALS, self._refusals // 2) if self._circuit.failures > 1 else self._refusals

    def _note_taken(self) -> None:
        """Note that the destination takes objects, or refuses them for their own sake."""
        if self._circuit.is_full and self._circuit.failures == 1:
            self._refusals = min(2 * self._refusals, pace.MOST_REFUSALS)
        self._set(self._circuit.with_answer())

    def _add(self, job: Job) -> None:
        if not can_propose(job.lease.context_key):
            self._under_way_by_id[job.lease.delivery_id] = job
            self.hold(job, Reason(ReasonCode.NO_CONTEXT))
        elif job.alone:
            self._suspect = job
        else:
            self._pending.add(job)

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
        """End a job; the writer will record it. A deferred one is tried again after `wait` seconds."""
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
        self._wake_writer()
