"""The month of a site: downtimes, volumes, answers, alerts, equipment, and what the disk needs in the years to come.

It is made of what is measured minute by minute (edge.store.samples), so it names no patient. `monthly_report` reads;
everything else is pure. Limits: what was not measured, such as the time before an upgrade, is absent, never guessed;
capacity is a straight line through the days that were measured, from LEAST_MEASURED_DAYS on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from edge.config.maintenance import PlannedWork, windows_of
from edge.config.sections import Calendar, Config
from edge.errors import EdgeError
from edge.model import Disk
from edge.monitor.downtime import apply_plan
from edge.monitor.workdays import ONE_DAY, day_moment, local
from edge.store import alert_records, downtimes, peers, samples
from edge.store.database import Transaction
from edge.store.downtimes import Downtime
from edge.store.samples import DAY

Series = Sequence[tuple[float, float]]

#: Capacity is projected from this number of measured days on, for this number of years.
LEAST_MEASURED_DAYS, PROJECTED_YEARS = 14, (1, 2, 3, 4, 5)
DAYS_A_YEAR = 365.25
#: The report of a month is mailed from this hour of the site's day on.
MAIL_HOUR = 7
#: Moments are seconds since then.
_FIRST_YEAR = 1970
#: Most rows of each part.
MOST_REPORT_ROWS = 100


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month of the site; seconds since 1970. `end` is the moment of the report where the month goes on."""

    name: str  # 2026-11
    begin: float
    end: float
    is_over: bool


@dataclass(frozen=True, slots=True)
class Volume:
    """What one modality sent, or one destination took."""

    name: str
    objects: int
    bytes: int
    answer_seconds: float | None  # the mean; None: nothing was answered


@dataclass(frozen=True, slots=True)
class LargestBacklog:
    """The most that waited for a destination, and when."""

    name: str
    most: int
    at: float


@dataclass(frozen=True, slots=True)
class AlertCount:
    """The alerts of one kind that were open in the month."""

    kind: str
    count: int
    seconds: float  # that one was open, within the month


@dataclass(frozen=True, slots=True)
class NewEquipment:
    """Equipment that called for the first time in the month."""

    ae_title: str
    address: str
    modality: str
    manufacturer: str
    model: str
    first_seen: float


@dataclass(frozen=True, slots=True)
class YearAhead:
    """The disk and the daily intake in some years, at the growth that was measured."""

    years: int
    used_bytes: float | None
    intake_per_day_bytes: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """How the disk and the intake grow. `keeps_days`: how long the disk holds what comes."""

    days: int  # that were measured
    disk_bytes: int
    used_bytes: int
    intake_per_day_bytes: float | None
    growth_per_year_bytes: float | None  # of the intake of a year
    keeps_days: float | None
    ahead: tuple[YearAhead, ...] = ()


@dataclass(frozen=True, slots=True)
class MonthlyReport:
    """All of it."""

    site_id: str
    site_name: str
    month: Month
    made_at: float
    planned_seconds: float
    unplanned_seconds: float
    available: float  # 0 to 1; planned downtime does not lessen it
    downtimes: tuple[Downtime, ...]
    received: tuple[Volume, ...]
    sent: tuple[Volume, ...]
    received_bytes: int
    backlogs: tuple[LargestBacklog, ...]
    alerts: tuple[AlertCount, ...]
    equipment: tuple[NewEquipment, ...]
    capacity: Capacity
    measured_from: float | None  # when the measuring began, where that is within the month


# -- pure --------------------------------------------------------------------------------------------------------------


def month_of(text: str, calendar: Calendar, now: float) -> Month:
    """A month such as "2026-11"; empty: the last whole one. Raises EdgeError."""
    today = local(calendar, now).date()
    first = _first_day(text, today) if text else (today.replace(day=1) - ONE_DAY).replace(day=1)
    if first > today:
        raise EdgeError(f"{first:%Y-%m} has not begun")
    after = (first + timedelta(days=32)).replace(day=1)
    begin, end = (day_moment(calendar, day, 0.0) for day in (first, after))
    return Month(f"{first:%Y-%m}", begin, min(end, now), is_over=end <= now)


def _first_day(text: str, today: date) -> date:
    try:
        first = date(*time.strptime(text, "%Y-%m")[:3])
    except ValueError:
        first = None
    if first is None or first.year < _FIRST_YEAR:
        raise EdgeError(f'expected a month such as "{today:%Y-%m}", found "{text}"')
    return first


def latest_months(calendar: Calendar, now: float, count: int) -> list[str]:
    """The months of the site, the present one first."""
    first, found = local(calendar, now).date().replace(day=1), []
    for _ in range(count):
        found.append(f"{first:%Y-%m}")
        first = (first - ONE_DAY).replace(day=1)
    return found


def mail_is_due(last: str, calendar: Calendar, now: float) -> bool:
    """Is the report of the last whole month to be mailed? From MAIL_HOUR of the first day of a month on, once.

    `last`: the month that was mailed last, or that was the last whole one when the first mail was wanted.
    """
    here = local(calendar, now)
    is_early = here.day == 1 and here.hour < MAIL_HOUR
    return not is_early and last < month_of("", calendar, now).name


def growth_of(points: Series) -> float:
    """How much a sum has grown; where it begins again at 0, because the gateway was started, it counts from there."""
    return sum(after - before if after >= before else after for (_, before), (_, after) in pairwise(points))


def overlap(begin: float, end: float, month: Month) -> float:
    return max(0.0, min(end, month.end) - max(begin, month.begin))


def sum_downtimes(found: Iterable[Downtime], month: Month, *, planned: bool) -> float:
    return sum(overlap(each.began, each.ended, month) for each in found if each.planned is planned)


