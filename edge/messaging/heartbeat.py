"""The heart: one thread that posts a heartbeat every so often, and at once when there is something new to tell.

The documents wait in the outbox for their courier. Where the status cannot be read or written down there is no beat:
at the centre that is silence, which is what it should be.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edge.errors import EdgeError, place_of
from edge.monitor import heartbeat
from edge.store.database import Database

log = logging.getLogger(__name__)

#: However much there is to tell: so many seconds between two beats.
SHORTEST_SECONDS = 5.0


class HeartbeatPublisher:
    """Beats until `stop`, which tells the centre that the gateway ends on purpose."""

    def __init__(
        self,
        db: Database,
        status: Callable[[], Mapping[str, Any]],
        every: float,
        posted: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`status` is that of edge.monitor.health.as_json; `posted` is called when a document waits for its courier."""
        self._db, self._status, self._every, self._posted, self._now = db, status, every, posted, now
        self._boot = str(uuid.uuid4())
        self._news, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A notice was posted: it need not wait for the minute."""
        self._news.set()

    def stop(self) -> None:
        """With a last beat, in whatever state the gateway is now."""
        self._ending.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            self.beat()
            self._ending.wait(min(SHORTEST_SECONDS, self._every))
            self._news.wait(max(0.0, self._every - SHORTEST_SECONDS))
            self._news.clear()
        self.beat()

    def beat(self) -> None:
        """Post one heartbeat now."""
        try:
            status = self._status()
            self._db.write(lambda conn: heartbeat.beat(conn, status, self._boot, self._now(), self._every))
        except (EdgeError, OSError, sqlite3.Error) as error:
            log.error("no heartbeat: %s", error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the heart
            log.error("no heartbeat: %s", place_of(error))
        else:
            self._posted()
