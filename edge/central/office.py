"""The central office as a service: its parts built and joined, and its life from start to stop.

Raises OfficeError where it cannot start. SIGTERM and SIGINT end it in order: heartbeats under way are answered first.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sdnotify
import uvicorn

from edge import __version__
from edge.central import app, config, prune, tell, watch
from edge.central.accounts import StoredAccounts
from edge.central.config import Config
from edge.central.post import Postman
from edge.central.receive import Reception
from edge.central.store import Store, StoreError
from edge.config.channels import subscribers
from edge.notify import channels
from edge.web.http import KEEP_ALIVE_SECONDS, MAX_HEAD, STOP_SECONDS, Bounded
from edge.web.setup import Setup
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)

#: How often the office looks at what did not come, in seconds.
LOOK_SECONDS = 1.0
#: How often old rows go.
PRUNE_SECONDS = 3600.0


def run(directory: Path) -> int:
    """Run in the foreground until SIGTERM or SIGINT. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").addFilter(FewLines())
    office = Office(config.load(directory))
    office.run()
    return 0


class Office:
    """All parts of the service."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        """Build everything that may fail. Raises ConfigError, SecretError or StoreError."""
        self.config, self._clock, self._started = config, clock, clock()
        keys = config.read_keys()
        self.store = Store(config.database_url())
        accounts = StoredAccounts(self.store)
        self.setup = Setup(accounts)
        pages = app.build_pages(self.store, config, accounts, self.setup)
        self.app = app.build(Reception(self.store, keys, clock), pages)
        self.postman = Postman(self.store, channels.for_subscribers(subscribers(config), config.directory), clock)
        self._prune_at = self._started + PRUNE_SECONDS / 12
        self._stop = threading.Event()
        self._notify = sdnotify.SystemdNotifier()

    def run(self) -> None:
        """Serve until a signal comes."""
        central = self.config.central
        certificate, key = self.config.tls() or (None, None)
        server = _Server(
            uvicorn.Config(
                self.app,
                host=central.host,
                port=central.port,
                ssl_certfile=certificate,
                ssl_keyfile=key,
                http=_Connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEAD,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS,
            ),
            self._ready,
        )
        looking = threading.Thread(target=self._look, name="watch", daemon=True)
        looking.start()
        self.postman.start()
        try:
            server.run()
        finally:
            self._stop.set()
            looking.join(timeout=10)
            self.postman.stop()
            self.store.close()
        log.info("the central office has stopped in order")

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
        """Look at what did not come, until told to stop."""
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except StoreError as error:
                log.error("the watch: %s", error)
            self._notify.notify("WATCHDOG=1")

    def look(self) -> None:
        """Once: who is silent, what is escalated, whom to tell, what is old."""
        now = self._clock()
        with self.store.writing() as conn:
            watch.look_for_silence(conn, self.config, self._started, now)
            tell.escalate(conn, self.config, now)
            tell.announce(conn, self.config, now)
            if tell.digest_is_due(conn, self.config, now):
                tell.send_digest(conn, self.config, now)
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_SECONDS
            prune.everything(self.store, now, self._stop.is_set)


class _Connection(Bounded):
    """Many sites may come at once after an outage."""

    most = 1000


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self._ready()
