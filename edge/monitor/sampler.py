"""Measurements at intervals: samples of the history, the machine, usual hours, the equipment.

The gateway's housekeeping calls each method at its interval; later snapshots have what it found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edge.config.alarms import OUTSIDERS, alarms
from edge.config.sections import Config
from edge.model import Disk
from edge.monitor import equipment, figures, host
from edge.monitor.live import Machine, Usual
from edge.monitor.snapshot_model import Snapshot
from edge.network.answer_times import AnswerTally
from edge.network.shares import ALERTS_OF_OUTSIDERS
from edge.store import alert_records, samples, tallies
from edge.store import figures as stored_figures
from edge.store.database import Store, Transaction
from edge.store.samples import DAY, HOUR

#: The forecast needs a week, and the hour before it.
USAGE_SECONDS = 7 * DAY + 2 * HOUR
#: What is counted since the start of the gateway, by the beginning of its names.
_COUNTED = ("received.answer", "sent.answer")
#: Of each run, for what follows what has come: scanners wait for no more of it.
CATCH_UP_SECONDS = 0.25


def values_of(seen: Snapshot, used_bytes: int, received_bytes: int, sent_bytes: Mapping[str, int]) -> dict[str, float]:
    """The samples of one moment."""
    found: dict[str, float] = {"disk.used": used_bytes, "received.bytes": received_bytes}
    for each in seen.destinations:
        if each.configured:
            found[f"backlog/{each.name}"] = each.waiting
            found[f"backlog.bytes/{each.name}"] = each.bytes
            found[f"sent.bytes/{each.name}"] = sent_bytes.get(each.name, 0)
            if each.rate:
                found[f"rate/{each.name}"] = each.rate
            if each.answers is not None:
                found |= _answer_values("sent", each.name, each.answers)
    for name, tally in seen.live.answers.items():
        found |= _answer_values("received", name, tally)
    return found


def _answer_values(prefix: str, name: str, tally: AnswerTally) -> dict[str, float]:
    return {
        f"{prefix}.answers/{name}": tally.count,
        f"{prefix}.answer.seconds/{name}": tally.seconds,
        f"{prefix}.answer.bytes/{name}": tally.bytes,
    }


class Gauges:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        snapshot: Callable[[], Snapshot],
    ) -> None:
        self._db, self._config, self._disk, self._snapshot = db, config, disk, snapshot
        self._smart: tuple[str, ...] = ()
        self.machine = Machine()
        self.rhythms: Mapping[str, Usual] = {}
        self._begun, self._counted = time.time(), set[str]()  # counts that were sampled since
        with db.reading() as conn:
            self.usage = samples.series(conn, "disk.used", self._begun - USAGE_SECONDS)

    def is_clock_synchronized(self) -> bool | None:
        """Does a time server set the clock? None: unknown."""
        return self.machine.clock.synchronized

    def read_disk_health(self) -> None:
        self._smart = tuple(host.smart_faults(self._config().site.data_dir))

    def thin(self) -> None:
        """Delete old samples, and ended alerts that outsiders caused."""

        def work(conn: Transaction) -> None:
            samples.thin(conn, time.time())
            stored_figures.forget_old_figures(conn, time.time() - figures.FIGURES_KEPT_SECONDS)
            alert_records.forget_ended(conn, OUTSIDERS, ALERTS_OF_OUTSIDERS)

        self._db.write(work)

    def sample(self) -> None:
        """Record the figures of this minute, and read the machine's state."""
        now, seen, used = time.time(), self._snapshot(), self._disk().used_bytes
        self.machine = Machine(host.read_clock(), (*host.disk_faults(self._config().site.data_dir), *self._smart))
        with self._db.reading() as conn:
            found = values_of(seen, used, *tallies.bytes_so_far(conn))
        new = {name for name in found if name.startswith(_COUNTED)} - self._counted

        def work(conn: Transaction) -> None:
            samples.add_sample(conn, self._begun, dict.fromkeys(new, 0.0))  # so that all of the first one is growth
            samples.add_sample(conn, now, found)

        self._db.write(work)
        self._counted |= new
        kept = [each for each in self.usage if now - USAGE_SECONDS <= each[0] <= now]
        self.usage = [*kept, (now, float(used))]

    def learn_usual_hours(self) -> None:
        """Learn when the equipment usually sends, and which is late."""
        config, now = self._config(), time.time()
        margin = alarms(config.alerts)["modality-silent"].threshold
        with self._db.reading() as conn:
            self.rhythms = equipment.rhythms(conn, config, margin, now)

    def count_figures(self) -> None:
        """Count what has come, and measure what was proved."""
        config, now = self._config(), time.time()
        dose_after = alarms(config.alerts)["dose-report-missing"].threshold
        self._for_a_while(lambda conn: figures.count_arrivals(conn, config.quality))
        self._db.write(lambda conn: figures.measure_studies(conn, config, now, dose_after))

    def identify_equipment(self) -> None:
        """Record the identity of each new sender, and of equipment that has come in its place."""
        self._for_a_while(equipment.identify)

    def _for_a_while(self, work: Callable[[Transaction], bool]) -> None:
        """Transactions until one leaves nothing: years that wait for it, after an upgrade, are done a part a minute."""
        until = time.monotonic() + CATCH_UP_SECONDS
        while self._db.write(work) and time.monotonic() < until:
            pass
