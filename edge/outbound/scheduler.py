"""Between a destination's writer and its senders: leases on one side, results on the other. No database.

The writer (edge.outbound) brings leases and takes results, a batch at a time; senders (edge.outbound.transport) take
jobs and report how each ended. Under one lock it is decided how many may go and what is leased next
(edge.outbound.table), and what a failure means (edge.outbound.outcomes):

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

from edge.model import ContextKey, Lease
from edge.outbound import pace
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job, Killable, Leased, WriteBatch
from edge.outbound.outcomes import JobOutcomes
from edge.outbound.table import TURN_SECONDS
from edge.store.leases import LEASE_SECONDS

log = logging.getLogger(__name__)

#: Results that wait to be written, at which senders pause.
UNSETTLED = 64
#: Between leases while work trickles in: it gathers, and the receivers' commits are not crowded.
GATHER_SECONDS = 0.02
#: How often to poll for work that was not announced, and after a failed write.
POLL_SECONDS, FULL_SECONDS = 30.0, 1.0
RENEW_SECONDS = LEASE_SECONDS / 3


class DeliveryScheduler(JobOutcomes):
    """See the module's docstring. Thread-safe."""

    # -- for everybody ------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Note that the catalog has new work. Cheap."""
        if not self._news:
            with self._for_writer:
                self._news = True
                self._wake_writer()

    def try_now(self) -> None:
        """Find out at once whether a destination that is down is back."""
        with self._for_writer:
            if not self._circuit.is_up:
                self._circuit = replace(self._circuit, retry_at=self._monotonic())
            self._news = True
            self._wake_writer()

    def close(self) -> None:
        """Begin nothing new; what is under way may end."""
        with self._for_writer:
            self._closing = True
            self._for_senders.notify_all()
            self._for_writer.notify()

    def give_up(self, reason: str) -> None:
        """Send nothing more: nothing can be recorded any more."""
        log.critical("%s: forwarding has stopped: %s", self._name, reason)
        with self._for_writer:
            self._set(pace.Circuit(failures=1, retry_at=math.inf, reason=reason))
            self._retry_at, self._given_up = None, True
        self.close()

    # -- for the writer -----------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Wait until there is something to do; False at the end, when only a last batch is left."""
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
        """The roles of senders to add now: for work, one for each job that finds none free, as far as they pay."""
        with self._for_writer:
            return self._openings(self._monotonic())

    def add_sender(self, sender: Killable, role: SenderRole = SenderRole.WORK) -> Job | None:
        """Enter a sender. Returns the one job that it carries alone, where that is its role."""
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
        """The results to record now, and how much to lease."""
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
        """Take back a batch that could not be written: all of it is to be done later."""
        with self._for_writer:
            self._results[:0], self._back[:0], self._writing = batch.results, batch.back, 0
            self._is_health_noted, self._news = False, True
            self._not_before = self._monotonic() + FULL_SECONDS

    def finish_batch(self, batch: WriteBatch, leased: Leased) -> None:
        """Enter what was leased: the batch is written."""
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

    # -- for the senders ---------------------------------------------------------------------------------------------

    def note_association(self, sender: Killable, round_trip: float = 0.0) -> None:
        """Note that the sender has an association, over a line of `round_trip` seconds."""
        with self._for_senders:
            self._crew.note_answer(sender, 0.0)
            size = sum(job.lease.size for job in self._pending) / max(1, len(self._pending))
            self._tuner.note_association(round_trip, size)
            self._wake_writer()

    def take(
        self, sender: Killable, contexts: Collection[ContextKey], wait: float, *, is_first: bool = True
    ) -> Job | None:
        """Take the most urgent job of these contexts, within `wait` seconds. `is_first`: none was answered yet.

        None: there is no such work, another association is due, or there are more senders than there should be. Each
        job taken is then to be given to exactly one of the methods below.
        """
        end = self._monotonic() + wait
        with self._for_senders:
            while True:
                now = self._monotonic()
                if self._closing:
                    return None
                if self._crew.count(SenderRole.WORK) > self._sender_limit(now) or self._must_yield(now):
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
                        self._wake_writer()
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

    def note_on_its_way(self, job: Job) -> None:
        """Note that an object has gone to the socket; one answer for many is still to come: more may be leased."""
        with self._for_senders:
            job.is_on_its_way = True
            self._wake_writer()

    def start_conversion(self, job: Job) -> None:
        """Note that the object is being converted; then the job ends, or is put back."""
        with self._for_senders:
            if self._is_ours(job):
                self._converting[job.lease.delivery_id] = job

    def note_shortage(self, sender: Killable, why: str) -> None:
        """Remove a sender for which the gateway lacks something: that says nothing about the destination."""
        with self._for_senders:
            self._crew.remove(sender)
            self._not_before = self._monotonic() + FULL_SECONDS
            log.warning("%s cannot be tried now: %s", self._name, why)
            self.remove_sender(sender)

    def is_there(self, sender: Killable) -> None:
        """Note that the destination answers, with nothing sent; a probe goes on as a sender of what waits."""
        with self._for_senders:
            self._crew.change(sender, SenderRole.WORK)
            self._suspicion.note_echo()
            self._set(self._circuit.with_answer())
            self._wake_writer()

    def remove_sender(self, sender: Killable) -> None:
        """Remove a sender that has ended; the jobs that it still has were not tried."""
        with self._for_senders:
            self._crew.remove(sender)
            for job in [each for each in self._under_way_by_id.values() if each.sender is sender]:
                if job.alone:
                    self._is_ours(job)
                    self._recall([job])
                else:
                    self.put_back(job)
            self._for_writer.notify()
