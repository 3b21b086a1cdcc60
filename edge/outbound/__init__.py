"""Send to one destination: lease deliveries, have senders send them, record how each ended.

One thread writes to the catalog: it leases about a second's worth ahead and records results in small batches, so that
senders (a thread for each association) never wait for the database. Killed at any moment, nothing is lost, and at
most scheduler.UNSETTLED instances are sent once more. Network and transient failures are tried again indefinitely: see
edge.outbound.scheduler.

When storage is unhealthy nothing more is sent: it could not be recorded. A fault of ours stops a destination for
FAULT_SECONDS, never for longer; a result that alone cannot be recorded is left to its lease, so that it is sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from edge.config.sections import Destination
from edge.dicom.scu import Patience, Secure
from edge.errors import (
    Cause,
    EdgeError,
    Hindered,
    StorageUnhealthy,
    TransformError,
    Transient,
    Unreadable,
    hindrance,
    place_of,
)
from edge.model import ContextKey, Lease, Outcome, Reason, ReasonCode
from edge.outbound.copies import Converter, CopyMaker, CopySteps, PixelsMayName, is_compressible
from edge.outbound.crew import SenderRole
from edge.outbound.economy import CompressionEconomy
from edge.outbound.job import Health, Job, Leased, WriteBatch
from edge.outbound.scheduler import DeliveryScheduler
from edge.outbound.transport.dimse import Sender, fallback_groups
from edge.outbound.transport.stow import StowSender, WebDestination
from edge.spool import Spool
from edge.store import catalog, deliveries, destinations, leases, sent_copies
from edge.store.database import Store, Transaction
from edge.store.reasons import words
from edge.transform.corrections import RuleFailed
from edge.transform.syntaxes import COMPRESSIONS
from edge.worker import DONE, ThreadSpec, Worker

log = logging.getLogger(__name__)

WRITER_THREAD = ThreadSpec(
    "writer",
    __name__,
    "deliveries, destinations, ledger",
    "with its senders, within 20 s",
    each="destination",
)
#: Objects that are converted at once for one destination.
CONVERSIONS = 2
#: The pause after a fault of ours.
FAULT_SECONDS = 5.0
#: What a killed sender gets to notice it.
KILL_SECONDS = 5.0


class Forwarder:
    """The writer of one destination's deliveries, and the source of its senders' objects. Thread-safe."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        transcoder: Converter,
        destination: Destination,
        calling_ae: str,
        *,
        on_sent: Callable[[], None] = lambda: None,
        patience: Patience | None = None,
        scheduler: DeliveryScheduler | None = None,
        secure: Secure | None = None,
        steps: CopySteps | None = None,
        site: str = "",
    ) -> None:
        """`on_sent` is called, after the commit, when instances wait for their proof. `steps` make the copies.

        `site`: ours, which another Edge is shown.
        """
        self.destination, self.calling_ae, self.site = destination, calling_ae, site
        self._db, self._spool = db, spool
        self._copies = CopyMaker(spool, transcoder, steps or CopySteps())
        self._on_sent, self._patience, self._secure = on_sent, patience or Patience(), secure
        self._web = WebDestination(destination) if destination.is_web else None
        self._compressed = COMPRESSIONS.get(destination.compress, "")
        self._economy = CompressionEconomy(CONVERSIONS)
        self._proved_by_status = destination.confirm == "status"
        self._scheduler = scheduler or DeliveryScheduler(destination.name, destination.associations)
        self._writer = Worker(
            WRITER_THREAD, self._step, destination.name, longest_pause_seconds=FAULT_SECONDS, drains=True
        )
        self._converters = ThreadPoolExecutor(CONVERSIONS, thread_name_prefix=f"convert {destination.name}")

    # -- for the daemon -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Continue where the last run ended."""
        with self._db.reading() as conn:
            known = destinations.known_health(conn, self.destination.name)
        if known is not None:
            self._scheduler.remember(known)
        self._writer.start()

    def wake(self) -> None:
        """Look for new work. Cheap; to be called after every commit that queued some."""
        self._scheduler.announce()

    def try_now(self) -> None:
        """Find out at once whether the destination is back, if it is down."""
        self._scheduler.try_now()

    def stop(self, seconds: float = 10.0) -> None:
        """What is under way may end within `seconds`, then it is cut off, to be sent again. Leases are given back."""
        self._scheduler.close()
        if not self._writer.stop(seconds):
            for sender in self._scheduler.stop_all():
                sender.kill()
            self._writer.stop(KILL_SECONDS)
        self._converters.shutdown(wait=False, cancel_futures=True)

    @property
    def certificate_expires(self) -> float | None:
        """The end of our certificate or the server's, of a DICOMweb destination; None: not known, or none."""
        return self._web.tls.expires if self._web is not None else None

    @property
    def state(self) -> str:
        return self.describe().state

    def describe(self) -> Health:
        return replace(self._scheduler.health(), outpaced_at=self._economy.outpaced_at)

    # -- the writer ---------------------------------------------------------------------------------------------------

    def _step(self) -> float:
        """Write the next batch; the last one when the scheduler is closed and its senders have ended."""
        try:
            if goes_on := self._scheduler.wait():
                for role in self._scheduler.wanted_senders():
                    self._start_sender(role)
            self._write(self._scheduler.next_batch())
        except StorageUnhealthy as error:
            self._scheduler.give_up(str(error))
            return DONE
        return 0.0 if goes_on else DONE

    def _start_sender(self, role: SenderRole) -> None:
        sender = self._build_sender(role)
        sender.alone = self._scheduler.add_sender(sender, role)
        try:
            sender.start()
        except RuntimeError:  # TasksMax of the unit, or the memory, allows no more: those that there are go on
            self._scheduler.note_shortage(sender, f"the gateway is {hindrance.words_of(Cause.THREADS)}")

    def _build_sender(self, role: SenderRole) -> Sender | StowSender:
        to = self.destination
        if self._web is not None:
            return StowSender(self._scheduler, self, to, self._web, role)
        return Sender(self._scheduler, self, to, self.calling_ae, self._patience, role, self._secure)

    def _write(self, batch: WriteBatch) -> None:
        if batch.is_empty:
            return
        try:
            leased = self._db.write(lambda conn: self._record(conn, batch))
        except (Hindered, MemoryError) as error:
            why = hindrance.words_of(hindrance.cause_of(error))
            log.warning("%s: what was sent cannot be recorded yet: the gateway is %s", self.destination.name, why)
            self._scheduler.restore_batch(batch)
            return
        except StorageUnhealthy:
            raise
        except Exception as error:
            log.error("%s: not recorded: %s", self.destination.name, place_of(error))
            self._write_apart(batch)
            raise
        self._scheduler.finish_batch(batch, leased)
        if not self._proved_by_status and any(r.attempt.outcome is Outcome.SENT for r in batch.results):
            self._on_sent()

    def _write_apart(self, batch: WriteBatch) -> None:
        """Each result in its own transaction, and nothing is leased; one that fails again is left to its lease."""
        rest = replace(batch, results=(), health=None, limit=0, sample=False, suspect=False)
        for part in (rest, *(WriteBatch(batch.at, [each]) for each in batch.results)):
            try:
                self._db.write(lambda conn, part=part: self._record(conn, part))  # type: ignore[misc]
            except EdgeError:
                raise
            except Exception as error:  # noqa: BLE001  a fault of ours
                which = ", ".join(str(each.attempt.lease.instance_id) for each in part.results)
                log.error("%s: instance %s: %s", self.destination.name, which or "-", place_of(error))
        self._scheduler.skip_lease(batch)

    def _record(self, conn: Transaction, batch: WriteBatch) -> Leased:
        """Record how jobs ended, and take the next leases, in one transaction."""
        now, name, owner = batch.at, self.destination.name, self._spool.node
        # Where the instance came again or was repaired meanwhile, the next lease has its file.
        replaced = [r for r in batch.results if r.lost and not catalog.holds_path(conn, r.attempt.lease.path)]
        results = [r for r in batch.results if r not in replaced]
        for attempt in (r.attempt for r in results if r.lost):
            if catalog.mark_lost(conn, attempt.lease.path, words(attempt.reason)):
                log.critical("instance %d is lost: %s", attempt.lease.instance_id, words(attempt.reason))
                deliveries.record_lost(conn, attempt.lease, now, attempt.reason)
        attempts = [r.attempt for r in results]
        counted = {
            each.lease.delivery_id
            for each in deliveries.record_attempts(conn, attempts, now, proved_by_status=self._proved_by_status)
            if each.outcome is Outcome.SENT
        }
        sent = [(r.attempt.lease, r.copy) for r in results if r.attempt.lease.delivery_id in counted]
        sent_copies.record_sent(conn, sent, now)
        leases.return_leases(conn, [*batch.back, *(r.attempt.lease for r in replaced)])
        leases.renew(conn, batch.renew, now)
        if batch.health is not None:
            destinations.note_health(conn, name, batch.health)
        return Leased(
            leases.lease(conn, name, owner, now, batch.limit, batch.max_bytes) if batch.limit else (),
            leases.lease_newest(conn, name, owner, now) if batch.sample else (),
            leases.lease_suspect(conn, name, owner, now) if batch.suspect else (),
            leases.next_suspect(conn, name) if batch.suspect else None,
        )

    # -- the senders' source -------------------------------------------------------------------------------------------

    def path_of(self, lease: Lease) -> str:
        """The spooled file."""
        return f"{self._spool.root}/{lease.path}"

    def queued_contexts(self) -> list[ContextKey]:
        """The presentation contexts that the destination's queue needs, the most urgent first."""
        with self._db.reading() as conn:
            return deliveries.queued_contexts(conn, self.destination.name)

    @property
    def fallbacks(self) -> tuple[tuple[str, ...], ...]:
        """What is proposed beside each transfer syntax."""
        return fallback_groups(self._compressed)

    def wants_compressed(self, job: Job) -> str:
        """The transfer syntax in which an object is rather sent than in its own; empty where there is none."""
        if not self._compressed or job.is_incompressible or not is_compressible(job.lease.context_key):
            return ""
        if job.has(self._compressed):
            return self._compressed  # the work is done
        return self._compressed if self._economy.pays(self._scheduler.line_rate) else ""

    def prepare(self, job: Job, transfer_syntax_uid: str) -> bool:
        """Make the copy that goes in this transfer syntax. False: it is made beside, or the job has ended."""
        if not self._copies.is_needed(job.lease, transfer_syntax_uid):
            job.is_prepared = True
            return True
        if self._copies.is_quick(job.lease, transfer_syntax_uid):
            return self._make_copy(job, transfer_syntax_uid)
        self._scheduler.start_conversion(job)
        if hindrance.submit(self._converters, self._prepare_beside, job, transfer_syntax_uid) is None:
            self._scheduler.defer(job, step="convert", cause=Cause.THREADS.value)
        return False

    def _prepare_beside(self, job: Job, transfer_syntax_uid: str) -> None:
        if self._make_copy(job, transfer_syntax_uid):
            self._scheduler.put_back(job)

    def _make_copy(self, job: Job, transfer_syntax_uid: str) -> bool:
        """True: it may go now. False: the job has ended."""
        begun = time.monotonic()
        try:
            job.copy = self._copies.make(job.lease, transfer_syntax_uid)
        except FileNotFoundError:
            self._scheduler.hold_lost(job, error="the spooled file is gone")
        except Unreadable as error:
            self._scheduler.hold_lost(job, error=str(error))
        except PixelsMayName as error:
            self._scheduler.hold(job, Reason(ReasonCode.MAY_NAME_PATIENT, {"error": str(error)}))
        except RuleFailed as error:
            self._scheduler.hold(job, Reason(ReasonCode.RULE_FAILED, {"rule": error.rule, "error": error.why}))
        except TransformError as error:
            if transfer_syntax_uid == self._compressed and is_compressible(job.lease.context_key):
                self._send_uncompressed(job, str(error))
            else:
                self._scheduler.hold(job, Reason(ReasonCode.NO_CONTEXT, {"error": str(error)}))
        except (Transient, OSError) as error:
            self._scheduler.defer(job, step="convert", error=str(error))
        except Exception as error:  # noqa: BLE001  a fault of ours: its words could quote the object, its place cannot
            log.error("preparing instance %d: %s", job.lease.instance_id, place_of(error))
            self._scheduler.defer(job, step="convert", exception=type(error).__name__)
        else:
            job.is_prepared = True
            if (
                transfer_syntax_uid != self._compressed
                or transfer_syntax_uid == job.lease.context_key.transfer_syntax_uid
            ):
                return True
            self._economy.note_encoded(job.lease.size, time.monotonic() - begun)
            if job.data_set_bytes < job.lease.size - job.lease.dataset_offset:
                return True
            self._send_uncompressed(job, "it would not become smaller")
        return False

    def _send_uncompressed(self, job: Job, why: str) -> None:
        log.info("%s: instance %d is not compressed: %s", self.destination.name, job.lease.instance_id, why)
        job.drop_copy()
        job.is_incompressible = True
        self._scheduler.put_back(job)
