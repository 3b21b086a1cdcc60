"""Dates as people write them. Pure.

A day before a month, or a month before a day, is decided by what cannot be the other; where both can be, the text is
ambiguous, and is refused with both readings.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, datetime, timedelta

_MONTH_NAMES = (
    "jan january|feb february|mar march|apr april|may|jun june|jul july|aug august|sep sept september|oct october|"
    "nov november|dec december"
)
_MONTHS = {name: number + 1 for number, names in enumerate(_MONTH_NAMES.split("|")) for name in names.split()}
_WANTED = 'write it as 2026-11-21, 21.11.2026, 21 Nov 2026, 2026-11, "today", "yesterday" or "7 days"'


class DateFault(ValueError):
    """A text that is no date, or more than one; it says so in words."""


def parse_range(text: str, today: date) -> tuple[date, date]:
    """Return the first and the last day that a text means. Raises DateFault."""
    plain = " ".join(re.sub(r"[,;]", " ", text.casefold()).split())
    if (found := _relative(plain, today)) is not None:
        return found
    try:
        return _absolute(plain, text)
    except DateFault:
        raise
    except ValueError:
        raise DateFault(f'"{text}" is no date of the calendar; {_WANTED}') from None


def _relative(plain: str, today: date) -> tuple[date, date] | None:
    if plain in ("today", "now"):
        return today, today
    if plain == "yesterday":
        return today - timedelta(1), today - timedelta(1)
    if match := re.fullmatch(r"(?:last )?(\d{1,4}) ?(d|days?|w|weeks?)(?: ago)?", plain):
        days = int(match[1]) * (7 if match[2].startswith("w") else 1)
        return today - timedelta(days), today
    return None


def _absolute(plain: str, text: str) -> tuple[date, date]:
    if match := re.fullmatch(r"(\d{4})[-./ ]?(\d{2})[-./ ]?(\d{2})|(\d{4})[-./ ](\d{1,2})[-./ ](\d{1,2})", plain):
        year, month, day = (int(each) for each in match.groups() if each)
        return _day(year, month, day)
    if match := re.fullmatch(r"(\d{4})(?:[-./ ](\d{1,2}))?", plain):
        year = int(match[1])
        return _month(year, int(match[2])) if match[2] else (date(year, 1, 1), date(year, 12, 31))
    if match := re.fullmatch(r"(\d{1,2})([-./ ])(\d{1,2})[-./ ](\d{4})", plain):
        return _numbers(int(match[1]), match[2], int(match[3]), int(match[4]), text)
    if match := re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?[-. /]*([a-z]+)[-. /]*(\d{4})", plain):
        return _day(int(match[3]), _month_named(match[2], text), int(match[1]))
    if match := re.fullmatch(r"([a-z]+)[-. /]*(\d{1,2})(?:st|nd|rd|th)?[-. /]+(\d{4})", plain):
        return _day(int(match[3]), _month_named(match[1], text), int(match[2]))
    if match := re.fullmatch(r"([a-z]+)[-. /]*(\d{4})", plain):
        return _month(int(match[2]), _month_named(match[1], text))
    raise DateFault(f'"{text}" is no date that can be read; {_WANTED}')


def _numbers(first: int, separator: str, second: int, year: int, text: str) -> tuple[date, date]:
    """Two numbers and a year: with full stops the day is first; else the one above 12 is the day."""
    if separator == "." or first > 12:
        return _day(year, second, first)
    if second > 12 or first == second:
        return _day(year, first, second)
    both = f"{year}-{second:02}-{first:02} or {year}-{first:02}-{second:02}"
    raise DateFault(f'"{text}" can be two dates: write {both}')


def _month_named(name: str, text: str) -> int:
    if name not in _MONTHS:
        raise DateFault(f'"{text}" names no month; {_WANTED}')
    return _MONTHS[name]


def _day(year: int, month: int, day: int) -> tuple[date, date]:
    found = date(year, month, day)
    return found, found


def _month(year: int, month: int) -> tuple[date, date]:
    return date(year, month, 1), date(year, month, monthrange(year, month)[1])


def read_dates(first: str, last: str, today: date) -> dict[str, str]:
    """Return `date_from` and `date_to` as DICOM writes them (DA); a first date alone that is a range is that range.

    Raises DateFault, also where the first is after the last.
    """
    begin = parse_range(first, today) if first else None
    end = parse_range(last, today) if last else None
    if end is None and begin is not None and begin[0] != begin[1]:
        end = begin
    if begin is not None and end is not None and begin[0] > end[1]:
        raise DateFault(f'"{first}" is after "{last}": nothing can be found')
    found = {"date_from": begin[0] if begin else None, "date_to": end[1] if end else None}
    return {name: day.strftime("%Y%m%d") if day else "" for name, day in found.items()}


def today_here() -> date:
    """Return today's date where the gateway is."""
    return datetime.now().astimezone().date()
