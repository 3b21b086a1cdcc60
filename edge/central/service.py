"""The central office as a service: its parts built and joined, and its life from start to stop.

Raises ConfigError or StoreError where it cannot start. SIGTERM and SIGINT end it in order: heartbeats under way are
answered first. SIGHUP reads the configuration again: sites and their keys, whom it tells of what, and the calendar are
new from then on; what is listened on, the database and the channels want a restart. Keys and certificate whose files
change are read again by themselves. What cannot be used changes nothing, and the log says why.
"""

from __future__ import annotations

import logging
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path

import sdnotify
import uvicorn

from edge import __version__, shares
from edge.central import app, notifications, prune, watch
from edge.central import config as configuration
from edge.central.accounts import StoredAccounts
from edge.central.clock import Timekeeper, correct_times
from edge.central.config import Config
from edge.central.courier import Postman
from edge.central.receive import HeartbeatEndpoint
from edge.central.store import Connection, Store, StoreError
from edge.config.channels import subscribers
from edge.errors import ConfigError, place_of
from edge.messaging import channels
from edge.repeats import write_log
from edge.shares import ProvenCallers
from edge.store.clock import boot_seconds
from edge.web.http import KEEP_ALIVE_SECONDS, MAX_HEAD, STOP_SECONDS, Bounded
from edge.web.listener import Listener, bare_answer
from edge.web.setup import Setup
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)

#: How often the office looks at what did not come, in seconds.
LOOK_SECONDS = 1.0
#: How often files are looked at that may have changed.
FILES_SECONDS = 3.0
#: How often old rows go.
PRUNE_SECONDS = 3600.0


def run(directory: Path) -> int:
    """Run in the foreground until SIGTERM or SIGINT. Returns the exit code."""
    write_log()
    logging.getLogger("uvicorn.error").addFilter(FewLines())
    office = CentralServer(configuration.load(directory))
    office.run()
    return 0


