"""Periodic tasks: two tables, and who runs them.

`TICK` is run by the gateway's own thread, once a second: systemd's watchdog is fed only while it comes through. What
may take longer, or is due seldom, is in `PERIODIC`, for a worker of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge.console.tls import RevocationLists
from edge.daemon.gateway import Gateway
from edge.daemon.outbound import Outbound
from edge.daemon.state import State
from edge.daemon.times import Times
from edge.errors import Hindered, StorageUnhealthy
from edge.errors.repeats import Repeats
from edge.messaging.monthly_mail import post_due_report
from edge.monitor import downtime
from edge.monitor.sampler import Gauges
from edge.spool import Spool
from edge.storage.ageing import Ageing
from edge.storage.replicas import SiteReplicas
from edge.storage.reserve import ReserveFile
from edge.storage.retention_review import RetentionReview
from edge.store import (
    commitment_requests,
    commitments,
    deliveries,
    gateway_values,
    hl7_messages,
    journal_progress,
    performed_steps,
    rejection_notes,
)
from edge.store.database import Store, Transaction
from edge.store.identity_copy import forget_copied
from edge.worker import ThreadSpec

log = logging.getLogger(__name__)
P = TypeVar("P")

_SECOND, _MINUTE, _HOUR = 1.0, 60.0, 3600.0
#: Batches of ledger rows that are copied in one go: a copy that begins late has years to catch up with.
COPY_BATCHES = 20
#: Requests for proof that have ended are kept for this time, and those of modalities that are reported.
REQUESTS_KEPT_SECONDS = 30 * 86_400.0
HOUSEKEEPING_THREAD = ThreadSpec(
    "housekeeping", __name__, "samples, equipment, alerts, yearly files, the reserve", "after the task that it runs"
)


@dataclass(frozen=True, slots=True)
class Task(Generic[P]):
    """What is due every `seconds`: `work`, done with the gateway's part of that type."""

    name: str
    seconds: float
    part: type[P]
    work: Callable[[P], object]


