"""When a scanner is missed: simulated weeks, one moment after the other, as the watch would see them."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone

import pytest

from edge.config.alarms import Term
from edge.config.sections import Calendar
from edge.monitor.usual_hours import GONE_DAYS, days_of, usual
from edge.monitor.workdays import due, is_worked

HOUR, DAY = 3600.0, 86400.0
UTC = Calendar(time_zone="UTC", holidays=("12-25", "2026-01-01", "2026-01-19"))
MONDAY = date(2025, 9, 1)

#: When a scanner begins on a day, in hours; None: not at all.
Habit = Callable[[date, random.Random], "float | None"]


def at(day: date, hours: float) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp() + hours * HOUR


def office(day: date, chance: random.Random) -> float | None:
    """Working days, between half past seven and nine."""
    return chance.uniform(7.5, 9.0) if is_worked(UTC, day) else None


def always(_day: date, chance: random.Random) -> float | None:
    """An emergency department."""
    return chance.uniform(0.0, 2.0)


def without_wednesdays(day: date, chance: random.Random) -> float | None:
    return office(day, chance) if day.weekday() != 2 else None


def now_and_then(day: date, chance: random.Random) -> float | None:
    return office(day, chance) if chance.random() < 0.6 else None


def sends(habit: Habit, days: int, seed: int = 1, stops: date | None = None) -> list[float]:
    """Everything the scanner sends: at its beginning, and each hour until 16:00."""
    chance = random.Random(seed)
    found = []
    for n in range(days):
        day = MONDAY + timedelta(days=n)
        begin = habit(day, chance)
        if begin is not None and not (stops and day >= stops):
            found += [at(day, begin), *(at(day, hour) for hour in range(int(begin) + 1, 17))]
    return found


def missed(
    sent: list[float], days: int, first: int = 0, calendar: Calendar = UTC, step: int = 1
) -> Iterator[tuple[datetime, float]]:
    """(moment, missed at) of every `step` hours of the days from `first` on at which the scanner is missed."""
    whole = days_of(calendar, sent)
    for hour in range(first * 24, days * 24, step):
        now = at(MONDAY, hour)
        known = {day: begun for day, begun in whole.items() if at(day, begun / HOUR) <= now}
        if known:
            last = sent[bisect_right(sent, now) - 1]
            seen = usual(calendar, known, last, now, HOUR)
            if seen.missed_at is not None:
                yield datetime.fromtimestamp(now, timezone.utc), seen.missed_at


@pytest.mark.parametrize("habit", [office, always, without_wednesdays, now_and_then])
def test_a_scanner_that_does_as_ever_is_never_missed(habit: Habit) -> None:
    """Sixteen weeks and two holidays, from the first day on."""
    assert list(missed(sends(habit, 145), 145, step=6)) == []


def test_one_that_stops_is_missed_the_same_morning_until_it_is_back() -> None:
    stops = MONDAY + timedelta(days=57)  # a Tuesday
    sent = sends(office, 70, stops=stops)
    back = at(stops + timedelta(days=7), 10.2)
    found = list(missed([*sent, back], 65, 50))
    assert found[0][0] == datetime(2025, 10, 28, 10, 0, tzinfo=timezone.utc)
    assert all(at(stops, 7.5) < since < at(stops, 9.0) for _, since in found)  # the same news all the time
    assert found[-1][0] == datetime(2025, 11, 4, 10, 0, tzinfo=timezone.utc)  # over nights and the weekend
    hours = (found[-1][0] - found[0][0]).total_seconds() / HOUR
    assert len(found) == hours + 1


@pytest.mark.parametrize(("days", "known"), [(2, False), (5, False), (9, False), (10, True), (25, True)])
def test_after_eight_working_days_it_is_known(days: int, known: bool) -> None:
    sent = sends(office, days)
    seen = usual(UTC, days_of(UTC, sent), sent[-1], at(MONDAY + timedelta(days=days), 12), HOUR)
    assert (seen.missed_at is not None) == known


def test_the_weekend_and_a_holiday_are_no_silence() -> None:
    sent = sends(office, 56)
    friday = sent[-1]
    for hours in range(1, 62):
        assert usual(UTC, days_of(UTC, sent), friday, friday + hours * HOUR, HOUR).missed_at is None
    closed = Calendar(time_zone="UTC", holidays=("2025-10-27",))  # the Monday after
    assert usual(closed, days_of(closed, sent), friday, at(date(2025, 10, 27), 12), HOUR).missed_at is None
    assert usual(UTC, days_of(UTC, sent), friday, at(date(2025, 10, 27), 12), HOUR).missed_at is not None


def test_a_scanner_that_works_on_holidays_is_missed_on_one_once_three_are_known() -> None:
    calendar = Calendar(time_zone="UTC", holidays=("2025-09-08", "2025-09-23", "2025-10-14", "2025-11-11"))
    sent = sends(always, 71)  # up to the evening of 10 November
    assert usual(calendar, days_of(calendar, sent), sent[-1], at(date(2025, 11, 11), 9), HOUR).missed_at is not None
    fewer = Calendar(time_zone="UTC", holidays=("2025-09-08", "2025-09-23", "2025-11-11"))
    assert usual(fewer, days_of(fewer, sent), sent[-1], at(date(2025, 11, 11), 9), HOUR).missed_at is None


def test_one_odd_day_spoils_nothing() -> None:
    """One Tuesday off and one late start in ten weeks: it is still expected, and by the usual hour."""
    odd = {MONDAY + timedelta(days=15): None, MONDAY + timedelta(days=22): 15.0}
    habit: Habit = lambda day, chance: odd[day] if day in odd else office(day, chance)  # noqa: E731
    sent = sends(habit, 71)
    seen = usual(UTC, days_of(UTC, sent), sent[-1], at(date(2025, 11, 11), 12), HOUR)
    assert seen.missed_at is not None
    assert "mon, tue, wed, thu, fri" in seen.text


def test_what_the_site_sets_counts_and_never_is_never() -> None:
    sent = sends(office, 5)
    noon = at(MONDAY + timedelta(days=7), 12)
    assert usual(UTC, days_of(UTC, sent), sent[-1], noon, HOUR, 9 * HOUR).missed_at == at(MONDAY + timedelta(7), 9)
    assert usual(UTC, days_of(UTC, sent), sent[-1], noon, HOUR, None).missed_at is None
    assert usual(UTC, days_of(UTC, sent), sent[-1], noon, HOUR, 9 * HOUR).text == "by 09:00 on mon, tue, wed, thu, fri"


def test_equipment_that_is_gone_for_a_month_is_no_news() -> None:
    sent = sends(office, 56)
    gone = sent[-1] + (GONE_DAYS + 2) * DAY
    assert usual(UTC, days_of(UTC, sent), sent[-1], gone, HOUR).missed_at is None


# Business days.


@pytest.mark.parametrize(
    ("since", "days", "expected"),
    [
        ("2025-09-01 14:00", 5, "2025-09-08 14:00"),  # Monday to Monday
        ("2025-09-05 09:00", 1, "2025-09-08 09:00"),  # Friday to Monday
        ("2025-09-06 10:00", 1, "2025-09-09 00:00"),  # Saturday: counted from Monday's start
        ("2025-12-23 08:00", 5, "2025-12-31 08:00"),  # Christmas is none
        ("2025-12-31 08:00", 1, "2026-01-02 08:00"),
    ],
)
def test_business_days(since: str, days: int, expected: str) -> None:
    begin, end = (datetime.fromisoformat(f"{text}+00:00").timestamp() for text in (since, expected))
    assert due(UTC, begin, Term(days=days)) == end


def test_a_term_of_hours_knows_no_weekend_and_a_calendar_without_work_ends() -> None:
    assert due(UTC, 1000.0, Term(seconds=4 * HOUR)) == 1000.0 + 4 * HOUR
    assert due(Calendar(working_days=(), time_zone="UTC"), 0.0, Term(days=5)) > 0


def test_business_days_are_those_of_the_sites_clock() -> None:
    """In Chicago it is still Friday evening when in Greenwich it is Saturday; and a clock is changed between."""
    chicago = Calendar(time_zone="America/Chicago")
    since = datetime(2025, 11, 1, 1, 0, tzinfo=timezone.utc).timestamp()  # Friday 20:00, before the change
    assert due(chicago, since, Term(days=1)) == datetime(2025, 11, 4, 2, 0, tzinfo=timezone.utc).timestamp()
