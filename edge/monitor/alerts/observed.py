"""What the rules of the alerts look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.config.alarms import KINDS, Alarm
from edge.config.sections import Storage as Marks
from edge.hindrance import Hindrance
from edge.monitor.snapshot_model import (
    Action,
    Alert,
    ChannelBacklog,
    Clock,
    Destination,
    Downtime,
    Held,
    Keeping,
    Mismatches,
    Modality,
    Storage,
    Stranger,
    Trouble,
)
from edge.store.clock import Correction
from edge.store.quarantine import Unkept

NO_CLOCK = Clock()
NOTHING_KEPT = Keeping()
NO_MISMATCHES = Mismatches()
#: An open alert stays until its threshold is passed by a quarter: no flapping.
SLACK = 1.25

CHECK = Action("then {}", ("edge", "check"))
RELOAD = Action("then {}", ("systemctl", "reload", "edge"))


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the alerts depend on."""

    now: float
    state: str
    reasons: tuple[str, ...]
    unhealthy: str
    since: float | None
    storage: Storage
    marks: Marks
    destinations: Sequence[Destination]
    held: Sequence[Held]
    troubles: Sequence[Trouble]
    strangers: Sequence[Stranger]
    hindrances: tuple[Hindrance, ...] = ()  # what refuses scanners, beside a failed storage
    mismatches: Mismatches = NO_MISMATCHES
    rejected_at: float | None = None
    ledger_broken: str = ""
    unkept: Unkept | None = None
    modalities: Sequence[Modality] = ()
    downtime: Downtime | None = None  # the last that was not planned
    clock: Clock = NO_CLOCK
    disk_faults: Sequence[str] = ()
    certificates: Mapping[str, float] = field(default_factory=dict)
    outbox: Mapping[str, ChannelBacklog] = field(default_factory=dict)
    uptime_seconds: float = 0.0
    keeping: Keeping = NOTHING_KEPT
    clock_leap_seconds: float = 0.0
    correction: Correction | None = None  # the last of times that a wrong clock had written
    alarms: Mapping[str, Alarm] = field(default_factory=lambda: KINDS)
    open: frozenset[tuple[str, str]] = frozenset()  # (kind, subject) of the alerts that were told

    def threshold(self, kind: str) -> float:
        return self.alarms[kind].threshold

    def is_open(self, kind: str, subject: str) -> bool:
        return (kind, subject) in self.open

    def slack(self, kind: str, subject: str) -> float:
        """What a threshold is multiplied with that is exceeded from below."""
        return SLACK if self.is_open(kind, subject) else 1.0


def alert(
    kind: str,
    subject: str,
    severity: str,
    since: float,
    what: str,
    means: str,
    *actions: Action,
    ended: float | None = None,
) -> Alert:
    """An alert whose advice is made of its actions."""
    do = ", ".join(action.text for action in actions)
    return Alert(kind, subject, severity, since, what, means, do, ended=ended, actions=actions)
