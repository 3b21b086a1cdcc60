"""The central office as a service: its parts built and joined, and its life from start to stop.

Raises ConfigError or StoreError where it cannot start. SIGTERM and SIGINT end it in order: heartbeats under way are
answered first. SIGHUP reads the configuration again: sites and their keys, channels' rules and the calendar apply from
then on; a change of the port, the database or the channels requires a restart. Files of the configuration, keys and
certificate that change are read again by themselves. What cannot be used changes nothing, and the log says why.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import sdnotify
import uvicorn

from edge import __version__
from edge.central import app, notifications, prune, stuck_channels, watch
from edge.central import config as configuration
from edge.central.accounts import record_in_journal
from edge.central.answers import KeptAnswers
from edge.central.clock import Timekeeper, correct_times
from edge.central.config import CentralConfig
from edge.central.metrics import MetricsEndpoint
from edge.central.receive import HeartbeatEndpoint
from edge.config.channels import subscribers
from edge.errors import ConfigError, EdgeError, place_of
from edge.errors.repeats import write_log
from edge.messaging import Courier, channels
from edge.network import shares
from edge.network.shares import ProvenCallers
from edge.network.tls import TlsError, stamps
from edge.store.central import open_store
from edge.store.clock import boot_seconds
from edge.store.engine import EngineStore, EngineTransaction, StoreError, ThreadStore
from edge.store.outbox import Backlog
from edge.web import http
from edge.web.accounts import Accounts
from edge.web.client_certificates import ask_for_certificates, harden
from edge.web.listener import Listener, bare_answer
from edge.web.setup import Setup
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)

#: Seconds between two checks for missing heartbeats.
_POLL_SECONDS = 1.0
#: Seconds between two checks for changed files.
FILES_SECONDS = 3.0
#: Seconds between two checks for answers that get old.
ANSWERS_SECONDS = 30.0
#: How often old rows go.
PRUNE_SECONDS = 3600.0


def run_centre(directory: Path) -> int:
    """Run in the foreground until SIGTERM or SIGINT. Returns the exit code."""
    write_log()
    logging.getLogger("uvicorn.error").addFilter(FewLines())
    asyncio.run(_run(configuration.load(directory)))
    return 0


async def _run(config: CentralConfig) -> None:
    config.read_keys()
    config.check_files()
    async with open_store(config.database_url()) as store:
        await CentralServer(config, store).run()
    log.info("the central office has stopped in order")


class CentralServer:
    """All parts of the service, but for its open store."""

    def __init__(
        self,
        config: CentralConfig,
        store: EngineStore,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = boot_seconds,
    ) -> None:
        """Build everything that may fail, on the loop. Raises ConfigError or SecretError."""
        self.config, self.store = config, store
        self._passed, self._time = passed, Timekeeper(clock, passed)
        self.reception = HeartbeatEndpoint(store, config.read_keys(), clock)
        self._known = ProvenCallers()
        in_threads = ThreadStore(store, asyncio.get_running_loop())
        accounts = Accounts(in_threads, record_in_journal)
        self.setup = Setup(accounts)
        self.answers = KeptAnswers()
        pages = app.build_pages(store, lambda: self.config, accounts, self.setup, self._known, self.answers)
        metrics = MetricsEndpoint(store, lambda: self.config, self.reception.trouble, clock)
        self.app = app.build(self.reception, pages, self._known, metrics)
        found = channels.for_subscribers(subscribers(config), config.directory)
        self.couriers = [Courier(in_threads, name, channel, now=clock) for name, channel in found.items()]
        self._tls: ssl.SSLContext | None = None
        self._stamps = stamps(config.watched_files())
        self._seen = self._stamps
        self._own = self._own_seen = stamps(config.own_files())
        self._files_at = 0.0
        self._prune_at = passed() + PRUNE_SECONDS / 12
        self._reload = asyncio.Event()
        self._notify = sdnotify.SystemdNotifier()

    async def run(self) -> None:
        """Serve until a signal comes."""
        listener = self._listen()
        certificate, key = self.config.tls() or (None, None)
        settings = http.configure(self.app, lifespan="off", ssl_certfile=certificate, ssl_keyfile=key)
        settings.load()
        self._tls = settings.ssl
        self._ask_for_certificates(self.config)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.set)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn has its own, and raises them again when it has stopped
            signal.signal(number, lambda *_: None)
        works = (self.reception.run(), self.reception.keep_ticking(), self._keep_watch(), self._keep_answers())
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(_note_end)
        for courier in self.couriers:
            courier.start()
        try:
            await _Server(settings, self._ready).serve([listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(
                *tasks, *(asyncio.to_thread(each.stop) for each in self.couriers), return_exceptions=True
            )
            self.close()

    def _ask_for_certificates(self, config: CentralConfig) -> None:
        """People may sign in by a certificate. Raises ConfigError."""
        ca, crl = config.client_files()
        if self._tls is None or ca is None:
            return
        harden(self._tls)
        try:
            ask_for_certificates(self._tls, ca, crl)
        except TlsError as error:
            raise ConfigError([f"central.{error.key}: {error}"]) from None

    def _listen(self) -> Listener:
        """The address that sites and people reach. Raises ConfigError where it cannot be had."""
        central = self.config.central
        refusal = b"" if central.certificate else bare_answer(HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return Listener(central.host, central.port, shares.CENTRE, known=self._known, refusal=refusal)
        except OSError as error:
            raise ConfigError([f"{central.host} port {central.port} cannot be listened on: {error.strerror}"]) from None

    def close(self) -> None:
        """Let go of systemd's socket."""
        if self._notify.socket is not None:
            self._notify.socket.close()

    def _ready(self) -> None:
        """Read the accounts, in a thread."""
        self._notify.notify("READY=1")
        central = self.config.central
        log.info(
            "edge %s: the central office of %d sites on port %d", __version__, len(self.config.sites), central.port
        )
        if link := self.setup.link(self._base()):
            log.warning("there is no account yet; create the first one within the hour at %s", link)

    def _base(self) -> str:
        """How a browser on this machine, or by the first name, reaches us."""
        central = self.config.central
        name = central.names[0] if central.names else "localhost"
        return f"{'https' if central.certificate else 'http'}://{name}:{central.port}"

    async def _keep_watch(self) -> None:
        """Watch for what does not come, until cancelled; the watchdog gets its sign while heartbeats get through."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.turn()

    async def _keep_answers(self) -> None:
        """Prepare slow answers before somebody asks, until cancelled."""
        while True:
            await self._try(self.answers.refresh())
            await asyncio.sleep(ANSWERS_SECONDS)

    async def turn(self) -> None:
        """One second's work: new files, what did not come, the sign of life."""
        if self._reload.is_set():
            self._reload.clear()
            await asyncio.to_thread(self.reload)
        if (now := time.monotonic()) >= self._files_at:
            self._files_at = now + FILES_SECONDS
            await asyncio.to_thread(self.refresh)
            if self.is_edited():
                await asyncio.to_thread(self.reload)
        await self.look()
        if not self.reception.is_stalled:
            self._notify.notify("WATCHDOG=1")

    async def look(self) -> None:
        """Once: who is silent, what to escalate, to notify, to prune. What fails keeps nothing else waiting."""
        now, config, is_doubtful = self._time.look(), self.config, self._time.is_doubtful
        works: list[Callable[[EngineTransaction], object]] = [
            lambda conn: watch.look_for_silence(conn, config, self._time.started, now),
            lambda conn: self._wake_couriers(stuck_channels.watch_channels(conn, now)),
            lambda conn: notifications.announce(conn, config, now),
            lambda conn: notifications.send_due_digest(conn, config, now),
            lambda conn: notifications.send_due_month(conn, config, now),
        ]
        if self._time.must_correct():
            works.insert(0, lambda conn: correct_times(conn, now))
        if not is_doubtful:
            works.insert(-4, lambda conn: notifications.escalate_incidents(conn, config, now))
        for work in works:
            await self._try(self.store.write(work))
        if self._passed() >= self._prune_at and not is_doubtful:
            self._prune_at = self._passed() + PRUNE_SECONDS
            await self._try(prune.prune_sites(self.store, now))

    def _wake_couriers(self, backlogs: Mapping[str, Backlog]) -> None:
        """Wake couriers: a notice waits, or what a person sends again by a page or a command."""
        for courier in self.couriers:
            if courier.name in backlogs and backlogs[courier.name].count:
                courier.wake()

    async def _try(self, work: Awaitable[object]) -> None:
        """Log a fault of ours by its place; the next look tries again."""
        try:
            await work
        except StoreError as error:
            log.error("the watch: %s", error)
        except Exception as error:  # noqa: BLE001 - one row must not end what watches over all sites
            log.error("the watch: %s", place_of(error))

    # -- what changes while it runs -----------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration again, and use what can be used without a restart."""
        try:
            new = configuration.load(self.config.directory)
            keys = new.read_keys()
            self._use_certificate(new)
            self.reception.use(keys)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end what watches over all sites
            log.error("the new configuration has mistakes, the previous one stays active: %s", _text_of(error))
            return
        if _bound(new) != _bound(self.config):
            log.warning("[central] and the channels have changed: that requires a restart")
        self.config = new
        self._stamps = self._seen = stamps(new.watched_files())
        log.info("the configuration has been read again: %d sites", len(new.sites))

    def is_edited(self) -> bool:
        """Have the configuration's own files changed, and rested since the last look? A new site needs no restart."""
        before, self._own_seen = self._own_seen, stamps(self.config.own_files())
        if self._own_seen in (self._own, None) or self._own_seen != before:
            return False
        self._own = self._own_seen
        return True

    def refresh(self) -> None:
        """Use keys and a certificate whose files have changed, once they rest since the last look."""
        before, self._seen = self._seen, stamps(self.config.watched_files())
        if self._seen in (self._stamps, None) or self._seen != before:
            return
        self._stamps = self._seen
        try:
            keys = self.config.read_keys()
            self._use_certificate(self.config)
            self.reception.use(keys)
        except Exception as error:  # noqa: BLE001 - as in `reload`
            log.error("new keys or certificates cannot be used, the previous ones stay active: %s", _text_of(error))
        else:
            log.info("keys and certificates have changed and have been read again")

    def _use_certificate(self, config: CentralConfig) -> None:
        """Renew it for connections that begin from now on. Raises ConfigError."""
        config.check_files()
        if self._tls is not None and (pair := config.tls()):
            self._tls.load_cert_chain(*pair)
            self._ask_for_certificates(config)


def _text_of(error: Exception) -> str:
    """What an error says; of a fault of ours its place."""
    return str(error) if isinstance(error, EdgeError | OSError) else place_of(error)


def _note_end(task: asyncio.Task[None]) -> None:
    """Log the failure of a task that must not end; the watchdog then ends the service."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("nothing is written any more: %s", place_of(error))


def _bound(config: CentralConfig) -> tuple[object, ...]:
    """What is used from the start to the end of the service."""
    return config.central, config.emails, config.webhooks, config.syslogs


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            await asyncio.to_thread(self._ready)
