"""Who carries things out of the house: for each destination a forwarder and a confirmer, for each channel of the outbox
a courier, and the heart. They come, change and go with the configuration."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edge import tls
from edge.config.channels import channels_for
from edge.config.sections import Config, Destination
from edge.daemon.start import keyring
from edge.errors import ConfigError, Hindered, ReportRefused, StorageUnhealthy
from edge.messaging import Courier
from edge.messaging import channels as notified
from edge.messaging.heartbeat import HeartbeatPublisher
from edge.monitor import engine, heartbeat
from edge.monitor.snapshot_model import Alert
from edge.outbound import Forwarder
from edge.outbound.confirm import Confirmer, accept_status
from edge.outbound.job import Health
from edge.roster import Roster, Wish
from edge.scp.admission import Caller as ReportCaller
from edge.scp.admission import Resolver, reporter_fault
from edge.spool import Spool
from edge.store import commitments
from edge.store.database import Database
from edge.store.outbox import Message
from edge.tls import Caller, TlsError
from edge.transform import Transcoder

log = logging.getLogger(__name__)

#: So long senders may go on at the end; with the door's own time below TimeoutStopSec of the unit.
SENDERS_SECONDS = 20.0


class _Station:
    """What serves one destination: a forwarder, and a confirmer where the destination proves."""

    def __init__(self, forwarder: Forwarder, confirmer: Confirmer | None, begin: Callable[[], object]) -> None:
        self.forwarder, self.confirmer, self._begin = forwarder, confirmer, begin

    def start(self) -> None:
        self._begin()
        if self.confirmer is not None:
            self.confirmer.start()
        self.forwarder.start()

    def stop(self) -> None:
        """What is under way may end, within SENDERS_SECONDS."""
        stops: list[Callable[[], None]] = [partial(self.forwarder.stop, SENDERS_SECONDS)]
        if self.confirmer is not None:
            stops.append(self.confirmer.stop)
        _side_by_side(stops)


class _Channels:
    """The couriers of all channels, and what posts heartbeats."""

    def __init__(self, couriers: Mapping[str, Courier], heart: HeartbeatPublisher | None) -> None:
        self.couriers, self.heart = couriers, heart

    def start(self) -> None:
        for courier in self.couriers.values():
            courier.start()
        if self.heart is not None:
            self.heart.start()

    def stop_heart(self) -> None:
        """A last heartbeat: the centre learns that this end is on purpose."""
        if self.heart is not None:
            self.heart.stop()
            self.heart = None

    def stop(self) -> None:
        """Side by side: each may have a delivery under way."""
        self.stop_heart()
        _side_by_side([courier.stop for courier in self.couriers.values()])


class Links:
    """See the module's docstring. The gateway's thread joins and stops; any thread may wake."""

    def __init__(
        self, db: Database, spool: Spool, directory: Path, config: Config, status: Callable[[], dict[str, Any]]
    ) -> None:
        """`directory`: where the configuration lies, and its secrets. Raises ConfigError for bad certificates."""
        self._db, self._spool, self._directory, self._status = db, spool, directory, status
        self.tls = keyring(config)
        self._addresses_of = Resolver()
        self.transcoder = Transcoder()
        self._stations: Roster[_Station] = Roster()
        self._callers: dict[str, Caller] = {}
        self._channels: Roster[_Channels] = Roster()

    def stop(self) -> None:
        """What is under way may end, then it is cut off."""
        self._stations.close()
        self._channels.close()
        self.transcoder.close()

    # -- destinations -------------------------------------------------------------------------------------------------

    def join_destinations(self, new: Config) -> None:
        """Have a station for each destination, with its configuration of now. Waits for no destination."""
        title = new.listen.ae_title
        for name in self._callers.keys() - new.destinations.keys():
            self._callers.pop(name, None)
        self._stations.want(
            {
                name: Wish((destination, title), partial(self._station, destination, title))
                for name, destination in new.destinations.items()
            }
        )

    def _station(self, destination: Destination, calling_ae: str) -> _Station:
        secure, name = self._secure(destination), destination.name
        forwarder = Forwarder(
            self._db,
            self._spool,
            self.transcoder,
            destination,
            calling_ae,
            on_sent=lambda: self._prove(name),
            secure=secure,
        )
        if destination.confirm == "status":
            return _Station(forwarder, None, lambda: accept_status(self._db, name, time.time()))
        confirmer = Confirmer(self._db, destination, calling_ae, denied=forwarder.wake, secure=secure)
        return _Station(forwarder, confirmer, lambda: None)

    def wake(self, destinations: Iterable[str]) -> None:
        """New or due work: tell those who send it."""
        for name in destinations:
            station = self._stations.get(name)
            if station is not None:
                station.forwarder.wake()

    def wake_all(self) -> None:
        """Work may have come for any destination."""
        self.wake(self._stations.all())

    def _prove(self, name: str) -> None:
        """Instances have been sent: their proof may be asked for."""
        confirmer = self._confirmer(name)
        if confirmer is not None:
            confirmer.wake()

    def _confirmer(self, name: str) -> Confirmer | None:
        station = self._stations.get(name)
        return station.confirmer if station else None

    def report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: ReportCaller
    ) -> bool:
        """An archive has called us with a storage commitment report. False: the transaction is not ours.

        Raises ReportRefused where the caller is not the archive that was asked in that transaction.
        """
        with self._db.reading() as conn:
            asked = commitments.asked_for(conn, transaction_uid)
        confirmer = self._confirmer(asked[0]) if asked else None
        if confirmer is None:
            return False
        if why := reporter_fault(confirmer.destination, caller, self._addresses_of):
            raise ReportRefused(f"a report of storage commitment is not accepted: {why}")
        return confirmer.report(transaction_uid, committed, failed)

    def describe(self) -> dict[str, Health]:
        """How it stands with each destination."""
        return {name: station.forwarder.describe() for name, station in self._stations.all().items()}

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

    def join_channels(self, new: Config) -> None:
        """A courier for each channel of the outbox, and the heart where there are heartbeats. Waits for no channel."""
        self._channels.want({"channels": Wish(_channels_of(new), partial(self._make_channels, new))})

    def _make_channels(self, config: Config) -> _Channels:
        found = notified.build(config, self._directory, self._note_answer).items()
        couriers = {name: Courier(self._db, name, channel) for name, channel in found}
        every = config.heartbeat.every
        heart = HeartbeatPublisher(self._db, self._status, every, self.wake_couriers) if config.heartbeat.url else None
        return _Channels(couriers, heart)

    def _note_answer(self, answer: bytes) -> None:
        """The centre acknowledges the ledger: the next heartbeats show what it says there."""
        try:
            self._db.write(lambda conn: heartbeat.note_answer(conn, answer))
        except (Hindered, StorageUnhealthy) as error:
            log.error("what the centre acknowledged cannot be noted: %s", error)

    def stop_heart(self) -> None:
        for channels in self._channels.all().values():
            channels.stop_heart()

    @property
    def _couriers(self) -> Mapping[str, Courier]:
        channels = self._channels.get("channels")
        return channels.couriers if channels else {}

    def wake_couriers(self) -> None:
        """Something was posted to the outbox."""
        for courier in self._couriers.values():
            courier.wake()

    def tell(self) -> None:
        """Notices were posted: they leave at once, and the heartbeat that takes them along."""
        self.wake_couriers()
        channels = self._channels.get("channels")
        if channels is not None and (heart := channels.heart) is not None:
            heart.wake()

    def cry(self, alerts: Iterable[Alert], config: Config) -> None:
        """The storage has failed, so no notice of it can be stored: it is told from memory."""
        now = time.time()
        for alert in alerts:
            if alert.kind == "storage-unhealthy":
                told = engine.body(0, engine.OPENED, engine.notice_new(alert, now), now, config.site, None)
                for name in channels_for(config, alert.kind, alert.severity, engine.OPENED):
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
