"""Forecasts: when a disk will be full, and a backlog sent. Pure: from samples to seconds.

A clinic's disk fills by day and not by night, so a rate of the last minutes predicts nothing. Where a whole day is
known, the forecast repeats the last day (the last week, where that is known), step by step, until the limit is
reached. Where less is known, the rate of the last hours counts, the latest most. Traffic that the known days never had,
such as a migration, counts by its own rate.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import median

from edge.store.samples import DAY, HOUR

#: (time, used bytes), the oldest first.
Usage = Sequence[tuple[float, float]]

#: A forecast needs samples of this time at least.
LEAST_KNOWN_SECONDS = 600.0
#: Where no day is known: the seconds after which a rate weighs half.
HALF_LIFE = 2 * HOUR
STEP = 600.0
#: Growth above this multiple of the most in SURGE_SECONDS of the days before is of another kind.
SURGE, SURGE_SECONDS = 2.0, 3 * HOUR
#: Of this number of days and more, one that grew by more than this multiple of the median day counts as that much.
LEAST_KNOWN_DAYS, UNUSUAL = 5, 2.0
#: A load is over when it has grown by less than this share of its rate for this time.
LULL_SECONDS, LULL_SHARE = 1800.0, 0.1
#: Samples may begin late by this time, and a period still counts as known.
GAP_SECONDS = HOUR


def full_in_seconds(usage: Usage, limit: float) -> float | None:
    """When the use reaches `limit` bytes. 0 when it has; None when it does not grow, or too few samples are known."""
    if not usage:
        return None
    (begin, _), (now, used) = usage[0], usage[-1]
    left, known = limit - used, now - begin
    if left <= 0:
        return 0.0
    if known < LEAST_KNOWN_SECONDS:
        return None
    period = next((period for period in (7 * DAY, DAY) if known >= period - GAP_SECONDS), None)
    if period is None or _surges(usage, period):
        if not _still_grows(usage):
            return None if period is None else _replay(_without_surge(_steps(usage, period)), left)
        rate = recent_rate(usage)
        return left / rate if rate > 0 else None
    return _replay(_usual_days(_steps(usage, period)), left)


def _usual_days(steps: Sequence[float]) -> list[float]:
    """A week's steps, with each day that had a load of another kind scaled down to the usual day."""
    width = int(DAY / STEP)
    days = [list(steps[at : at + width]) for at in range(0, len(steps) - width + 1, width)]
    usual = median([sum(day) for day in days]) if len(days) >= LEAST_KNOWN_DAYS else 0.0
    if usual <= 0:
        return list(steps)
    return [step * min(1.0, UNUSUAL * usual / max(sum(day), 1.0)) for day in days for step in day]


def _still_grows(usage: Usage) -> bool:
    """Whether the load goes on: one that is over says nothing about the hours to come."""
    now, used = usage[-1]
    grown = used - _used_at(usage, now - LULL_SECONDS)
    return grown > LULL_SHARE * recent_rate(usage) * LULL_SECONDS


def _without_surge(steps: Sequence[float]) -> list[float]:
    """The same days as if the load of the last hours had been as the most before it."""
    width = int(SURGE_SECONDS / STEP)
    most = max(steps[:-width], default=0.0)
    return [min(step, most) for step in steps]


def recent_rate(usage: Usage) -> float:
    """Growth in bytes a second; what is HALF_LIFE old weighs half."""
    now = usage[-1][0]
    grown = lasted = 0.0
    for (begin, before), (end, after) in pairwise(usage):
        weight = 2.0 ** ((end - now) / HALF_LIFE)
        grown += weight * (after - before)
        lasted += weight * (end - begin)
    return grown / lasted if lasted else 0.0


def _surges(usage: Usage, period: float) -> bool:
    """Is the growth of the last hours of another kind than that of the days before?"""
    steps = _steps(usage, period)
    width = int(SURGE_SECONDS / STEP)
    grown = [sum(steps[at : at + width]) for at in range(len(steps) - width + 1)]
    return grown[-1] > SURGE * max(max(grown[:-width], default=0.0), sum(steps) / len(steps) * width / SURGE)


def _steps(usage: Usage, period: float) -> list[float]:
    """The growth in each STEP of the last `period`, between samples in proportion."""
    now = usage[-1][0]
    marks = [_used_at(usage, now - period + n * STEP) for n in range(int(period / STEP) + 1)]
    return [after - before for before, after in pairwise(marks)]


def _used_at(usage: Usage, at: float) -> float:
    index = bisect_left(usage, (at,))
    if index == 0:
        return usage[0][1]
    if index == len(usage):
        return usage[-1][1]
    (begin, before), (end, after) = usage[index - 1], usage[index]
    return before + (after - before) * (at - begin) / (end - begin)


def _replay(steps: Sequence[float], left: float) -> float | None:
    """When the repeated `steps` have grown by `left`; None: never."""
    net, most = sum(steps), max(accumulate(steps, initial=0.0))  # in one round: growth, and the highest level
    if most < left and net <= 0:
        return None
    rounds = max(0, math.floor((left - most) / net)) if net > 0 else 0
    grown = rounds * net
    for n in range(rounds * len(steps), (rounds + 3) * len(steps)):
        step = steps[n % len(steps)]
        if step > 0 and grown + step >= left:
            return (n + (left - grown) / step) * STEP
        grown += step
    return None


def above_since(usage: Usage, mark: float) -> float | None:
    """Time of the first of the latest samples that all reach `mark` bytes; None when the last one does not."""
    since = None
    for at, used in reversed(usage):
        if used < mark:
            break
        since = at
    return since


def drain_seconds(backlog: int, rate: float | None) -> float | None:
    """How long a backlog of bytes takes at a measured rate; 0 when there is none, None when no rate is known."""
    if not backlog:
        return 0.0
    return backlog / rate if rate else None
