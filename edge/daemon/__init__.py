"""The gateway: the only place where its parts are built and joined.

A life reads as `run`: configuration, lock, catalog, clear what a crash left, start the stations from the archive's
end to the modality's, tell systemd, tick until a signal comes, then stop them from the modality's end to the
archive's.

SIGHUP reads the configuration again: a bad one changes nothing and is reported; a good one takes effect for the next
association, except for `site.data_dir` and the addresses that are bound, which want a restart.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import sdnotify

from edge import __version__, config, sockets
from edge.audit import AuditTrailProjector
from edge.audit.refused import Register
from edge.config.sections import Listen
from edge.console.access import Access
from edge.console.accounts import CatalogAccounts
from edge.console.server import Console
from edge.control import Control
from edge.daemon.bound import keep_bound, need_restart
from edge.daemon.commands import Commands
from edge.daemon.outbound import Links
from edge.daemon.reception import Reception
from edge.daemon.start import StartError, bind, check_journal, claim, open_catalog, why_not
from edge.daemon.state import State
from edge.daemon.times import Times
from edge.errors import Cause, ConfigError, EdgeError, Hindered, StorageUnhealthy, place_of
from edge.hindrance import Verdict, cause_of, verdict_of, words_of
from edge.intake import Intake, Policy
from edge.model import Disk
from edge.monitor import downtime, engine, health, host, metrics
from edge.monitor.sampler import Gauges
from edge.monitor.snapshot_model import Link, Live, Snapshot
from edge.release import Releaser
from edge.repeats import Repeats, write_log
from edge.scp.association import Receiver
from edge.scp.capacity import Associations
from edge.scp.listener import Door
from edge.scp.rejections import Refusals
from edge.spool import Spool
from edge.storage import recovery
from edge.storage.backfill import Backfill
from edge.storage.ledger_check import Chain
from edge.storage.repair import Repairer
from edge.storage.reserve import ReserveFile
from edge.storage.retention import DiskGuard, Retention, apply_holds
from edge.storage.scrub import Scrub
from edge.store import catalog, commitments, deliveries, destinations, ledger
from edge.store.database import Connection
from edge.store.ledger_copy import Journal
from edge.web.setup import Setup

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
#: Work that is now and then: the sign of life in the catalog, the WAL into the database, requests that ended.
ALIVE_SECONDS, CHECKPOINT_SECONDS, FORGET_SECONDS = 10.0, 5.0, 60.0
JOURNAL_BATCHES = 20
#: Requests for proof that have ended are kept so long.
REQUESTS_KEPT_SECONDS = 30 * 86_400.0
CERTIFICATES_SECONDS = 10.0
#: Characters of what changed in a configuration, in the ledger.
MAX_CHANGES = 2_000
#: On stop: so long may associations go on; then the senders (edge.daemon.links). Together below TimeoutStopSec.
DRAIN_SECONDS = 30.0


def run(directory: Path) -> int:
    """Run in the foreground until SIGTERM or SIGINT.

    Returns the exit code: 0 stopped in order, 1 could not start, 2 bad configuration. After a failure of the disk the
    process ends here, with 1: to close the catalog would sync it once more, as if that could help.
    """
    repeats = write_log()
    os.umask(0o077)
    _tell_faults_by_place()
    try:
        gateway = Gateway(directory, repeats)
        gateway.start()
    except (ConfigError, StartError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except (EdgeError, OSError, sqlite3.Error) as error:
        print(f"the gateway cannot start: {why_not(error, directory)}", file=sys.stderr)
        _end(1)
    try:
        gateway.loop()
    except Exception as error:
        gateway.note_failure(error)
        raise
    gateway.stop()
    if gateway.db.failure is not None:
        _end(1)
    return 0


def _tell_faults_by_place() -> None:
    """What nobody catches is logged without the exception's words: they could quote an object."""
    sys.excepthook = lambda _kind, error, _trace: log.critical("the gateway ends: %s", place_of(error))
    threading.excepthook = lambda told: log.critical(
        "the thread %s ends: %s", told.thread and told.thread.name, told.exc_value and place_of(told.exc_value)
    )


