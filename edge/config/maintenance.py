"""[maintenance.NAME]: planned work. What fails meanwhile is planned downtime, and no notice is sent about it. Pure.

The times are local times of the site ([calendar] time_zone), unless they have an offset. Limits: a window of more than
LONGEST_WINDOW_SECONDS is a mistake, for it would silence the alerts of a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from edge.config import kinds
from edge.config.files import Key

if TYPE_CHECKING:
    from edge.config.reading import Reading

#: The longest window.
LONGEST_WINDOW_SECONDS = 14 * 86400.0
#: A machine takes a while to stop and to start.
WINDOW_SLACK_SECONDS = 300.0
#: Alerts that planned work explains; every other kind is notified as ever.
EXPLAINED = frozenset(
    {
        "backlog-old",
        "channel-stuck",
        "clock-skew",
        "commitment-unreported",
        "destination-down",
        "modality-silent",
        "unconfirmed",
        "unscheduled-downtime",
    }
)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """One planned work."""

    name: str
    from_: Annotated[datetime, kinds.MOMENT]
    to: Annotated[datetime, kinds.MOMENT]
    reason: Annotated[str, kinds.TEXT]

    def window(self, time_zone: str | None) -> PlannedWork:
        """The same in seconds since 1970; `time_zone` None: the machine's."""
        zone = ZoneInfo(time_zone) if time_zone else None
        begin, end = (as_local(at, zone).replace(tzinfo=zone).timestamp() for at in (self.from_, self.to))
        return PlannedWork(self.name, begin, end, self.reason)


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """One planned work; seconds since 1970."""

    name: str
    begin: float
    end: float
    reason: str

    def holds(self, at: float) -> bool:
        return self.begin <= at < self.end

    def covers(self, begin: float, end: float) -> bool:
        """Whether a downtime is inside, but for WINDOW_SLACK_SECONDS: what takes longer was not planned."""
        return begin >= self.begin - WINDOW_SLACK_SECONDS and end <= self.end + WINDOW_SLACK_SECONDS


def as_local(at: datetime, zone: tzinfo | None) -> datetime:
    """What the clock of a zone shows at a time that is written (None: of the machine's zone)."""
    return at.astimezone(zone).replace(tzinfo=None) if at.tzinfo else at


def windows_of(maintenances: Iterable[Maintenance], time_zone: str | None) -> tuple[PlannedWork, ...]:
    """All planned work, the earliest first."""
    return tuple(sorted((each.window(time_zone) for each in maintenances), key=lambda each: each.begin))


def window_at(windows: Iterable[PlannedWork], at: float) -> PlannedWork | None:
    """The planned work of a moment."""
    return next((each for each in windows if each.holds(at)), None)


def explains(windows: Iterable[PlannedWork], kind: str, at: float) -> bool:
    """Whether planned work explains an alert of this kind at a moment."""
    return kind in EXPLAINED and window_at(windows, at) is not None


def windows_are_sound(reading: Reading) -> Iterator[tuple[Key, str]]:
    """Find windows that end before they begin, or that are too long (edge.config.cross_checks)."""
    for name, found in reading.named_sections(Maintenance).items():
        begin, end = found.get("from"), found.get("to")
        if begin is None or end is None:
            continue
        if fault := fault_of_window(begin, end):
            yield ("maintenance", name, "to"), fault


def fault_of_window(begin: datetime, end: datetime) -> str:
    """What is wrong with a window; empty where nothing is."""
    seconds = end.timestamp() - begin.timestamp()
    if seconds <= 0:
        return f'expected a time after from, found "{_format_moment(end)}"'
    if seconds > LONGEST_WINDOW_SECONDS:
        return f'expected at most {LONGEST_WINDOW_SECONDS / 86400:.0f} days after from, found "{_format_moment(end)}"'
    return ""


def _format_moment(at: Any) -> str:
    return str(at.strftime("%Y-%m-%d %H:%M"))
