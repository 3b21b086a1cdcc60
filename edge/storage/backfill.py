"""What was here before an upgrade: its headers are read once, so that the catalog knows whose every image is.

One thread goes through the instances in the order of their arrival, a few at a time with a pause as long as the work,
so that no scanner waits for it. Its place is in the catalog: after a restart it goes on there, and once it is at the
end it never begins again (but after `edge recover`). An image that turns out to be of another patient than those before
it in its study is treated as if it came now: what is still to go is held, as [identity] says, and people are told.

Limits: what was evicted before has no header any more; such a study is found by what its row says. A file that cannot
be read is passed over and counted: the scrub reports it.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from edge.errors import EdgeError, StorageUnhealthy, Unreadable, place_of
from edge.intake import Intake, fill, mismatch_words, note_mismatch
from edge.model import InstanceHeader, ReasonCode
from edge.store import catalog, deliveries, patients
from edge.store.database import Connection, Database
from edge.store.patients import BACKFILL, Placed

log = logging.getLogger(__name__)

#: Instances of one transaction, and the shortest pause behind it.
BATCH = 50
PAUSE_SECONDS = 0.05
#: After a fault that may pass.
RETRY_SECONDS = 60.0


class Backfill:
    """The thread. See the module's promise."""

    def __init__(self, db: Database, intake: Intake, clock: Callable[[], float] = time.time) -> None:
        self._db, self._intake, self._clock = db, intake, clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backfill", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                if not self.step():
                    return
                wait = max(PAUSE_SECONDS, time.monotonic() - began)
            except StorageUnhealthy:
                return  # nothing can be written down until a restart
            except (EdgeError, OSError, sqlite3.Error) as error:
                log.error("the headers of what was here before the upgrade: %s", error)
                wait = RETRY_SECONDS
            except Exception as error:  # noqa: BLE001 - the thread must outlive a fault of ours, and say so
                log.error("the headers of what was here before the upgrade: %s", place_of(error))
                wait = RETRY_SECONDS
            self._stopping.wait(wait)

    def step(self) -> bool:
        """Read the next few headers; False when there are none left."""
        with self._db.reading() as conn:
            place = patients.backfill(conn)
            if not place or place.get("finished_at") is not None:
                return False
            rows = conn.execute(
                "SELECT id, path, study_id, state FROM instance WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                (place["read"], place["last"], BATCH),
            ).fetchall()
        read: list[tuple[sqlite3.Row, InstanceHeader]] = []
        for row in rows:
            if row["study_id"] is not None and row["state"] in ("stored", "conflict"):
                try:
                    read.append((row, self._intake.facts_of(row["path"])))
                except (Unreadable, OSError):
                    place["unreadable"] = place.get("unreadable", 0) + 1
        if rows:
            place["read"] = rows[-1]["id"]
        else:
            place |= {"read": place["last"], "finished_at": self._clock()}
        self._db.write(lambda conn: self._enter(conn, read, place))
        return True

    def _enter(self, conn: Connection, read: list[tuple[sqlite3.Row, InstanceHeader]], place: dict[str, Any]) -> None:
        for row, facts in read:
            if patients.placed(conn, row["id"]) is None:
                placed = fill(conn, row["id"], row["study_id"], facts)
                if placed.is_mismatch:
                    self._differs(conn, row["id"], placed)
        catalog.remember(conn, BACKFILL, json.dumps(place))

    def _differs(self, conn: Connection, instance: int, placed: Placed) -> None:
        """What is still to go is held; of what has gone, and what an association carries now, people are told."""
        policy, code = self._intake.policy, ReasonCode.NONE
        if policy.hold_mismatches and deliveries.hold_mismatch(
            conn, instance, mismatch_words(placed), stat=policy.hold_stat
        ):
            code = ReasonCode.MISMATCH
        note_mismatch(conn, instance, placed, code, self._clock())
