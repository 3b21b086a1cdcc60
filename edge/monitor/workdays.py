"""The site's calendar: which days are worked on, and when a number of business days has passed. Pure."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

from edge.config.alarms import Term
from edge.config.sections import Calendar

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ONE_DAY = timedelta(days=1)
#: A calendar without working days must not make a search endless.
LONGEST = 400


def local(calendar: Calendar, at: float) -> datetime:
    """Seconds since 1970 as the site's clock shows them."""
    return datetime.fromtimestamp(at, timezone.utc).astimezone(calendar.zone)


def day_moment(calendar: Calendar, day: date, seconds: float) -> float:
    """The time of day, in seconds since midnight, on a day, as seconds since 1970."""
    clock = (datetime.combine(day, time()) + timedelta(seconds=seconds)).replace(tzinfo=calendar.zone)
    return clock.timestamp()


def is_holiday(calendar: Calendar, day: date) -> bool:
    return day.isoformat() in calendar.holidays or day.isoformat()[5:] in calendar.holidays


def is_worked(calendar: Calendar, day: date) -> bool:
    return WEEKDAYS[day.weekday()] in calendar.working_days and not is_holiday(calendar, day)


def due(calendar: Calendar, since: float, term: Term) -> float:
    """When a term that began at `since` is over; what began on a day off counts from the next working day's start."""
    if not term.days:
        return since + term.seconds
    begin = local(calendar, since)
    day, clock = begin.date(), begin.time()
    seconds = clock.hour * 3600.0 + clock.minute * 60 + clock.second
    if not is_worked(calendar, day):
        day, seconds = _next(calendar, day), 0.0
    for _ in range(term.days):
        day = _next(calendar, day)
    return day_moment(calendar, day, seconds)


def _next(calendar: Calendar, day: date) -> date:
    for _ in range(LONGEST):
        day += ONE_DAY
        if is_worked(calendar, day):
            break
    return day
