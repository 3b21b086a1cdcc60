"""The gateway: the only place where its parts are built and joined.

A life reads as `run`: configuration, lock, catalog, clear what a crash left, start the stations from the archive's
end to the modality's, tell systemd, tick until a signal comes, then stop them from the modality's end to the
archive's.

SIGHUP reads the configuration again: a bad one changes nothing and is reported; a good one takes effect for the next
association, except for `site.data_dir` and the addresses that are bound, which want a restart.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import sdnotify

from edge import __version__, catalog, config, ledger, outbox, queue, recovery, sockets, tls
from edge.audit import Clerk
from edge.audit.refused import Register
from edge.config import Config, Destination, Listen
from edge.config.channels import channels_for
from edge.confirm import Confirmer, accept_status
from edge.console.access import Access
from edge.console.accounts import CatalogAccounts
from edge.console.server import Console
from edge.db import Connection, Database, is_gone, lost_commits, quick_check
from edge.door import Door
from edge.errors import ConfigError, EdgeError, StorageFull, StorageUnhealthy, place_of
from edge.forward import Forwarder
from edge.intake import Intake, Policy
from edge.model import Disk, Priority
from edge.notify import Courier
from edge.notify import channels as notified
from edge.notify.heart import Heart
from edge.ops import downtime, health, looks, machine, metrics, watch
from edge.ops.control import Control
from edge.ops.facts import Link, Live, Snapshot
from edge.ops.gauges import Gauges
from edge.ops.words import counted
from edge.outbox import Message
from edge.receive import Receiver
from edge.refusals import Refusals
from edge.retention import Ballast, Gate, Retention, apply_holds
from edge.route import judge
from edge.scrub import Scrub
from edge.scrub.journal import Journal
from edge.scrub.rebuild import MARKER
from edge.scrub.repair import Repairer
from edge.spool import Spool
from edge.tls import Caller, Keyring, TlsError
from edge.transform import Transcoder
from edge.web.accounts import Account, Role
from edge.web.setup import Setup

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
#: Work that is now and then: the sign of life in the catalog, the WAL into the database, requests that ended.
ALIVE_SECONDS, CHECKPOINT_SECONDS, FORGET_SECONDS = 10.0, 5.0, 60.0
#: So long the start looks for damaged pages of the catalog; the scrub looks at all of them.
QUICK_SECONDS = 0.3
JOURNAL_BATCHES = 20
#: Requests for proof that have ended are kept so long.
REQUESTS_KEPT_SECONDS = 30 * 86_400.0
CERTIFICATES_SECONDS = 10.0
#: Characters of what changed in a configuration, in the ledger.
MAX_CHANGES = 2_000
#: On stop: so long may associations go on, and then the senders. Together below TimeoutStopSec of the unit.
DRAIN_SECONDS = 30.0
SENDERS_SECONDS = 20.0
#: File systems whose syncs do not mean what the promise needs.
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "fuse.sshfs", "glusterfs"})


RECOVER = "type `edge recover`: it keeps the damaged one, and makes a new one of it, its journal and the spool"


class StartError(EdgeError):
    """The gateway cannot start; the text says why and what to do."""


def run(directory: Path) -> int:
    """Run in the foreground until SIGTERM or SIGINT.

    Returns the exit code: 0 stopped in order, 1 could not start, 2 bad configuration. After a failure of the disk the
    process ends here, with 1: to close the catalog would sync it once more, as if that could help.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    os.umask(0o077)
    _tell_faults_by_place()
    try:
        gateway = Gateway(directory)
        gateway.start()
    except (ConfigError, StartError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except (EdgeError, OSError, sqlite3.Error) as error:
        print(f"the gateway cannot start: {error}; mend the disk, then start it again", file=sys.stderr)
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

    def __init__(self, directory: Path) -> None:
        """Build everything that may fail. Raises ConfigError or StartError."""
        self._directory = directory
        self.config = config.load(directory, judge)
        self._started, self._started_at = time.monotonic(), time.time()
        self._state, self._state_since = "starting", self._started_at
        self._told: set[int] = set()  # signals that came
        self._signalled = threading.Event()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        self._notify = sdnotify.SystemdNotifier()
        self._rejected_at: float | None = None
        self._ending = threading.Event()
        self._due_at: dict[str, float] = {}
        data_dir = self.config.site.data_dir
        self.tls = _keyring(self.config)
        self._lock = _claim(data_dir)
        self.gate = Gate(lambda: self.config, self.disk)
        self.spool = Spool(data_dir, self.gate.check_room)
        self.ballast = Ballast(data_dir, self.disk)
        self.db = _open_catalog(data_dir / "catalog.db", self.ballast)
        self.journal = Journal(data_dir)
        _check_journal(self.db, self.journal)
        self.intake = Intake(self.db, self.spool, Policy.of(self.config), self._wake)
        self.transcoder = Transcoder()
        self.forwarders: dict[str, Forwarder] = {}
        self.confirmers: dict[str, Confirmer] = {}
        self._callers: dict[str, Caller] = {}
        self.couriers: dict[str, Courier] = {}
        self.heart: Heart | None = None
        self._cried = False
        self.retention = Retention(self.db, self.spool, lambda: self.config, self.disk, ballast=self.ballast)
        self.gate.on_refusing = self.retention.wake
        self.repairer = Repairer(self.db, self.spool, lambda: self.config, self._wake)
        self.scrub = Scrub(self.db, self.spool, self.repairer, self._is_busy)
        self.refusals, self._refused = Refusals(), Register()
        self.receiver = Receiver(self.config, self.intake, self.gate.check_room, self._report, self.refusals.refused)
        self.clerk = Clerk(self.db, lambda: self.config, directory)
        self.gauges = Gauges(self.db, lambda: self.config, self.disk, self.spool.path_of)
        self.watch = watch.Watch(self.db, lambda: self.config, self.snapshot, posted=self.tell, chores=self.gauges.read)
        self.accounts = CatalogAccounts(self.db)
        self.setup = Setup(self.accounts)
        self._handlers = self._commands()
        self.control = Control(data_dir, self._handlers)
        console, listen = self.config.console, self.config.listen
        self.console = _bind(
            "console",
            lambda: Console(console.host, console.port, self.status, self.metrics, self.ready, self._pages),
        )
        self.door = _bind("listen", lambda: self._door(listen))

    def _door(self, listen: Listen) -> Door:
        keyring = self.tls
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
            context=(lambda: (self.tls or keyring).listening) if keyring else None,
            refused=self.refusals.refused,
            inherited=inherited,
        )

    # -- a life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From the archive's end to the modality's, so that whoever is let in finds everything in place."""
        partials, leases = recovery.at_start(self.db, self.spool)
        if partials or leases:
            log.info("after an unclean end: %d partial files removed, %d leases ended", partials, leases)
        self.clerk.begin()
        self.db.write(self._say_hello)
        self._join_destinations(self.config)
        self.clerk.start()
        self._join_channels(self.config)
        self.retention.start()
        self.scrub.start()
        self.control.start()
        self.console.start()
        self.door.open()
        self._note_start()
        self.watch.start()
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()
        self._become("running")
        self._notify.notify("READY=1")
        ports = [f"port {self.door.port}"] * bool(self.door.port)
        ports += [f"port {self.door.tls_port} (TLS)"] * bool(self.door.tls_port)
        log.info("edge %s serves site %s on %s", __version__, self.config.site.id, " and ".join(ports))
        if link := self._setup_link():
            log.warning("nobody can sign in at the console yet; make the first account once at %s", link)

    def _note_start(self) -> None:
        """The scanners are served again: since when they were not, and why, is written down."""
        now, boot, data_dir = time.time(), machine.boot_id(), self.config.site.data_dir
        with self.db.reading() as conn:
            left = downtime.marks(conn, data_dir, os.fstat(self._lock).st_mtime)
        found = downtime.judge(left, boot, now)
        self.db.write(lambda conn: downtime.begin(conn, found, boot, now))
        if found is not None and not found.planned:
            log.warning("the gateway was down for %.0f s: %s", found.seconds, found.why)
        downtime.clear(data_dir)
        self._fatal = (data_dir / downtime.FATAL).open("w")
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
            except (StorageUnhealthy, StorageFull, sqlite3.Error, OSError) as error:
                log.error("housekeeping: %s", error)
            self._notify.notify("WATCHDOG=1")

    def _on_signal(self, number: int, _frame: object) -> None:
        self._told.add(number)
        self._signalled.set()

    def _tick(self) -> None:
        """What comes due: deferred work, lapsed leases, who called, and now and then the rest."""
        if self.db.failure and not self._cried:
            self._cry()
        self._become("refusing" if self.gate.refusing or self.db.failure else "running")
        now = time.time()
        downtime.touch(self._lock, now)
        peers, alive = self.receiver.take_calls(), self._due("alive", ALIVE_SECONDS)
        refused = self._refused.enter(self.refusals.take())
        if self.tls and self._due("certificates", CERTIFICATES_SECONDS):
            self.tls.refresh()
        with self.db.reading() as conn:
            promote = queue.anything_due(conn, now)

        def work(conn: Connection) -> list[str]:
            if peers is not None:
                peers(conn)
            if refused is not None:
                refused(conn)
            if alive:
                catalog.remember(conn, "alive_at", str(now))
            return queue.promote(conn, now)

        if peers or refused or alive or promote:
            self._wake(self.db.write(work))
        if self._due("checkpoint", CHECKPOINT_SECONDS):
            self._write_journal()
            self.db.checkpoint()
        if self._due("forget", FORGET_SECONDS):
            self.db.write(lambda conn: queue.forget_requests(conn, now - REQUESTS_KEPT_SECONDS))

    def _write_journal(self) -> None:
        """Before the checkpoint: what the catalog's own file has, the journal has, too."""
        try:
            with self.db.reading() as conn:
                for _ in range(JOURNAL_BATCHES):  # bounded: a journal that begins late has years to copy
                    if not self.journal.write(conn):
                        break
        except (OSError, StorageFull) as error:
            log.error("the journal of the custody ledger cannot be written: %s", error)

    def _is_busy(self) -> bool:
        """Is anything being received or sent?"""
        sending = any(told.associations for told in self._descriptions().values())
        return sending or self.receiver.open_associations > 0

    def _due(self, what: str, every: float) -> bool:
        """Has `every` seconds passed since this was last true?"""
        now = time.monotonic()
        if now < self._due_at.get(what, 0.0):
            return False
        self._due_at[what] = now + every
        return True

    def stop(self) -> None:
        """From the modality's end to the archive's: nobody new, what is under way ends, then senders, then store."""
        self._become("draining")
        self._notify.notify("STOPPING=1")
        self._ending.set()
        self.watch.stop()
        self.door.close()
        if self.heart is not None:
            self.heart.stop()  # the centre is told that this end is on purpose
        self.receiver.drain(DRAIN_SECONDS)
        self.retention.stop()
        self.scrub.stop()
        self._stop_stations(list(self.forwarders))
        self._stop_channels()
        self.console.stop()
        self.control.stop()
        self.transcoder.close()
        if self.db.failure is None:
            told = self.receiver.take_calls(), self._refused.enter(self.refusals.take(), last=True)
            self.db.write(lambda conn: self._say_goodbye(conn, told))
            self._write_journal()
        self.clerk.stop()
        if self.db.failure is None:  # else its end is the process's: see run()
            self.db.close()
        self.spool.close()
        os.close(self._lock)
        log.info("edge has stopped in order")

    def _say_hello(self, conn: Connection) -> None:
        ledger.append(conn, time.time(), ledger.STARTED, ledger.EDGE, [], detail=f"edge {__version__}")
        apply_holds(conn, self.config)

    @staticmethod
    def _say_goodbye(conn: Connection, told: Iterable[Callable[[Connection], None] | None]) -> None:
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
        try:
            recovery.reconcile(self.db, self.spool, self.intake, self._started_at, self._ending, time.time)
        except (EdgeError, OSError) as error:
            log.error("the comparison of spool and catalog ended early: %s", error)

    def _become(self, state: str) -> None:
        if state != self._state:
            self._state, self._state_since = state, time.time()
            log.info("the gateway is %s", state)
            self._notify.notify(f"STATUS={state}")

    # -- configuration ------------------------------------------------------------------------------------------------

    def reload(self) -> list[str]:
        """Read the configuration again. Returns the problems; with any, the running one stays in force."""
        self._notify.notify("RELOADING=1")
        try:
            new = config.load(self._directory, judge)
            policy = Policy.of(new)
            self._use_certificates(new)
        except ConfigError as error:
            log.error("the configuration is bad, the running one stays in force:\n%s", error)
            self._rejected_at = time.time()
            rejected = f"rejected: {len(error.problems)} faults, the running configuration stays in force"
            self.db.write(lambda conn: self._record_configured(conn, rejected))
            return error.problems
        finally:
            self._notify.notify("READY=1")
        self._rejected_at = None
        fixed = _need_restart(self.config, new)
        if fixed:
            log.warning("%s changed: restart to use it", ", ".join(fixed))
        new = replace(
            new,
            site=replace(new.site, data_dir=self.config.site.data_dir),
            listen=replace(
                new.listen,
                host=self.config.listen.host,
                port=self.config.listen.port,
                plain=self.config.listen.plain,
            ),
            console=self.config.console,
        )
        changed = config.changes(self.config, new)
        before, self.config = self.config, new
        self.receiver.config = new
        self.intake.policy = policy
        self.clerk.begin()
        self.db.write(lambda conn: self._apply(conn, changed))
        self.clerk.join()
        self._join_destinations(new)
        if _channels_of(before) != _channels_of(new):
            self._stop_channels()
            self._join_channels(new)
        log.info("the configuration has been read again")
        return []

    def _use_certificates(self, new: Config) -> None:
        """Read the certificates again. Raises ConfigError; then those before stay in force."""
        if self.tls is None or not new.tls.is_on:
            self.tls = _keyring(new)  # the port wants a restart, calling out does not
            return
        try:
            self.tls.use(new.tls)
        except TlsError as error:
            raise ConfigError([tls.placed(new, error.key, error.text)]) from None

    def _secure(self, destination: Destination) -> Caller | None:
        """What begins TLS with a destination, where it wants that."""
        if not destination.tls or self.tls is None:
            return None
        caller = self._callers[destination.name] = self.tls.to(destination.tls_name or destination.host)
        return caller

    def _join_destinations(self, new: Config) -> None:
        """Stop the stations of destinations that changed or went, start those that came."""
        title = new.listen.ae_title
        gone = [
            name
            for name, old in self.forwarders.items()
            if (new.destinations.get(name), title) != (old.destination, old.calling_ae)
        ]
        self._stop_stations(gone)
        for name in gone:
            self._callers.pop(name, None)
        for name, destination in new.destinations.items():
            if name not in self.forwarders:
                self._start_destination(destination, title)

    def _start_destination(self, destination: Destination, calling_ae: str) -> None:
        secure = self._secure(destination)
        forwarder = Forwarder(
            self.db,
            self.spool,
            self.transcoder,
            destination,
            calling_ae,
            on_sent=lambda: self._prove(destination.name),
            secure=secure,
        )
        self.forwarders[destination.name] = forwarder
        if destination.confirm == "status":
            accept_status(self.db, destination.name, time.time())
        else:
            confirmer = Confirmer(self.db, destination, calling_ae, denied=forwarder.wake, secure=secure)
            self.confirmers[destination.name] = confirmer
            confirmer.start()
        forwarder.start()

    def _stop_stations(self, names: Sequence[str]) -> None:
        """Side by side, for each may have something under way: so it takes less than the watchdog allows."""
        stops: list[Callable[[], None]] = [self.confirmers.pop(name).stop for name in names if name in self.confirmers]
        stops += [partial(self.forwarders.pop(name).stop, SENDERS_SECONDS) for name in names]
        _side_by_side(stops)

    def _join_channels(self, new: Config) -> None:
        """A courier for each channel of the outbox, and the heart where there are heartbeats."""
        self.couriers = {
            name: Courier(self.db, name, channel) for name, channel in notified.build(new, self._directory).items()
        }
        for courier in self.couriers.values():
            courier.start()
        if new.heartbeat.url:
            self.heart = Heart(self.db, self.status, new.heartbeat.every, self.wake_couriers)
            self.heart.start()

    def _stop_channels(self) -> None:
        """Side by side: each may have a delivery under way."""
        if self.heart is not None:
            self.heart.stop()
            self.heart = None
        _side_by_side([courier.stop for courier in self.couriers.values()])
        self.couriers = {}

    def wake_couriers(self) -> None:
        """Something was posted to the outbox."""
        for courier in list(self.couriers.values()):
            courier.wake()

    def tell(self) -> None:
        """Notices were posted: they leave at once, and the heartbeat that takes them along."""
        self.wake_couriers()
        if self.heart is not None:
            self.heart.wake()

    def _cry(self) -> None:
        """The storage has failed, so no notice of it can be stored: it is told from memory."""
        self._cried, now = True, time.time()
        for alert in self.snapshot().alerts:
            if alert.kind == "storage-unhealthy":
                told = watch.body(0, watch.OPENED, watch.notice_new(alert, now), now, self.config.site, None)
                for name in channels_for(self.config, alert.kind, alert.severity, watch.OPENED):
                    if name in self.couriers:
                        self.couriers[name].tell(Message(0, name, "notice", now, json.dumps(told), 0))

    def _prove(self, name: str) -> None:
        """Instances have been sent: their proof may be asked for."""
        confirmer = self.confirmers.get(name)
        if confirmer is not None:
            confirmer.wake()

    # -- the joints ---------------------------------------------------------------------------------------------------

    def _wake(self, destinations: Iterable[str]) -> None:
        """New or due work: tell those who send it."""
        for name in destinations:
            forwarder = self.forwarders.get(name)
            if forwarder is not None:
                forwarder.wake()

    def _report(self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int]) -> bool:
        """An archive has called us with a storage commitment report."""
        with self.db.reading() as conn:
            asked = queue.asked_for(conn, transaction_uid)
        confirmer = self.confirmers.get(asked[0]) if asked else None
        return confirmer is not None and confirmer.report(transaction_uid, committed, failed)

    # -- what others may ask ------------------------------------------------------------------------------------------

    def disk(self) -> Disk:
        return health.disk_of(self.config.site.data_dir)

    def live(self) -> Live:
        """What the catalog cannot know."""
        links = {name: Link(told.state, told.rate) for name, told in self._descriptions().items()}
        return Live(
            state=self._state,
            reasons=self._reasons(),
            uptime_seconds=time.monotonic() - self._started,
            since=self._state_since,
            destinations=links,
            usage=self.gauges.usage,
            machine=self.gauges.machine,
            rhythms=self.gauges.rhythms,
            certificates=self._certificates(),
            unhealthy=self.db.failure or "",
            rejected_at=self._rejected_at,
            certificate_trouble=self.tls.trouble if self.tls else "",
        )

    def _certificates(self) -> dict[str, float]:
        """When each certificate ends that a connection needs: by destination, "listen" for our own."""
        found = {name: caller.expires for name, caller in self._callers.items()}
        found["listen"] = self.tls.expires if self.tls else None
        return {name: expires for name, expires in found.items() if expires is not None}

    def _descriptions(self) -> dict[str, Any]:
        return {name: forwarder.describe() for name, forwarder in list(self.forwarders.items())}

    def _reasons(self) -> tuple[str, ...]:
        reasons = []
        if self.db.failure:
            reasons.append(self.db.failure)
        if self.gate.refusing:
            reasons.append(f"the disk is above storage.refuse ({self.config.storage.refuse:.0%})")
        return tuple(reasons)

    def snapshot(self) -> Snapshot:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.config, self.disk(), self.live(), time.time())

    def status(self) -> dict[str, Any]:
        """The JSON of `edge status --json` and of /api/status."""
        return health.as_json(self.snapshot())

    def metrics(self) -> str:
        return metrics.exposition(self.snapshot())

    def ready(self) -> tuple[bool, str]:
        """Are objects accepted now, and if not, why."""
        if self._state == "running" and not self._reasons():
            return True, ""
        return False, "; ".join(self._reasons()) or f"the gateway is {self._state}"

    def _commands(self) -> dict[str, Any]:
        return {
            "ping": lambda _: {"version": __version__},
            "status": lambda _: {"status": self.status()},
            "queue-retry": lambda told: self._on_queue(told, queue.retry),
            "queue-release": lambda told: self._on_queue(told, partial(queue.retry, event=ledger.RELEASED)),
            "repair": lambda told: {"mended": [asdict(self.repairer.mend(each)) for each in told["ids"]]},
            "queue-hold": self._hold,
            "viewed": lambda told: self._looked(looks.viewed, told),
            "audit-reported": lambda told: self._looked(looks.reported, told),
            "queue-reroute": lambda told: {
                "moved": self.intake.reroute(told["ids"], told["who"], told.get("reason", ""))
            },
            "notify-retry": self._retry_notices,
            "notify-discard": self._discard_notices,
            "queue-hasten": self._hasten,
            "queue-redirect": self._redirect,
            "console-setup": lambda _: {"link": self._setup_link()},
            "account-put": self._put_account,
            "account-remove": lambda told: {"removed": self.accounts.remove(told["name"], told["who"])},
            "alert-acknowledge": self._acknowledge,
        }

    def _acknowledge(self, told: dict[str, Any]) -> dict[str, Any]:
        number, who, note = told["id"], told["who"], told.get("note", "")
        found = self.db.write(lambda conn: watch.acknowledge(conn, number, who, note, time.time()))
        return {"kind": found.kind, "subject": found.subject}

    def _on_queue(self, told: dict[str, Any], move: Any) -> dict[str, Any]:
        who, why = told["who"], told.get("reason", "")
        moved = self.db.write(lambda conn: move(conn, told["ids"], time.time(), who, why=why))
        self._wake(self.forwarders)
        return {"moved": moved}

    def _looked(self, write: Any, told: dict[str, Any]) -> dict[str, Any]:
        now, who, studies, why = time.time(), told["who"], told["studies"], told["why"]
        return {"recorded": self.db.write(lambda conn: write(conn, now, who, studies, why))}

    def _hold(self, told: dict[str, Any]) -> dict[str, Any]:
        who, reason = told["who"], told.get("reason", "")
        return {"moved": self.db.write(lambda conn: queue.hold(conn, told["ids"], time.time(), who, reason))}

    def _retry_notices(self, told: dict[str, Any]) -> dict[str, Any]:
        moved = self.db.write(lambda conn: outbox.unpark(conn, told["channel"]))
        self.wake_couriers()
        return {"moved": moved}

    def _discard_notices(self, told: dict[str, Any]) -> dict[str, Any]:
        channel, who, parked_only = told["channel"], told["who"], not told["waiting"]

        def work(conn: Connection) -> int:
            moved = outbox.discard(conn, channel, parked_only)
            detail = f"{counted(moved, 'message')} to {channel} discarded"
            ledger.append(conn, time.time(), ledger.OVERRIDDEN, who, [], detail=detail)
            return moved

        moved = self.db.write(work)
        log.warning("%s discarded %d messages of %s", told["who"], moved, channel)
        return {"moved": moved}

    def _hasten(self, told: dict[str, Any]) -> dict[str, Any]:
        who, why, priority = told["who"], told.get("reason", ""), Priority[told["priority"].upper()]
        return {"moved": self.db.write(lambda conn: queue.hasten(conn, told["ids"], priority, time.time(), who, why))}

    def _redirect(self, told: dict[str, Any]) -> dict[str, Any]:
        who, why, name = told["who"], told.get("reason", ""), told["destination"]
        if name not in self.config.destinations:
            raise EdgeError(f'there is no destination "{name}"; there are: {", ".join(self.config.destinations)}')
        moved = self.db.write(lambda conn: queue.redirect(conn, told["ids"], name, time.time(), who, why))
        self._wake([name])
        return {"moved": moved}

    # -- the console --------------------------------------------------------------------------------------------------

    def _pages(self) -> Any:
        """The pages for people, loaded when somebody first looks."""
        from edge.console import application  # noqa: PLC0415  # a site without onlookers need not pay for it

        access = Access(self.db, self.spool, lambda: self.config, self._directory, self.status, self._ask)
        return application.build(access, self.setup)

    def _ask(self, command: str, told: dict[str, Any]) -> Mapping[str, Any]:
        """A command of the console's: the same as `edge` gives through the control socket."""
        handler = self._handlers.get(command)
        if handler is None:
            raise EdgeError(f"this gateway knows no command {command}")
        answer: Mapping[str, Any] = handler(told)
        return answer

    def _put_account(self, told: dict[str, Any]) -> dict[str, Any]:
        account = Account(told["name"], Role[told["role"].upper()], told["password"], time.time())
        self.accounts.put(account, told["who"])
        return {}

    def _setup_link(self) -> str | None:
        console = self.config.console
        host = "127.0.0.1" if console.host in ("0.0.0.0", "::") else console.host
        return self.setup.link(f"http://{f'[{host}]' if ':' in host else host}:{self.console.port}")


