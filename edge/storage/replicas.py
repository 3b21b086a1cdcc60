"""A destination with `keep_last` gets a replica of what came in that time, also before it was configured.

What comes later is routed there as it arrives (edge.intake.routing). The walk goes once through what is stored, from
the oldest on; its place is in the catalog. A replica that is still owed when its time is over is released, so that a
second site that is away for long does not fill this disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from edge.config.sections import Config
from edge.store import replicas
from edge.store.database import Store, Transaction
from edge.store.replicas import MissingReplica

#: Instances that are checked in one transaction.
REPLICA_BATCH = 500


class SiteReplicas:
    """The walk, for every destination with `keep_last`."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        queued: Callable[[set[str]], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
        doubts_clock: Callable[[], bool] = lambda: False,
    ) -> None:
        """`queued` gets the destinations with new work; `doubts_clock`: may the clock be ahead?"""
        self._db, self._config, self._queued, self._clock = db, config, queued, clock
        self._doubts_clock = doubts_clock

    def step(self) -> None:
        """Queue what is missing; a batch for each destination."""
        now = self._clock()
        for each in self._config().destinations.values():
            if each.keep_last is not None:
                since = now - each.keep_last
                with self._db.reading() as conn:
                    found, place = replicas.find_missing(conn, each.name, since, REPLICA_BATCH)
                    is_new = place != replicas.read_replica_place(conn, each.name)
                if is_new:
                    self._db.write(partial(_enqueue, each.name, found, place, now))
                if found:
                    self._queued({each.name})
                self._release(each.name, each.keep_last, now)

    def _release(self, name: str, keep_last: float, now: float) -> None:
        """What the destination has not got in its time is owed to it no longer, once others have proved it."""
        if self._doubts_clock():
            return
        with self._db.reading() as conn:
            outdated = replicas.find_lapsed(conn, name, now - keep_last, REPLICA_BATCH)
        if outdated:
            self._db.write(lambda conn: replicas.release_lapsed(conn, name, outdated, keep_last, now))


def _enqueue(name: str, found: Sequence[MissingReplica], place: int, now: float, conn: Transaction) -> None:
    replicas.enqueue_replicas(conn, name, found, place, now)
