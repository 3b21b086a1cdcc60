"""Should this scanner have sent by now? Learned from its own days, or set by the site. Pure.

A day is compared with days of its kind in the last nine weeks: a Monday with the Mondays; while fewer than four are
known, a working day with the last working days; a holiday with holidays. Only where the modality sent on all of them
is it expected, by the latest hour at which it ever began. Of eight or more one may be an exception, so that one day on
which the gateway or the scanner was down spoils nothing. Equipment that is used now and then is never missed: it is
told by a weekday on which it sent sometimes.

Silence lasts until the modality is heard, over nights and weekends, and is no news after a month: the equipment is
taken to have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta

from edge.config.sections import LEARNED, Calendar
from edge.monitor.snapshot_model import Usual
from edge.monitor.workdays import WEEKDAYS, is_holiday, is_worked, local, moment

#: Days are compared so far back; holidays, which are few, over a year.
WEEKS, YEAR_DAYS = 9, 400
#: So many days of its kind must be known: of one weekday, of working days, of holidays.
LEAST_WEEKDAY, LEAST_WORKED, LEAST_HOLIDAYS = 4, 8, 3
#: From so many on one of them may be an exception.
MANY = 8
#: A silence of so many days is no news any more.
GONE_DAYS = 30

#: Day -> seconds since midnight at which the modality was first heard.
Days = Mapping[date, float]


def days_of(calendar: Calendar, moments: Iterable[float]) -> dict[date, float]:
    """The first of some moments on each of the site's days; `moments` ascend."""
    found: dict[date, float] = {}
    tomorrow = float("-inf")
    for at in moments:
        if at >= tomorrow:
            clock = local(calendar, at)
            found[clock.date()] = clock.hour * 3600.0 + clock.minute * 60 + clock.second
            tomorrow = moment(calendar, clock.date() + timedelta(days=1), 0.0)
    return found


def usual(
    calendar: Calendar, days: Days, last_heard: float, now: float, margin: float, sends_by: float | None = LEARNED
) -> Usual:
    """The rhythm of one modality, and whether it is late by `margin` seconds at `now`.

    `sends_by` is the site's own word: seconds since midnight of each working day, None for never.
    """
    today = local(calendar, now).date()
    if sends_by is None or not days:
        return Usual()

    def expected(day: date) -> float | None:
        return _set(calendar, day, sends_by) if sends_by >= 0 else learned(calendar, days, day)

    return Usual(_words(expected, today), _missed(calendar, expected, last_heard, now, margin))


def _set(calendar: Calendar, day: date, sends_by: float) -> float | None:
    return sends_by if is_worked(calendar, day) else None


def _missed(
    calendar: Calendar, expected: Callable[[date], float | None], last_heard: float, now: float, margin: float
) -> float | None:
    """The first moment since it was last heard at which it should have been."""
    heard_on, today = local(calendar, last_heard).date(), local(calendar, now).date()
    if (today - heard_on).days > GONE_DAYS:
        return None
    for number in range(1, (today - heard_on).days + 1):
        day = heard_on + timedelta(days=number)
        by = expected(day)
        if by is not None:
            late = moment(calendar, day, by)
            return late if late + margin <= now else None
    return None


def learned(calendar: Calendar, days: Days, day: date) -> float | None:
    """When the modality has always begun to send on days like `day`, in seconds since midnight; None: not always."""
    if is_holiday(calendar, day):
        return _latest_start(
            days, _known(days, day, YEAR_DAYS, lambda other: is_holiday(calendar, other)), LEAST_HOLIDAYS
        )
    worked = _known(days, day, WEEKS * 7, lambda other: is_worked(calendar, other))
    same = _known(
        days, day, WEEKS * 7, lambda other: other.weekday() == day.weekday() and not is_holiday(calendar, other)
    )
    if not is_worked(calendar, day):
        return _latest_start(days, same, MANY) if _is_regular(days, worked) else None
    if len(same) < LEAST_WEEKDAY:
        return _latest_start(days, worked, LEAST_WORKED)
    return _latest_start(days, same, LEAST_WEEKDAY, exceptions=True) if _is_regular(days, worked) else None


def _known(days: Days, day: date, back: int, like: Callable[[date], bool]) -> list[date]:
    """The days like `day` of which it is known whether the modality sent."""
    first, last = min(days), max(days)
    before = (last - timedelta(days=n) for n in range(min(back, (last - first).days + 1)))
    return [other for other in before if other != day and like(other)]


def _is_regular(days: Days, worked: Sequence[date]) -> bool:
    """Does it send always or never on each weekday?"""
    for weekday in range(7):
        known = [day for day in worked if day.weekday() == weekday]
        sent, exception = sum(day in days for day in known), int(len(known) >= MANY)
        if exception < sent < len(known) - exception:
            return False
    return True


def _latest_start(days: Days, known: Sequence[date], least: int, *, exceptions: bool = False) -> float | None:
    starts = sorted((days[day] for day in known if day in days), reverse=True)
    exception = int(exceptions and len(known) >= MANY)
    if len(known) < least or len(starts) < len(known) - exception:
        return None
    return starts[exception]


def _words(expected: Callable[[date], float | None], today: date) -> str:
    """`by 08:40 on mon, tue, wed, thu, fri`."""
    week = [today + timedelta(days=n - today.weekday()) for n in range(7)]
    times = {WEEKDAYS[day.weekday()]: expected(day) for day in week}
    named = [name for name in WEEKDAYS if times[name] is not None]
    if not named:
        return ""
    latest = max(time for time in times.values() if time is not None)
    return f"by {int(latest // 3600):02d}:{int(latest % 3600 // 60):02d} on {', '.join(named)}"
