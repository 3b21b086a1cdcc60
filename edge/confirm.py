"""Proof of custody, one thread for each destination that is to give it: storage commitment or a query, in batches.

Both kinds go the same way. A batch of sent instances is noted as a request with a deadline, then the archive is asked.
What it proves is confirmed, what it lacks is sent again, what still lacks proof at the deadline is asked about anew.
The note comes first, so an answer finds its request after a crash too; answers may be late, double, partial or missing.

An archive that cannot be reached changes nothing: asking is tried again with backoff. One that refuses the service is
asked again every 15 minutes, and the reason stands on the instances that wait. Forwarding never waits on any of this.

Limit: an archive proves a SOP Instance UID, not bytes: of a conflict, the proof speaks of whichever it kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from edge import proofs
from edge.config.sections import Destination
from edge.db import Connection, Database
from edge.dicom.association import Secure
from edge.dicom.commitment import Commitment, Query, Reference, Report, ServiceRefused, new_transaction_uid
from edge.errors import EdgeError, place_of
from edge.proofs import Unproved, Waiting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Every time that the confirmer keeps, in seconds, and the size of a request."""

    full: int = 300  # instances that are worth a request at once
    most: int = 500  # instances in one request
    patience: float = 5.0  # no instance waits longer for its request to fill
    settled: float = 1.0  # nothing more is being sent since then: the request is as full as it will be
    linger: float = 10.0  # how long to stay for a report on the association of the request
    deadline: float = 600.0  # for the report; doubled each time that none comes
    longest_deadline: float = 3600.0
    first_look: float = 10.0  # query: until the next look at what was not found; then as long again as it is sent
    missing: float = 300.0  # query: archives index late; what is not found so long after sending is not there
    later: float = 3600.0  # an archive may say "later" so long after sending; then it is taken to lack the instance
    resend: float = 60.0  # until the second resending; doubled each time; the first is at once
    longest_resend: float = 3600.0
    retry: float = 5.0  # after a failed exchange; doubled each time
    longest_retry: float = 300.0
    refused: float = 900.0  # after the archive has refused the service
    poll: float = 1.0  # between looks at the queue, where nobody wakes us
    breath: float = 0.1  # between looks, however often we are woken: so that they find batches


# -- decisions --------------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """What becomes of an instance that the archive did not commit to."""

    RESEND = "resend"
    LATER = "later"  # it stays in its request, and is asked about again after the deadline
    HOLD = "hold"  # a person must decide


#: Failure Reason (PS3.3 section C.14.1.1) -> what it means for the instance.
FAILURES = {
    0x0110: (Verdict.LATER, "processing failure"),
    0x0112: (Verdict.RESEND, "no such object instance"),
    0x0119: (Verdict.HOLD, "class / instance conflict"),
    0x0122: (Verdict.HOLD, "referenced SOP class not supported"),
    0x0131: (Verdict.LATER, "duplicate transaction UID"),
    0x0213: (Verdict.LATER, "resource limitation"),
}


def judge(reason: int, since_sent: float, pace: Pace) -> tuple[Verdict, str]:
    """What a Failure Reason asks for, and the sentence for people. What the standard does not list is sent again."""
    verdict, words = FAILURES.get(reason, (Verdict.RESEND, "a reason that the standard does not list"))
    if verdict is Verdict.LATER and since_sent > pace.later:
        verdict = Verdict.RESEND
    return verdict, f"the archive does not commit to it: {words} ({reason:04X})"


def is_due(waiting: Waiting, now: float, pace: Pace) -> bool:
    """Is it time for a request? Full, complete, or long enough waited."""
    if waiting.count == 0:
        return False
    if waiting.count >= pace.full or now - waiting.oldest >= pace.patience:
        return True
    return not waiting.busy and now - waiting.newest >= pace.settled


def doubled(first: float, times: int, longest: float) -> float:
    """Backoff: `first`, doubled so many times, never over `longest`."""
    return min(first * 2.0 ** min(times, 32), longest)


def resend_at(denials: int, now: float, pace: Pace) -> float:
    """When to send again what is denied after so many denials: at once, later ever more slowly."""
    return now if denials == 0 else now + doubled(pace.resend, denials - 1, pace.longest_resend)


# -- the thread -------------------------------------------------------------------------------------------------------


