"""Who carries things out of the house: for each destination a forwarder and a confirmer, for each channel of the outbox
a courier, and the heart. They come, change and go with the configuration."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edge import proofs, tls
from edge.config.channels import channels_for
from edge.config.sections import Config, Destination
from edge.confirm import Confirmer, accept_status
from edge.daemon.start import keyring
from edge.db import Database
from edge.errors import ConfigError
from edge.forward import Forwarder
from edge.forward.job import Health
from edge.notify import Courier
from edge.notify import channels as notified
from edge.notify.heart import Heart
from edge.ops import watch
from edge.ops.facts import Alert
from edge.outbox import Message
from edge.spool import Spool
from edge.tls import Caller, TlsError
from edge.transform import Transcoder

#: So long senders may go on at the end; with the door's own time below TimeoutStopSec of the unit.
SENDERS_SECONDS = 20.0


class Links:
    """See the module's docstring. The gateway's thread joins and stops; any thread may wake."""

    def __init__(
        self, db: Database, spool: Spool, directory: Path, config: Config, status: Callable[[], dict[str, Any]]
    ) -> None:
        """`directory`: where the configuration lies, and its secrets. Raises ConfigError for bad certificates."""
        self._db, self._spool, self._directory, self._status = db, spool, directory, status
        self.tls = keyring(config)
        self.transcoder = Transcoder()
        self.forwarders: dict[str, Forwarder] = {}
        self._confirmers: dict[str, Confirmer] = {}
        self._callers: dict[str, Caller] = {}
        self._couriers: dict[str, Courier] = {}
        self._heart: Heart | None = None

    def stop(self) -> None:
        """What is under way may end, then it is cut off."""
        self._stop_stations(list(self.forwarders))
        self._stop_channels()
        self.transcoder.close()

    # -- destinations -------------------------------------------------------------------------------------------------

    def join_destinations(self, new: Config) -> None:
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
            self._db,
            self._spool,
            self.transcoder,
            destination,
            calling_ae,
            on_sent=lambda: self._prove(destination.name),
            secure=secure,
        )
        self.forwarders[destination.name] = forwarder
        if destination.confirm == "status":
            accept_status(self._db, destination.name, time.time())
        else:
            confirmer = Confirmer(self._db, destination, calling_ae, denied=forwarder.wake, secure=secure)
            self._confirmers[destination.name] = confirmer
            confirmer.start()
        forwarder.start()

    def _stop_stations(self, names: Sequence[str]) -> None:
        """Side by side, for each may have something under way: so it takes less than the watchdog allows."""
        stops: list[Callable[[], None]] = [
            self._confirmers.pop(name).stop for name in names if name in self._confirmers
        ]
        stops += [partial(self.forwarders.pop(name).stop, SENDERS_SECONDS) for name in names]
        _side_by_side(stops)

    def wake(self, destinations: Iterable[str]) -> None:
        """New or due work: tell those who send it."""
        for name in destinations:
            forwarder = self.forwarders.get(name)
            if forwarder is not None:
                forwarder.wake()

    def _prove(self, name: str) -> None:
        """Instances have been sent: their proof may be asked for."""
        confirmer = self._confirmers.get(name)
        if confirmer is not None:
            confirmer.wake()

    def report(self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int]) -> bool:
        """An archive has called us with a storage commitment report."""
        with self._db.reading() as conn:
            asked = proofs.asked_for(conn, transaction_uid)
        confirmer = self._confirmers.get(asked[0]) if asked else None
        return confirmer is not None and confirmer.report(transaction_uid, committed, failed)

    def describe(self) -> dict[str, Health]:
        """How it stands with each destination."""
        return {name: forwarder.describe() for name, forwarder in list(self.forwarders.items())}

    @property
    def busy(self) -> bool:
        """Is anything being sent?"""
        return any(told.associations for told in self.describe().values())

    # -- certificates -------------------------------------------------------------------------------------------------

    def use_certificates(self, new: Config) -> None:
        """Read the certificates again. Raises ConfigError; then those before stay in force."""
        if self.tls is None or not new.tls.is_on:
            self.tls = keyring(new)  # the port wants a restart, calling out does not
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

    def certificates(self) -> dict[str, float]:
        """When each certificate ends that a connection needs: by destination, "listen" for our own."""
        found = {name: caller.expires for name, caller in self._callers.items()}
        found["listen"] = self.tls.expires if self.tls else None
        return {name: expires for name, expires in found.items() if expires is not None}

    # -- channels -----------------------------------------------------------------------------------------------------

    def join_channels(self, new: Config, before: Config | None = None) -> None:
        """A courier for each channel of the outbox, and the heart where there are heartbeats."""
        if before is not None:
            if _channels_of(before) == _channels_of(new):
                return
            self._stop_channels()
        self._couriers = {
            name: Courier(self._db, name, channel) for name, channel in notified.build(new, self._directory).items()
        }
        for courier in self._couriers.values():
            courier.start()
        if new.heartbeat.url:
            self._heart = Heart(self._db, self._status, new.heartbeat.every, self.wake_couriers)
            self._heart.start()

    def _stop_channels(self) -> None:
        """Side by side: each may have a delivery under way."""
        self.stop_heart()
        _side_by_side([courier.stop for courier in self._couriers.values()])
        self._couriers = {}

    def stop_heart(self) -> None:
        """A last heartbeat: the centre is told that this end is on purpose."""
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def wake_couriers(self) -> None:
        """Something was posted to the outbox."""
        for courier in list(self._couriers.values()):
            courier.wake()

    def tell(self) -> None:
        """Notices were posted: they leave at once, and the heartbeat that takes them along."""
        self.wake_couriers()
        if (heart := self._heart) is not None:
            heart.wake()

    def cry(self, alerts: Iterable[Alert], config: Config) -> None:
        """The storage has failed, so no notice of it can be stored: it is told from memory."""
        now = time.time()
        for alert in alerts:
            if alert.kind == "storage-unhealthy":
                told = watch.body(0, watch.OPENED, watch.notice_new(alert, now), now, config.site, None)
                for name in channels_for(config, alert.kind, alert.severity, watch.OPENED):
                    if name in self._couriers:
                        self._couriers[name].tell(Message(0, name, "notice", now, json.dumps(told), 0))


def _side_by_side(work: Iterable[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    started = []
    for thread in threads:
        try:
            thread.start()
            started.append(thread)
        except RuntimeError:  # the system gives no more threads
            thread.run()
    for thread in started:
        thread.join()


def _channels_of(found: Config) -> tuple[Any, ...]:
    """What couriers and heart are made of."""
    return found.site.id, found.emails, found.webhooks, found.syslogs, found.heartbeat
