"""Proof of custody, one thread for each destination that is to give it: storage commitment or a query, in batches.

Both kinds go the same way. A batch of sent instances is noted as a request with a deadline, then the archive is asked.
What it proves is confirmed, what it lacks is sent again, what still lacks proof at the deadline is asked about again.
The note comes first, so an answer finds its request after a crash too; answers may be late, double, partial or missing.

An archive that cannot be reached changes nothing: asking is tried again with backoff. One that refuses the service is
asked again every 15 minutes, and the instances that wait have the reason. Forwarding never waits on any of this.

Whatever one instance does to an exchange, the others are proved: what was asked in an exchange that broke is asked in
smaller parts, and an instance with which one broke alone is a suspect (see `doubts`) and asked about alone.

Limit: an archive proves a SOP Instance UID, not bytes: of a conflict, the proof concerns whichever it kept.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from edge.config.sections import Destination
from edge.dicom.commitment import Query, open_commitment, open_query
from edge.dicom.commitment_data import Reference, Report, new_transaction_uid
from edge.dicom.failures import ServiceRefused, is_of_request
from edge.dicom.scu import Secure
from edge.errors import EdgeError
from edge.model import Parameter, Reason, ReasonCode
from edge.outbound.confirm.doubts import IN_A_ROW, Doubts
from edge.outbound.confirm.failures import find_meant, record_failures
from edge.outbound.confirm.pace import Pace, by_series, double, is_due, resend_at
from edge.outbound.confirm.qido import QidoQuery, open_qido
from edge.store import commitments, ledger
from edge.store.commitments import Unconfirmed
from edge.store.database import Store, Transaction
from edge.store.reasons import words
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

CONFIRM_THREAD = ThreadSpec(
    "confirm", __name__, "requests for proof, deliveries, ledger", "within 10 s; requests stay open", each="destination"
)

#: Series that are remembered as such with which a query broke.
CAREFUL = 1000


class Confirmer:
    """Asks one destination, whose `confirm` is "commitment" or "query", for proof. See the module's promise."""

    def __init__(
        self,
        db: Store,
        destination: Destination,
        calling_ae: str,
        *,
        clock: Callable[[], float] = time.time,
        pace: Pace | None = None,
        denied: Callable[[], None] = lambda: None,
        secure: Secure | None = None,
    ) -> None:
        """`denied` is called when work for this destination has become pending again: it wakes the sender."""
        self._db, self.destination, self._calling_ae = db, destination, calling_ae
        self._clock, self._pace, self._denied = clock, pace or Pace(), denied
        self._name, self._secure = destination.name, secure
        self._round = {"commitment": self._request, "query": self._query}[destination.confirm]
        self._over = threading.Event()  # no report is awaited any more
        self._worker = Worker(
            CONFIRM_THREAD,
            self.step,
            self._name,
            breath_seconds=self._pace.breath,
            longest_pause_seconds=self._pace.longest_retry,
        )
        self._asking = ""  # the transaction whose report ends the stay on its association
        self._linger = self._pace.linger
        self._retry_at = 0.0
        self._failures = self._unanswered = 0
        self._doubts = Doubts()
        self._group: Sequence[Unconfirmed] = []  # what is being asked about at this moment
        self._most = self._pace.most  # in one request; fewer after one that broke
        self._careful: set[tuple[str, str]] = set()  # series that are asked about one instance at a time
        self._reported_requests: set[str] = set()  # open requests about which something was reported
        self._reported_at = 0.0
        self._alone_next = False
        self.fault = ""  # why the last exchange failed; empty where it did not

    def start(self) -> None:
        """Continue where the last run ended."""
        self.remember()
        self._worker.start()

    def remember(self) -> None:
        """What broke exchanges in the run before is asked about alone, as often as if it were the first time."""
        with self._db.reading() as conn:
            self._doubts.remember(commitments.suspects(conn, self._name), self._clock())

    def wake(self) -> None:
        """Look for a request that is due. Cheap; may be called often."""
        self._worker.wake()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; an exchange under way is given `timeout` seconds. Open requests stay, for the next run."""
        self._worker.stop(0.0)
        self._over.set()
        self._worker.stop(timeout)

    def step(self) -> float:
        """Do what is due now; returns the seconds until there may be more."""
        now = self._clock()
        self._end_overdue(now)
        paused = self._retry_at - now
        if 0 < paused <= self._pace.refused:  # longer: the clock was set back
            return paused
        with self._db.reading() as conn:
            waiting = commitments.summarize_unconfirmed(conn, self._name, self._pace.full)
        suspect, others = self._doubts.due(now), is_due(waiting, now, self._pace)
        if suspect is None and not others:
            return self._pace.poll
        alone = suspect is not None and (self._alone_next or not others)
        self._alone_next = not alone
        self._ask(suspect if alone else None)
        return 0.0

    def _ask(self, suspect: int | None) -> None:
        """One exchange, about a suspect alone or about the others."""
        self._group = []
        try:
            self._round(suspect)
        except EdgeError as error:
            if self._group and is_of_request(error):
                self._note_break(error, self._group, is_known=suspect is not None)
            else:
                self._retry_later(error)
        else:
            self._failures, self.fault = 0, ""

    # -- what breaks --------------------------------------------------------------------------------------------------

    def _note_break(self, error: EdgeError, group: Sequence[Unconfirmed], *, is_known: bool) -> None:
        """Find out what broke an exchange: was it one of these? `is_known`: a suspect, asked alone."""
        if not is_known:
            self._doubts.add_break(self._clock())
        if len(group) == 1:
            self._blame(group[0], str(error))
        elif self.destination.confirm == "commitment":
            self._most = 1
        else:
            if len(self._careful) >= CAREFUL:
                self._careful.clear()
            self._careful.add((group[0].study_uid, group[0].series_uid))
        if self._doubts.in_a_row < IN_A_ROW or is_known:
            self._log_fault(str(error), 0.0)
        elif isinstance(error, ServiceRefused):
            self._note_refused_service(error)
        else:
            wait = double(self._pace.retry, self._doubts.in_a_row - IN_A_ROW, self._pace.longest_pause)
            self._pause(error, wait)

    def _blame(self, each: Unconfirmed, why: str) -> None:
        """An exchange about one instance alone broke."""
        found = self._doubts.broke(each.delivery_id, self._clock(), random.random())
        parameters: dict[str, Parameter] = {"breaks": found.breaks, "error": why, "given_up": found.is_given_up}
        reason = Reason(ReasonCode.BREAKS_PROOF, parameters)
        if found.is_given_up:
            log.warning("%s: instance %d stays unproved: %s", self._name, each.instance_id, words(reason))
        self._db.write(lambda conn: commitments.note_suspect(conn, each.delivery_id, reason))

    def _note_answer(self) -> None:
        """Note that the destination has answered for what was asked: what broke may be asked about in more."""
        self._failures = 0
        self._most = min(self._most * 2, self._pace.most)
        self._doubts.note_answer(self._clock())
        self._group = []

    def _batch(self, conn: Transaction, suspect: int | None) -> list[Unconfirmed]:
        """What the next exchange is about."""
        if suspect is not None:
            batch = commitments.suspect(conn, suspect)
            if not batch:
                self._doubts.drop(suspect)
            return batch
        batch = commitments.list_unconfirmed(conn, self._name, self._pace.most)
        # Chosen by chance, so that many suspects in a row do not stand before all others.
        return batch if len(batch) <= self._most else sorted(batch, key=lambda _: random.random())[: self._most]

    def _retry_later(self, error: EdgeError) -> None:
        if isinstance(error, ServiceRefused):
            self._note_refused_service(error)
            return
        wait = double(self._pace.retry, self._failures, self._pace.longest_retry)
        self._failures += 1
        self._pause(error, wait)

    def _pause(self, error: EdgeError, wait: float) -> None:
        self._retry_at = self._clock() + wait
        self._log_fault(str(error), wait)

    def _note_refused_service(self, error: ServiceRefused) -> None:
        self._retry_at = self._clock() + self._pace.refused
        remedy = f'{error}; have it enabled there, or choose another "confirm" for destination {self._name}'
        self._log_fault(remedy, self._pace.refused)
        reason = Reason(ReasonCode.PROOF_REFUSED, {"error": remedy})
        self._db.write(lambda conn: commitments.explain_unconfirmed(conn, self._name, reason, self._pace.most))

    def _log_fault(self, fault: str, wait: float) -> None:
        level = logging.WARNING if fault != self.fault else logging.DEBUG
        log.log(level, "%s cannot be asked for proof, next try in %.0f s: %s", self._name, wait, fault)
        self.fault = fault

    def _end_overdue(self, now: float) -> None:
        """Requests whose deadline has passed, of a former run too: what they still lack is asked about again."""
        with self._db.reading() as conn:
            overdue = commitments.list_overdue_requests(conn, self._name, now)
        for uid in overdue:
            if self.destination.confirm == "commitment" and uid not in self._reported_requests:
                self._blame_unreported(uid)
            self._end(uid)
        if overdue and self.destination.confirm == "commitment":
            self._unanswered += 1
            self._linger = self._pace.linger
            log.warning("%s did not prove all in time (%d requests): asking again", self._name, len(overdue))

    def _blame_unreported(self, transaction_uid: str) -> None:
        """A request was taken and nothing was reported; if other reports came, one that it names may be why."""
        with self._db.reading() as conn:
            asked, named = (
                commitments.find_request(conn, transaction_uid),
                commitments.find_named(conn, transaction_uid),
            )
        others_came = asked is not None and self._reported_at > asked[1]
        if len(named) > 1:
            self._most = 1 if others_came else (len(named) + 1) // 2 if self._unanswered else self._most
        elif named and self._reported_at > named[0].sent_at:
            self._blame(named[0], "no report came, although others did")

    def _end(self, transaction_uid: str) -> None:
        self._reported_requests.discard(transaction_uid)
        self._db.write(lambda conn: commitments.end_request(conn, transaction_uid, self._clock()))

    def _note(
        self, transaction_uid: str, suspect: int | None, deadline: Callable[[Sequence[Unconfirmed], float], float]
    ) -> list[Unconfirmed]:
        """Write down a request before it is made: the transaction UID, what it names, and when it is overdue."""

        def work(conn: Transaction) -> list[Unconfirmed]:
            now = self._clock()  # not before the transaction: all that it sees was sent before it is asked about
            batch = self._batch(conn, suspect)
            if batch:
                commitments.open_request(conn, self._name, transaction_uid, batch, now, deadline(batch, now))
            return batch

        return self._db.write(work)

    # -- storage commitment -------------------------------------------------------------------------------------------

    def _request(self, suspect: int | None) -> None:
        """One N-ACTION, and a short stay for its report (PS3.4 section J.3)."""
        seconds = double(self._pace.deadline, self._unanswered, self._pace.longest_deadline)
        uid = self._asking = new_transaction_uid()
        self._over.clear()
        with open_commitment(self.destination, self._calling_ae, self._take_report, self._secure) as exchange:
            batch = self._note(uid, suspect, lambda _, now: now + seconds)
            if not batch:
                return  # a late report came first
            self._group = batch
            try:
                exchange.ask(uid, [Reference(each.sop_class_uid, each.sop_instance_uid) for each in batch])
            except EdgeError:
                self._end(uid)
                raise
            self._note_answer()
            if suspect is not None:
                self._doubts.postpone(suspect, self._clock() + seconds)  # the report is what clears it
            if not self._worker.is_stopping:
                exchange.await_report(self._over, self._linger)
        # Most archives report on an association of their own: then staying would only delay the next request.
        self._linger = self._pace.linger if exchange.reported else max(self._pace.linger / 10, self._linger / 2)

    def _take_report(self, report: Report) -> bool:
        return self.report(report.transaction_uid, report.committed, report.failed)

    def report(self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int]) -> bool:
        """Take an N-EVENT-REPORT, from any thread: durable on return. False for a transaction that is not ours.

        Raises Hindered or StorageUnhealthy; the archive then reports again.
        """
        now = self._clock()

        def work(conn: Transaction) -> int | None:
            asked = commitments.find_request(conn, transaction_uid)
            if asked is None or asked[0] != self._name:
                return None
            proof = {"method": ledger.BY_COMMITMENT, "transaction_uid": transaction_uid}
            commitments.confirm(conn, self._name, find_meant(conn, self._name, committed, asked[1]), now, proof)
            record_failures(conn, self._name, failed, asked[1], now, self._pace)
            left = commitments.count_unconfirmed(conn, transaction_uid)
            if left == 0:
                commitments.end_request(conn, transaction_uid, now)
            return left

        left = self._db.write(work)
        if left is None:
            return False
        log.info("%s reports: %d committed, %d failed, %d left open", self._name, len(committed), len(failed), left)
        self._unanswered, self._reported_at = 0, now
        if left:
            self._reported_requests.add(transaction_uid)
        if left == 0 and transaction_uid == self._asking:
            self._over.set()
        self._worker.wake()
        if failed:
            self._denied()
        return True

    # -- query --------------------------------------------------------------------------------------------------------

    def _query(self, suspect: int | None) -> None:
        """One C-FIND for each series of a batch; what is not found is looked for again at the request's deadline."""
        uid = new_transaction_uid()
        with self._open_query() as archive:
            batch = self._note(uid, suspect, self._next_query_at)
            try:
                for group in self._groups(batch, alone=suspect is not None):
                    if self._worker.is_stopping:
                        break
                    self._group = group
                    self._query_series(archive, group, one_by_one=len(group) == 1)
                    self._note_answer()
            except EdgeError:
                self._end(uid)
                raise
        if suspect is not None:
            self._doubts.drop(suspect)
            self._db.write(lambda conn: commitments.clear_suspect(conn, suspect))
        self._db.write(lambda conn: self._end_if_proved(conn, uid))

    def _open_query(self) -> AbstractContextManager[Query | QidoQuery]:
        if self.destination.is_web:
            return open_qido(self.destination)
        return open_query(self.destination, self._calling_ae, self._secure)

    def _groups(self, batch: Sequence[Unconfirmed], *, alone: bool) -> list[list[Unconfirmed]]:
        groups = by_series(
            batch, lambda members: alone or (members[0].study_uid, members[0].series_uid) in self._careful
        )
        if self._doubts.in_a_row:
            # By a chance for each instance, so that many suspects in a row do not stand before all others.
            groups.sort(key=lambda group: max(random.random() for _ in group), reverse=True)
        return groups

    def _next_query_at(self, batch: Sequence[Unconfirmed], now: float) -> float:
        since_sent = now - max((each.sent_at for each in batch), default=now)
        return now + min(max(since_sent, self._pace.first_look), self._pace.longest_deadline)

    def _query_series(self, archive: Query | QidoQuery, members: Sequence[Unconfirmed], *, one_by_one: bool) -> None:
        """Ask about instances of one series, and write down what is found; `one_by_one`: about these alone."""
        wanted = {each.sop_instance_uid for each in members}
        uids, now = (members[0].study_uid, members[0].series_uid), self._clock()
        found = archive.has(wanted, *uids, one_by_one=one_by_one) if all(uids) else set()
        late = {each.sop_instance_uid for each in members if now - each.sent_at >= self._pace.missing} - found
        if late and not (one_by_one and all(uids)):
            found |= archive.has(late, *uids, one_by_one=True)  # it may have left some out of a long answer
        self._db.write(lambda conn: self._record_query(conn, members, found, late - found, self._clock()))

    def _record_query(
        self, conn: Transaction, members: Sequence[Unconfirmed], found: set[str], lacking: set[str], now: float
    ) -> None:
        proved = [each for each in members if each.sop_instance_uid in found]
        commitments.confirm(conn, self._name, proved, now, {"method": ledger.BY_QUERY})
        resend: dict[float, list[Unconfirmed]] = defaultdict(list)
        for each in members:
            if each.sop_instance_uid in lacking:
                resend[resend_at(each.denials, now, self._pace)].append(each)
        for retry_at, denied in resend.items():
            commitments.mark_missing(conn, self._name, denied, now, Reason(ReasonCode.MISSING), retry_at)

    def _end_if_proved(self, conn: Transaction, transaction_uid: str) -> None:
        if commitments.count_unconfirmed(conn, transaction_uid) == 0:
            commitments.end_request(conn, transaction_uid, self._clock())
