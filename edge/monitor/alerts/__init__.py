"""What a person should know, and what to type about it. Pure: facts in, alerts out.

A rule says what is wrong now, in three parts of one sentence: what, what it means for the patients' images, what to do.
The advice is a list of actions (edge.monitor.snapshot_model.Action), from which its words are made; followed to the
letter, none of them sends, overwrites or removes an image that a person has not named. tests/test_advice.py follows
every one.

How long an alert must hold before a notice is sent, and when it is over, is edge.monitor.engine's; thresholds are those
of edge.config.alarms, as the site's [alert.KIND] change them. `major` and `critical` mean that images do not reach, or
will soon not reach, where they should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edge.config.alarms import SEVERITIES, Alarm
from edge.monitor.alerts import decisions, destinations, equipment, gateway, storage
from edge.monitor.alerts.equipment import MAX_STRANGERS
from edge.monitor.alerts.observed import Observed
from edge.monitor.snapshot_model import Alert

__all__ = ["MAX_STRANGERS", "URGENCY", "Observed", "alerts"]

URGENCY = tuple(reversed(SEVERITIES))

_RULES: tuple[Callable[[Observed], Iterator[Alert]], ...] = (
    storage.unhealthy,
    storage.refusing,
    storage.failing,
    storage.ledger_broken,
    storage.lost,
    decisions.conflict,
    decisions.patient_mismatch,
    decisions.quarantine,
    decisions.quarantine_full,
    destinations.down,
    destinations.removed,
    destinations.backlog_old,
    decisions.work_held,
    decisions.unroutable,
    destinations.unconfirmed,
    gateway.certificate_expiring,
    gateway.configuration_rejected,
    gateway.channel_stuck,
    storage.filling,
    gateway.clock_skew,
    gateway.clock_was_wrong,
    gateway.unscheduled_downtime,
    equipment.silent,
    equipment.unknown,
    equipment.new,
)


def alerts(seen: Observed) -> tuple[Alert, ...]:
    """Every alert of the kinds that are enabled, the most severe first."""
    found = [_as_configured(alert, seen.alarms[alert.kind]) for rule in _RULES for alert in rule(seen)]
    shown = [alert for alert in found if seen.alarms[alert.kind].enabled]
    return tuple(sorted(shown, key=lambda alert: URGENCY.index(alert.severity)))


def _as_configured(alert: Alert, alarm: Alarm) -> Alert:
    return replace(alert, severity=alarm.fixed) if alarm.fixed else alert
