"""The states of an alert: noticed, notified once it has lasted, escalated when it stays, ended when its cause is gone.

    noticed --after--> notified (opened) --term--> escalated
       |                 |  cause gone for `clear`
       v gone            v
     forgotten         ended (closed, with its duration)

`transition` decides, purely, for one alert; `AlertEngine` is the thread that evaluates the snapshot every few seconds,
records what changed, and posts each notice to every channel's outbox in the same transaction. An alert that was open
when the gateway stopped is the same alert afterwards. During planned work ([maintenance.NAME]) what it explains is not
notified. An event (a downtime, new equipment) has one notice, at its end.

Limits: on an unhealthy disk nothing can be written, notices neither; the daemon sends that one from memory.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.config.alarms import ALERT_KINDS, ALERT_SEVERITIES, OUTSIDERS, Alarm, alarms
from edge.config.channels import channels_for
from edge.config.maintenance import PlannedWork, explains, windows_of
from edge.config.sections import Calendar, Config, SiteSection
from edge.identity.checks import CheckResult
from edge.monitor.alerts.decisions import NOT_HELD
from edge.monitor.alerts.identity import FINDING_KINDS, NOT_HELD_ORDER
from edge.monitor.escalation import CLOSED, ESCALATED, OpenCondition, escalates_at, notice_due
from edge.monitor.notice_document import notice_json
from edge.monitor.snapshot_model import Alert, Snapshot
from edge.network.shares import HOUR_SECONDS, NOTICES_OF_OUTSIDERS
from edge.store import alert_records, identity_checks, identity_findings, ledger, outbox, patients, tallies
from edge.store.alert_records import AlertRecord
from edge.store.database import Store, Transaction
from edge.text import as_sentence
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

EVALUATE_SECONDS = 5.0
WATCH_THREAD = ThreadSpec("watch", __name__, "alerts, notices, outbox", "after its transaction")


# -- pure --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state of one alert. `record` None: it is forgotten. `event`: what is notified, empty for nothing."""

    record: AlertRecord | None
    event: str = ""


def notice_new(alert: Alert, now: float) -> AlertRecord:
    """The record of an alert that was not open before."""
    since = min(alert.since, now)
    return AlertRecord(None, alert.kind, alert.subject, alert.severity, since, now, alert.what, alert.means, alert.do)


def transition(record: AlertRecord, alert: Alert | None, alarm: Alarm, calendar: Calendar, now: float) -> Transition:
    """Decide the next state of one open alert; `alert` is its cause as it is now, None where it is gone."""
    if alarm.event and record.notified:
        over = alert is None or alert.since != record.since or record.acknowledged_at is not None
        return Transition(replace(record, ended_at=alert.ended if alert and alert.ended else now) if over else record)
    if alert is None or not alarm.enabled:
        return _leave(record, alarm, now)
    record = replace(record, cleared_at=None, severity=alert.severity, what=alert.what, means=alert.means, do=alert.do)
    condition = condition_of(record, alarm)
    event = notice_due(condition, calendar, now)
    if event == ESCALATED and not condition.is_escalated and now >= escalates_at(condition, calendar):
        record = replace(record, escalated_at=now)
    if event:
        record = replace(record, notified=max(record.notified, record.severity, key=_SEVERITY_RANK.index))
    return Transition(record, event)


#: A severity, and that of an alert of which nothing was notified yet.
_SEVERITY_RANK = ("", *ALERT_SEVERITIES)


def _leave(record: AlertRecord, alarm: Alarm, now: float) -> Transition:
    cleared_at = now if record.cleared_at is None else min(record.cleared_at, now)
    if now - cleared_at < alarm.clear:
        return Transition(replace(record, cleared_at=cleared_at))
    if not record.notified:
        return Transition(None)
    return Transition(replace(record, cleared_at=cleared_at, ended_at=cleared_at), CLOSED)


def condition_of(record: AlertRecord, alarm: Alarm) -> OpenCondition:
    """What decides when an open alert is notified."""
    return OpenCondition(
        severity=record.severity,
        since=record.since,
        term=alarm.escalates(record.severity),
        notified=record.notified,
        opens_at=min(record.since, record.seen_at) + alarm.after,
        is_acknowledged=record.acknowledged_at is not None,
        is_escalated=record.escalated_at is not None,
    )


def body(
    number: int, event: str, record: AlertRecord, at: float, site: SiteSection, ended: float | None, url: str = ""
) -> dict[str, Any]:
    """A notice, as channels and the central office receive it. No PHI. `url`: of the console; empty: not known."""
    return notice_json(
        number,
        event,
        (site.id, site.name),
        at,
        kind=record.kind,
        subject=record.subject,
        severity=record.severity,
        since=record.since,
        ended=ended,
        text=as_sentence(record.what),
        means=as_sentence(record.means),
        do=as_sentence(record.advise()),
        alert=record.id,
        directive=ALERT_KINDS[record.kind].directive or None,
        runbook=f"{url}/help/alerts/{record.kind}" if url else None,
        acknowledged=record.acknowledged_by or None,
    )


#: A sentence of the last notice in an hour of alerts that outsiders cause.
LAST_OF_HOUR = "this is the last notice of its kind for an hour, too many callers came: `edge alerts list` has all"

#: Kinds whose instances are settled when the alert is acknowledged, with the state of the instances.
SETTLED_STATES = {"lost": "lost", "conflict": "conflict", "quarantine": "quarantined"}


