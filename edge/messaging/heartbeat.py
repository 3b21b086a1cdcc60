"""One thread posts a heartbeat at each interval, and soon when there is something new.

The documents wait in the outbox for their courier. Where the status cannot be read or recorded there is no heartbeat:
the centre sees silence, as it should.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edge.monitor import heartbeat
from edge.store.database import Store
from edge.worker import DONE, ThreadSpec, Worker

#: At least this time passes between two heartbeats.
SHORTEST_SECONDS = 5.0
HEARTBEAT_THREAD = ThreadSpec(
    "heartbeat", __name__, "outbox", "after a last heartbeat, which says that the end is on purpose"
)


class HeartbeatPublisher:
    """Posts until `stop`, and then once more: the gateway ends on purpose."""

    def __init__(
        self,
        db: Store,
        status: Callable[[], Mapping[str, Any]],
        every: float,
        posted: Callable[[], None],
    ) -> None:
        """`status`: edge.monitor.status_document; `posted` is called when a document waits for its courier."""
        self._db, self._status, self._every, self._posted = db, status, every, posted
        self._boot = str(uuid.uuid4())
        shortest = min(SHORTEST_SECONDS, every)
        self.worker = Worker(
            HEARTBEAT_THREAD,
            self._step,
            breath_seconds=shortest,
            longest_pause_seconds=max(every, shortest),
            drains=True,
        )

    def _step(self) -> float:
        is_last = self.worker.is_stopping
        self.publish()
        return DONE if is_last else self._every

    def publish(self) -> None:
        """Post one heartbeat now."""
        status = self._status()
        self._db.write(lambda conn: heartbeat.post_heartbeat(conn, status, self._boot, time.time(), self._every))
        self._posted()
