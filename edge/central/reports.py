"""What people ask the centre: each question is a read of the database and a pure function of it, with its columns.

Pages, commands and exports all come from `QUESTIONS`. Growth is a straight line through the days that were measured
(least squares), and unknown below two weeks of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edge.central import equipment, figures, ledgers
from edge.central.config import CentralConfig
from edge.store.central import announcements, history, maintenance, outages, sites
from edge.store.central.ledgers import list_ledgers
from edge.store.engine import EngineTransaction, Row
from edge.store.samples import DAY
from edge.text import iso, percent, size, span

Answer = list[dict[str, Any]]

WEEK = 7 * DAY
YEAR = 365.25 * DAY
#: Growth is shown from this number of measured days on.
LEAST_DAYS = 14


@dataclass(frozen=True, slots=True)
class Column:
    """`kind`: text, count, share, exact (a share, to the last seconds), size, seconds or moment; how it is shown."""

    key: str
    label: str
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `none` is what is said where the answer is empty.

    `read` is what it needs of the database at a time, `answer` computes its rows from that.
    """

    name: str
    title: str
    means: str
    none: str
    columns: tuple[Column, ...]
    read: Callable[[EngineTransaction, float], Any]
    answer: Callable[[Any, CentralConfig, float], Answer]

    def ask(self, conn: EngineTransaction, config: CentralConfig, now: float) -> Answer:
        """Its rows."""
        return self.answer(self.read(conn, now), config, now)


# -- filling -----------------------------------------------------------------------------------------------------------


def read_growth(conn: EngineTransaction, now: float) -> tuple[Mapping[str, Row], Sequence[Row]]:
    """How the disks grew in the last week, and the sites."""
    return history.growth_since(conn, now - 8 * DAY), sites.list_names(conn)


def filling(found: tuple[Mapping[str, Row], Sequence[Row]], config: CentralConfig, now: float) -> Answer:
    """Sites that are full within a week: by their own forecast, or by the growth of the last week."""
    growth, listed = found
    answer = []
    for site in listed:
        by_trend = _full_by_trend(growth.get(site["id"]), now)
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


def _full_by_trend(row: Row | None, now: float) -> float | None:
    """Seconds until a disk is full that goes on as in the last week; None where it does not grow."""
    if row is None or row["days"] < 3 or row["total"] is None or row["most"] <= row["least"]:
        return None
    rate = (row["most"] - row["least"]) / (row["until"] - row["begin"])
    return float(max(0.0, (row["total"] - row["most"]) / rate))


# -- downtime ----------------------------------------------------------------------------------------------------------


#: Outages, sites by id and name, planned work.
Outages = tuple[Sequence[Row], Sequence[Any], Sequence[Row]]


def read_outages(conn: EngineTransaction, now: float) -> Outages:
    """The outages of the last 13 months, the sites, and what work was planned there."""
    begin = months_back(now, 12)
    return (
        outages.list_outages_since(conn, begin, now),
        sites.list_names(conn),
        maintenance.list_windows(conn, begin),
    )


def downtime(found: Outages, config: CentralConfig, now: float) -> Answer:
    """Each site's outages by month, of the last 13 months: how often, how long down, how long only unreachable.

    Downtime in planned work is counted as planned, and does not lessen the availability.
    """
    begin = months_back(now, 12)
    listed, known, windows = found
    planned: dict[str, list[tuple[float, float]]] = {}
    for window in windows:
        planned.setdefault(window["site"], []).append((window["begins_at"], window["ends_at"]))
    names = {row["id"]: config.name_of(row["id"], row["name"]) for row in known}
    answer: dict[tuple[str, str], dict[str, Any]] = {}
    for outage in listed:
        down, silent = _down(outage, now), (outage["silent_from"], outage["returned_at"] or now)
        for month, first, last in _months(max(begin, min(down[0], silent[0])), max(down[1], silent[1])):
            site = {"site": outage["site"], "name": names.get(outage["site"], ""), "month": month}
            nothing = {"outages": 0, "down_seconds": 0.0, "planned_seconds": 0.0}
            nothing |= {"unreachable_seconds": 0.0, "available": 1.0}
            row = answer.setdefault((month, outage["site"]), {**site, **nothing})
            within = _overlap(down, (first, last))
            row["outages"] += 1
            as_planned = _planned_part(down, (first, last), planned.get(outage["site"], ()))
            row["down_seconds"] += within - as_planned
            row["planned_seconds"] += as_planned
            row["unreachable_seconds"] += max(0.0, _overlap(silent, (first, last)) - within)
            row["available"] = 1 - row["down_seconds"] / (min(last, now) - first)
    return [answer[key] for key in sorted(answer, reverse=True)]


