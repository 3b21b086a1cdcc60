"""The growth of the sites' disks: within the week, and over years.

Growth is a straight line through the days that were measured (least squares), and unknown below two weeks of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.central.columns import Answer
from edge.central.config import CentralConfig
from edge.store.central import announcements, history, sites
from edge.store.engine import EngineTransaction, Row
from edge.store.samples import DAY

WEEK = 7 * DAY
YEAR = 365.25 * DAY
#: Growth is shown from this number of measured days on; within the week from LEAST_OF_WEEK on.
LEAST_DAYS, LEAST_OF_WEEK = 14, 3
#: A disk that is full later than this counts as one that does not grow: no calendar has the date.
FAR = 100 * YEAR


def read_growth(conn: EngineTransaction, now: float) -> tuple[Mapping[str, Row], Sequence[Row]]:
    """How the disks grew in the last week, and the sites."""
    return history.sums_since(conn, now - 8 * DAY), sites.list_names(conn)


def list_filling(found: tuple[Mapping[str, Row], Sequence[Row]], config: CentralConfig, now: float) -> Answer:
    """Sites that are full within a week: by their own forecast, or by the growth of the last week."""
    growth, listed = found
    answer = []
    for site in listed:
        by_trend = _full_by_trend(growth.get(site["id"]))
        forecasts = [left for left in (site["full_in"], by_trend) if left is not None]
        if forecasts and min(forecasts) <= WEEK:
            answer.append(
                {
                    "site": site["id"],
                    "name": config.name_of(site["id"], site["name"]),
                    "used_fraction": site["used_fraction"],
                    "full_in_seconds": min(forecasts),
                    "full_at": now + min(forecasts),
                    "by_site_seconds": site["full_in"],
                    "by_trend_seconds": by_trend,
                }
            )
    return sorted(answer, key=lambda each: each["full_in_seconds"])


def _full_by_trend(fit: Row | None) -> float | None:
    """Seconds until a disk is full that goes on as in the last week; None where it does not grow."""
    if fit is None or fit["n"] < LEAST_OF_WEEK:
        return None
    return _seconds_left(fit["total"], *_line(fit, "sy", "sxy"))


def _seconds_left(total: float | None, used: float, growth: float) -> float | None:
    """When a disk is full whose use grows by this number of bytes a day; None where it does not, or is FAR from it."""
    if total is None or growth <= 0:
        return None
    left = max(0.0, (total - used) / growth * DAY)
    return left if left <= FAR else None


Sums = tuple[Mapping[str, Row], Sequence[Row], Mapping[str, int]]


def read_sums(conn: EngineTransaction, now: float) -> Sums:
    """The sums of the last year, the sites, and the bytes a month that each announced in that time."""
    announced: dict[str, int] = {}
    for each in announcements.list_since(conn, now - YEAR):
        announced[each["site"]] = announced.get(each["site"], 0) + (each["expected_bytes_per_month"] or 0)
    return history.sums_since(conn, now - YEAR), sites.list_names(conn), announced


def project_capacity(found: Sums, config: CentralConfig, now: float) -> Answer:
    """Each site's disk and daily intake, now and in 1, 2 and 3 years, from the growth measured in the last year.

    What was announced is a column of its own: how much of it is measured already is not known.
    """
    sums, listed, announced = found
    answer = [
        {
            "site": site["id"],
            "name": config.name_of(site["id"], site["name"]),
            **_project(sums[site["id"]], now),
            "announced_per_month_bytes": announced.get(site["id"]),
        }
        for site in listed
        if site["id"] in sums
    ]
    return sorted(answer, key=lambda each: (each["full_at"] is None, each["full_at"] or 0.0, each["site"]))


def _project(fit: Row, now: float) -> dict[str, Any]:
    """`keeps_..._days`: how long the disk holds what comes, at that intake; None where nothing comes."""
    used, used_growth = _line(fit, "sy", "sxy")
    came, came_growth = _line(fit, "sz", "sxz")
    total, enough = fit["total"], fit["n"] >= LEAST_DAYS
    in_years = [used + used_growth * years * 365.25 for years in (1, 2, 3)] if enough else [None] * 3
    later = max(0.0, came + came_growth * 3 * 365.25) if enough else None
    left = _seconds_left(total, used, used_growth) if enough else None
    return {
        "days": fit["n"],
        "total_bytes": total,
        "used_bytes": max(0.0, used),
        "growth_per_year_bytes": used_growth * 365.25 if enough else None,
        **{f"used_in_{n}_years_bytes": each for n, each in enumerate(in_years, 1)},
        "full_at": None if left is None else now + left,
        "intake_per_day_bytes": max(0.0, came),
        "intake_per_day_in_3_years_bytes": later,
        "keeps_now_days": total / came if total and came > 0 else None,
        "keeps_in_3_years_days": total / later if total and later else None,
    }


def lines_of(fit: Row) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two straight lines over days, each with its last value and its growth a day: used, and received each day."""
    return _line(fit, "sy", "sxy"), _line(fit, "sz", "sxz")


def _line(fit: Row, sum_y: str, sum_xy: str) -> tuple[float, float]:
    """A straight line: its value on the last day, and its growth a day."""
    n, sx, sxx = fit["n"], fit["sx"], fit["sxx"]
    spread = n * sxx - sx * sx
    slope = (n * fit[sum_xy] - sx * fit[sum_y]) / spread if spread else 0.0
    return float(fit[sum_y] / n + slope * (fit["last"] - sx / n)), float(slope)
