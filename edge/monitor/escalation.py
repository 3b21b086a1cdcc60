"""The times at which an open condition is notified: an alert of a site or an incident of the centre. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge.config.alarms import ALERT_SEVERITIES, FINAL, Term
from edge.config.sections import Calendar
from edge.monitor.workdays import due

OPENED, CLOSED, ESCALATED = "opened", "closed", "escalated"


@dataclass(frozen=True, slots=True)
class OpenCondition:
    """What decides. `notified`: the worst severity that was notified; empty: none yet. Times in seconds since 1970."""

    severity: str
    since: float
    term: Term  # after which it is escalated
    notified: str
    opens_at: float  # a condition must hold until then
    is_acknowledged: bool
    is_escalated: bool


def notice_due(condition: OpenCondition, calendar: Calendar, now: float) -> str:
    """The event to notify now: opened, escalated (worse than notified, or open for too long), or none, as ""."""
    if not condition.notified:
        return OPENED if now >= condition.opens_at else ""
    if ALERT_SEVERITIES.index(condition.severity) > ALERT_SEVERITIES.index(condition.notified):
        return ESCALATED
    return ESCALATED if not condition.is_escalated and now >= escalates_at(condition, calendar) else ""


def escalates_at(condition: OpenCondition, calendar: Calendar) -> float:
    """When it is escalated if it stays: sooner by severity, unless somebody has acknowledged it."""
    at = due(calendar, condition.since, condition.term)
    return max(at, due(calendar, condition.since, FINAL)) if condition.is_acknowledged else at