def _planned_part(
    down: tuple[float, float], month: tuple[float, float], windows: Iterable[tuple[float, float]]
) -> float:
    """How much of a downtime in a month was planned; windows that overlap count once."""
    begin, end = max(down[0], month[0]), min(down[1], month[1])
    done, total = begin, 0.0
    for first, last in sorted(windows):
        total += max(0.0, min(end, last) - max(done, first))
        done = max(done, min(end, last))
    return total


def _down(outage: Row, now: float) -> tuple[float, float]:
    """When the site did not run: as it reports, else as measured, else, while it is not known, all the silence."""
    for begin, end in (("reported_from", "reported_to"), ("down_from", "down_to")):
        if outage[begin] is not None:
            return outage[begin], outage[end]
    if outage["cause"] == "unreachable":
        return outage["silent_from"], outage["silent_from"]
    return outage["silent_from"], outage["returned_at"] or now


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def months_back(now: float, count: int) -> float:
    """The beginning (UTC) of the month that was `count` months before this one."""
    at = datetime.fromtimestamp(now, timezone.utc)
    index = at.year * 12 + at.month - 1 - count
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=timezone.utc).timestamp()


def _months(begin: float, end: float) -> Iterator[tuple[str, float, float]]:
    """The months (UTC) that a time touches: their name, beginning and end."""
    first = months_back(begin, 0)
    while first <= end:
        after = months_back(first, -1)
        yield iso(first)[:7], first, after
        first = after


# -- capacity ----------------------------------------------------------------------------------------------------------


Sums = tuple[Mapping[str, Row], Sequence[Row], Mapping[str, int]]


def read_sums(conn: EngineTransaction, now: float) -> Sums:
    """The sums of the last year, the sites, and the bytes a month that each announced in that time."""
    announced: dict[str, int] = {}
    for each in announcements.list_since(conn, now - YEAR):
        announced[each["site"]] = announced.get(each["site"], 0) + (each["expected_bytes_per_month"] or 0)
    return history.sums_since(conn, now - YEAR), sites.list_names(conn), announced