class CentralServer:
    """All parts of the service."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = boot_seconds,
    ) -> None:
        """Build everything that may fail. Raises ConfigError, SecretError or StoreError."""
        self.config, self._passed, self._time = config, passed, Timekeeper(clock, passed)
        keys = config.read_keys()
        config.check_files()
        self.store = Store(config.database_url())
        accounts = StoredAccounts(self.store)
        self.setup = Setup(accounts)
        self.reception = HeartbeatEndpoint(self.store, keys, clock)
        self._known = ProvenCallers()
        pages = app.build_pages(self.store, lambda: self.config, accounts, self.setup, self._known)
        self.app = app.build(self.reception, pages, self._known)
        self.postman = Postman(self.store, channels.for_subscribers(subscribers(config), config.directory), clock)
        self._tls: ssl.SSLContext | None = None
        self._stamps = stamps(config.watched())
        self._seen = self._stamps
        self._files_at = 0.0
        self._prune_at = passed() + PRUNE_SECONDS / 12
        self._stop, self._reload = threading.Event(), threading.Event()
        self._notify = sdnotify.SystemdNotifier()

    def run(self) -> None:
        """Serve until a signal comes."""
        certificate, key = self.config.tls() or (None, None)
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        listener = self._listen()
        settings = uvicorn.Config(
            self.app,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            http=Bounded,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        settings.load()
        self._tls = settings.ssl
        server = _Server(settings, self._ready)
        looking = threading.Thread(target=self._look, name="watch", daemon=True)
        looking.start()
        self.postman.start()
        try:
            server.run(sockets=[listener])
        finally:
            self._stop.set()
            looking.join(timeout=10)
            self.postman.stop()
            self.close()
        log.info("the central office has stopped in order")

    def _listen(self) -> Listener:
        """The address that sites and people reach. Raises ConfigError where it cannot be had."""
        central = self.config.central
        refusal = b"" if central.certificate else bare_answer(HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return Listener(central.host, central.port, shares.CENTRE, known=self._known, refusal=refusal)
        except OSError as error:
            raise ConfigError([f"{central.host} port {central.port} cannot be listened on: {error.strerror}"]) from None

    def close(self) -> None:
        """Let go of the database and of systemd's socket."""
        self.store.close()
        if self._notify.socket is not None:
            self._notify.socket.close()

    def _ready(self) -> None:
        self._notify.notify("READY=1")
        central = self.config.central
        log.info(
            "edge %s: the central office of %d sites on port %d", __version__, len(self.config.sites), central.port
        )

        if link := self.setup.link(self._base()):
            log.warning("nobody has an account yet; make the first one within the hour at %s", link)

    def _base(self) -> str:
        """How a browser on this machine, or by the first name, reaches us."""
        central = self.config.central
        name = central.names[0] if central.names else "localhost"
        return f"{'https' if central.certificate else 'http'}://{name}:{central.port}"

    def _look(self) -> None:
        """Look at what did not come, until told to stop. The watchdog is fed while heartbeats get through as well."""
        while not self._stop.wait(LOOK_SECONDS):
            self.turn()

    def turn(self) -> None:
        """One second's work: new files, what did not come, the sign of life."""
        if self._reload.is_set():
            self._reload.clear()
            self.reload()
        if (now := time.monotonic()) >= self._files_at:
            self._files_at = now + FILES_SECONDS
            self.refresh()
        self.look()
        if not self.reception.is_stalled:
            self._notify.notify("WATCHDOG=1")

    def look(self) -> None:
        """Once: who is silent, what is escalated, whom to tell, what is old. What fails keeps nothing else waiting."""
        now = self._time.look()
        if self._time.must_correct():
            self._try(lambda conn: correct_times(conn, now))
        for work in (
            lambda conn: watch.look_for_silence(conn, self.config, self._time.started, now),
            lambda conn: self._escalate(conn, now),
            lambda conn: notifications.announce(conn, self.config, now),
            lambda conn: (
                notifications.digest_is_due(conn, self.config, now)
                and notifications.send_digest(conn, self.config, now)
            ),
        ):
            self._try(work)
        if self._passed() >= self._prune_at and not self._time.is_doubtful:
            self._prune_at = self._passed() + PRUNE_SECONDS
            self._try(lambda _conn: prune.everything(self.store, now, self._stop.is_set), writes=False)

    def _escalate(self, conn: Connection, now: float) -> None:
        if not self._time.is_doubtful:
            notifications.escalate(conn, self.config, now)

    def _try(self, work: Callable[[Connection], object], writes: bool = True) -> None:
        """In a transaction of its own. A fault of ours is logged by its place, and tried again at the next look."""
        try:
            with self.store.writing() if writes else self.store.reading() as conn:
                work(conn)
        except StoreError as error:
            log.error("the watch: %s", error)
        except Exception as error:  # noqa: BLE001 - one row must not end what watches over all sites
            log.error("the watch: %s", place_of(error))

    # -- what changes while it runs -----------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration again, and use what can be used without a restart."""
        try:
            new = configuration.load(self.config.directory)
            self.reception.use(new.read_keys())
            self._use_certificate(new)
        except (ConfigError, OSError) as error:
            log.error("the new configuration has mistakes, the one before it stays in force: %s", error)
            return
        if _bound(new) != _bound(self.config):
            log.warning("[central] and the channels have changed: that wants a restart")
        self.config = new
        self._stamps = self._seen = stamps(new.watched())
        log.info("the configuration has been read again: %d sites", len(new.sites))

    def refresh(self) -> None:
        """Use keys and a certificate whose files have changed, once they rest since the last look."""
        before, self._seen = self._seen, stamps(self.config.watched())
        if self._seen in (self._stamps, None) or self._seen != before:
            return
        self._stamps = self._seen
        try:
            self.reception.use(self.config.read_keys())
            self._use_certificate(self.config)
        except (ConfigError, OSError) as error:
            log.error("new keys or certificates cannot be used, those before stay in force: %s", error)
        else:
            log.info("keys and certificates have changed and have been read again")

    def _use_certificate(self, config: Config) -> None:
        """For connections that begin from now on. Raises ConfigError."""
        config.check_files()
        if self._tls is not None and (pair := config.tls()):
            self._tls.load_cert_chain(*pair)


def stamps(paths: Iterable[Path]) -> tuple[tuple[int, int, int], ...] | None:
    """What changes when one of the files does; None while one is away."""
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)


def _bound(config: Config) -> tuple[object, ...]:
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
            self._ready()
