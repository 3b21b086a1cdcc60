"""The gateway: the only place where its parts are built and joined.

A life reads as `run`: configuration, lock, catalog, clear what a crash left, start the stations from the archive's
end to the modality's, tell systemd, tick until a signal comes, then stop them from the modality's end to the
archive's.

SIGHUP reads the configuration again: a bad one changes nothing and is reported; a good one takes effect for the next
association, except for `site.data_dir` and the addresses that are bound, which want a restart.
"""

from __future__ import annotations

import fcntl
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

from edge import __version__, catalog, config, ledger, queue, recovery
from edge.config import Config, Destination
from edge.confirm import Confirmer, accept_status
from edge.console.server import Console
from edge.db import Connection, Database, lost_commits, quick_check
from edge.door import Door
from edge.errors import ConfigError, EdgeError, StorageFull, StorageUnhealthy
from edge.forward import Forwarder
from edge.intake import Intake, Policy
from edge.model import Disk
from edge.ops import health, metrics
from edge.ops.control import Control
from edge.ops.facts import Link, Live, Snapshot
from edge.receive import Receiver
from edge.retention import Ballast, Gate, Retention, apply_holds
from edge.route import judge
from edge.scrub import Scrub
from edge.scrub.journal import Journal
from edge.scrub.rebuild import MARKER
from edge.scrub.repair import Repairer
from edge.spool import Spool
from edge.transform import Transcoder

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
#: Work that is now and then: the sign of life, the WAL into the database, the disk's use.
ALIVE_SECONDS, CHECKPOINT_SECONDS, SAMPLE_SECONDS, FORGET_SECONDS = 10.0, 5.0, 60.0, 60.0
#: So long the start looks for damaged pages of the catalog; the scrub looks at all of them.
QUICK_SECONDS = 0.3
#: Requests for proof that have ended are kept so long.
REQUESTS_KEPT_SECONDS = 30 * 86_400.0
SAMPLES = 24 * 60
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
    try:
        gateway = Gateway(directory)
        gateway.start()
    except (ConfigError, StartError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except (EdgeError, OSError, sqlite3.Error) as error:
        print(f"the gateway cannot start: {error}; mend the disk, then start it again", file=sys.stderr)
        _end(1)
    gateway.loop()
    gateway.stop()
    if gateway.db.failure is not None:
        _end(1)
    return 0


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
        self._usage: list[tuple[float, int]] = []
        self._due_at: dict[str, float] = {}
        data_dir = self.config.site.data_dir
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
        self.retention = Retention(self.db, self.spool, lambda: self.config, self.disk, ballast=self.ballast)
        self.gate.on_refusing = self.retention.wake
        self.repairer = Repairer(self.db, self.spool, lambda: self.config, self._wake)
        self.scrub = Scrub(self.db, self.spool, self.repairer, self._is_busy)
        self.receiver = Receiver(self.config, self.intake, self.gate.check_room, self._report)
        self.control = Control(data_dir, self._commands())
        console, listen = self.config.console, self.config.listen
        self.console = _bind(
            "console", lambda: Console(console.host, console.port, self.status, self.metrics, self.ready)
        )
        self.door = _bind("listen", lambda: Door(listen.host, listen.port, self.receiver.serve))

    # -- a life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From the archive's end to the modality's, so that whoever is let in finds everything in place."""
        partials, leases = recovery.at_start(self.db, self.spool)
        if partials or leases:
            log.info("after an unclean end: %d partial files removed, %d leases ended", partials, leases)
        self.db.write(lambda conn: apply_holds(conn, self.config))
        self._join_destinations(self.config)
        self.retention.start()
        self.scrub.start()
        self.control.start()
        self.console.start()
        self.door.open()
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()
        self._become("running")
        self._notify.notify("READY=1")
        log.info("edge %s serves site %s on port %d", __version__, self.config.site.id, self.door.port)

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
        self._become("refusing" if self.gate.refusing or self.db.failure else "running")
        now = time.time()
        peers, alive = self.receiver.take_calls(), self._due("alive", ALIVE_SECONDS)
        with self.db.reading() as conn:
            promote = queue.anything_due(conn, now)

        def work(conn: Connection) -> list[str]:
            if peers is not None:
                peers(conn)
            if alive:
                catalog.remember(conn, "alive_at", str(now))
            return queue.promote(conn, now)

        if peers is not None or alive or promote:
            self._wake(self.db.write(work))
        if self._due("checkpoint", CHECKPOINT_SECONDS):
            self._write_journal()
            self.db.checkpoint()
        if self._due("forget", FORGET_SECONDS):
            self.db.write(lambda conn: queue.forget_requests(conn, now - REQUESTS_KEPT_SECONDS))
        if self._due("sample", SAMPLE_SECONDS):
            self._usage = [*self._usage, (now, self.disk().used_bytes)][-SAMPLES:]

    def _write_journal(self) -> None:
        """Before the checkpoint: what the catalog's own file has, the journal has, too."""
        try:
            with self.db.reading() as conn:
                while self.journal.write(conn):
                    pass
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
        self.door.close()
        self.receiver.drain(DRAIN_SECONDS)
        self.retention.stop()
        self.scrub.stop()
        self._stop_stations(list(self.forwarders))
        self.console.stop()
        self.control.stop()
        self.transcoder.close()
        if self.db.failure is None:
            peers = self.receiver.take_calls()
            self.db.write(lambda conn: self._say_goodbye(conn, peers))
            self._write_journal()
        if self.db.failure is None:  # else its end is the process's: see run()
            self.db.close()
        self.spool.close()
        os.close(self._lock)
        log.info("edge has stopped in order")

    @staticmethod
    def _say_goodbye(conn: Connection, peers: Any) -> None:
        if peers is not None:
            peers(conn)
        catalog.remember(conn, "stopped_at", str(time.time()))

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
        except ConfigError as error:
            log.error("the configuration is bad, the running one stays in force:\n%s", error)
            self._rejected_at = time.time()
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
            listen=replace(new.listen, host=self.config.listen.host, port=self.config.listen.port),
            console=self.config.console,
        )
        self.config = self.receiver.config = new
        self.intake.policy = policy
        self.db.write(lambda conn: apply_holds(conn, new))
        self._join_destinations(new)
        log.info("the configuration has been read again")
        return []

    def _join_destinations(self, new: Config) -> None:
        """Stop the stations of destinations that changed or went, start those that came."""
        title = new.listen.ae_title
        gone = [
            name
            for name, old in self.forwarders.items()
            if (new.destinations.get(name), title) != (old.destination, old.calling_ae)
        ]
        self._stop_stations(gone)
        for name, destination in new.destinations.items():
            if name not in self.forwarders:
                self._start_destination(destination, title)

    def _start_destination(self, destination: Destination, calling_ae: str) -> None:
        forwarder = Forwarder(
            self.db, self.spool, self.transcoder, destination, calling_ae, on_sent=lambda: self._prove(destination.name)
        )
        self.forwarders[destination.name] = forwarder
        if destination.confirm == "status":
            accept_status(self.db, destination.name, time.time())
        else:
            confirmer = Confirmer(self.db, destination, calling_ae, denied=forwarder.wake)
            self.confirmers[destination.name] = confirmer
            confirmer.start()
        forwarder.start()

    def _stop_stations(self, names: Sequence[str]) -> None:
        """Side by side, for each may have something under way: so it takes less than the watchdog allows."""
        stops: list[Callable[[], None]] = [self.confirmers.pop(name).stop for name in names if name in self.confirmers]
        stops += [partial(self.forwarders.pop(name).stop, SENDERS_SECONDS) for name in names]
        threads = [threading.Thread(target=stop) for stop in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

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
            usage=tuple(self._usage),
            unhealthy=self.db.failure or "",
            rejected_at=self._rejected_at,
        )

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
            "queue-reroute": lambda told: {
                "moved": self.intake.reroute(told["ids"], told["who"], told.get("reason", ""))
            },
        }

    def _on_queue(self, told: dict[str, Any], move: Any) -> dict[str, Any]:
        who, why = told["who"], told.get("reason", "")
        moved = self.db.write(lambda conn: move(conn, told["ids"], time.time(), who, why=why))
        self._wake(self.forwarders)
        return {"moved": moved}

    def _hold(self, told: dict[str, Any]) -> dict[str, Any]:
        who, reason = told["who"], told.get("reason", "")
        return {"moved": self.db.write(lambda conn: queue.hold(conn, told["ids"], time.time(), who, reason))}


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
        raise StartError(
            f"{what}: the address cannot be bound: {error.strerror}; is another program using it?"
        ) from None


def _need_restart(old: Config, new: Config) -> list[str]:
    """Keys that a running gateway cannot change."""
    pairs = {
        "site.data_dir": (old.site.data_dir, new.site.data_dir),
        "listen.host": (old.listen.host, new.listen.host),
        "listen.port": (old.listen.port, new.listen.port),
        "console": (old.console, new.console),
    }
    return [key for key, (before, after) in pairs.items() if before != after]
