"""What the office is asked: each question is one function from the database to rows, with its columns and its words.

Pages, commands and exports all come from `QUESTIONS`. Growth is a straight line through the days that were measured
(least squares), and unknown below two weeks of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edge.central import ledgers
from edge.central.config import Config
from edge.central.store import Connection, Row, rows
from edge.text import from_iso, iso, printable

Answer = list[dict[str, Any]]

DAY = 86400.0
WEEK = 7 * DAY
YEAR = 365.25 * DAY
#: Growth is told from so many measured days on.
LEAST_DAYS = 14
#: A registered AE title that was quiet for so long is orphaned.
ORPHANED_SECONDS = 60 * DAY


@dataclass(frozen=True, slots=True)
class Column:
    """`kind`: text, count, share, exact (a share, to the last seconds), size, seconds or moment; how it is shown."""

    key: str
    label: str
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `none` is what is said where the answer is empty."""

    name: str
    title: str
    means: str
    none: str
    columns: tuple[Column, ...]
    ask: Callable[[Connection, Config, float], Answer]


# -- filling -----------------------------------------------------------------------------------------------------------


def filling(conn: Connection, config: Config, now: float) -> Answer:
    """Sites that are full within a week: by their own forecast, or by the growth of the last week."""
    trend = {row["site"]: row for row in rows(conn, _LAST_WEEK, begin=int(now - 8 * DAY))}
    found = []
    for site in rows(conn, "SELECT id, name, used_fraction, full_in, heard_at FROM site"):
        by_trend = _full_by_trend(trend.get(site["id"]), now)
        known = [left for left in (site["full_in"], by_trend) if left is not None]
        if known and min(known) <= WEEK:
            found.append(
                {
                    "site": site["id"],
                    "name": _name(config, site),
                    "used_fraction": site["used_fraction"],
                    "full_in_seconds": min(known),
                    "full_at": now + min(known),
                    "by_site_seconds": site["full_in"],
                    "by_trend_seconds": by_trend,
                }
            )
    return sorted(found, key=lambda each: each["full_in_seconds"])


_LAST_WEEK = """
SELECT site, count(*) AS days, min(at) AS begin, max(at) AS until, min(used) AS least, max(used) AS most,
       max(total) AS total
FROM history_day
WHERE at >= :begin AND used IS NOT NULL
GROUP BY site
"""


def _full_by_trend(row: Row | None, now: float) -> float | None:
    """Seconds until a disk is full that goes on as in the last week; None where it does not grow."""
    if row is None or row["days"] < 3 or row["total"] is None or row["most"] <= row["least"]:
        return None
    rate = (row["most"] - row["least"]) / (row["until"] - row["begin"])
    return float(max(0.0, (row["total"] - row["most"]) / rate))


# -- equipment ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """One AE title that a site has heard, as its heartbeat tells."""

    site: str
    ae_title: str
    address: str
    manufacturer: str
    model: str
    first_seen: float | None
    last_seen: float | None
    admitted: bool


def heard(conn: Connection) -> Iterator[Heard]:
    """Every AE title of every site."""
    for row in rows(conn, "SELECT id, status FROM site ORDER BY id"):
        for each in json.loads(row["status"]).get("modalities") or []:
            yield Heard(
                site=row["id"],
                ae_title=_word(each, "ae_title"),
                address=_word(each, "address"),
                manufacturer=_word(each, "manufacturer"),
                model=_word(each, "model"),
                first_seen=_moment(each.get("first_seen")),
                last_seen=_moment(each.get("last_seen")),
                admitted=bool(each.get("admitted", True)),
            )


def _word(told: Mapping[str, Any], key: str) -> str:
    return printable(str(told.get(key) or ""))


