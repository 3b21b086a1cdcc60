"""The gateway: the only place where its parts are built and joined. What they do together is in its neighbours:
lifecycle (start, stop), housekeeping (what is due again and again), reload, commands."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge import config
from edge.apply import IntakeApplier, disk_bytes
from edge.audit import AuditTrailProjector
from edge.audit.refused import Register
from edge.config.sections import Config
from edge.console.access import Access
from edge.console.accounts import record_in_ledger
from edge.console.server import Console
from edge.daemon.commands import Commands
from edge.daemon.control import Control
from edge.daemon.notifications import Notifications
from edge.daemon.outbound import Outbound
from edge.daemon.receivers import Receivers
from edge.daemon.reception import Reception
from edge.daemon.start import StartError, bind, check_journal, claim, open_catalog
from edge.daemon.state import State
from edge.daemon.times import Times
from edge.errors.repeats import Repeats
from edge.importer.service import ImportService
from edge.intake import Intake
from edge.intake.policy import Policy
from edge.intake.rechecks import Rechecks
from edge.journal.segment import ring_size
from edge.journal.service import JournalService
from edge.model import Disk
from edge.monitor import health, metrics
from edge.monitor.engine import AlertEngine
from edge.monitor.sampler import Gauges
from edge.monitor.snapshot_model import JournalUse, Link, Live, Snapshot
from edge.network import sockets
from edge.outbound.commitment_reports import CommitmentReports
from edge.outbound.relay import Relays
from edge.room import DiskGuard, disk_of
from edge.scp.association import equipment_of
from edge.scp.callers import Callers
from edge.scp.capacity import Associations
from edge.scp.fork_server import ForkServer
from edge.scp.link import LocalLink
from edge.scp.ports import Ports
from edge.scp.recorder import Recorder
from edge.scp.rejections import Refusals
from edge.scp.services.storage_commitment_register import RequestRegister
from edge.spool import Spool
from edge.storage.ageing import Ageing
from edge.storage.backfill import Backfill
from edge.storage.ledger_check import Chain
from edge.storage.release import Releaser
from edge.storage.repair import Repairer
from edge.storage.reserve import ReserveFile
from edge.storage.retention import Retention
from edge.storage.scrub import Scrub
from edge.store.database import Transaction
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
        self._build_services()

    def _build_storage(self) -> None:
        data_dir = self.config.site.data_dir
        self.lock = claim(data_dir)
        self.guard = DiskGuard(self.current_config, self.disk)
        self.reserve = ReserveFile(data_dir, self.disk)
        self.reserve.drop_if_tight()
        self.spool = self.reserve.spend(lambda: Spool(data_dir, self.guard.check_room))
        self.db = open_catalog(data_dir / "catalog.db", self.reserve)
        self.reception = Reception(self.guard, self.spool.incoming, self.db)
        self.state = State(self.db, self.reception, self.started_at, self.notify)
        self.journal = Journal(data_dir)
        check_journal(self.db, self.journal)

    def _build_path(self) -> None:
        """From the archive's end to the modality's."""
        self.notifications = Notifications(self.db, self.directory, self.status)
        self.outbound = Outbound(self.db, self.spool, self.config)
        self.intake = Intake(self.db, self.spool, Policy.from_config(self.config), self.outbound.wake)
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
        self.retention = Retention(
            self.db, self.spool, self.current_config, self.disk, doubts_clock=self.clock.is_doubtful
        )
        self.ageing = Ageing(self.db, doubts_clock=self.clock.is_doubtful)
        self.guard.on_refusing = self.retention.worker.wake
        self.repairer = Repairer(self.db, self.spool, self.current_config, self.outbound.wake)
        self.backfill = Backfill(self.db, self.intake)
        self.scrub = Scrub(self.db, self.spool, self.repairer, self.is_busy)
        self.ledger_check = Chain(self.db)
        self.refusals, self._refused, self.callers = Refusals(), Register(), Callers()
        self.receivers = Receivers(
            self._server, self.arrivals, self._link, lambda: (self.config, self.intake.policy.header), self.lock
        )
        self.hl7_receivers = Receivers(
            self._server, self.arrivals, self._link, lambda: (self.config, self.intake.policy.header), self.lock, "hl7"
        )
        self.associations = Associations(
            lambda title, address: equipment_of(self.config, title, address), self.receivers.end_idle
        )
        self.commitments = RequestRegister(self.db)
        self.reports = CommitmentReports(
            self.db,
            self.current_config,
            self.outbound.secure_for,
            lambda: self.arrivals.lag_seconds,
            doubts_clock=self.clock.is_doubtful,
        )

    def _link(self) -> LocalLink:
        """For one receiving process."""
        return LocalLink(
            self.associations,
            self.callers.note,
            self.refusals.refused,
            self.reception.note,
            self.intake.keeps_unreadable,
            self.outbound.report,
            self.db.fail,
            self.commitments,
        )

    def _build_services(self) -> None:
        """What people and other machines ask, and what reports to them; the addresses come last."""
        self.audit = AuditTrailProjector(self.db, self.current_config, self.directory)
        self.watch = AlertEngine(self.db, self.current_config, self.snapshot, posted=self.notifications.send_notices)
        self.accounts = Accounts(self.db, record_in_ledger)
        self.setup = Setup(self.accounts)
        self.commands = Commands(
            self.db,
            self.outbound,
            self.notifications,
            self.releaser,
            self.repairer,
            self.current_config,
            self.status,
            self.setup_link,
            self.settle,
        )
        self.importer = ImportService(
            self.db,
            self.current_config,
            self._import_recorder(),
            lambda name, fields: dict(self.commands.ask(name, fields)),
            self.guard.check_room,
        )
        self.commands.on_import = self.importer.worker.wake
        self.control = Control(self.config.site.data_dir, self.commands.handlers)
        self.console = bind("console", self._console)
        inherited = self._take_inherited()
        self.ports = bind("listen", lambda: self._ports(inherited))
        self.hl7_ports = bind("hl7", lambda: self._hl7_ports(inherited))

    def _import_recorder(self) -> Recorder:
        """The door of imports; one object at a time."""
        self.import_door = self.reserve.spend(lambda: self.arrivals.open_door(IMPORT_SLOTS))
        intake = self.intake
        return Recorder(
            self.import_door, intake.policy.header, self.guard.check_room, intake.keeps_unreadable, self.db.fail
        )

    def _console(self) -> Console:
        console = self.config.console
        return Console(
            console.host,
            console.port,
            self.status,
            self.metrics,
            self.state.ready,
            self._pages,
            frozenset(name.lower() for name in (*console.names, console.host)),
            console.proxies,
        )

    def _take_inherited(self) -> dict[int, socket.socket]:
        """The sockets that systemd listens on for us, by port."""
        listen, tls, hl7 = self.config.listen, self.config.tls, self.config.hl7
        ours = {listen.port if listen.plain else None, tls.port if tls.is_on else None, hl7.port, hl7.tls_port}
        inherited = bind("listen", sockets.take_inherited)
        for strange in inherited.keys() - ours:
            raise StartError(
                f"systemd listens for us on port {strange}, which is no port of [listen], [tls] or [hl7]; "
                "make ListenStream= of edge.socket agree with the configuration"
            )
        return inherited

    def _ports(self, inherited: dict[int, socket.socket]) -> Ports:
        listen, tls = self.config.listen, self.config.tls
        port, tls_port = listen.port if listen.plain else None, tls.port if tls.is_on else None
        return Ports(listen.host, port, tls_port, self.refusals.refused, self.reception.note, inherited)

    def _hl7_ports(self, inherited: dict[int, socket.socket]) -> Ports | None:
        """None: HL7 is not received."""
        hl7, tls_port = self.config.hl7, self.config.hl7.tls_port if self.config.tls.is_on else None
        if not hl7.is_on:
            return None
        return Ports(hl7.host, hl7.port, tls_port, self.refusals.refused, self.reception.note, inherited, "hl7 ports")

    def hand_on_hl7(self, sock: socket.socket, address: str, is_secure: bool) -> None:
        """A connection for HL7 has come."""
        if why := self.hl7_receivers.hand_on(sock, address, is_secure):
            self.refusals.refused(address, "", why)

    def on_hl7(self) -> None:
        """HL7 messages have been applied."""
        self.relays.wake()
        self.rechecks.worker.wake()

    def hand_on(self, sock: socket.socket, address: str, is_secure: bool) -> None:
        """A connection has come."""
        if why := self.receivers.hand_on(sock, address, is_secure):
            self.refusals.refused(address, "", why)

    def take_records(self, *, last: bool = False) -> list[Callable[[Transaction], None]]:
        """What is to be recorded of callers and refusals since the last time. `last`: nothing waits for later."""
        found = self.callers.take(), self._refused.enter(self.refusals.take(), last=last)
        return [record for record in found if record is not None]

    # -- what parts ask -----------------------------------------------------------------------------------------------

    def current_config(self) -> Config:
        """The configuration of the moment."""
        return self.config

    def is_busy(self) -> bool:
        """Is anything being received or sent?"""
        return self.outbound.is_busy or self.associations.total > 0

    def disk(self) -> Disk:
        return disk_of(self.config.site.data_dir)

    def live(self) -> Live:
        """What the catalog cannot know."""
        self.state.check()
        links = {name: Link(each.state, each.rate) for name, each in self.outbound.describe().items()}
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
            ledger_broken=self.ledger_check.broken,
            unkept=self.intake.quarantine.unkept(),
            clock_leap_seconds=self.clock.leap_seconds,
            journal=self._journal_use(),
        )

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
        return health.status_json(self.snapshot())

    def metrics(self) -> str:
        return metrics.exposition(self.snapshot())

    # -- the console --------------------------------------------------------------------------------------------------

    def _pages(self) -> Any:
        """The pages for people, loaded when they are first asked for."""
        from edge.console import application  # noqa: PLC0415  # a site where nobody does need not pay for them

        access = Access(
            self.db, self.spool, self.current_config, self.directory, self.status, self.commands.ask, self.importer
        )
        return application.build_console(access, self.setup, self.console.known)

    def setup_link(self) -> str | None:
        console = self.config.console
        host = "127.0.0.1" if console.host in ("0.0.0.0", "::") else console.host
        return self.setup.link(f"http://{f'[{host}]' if ':' in host else host}:{self.console.port}")
