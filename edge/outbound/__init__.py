"""The way out to one destination: lease work, have senders carry it, write down what came of it.

One clerk thread writes to the catalog: it leases about a second's worth ahead and settles in small batches, so that
senders (a thread for each association) never wait for the database. Killed at any moment, nothing is lost, and at
most dispatch.UNSETTLED instances are sent once more. Network and transient failures are tried again for ever: see
edge.outbound.dispatch.

When storage is unhealthy nothing more is sent: it could not be written down. A fault of ours stops a destination for
FAULT_SECONDS, never for longer; a result that alone cannot be written down is left to its lease, so that it is sent
again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edge import hindrance
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
    place_of,
)
from edge.model import ContextKey, Lease, Outcome
from edge.outbound.crew import Role
from edge.outbound.job import Copy, Health, Job, Leased, WriteBatch
from edge.outbound.scheduler import DeliveryScheduler
from edge.outbound.sender import Sender
from edge.spool import Spool
from edge.store import catalog, deliveries
from edge.store.database import Connection, Database
from edge.transform import Converted

log = logging.getLogger(__name__)

#: Objects that are converted at once for one destination.
CONVERSIONS = 2
#: The pause after a fault of ours.
FAULT_SECONDS = 5.0
#: What a killed sender gets to notice it.
KILL_SECONDS = 5.0


class Converter(Protocol):
    """edge.transform.Transcoder, as far as it is needed here."""

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted: ...


class Forwarder:
    """One destination's clerk, and its senders' depot. Thread-safe."""

    def __init__(
        self,
        db: Database,
        spool: Spool,
        transcoder: Converter,
        destination: Destination,
        calling_ae: str,
        *,
        on_sent: Callable[[], None] = lambda: None,
        patience: Patience | None = None,
        dispatch: DeliveryScheduler | None = None,
        secure: Secure | None = None,
    ) -> None:
        """`on_sent` is told, after the commit, that instances wait for their proof."""
        self.destination, self.calling_ae = destination, calling_ae
        self._db, self._spool, self._transcoder = db, spool, transcoder
        self._on_sent, self._patience, self._secure = on_sent, patience or Patience(), secure
        self._proved_by_status = destination.confirm == "status"
        self._dispatch = dispatch or DeliveryScheduler(destination.name, destination.associations)
        self._ending = threading.Event()
        self._clerk = threading.Thread(target=self._run, name=f"clerk {destination.name}", daemon=True)
        self._converters = ThreadPoolExecutor(CONVERSIONS, thread_name_prefix=f"convert {destination.name}")

    # -- for the daemon -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up where the last run ended."""
        with self._db.reading() as conn:
            known = deliveries.known_destination(conn, self.destination.name)
        if known is not None:
            self._dispatch.remember(Health(*known))
        self._clerk.start()

    def wake(self) -> None:
        """There is new work. Cheap; to be called after every commit that queued some."""
        self._dispatch.announce()

    def stop(self, seconds: float = 10.0) -> None:
        """What is under way may end within `seconds`, then it is cut off, to be sent again. Leases are given back."""
        self._ending.set()
        self._dispatch.close()
        self._clerk.join(seconds)
        if self._clerk.is_alive():
            for sender in self._dispatch.stop_all():
                sender.kill()
            self._clerk.join(KILL_SECONDS)
        self._converters.shutdown(wait=False, cancel_futures=True)

    @property
    def state(self) -> str:
        return self.describe().state

    def describe(self) -> Health:
        return self._dispatch.health()

    # -- the clerk ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_last = False
        while True:
            try:
                self._work()
            except StorageUnhealthy as error:
                self._dispatch.give_up(str(error))
            except Exception as error:  # noqa: BLE001  a fault of ours ends no destination
                log.error("%s: forwarding goes on in %.0f s: %s", self.destination.name, FAULT_SECONDS, place_of(error))
                if not is_last:
                    is_last = self._ending.wait(FAULT_SECONDS)
                    continue
            return

    def _work(self) -> None:
        """Turn after turn, until the end."""
        while self._dispatch.wait():
            for role in self._dispatch.wanted_senders():
                self._start_sender(role)
            self._do(self._dispatch.next_turn())
        self._do(self._dispatch.next_turn())

    def _start_sender(self, role: Role) -> None:
        sender = Sender(self._dispatch, self, self.destination, self.calling_ae, self._patience, role, self._secure)
        sender.alone = self._dispatch.add_sender(sender, role)
        try:
            sender.start()
        except RuntimeError:  # TasksMax of the unit, or the memory, allows no more: those that there are go on
            self._dispatch.hindered(sender, f"the gateway is {hindrance.words_of(Cause.THREADS)}")

    def _do(self, turn: WriteBatch) -> None:
        if turn.is_empty:
            return
        try:
            leased = self._db.write(lambda conn: self._write(conn, turn))
        except (Hindered, MemoryError) as error:
            why = hindrance.words_of(hindrance.cause_of(error))
            log.warning("%s: what was sent cannot be written down yet: the gateway is %s", self.destination.name, why)
            self._dispatch.failed(turn)
            return
        except StorageUnhealthy:
            raise
        except Exception as error:
            log.error("%s: not written down: %s", self.destination.name, place_of(error))
            self._do_apart(turn)
            raise
        self._dispatch.done(turn, leased)
        if not self._proved_by_status and any(r.settlement.outcome is Outcome.SENT for r in turn.results):
            self._on_sent()

    def _do_apart(self, turn: WriteBatch) -> None:
        """Each result in its own transaction, and nothing is leased; one that fails again is left to its lease."""
        left = replace(turn, results=(), health=None, limit=0, sample=False, suspect=False)
        for part in (left, *(WriteBatch(turn.at, [each]) for each in turn.results)):
            try:
                self._db.write(lambda conn, part=part: self._write(conn, part))  # type: ignore[misc]
            except EdgeError:
                raise
            except Exception as error:  # noqa: BLE001  a fault of ours
                which = ", ".join(str(each.settlement.work.instance_id) for each in part.results)
                log.error("%s: instance %s: %s", self.destination.name, which or "-", place_of(error))
        self._dispatch.forgo(turn)

    def _write(self, conn: Connection, turn: WriteBatch) -> Leased:
        """In one transaction: what became of the work, and the next lease."""
        now, name = turn.at, self.destination.name
        for result in turn.results:
            if result.lost:
                catalog.mark_lost(conn, result.settlement.work.instance_id, result.settlement.reason)
                deliveries.record_lost(conn, result.settlement.work, now, result.settlement.reason)
        sent = (r for r in turn.results if r.changed and r.settlement.outcome is Outcome.SENT)
        deliveries.record_changed(conn, [(r.settlement.work, r.changed) for r in sent], now)
        deliveries.record_attempts(
            conn, [r.settlement for r in turn.results], now, proved_by_status=self._proved_by_status
        )
        deliveries.return_leases(conn, turn.back)
        deliveries.renew(conn, turn.renew, now)
        if (told := turn.health) is not None:
            deliveries.note_destination(
                conn, name, told.state, told.since, told.retry_at, told.last_success, told.last_error
            )
        return Leased(
            deliveries.lease(conn, name, now, turn.limit, turn.max_bytes) if turn.limit else (),
            deliveries.lease_newest(conn, name, now) if turn.sample else (),
            deliveries.lease_suspect(conn, name, now) if turn.suspect else (),
            deliveries.next_suspect(conn, name) if turn.suspect else None,
        )

    # -- the depot ----------------------------------------------------------------------------------------------------

    def path_of(self, work: Lease) -> Path:
        """The spooled file."""
        return self._spool.path_of(work.path)

    def queued_kinds(self) -> list[ContextKey]:
        """All that the destination's queue holds, the most urgent first."""
        with self._db.reading() as conn:
            return deliveries.queued_contexts(conn, self.destination.name)

    def convert(self, job: Job, target: str) -> None:
        """Have a copy made in another transfer syntax, beside the senders; the job is back on the dispatch then."""
        self._dispatch.converting(job)
        if hindrance.submit(self._converters, self._convert, job, target) is None:
            self._dispatch.defer(job, f"not converted: the gateway is {hindrance.words_of(Cause.THREADS)}")

    def _convert(self, job: Job, target: str) -> None:
        try:
            job.copy = self._copy_of(job.work, target)
        except FileNotFoundError:
            self._dispatch.lost(job, "the spooled file is gone")
        except Unreadable as error:
            self._dispatch.lost(job, str(error))
        except TransformError as error:
            self._dispatch.hold(job, str(error))
        except (Transient, OSError) as error:
            self._dispatch.defer(job, f"not converted: {error}")
        except Exception as error:  # noqa: BLE001  a fault of ours: its words could quote the object, its place cannot
            log.error("converting instance %d: %s", job.work.instance_id, place_of(error))
            self._dispatch.defer(job, f"internal error in converting ({type(error).__name__}); see the log")
        else:
            self._dispatch.put_back(job)

    def _copy_of(self, work: Lease, target: str) -> Copy:
        """A copy in another transfer syntax, of bytes that are still those that were received."""
        if self._spool.digest(work.path, work.dataset_offset) != work.sha256:
            raise Unreadable("the spooled file's bytes are not those that were received (SHA-256 differs)")
        made = self._transcoder.convert(
            self._spool.path_of(work.path),
            work.dataset_offset,
            work.kind.transfer_syntax_uid,
            target,
            self._spool.incoming / f"{secrets.token_hex(16)}.part",  # a crash leaves it to the next start
        )
        return Copy(target, made.path, made.dataset_offset, made.size)
