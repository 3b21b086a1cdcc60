"""The alerts: what is wrong, whether images are safe, and what to type. Pure: from what is observed to alerts.

A rule describes what is wrong now in three parts of one sentence: what, what it means for the patients' images, what to
do. The advice is a list of actions (edge.monitor.snapshot_model.Action), from which its text is made; no action sends,
overwrites or removes an image that a person has not named. test_advice.py follows each of them.

edge.monitor.engine decides how long an alert must last before a notice is sent, and when it is over; thresholds are
those of edge.config.alarms, as the site's [alert.KIND] change them. `major` and `critical` mean that images do not
reach their destinations, or soon will not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

from edge.config.alarms import ALERT_SEVERITIES
from edge.monitor.alerts import decisions, destinations, equipment, gateway, identity, quality, services, storage
from edge.monitor.alerts.equipment import MAX_CALLERS
from edge.monitor.alerts.observed import Observed
from edge.monitor.snapshot_model import Alert

__all__ = ["MAX_CALLERS", "URGENCY", "Observed", "alerts"]

URGENCY = tuple(reversed(ALERT_SEVERITIES))

_RULES: dict[str, Callable[[Observed], Iterable[Alert]]] = {
    "storage-unhealthy": storage.storage_unhealthy,
    "storage-refusing": storage.storage_refusing,
    "disk-failing": storage.disk_failing,
    "ledger-broken": storage.ledger_broken,
    "lost": storage.instances_lost,
    "conflict": decisions.instances_in_conflict,
    "patient-mismatch": decisions.patient_mismatch,
    "order-missing": identity.order_missing,
    "hl7-parked": identity.hl7_parked,
    "relay-held": identity.relay_held,
    "relay-stuck": identity.relay_stuck,
    "feed-silent": identity.feed_silent,
    **{kind: identity.finding_rule(kind) for kind in identity.FINDING_KINDS},
    "quarantine": decisions.instances_quarantined,
    "quarantine-full": decisions.quarantine_full,
    "destination-down": destinations.destination_down,
    "destination-removed": destinations.destination_removed,
    "backlog-old": lambda seen: chain(destinations.backlog_old(seen), services.steps_late(seen)),
    "images-missing": services.images_missing,
    "prior-mismatch": services.priors_foreign,
    "worklist-stale": services.worklist_stale,
    "import-waiting": services.import_waiting,
    "work-held": lambda seen: chain(decisions.work_held(seen), services.steps_held(seen)),
    "unroutable": decisions.unroutable,
    "unconfirmed": destinations.destination_unconfirmed,
    "certificate-expiring": gateway.certificate_expiring,
    "configuration-rejected": gateway.configuration_rejected,
    "channel-stuck": gateway.channel_stuck,
    "storage-filling": storage.storage_filling,
    "clock-skew": gateway.clock_skew,
    "clock-was-wrong": gateway.clock_was_wrong,
    "unscheduled-downtime": gateway.unscheduled_downtime,
    "commitment-unreported": equipment.commitment_unreported,
    "lossy-received": quality.lossy_received,
    "dose-report-missing": quality.dose_report_missing,
    "restore-untried": gateway.restore_untried,
    "modality-silent": equipment.modality_silent,
    "unknown-equipment": equipment.unknown_equipment,
    "new-modality": equipment.new_modality,
    "equipment-changed": equipment.equipment_changed,
}


def alerts(seen: Observed) -> tuple[Alert, ...]:
    """Every alert of the kinds that are enabled, the most severe first."""
    found = []
    for kind, rule in _RULES.items():
        alarm = seen.alarms[kind]
        for each in rule(seen) if alarm.enabled else ():
            found.append(replace(each, kind=kind, severity=alarm.fixed or each.severity or alarm.severity))
    return tuple(sorted(found, key=lambda alert: URGENCY.index(alert.severity)))
