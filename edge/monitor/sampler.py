"""What is measured now and then, beside the path: samples of the history, the machine, rhythms, who the equipment is.

`read` is called by the watch's thread after each look; what it found is there for every snapshot after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edge.config.alarms import OUTSIDERS, alarms
from edge.config.sections import Config
from edge.model import Disk
from edge.monitor import equipment, equipment_identity, host, samples
from edge.monitor.snapshot_model import Machine, Snapshot, Usual
from edge.shares import ALERTS_OF_OUTSIDERS
from edge.store import alert_records
from edge.store.database import Connection, Database

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
#: The forecast looks at a week, and at the hour before it.
USAGE_SECONDS = 7 * DAY + 2 * HOUR
SAMPLE_SECONDS, MEET_SECONDS, RHYTHM_SECONDS, SMART_SECONDS, THIN_SECONDS = MINUTE, MINUTE, 5 * MINUTE, HOUR, HOUR


class Gauges:
    """See the module's docstring."""

    def __init__(
        self,
        db: Database,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        path_of: Callable[[str], Path],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`path_of` finds a file of the spool."""
        self._db, self._config, self._disk, self._path_of, self._clock = db, config, disk, path_of, clock
        self._due_at: dict[str, float] = {}
        self._smart: tuple[str, ...] = ()
        self.machine = Machine()
        self.rhythms: Mapping[str, Usual] = {}
        now = clock()
        with db.reading() as conn:
            self.usage = samples.series(conn, "disk.used", now - USAGE_SECONDS)

    def read(self, seen: Snapshot) -> None:
        """Whatever is due."""
        now, data_dir = self._clock(), self._config().site.data_dir
        if self._due("smart", SMART_SECONDS):
            self._smart = tuple(host.smart_faults(data_dir))
        if self._due("sample", SAMPLE_SECONDS):
            self.machine = Machine(host.clock(), (*host.disk_faults(data_dir), *self._smart))
            self._sample(seen, now)
        if self._due("meet", MEET_SECONDS):
            self._meet(now)
        if self._due("rhythm", RHYTHM_SECONDS):
            self._listen(now)
        if self._due("thin", THIN_SECONDS):
            self._db.write(lambda conn: self._thin(conn, now))

    @staticmethod
    def _thin(conn: Connection, now: float) -> None:
        samples.thin(conn, now)
        alert_records.forget_ended(conn, OUTSIDERS, ALERTS_OF_OUTSIDERS)

    def _sample(self, seen: Snapshot, now: float) -> None:
        used = self._disk().used_bytes
        with self._db.reading() as conn:
            found = samples.values(seen, used, *samples.totals(conn))
        self._db.write(lambda conn: samples.record(conn, now, found))
        kept = [each for each in self.usage if now - USAGE_SECONDS <= each[0] <= now]
        self.usage = [*kept, (now, float(used))]

    def _listen(self, now: float) -> None:
        """When the equipment usually sends, and who is missed."""
        config = self._config()
        margin = alarms(config.alerts)["modality-silent"].threshold
        with self._db.reading() as conn:
            self.rhythms = equipment.rhythms(conn, config, margin, now)

    def _meet(self, now: float) -> None:
        """Who the equipment is."""
        with self._db.reading() as conn:
            met = equipment_identity.describe(conn, self._path_of, now)

        def work(conn: Connection) -> None:
            equipment_identity.remember(conn, met, now)

        if met:
            self._db.write(work)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._due_at.get(what, 0.0):
            return False
        self._due_at[what] = now + every
        return True