def inventory(conn: Connection, config: Config, now: float) -> Answer:
    """Every AE title, registered or heard, and what is wrong with it.

    orphaned: registered, and never heard or not for two months. unknown: heard, and registered nowhere. misrouted:
    heard at a site, and registered only at others.
    """
    where = registered(config)
    names = {row["id"]: _name(config, row) for row in rows(conn, "SELECT id, name FROM site")}
    found = [_inventory_row(each, mark(each, where, now), names.get(each.site, "")) for each in heard(conn)]
    there = {(each["site"], each["ae_title"]) for each in found}
    for site in config.sites.values():
        for title in site.equipment:
            if (site.id, title) not in there:
                silent = Heard(site.id, title, "", "", "", None, None, True)
                found.append(_inventory_row(silent, "orphaned", names.get(site.id) or site.name))
    return sorted(found, key=lambda each: (each["site"], each["ae_title"]))


def registered(config: Config) -> Mapping[str, set[str]]:
    """The sites at which each AE title is registered."""
    where: dict[str, set[str]] = {}
    for site in config.sites.values():
        for title in site.equipment:
            where.setdefault(title, set()).add(site.id)
    return where


def mark(each: Heard, where: Mapping[str, set[str]], now: float) -> str:
    """What is wrong with an AE title that was heard; empty where nothing is."""
    sites = where.get(each.ae_title, set())
    if each.site in sites:
        return "orphaned" if each.last_seen is not None and now - each.last_seen > ORPHANED_SECONDS else ""
    return "misrouted" if sites else "unknown"


def _inventory_row(each: Heard, marked: str, name: str) -> dict[str, Any]:
    return {
        "site": each.site,
        "name": name,
        "ae_title": each.ae_title,
        "mark": marked,
        "address": each.address,
        "manufacturer": each.manufacturer,
        "model": each.model,
        "first_seen": each.first_seen,
        "last_seen": each.last_seen,
        "admitted": each.admitted,
    }


def equipment(conn: Connection, config: Config, now: float) -> Answer:
    """What sites have and nobody registered there: the unknown and the misrouted, the newest first."""
    found = [each for each in inventory(conn, config, now) if each["mark"] in ("unknown", "misrouted")]
    return sorted(found, key=lambda each: -(each["first_seen"] or each["last_seen"] or 0.0))


# -- downtime ----------------------------------------------------------------------------------------------------------


def downtime(conn: Connection, config: Config, now: float) -> Answer:
    """Each site's outages by month, of the last 13 months: how often, how long down, how long only unreachable."""
    begin = months_back(now, 12)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    names = {row["id"]: _name(config, row) for row in rows(conn, "SELECT id, name FROM site")}
    for outage in rows(conn, "SELECT * FROM outage WHERE coalesce(returned_at, :now) > :begin", now=now, begin=begin):
        down, silent = _down(outage, now), (outage["silent_from"], outage["returned_at"] or now)
        for month, first, last in _months(max(begin, min(down[0], silent[0])), max(down[1], silent[1])):
            key = (outage["site"], month)
            row = found.setdefault(
                key,
                {
                    "site": outage["site"],
                    "name": names.get(outage["site"], ""),
                    "month": month,
                    "outages": 0,
                    "down_seconds": 0.0,
                    "unreachable_seconds": 0.0,
                    "available": 1.0,
                },
            )
            row["outages"] += 1
            within = _overlap(down, (first, last))
            row["down_seconds"] += within
            row["unreachable_seconds"] += max(0.0, _overlap(silent, (first, last)) - within)
            row["available"] = 1 - row["down_seconds"] / (min(last, now) - first)
    return [found[key] for key in sorted(found, key=lambda key: (key[1], key[0]), reverse=True)]


def _down(outage: Row, now: float) -> tuple[float, float]:
    """When the site did not run: as it says itself, else as measured, else, while nobody knows, all the silence."""
    for begin, end in (("told_from", "told_to"), ("down_from", "down_to")):
        if outage[begin] is not None:
            return outage[begin], outage[end]
    if outage["cause"] == "unreachable":
        return outage["silent_from"], outage["silent_from"]
    return outage["silent_from"], outage["returned_at"] or now


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def months_back(now: float, count: int) -> float:
    """The beginning (UTC) of the month that was so many months before this one."""
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


