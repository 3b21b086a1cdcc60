"""A courier for each channel of the outbox, and the heartbeat's thread. They change with the configuration."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edge.config.channels import channels_for
from edge.config.sections import Config
from edge.errors import Hindered, StorageUnhealthy
from edge.messaging import Courier, channels
from edge.messaging.heartbeat import HeartbeatPublisher
from edge.monitor import engine, heartbeat
from edge.monitor.escalation import OPENED
from edge.monitor.snapshot_model import Alert
from edge.store.database import Store
from edge.store.outbox import Message
from edge.worker.roster import Roster, Wish, run_side_by_side

log = logging.getLogger(__name__)


class _Channels:
    """The couriers of all channels, and what posts heartbeats to one."""

    def __init__(self, couriers: Mapping[str, Courier], publisher: HeartbeatPublisher | None) -> None:
        self.couriers, self.publisher = couriers, publisher

    def start(self) -> None:
        for courier in self.couriers.values():
            courier.start()
        if self.publisher is not None:
            self.publisher.worker.start()

    def stop_heartbeat(self) -> None:
        """A last heartbeat: the centre learns that this end is on purpose."""
        if self.publisher is not None:
            self.publisher.worker.stop(None)
            self.publisher = None

    def stop(self) -> None:
        """Side by side: each may have a delivery under way."""
        self.stop_heartbeat()
        run_side_by_side([courier.stop for courier in self.couriers.values()])


class Notifications:
    """See the module's docstring. The gateway's thread joins and stops; any thread may wake."""

    def __init__(self, db: Store, directory: Path, status: Callable[[], dict[str, Any]]) -> None:
        """`directory`: where the configuration is, and its secrets."""
        self._db, self._directory, self._status = db, directory, status
        self.channels: Roster[_Channels] = Roster()
        self.emergency_sent = False

    def stop(self) -> None:
        """What is under way may end, then it is cut off."""
        self.channels.close()

    def join_channels(self, new: Config) -> None:
        """A courier for each channel of the outbox, and heartbeats where they are configured. Waits for no channel."""
        self.channels.want({"channels": Wish(_channels_of(new), partial(self._make_channels, new))})

    def _make_channels(self, config: Config) -> _Channels:
        made = channels.build_channels(config, self._directory, self._note_answer)
        couriers = {name: Courier(self._db, name, channel) for name, channel in made.items()}
        every = config.heartbeat.every
        if not config.heartbeat.url:
            return _Channels(couriers, None)
        return _Channels(couriers, HeartbeatPublisher(self._db, self._status, every, self.wake_couriers))

    def _note_answer(self, answer: bytes) -> None:
        """The centre acknowledges the ledger: the next heartbeats show what it says there."""
        try:
            self._db.write(lambda conn: heartbeat.note_answer(conn, answer))
        except (Hindered, StorageUnhealthy) as error:
            log.error("what the centre acknowledged cannot be noted: %s", error)

    def stop_heartbeat(self) -> None:
        if (running := self._running) is not None:
            running.stop_heartbeat()

    @property
    def _running(self) -> _Channels | None:
        return self.channels.get("channels")

    @property
    def _couriers(self) -> Mapping[str, Courier]:
        running = self._running
        return running.couriers if running else {}

    def wake_couriers(self) -> None:
        """Wake couriers: something was posted to the outbox."""
        for courier in self._couriers.values():
            courier.wake()

    def send_notices(self) -> None:
        """Notices were posted: they leave at once, and so does a heartbeat that carries them."""
        self.wake_couriers()
        if (running := self._running) is not None and (publisher := running.publisher) is not None:
            publisher.worker.wake()

    def send_emergency_notice(self, alerts: Iterable[Alert], config: Config) -> None:
        """Send from memory the notice that storage has failed: it cannot be stored."""
        self.emergency_sent, now = True, time.time()
        for alert in alerts:
            if alert.kind == "storage-unhealthy":
                notice = engine.body(0, OPENED, engine.notice_new(alert, now), now, config.site, None)
                for name in channels_for(config, alert.kind, alert.severity, OPENED):
                    if name in self._couriers:
                        self._couriers[name].tell(Message(0, name, "notice", now, json.dumps(notice), 0))


def _channels_of(found: Config) -> tuple[Any, ...]:
    """What couriers and heartbeats are made of."""
    return found.site.id, found.emails, found.webhooks, found.syslogs, found.heartbeat