def acknowledge_alert(conn: Transaction, number: int, who: str, note: str, now: float) -> AlertRecord:
    """Record that a person acknowledges an alert, in the caller's transaction; that settles its instances.

    Raises NoSuchAlert where it is over.
    """
    found = alert_records.note_acknowledgement(conn, number, who, note, now)
    if found.kind in SETTLED_STATES:
        instances = tallies.settle_instances(conn, SETTLED_STATES[found.kind], now, who, note)
    elif (
        _settle_identity(conn, found, now)
        or (found.kind, found.subject) != ("patient-mismatch", NOT_HELD)
        or not (instances := patients.settle(conn, now))
    ):
        return found
    ledger.append(conn, now, ledger.SETTLED, who, instances, payload={"reason": note})
    return found


def _settle_identity(conn: Transaction, found: AlertRecord, now: float) -> bool:
    """Settle what an alert about orders or messages is for. False: it is none of these."""
    if found.kind in FINDING_KINDS:
        identity_findings.settle_findings(conn, found.kind, found.subject, now)
    elif found.kind == "order-missing":
        identity_checks.settle_checks(conn, CheckResult.NO_ORDER, now)
    elif (found.kind, found.subject) == ("patient-mismatch", NOT_HELD_ORDER):
        identity_checks.settle_checks(conn, CheckResult.DIFFERS, now)
    else:
        return False
    return True


# -- the thread --------------------------------------------------------------------------------------------------------


class AlertEngine:
    """Evaluates the snapshot every few seconds."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        snapshot: Callable[[], Snapshot],
        *,
        posted: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        every: float = EVALUATE_SECONDS,
    ) -> None:
        """`posted` is called, after the commit, when notices wait."""
        self._db, self._config, self._snapshot = db, config, snapshot
        self._posted, self._clock, self._every = posted, clock, every
        self.worker = Worker(WATCH_THREAD, self._step, longest_pause_seconds=every)

    def _step(self) -> float:
        self.evaluate()
        return self._every

    def evaluate(self) -> None:
        """Take every alert to its next state."""
        seen, now, config = self._snapshot(), self._clock(), self._config()
        rules = alarms(config.alerts)
        with self._db.reading() as conn:
            known = [each for each in alert_records.records(conn) if each.kind in rules]
        windows = windows_of(config.maintenances.values(), config.calendar.time_zone)
        steps = list(_list_changes(seen.alerts, known, rules, config.calendar, now, windows))
        if steps:
            ended = {(alert.kind, alert.subject): alert.ended for alert in seen.alerts}
            notified = self._db.write(
                lambda conn: [
                    line for before, step in steps if (line := _write(conn, before, step, ended, config, now))
                ]
            )
            for line in notified:
                log.warning("alert %s", line)
            if notified:
                self._posted()


def _list_changes(
    found: Sequence[Alert],
    known: Sequence[AlertRecord],
    rules: Mapping[str, Alarm],
    calendar: Calendar,
    now: float,
    windows: Sequence[PlannedWork] = (),
) -> Iterator[tuple[AlertRecord, Transition]]:
    """Every alert that changes, and how. A text alone is no change: it has counts in it, which change all the time."""
    causes = {(alert.kind, alert.subject): alert for alert in found}
    opened = {(each.kind, each.subject) for each in known}
    new = [notice_new(alert, now) for key, alert in causes.items() if key not in opened]
    for record in [*known, *new]:
        cause = causes.get((record.kind, record.subject))
        step = transition(record, cause, rules[record.kind], calendar, now)
        if step.event and step.event != CLOSED and explains(windows, record.kind, now):
            step = _withhold_notice(record, step)
        if record.id is None or step.event or _without_text(step.record) != _without_text(record):
            yield record, step


def _withhold_notice(before: AlertRecord, step: Transition) -> Transition:
    """During planned work the alert is on record, and is notified after it, if its cause is still there."""
    assert step.record is not None
    return Transition(replace(step.record, notified=before.notified, escalated_at=before.escalated_at))


def _without_text(record: AlertRecord | None) -> AlertRecord | None:
    return record and replace(record, what="", means="", do="")


def _write(
    conn: Transaction,
    before: AlertRecord,
    step: Transition,
    ended: Mapping[tuple[str, str], float | None],
    config: Config,
    now: float,
) -> str:
    """Record one change, and post its notice. Returns a line for the log where a notice was posted, else ""."""
    if step.record is None:
        if before.id is not None:
            alert_records.forget(conn, before.id)
        return ""
    record = replace(step.record, id=alert_records.keep(conn, step.record))
    ended_at = record.ended_at if step.event == CLOSED else ended.get((record.kind, record.subject))
    if not step.event or not _post_notice(conn, step.event, record, config, now, ended_at):
        return ""
    return f"{step.event}: {record.severity} {record.kind} ({record.subject}): {record.what}"


def _post_notice(
    conn: Transaction, event: str, record: AlertRecord, config: Config, now: float, ended: float | None
) -> bool:
    """Number a notice and post it to each channel configured for it; False above the hour's limit of its kind."""
    if ALERT_KINDS[record.kind].by_outsiders:
        left = NOTICES_OF_OUTSIDERS - alert_records.count_notices(conn, OUTSIDERS, now - HOUR_SECONDS)
        if left <= 0:
            return False
        if left == 1:
            record = replace(record, means=f"{record.means}; {LAST_OF_HOUR}")
    assert record.id is not None
    number = alert_records.note_notice(conn, record.id, event, now)
    text = json.dumps(body(number, event, record, now, config.site, ended, config.console.url), ensure_ascii=False)
    alert_records.fill_notice(conn, number, text)
    for channel in channels_for(config, record.kind, record.severity, event):
        outbox.post(conn, channel, "notice", now, text)
    return True