def capacity(found: Sums, config: CentralConfig, now: float) -> Answer:
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
    grows = enough and used_growth > 0 and total is not None
    return {
        "days": fit["n"],
        "total_bytes": total,
        "used_bytes": max(0.0, used),
        "growth_per_year_bytes": used_growth * 365.25 if enough else None,
        **{f"used_in_{n}_years_bytes": each for n, each in enumerate(in_years, 1)},
        "full_at": now + max(0.0, (total - used) / used_growth) * DAY if grows else None,
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


def list_announced(found: tuple[Sequence[Row], Sequence[Row]], config: CentralConfig, _now: float) -> Answer:
    """What people at the sites have announced, the latest first."""
    listed, known = found
    names = {row["id"]: config.name_of(row["id"], row["name"]) for row in known}
    return [{**each, "name": names.get(each["site"], "")} for each in listed]


# -- the questions -----------------------------------------------------------------------------------------------------


def _read_statuses(conn: EngineTransaction, _now: float) -> Sequence[Row]:
    return sites.list_statuses(conn)


_SITE = (Column("site", "Site"), Column("name", "Name"))
_TITLE = (
    Column("ae_title", "AE title"),
    Column("mark", "Mark"),
    Column("address", "Address"),
    Column("manufacturer", "Manufacturer"),
    Column("model", "Model"),
    Column("serial", "Serial number"),
    Column("software", "Software"),
    Column("changed_at", "Changed", "moment"),
    Column("first_seen", "First seen", "moment"),
    Column("last_seen", "Last seen", "moment"),
    Column("admitted", "Admitted"),
)

QUESTIONS: Mapping[str, Question] = {
    each.name: each
    for each in (
        Question(
            "filling",
            "Which sites fill up this week?",
            "By the site's own forecast, or if the disk grows as in the last week; whichever is sooner.",
            "No site fills up within a week.",
            (
                *_SITE,
                Column("used_fraction", "Used", "share"),
                Column("full_in_seconds", "Full in", "seconds"),
                Column("full_at", "Full at", "moment"),
                Column("by_site_seconds", "By the site", "seconds"),
                Column("by_trend_seconds", "By the week", "seconds"),
            ),
            read_growth,
            filling,
        ),
        Question(
            "equipment",
            "Which equipment is not registered?",
            "AE titles that a site has seen and that its [site] table does not name. Register them, or find out more.",
            "All equipment that was seen is registered.",
            (*_SITE, *_TITLE),
            _read_statuses,
            equipment.list_unregistered,
        ),
        Question(
            "downtime",
            "How long was each site down?",
            "By site and month (UTC), 13 months back. Unreachable: the gateway ran, only its link was cut."
            " Planned: during maintenance, which does not count as down.",
            "No site was down or unreachable.",
            (
                *_SITE,
                Column("month", "Month"),
                Column("outages", "Outages", "count"),
                Column("down_seconds", "Down", "seconds"),
                Column("planned_seconds", "Planned", "seconds"),
                Column("unreachable_seconds", "Unreachable", "seconds"),
                Column("available", "Available", "exact"),
            ),
            read_outages,
            downtime,
        ),
        Question(
            "capacity",
            "Where will the disks be in three years?",
            "A straight line through the days of the last year. Keeps: how many days of intake the disk holds.",
            "Nothing has been measured yet.",
            (
                *_SITE,
                Column("total_bytes", "Disk", "size"),
                Column("used_bytes", "Used", "size"),
                Column("growth_per_year_bytes", "Growth a year", "size"),
                Column("used_in_1_years_bytes", "Used in 1 year", "size"),
                Column("used_in_2_years_bytes", "Used in 2 years", "size"),
                Column("used_in_3_years_bytes", "Used in 3 years", "size"),
                Column("full_at", "Full", "moment"),
                Column("intake_per_day_bytes", "Intake a day", "size"),
                Column("intake_per_day_in_3_years_bytes", "Intake in 3 years", "size"),
                Column("announced_per_month_bytes", "Announced a month", "size"),
                Column("keeps_now_days", "Keeps, days", "count"),
                Column("keeps_in_3_years_days", "Keeps in 3 years", "count"),
                Column("days", "Days measured", "count"),
            ),
            read_sums,
            capacity,
        ),
        Question(
            "figures",
            "What does the equipment send?",
            "By sender, of the last week: shares of its objects, and of studies proved more than 60 s after their"
            " first object; before: the same four weeks ago.",
            "No site has reported figures yet.",
            (
                *_SITE,
                Column("ae_title", "AE title"),
                Column("objects", "Objects", "count"),
                Column("patient_id_share", "Patient ID", "share"),
                Column("patient_id_share_before", "Before", "share"),
                Column("accession_share", "Accession", "share"),
                Column("description_share", "Description", "share"),
                Column("referring_physician_share", "Referring", "share"),
                Column("lossy_share", "Lossy", "share"),
                Column("private_share", "Private", "share"),
                Column("slow_share", "Slow", "share"),
                Column("slow_share_before", "Before", "share"),
                Column("proof_median_seconds", "Proof", "seconds"),
                Column("dose_missing", "No dose report", "count"),
                Column("asks_worklist", "Worklist"),
            ),
            figures.read_figures,
            figures.list_senders,
        ),
        Question(
            "announced",
            "What have sites announced?",
            "New equipment, storage and requirements of the last year, by a person at the site.",
            "Nothing was announced in the last year.",
            (
                *_SITE,
                Column("at", "Announced", "moment"),
                Column("kind", "What"),
                Column("from_date", "From"),
                Column("expected_bytes_per_month", "A month", "size"),
                Column("said", "Text"),
            ),
            lambda conn, now: (announcements.list_since(conn, now - YEAR), sites.list_names(conn)),
            list_announced,
        ),
        Question(
            "inventory",
            "Which AE titles are there?",
            "Orphaned: registered, but never seen or not for two months. Unknown: seen, registered nowhere."
            " Misrouted: seen here, registered elsewhere.",
            "No AE title is registered or was seen.",
            (*_SITE, *_TITLE),
            _read_statuses,
            equipment.list_titles,
        ),
        Question(
            "ledgers",
            "Is each custody ledger unchanged?",
            "Proved: the site has shown that its ledger still holds the head that was acknowledged. Contradicted:"
            " it does not; see the incident. Not proved: the site is of a version that cannot.",
            "No site has reported yet.",
            (
                *_SITE,
                Column("state", "Ledger"),
                Column("era", "Era"),
                Column("entries", "Entries", "count"),
                Column("acknowledged_seq", "Acknowledged", "count"),
                Column("acknowledged_at", "At", "moment"),
                Column("proved_seq", "Proved", "count"),
                Column("proved_at", "Proved at", "moment"),
                Column("incident", "Incident"),
                Column("acknowledged_head", "Head"),
            ),
            lambda conn, _now: list_ledgers(conn),
            ledgers.list_ledger_states,
        ),
    )
}


def exact(share: float) -> str:
    """A share of which the last thousandth of a percent counts: never 100 % where something is missing."""
    return f"{math.floor(share * 100_000) / 1000:.3f} %"


#: How the kinds of Column are shown, but for moments and counts.
CELLS: Mapping[str, Callable[[Any], str]] = {
    "share": percent,
    "exact": exact,
    "size": lambda octets: size(octets) if octets >= 0 else f"-{size(-octets)}",
    "seconds": span,
}