def _end(code: int) -> NoReturn:
    """End the process as it stands."""
    sys.stderr.flush()
    os._exit(code)


class Gateway:
    """All parts, and what joins them."""

    def __init__(self, directory: Path, repeats: Repeats) -> None:
        """Build everything that may fail. Raises ConfigError or StartError."""
        self._directory, self._repeats = directory, repeats
        self.config = config.load(directory)
        self._started, self._started_at = time.monotonic(), time.time()
        self._told: set[int] = set()  # signals that came
        self._signalled = threading.Event()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        self._notify = sdnotify.SystemdNotifier()
        if self._notify.socket is not None:
            self._notify.socket.setblocking(False)  # whoever does not listen must not stop the clock
        self._rejected_at: float | None = None
        self._ending = threading.Event()
        self._due_at: dict[str, float] = {}
        data_dir = self.config.site.data_dir
        self._lock = claim(data_dir)
        self.gate = DiskGuard(lambda: self.config, self.disk)
        self.ballast = ReserveFile(data_dir, self.disk)
        self.ballast.drop_if_tight()
        self.spool = self.ballast.spend(lambda: Spool(data_dir, self.gate.check_room))
        self.db = open_catalog(data_dir / "catalog.db", self.ballast)
        self.reception = Reception(self.gate, self.spool.incoming, self.db)
        self.state = State(self.db, self.reception, self._started_at, self._notify.notify)
        self.journal = Journal(data_dir)
        check_journal(self.db, self.journal)
        self.links = Links(self.db, self.spool, directory, self.config, self.status)
        self.intake = Intake(self.db, self.spool, Policy.of(self.config), self.links.wake)
        self.releaser = Releaser(self.db, self.spool, self.intake, self.links.wake)
        self._cried = False
        self.clock = Times(self.db, self.links.wake_all, lambda: self.gauges.machine.clock.synchronized)
        self.retention = Retention(
            self.db,
            self.spool,
            lambda: self.config,
            self.disk,
            ballast=self.ballast,
            doubts_clock=self.clock.is_doubtful,
        )
        self.gate.on_refusing = self.retention.wake
        self.repairer = Repairer(self.db, self.spool, lambda: self.config, self.links.wake)
        self.backfill = Backfill(self.db, self.intake)
        self.scrub = Scrub(self.db, self.spool, self.repairer, self._is_busy)
        self.chain = Chain(self.db)
        self.refusals, self._refused = Refusals(), Register()
        self.receiver = Receiver(
            self.config, self.intake, self.gate.check_room, self.links.report, self.refusals.refused, self.reception.met
        )
        self.clerk = AuditTrailProjector(self.db, lambda: self.config, directory)
        self.gauges = Gauges(self.db, lambda: self.config, self.disk, self.spool.path_of)
        self.watch = engine.Watch(
            self.db, lambda: self.config, self.snapshot, posted=self.links.tell, chores=self.gauges.read
        )
        self.accounts = CatalogAccounts(self.db)
        self.setup = Setup(self.accounts)
        self.commands = Commands(
            self.db,
            self.links,
            self.releaser,
            self.repairer,
            self.accounts,
            lambda: self.config,
            self.status,
            self._setup_link,
        )
        self.control = Control(data_dir, self.commands.handlers)
        console, listen = self.config.console, self.config.listen
        self.console = bind(
            "console",
            lambda: Console(
                console.host,
                console.port,
                self.status,
                self.metrics,
                self.state.ready,
                self._pages,
                frozenset(name.lower() for name in (*console.names, console.host)),
                console.proxies,
            ),
        )
        self.door = bind("listen", lambda: self._door(listen))

    def _door(self, listen: Listen) -> Door:
        keyring = self.links.tls
        port, tls_port = listen.port if listen.plain else None, self.config.tls.port if keyring else None
        inherited = sockets.inherited()
        for strange in inherited.keys() - {port, tls_port}:
            raise StartError(
                f"systemd listens for us on port {strange}, which is neither listen.port nor tls.port; "
                "make ListenStream= of edge.socket agree with the configuration"
            )
        return Door(
            listen.host,
            port,
            self.receiver.serve,
            tls_port=tls_port,
            context=(lambda: (self.links.tls or keyring).listening) if keyring else None,
            refused=self.refusals.refused,
            hindered=self.reception.met,
            inherited=inherited,
            associations=Associations(self.receiver.identify, self.receiver.end_idle),
        )

    # -- a life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From the archive's end to the modality's, so that whoever is let in finds everything in place."""
        try:
            self._checkpoint()  # else the log of one that is killed again and again grows, and with it each start
        except Hindered as error:
            log.error("housekeeping: %s", error)
        self.clock.correct()
        partials, leases = recovery.at_start(self.db, self.spool)
        if partials or leases:
            log.info("after an unclean end: %d partial files removed, %d leases ended", partials, leases)
        self.clerk.begin()
        self.db.write(self._record_start)
        self.links.join_destinations(self.config)
        self.clerk.start()
        self.links.join_channels(self.config)
        self.retention.start()
        self.scrub.start()
        self.chain.start()
        self.backfill.start()
        self.ballast.spend(self.control.start)
        self.console.start()
        self.door.open()
        self._note_start()
        self.watch.start()
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()
        self.state.become("running")
        self._notify.notify("READY=1")
        ports = [f"port {self.door.port}"] * bool(self.door.port)
        ports += [f"port {self.door.tls_port} (TLS)"] * bool(self.door.tls_port)
        log.info("edge %s serves site %s on %s", __version__, self.config.site.id, " and ".join(ports))
        if link := self._setup_link():
            log.warning("nobody can sign in at the console yet; make the first account within the hour at %s", link)

    def _note_start(self) -> None:
        """The scanners are served again: since when they were not, and why, is written down."""
        now, boot, data_dir = time.time(), host.boot_id(), self.config.site.data_dir
        with self.db.reading() as conn:
            left = downtime.marks(conn, data_dir, os.fstat(self._lock).st_mtime)
        found = downtime.find_downtime(left, boot, now)
        self.db.write(lambda conn: downtime.begin(conn, found, boot, now))
        if found is not None and not found.planned:
            log.warning("the gateway was down for %.0f s: %s", found.seconds, found.why)
        downtime.clear(data_dir)
        self._fatal = self.ballast.spend(lambda: (data_dir / downtime.FATAL).open("w"))
        faulthandler.enable(self._fatal)

    def note_failure(self, error: Exception) -> None:
        """A fault of ours ends the gateway: the next start knows why."""
        where = place_of(error)
        log.critical("the gateway fails: %s", where)
        try:
            self.db.write(lambda conn: catalog.remember(conn, "failed", where[-2000:]))
        except (EdgeError, sqlite3.Error) as problem:
            log.error("that could not be written down: %s", problem)

    def loop(self) -> None:
        """Tick once a second until told to stop."""
        while True:
            self._signalled.wait(TICK_SECONDS)
            self._signalled.clear()
            told, self._told = self._told, set()
            if told & {signal.SIGTERM, signal.SIGINT}:
                return
            try:
                if told:
                    self.reload()
                self._tick()
            except Hindered as error:
                self.reception.met(error.cause)
                log.error("housekeeping: %s", error)
            except MemoryError:
                self.reception.met(Cause.MEMORY)
                log.error("housekeeping: the gateway is %s", words_of(Cause.MEMORY))
            except (StorageUnhealthy, sqlite3.Error, OSError) as error:
                log.error("housekeeping: %s", error)
            self._notify.notify("WATCHDOG=1")

    def _on_signal(self, number: int, _frame: object) -> None:
        self._told.add(number)
        self._signalled.set()

    def _tick(self) -> None:
        """What comes due: deferred work, lapsed leases, who called, and now and then the rest."""
        if self.db.failure and not self._cried:
            self._cried = True
            self.links.cry(self.snapshot().alerts, self.config)
        self.state.look()
        self.clock.look()
        now = time.time()
        downtime.touch(self._lock, now)
        peers, alive = self.receiver.callers.take(), self._due("alive", ALIVE_SECONDS)
        refused = self._refused.enter(self.refusals.take())
        if self.links.tls and self._due("certificates", CERTIFICATES_SECONDS):
            self.links.tls.refresh()
        with self.db.reading() as conn:
            promote = deliveries.anything_due(conn, now)

        def work(conn: Connection) -> list[str]:
            if peers is not None:
                peers(conn)
            if refused is not None:
                refused(conn)
            if alive:
                catalog.remember(conn, "alive_at", str(now))
            return deliveries.requeue_due(conn, now)

        if peers or refused or alive or promote:
            self.links.wake(self.db.write(work))
        if self._due("checkpoint", CHECKPOINT_SECONDS):
            self._checkpoint()
            self.db.close_idle_readers()
            self._repeats.flush()
        if self._due("forget", FORGET_SECONDS):
            self.db.write(lambda conn: commitments.forget_requests(conn, now - REQUESTS_KEPT_SECONDS))
            self.clock.correct()

    def _checkpoint(self) -> None:
        """What the catalog's own file has, the journal has, too."""
        self._write_journal()
        self.db.checkpoint()

    def _write_journal(self) -> None:
        try:
            with self.db.reading() as conn:
                for _ in range(JOURNAL_BATCHES):  # bounded: a journal that begins late has years to copy
                    if not self.journal.write(conn):
                        break
        except StorageUnhealthy as error:
            self.db.fail(str(error))
        except (OSError, Hindered) as error:
            log.error("the journal of the custody ledger cannot be written: %s", error)

    def _is_busy(self) -> bool:
        """Is anything being received or sent?"""
        return self.links.busy or self.receiver.open_associations > 0

    def _due(self, what: str, every: float) -> bool:
        """Has `every` seconds passed since this was last true?"""
        now = time.monotonic()
        if now < self._due_at.get(what, 0.0):
            return False
        self._due_at[what] = now + every
        return True

    def stop(self) -> None:
        """From the modality's end to the archive's: nobody new, what is under way ends, then senders, then store."""
        self.state.become("draining")
        self._notify.notify("STOPPING=1")
        self._ending.set()
        self.watch.stop()
        self.door.close()
        self.links.stop_heart()
        self.receiver.drain(DRAIN_SECONDS)
        self.retention.stop()
        self.scrub.stop()
        self.chain.stop()
        self.backfill.stop()
        self.links.stop()
        self.console.stop()
        self.control.stop()
        if self.db.failure is None:
            told = self.receiver.callers.take(), self._refused.enter(self.refusals.take(), last=True)
            self.db.write(lambda conn: self._record_stop(conn, told))
            self._write_journal()
        self.clerk.stop()
        if self.db.failure is None:  # else its end is the process's: see run()
            self.db.close()
        self.spool.close()
        os.close(self._lock)
        log.info("edge has stopped in order")

    def _record_start(self, conn: Connection) -> None:
        ledger.append(conn, time.time(), ledger.STARTED, ledger.EDGE, [], detail=f"edge {__version__}")
        apply_holds(conn, self.config)

    @staticmethod
    def _record_stop(conn: Connection, told: Iterable[Callable[[Connection], None] | None]) -> None:
        for write in told:
            if write is not None:
                write(conn)
        now = time.time()
        ledger.append(conn, now, ledger.STOPPED, ledger.EDGE, [])
        catalog.remember(conn, "stopped_at", str(now))

    def _apply(self, conn: Connection, changed: Sequence[str]) -> None:
        apply_holds(conn, self.config)
        self._record_configured(conn, f"changed: {', '.join(changed) or 'nothing'}"[:MAX_CHANGES])

    def _record_configured(self, conn: Connection, detail: str) -> None:
        ledger.append(conn, time.time(), ledger.CONFIGURED, ledger.EDGE, [], detail=detail)

    def _reconcile(self) -> None:
        """To the end, however often a passing hindrance interrupts it."""
        while not self._ending.is_set():
            try:
                recovery.reconcile(self.db, self.spool, self.intake, self._started_at, self._ending, time.time)
                return
            except (EdgeError, OSError, MemoryError) as error:
                log.error("the comparison of spool and catalog ended early: %s", error)
                if verdict_of(cause_of(error)) is Verdict.BROKEN:
                    return
            self._ending.wait(FORGET_SECONDS)

    # -- configuration ------------------------------------------------------------------------------------------------

    def reload(self) -> list[str]:
        """Read the configuration again, and say so when it is in use. Returns the problems: the running one stays."""
        # Type=notify of systemd: no READY before what was asked for is done, and none is missed whatever happens.
        self._notify.notify("RELOADING=1")
        try:
            return self._reload()
        finally:
            self._notify.notify("READY=1")

    def _reload(self) -> list[str]:
        try:
            new = config.load(self._directory)
            policy = Policy.of(new)
            self.links.use_certificates(new)
        except ConfigError as error:
            log.error("the configuration is bad, the running one stays in force:\n%s", error)
            self._rejected_at = time.time()
            rejected = f"rejected: {len(error.problems)} faults, the running configuration stays in force"
            self.db.write(lambda conn: self._record_configured(conn, rejected))
            return error.problems
        self._rejected_at = None
        fixed = need_restart(self.config, new)
        if fixed:
            log.warning("%s changed: restart to use it", ", ".join(fixed))
        new = keep_bound(self.config, new)
        changed = config.changes(self.config, new)
        self.config = new
        self.receiver.config = new
        self.intake.policy = policy
        self.clerk.begin()
        self.db.write(lambda conn: self._apply(conn, changed))
        self.clerk.join()
        self.links.join_destinations(new)
        self.links.join_channels(new)
        self._warn_of_gone()
        log.info("the configuration has been read again")
        return []

    def _warn_of_gone(self) -> None:
        """A destination whose table is gone keeps what is left for it: the log says what can be done."""
        with self.db.reading() as conn:
            for each in destinations.gone_with_work(conn, list(self.config.destinations)):
                log.warning(
                    "%d deliveries are left for destination %s, which is not configured: put its table back, or type"
                    " `edge destination rename` or `retire`",
                    each.left,
                    each.name,
                )

    # -- what others may ask ------------------------------------------------------------------------------------------

    def disk(self) -> Disk:
        return health.disk_of(self.config.site.data_dir)

    def live(self) -> Live:
        """What the catalog cannot know."""
        self.state.look()
        links = {name: Link(told.state, told.rate) for name, told in self.links.describe().items()}
        return Live(
            state=self.state.name,
            reasons=self.state.reasons(),
            uptime_seconds=time.monotonic() - self._started,
            since=self.state.since,
            destinations=links,
            usage=self.gauges.usage,
            machine=self.gauges.machine,
            rhythms=self.gauges.rhythms,
            certificates=self.links.certificates(),
            unhealthy=self.db.failure or "",
            hindrances=self.reception.found(),
            rejected_at=self._rejected_at,
            ledger_broken=self.chain.broken,
            unkept=self.intake.quarantine.unkept(),
            certificate_trouble=self.links.tls.trouble if self.links.tls else "",
            clock_leap_seconds=self.clock.leap_seconds,
        )

    def snapshot(self) -> Snapshot:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.config, self.disk(), self.live(), time.time())

    def status(self) -> dict[str, Any]:
        """The JSON of `edge status --json` and of /api/status."""
        return health.as_json(self.snapshot())

    def metrics(self) -> str:
        return metrics.exposition(self.snapshot())

    # -- the console --------------------------------------------------------------------------------------------------

    def _pages(self) -> Any:
        """The pages for people, loaded when somebody first looks."""
        from edge.console import application  # noqa: PLC0415  # a site without onlookers need not pay for it

        access = Access(self.db, self.spool, lambda: self.config, self._directory, self.status, self.commands.ask)
        return application.build(access, self.setup, self.console.known)

    def _setup_link(self) -> str | None:
        console = self.config.console
        host = "127.0.0.1" if console.host in ("0.0.0.0", "::") else console.host
        return self.setup.link(f"http://{f'[{host}]' if ':' in host else host}:{self.console.port}")