def daily_growth(points: Series) -> list[tuple[float, float]]:
    """(day, growth on it) of a sum, for whole days of 86,400 seconds."""
    if not points:
        return []
    days: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        days.setdefault(int(point[0] // DAY), []).append(point)
    numbers = sorted(days)
    found = []
    for before, day in pairwise(numbers):
        if day == before + 1:
            found.append((day * 1.0, growth_of([days[before][-1], *days[day]])))
    return found[:-1] if found else []  # the last day is not over


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: (value at the last point, growth a unit)."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return mean_y + slope * (points[-1][0] - mean_x), slope


def project(received: Series, used: Series, disk: Disk) -> Capacity:
    """Where disk and intake will be."""
    days = daily_growth(received)
    if len(days) < LEAST_MEASURED_DAYS:
        return Capacity(len(days), disk.total_bytes, disk.used_bytes, None, None, None)
    intake, slope = fit_line(days)
    intake = max(0.0, intake)
    grows = _daily_use(used)
    ahead = []
    for years in PROJECTED_YEARS:
        later = max(0.0, intake + slope * years * DAYS_A_YEAR)
        in_use = None if grows is None else max(0.0, disk.used_bytes + grows * years * DAYS_A_YEAR)
        ahead.append(YearAhead(years, in_use, later))
    keeps = disk.total_bytes / intake if intake > 0 else None
    return Capacity(len(days), disk.total_bytes, disk.used_bytes, intake, slope * DAYS_A_YEAR, keeps, tuple(ahead))


def _daily_use(used: Series) -> float | None:
    """How much the use of the disk grows in a day."""
    last: dict[int, float] = {int(at // DAY): value for at, value in used}
    if len(last) < LEAST_MEASURED_DAYS:
        return None
    return fit_line([(float(day), value) for day, value in sorted(last.items())])[1]


# -- reading -----------------------------------------------------------------------------------------------------------


def monthly_report(conn: Transaction, config: Config, disk: Disk, month: Month, now: float) -> MonthlyReport:
    """Read what the report of a month is made of."""
    windows = windows_of(config.maintenances.values(), config.calendar.time_zone)
    down = _downtimes(conn, month, windows)
    unplanned = sum_downtimes(down, month, planned=False)
    begun = samples.first_at(conn, "disk.used")
    lasted = month.end - max(month.begin, begun or month.begin)
    year = now - 366 * DAY
    capacity = project(samples.series(conn, "received.bytes", year), samples.series(conn, "disk.used", year), disk)
    return MonthlyReport(
        site_id=config.site.id,
        site_name=config.site.name,
        month=month,
        made_at=now,
        planned_seconds=sum_downtimes(down, month, planned=True),
        unplanned_seconds=unplanned,
        available=1.0 - unplanned / lasted if lasted > 0 else 1.0,
        downtimes=tuple(down[:MOST_REPORT_ROWS]),
        received=tuple(_volumes(conn, "received", month)),
        sent=tuple(_volumes(conn, "sent", month)),
        received_bytes=int(growth_of(_series_of_month(conn, "received.bytes", month))),
        backlogs=tuple(_backlogs(conn, month)),
        alerts=tuple(_alerts(conn, month)),
        equipment=tuple(_equipment(conn, month)),
        capacity=capacity,
        measured_from=begun if begun is not None and begun > month.begin else None,
    )


def _series_of_month(conn: Transaction, name: str, month: Month) -> Series:
    """The samples of a month, with the last one before it: a sum grows from there."""
    found = samples.series(conn, name, month.begin - DAY)
    before = [each for each in found if each[0] < month.begin]
    return [*before[-1:], *(each for each in found if month.begin <= each[0] <= month.end)]


def _downtimes(conn: Transaction, month: Month, windows: Sequence[PlannedWork]) -> list[Downtime]:
    found = (each for each in downtimes.all_downtimes(conn) if overlap(each.began, each.ended, month) > 0)
    return [planned for each in found if (planned := apply_plan(each, windows)) is not None]


def _volumes(conn: Transaction, prefix: str, month: Month) -> list[Volume]:
    found = []
    for name in samples.names_below(conn, f"{prefix}.answers/"):
        parts = ("answers", "answer.seconds", "answer.bytes")
        count, seconds, octets = (growth_of(_series_of_month(conn, f"{prefix}.{part}/{name}", month)) for part in parts)
        if count:
            found.append(Volume(name, int(count), int(octets), seconds / count))
    return sorted(found, key=lambda each: -each.bytes)


def _backlogs(conn: Transaction, month: Month) -> list[LargestBacklog]:
    found = []
    for name in samples.names_below(conn, "backlog/"):
        points = [each for each in _series_of_month(conn, f"backlog/{name}", month) if each[0] >= month.begin]
        if points:
            at, most = max(points, key=lambda each: each[1])
            found.append(LargestBacklog(name, int(most), at))
    return found


def _alerts(conn: Transaction, month: Month) -> list[AlertCount]:
    found: dict[str, tuple[int, float]] = {}
    for each in alert_records.records(conn, month.begin):
        if each.notified and each.since < month.end:
            count, seconds = found.get(each.kind, (0, 0.0))
            found[each.kind] = count + 1, seconds + overlap(each.since, each.ended_at or month.end, month)
    return [AlertCount(kind, *numbers) for kind, numbers in sorted(found.items(), key=lambda item: -item[1][0])]


def _equipment(conn: Transaction, month: Month) -> list[NewEquipment]:
    return [
        NewEquipment(
            row["ae_title"], row["address"], row["modality"], row["manufacturer"], row["model"], row["first_seen"]
        )
        for row in peers.all_peers(conn, 1000)
        if row["admitted"] and month.begin <= row["first_seen"] < month.end
    ][:MOST_REPORT_ROWS]
