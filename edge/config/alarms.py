"""Every kind of alert with its defaults: the one list, from which the manual's table is checked.

`after`: seconds that it must hold before anybody is told; `clear`: seconds that it must be gone before it is over (no
flapping); `threshold`: seconds, where the kind has one, of what `limit` says. An `event` is told once, when it is over.
`directive` names the notice that the site owes the central office, where it is one of the four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MINOR, MAJOR, CRITICAL = "minor", "major", "critical"
SEVERITIES = (MINOR, MAJOR, CRITICAL)

#: The four that the site owes the central office.
DOWNTIME, EQUIPMENT, STORAGE, CONNECTION = "downtime", "equipment", "storage", "connection"

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Term:
    """When something that stays open is escalated: after business days, or after seconds where there are none."""

    days: int = 0
    seconds: float = 0.0


#: What stays open for so long is escalated; an acknowledged alert only after FINAL.
FINAL = Term(days=5)
ESCALATE = {CRITICAL: Term(seconds=4 * HOUR), MAJOR: Term(days=1), MINOR: FINAL}


@dataclass(frozen=True, slots=True)
class Alarm:
    """How one kind of alert behaves."""

    severity: str
    told: str  # what it says, for the manual
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


KINDS: Mapping[str, Alarm] = {
    "storage-unhealthy": Alarm(CRITICAL, "a sync or a commit failed; scanners are refused", directive=STORAGE),
    "storage-refusing": Alarm(
        CRITICAL, "scanners are refused: no room of some kind, or a shortage", MINUTE, 5 * MINUTE, directive=STORAGE
    ),
    "storage-filling": Alarm(
        MINOR,
        "the disk is above `storage.warn`, or will be full soon: then major",
        15 * MINUTE,
        HOUR,
        DAY,
        "full sooner than",
        STORAGE,
    ),
    "disk-failing": Alarm(MAJOR, "the kernel or SMART report errors of the disk", MINUTE, HOUR, directive=STORAGE),
    "lost": Alarm(CRITICAL, "files kept here are gone or damaged; minor where all is at its destinations"),
    "ledger-broken": Alarm(CRITICAL, "the custody ledger is not what was written"),
    "destination-down": Alarm(MAJOR, "a destination does not answer", 5 * MINUTE, 2 * MINUTE, directive=CONNECTION),
    "destination-removed": Alarm(MAJOR, "work waits for a destination that is no longer configured", 5 * MINUTE),
    "backlog-old": Alarm(
        MAJOR,
        "work for a destination that answers has waited for too long",
        10 * MINUTE,
        10 * MINUTE,
        4 * HOUR,
        "waiting longer than",
        CONNECTION,
    ),
    "work-held": Alarm(MAJOR, "work waits for a person's decision", 5 * MINUTE, MINUTE),
    "unroutable": Alarm(MAJOR, "objects that no route matches", 5 * MINUTE, MINUTE),
    "patient-mismatch": Alarm(MAJOR, "images of another patient than those before in the same study"),
    "unconfirmed": Alarm(
        MAJOR, "an archive does not prove what it was sent", 10 * MINUTE, 10 * MINUTE, DAY, "not proved for"
    ),
    "conflict": Alarm(MINOR, "other bytes under a known SOP Instance UID"),
    "quarantine": Alarm(MINOR, "objects that could not be read or trusted"),
    "quarantine-full": Alarm(MAJOR, "unreadable objects are not kept: their sender's part of quarantine is used up"),
    "unknown-equipment": Alarm(
        MINOR, "a caller that no `[modality]` names was refused", directive=EQUIPMENT, by_outsiders=True
    ),
    "new-modality": Alarm(
        MINOR,
        "equipment that never called before",
        threshold=2 * MINUTE,
        limit="known for",
        directive=EQUIPMENT,
        event=True,
        by_outsiders=True,
    ),
    "modality-silent": Alarm(MINOR, "a modality that should have sent by now has not", threshold=HOUR, limit="late by"),
    "unscheduled-downtime": Alarm(
        MINOR, "the gateway was down without having been stopped", directive=DOWNTIME, event=True
    ),
    "clock-skew": Alarm(
        MINOR,
        "the system's clock is off, or nothing sets it",
        10 * MINUTE,
        10 * MINUTE,
        1.0,
        "off by more than",
    ),
    "clock-was-wrong": Alarm(MINOR, "stored times lay in the future: the clock had been ahead", event=True),
    "certificate-expiring": Alarm(
        MINOR, "a TLS certificate ends soon; major in its last week", threshold=30 * DAY, limit="ends within"
    ),
    "configuration-rejected": Alarm(MINOR, "the configuration on disk has mistakes", 10 * MINUTE),
    "channel-stuck": Alarm(
        MINOR,
        "what is to be told to somebody does not get there, or is refused for good",
        10 * MINUTE,
        MINUTE,
        HOUR,
        "waiting longer than",
    ),
}


#: Those that any caller may cause.
OUTSIDERS = tuple(kind for kind, alarm in KINDS.items() if alarm.by_outsiders)


def alarms(rules: Mapping[str, Any]) -> dict[str, Alarm]:
    """All kinds as the site's [alert.KIND] tables change them."""
    return {kind: _changed(alarm, rules[kind]) if kind in rules else alarm for kind, alarm in KINDS.items()}


def _changed(alarm: Alarm, rule: Any) -> Alarm:
    given = {
        "enabled": rule.enabled,
        "fixed": rule.severity,
        "after": rule.after,
        "clear": rule.clear,
        "threshold": rule.threshold,
        "term": rule.escalate,
    }
    return replace(alarm, **{name: value for name, value in given.items() if value is not None})
