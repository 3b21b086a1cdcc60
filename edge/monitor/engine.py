"""The life of an alert: noticed, told once it has held, escalated when it stays, ended when its cause stays away.

    noticed --after--> told (opened) --term--> escalated
       |                 |  cause gone for `clear`
       v gone            v
     forgotten         ended (closed, with its duration)

`advance` decides, purely, for one alert; `Watch` is the thread that looks every few seconds, writes down what changed,
and posts each notice to every channel's outbox in the same transaction. What was open when the gateway went down is the
same alert afterwards. An event (a downtime, new equipment) is told once, when it is over, and never again.

Limits: on an unhealthy disk nothing can be written, so no notice is either; the daemon tells that one from memory.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge import __version__
from edge.config.alarms import FINAL, KINDS, OUTSIDERS, SEVERITIES, Alarm, alarms
from edge.config.channels import channels_for
from edge.config.sections import Calendar, Config, Site
from edge.errors import Hindered, StorageUnhealthy, place_of
from edge.monitor import backlog
from edge.monitor.alerts.decisions import NOT_HELD
from edge.monitor.snapshot_model import Alert, Snapshot
from edge.monitor.workdays import due
from edge.shares import HOUR_SECONDS, NOTICES_OF_OUTSIDERS
from edge.store import alert_records, ledger, outbox, patients
from edge.store.alert_records import AlertRecord
from edge.store.database import Connection, Database
from edge.text import iso, iso_or_none

log = logging.getLogger(__name__)

OPENED, ESCALATED, CLOSED = "opened", "escalated", "closed"
LOOK_SECONDS = 5.0


# -- pure --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transition:
    """What becomes of one alert. `record` None: it is forgotten. `event`: what is told, empty for nothing."""

    record: AlertRecord | None
    event: str = ""


def notice_new(alert: Alert, now: float) -> AlertRecord:
    """An alert that was not there before."""
    since = min(alert.since, now)
    return AlertRecord(None, alert.kind, alert.subject, alert.severity, since, now, alert.what, alert.means, alert.do)


def transition(record: AlertRecord, alert: Alert | None, alarm: Alarm, calendar: Calendar, now: float) -> Transition:
    """One look at one open alert; `alert` is its cause as it is now, None where it is gone."""
    if alarm.event and record.told:
        over = alert is None or alert.since != record.since or record.acknowledged_at is not None
        return Transition(replace(record, ended_at=alert.ended if alert and alert.ended else now) if over else record)
    if alert is None or not alarm.enabled:
        return _leave(record, alarm, now)
    record = replace(record, gone_at=None, severity=alert.severity, what=alert.what, means=alert.means, do=alert.do)
    if not record.told:
        held = now - min(record.since, record.seen_at) >= alarm.after
        return Transition(replace(record, told=record.severity), OPENED) if held else Transition(record)
    if SEVERITIES.index(record.severity) > SEVERITIES.index(record.told):
        return Transition(replace(record, told=record.severity), ESCALATED)
    if record.escalated_at is None and now >= escalates_at(record, alarm, calendar):
        return Transition(replace(record, escalated_at=now), ESCALATED)
    return Transition(record)


def _leave(record: AlertRecord, alarm: Alarm, now: float) -> Transition:
    gone_at = now if record.gone_at is None else min(record.gone_at, now)
    if now - gone_at < alarm.clear:
        return Transition(replace(record, gone_at=gone_at))
    if not record.told:
        return Transition(None)
    return Transition(replace(record, gone_at=gone_at, ended_at=gone_at), CLOSED)


def escalates_at(record: AlertRecord, alarm: Alarm, calendar: Calendar) -> float:
    """When it is escalated if it stays: sooner by severity, unless somebody has acknowledged it."""
    term = alarm.escalates(record.severity)
    if record.acknowledged_at is not None:
        return max(due(calendar, record.since, FINAL), due(calendar, record.since, term))
    return due(calendar, record.since, term)


def body(number: int, event: str, record: AlertRecord, at: float, site: Site, ended: float | None) -> dict[str, Any]:
    """A notice, as channels and the central office get it. No PHI."""
    return {
        "notice": number,
        "event": event,
        "alert": record.id,
        "kind": record.kind,
        "subject": record.subject,
        "severity": record.severity,
        "directive": KINDS[record.kind].directive or None,
        "since": iso(record.since),
        "at": iso(at),
        "ended": iso_or_none(ended),
        "duration_seconds": None if ended is None else round(max(0.0, ended - record.since), 1),
        "text": _sentence(record.what),
        "means": _sentence(record.means),
        "do": _sentence(record.do),
        "acknowledged": record.acknowledged_by or None,
        "site": {"id": site.id, "name": site.name},
        "version": __version__,
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


#: What the last notice of alerts that outsiders cause says in an hour.
LAST_OF_HOUR = "this is the last notice of its kind for an hour, too many callers came: `edge alerts list` has all"

#: What is settled by acknowledging it: these last until somebody has looked.
SETTLED = {"lost": "lost", "conflict": "conflict", "quarantine": "quarantined"}


def acknowledge(conn: Connection, number: int, who: str, note: str, now: float) -> AlertRecord:
    """A person has seen an alert, inside the caller's transaction; instances in trouble are settled by that.

    Raises NoSuchAlert where it is over.
    """
    found = alert_records.acknowledge(conn, number, who, note, now)
    if found.kind in SETTLED:
        instances = backlog.acknowledge_instances(conn, SETTLED[found.kind], now, who, note)
        ledger.append(conn, now, ledger.SETTLED, who, instances, detail=note)
    elif (found.kind, found.subject) == ("patient-mismatch", NOT_HELD) and (instances := patients.settle(conn, now)):
        ledger.append(conn, now, ledger.SETTLED, who, instances, detail=note)
    return found


# -- the thread --------------------------------------------------------------------------------------------------------


class Watch:
    """Looks at the snapshot every few seconds."""

    def __init__(
        self,
        db: Database,
        config: Callable[[], Config],
        snapshot: Callable[[], Snapshot],
        *,
        posted: Callable[[], None] = lambda: None,
        chores: Callable[[Snapshot], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        every: float = LOOK_SECONDS,
    ) -> None:
        """`posted` is told, after the commit, that notices wait; `chores` are done after each look."""
        self._db, self._config, self._snapshot = db, config, snapshot
        self._posted, self._chores, self._clock, self._every = posted, chores, clock, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = ""
        while True:
            try:
                self._chores(self.look())
                said = ""
            except (StorageUnhealthy, Hindered, sqlite3.Error, OSError, MemoryError) as error:
                if str(error) != said:
                    log.error("the watch could not look or write, so nobody is told: %s", error)
                said = str(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end what watches over everything
                if (place := place_of(error)) != said:
                    log.error("the watch could not look, so nobody is told: %s", place)
                said = place
            if self._stop.wait(self._every):
                return

    def look(self) -> Snapshot:
        """One look: every alert goes its next step. Returns what was seen."""
        seen = self._snapshot()
        now, config = self._clock(), self._config()
        rules = alarms(config.alerts)
        with self._db.reading() as conn:
            known = [each for each in alert_records.records(conn) if each.kind in rules]
        steps = _steps(seen.alerts, known, rules, config.calendar, now)
        if steps:
            told = self._db.write(lambda conn: self._write(conn, steps, seen.alerts, config, now))
            for each in told:
                log.warning("alert %s", each)
            if told:
                self._posted()
        return seen

    def _write(
        self,
        conn: Connection,
        steps: Sequence[tuple[AlertRecord, Transition]],
        found: Sequence[Alert],
        config: Config,
        now: float,
    ) -> list[str]:
        """Write down what changed, and post what is told. Returns a line for the log for each notice."""
        lines = []
        over = {(alert.kind, alert.subject): alert.ended for alert in found}
        for before, step in steps:
            if step.record is None:
                if before.id is not None:
                    alert_records.forget(conn, before.id)
                continue
            known = replace(step.record, id=alert_records.keep(conn, step.record))
            if step.event:
                ended = known.ended_at if step.event == CLOSED else over.get((known.kind, known.subject))
                if not _tell(conn, step.event, known, config, now, ended):
                    continue
                lines.append(f"{step.event}: {known.severity} {known.kind} ({known.subject}): {known.what}")
        return lines


def _tell(conn: Connection, event: str, record: AlertRecord, config: Config, now: float, ended: float | None) -> bool:
    """Number a notice and post it to every channel that wants it; False where the hour has had enough of its kind."""
    if KINDS[record.kind].by_outsiders:
        left = NOTICES_OF_OUTSIDERS - alert_records.count_notices(conn, OUTSIDERS, now - HOUR_SECONDS)
        if left <= 0:
            return False
        if left == 1:
            record = replace(record, means=f"{record.means}; {LAST_OF_HOUR}")
    assert record.id is not None
    number = alert_records.note_notice(conn, record.id, event, now)
    text = json.dumps(body(number, event, record, now, config.site, ended), ensure_ascii=False)
    alert_records.fill_notice(conn, number, text)
    for channel in channels_for(config, record.kind, record.severity, event):
        outbox.post(conn, channel, "notice", now, text)
    return True


def _steps(
    found: Sequence[Alert], known: Sequence[AlertRecord], rules: Mapping[str, Alarm], calendar: Calendar, now: float
) -> list[tuple[AlertRecord, Transition]]:
    """Every alert that changes, and how. A text alone is no change: it counts what waits, and so moves all the time."""
    causes = {(alert.kind, alert.subject): alert for alert in found}
    opened = {(each.kind, each.subject) for each in known}
    new = [notice_new(alert, now) for key, alert in causes.items() if key not in opened]
    steps = []
    for record in [*known, *new]:
        step = transition(record, causes.get((record.kind, record.subject)), rules[record.kind], calendar, now)
        if record.id is None or step.event or _state(step.record) != _state(record):
            steps.append((record, step))
    return steps


def _state(record: AlertRecord | None) -> Any:
    return record and replace(record, what="", means="", do="")