class Schedule:
    """Tasks with their next times. One thread runs them."""

    def __init__(
        self, tasks: Iterable[Task[Any]], parts: Iterable[object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`parts`: the gateway, and what it is made of."""
        by_type = {type(part): part for part in parts}
        self._tasks = [(task, by_type[task.part]) for task in tasks]
        self._due_at = {task.name: 0.0 for task, _ in self._tasks}
        self._clock = clock

    def run_due(self) -> float:
        """Run what is due. Returns the seconds until the next task is.

        A task that raises keeps no other from its time, and is due again in its own: the first error is raised last.
        """
        errors: list[Exception] = []
        for task, part in self._tasks:
            now = self._clock()
            if now >= self._due_at[task.name]:
                self._due_at[task.name] = now + task.seconds
                try:
                    task.work(part)
                except Exception as error:  # noqa: BLE001 - raised below
                    errors.append(error)
        if errors:
            raise errors[0]
        return max(0.0, min(self._due_at.values()) - self._clock())


def send_emergency_notice(gateway: Gateway) -> None:
    """Where the storage has failed no notice can be stored: it is sent from memory, once."""
    if gateway.db.failure and not gateway.notifications.emergency_sent:
        gateway.notifications.send_emergency_notice(gateway.snapshot().alerts, gateway.config)


def check_receivers(gateway: Gateway) -> None:
    """Raises where no receiving process can be started any more."""
    gateway.doors.check()


def start_missing(gateway: Gateway) -> None:
    """What could not be started, for want of threads, memory or the catalog, is tried again."""
    outbound, notifications = gateway.outbound.stations, gateway.notifications.channels
    for roster in (gateway.audit.repositories, outbound, notifications, gateway.relays.senders):
        roster.start_missing()


def mark_alive(gateway: Gateway) -> None:
    """A sign of life without a transaction: the lock file's time."""
    downtime.touch(gateway.lock, time.time())


def record_due(gateway: Gateway) -> None:
    """One transaction: who called, who was refused, and deliveries that are due or whose lease lapsed."""
    now = time.time()
    with gateway.db.reading() as conn:
        is_due = deliveries.anything_due(conn, now)
    records = gateway.take_records()

    def work(conn: Transaction) -> list[str]:
        for record in records:
            record(conn)
        return deliveries.requeue_due(conn, now)

    if records or is_due:
        try:
            destinations = gateway.db.write(work)
        except Hindered:
            gateway.unrecorded = records
            raise
        gateway.outbound.wake(destinations)


def record_alive(db: Store) -> None:
    db.write(lambda conn: gateway_values.remember(conn, "alive_at", str(time.time())))


def forget_old_requests(db: Store) -> None:
    before = time.time() - REQUESTS_KEPT_SECONDS
    db.write(lambda conn: commitments.forget_requests(conn, before))
    db.write(lambda conn: commitment_requests.forget_reported_requests(conn, before))
    db.write(lambda conn: performed_steps.forget_old_steps(conn, before))


def settle_rejection_notes(db: Store) -> None:
    """Notes that wait for what they name are examined again."""
    with db.reading() as conn:
        has_notes = rejection_notes.has_notes(conn)
    if has_notes:
        db.write(lambda conn: rejection_notes.settle_waiting_notes(conn, time.time()))


def forget_recycled_segments(gateway: Gateway) -> None:
    """Inside the transaction: what is applied until it begins is of segments that it sees."""
    ring = gateway.arrivals.ring
    gateway.db.write(lambda conn: journal_progress.forget_generations(conn, ring.live_generations()))


def checkpoint(gateway: Gateway) -> None:
    """What the catalog's own file has, the ledger's copy has, too."""
    copy_ledger(gateway)
    copy_identity(gateway)
    gateway.db.checkpoint()


def copy_ledger(gateway: Gateway) -> None:
    _copy(gateway, _write_ledger_copy, "the copy of the custody ledger cannot be written")


def copy_identity(gateway: Gateway) -> None:
    """Patients, merges, orders and waiting messages have a second copy, too."""
    _copy(gateway, _write_identity_copy, "the copy of patients and orders cannot be written")


def pack_ledger_copy(gateway: Gateway) -> None:
    """One at a time: after an upgrade there may be years of them."""
    fault = "an old file of the ledger's copy cannot be packed, and stays as it is"
    _copy(gateway, lambda gateway: gateway.journal.pack_one(), fault)


def _copy(gateway: Gateway, work: Callable[[Gateway], object], fault: str) -> None:
    """A sync that failed ends it: the next one of the same file would not show what the first has lost."""
    if gateway.db.failure is not None:
        return
    try:
        work(gateway)
    except StorageUnhealthy as error:
        gateway.db.fail(str(error))
    except (OSError, Hindered) as error:
        log.error("%s: %s", fault, error)


def _write_ledger_copy(gateway: Gateway) -> None:
    with gateway.db.reading() as conn:
        for _ in range(COPY_BATCHES):
            if not gateway.journal.write(conn):
                break


def _write_identity_copy(gateway: Gateway) -> None:
    with gateway.db.reading() as conn:
        if gateway.identity_copy.is_large():
            gateway.identity_copy.write_whole(conn)
        last = gateway.identity_copy.write(conn)
    if last:
        gateway.db.write(lambda conn: forget_copied(conn, last))


TICK: Sequence[Task[Any]] = (
    Task("emergency notice", _SECOND, Gateway, send_emergency_notice),
    Task("state", _SECOND, State, State.check),
    Task("receiving processes", _SECOND, Gateway, check_receivers),
    Task("clock", _SECOND, Times, Times.check),
    Task("lock file", _SECOND, Gateway, mark_alive),
    Task("what could not be started", 10 * _SECOND, Gateway, start_missing),
    Task("certificates", 10 * _SECOND, Outbound, Outbound.refresh_certificates),
    Task("due deliveries, callers, refusals", _SECOND, Gateway, record_due),
    Task("the console's revocation lists", 10 * _SECOND, RevocationLists, RevocationLists.refresh),
    Task("sign of life", 10 * _SECOND, Store, record_alive),
    Task("checkpoint and ledger copy", 5 * _SECOND, Gateway, checkpoint),
    Task("idle readers", 5 * _SECOND, Store, Store.close_idle_readers),
    Task("repeated log lines", 5 * _SECOND, Repeats, Repeats.flush),
    Task("ended requests for proof", _MINUTE, Store, forget_old_requests),
    Task("rejection notes", 2 * _SECOND, Store, settle_rejection_notes),
    Task("recycled segments of the journal", _MINUTE, Gateway, forget_recycled_segments),
    Task("stored times in the future", _MINUTE, Times, Times.correct),
)


def forget_hl7(db: Store) -> None:
    """Let HL7 messages go that nobody needs any more."""
    db.write(lambda conn: hl7_messages.forget_old_messages(conn, time.time()))


def mail_month(gateway: Gateway) -> None:
    """Send the report of a month that is over at once."""
    if post_due_report(gateway.db, gateway.config, time.time()):
        gateway.notifications.wake_couriers()


PERIODIC: Sequence[Task[Any]] = (
    Task("reserve file", 5 * _SECOND, ReserveFile, ReserveFile.keep),
    Task("disk health", _HOUR, Gauges, Gauges.read_disk_health),
    Task("samples", _MINUTE, Gauges, Gauges.sample),
    Task("equipment", _MINUTE, Gauges, Gauges.identify_equipment),
    Task("figures", _MINUTE, Gauges, Gauges.count_figures),
    Task("usual hours", 5 * _MINUTE, Gauges, Gauges.learn_usual_hours),
    Task("old samples and alerts", _HOUR, Gauges, Gauges.thin),
    Task("old instances into yearly files", 5 * _SECOND, Ageing, Ageing.step),
    Task("old files of the ledger's copy", _MINUTE, Gateway, pack_ledger_copy),
    Task("rules of retention on what is here", 5 * _SECOND, RetentionReview, RetentionReview.run),
    Task("replicas of a second site", 10 * _SECOND, SiteReplicas, SiteReplicas.step),
    Task("report of the month", _MINUTE, Gateway, mail_month),
    Task("old HL7 messages", _MINUTE, Store, forget_hl7),
    Task("empty spool folders", _HOUR, Spool, Spool.drop_empty_buckets),
)
