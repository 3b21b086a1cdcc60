"""The hour by which a scanner should have sent: learned from its own days, or set by the site. Pure.

A day is compared with days of its kind in the last nine weeks: a Monday with the Mondays; while fewer than four are
known, a working day with the last working days; a holiday with holidays. Only where the modality sent on all of them
is it expected, by the latest hour at which it ever began. Of eight or more one may be an exception, so that one day on
which the gateway or the scanner was down does not matter. Occasionally used equipment is never late: it is recognized
by a weekday on which it sent sometimes.

Silence lasts until the modality sends, over nights and weekends, and is not reported after a month: the equipment is
taken as removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta

from edge.config.sections import LEARNED, Calendar
from edge.monitor.live import Usual
from edge.monitor.workdays import WEEKDAYS, day_moment, is_holiday, is_worked, local

#: Days are compared with this many weeks before; holidays, which are few, over a year.
WEEKS, YEAR_DAYS = 9, 400
#: The least known days of its kind: of one weekday, of working days, of holidays.
LEAST_WEEKDAY, LEAST_WORKED, LEAST_HOLIDAYS = 4, 8, 3
#: Of this number of days or more, one may be an exception.
MANY_DAYS = 8
#: A longer silence is not reported.
GONE_DAYS = 30

#: Day -> seconds since midnight at which the modality first sent.
Days = Mapping[date, float]


def days_of(calendar: Calendar, moments: Iterable[float]) -> dict[date, float]:
    """The first of some moments on each of the site's days; `moments` ascend."""
    found: dict[date, float] = {}
    tomorrow = float("-inf")
    for at in moments:
        if at >= tomorrow:
            clock = local(calendar, at)
            found[clock.date()] = clock.hour * 3600.0 + clock.minute * 60 + clock.second
            tomorrow = day_moment(calendar, clock.date() + timedelta(days=1), 0.0)
    return found


def usual(
    calendar: Calendar, days: Days, last_sent: float, now: float, margin: float, sends_by: float | None = LEARNED
) -> Usual:
    """The usual hours of one modality, and whether it is late by `margin` seconds at `now`.

    `sends_by` is the site's setting: seconds since midnight of each working day, None for never.
    """
    today = local(calendar, now).date()
    if sends_by is None or not days:
        return Usual()

    def hour_of(day: date) -> float | None:
        return _set_hour(calendar, day, sends_by) if sends_by >= 0 else learn_hour(calendar, days, day)

    return Usual(_describe_week(hour_of, today), _first_missed(calendar, hour_of, last_sent, now, margin))


def _set_hour(calendar: Calendar, day: date, sends_by: float) -> float | None:
    return sends_by if is_worked(calendar, day) else None


def _first_missed(
    calendar: Calendar, hour_of: Callable[[date], float | None], last_sent: float, now: float, margin: float
) -> float | None:
    """The first moment since it last sent at which it should have sent."""
    sent_on, today = local(calendar, last_sent).date(), local(calendar, now).date()
    if (today - sent_on).days > GONE_DAYS:
        return None
    for number in range(1, (today - sent_on).days + 1):
        day = sent_on + timedelta(days=number)
        by = hour_of(day)
        if by is not None:
            late = day_moment(calendar, day, by)
            return late if late + margin <= now else None
    return None


def learn_hour(calendar: Calendar, days: Days, day: date) -> float | None:
    """When the modality has always begun to send on days like `day`, in seconds since midnight; None: not always."""
    if is_holiday(calendar, day):
        holidays = [other for other in _days_before(days, day, YEAR_DAYS) if is_holiday(calendar, other)]
        return _latest_start(days, holidays, LEAST_HOLIDAYS)
    others = [other for other in _days_before(days, day, WEEKS * 7) if not is_holiday(calendar, other)]
    worked = [other for other in others if is_worked(calendar, other)]
    same = [other for other in others if other.weekday() == day.weekday()]
    if not is_worked(calendar, day):
        return _latest_start(days, same, MANY_DAYS) if _is_regular(days, worked) else None
    if len(same) < LEAST_WEEKDAY:
        return _latest_start(days, worked, LEAST_WORKED)
    return _latest_start(days, same, LEAST_WEEKDAY, exceptions=True) if _is_regular(days, worked) else None


def _days_before(days: Days, day: date, back: int) -> list[date]:
    """The days of which it is known whether the modality sent, without `day`."""
    first, last = min(days), max(days)
    before = (last - timedelta(days=n) for n in range(min(back, (last - first).days + 1)))
    return [other for other in before if other != day]


def _is_regular(days: Days, worked: Sequence[date]) -> bool:
    """Does it send always or never on each weekday?"""
    for weekday in range(7):
        known = [day for day in worked if day.weekday() == weekday]
        sent, exception = sum(day in days for day in known), int(len(known) >= MANY_DAYS)
        if exception < sent < len(known) - exception:
            return False
    return True


def _latest_start(days: Days, known: Sequence[date], least: int, *, exceptions: bool = False) -> float | None:
    starts = sorted((days[day] for day in known if day in days), reverse=True)
    exception = int(exceptions and len(known) >= MANY_DAYS)
    if len(known) < least or len(starts) < len(known) - exception:
        return None
    return starts[exception]


def _describe_week(hour_of: Callable[[date], float | None], today: date) -> str:
    """`by 08:40 on mon, tue, wed, thu, fri`."""
    week = [today + timedelta(days=n - today.weekday()) for n in range(7)]
    times = {WEEKDAYS[day.weekday()]: hour_of(day) for day in week}
    named = [name for name in WEEKDAYS if times[name] is not None]
    if not named:
        return ""
    latest = max(time for time in times.values() if time is not None)
    return f"by {int(latest // 3600):02d}:{int(latest % 3600 // 60):02d} on {', '.join(named)}"
