"""The life of the gateway: start, ticks until a signal comes, stop.

It starts from the archive's end to the modality's and stops the other way round. SIGHUP reads the configuration again:
a bad one changes nothing and is reported; a good one takes effect for the next association, except for `site.data_dir`
and the addresses that are bound, which need a restart.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import sdnotify

from edge import __version__
from edge.config.maintenance import windows_of
from edge.daemon.configuring import record_state
from edge.daemon.gateway import Gateway
from edge.daemon.housekeeping import HOUSEKEEPING_THREAD, PERIODIC, TICK, Schedule, checkpoint, copy_ledger
from edge.daemon.outbound import note_coercions
from edge.daemon.reload import reload
from edge.daemon.start import StartError, why_not
from edge.errors import CatalogError, Cause, ConfigError, EdgeError, Hindered, StorageUnhealthy, place_of
from edge.errors.hindrance import CauseClass, cause_of, classify_cause, words_of
from edge.errors.repeats import Repeats, log_faults_by_place, write_log
from edge.monitor import downtime, host
from edge.scp.fork_server import ForkServer
from edge.storage import recovery
from edge.storage.retention import apply_holds
from edge.store import downtimes, gateway_values, ledger
from edge.store.database import Transaction
from edge.worker import DONE, ThreadSpec, Worker

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
#: On stop associations may go on for this time, then senders (edge.daemon.outbound): together below TimeoutStopSec.
DRAIN_SECONDS = 30.0
RECONCILE_THREAD = ThreadSpec(
    "reconcile", __name__, "instances, deliveries, ledger", "by itself at the end; else after a file"
)


def run(directory: Path, server: ForkServer) -> int:
    """Run in the foreground until SIGTERM or SIGINT.

    Returns the exit code: 0 stopped in order, 1 could not start, 2 bad configuration. After a failure of the disk the
    process ends here, with 1: to close the catalog would sync it once more, as if that could help.
    """
    repeats = write_log()
    os.umask(0o077)
    log_faults_by_place()
    try:
        life = Lifecycle(directory, repeats, server)
        life.start()
    except (ConfigError, StartError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except (EdgeError, OSError) as error:
        print(f"the gateway cannot start: {why_not(error, directory)}", file=sys.stderr)
        _end(1)
    try:
        life.loop()
    except Exception as error:
        life.record_failure(error)
        raise
    life.stop()
    if life.gateway.db.failure is not None:
        _end(1)
    return 0


def _end(code: int) -> NoReturn:
    """End the process as it stands."""
    sys.stderr.flush()
    os._exit(code)


class Lifecycle:
    """One gateway from its start to its end. Only the main thread calls it."""

    def __init__(self, directory: Path, repeats: Repeats, server: ForkServer) -> None:
        """Build everything that may fail. Raises ConfigError or StartError."""
        self._signals: set[int] = set()  # that came
        self._signalled = threading.Event()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        notifier = sdnotify.SystemdNotifier()
        if notifier.socket is not None:
            notifier.socket.setblocking(False)  # a manager that does not listen must not stop the clock
        self._notify = notifier.notify
        self.gateway = Gateway(directory, repeats, self._notify, server)
        parts = (self.gateway, *vars(self.gateway).values())
        self._tick = Schedule(TICK, parts)
        self._housekeeping = Worker(HOUSEKEEPING_THREAD, Schedule(PERIODIC, parts).run_due)
        self._reconcile = Worker(RECONCILE_THREAD, self._reconcile_once)

    def start(self) -> None:
        """Start from the archive's end to the modality's, so that an admitted caller finds everything in place."""
        gateway = self.gateway
        _checkpoint_or_log(gateway)  # else the log of one that is killed again and again grows, and with it each start
        gateway.clock.correct()
        partials, leases = recovery.at_start(gateway.db, gateway.spool)
        if partials or leases:
            log.info("after an unclean end: %d partial files removed, %d leases ended", partials, leases)
        gateway.audit.begin()
        since = gateway.db.write(self._record_start)
        gateway.outbound.join_destinations(gateway.config, since)
        gateway.audit.start()
        gateway.notifications.join_channels(gateway.config)
        gateway.retention.worker.start()
        gateway.reserve.spend(gateway.control.start)
        gateway.console.start()
        if gateway.arrivals.start():
            _checkpoint_or_log(gateway)  # no later start is to read again what this one has replayed
        gateway.answerer.start()
        gateway.doors.open()
        gateway.reports.worker.start()
        gateway.step_forwarding.worker.start()
        gateway.worklist_keeper.worker.start()
        gateway.rechecks.worker.start()
        gateway.relays.join(gateway.config)
        gateway.importer.worker.start()
        gateway.prefetcher.worker.start()
        self._note_start()
        gateway.watch.worker.start()
        self._housekeeping.start()
        self._reconcile.start()
        gateway.backfill.worker.start()
        gateway.scrub.start()
        gateway.ledger_check.worker.start()
        gateway.state.set_state("running")
        self._notify("READY=1")
        where = " and ".join(gateway.doors.addresses())
        log.info("edge %s serves site %s on %s", __version__, gateway.config.site.id, where)
        if link := gateway.setup_link():
            log.warning("nobody can sign in at the console yet; make the first account within the hour at %s", link)

    def _record_start(self, conn: Transaction) -> dict[str, float]:
        """Returns since when each [coerce] rule is what it is."""
        ledger.append(conn, time.time(), ledger.STARTED, ledger.EDGE, [], payload={"version": __version__})
        apply_holds(conn, self.gateway.config)
        files = self.gateway.configuring.files()
        record_state(conn, files, self.gateway.configuring.author_of(files))
        self.gateway.configuring.note_read(files)
        return note_coercions(conn, self.gateway.config)

    def _note_start(self) -> None:
        """Record since when the scanners were not served, and why: they are again."""
        gateway, now, boot = self.gateway, time.time(), host.boot_id()
        data_dir = gateway.config.site.data_dir
        with gateway.db.reading() as conn:
            left = downtime.marks(conn, data_dir, os.fstat(gateway.lock).st_mtime)
        config = gateway.config
        windows = windows_of(config.maintenances.values(), config.calendar.time_zone)
        found = downtime.apply_plan(downtime.find_downtime(left, boot, now), windows)
        gateway.db.write(lambda conn: downtimes.begin_run(conn, found, boot, now))
        if found is not None and not found.planned:
            log.warning("the gateway was down for %.0f s: %s", found.seconds, found.why)
        downtime.clear(data_dir)
        self._fatal = gateway.reserve.spend(lambda: (data_dir / downtime.FATAL).open("w"))
        faulthandler.enable(self._fatal)

    def record_failure(self, error: Exception) -> None:
        """Record the fault that ends the gateway, for the next start."""
        where = place_of(error)
        log.critical("the gateway fails: %s", where)
        try:
            self.gateway.db.write(lambda conn: gateway_values.remember(conn, "failed", where[-2000:]))
        except EdgeError as problem:
            log.error("the failure could not be recorded: %s", problem)

    def loop(self) -> None:
        """Tick once a second until a signal ends it. What hinders a part of a tick stops no other."""
        while True:
            self._signalled.wait(TICK_SECONDS)
            self._signalled.clear()
            signals, self._signals = self._signals, set()
            if signals & {signal.SIGTERM, signal.SIGINT}:
                return
            for work in (self._reload, self._tick.run_due) if signals else (self._tick.run_due,):
                try:
                    work()
                except Hindered as error:
                    self.gateway.reception.note(error.cause)
                    log.error("housekeeping: %s", error)
                except MemoryError:
                    self.gateway.reception.note(Cause.MEMORY)
                    log.error("housekeeping: the gateway is %s", words_of(Cause.MEMORY))
                except (StorageUnhealthy, CatalogError, OSError) as error:
                    log.error("housekeeping: %s", error)
            self._notify("WATCHDOG=1")

    def _reload(self) -> None:
        """Where it is hindered nothing of the new configuration is used: the next tick tries again."""
        try:
            reload(self.gateway)
        except (Hindered, MemoryError, OSError):
            log.error("the configuration cannot be read again now, the running one stays active")
            self._signals.add(signal.SIGHUP)
            raise

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.add(number)
        self._signalled.set()

    def stop(self) -> None:
        """Stop from the modality's end to the archive's: callers, what is under way, senders, store."""
        gateway = self.gateway
        gateway.state.set_state("draining")
        self._notify("STOPPING=1")
        self._reconcile.stop(0.0)
        self._housekeeping.stop(None)
        gateway.watch.worker.stop(None)
        gateway.doors.close()
        gateway.notifications.stop_heartbeat()
        gateway.doors.drain(DRAIN_SECONDS)
        gateway.answerer.stop()
        gateway.importer.worker.stop()
        gateway.import_door.close()
        gateway.prefetcher.worker.stop()
        gateway.fetched.close()
        gateway.copies.close()
        gateway.arrivals.stop()
        gateway.restores.stop()
        gateway.retention.worker.stop()
        gateway.scrub.stop()
        gateway.ledger_check.worker.stop()
        gateway.backfill.worker.stop()
        gateway.reports.stop()
        gateway.step_forwarding.stop()
        gateway.worklist_keeper.worker.stop()
        gateway.rechecks.worker.stop()
        gateway.relays.stop()
        gateway.outbound.stop()
        gateway.notifications.stop()
        gateway.outbound.transcoder.close()
        gateway.console.stop()
        gateway.control.stop()
        if gateway.db.failure is None:
            records = gateway.take_records(last=True)
            gateway.db.write(lambda conn: _record_stop(conn, records))
            copy_ledger(gateway)
        gateway.audit.stop()
        if gateway.db.failure is None:  # else its end is the process's: see run()
            gateway.db.close()
        gateway.spool.close()
        os.close(gateway.lock)
        log.info("edge has stopped in order")

    def _reconcile_once(self) -> float:
        """Reconcile to the end, however often a passing hindrance interrupts it; after the replay of the journal."""
        gateway = self.gateway
        if not gateway.arrivals.is_replayed:
            return TICK_SECONDS
        try:
            recovery.reconcile(
                gateway.db, gateway.spool, gateway.intake, gateway.started_at, self._reconcile.pause, time.time
            )
        except (EdgeError, OSError, MemoryError) as error:
            if classify_cause(cause_of(error)) is not CauseClass.BROKEN:
                raise
            log.error("the comparison of spool and catalog ended early: %s", error)
        return DONE


def _checkpoint_or_log(gateway: Gateway) -> None:
    try:
        checkpoint(gateway)
    except Hindered as error:
        log.error("housekeeping: %s", error)


def _record_stop(conn: Transaction, records: Iterable[Callable[[Transaction], None]]) -> None:
    for record in records:
        record(conn)
    now = time.time()
    ledger.append(conn, now, ledger.STOPPED, ledger.EDGE, [])
    gateway_values.remember(conn, "stopped_at", str(now))
