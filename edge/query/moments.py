"""Dates, times and date times of a query as spans of microseconds (PS3.5 section 6.2, PS3.4 section C.2.2.2.5). Pure.

A value is as long as its last component: `1015` is a minute, `101500` a second, `2026` as a date time a year. Spans
include both ends. What is no date or time is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import NamedTuple

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
MINUTE_US = 60 * SECOND_US
#: Beyond every moment that a value can name.
BEFORE_ALL, AFTER_ALL = -10 * DAY_US, 4_000_000 * DAY_US
_ZONE = re.compile(r"([+-])(\d\d)(\d\d)$")
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")
_DATE = re.compile(r"(\d{4})(?:(\d\d)(\d\d)|\.(\d\d)\.(\d\d))")
_DATE_TIME = re.compile(r"(\d{4})(?:(\d\d)(?:(\d\d)(\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?)?)?)?([+-]\d{4})?")
_DATE_TIME_RANGE = re.compile(rf"({_DATE_TIME.pattern})?-({_DATE_TIME.pattern})?")


class Span(NamedTuple):
    """Microseconds of a day, or since the beginning of the year 1; both ends are within."""

    first: int
    last: int

    def holds(self, moment: int) -> bool:
        return self.first <= moment <= self.last


EVER = Span(BEFORE_ALL, AFTER_ALL)


def parse_zone(text: str) -> int | None:
    """Minutes east of UTC of `+0100`, as TimezoneOffsetFromUTC has it (0008,0201)."""
    found = _ZONE.fullmatch(text.strip())
    if found is None:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return -minutes if found[1] == "-" else minutes


def zone_text(minutes: int) -> str:
    """The inverse of `parse_zone`."""
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}{rest:02}"


def time_span(text: str) -> Span | None:
    """A time (VR TM), as ACR-NEMA wrote it as well (`10:15:00`)."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    hour, minute, second, fraction = found.groups()
    values = int(hour), int(minute or 0), int(second or 0)
    if values > (23, 59, 60) or values[1] > 59 or values[2] > 60:
        return None
    first = ((values[0] * 60 + values[1]) * 60 + values[2]) * SECOND_US + int((fraction or "").ljust(6, "0"))
    length = 60 * MINUTE_US if minute is None else MINUTE_US if second is None else 10 ** (6 - len(fraction or ""))
    return Span(first, first + length - 1)


def date_span(text: str) -> Span | None:
    """A date (VR DA), as ACR-NEMA wrote it as well (`2026.11.28`)."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day = int(found[1]), int(found[2] or found[4]), int(found[3] or found[5])
    return _days(year, month, day, 1)


def _end_of_range(text: str) -> Span | None:
    """An end of a range of dates; `20260231`, as many write it, is the last day of its month."""
    found = date_span(text)
    for day in ("30", "29", "28") if found is None and text.strip()[6:] in ("29", "30", "31") else ():
        found = found or date_span(text.strip()[:6] + day)
    return found


def _days(year: int, month: int, day: int, count: int) -> Span | None:
    try:
        first = (date(year, month, day).toordinal() - 1) * DAY_US
    except ValueError:
        return None
    return Span(first, first + count * DAY_US - 1)


def date_time_span(text: str, zone: int = 0) -> Span | None:
    """A date time (VR DT), in UTC. `zone`: minutes east of UTC, where the value does not say its own."""
    found = _DATE_TIME.fullmatch(text.strip())
    return _date_time(found.groups(), zone) if found else None


def _date_time(parts: tuple[str | None, ...], zone: int) -> Span | None:
    year, month, day, time, offset = parts
    days = _date_of(int(year or 0), month, day)
    within = time_span(time) if time else Span(0, 0)
    if days is None or within is None:
        return None
    shift = (parse_zone(offset) or 0 if offset else zone) * MINUTE_US
    first = days.first + within.first - shift
    return Span(first, days.first + within.last - shift if time else days.last - shift)


def _date_of(year: int, month: str | None, day: str | None) -> Span | None:
    if month is None:
        begin, end = _days(year, 1, 1, 1), _days(year, 12, 31, 1)
        return Span(begin.first, end.last) if begin and end else None
    if day is None:
        begin = _days(year, int(month), 1, 1)
        following = _days(year + int(month) // 12, int(month) % 12 + 1, 1, 1)
        return Span(begin.first, following.first - 1) if begin and following else None
    return _days(year, int(month), int(day), 1)


def key_span(vr: str, text: str, zone: int = 0) -> Span | None:
    """What one value of a key covers: a single value, or a range with its ends, one of which may be open."""
    if vr == "DT":
        return date_time_span(text, zone) or _date_time_range(text, zone)
    single = _SPANS[vr]
    return single(text) or _range(text, _end_of_range if vr == "DA" else single)


def value_moment(vr: str, text: str, zone: int = 0) -> int | None:
    """The beginning of a stored value: it matches where the key covers that."""
    span = date_time_span(text, zone) if vr == "DT" else _SPANS[vr](text)
    return span.first if span else None


_SPANS: dict[str, Callable[[str], Span | None]] = {"DA": date_span, "TM": time_span}


def _range(text: str, single: Callable[[str], Span | None]) -> Span | None:
    first, dash, last = text.partition("-")
    return _join_ends(first, last, single) if dash else None


def _date_time_range(text: str, zone: int) -> Span | None:
    found = _DATE_TIME_RANGE.fullmatch(text.strip())
    return _join_ends(found[1] or "", found[7] or "", partial(date_time_span, zone=zone)) if found else None


def _join_ends(first: str, last: str, single: Callable[[str], Span | None]) -> Span | None:
    begin = single(first) if first.strip() else EVER
    end = single(last) if last.strip() else EVER
    return Span(begin.first, end.last) if begin and end else None


def combined_span(dates: str, times: str) -> Span | None:
    """The span of a date key and a time key that mean one range of moments (PS3.4 section C.2.2.2.5.3).

    `20261101-20261102` with `2200-0600` is one night; each end of the time belongs to the same end of the date.
    """
    first_date, date_dash, last_date = dates.partition("-")
    first_time, time_dash, last_time = times.partition("-")
    if not date_dash:
        last_date = first_date
    if not time_dash:
        last_time = first_time
    begin = _moment(first_date, first_time)
    end = _moment(last_date, last_time)
    if begin is None or end is None:
        return None
    return Span(begin.first, end.last)


def _moment(day: str, time: str) -> Span | None:
    if not day.strip():
        return EVER
    days, within = date_span(day), time_span(time) if time.strip() else Span(0, DAY_US - 1)
    return Span(days.first + within.first, days.first + within.last) if days and within else None


def shift_zone(day: str, time: str, stored: int, wanted: int) -> tuple[str, str]:
    """A date and a time of one zone as another zone has them; a date without a time stays."""
    days, within = date_span(day), time_span(time)
    if stored == wanted or days is None or within is None:
        return day, time
    moment = datetime(1, 1, 1) + timedelta(microseconds=days.first + within.first)  # noqa: DTZ001 - of `stored`
    try:
        moment += timedelta(minutes=wanted - stored)
    except OverflowError:
        return day, time
    shape = time.strip().replace(":", "")
    return moment.strftime("%Y%m%d").zfill(8), moment.strftime("%H%M%S.%f")[: max(len(shape), 4)]
