"""Every kind of alert with its defaults: the one list, from which the manual's table is checked.

`after`: seconds that it must last before a notice is sent; `clear`: seconds that it must be absent before it closes (no
flapping); `threshold`: seconds, where the kind has one, of what `limit` says. An `event` is one notice, at its end.
`directive` names the notice that the site owes the central office, where it is one of the four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MINOR, MAJOR, CRITICAL = "minor", "major", "critical"
ALERT_SEVERITIES = (MINOR, MAJOR, CRITICAL)

#: The four that the site owes the central office.
_DOWNTIME, _EQUIPMENT, _STORAGE, _CONNECTION = "downtime", "equipment", "storage", "connection"

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Term:
    """When something that stays open is escalated: after business days, or after seconds where there are none."""

    days: int = 0
    seconds: float = 0.0


#: How long an alert is open before it is escalated; an acknowledged alert only after FINAL.
FINAL = Term(days=5)
ESCALATE = {CRITICAL: Term(seconds=4 * _HOUR), MAJOR: Term(days=1), MINOR: FINAL}


@dataclass(frozen=True, slots=True)
class Alarm:
    """How one kind of alert behaves."""

    severity: str
    meaning: str  # for the manual
    after: float = 0.0
    clear: float = 0.0
    threshold: float = 0.0
    limit: str = ""  # what the threshold is; empty: there is none
    directive: str = ""
    event: bool = False
    by_outsiders: bool = False  # any caller may cause it, at will: its notices are counted
    enabled: bool = True
    fixed: str = ""  # the severity that the site has set; empty: as the rule says
    term: Term | None = None  # None: by severity

    def escalates(self, severity: str) -> Term:
        return self.term or ESCALATE[severity]


ALERT_KINDS: Mapping[str, Alarm] = {
    "storage-unhealthy": Alarm(CRITICAL, "a sync or a commit failed; scanners are refused", directive=_STORAGE),
    "storage-refusing": Alarm(
        CRITICAL,
        "scanners are refused: storage or another resource is exhausted",
        _MINUTE,
        5 * _MINUTE,
        directive=_STORAGE,
    ),
    "storage-filling": Alarm(
        MINOR,
        "the disk is above `storage.warn`; major if it will soon be full",
        15 * _MINUTE,
        _HOUR,
        _DAY,
        "full sooner than",
        _STORAGE,
    ),
    "disk-failing": Alarm(MAJOR, "the kernel or SMART report errors of the disk", _MINUTE, _HOUR, directive=_STORAGE),
    "lost": Alarm(CRITICAL, "files are missing or damaged; minor where every destination has the images"),
    "ledger-broken": Alarm(CRITICAL, "the custody ledger, or a yearly file of it, has been altered or damaged"),
    "destination-down": Alarm(
        MAJOR, "a destination does not answer, or refuses", 5 * _MINUTE, 2 * _MINUTE, directive=_CONNECTION
    ),
    "destination-removed": Alarm(MAJOR, "deliveries wait for a destination that is no longer configured", 5 * _MINUTE),
    "backlog-old": Alarm(
        MAJOR,
        "deliveries for a destination that answers have waited for too long",
        10 * _MINUTE,
        10 * _MINUTE,
        4 * _HOUR,
        "waiting longer than",
        _CONNECTION,
    ),
    "work-held": Alarm(MAJOR, "deliveries wait for a person's decision", 5 * _MINUTE, _MINUTE),
    "unroutable": Alarm(MAJOR, "objects that no route matches", 5 * _MINUTE, _MINUTE),
    "patient-mismatch": Alarm(MAJOR, "images whose patient differs from that of earlier images of the study"),
    "order-missing": Alarm(MINOR, "studies without an order for longer than `[identity] orphan_after`"),
    "hl7-parked": Alarm(MAJOR, "HL7 messages that contradict what is known, and those behind them"),
    "relay-held": Alarm(MAJOR, "HL7 messages that a relay's receiver refuses"),
    "relay-stuck": Alarm(
        MAJOR, "a relay takes no HL7", 5 * _MINUTE, _MINUTE, 15 * _MINUTE, "waiting longer than", _CONNECTION
    ),
    "feed-silent": Alarm(MINOR, "a feed of HL7 has not sent by its usual time", threshold=_HOUR, limit="late by"),
    "merged-id-used": Alarm(MINOR, "a feed has used a patient number that was merged into another"),
    "accession-reused": Alarm(MINOR, "a feed has used an accession number for another order"),
    "merge-reversed": Alarm(MINOR, "a feed has merged two patients in both directions"),
    "hl7-control-id-reused": Alarm(MINOR, "a feed has used a control ID (MSH-10) for other bytes"),
    "charset-wrong": Alarm(MINOR, "a feed declares a character set that is not known or does not fit"),
    "unconfirmed": Alarm(
        MAJOR, "an archive does not confirm what it received", 10 * _MINUTE, 10 * _MINUTE, _DAY, "not confirmed for"
    ),
    "commitment-unreported": Alarm(
        MAJOR,
        "a modality has asked for storage commitment and has no report",
        10 * _MINUTE,
        _MINUTE,
        _DAY,
        "asked longer ago than",
    ),
    "worklist-stale": Alarm(
        MAJOR, "the worklist cannot be refreshed: modalities are served the last list", clear=_MINUTE
    ),
    "images-missing": Alarm(MAJOR, "images that a performed step announced have not come by `mpps.missing_after`"),
    "prior-mismatch": Alarm(MAJOR, "an archive keeps another patient's studies under the number of an appointment"),
    "import-waiting": Alarm(
        MINOR,
        "imported studies wait until a person says whose they are",
        threshold=_HOUR,
        limit="waiting longer than",
    ),
    "conflict": Alarm(MINOR, "a different object was received with an existing SOP Instance UID"),
    "quarantine": Alarm(MINOR, "objects that could not be read or trusted"),
    "quarantine-full": Alarm(MAJOR, "unreadable objects are not kept: their sender's share of quarantine is full"),
    "unknown-equipment": Alarm(
        MINOR,
        "a caller that no `[modality]` names, or whose certificate is not accepted, was rejected",
        directive=_EQUIPMENT,
        by_outsiders=True,
    ),
    "new-modality": Alarm(
        MINOR,
        "equipment that connected for the first time",
        threshold=2 * _MINUTE,
        limit="known for",
        directive=_EQUIPMENT,
        event=True,
        by_outsiders=True,
    ),
    "equipment-changed": Alarm(
        MINOR,
        "another manufacturer, model, serial number or software under a known AE title and address",
        directive=_EQUIPMENT,
        event=True,
    ),
    "lossy-received": Alarm(MINOR, "equipment has sent images compressed with loss", clear=_HOUR),
    "dose-report-missing": Alarm(
        MINOR,
        "X-ray studies whose dose report has not come",
        clear=10 * _MINUTE,
        threshold=2 * _HOUR,
        limit="later than",
    ),
    "restore-untried": Alarm(MINOR, "no restore was tried for a year", threshold=365 * _DAY, limit="last tried"),
    "modality-silent": Alarm(MINOR, "a modality has not sent by its usual time", threshold=_HOUR, limit="late by"),
    "unscheduled-downtime": Alarm(
        MINOR, "the gateway was down without an orderly stop", directive=_DOWNTIME, event=True
    ),
    "clock-skew": Alarm(
        MINOR, "the system clock is wrong, or is not synchronized", 10 * _MINUTE, 10 * _MINUTE, 1.0, "off by more than"
    ),
    "clock-was-wrong": Alarm(MINOR, "stored times were in the future: the clock had been ahead", event=True),
    "certificate-expiring": Alarm(
        MINOR,
        "a TLS certificate, or our revocation list, expires soon; major in its last week",
        threshold=30 * _DAY,
        limit="expires within",
    ),
    "configuration-rejected": Alarm(MINOR, "the configuration on disk, or a certificate, cannot be used", 10 * _MINUTE),
    "channel-stuck": Alarm(
        MINOR,
        "notifications are not being delivered, or are refused permanently",
        10 * _MINUTE,
        _MINUTE,
        _HOUR,
        "waiting longer than",
    ),
}


#: Those that any caller may cause.
OUTSIDERS = tuple(kind for kind, alarm in ALERT_KINDS.items() if alarm.by_outsiders)


def alarms(rules: Mapping[str, Any]) -> dict[str, Alarm]:
    """Build all kinds as the site's [alert.KIND] tables change them."""
    return {kind: _apply_rule(alarm, rules[kind]) if kind in rules else alarm for kind, alarm in ALERT_KINDS.items()}


def _apply_rule(alarm: Alarm, rule: Any) -> Alarm:
    given = {
        "enabled": rule.enabled,
        "fixed": rule.severity,
        "after": rule.after,
        "clear": rule.clear,
        "threshold": rule.threshold,
        "term": rule.escalate,
    }
    return replace(alarm, **{name: value for name, value in given.items() if value is not None})
