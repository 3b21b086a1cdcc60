"""Performed procedure steps and availability notifications go on to the targets of [mpps].

Promise: to each target the messages of a step go strictly in order, each until the target has taken it. A network
failure is tried again indefinitely. A permanent refusal holds that step for that target, with all its messages, for a
person; other steps go on. Nothing is changed: what the modality recorded is what the target gets, however late.

A worker gives new messages their targets and finds what is due; each target that is called has a thread of its own.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.config.sections import Config, Destination
from edge.dicom.normalized import NormalizedExchange, open_normalized
from edge.dicom.performed_step import INSTANCE_AVAILABILITY_NOTIFICATION, MODALITY_PERFORMED_PROCEDURE_STEP
from edge.dicom.scu import Secure
from edge.errors import Cause, EdgeError, PeerError, hindrance, place_of
from edge.outbound.steps.availability import Availability
from edge.outbound.steps.outcome import StepOutcome, decide_step_outcome
from edge.store import step_deliveries
from edge.store.database import Store, Transaction
from edge.store.performed_steps import AVAILABLE, CREATE
from edge.store.step_deliveries import DueMessage
from edge.worker import ThreadSpec, Worker
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

STEPS_THREAD = ThreadSpec("steps", __name__, "performed steps", "after the rows that it examines")
STEP_TARGET_THREAD = ThreadSpec(
    "steps to", __name__, "performed steps, ledger", "after a message; its association is cut", each="destination"
)

#: How often the catalog is asked what is due.
_EXAMINE_SECONDS = 0.5
#: A thread that is connecting is left behind after this time.
_JOIN_SECONDS = 2.0
#: Between two tries.
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 60.0


@dataclass(slots=True)
class _Call:
    """A target that is being called."""

    thread: threading.Thread
    exchange: NormalizedExchange | None = None  # once there is an association


@dataclass(slots=True)
class _TargetPause:
    """A target that failed, as a whole."""

    failures: int = 0  # in a row
    until: float = 0.0  # monotonic


class StepForwarding:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        secure_for: Callable[[Destination], Secure | None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`secure_for`: what begins TLS with a destination that wants it."""
        self._db, self._config, self._secure_for = db, config, secure_for
        self._clock, self._monotonic = clock, monotonic
        self._availability = Availability(db, config, clock, monotonic)
        self._called: dict[str, _Call] = {}
        self._pauses: dict[str, _TargetPause] = {}
        self.worker = Worker(STEPS_THREAD, self.step)

    def step(self) -> float:
        """Give new messages their targets, and call those for which something is due."""
        if self._db.failure is not None:
            return _EXAMINE_SECONDS
        self._availability.step()
        now, config = self._clock(), self._config()
        mpps = config.mpps
        with self._db.reading() as conn:
            is_new = step_deliveries.has_unassigned(conn, mpps.to, mpps.ian)
        if is_new:
            self._db.write(lambda conn: step_deliveries.assign_targets(conn, mpps.to, mpps.ian))
        with self._db.reading() as conn:
            due = step_deliveries.list_targets_with_work(conn, now)
        for name in due:
            is_free = name not in self._called and self._pause_of(name).until <= self._monotonic()
            if is_free and name in config.destinations:
                self._start(name)
        return _EXAMINE_SECONDS

    def wake(self) -> None:
        """Try targets that failed again at once: a person wants it."""
        self._pauses.clear()
        self.worker.wake()

    def stop(self) -> None:
        """What is under way is cut: the next start goes on."""
        self.worker.stop()
        calls = list(self._called.values())
        for call in calls:
            if call.exchange is not None:
                call.exchange.kill()
        for call in calls:
            call.thread.join(_JOIN_SECONDS)

    def _pause_of(self, name: str) -> _TargetPause:
        return self._pauses.setdefault(name, _TargetPause())

    def _start(self, name: str) -> None:
        thread = threading.Thread(target=self._serve, args=(name,), name=STEP_TARGET_THREAD.name_for(name), daemon=True)
        self._called[name] = _Call(thread)
        try:
            thread.start()
        except RuntimeError:
            del self._called[name]  # else it would never be called again
            raise hindrance.error_for(Cause.THREADS) from None

    # -- one target ---------------------------------------------------------------------------------------------------

    def _serve(self, name: str) -> None:
        """Bring a target what is due, in a thread of its own."""
        due: deque[DueMessage] = deque()
        try:
            self._call(name, due)
            self._pauses.pop(name, None)
        except EdgeError as error:
            self._note_unreachable(name, due, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours: the messages stay owed
            log.error("%s %s: %s", STEP_TARGET_THREAD.name, name, place_of(error))
            self._note_unreachable(name, due, "a fault of the gateway, see its log")
        finally:
            self._called.pop(name, None)
            self.worker.wake()

    def _call(self, name: str, due: deque[DueMessage]) -> None:
        """One association, as long as something is due. What is sent leaves `due`."""
        destination = self._config().destinations.get(name)
        self._refill(name, due)
        if destination is None or not due:
            return
        title, secure = self._config().listen.ae_title, self._secure_for(destination)
        classes = (MODALITY_PERFORMED_PROCEDURE_STEP, INSTANCE_AVAILABILITY_NOTIFICATION)
        with open_normalized(destination, title, classes, secure) as exchange:
            self._called[name].exchange = exchange
            while due and not self.worker.is_stopping:
                self._send(exchange, name, due[0])
                due.popleft()
                if not due:
                    self._refill(name, due)

    def _refill(self, name: str, due: deque[DueMessage]) -> None:
        now = self._clock()
        with self._db.reading() as conn:
            due.extend(step_deliveries.list_due_messages(conn, name, now))

    def _send(self, exchange: NormalizedExchange, name: str, message: DueMessage) -> None:
        """Send one message and record its answer. Raises PeerError where the target takes nothing now."""
        self._db.write(lambda conn: step_deliveries.note_sending(conn, message.message_id, name))
        notified = message.kind == AVAILABLE
        sop_class = INSTANCE_AVAILABILITY_NOTIFICATION if notified else MODALITY_PERFORMED_PROCEDURE_STEP
        send = exchange.create if notified or message.kind == CREATE else exchange.set
        answer = send(sop_class, message.sop_instance_uid, message.body, message.transfer_syntax_uid)
        outcome = decide_step_outcome(message, answer.status)
        self._db.write(lambda conn: self._record(conn, name, message, outcome, answer.status, answer.comment))
        if outcome is StepOutcome.TARGET_LATER:
            raise PeerError(f"status {answer.status:04X}")
        if outcome is StepOutcome.HELD:
            log.warning(
                "a %s of step %d is held for %s: status %04X", message.kind, message.step_id, name, answer.status
            )

    def _record(
        self, conn: Transaction, name: str, message: DueMessage, outcome: StepOutcome, status: int, peer_text: str
    ) -> None:
        now, number = self._clock(), message.message_id
        if outcome is StepOutcome.TAKEN:
            step_deliveries.note_step_sent(conn, message, name, status, now)
        elif outcome is StepOutcome.CREATE_FIRST:
            step_deliveries.repeat_create(conn, message, name, status, now)
        elif outcome is StepOutcome.HELD:
            step_deliveries.note_step_failed(conn, number, name, status, peer_text, None)
        elif outcome is StepOutcome.LATER:
            again = now + backoff(message.tries + 1, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, random.random())
            step_deliveries.note_step_failed(conn, number, name, status, peer_text, again)
        else:  # the target's own failure counts against no message
            step_deliveries.note_refused_by_target(conn, number, name, status, f"status {status:04X}")

    def _note_unreachable(self, name: str, due: deque[DueMessage], error: str) -> None:
        """All stays owed; the target is tried again later."""
        if self.worker.is_stopping:
            return
        pause = self._pause_of(name)
        pause.failures += 1
        wait = backoff(pause.failures, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, random.random())
        pause.until = self._monotonic() + wait
        level = logging.WARNING if pause.failures == 1 else logging.DEBUG
        log.log(level, "performed steps wait for %s: %s", name, error)
        try:
            if due:
                self._db.write(lambda conn: step_deliveries.note_unreachable(conn, due[0].message_id, name, error))
        except EdgeError as problem:
            log.error("%s %s: %s", STEP_TARGET_THREAD.name, name, problem)
