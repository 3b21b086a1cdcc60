"""Reports of storage commitment to modalities (PS3.4 section J.3.3): when each is known, and that it arrives.

Promise: a request in the catalog is reported, however long the modality is away: with backoff, and at once when the
modality calls for anything. A report is made of what the catalog says when it is sent, never of an earlier answer, and
is done with when the modality has acknowledged it; nothing is dropped. A restart goes on where the catalog is.

One thread examines; each modality that is called has a thread of its own, so that none waits for another. What a
modality is owed goes in one association.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edge.config.sections import Config, Modality
from edge.dicom.commitment import Reporting, open_reports
from edge.dicom.commitment_data import Reference
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.dicom.scu import Secure
from edge.errors import Cause, EdgeError, PeerError, hindrance, place_of
from edge.outbound.commitment_reports.outcome import (
    PROOF_SECONDS,
    CommitmentOutcome,
    decide_outcome,
    may_still_come,
    next_look_at,
)
from edge.store import commitment_requests
from edge.store.commitment_requests import NamedInstance, OpenRequest, ReportedInstance
from edge.store.database import Store, Transaction
from edge.worker import ThreadSpec, Worker
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

EXAMINE_THREAD = ThreadSpec("commitments", __name__, "commitment requests", "after the requests that it examines")
REPORT_THREAD = ThreadSpec(
    "report", __name__, "commitment requests, ledger", "after a report; its association is cut", each="modality"
)

#: How often the catalog is asked what is due.
EXAMINE_SECONDS = 0.5
#: Modalities that are called at once.
MOST_CALLED = 16
#: A thread that is connecting is left behind after this time.
JOIN_SECONDS = 2.0
#: Between two tries of a report.
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 10.0, 900.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the reports of one association go (edge.dicom.scu.Peer)."""

    modality: str
    ae_title: str  # under which it called
    called_ae: str  # of ours, as it called us
    is_tls: bool
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """A request of which everything is known."""

    request: OpenRequest
    outcomes: Mapping[str, CommitmentOutcome]  # SOP Instance UID ->
    named: Sequence[NamedInstance]
    policy: str


@dataclass(slots=True)
class _Call:
    """A modality that is being called."""

    thread: threading.Thread
    exchange: Reporting | None = None  # once there is an association


