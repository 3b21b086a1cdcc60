"""The gateway: the only place where its parts are built and joined. What they do together is in its neighbours:
lifecycle (start, stop), housekeeping (what is due again and again), reload, commands."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edge import config
from edge.config.sections import Config
from edge.console.access import Access
from edge.console.accounts import record_in_ledger
from edge.daemon import fetching
from edge.daemon.answerer import Answerer
from edge.daemon.commands import Commands
from edge.daemon.configuring import Configuring
from edge.daemon.console_door import ConsoleDoor
from edge.daemon.control import Control
from edge.daemon.doors import Door, Doors
from edge.daemon.fetching import FetchedObjects
from edge.daemon.notifications import Notifications
from edge.daemon.outbound import Outbound
from edge.daemon.receivers import HL7_DOOR, WEB_DOOR, Receivers
from edge.daemon.reception import Reception
from edge.daemon.restoring import Restores
from edge.daemon.retrievals import QueryRegister, SpoolCopies, SpoolReaders, record_views
from edge.daemon.standby import require_protection
from edge.daemon.start import bind_all, check_journal, claim, open_catalog
from edge.daemon.state import State
from edge.daemon.times import Times
from edge.errors.repeats import Repeats
from edge.importer.service import ImportService
from edge.intake import Intake
from edge.intake.apply import IntakeApplier, disk_bytes
from edge.intake.policy import Policy
from edge.intake.rechecks import Rechecks
from edge.journal.segment import ring_size
from edge.journal.service import JournalService
from edge.messaging.audit import AuditTrailProjector
from edge.messaging.audit.refused import Register
from edge.model import Disk, Origin
from edge.monitor import health, metrics
from edge.monitor.engine import AlertEngine
from edge.monitor.live import JournalUse, Link, Live, WebUse
from edge.monitor.sampler import Gauges
from edge.monitor.snapshot_model import Snapshot
from edge.monitor.status_document import status_json
from edge.network.answer_times import AnswerTimes
from edge.outbound.commitment_reports import CommitmentReports
from edge.outbound.prefetch import Prefetcher
from edge.outbound.relay import Relays
from edge.outbound.steps import StepForwarding
from edge.outbound.worklist import WorklistKeeper
from edge.scp.admission import modality_of
from edge.scp.association import equipment_of
from edge.scp.callers import Callers
from edge.scp.capacity import Associations
from edge.scp.fork_server import ForkServer
from edge.scp.gateway_link import LocalLink
from edge.scp.recorder import Recorder
from edge.scp.rejections import Refusals
from edge.scp.services.mpps_register import StepRegister
from edge.scp.services.storage_commitment_register import RequestRegister
from edge.scp.services.worklist_reader import WorklistReader
from edge.spool import Spool
from edge.spool.room import DiskGuard, disk_of
from edge.storage.ageing import Ageing
from edge.storage.backfill import Backfill
from edge.storage.ledger_check import Chain
from edge.storage.release import Releaser
from edge.storage.repair import Repairer
from edge.storage.replicas import SiteReplicas
from edge.storage.reserve import ReserveFile
from edge.storage.retention import Retention
from edge.storage.retention_review import RetentionReview
from edge.storage.scrub import Scrub
from edge.store import leases, rejection_notes
from edge.store.database import Transaction
from edge.store.identity_copy import IdentityCopy
from edge.store.ledger_copy import Journal
from edge.web.accounts import Accounts
from edge.web.setup import Setup

#: An answer to "is it here?" waits this long for what was received before to be in the catalog.
ANSWER_SETTLE_SECONDS = 2.0
#: Receive buffers of the import door.
IMPORT_SLOTS = 2


class Gateway:
    """All parts, and what joins them."""

    def __init__(self, directory: Path, repeats: Repeats, notify: Callable[[str], object], server: ForkServer) -> None:
        """Build everything that may fail. Raises ConfigError or StartError. `notify`: systemd's sd_notify."""
        self._server = server
        self.directory, self.repeats, self.notify = directory, repeats, notify
        self.config = config.load_config(directory)
        self.started_at, self._started = time.time(), time.monotonic()
        self.rejected_at: float | None = None  # when the last configuration was, until a good one is read
        self._build_storage()
        self._build_path()
        self._build_upkeep()
        self._build_doors()
        self._build_callers()
        self._build_services()

    def _build_storage(self) -> None:
        data_dir = self.config.site.data_dir
        if self.config.site.standby:
            require_protection(data_dir)
        self.lock = claim(data_dir)
        self.guard = DiskGuard(
            self.current_config, self.disk, lambda: self.arrivals.owed_to_spool, lambda: self.arrivals.most_owed
        )
        self.reserve = ReserveFile(data_dir, self.disk)
        self.reserve.drop_if_tight()
        self.spool = self.reserve.spend(lambda: Spool(data_dir, self.guard.check_room))
        self.db = open_catalog(data_dir / "catalog.db", self.reserve)
        self.reception = Reception(self.guard, self.spool.incoming, self.db)
        self.state = State(self.db, self.reception, self.started_at, self.notify)
        self.journal, self.identity_copy = Journal(data_dir), IdentityCopy(data_dir)
        check_journal(self.db, self.journal)

    def _build_path(self) -> None:
        """Build the parts, from the archive's end to the modality's."""
        self.notifications = Notifications(self.db, self.directory, self.status)
        self.outbound = Outbound(self.db, self.spool, self.config)
        self.intake = Intake(self.db, self.spool, Policy.from_config(self.config), self.outbound.wake)
        self.intake.may_reject = self.may_reject
        applier = IntakeApplier(self.db, self.spool, self.intake, lambda: self.config.relays, self.on_hl7)
        size = ring_size(disk_bytes(self.spool))
        self.arrivals = self.reserve.spend(
            lambda: JournalService(self.config.site.data_dir, size, applier, self.db.fail)
        )
        self.db.on_failure = self.arrivals.refuse
        self.relays = Relays(self.db, self.outbound.secure_for)
        self.rechecks = Rechecks(self.db, lambda: self.intake.policy, self.outbound.wake, self.intake.checks.forget)
        self.releaser = Releaser(self.db, self.spool, self.intake, self.outbound.wake)
        self.gauges = Gauges(self.db, self.current_config, self.disk, self.snapshot)
        self.clock = Times(self.db, self.outbound.wake_all, self.gauges.is_clock_synchronized)

    def _build_upkeep(self) -> None:
        """What keeps the stored images whole, and their room."""
        self.readers = SpoolReaders()
        self.retention_review = RetentionReview(self.db, self.intake, self.current_config)
        self.retention = Retention(
            self.db,
            self.spool,
            self.current_config,
            self.disk,
            doubts_clock=self.clock.is_doubtful,
            is_read=self.readers.is_read,
            review=self.retention_review.review,
        )
        self.ageing = Ageing(self.db, doubts_clock=self.clock.is_doubtful)
        self.guard.on_refusing = self.retention.worker.wake
        self.repairer = Repairer(self.db, self.spool, self.current_config, self.outbound.wake)
        self.restores = Restores(self.db, self.spool, self.intake, self.current_config)
        self.site_replicas = SiteReplicas(
            self.db, self.current_config, self.outbound.wake, doubts_clock=self.clock.is_doubtful
        )
        self.backfill = Backfill(self.db, self.intake)
        self.scrub = Scrub(self.db, self.spool, self.repairer, self.is_busy)
        self.ledger_check = Chain(self.db)

    def _build_doors(self) -> None:
        """Who calls, and what answers it."""
        find_object = lambda path: self.db.read(lambda conn: leases.read_object(conn, path))  # noqa: E731
        steps = lambda to: self.outbound.retrieval_steps(self.config, to)  # noqa: E731
        self.copies = SpoolCopies(self.outbound.transcoder, self.spool, find_object, steps)
        self.queries = QueryRegister()
        self.answers = AnswerTimes()
        self.refusals, self._refused, self.callers = Refusals(), Register(), Callers()
        self.unrecorded: list[Callable[[Transaction], None]] = []
        plan = lambda: (self.config, self.intake.policy.header)  # noqa: E731
        receivers = partial(Receivers, self._server, self.arrivals, plan=plan, lock=self.lock)
        self.doors = Doors(
            Door("", receivers(self._link), self.refusals.note_refused),
            Door("HL7", receivers(self._link, door=HL7_DOOR), self.refusals.note_refused),
            Door("DICOMweb", receivers(self._web_link, door=WEB_DOOR), self.refusals.note_refused),
        )
        self.web_connections = Associations(end_idle=self.doors.web.receivers.end_idle)
        self.answerer = Answerer(self._server, self.arrivals, plan, self.config.site.data_dir, self.lock)
        self.associations = Associations(
            lambda title, address: equipment_of(self.config, title, address), self.doors.dicom.receivers.end_idle
        )
        self.commitments = RequestRegister(self.db)
        self.worklist = WorklistReader(self.db, self.current_config)
        self.steps = StepRegister(self.db, lambda: self.arrivals.is_replayed)

    def _build_callers(self) -> None:
        """What calls others for what was asked here, and what is fetched from them."""
        self.reports = CommitmentReports(
            self.db,
            self.current_config,
            self.outbound.secure_for,
            lambda: self.arrivals.lag_seconds,
            doubts_clock=self.clock.is_doubtful,
        )
        self.step_forwarding = StepForwarding(self.db, self.current_config, self.outbound.secure_for_destination)
        door = self.arrivals.open_door(fetching.FETCH_SLOTS)
        recorder = Recorder(
            door, self.intake.policy.header, self.guard.check_room, self.intake.keeps_unreadable, self.db.fail
        )
        self.fetched = FetchedObjects(door, recorder)
        self.prefetcher = Prefetcher(
            self.db,
            self.current_config,
            self.disk,
            self.outbound.secure_for_destination,
            self.fetched.store,
            self.settle,
        )
        self.worklist_keeper = WorklistKeeper(self.db, self.current_config, self.outbound.secure_for_destination)

    def _link(self) -> LocalLink:
        """Build the link of one receiving process."""
        return self._make_link(self.associations)

    def _web_link(self) -> LocalLink:
        """Build the link of the web door's process: its connections take no association's place."""
        return self._make_link(
            self.web_connections,
            {"record_views": partial(record_views, self.db), "find_person": self.console.find_person},
        )

    def _make_link(self, places: Associations, more: Mapping[str, Callable[..., Any]] | None = None) -> LocalLink:
        return LocalLink(
            places,
            note_call=self.callers.note,
            note_refusal=self.refusals.note_refused,
            note_hindrance=self.reception.note,
            keeps_unreadable=self.intake.keeps_unreadable,
            take_report=self.outbound.report,
            fail=self.db.fail,
            commitments=self.commitments,
            steps=self.steps,
            read_worklist=self.worklist.read_page,
            note_query=self.queries.note,
            copies=self.copies,
            readers=self.readers,
            note_answers=self.answers.add,
            is_forbidden=self._is_forbidden,
            note_damaged=self.scrub.examine,
            more=more or {},
        )

    def _is_forbidden(self, sop_instance_uid: str) -> bool:
        with self.db.reading() as conn:
            return rejection_notes.is_forbidden(conn, sop_instance_uid)

    def _build_services(self) -> None:
        """What people and other machines ask, and what reports to them; the addresses come last."""
        self.audit = AuditTrailProjector(self.db, self.current_config, self.directory)
        self.watch = AlertEngine(self.db, self.current_config, self.snapshot, posted=self.notifications.send_notices)
        accounts = Accounts(self.db, record_in_ledger)
        self.configuring = Configuring(self.directory, self.db, lambda: os.kill(os.getpid(), signal.SIGHUP))
        self.commands = Commands(self)
        self.importer = ImportService(
            self.db,
            self.current_config,
            self._import_recorder(),
            lambda name, fields: dict(self.commands.ask(name, fields)),
            self.guard.check_room,
        )
        self.control = Control(self.config.site.data_dir, self.commands.handlers)
        access = Access(
            self.db,
            self.spool,
            self.current_config,
            self.directory,
            self.status,
            self.commands.ask,
            self.configuring,
            self.importer,
        )
        bind_all(
            partial(self._bind_console, access, Setup(accounts)),
            partial(self.doors.bind, self.config, self.refusals.note_refused, self.reception.note),
        )

    def _bind_console(self, access: Access, setup: Setup) -> None:
        self.console = ConsoleDoor(access, setup, self.metrics, self.state)
        self.revocation = self.console.revocation

    def _import_recorder(self) -> Recorder:
        """The door of imports; one object at a time."""
        self.import_door = self.reserve.spend(lambda: self.arrivals.open_door(IMPORT_SLOTS))
        intake = self.intake
        return Recorder(
            self.import_door, intake.policy.header, self.guard.check_room, intake.keeps_unreadable, self.db.fail
        )

    def on_hl7(self) -> None:
        """HL7 messages have been applied."""
        self.relays.wake()
        self.rechecks.worker.wake()

    def take_records(self, *, last: bool = False) -> list[Callable[[Transaction], None]]:
        """What is to be recorded of callers and refusals since the last time. `last`: nothing waits for later.

        What could not be recorded then comes first, and alone: the registers have their own bounds meanwhile.
        """
        left, self.unrecorded = self.unrecorded, []
        if left and not last:
            return left
        found = self.callers.take(), self._refused.enter(self.refusals.take(), last=last), self.queries.take()
        return left + [record for record in found if record is not None]

    def setup_link(self) -> str | None:
        """Where the first account is made; None: there is one."""
        return self.console.setup_link()

    # -- what parts ask -----------------------------------------------------------------------------------------------

    def current_config(self) -> Config:
        """The current configuration."""
        return self.config

    def is_busy(self) -> bool:
        """Is anything being received or sent?"""
        return self.outbound.is_busy or self.associations.total > 0

    def may_reject(self, origin: Origin) -> bool:
        """May this sender send rejection notes?"""
        found = modality_of(self.config, origin.calling_ae, origin.address)
        return found is not None and found.name in self.config.iocm.senders

    def disk(self) -> Disk:
        return disk_of(self.config.site.data_dir)

    def live(self) -> Live:
        """What the catalog cannot know."""
        self.state.check()
        links = {
            name: Link(each.state, each.rate, each.answers, each.outpaced_at)
            for name, each in self.outbound.describe().items()
        }
        return Live(
            state=self.state.name,
            reasons=self.state.reasons(),
            uptime_seconds=time.monotonic() - self._started,
            since=self.state.since,
            destinations=links,
            usage=self.gauges.usage,
            machine=self.gauges.machine,
            rhythms=self.gauges.rhythms,
            certificates=self.outbound.certificates(),
            unhealthy=self.db.failure or "",
            hindrances=self.reception.current(),
            rejected_at=self.rejected_at,
            unusable_certificates=self.outbound.unusable_certificates,
            revocation_ends=self.outbound.revocation_ends,
            ledger_broken=self.ledger_check.broken,
            folds_damaged=self.ageing.damage,
            unkept=self.intake.quarantine.unkept(),
            clock_leap_seconds=self.clock.leap_seconds,
            journal=self._journal_use(),
            answers=self.answers.all(),
            rejected=self.refusals.total,
            queries=self.queries.tallies(),
            web=self._web_use(),
        )

    def _web_use(self) -> WebUse | None:
        ports = self.doors.web.ports
        if ports is None:
            return None
        return WebUse(ports.port or ports.tls_port, bool(ports.tls_port), self.web_connections.total)

    def _journal_use(self) -> JournalUse:
        usage = self.arrivals.usage()
        return JournalUse(self.arrivals.lag_seconds, usage.used_bytes, usage.size_bytes)

    def settle(self) -> bool:
        """Who asks "is it here?" gets what was answered before; False: some of it still waits in the journal."""
        return self.arrivals.settle(ANSWER_SETTLE_SECONDS)

    def snapshot(self) -> Snapshot:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.config, self.disk(), self.live(), time.time())

    def status(self) -> dict[str, Any]:
        """The JSON of `edge status --json` and of /api/status."""
        return status_json(self.snapshot())

    def metrics(self) -> str:
        return metrics.exposition(self.snapshot())
