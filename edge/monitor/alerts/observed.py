"""The input of the rules of alerts: the snapshot, and what only they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.config.alarms import ALERT_KINDS, Alarm
from edge.config.sections import StorageSection as Marks
from edge.monitor.snapshot_model import (
    Action,
    Alert,
    ExceptionCount,
    Keeping,
    Snapshot,
    UnknownCaller,
    advice_of,
)
from edge.store.clock import Correction
from edge.store.downtimes import Downtime
from edge.store.mismatches import Mismatches

NOTHING_KEPT = Keeping()
NO_MISMATCHES = Mismatches()
DEFAULT_MARKS = Marks()
#: An open alert stays until its threshold is passed by a quarter: no flapping.
THRESHOLD_SLACK = 1.25

CHECK = Action("{}", ("edge", "check"), follows=True)
RELOAD = Action("{}", ("systemctl", "reload", "edge"), follows=True)


@dataclass(frozen=True, slots=True)
class Observed(Snapshot):
    """All that the alerts depend on."""

    marks: Marks = DEFAULT_MARKS
    exceptions: Sequence[ExceptionCount] = ()
    unknown_callers: Sequence[UnknownCaller] = ()
    mismatches: Mismatches = NO_MISMATCHES
    downtime: Downtime | None = None  # the last that was not planned
    disk_faults: Sequence[str] = ()
    keeping: Keeping = NOTHING_KEPT
    correction: Correction | None = None  # the last of times that a wrong clock had written
    caller_certificates: Mapping[str, float] = field(default_factory=dict)  # of callers, by name: when it ends
    alarms: Mapping[str, Alarm] = field(default_factory=lambda: ALERT_KINDS)
    open: frozenset[tuple[str, str]] = frozenset()  # (kind, subject) of the open alerts that were notified

    def exceptions_in(self, state: str) -> list[ExceptionCount]:
        return [each for each in self.exceptions if each.state == state]

    def threshold(self, kind: str) -> float:
        return self.alarms[kind].threshold

    def is_open(self, kind: str, subject: str) -> bool:
        return (kind, subject) in self.open

    def slack(self, kind: str, subject: str) -> float:
        """The factor of a threshold that is exceeded from below."""
        return THRESHOLD_SLACK if self.is_open(kind, subject) else 1.0


def alert(
    subject: str, since: float, what: str, means: str, *actions: Action, severity: str = "", ended: float | None = None
) -> Alert:
    """An alert whose advice is made of its actions; `edge.monitor.alerts.alerts` adds its kind and severity."""
    do = advice_of(actions)
    return Alert("", subject, severity, since, what, means, do, ended=ended, actions=actions)