class CommitmentReports:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        secure_for: Callable[[str], Secure | None],
        lag_seconds: Callable[[], float],
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        doubts_clock: Callable[[], bool] = lambda: False,
    ) -> None:
        """`secure_for`: what begins TLS with a host. `lag_seconds`: how long what came waits to be in the catalog."""
        self._db, self._config, self._secure_for, self._lag_seconds = db, config, secure_for, lag_seconds
        self._clock, self._chance, self._doubts_clock = clock, chance, doubts_clock
        self.worker = Worker(EXAMINE_THREAD, self.step)
        self._called: dict[Target, _Call] = {}

    def step(self) -> float:
        """Examine what is due, and call the modalities whose reports are ready. Seconds until the next step."""
        ready: dict[Target, list[ReadyReport]] = defaultdict(list)
        for request in self._due():
            target = self._target_of(request)
            if target in self._called or (target not in ready and len(ready) + len(self._called) >= MOST_CALLED):
                continue  # it is next
            if (report := self._examine(request)) is not None:
                ready[target].append(report)
        for target, reports in ready.items():
            name = REPORT_THREAD.name_for(target.modality)
            thread = threading.Thread(target=self._report, args=(target, reports), name=name, daemon=True)
            self._called[target] = _Call(thread)
            try:
                thread.start()
            except RuntimeError:
                del self._called[target]  # else it would never be called again
                raise hindrance.error_for(Cause.THREADS) from None
        return EXAMINE_SECONDS

    def stop(self) -> None:
        """What is under way is cut: the next start goes on."""
        self.worker.stop()
        calls = list(self._called.values())
        for call in calls:
            if call.exchange is not None:
                call.exchange.kill()
        for call in calls:
            call.thread.join(JOIN_SECONDS)

    def _due(self) -> list[OpenRequest]:
        if self._db.failure is not None:
            return []  # nobody knows what the disk holds
        with self._db.reading() as conn:
            return commitment_requests.list_due_requests(conn, self._clock())

    def _target_of(self, request: OpenRequest) -> Target:
        modality = self._modality_of(request)
        where = (modality.way_back if modality else None) or ("", 0)
        return Target(request.modality, request.calling_ae, request.called_ae, request.is_tls, *where)

    def _modality_of(self, request: OpenRequest) -> Modality | None:
        return self._config().modalities.get(request.modality)

    def _examine(self, request: OpenRequest) -> ReadyReport | None:
        """The report, where all is known; else the request is examined again later."""
        now, modality = self._clock(), self._modality_of(request)
        policy = modality.commit if modality is not None else "archive"
        applied_until = now - self._lag_seconds()
        anonymous = {name for name, each in self._config().destinations.items() if each.deidentify != "none"}
        with self._db.reading() as conn:
            last_stored = commitment_requests.find_last_stored(conn, request.modality)
            named = commitment_requests.read_named_instances(conn, request.id, anonymous)
        is_awaited = may_still_come(request, last_stored, applied_until)
        is_overdue = now - request.requested_at > PROOF_SECONDS and not self._doubts_clock()
        outcomes = {
            each.sop_instance_uid: decide_outcome(each, request, policy, is_awaited=is_awaited, is_overdue=is_overdue)
            for each in named
        }
        if any(each.failure is None for each in outcomes.values()):
            self._db.write(
                lambda conn: commitment_requests.postpone_request(conn, request.id, next_look_at(request, now))
            )
            return None
        return ReadyReport(request, outcomes, named, policy)

    # -- calling a modality -------------------------------------------------------------------------------------------

    def _report(self, target: Target, reports: Sequence[ReadyReport]) -> None:
        """Bring reports to a modality, in a thread of its own."""
        left = deque(reports)
        try:
            self._call(target, left)
        except EdgeError as error:
            self._note_failure(left, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours: the reports stay owed
            log.error("report %s: %s", target.modality, place_of(error))
            self._note_failure(left, "a fault of the gateway, see its log")
        finally:
            self._called.pop(target, None)
            self.worker.wake()

    def _call(self, target: Target, left: deque[ReadyReport]) -> None:
        """One association. What it was about is taken from `left`; the rest was not reached."""
        if not target.port:
            raise PeerError("it cannot be called: its [modality] is gone, or has no host and port")
        secure = self._secure_for(target.host) if target.is_tls else None
        if target.is_tls and secure is None:
            raise PeerError("it called over TLS, and there is no [tls] to call it with")
        with open_reports(target, target.called_ae, secure) as exchange:
            self._called[target].exchange = exchange
            while left and not self.worker.is_stopping:
                self._report_one(exchange, left)

    def _report_one(self, exchange: Reporting, left: deque[ReadyReport]) -> None:
        """A report that is refused keeps no other back, nor does one that ends the association: it goes last."""
        report = left.popleft()
        request = report.request
        try:
            exchange.report(request.transaction_uid, *self._content(report))
        except (RequestFailed, ServiceRefused) as error:
            return self._note_failure([report], str(error))
        except EdgeError as error:
            self._note_failure([report], str(error))
            left.clear()  # not tried: they are due at once
            raise
        self._db.write(lambda conn: self._record(conn, report))
        log.info("%s has the report on storage commitment %s", request.modality, request.transaction_uid)

    def _content(self, report: ReadyReport) -> tuple[dict[Reference, str], dict[Reference, int]]:
        committed: dict[Reference, str] = {}
        failed: dict[Reference, int] = {}
        destinations = self._config().destinations
        for each in report.named:
            outcome = report.outcomes[each.sop_instance_uid]
            reference = Reference(each.sop_class_uid, each.sop_instance_uid)
            if outcome.failure:
                failed[reference] = outcome.failure
            else:
                keeper = destinations.get(outcome.kept_by)
                committed[reference] = keeper.ae_title if keeper else ""
        return committed, failed

    def _record(self, conn: Transaction, report: ReadyReport) -> None:
        reported = []
        for each in report.named:
            failure = report.outcomes[each.sop_instance_uid].failure or 0
            latest = each.versions[-1] if each.versions else None
            ids = (latest.instance_id, latest.study_id) if latest else ()
            reported.append(ReportedInstance(each.sop_instance_uid, failure, *ids))
        commitment_requests.note_reported(conn, report.request, reported, report.policy, self._clock())

    def _note_failure(self, left: Collection[ReadyReport], error: str) -> None:
        """The reports stay owed, and are tried again later."""
        now, tries = self._clock(), [(each.request.id, each.request.tries + 1) for each in left]
        if not left or self.worker.is_stopping:
            return  # the next start goes on
        retries = [
            (number, now + backoff(count, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, self._chance()))
            for number, count in tries
        ]
        request = next(iter(left)).request
        level = logging.DEBUG if request.tries else logging.WARNING
        log.log(level, "%d reports on storage commitment wait for %s: %s", len(left), request.modality, error)
        try:
            self._db.write(lambda conn: commitment_requests.note_failed_tries(conn, retries, error, now))
        except EdgeError as problem:
            log.error("report %s: %s", request.modality, problem)