class Confirmer:
    """Asks one destination, whose `confirm` is "commitment" or "query", for proof. See the module's promise."""

    def __init__(
        self,
        db: Database,
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
        self._round = {"commitment": self._request, "query": self._look}[destination.confirm]
        self._thread = threading.Thread(target=self._run, name=f"confirm-{self._name}", daemon=True)
        self._stopping, self._woken, self._over = threading.Event(), threading.Event(), threading.Event()
        self._asking = ""  # the transaction whose report ends the stay on its association
        self._linger = self._pace.linger
        self._retry_at = 0.0
        self._failures = self._unanswered = 0
        self.trouble = ""  # why the last exchange failed; empty while all is well

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was sent: look soon. Costs nothing, may be called often."""
        self._woken.set()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; an exchange under way is given `timeout` seconds. Open requests stay, for the next run."""
        self._stopping.set()
        self._over.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self.step()
            except Exception as error:  # noqa: BLE001 - the thread must outlive a fault of ours, and say so
                log.error("asking %s for proof: %s", self._name, place_of(error))
                wait = self._pace.longest_retry
            self._woken.wait(wait)
            self._woken.clear()
            self._stopping.wait(self._pace.breath)

    def step(self) -> float:
        """Do what is due now; returns the seconds until there may be more."""
        now = self._clock()
        self._end_overdue(now)
        paused = self._retry_at - now
        if 0 < paused <= self._pace.refused:  # longer: the clock was set back
            return paused
        with self._db.reading() as conn:
            waiting = proofs.waiting(conn, self._name, self._pace.full)
        if not is_due(waiting, now, self._pace):
            return self._pace.poll
        try:
            self._round()
        except ServiceRefused as error:
            self._refused(error)
        except EdgeError as error:
            self._failed(error)
        else:
            self._failures, self.trouble = 0, ""
        return 0.0

    def _failed(self, error: EdgeError) -> None:
        wait = doubled(self._pace.retry, self._failures, self._pace.longest_retry)
        self._retry_at, self._failures = self._clock() + wait, self._failures + 1
        self._tell(str(error), wait)

    def _refused(self, error: ServiceRefused) -> None:
        self._retry_at = self._clock() + self._pace.refused
        remedy = f'{error}; have it enabled there, or choose another "confirm" for destination {self._name}'
        self._tell(remedy, self._pace.refused)
        self._db.write(lambda conn: proofs.explain_unproved(conn, self._name, remedy, self._pace.most))

    def _tell(self, trouble: str, wait: float) -> None:
        level = logging.WARNING if trouble != self.trouble else logging.DEBUG
        log.log(level, "%s cannot be asked for proof, next try in %.0f s: %s", self._name, wait, trouble)
        self.trouble = trouble

    def _end_overdue(self, now: float) -> None:
        """Requests whose deadline has passed, of a former run too: what they still lack is asked about anew."""
        with self._db.reading() as conn:
            overdue = proofs.overdue(conn, self._name, now)
        for uid in overdue:
            self._end(uid)
        if overdue and self.destination.confirm == "commitment":
            self._unanswered += 1
            self._linger = self._pace.linger
            log.warning("%s did not prove all in time (%d requests): asking again", self._name, len(overdue))

    def _end(self, transaction_uid: str) -> None:
        self._db.write(lambda conn: proofs.end_request(conn, transaction_uid, self._clock()))

    def _note(self, transaction_uid: str, deadline: Callable[[Sequence[Unproved], float], float]) -> list[Unproved]:
        """Write down a request before it is made: the transaction UID, what it names, and when it is overdue."""

        def work(conn: Connection) -> list[Unproved]:
            now = self._clock()  # not before the transaction: all that it sees was sent before it is asked about
            batch = proofs.unproved(conn, self._name, self._pace.most)
            if batch:
                proofs.ask(conn, self._name, transaction_uid, batch, now, deadline(batch, now))
            return batch

        return self._db.write(work)

    # -- storage commitment -------------------------------------------------------------------------------------------

    def _request(self) -> None:
        """One N-ACTION, and a short stay for its report (PS3.4 section J.3)."""
        seconds = doubled(self._pace.deadline, self._unanswered, self._pace.longest_deadline)
        uid = self._asking = new_transaction_uid()
        self._over.clear()
        with Commitment(self.destination, self._calling_ae, self._reported, self._secure) as exchange:
            batch = self._note(uid, lambda _, now: now + seconds)
            if not batch:
                return  # a late report came first
            try:
                exchange.ask(uid, [Reference(each.sop_class_uid, each.sop_instance_uid) for each in batch])
            except EdgeError:
                self._end(uid)
                raise
            if not self._stopping.is_set():
                exchange.await_report(self._over, self._linger)
        # Most archives report on an association of their own: then staying would only delay the next request.
        self._linger = self._pace.linger if exchange.reported else max(self._pace.linger / 10, self._linger / 2)

    def _reported(self, report: Report) -> bool:
        return self.report(report.transaction_uid, report.committed, report.failed)

    def report(self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int]) -> bool:
        """Take an N-EVENT-REPORT, from any thread: durable on return. False for a transaction that is not ours.

        Raises Hindered or StorageUnhealthy; the archive then reports again.
        """
        now = self._clock()

        def work(conn: Connection) -> int | None:
            asked = proofs.asked_for(conn, transaction_uid)
            if asked is None or asked[0] != self._name:
                return None
            how = f"by storage commitment, transaction {transaction_uid}"
            proofs.confirm(conn, self._name, self._find(conn, committed, asked[1]), now, how)
            self._deny(conn, failed, asked[1], now)
            left = proofs.still_asked(conn, transaction_uid)
            if left == 0:
                proofs.end_request(conn, transaction_uid, now)
            return left

        left = self._db.write(work)
        if left is None:
            return False
        log.info("%s reports: %d committed, %d failed, %d left open", self._name, len(committed), len(failed), left)
        self._unanswered = 0
        if left == 0 and transaction_uid == self._asking:
            self._over.set()
        self._woken.set()
        if failed:
            self._denied()
        return True

    def _find(self, conn: Connection, sop_instance_uids: Collection[str], asked_at: float) -> list[Unproved]:
        """The deliveries that a report speaks of. One that was sent again since is not meant."""
        return [each for uid in sop_instance_uids for each in proofs.find_unproved(conn, self._name, uid, asked_at)]

    def _deny(self, conn: Connection, failed: Mapping[str, int], asked_at: float, now: float) -> None:
        resend: dict[tuple[str, float], list[Unproved]] = defaultdict(list)
        hold: dict[str, list[Unproved]] = defaultdict(list)
        for uid, reason in failed.items():
            for each in self._find(conn, [uid], asked_at):
                verdict, words = judge(reason, now - each.sent_at, self._pace)
                if verdict is Verdict.RESEND:
                    resend[words, resend_at(each.denials, now, self._pace)].append(each)
                elif verdict is Verdict.HOLD:
                    hold[words].append(each)
        for (words, retry_at), denied in resend.items():
            proofs.deny(conn, self._name, denied, now, words, retry_at)
        for words, disputed in hold.items():
            proofs.dispute(conn, self._name, disputed, now, words)

    # -- query --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """One C-FIND for each series of a batch; what is not found is looked for again at the request's deadline."""
        uid = new_transaction_uid()
        with Query(self.destination, self._calling_ae, self._secure) as archive:
            batch = self._note(uid, self._next_look)
            series: dict[tuple[str, str], list[Unproved]] = defaultdict(list)
            for each in batch:
                series[each.study_uid, each.series_uid].append(each)
            try:
                for (study_uid, series_uid), members in series.items():
                    if self._stopping.is_set():
                        break
                    self._look_for(archive, study_uid, series_uid, members)
            except EdgeError:
                self._end(uid)
                raise
        self._db.write(lambda conn: self._end_if_proved(conn, uid))

    def _next_look(self, batch: Sequence[Unproved], now: float) -> float:
        since_sent = now - max((each.sent_at for each in batch), default=now)
        return now + min(max(since_sent, self._pace.first_look), self._pace.longest_deadline)

    def _look_for(self, archive: Query, study_uid: str, series_uid: str, members: Sequence[Unproved]) -> None:
        wanted = {each.sop_instance_uid for each in members}
        now = self._clock()
        found = archive.has(wanted, study_uid, series_uid) if study_uid and series_uid else set()
        late = {each.sop_instance_uid for each in members if now - each.sent_at >= self._pace.missing} - found
        if late:  # before they are sent again: the archive may have left some out of a long answer
            found |= archive.has(late, study_uid, series_uid, one_by_one=True)
        self._db.write(lambda conn: self._found(conn, members, found, late - found, self._clock()))

    def _found(
        self, conn: Connection, members: Sequence[Unproved], found: set[str], lacking: set[str], now: float
    ) -> None:
        proved = [each for each in members if each.sop_instance_uid in found]
        proofs.confirm(conn, self._name, proved, now, proofs.BY_QUERY)
        resend: dict[float, list[Unproved]] = defaultdict(list)
        for each in members:
            if each.sop_instance_uid in lacking:
                resend[resend_at(each.denials, now, self._pace)].append(each)
        for retry_at, denied in resend.items():
            proofs.deny(conn, self._name, denied, now, "the archive does not find it", retry_at)

    def _end_if_proved(self, conn: Connection, transaction_uid: str) -> None:
        if proofs.still_asked(conn, transaction_uid) == 0:
            proofs.end_request(conn, transaction_uid, self._clock())


def accept_status(db: Database, destination: str, now: float, at_once: int = 500) -> int:
    """For a destination whose `confirm` has become "status": the C-STORE status proves what it took before, too.

    Without this, what awaited another proof before the change would await it for ever. Returns how many.
    """
    with db.reading() as conn:
        still_open = proofs.overdue(conn, destination, float("inf"))
    for uid in still_open:
        db.write(lambda conn, uid=uid: proofs.end_request(conn, uid, now))  # type: ignore[misc]
    total = 0

    def work(conn: Connection) -> int:
        batch = proofs.unproved(conn, destination, at_once)
        proofs.confirm(conn, destination, batch, now, "by the C-STORE status")
        return len(batch)

    while done := db.write(work):
        total += done
    return total