def _side_by_side(work: Iterable[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _channels_of(found: Config) -> tuple[Any, ...]:
    """What couriers and heart are made of."""
    return found.site.id, found.emails, found.webhooks, found.syslogs, found.heartbeat


def _keyring(config: Config) -> Keyring | None:
    """Our certificates, where there is a [tls] table. Raises ConfigError."""
    if not config.tls.is_on:
        return None
    try:
        return Keyring(config.tls)
    except TlsError as error:
        raise ConfigError([tls.placed(config, error.key, error.text)]) from None


def _claim(data_dir: Path) -> int:
    """Make the data directory ours alone: one gateway writes it, on a local file system."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "edge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"site.data_dir {data_dir} cannot be used: {error.strerror}; create it for this user"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StartError(f"another gateway runs on {data_dir}; stop it first (`edge status` asks it)") from None
    kind = _file_system(data_dir)
    if kind in REMOTE:
        raise StartError(f"site.data_dir {data_dir} lies on {kind}; it must be a local file system")
    if kind == "tmpfs":
        log.warning("site.data_dir %s lies on tmpfs: everything in it is gone after a reboot", data_dir)
    return lock


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, from /proc/self/mountinfo (proc(5))."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == number:
            return rest.split()[0]
    return "unknown"


def _open_catalog(path: Path, ballast: Ballast) -> Database:
    if (path.parent / MARKER).exists():
        raise StartError(f"a recovery of {path} was interrupted: run `edge recover` again, then start")
    if is_gone(path):
        raise StartError(f"the catalog {path} is gone, but its log is there; {RECOVER}")
    try:
        if lost_commits(path) > 1:
            raise StartError(f"the log of the catalog {path} is damaged; {RECOVER}")
        quick_check(path, QUICK_SECONDS)
        try:
            return Database(path, ballast.drop)
        except sqlite3.OperationalError:
            if not ballast.drop():  # the disk is not full, or to the last byte
                raise
            return Database(path, ballast.drop)
    except sqlite3.OperationalError as error:
        raise StartError(f"the catalog {path} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise StartError(f"the catalog {path} is damaged ({error}); {RECOVER}") from None


def _check_journal(db: Database, journal: Journal) -> None:
    """What was committed once must still be there."""
    with db.reading() as conn:
        vanished = journal.vanished(conn)
    if vanished:
        db.close()
        raise StartError(f"the catalog {db.path} is damaged: {vanished}; {RECOVER}")


def _bind(what: str, build: Any) -> Any:
    try:
        return build()
    except OSError as error:
        denied = isinstance(error, PermissionError)
        remedy = "systemd opens ports below 1024: see edge.socket" if denied else "is another program using it?"
        raise StartError(f"{what}: the address cannot be bound: {error.strerror}; {remedy}") from None


def _need_restart(old: Config, new: Config) -> list[str]:
    """Keys that a running gateway cannot change."""
    pairs = {
        "site.data_dir": (old.site.data_dir, new.site.data_dir),
        "listen.host": (old.listen.host, new.listen.host),
        "listen.port": (old.listen.port, new.listen.port),
        "listen.plain": (old.listen.plain, new.listen.plain),
        "tls.port": (old.tls.is_on and old.tls.port, new.tls.is_on and new.tls.port),
        "console": (old.console, new.console),
    }
    return [key for key, (before, after) in pairs.items() if before != after]