def capacity(conn: Connection, config: Config, now: float) -> Answer:
    """Each site's disk and daily intake, now and in 1, 2 and 3 years, from the growth measured in the last year."""
    fits = {row["site"]: row for row in rows(conn, _FIT, begin=int(now - YEAR))}
    found = []
    for site in rows(conn, "SELECT id, name FROM site ORDER BY id"):
        fit = fits.get(site["id"])
        if fit is not None:
            found.append({"site": site["id"], "name": _name(config, site), **_projected(fit, now)})
    return sorted(found, key=lambda each: (each["full_at"] is None, each["full_at"] or 0.0, each["site"]))


#: Sums for two straight lines over days: through the bytes used, and through the bytes received each day.
_FIT = """
SELECT site, count(*) AS n, max(total) AS total, max(x) AS last,
       sum(x) AS sx, sum(x * x) AS sxx, sum(used) AS sy, sum(x * used) AS sxy,
       sum(came) AS sz, sum(x * came) AS sxz
FROM (
    SELECT site, total, used, CAST(received_bytes AS DOUBLE PRECISION) AS came,
           CAST(at - :begin AS DOUBLE PRECISION) / 86400 AS x
    FROM history_day
    WHERE at >= :begin AND used IS NOT NULL
) AS days
GROUP BY site
"""


def _projected(fit: Row, now: float) -> dict[str, Any]:
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


def _line(fit: Row, sum_y: str, sum_xy: str) -> tuple[float, float]:
    """A straight line: its value on the last day, and its growth a day."""
    n, sx, sxx = fit["n"], fit["sx"], fit["sxx"]
    spread = n * sxx - sx * sx
    slope = (n * fit[sum_xy] - sx * fit[sum_y]) / spread if spread else 0.0
    return float(fit[sum_y] / n + slope * (fit["last"] - sx / n)), float(slope)


# -- common ------------------------------------------------------------------------------------------------------------


def _name(config: Config, row: Row) -> str:
    known = config.sites.get(row["id"])
    return (known.name if known else "") or str(row["name"])


def _moment(told: object) -> float | None:
    try:
        return from_iso(told) if isinstance(told, str) else None
    except ValueError:
        return None


_SITE = (Column("site", "Site"), Column("name", "Name"))
_TITLE = (
    Column("ae_title", "AE title"),
    Column("mark", "Mark"),
    Column("address", "Address"),
    Column("manufacturer", "Manufacturer"),
    Column("model", "Model"),
    Column("first_seen", "First heard", "moment"),
    Column("last_seen", "Last heard", "moment"),
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
            filling,
        ),
        Question(
            "equipment",
            "Which equipment has nobody registered?",
            "AE titles that a site has heard and that its [site] table does not name. Register them, or find out.",
            "All equipment that was heard is registered.",
            (*_SITE, *_TITLE),
            equipment,
        ),
        Question(
            "downtime",
            "How long was each site down?",
            "By site and month (UTC), 13 months back. Unreachable: the gateway ran, only its link was cut.",
            "No site was down or unreachable.",
            (
                *_SITE,
                Column("month", "Month"),
                Column("outages", "Outages", "count"),
                Column("down_seconds", "Down", "seconds"),
                Column("unreachable_seconds", "Unreachable", "seconds"),
                Column("available", "Available", "exact"),
            ),
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
                Column("keeps_now_days", "Keeps, days", "count"),
                Column("keeps_in_3_years_days", "Keeps in 3 years", "count"),
                Column("days", "Days measured", "count"),
            ),
            capacity,
        ),
        Question(
            "inventory",
            "Which AE titles are there?",
            "Orphaned: registered, but never heard or not for two months. Unknown: heard, registered nowhere."
            " Misrouted: heard here, registered elsewhere.",
            "No AE title is registered or was heard.",
            (*_SITE, *_TITLE),
            inventory,
        ),
        Question(
            "ledgers",
            "Is each custody ledger still what it was?",
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
            ledgers.listing,
        ),
    )
}


def exact(share: float) -> str:
    """A share of which the last thousandth of a percent counts: never 100 % where something is missing."""
    return f"{math.floor(share * 100_000) / 1000:.3f} %"


def known(name: str) -> Question | None:
    """The question of this name."""
    return QUESTIONS.get(name)


def columns(question: Question) -> Sequence[str]:
    """The keys of its rows, in order."""
    return [column.key for column in question.columns]
