"""The fleet over time: storage, intake, backlog and figures of all sites together, and which versions they run."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge import text
from edge.central.access import CentralAccess, CentralPage
from edge.store.central import figures, history, sites
from edge.store.engine import Row
from edge.store.samples import DAY
from edge.web import plot

#: key -> (label, seconds, table).
TREND_REACHES: dict[str, tuple[str, float, str]] = {
    "day": ("24 hours", DAY, "history_hour"),
    "month": ("30 days", 30 * DAY, "history_day"),
    "year": ("13 months", 396 * DAY, "history_day"),
}


class Trends(CentralPage):
    """The handler. A year of a thousand sites is 400,000 rows: what was read of them is kept for a while."""

    def __init__(self, access: CentralAccess) -> None:
        super().__init__(access)
        for key in TREND_REACHES:
            access.answers.add(f"trends {key}", partial(self._measure, key))
            access.answers.add(f"figures {key}", partial(self._measure_figures, key))

    async def page(self, request: Request) -> Response:
        """GET /trends."""
        key = request.query_params.get("over", "month")
        key = key if key in TREND_REACHES else "month"
        now = time.time()
        measured = await self._answers.get(f"trends {key}")
        shares = await self._answers.get(f"figures {key}")
        versions = await self._store.read(sites.count_versions)
        label, seconds, _ = TREND_REACHES[key]
        plots = await to_thread.run_sync(partial(fleet_plots, measured, now - seconds, now, label))
        plots += await to_thread.run_sync(partial(figure_plots, shares, now - seconds, now, label))
        context: dict[str, Any] = {"reaches": {each: found[0] for each, found in TREND_REACHES.items()}, "chosen": key}
        context |= {"plots": plots, "versions": versions, "now": now}
        return await self._pages.render_large(request, "trends.html", **context)

    async def _measure(self, key: str) -> Sequence[Row]:
        _, seconds, table = TREND_REACHES[key]
        begin = time.time() - seconds
        return await self._store.read(lambda conn: history.list_fleet_measurements(conn, table, begin))

    async def _measure_figures(self, key: str) -> list[DayShares]:
        """Measure the figures of some days within the reach, evenly."""
        today = int(time.time() // figures.FIGURE_DAY)
        days = pick_days(today, TREND_REACHES[key][1])
        return share_by_day(await self._store.read(lambda conn: figures.list_figures(conn, days)))


#: Days for which the figures of all senders are read.
MOST_DAYS = 31
FIGURE_TITLES = {
    "patient_id_share": "Patient ID in form",
    "accession_share": "Accession number stated",
    "description_share": "Study description stated",
    "referring_physician_share": "Referring physician stated",
    "lossy_share": "Lossy objects",
    "private_share": "Private SOP classes",
    "slow_share": "Studies proved after 60 s",
}


@dataclass(frozen=True, slots=True)
class DayShares:
    """The shares of all senders of a day, by the number of their objects or studies."""

    day: int
    shares: Mapping[str, float]


def pick_days(today: int, seconds: float) -> list[int]:
    """Pick at most MOST_DAYS days from today back, evenly."""
    reach = max(1, int(seconds // figures.FIGURE_DAY))
    step = -(-reach // MOST_DAYS)
    return list(range(today, today - reach - 1, -step))


def share_by_day(found: Sequence[Row]) -> list[DayShares]:
    """The figures of all senders together, day by day."""
    sums: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    for row in found:
        each = json.loads(row["figures"])
        for name in FIGURE_TITLES:
            weight = each.get("studies" if name == "slow_share" else "objects") or 0
            if each.get(name) is not None and weight:
                part, whole = sums[row["day"]].get(name, (0.0, 0.0))
                sums[row["day"]][name] = part + each[name] * weight, whole + weight
    return [DayShares(day, {name: part / whole for name, (part, whole) in sums[day].items()}) for day in sorted(sums)]


def figure_plots(found: Sequence[DayShares], begin: float, now: float, label: str) -> list[tuple[str, str, Markup]]:
    """What equipment states, and how soon studies are proved: (title, the last value, plot)."""
    made = []
    for name, title in FIGURE_TITLES.items():
        middle = figures.FIGURE_DAY / 2
        points = [(each.day * figures.FIGURE_DAY + middle, each.shares[name]) for each in found if name in each.shares]
        points = [(min(at, now), share) for at, share in points if at >= begin]
        last = text.percent(points[-1][1]) if points else ""
        drawn = plot.over_time(
            points, begin, now, label=f"{title}, {label}: {last or 'nothing measured yet'}", unit=text.percent, top=1.0
        )
        made.append((title, last, drawn))
    return made


def fleet_plots(measured: Sequence[Row], begin: float, now: float, label: str) -> list[tuple[str, str, Markup]]:
    """What was measured: (title, the last value, plot)."""

    def line(title: str, column: str, unit: Callable[[float], str]) -> tuple[str, str, Markup]:
        points = [(float(row["at"]), float(row[column])) for row in measured if row[column] is not None]
        last = unit(points[-1][1]) if points else ""
        return (
            title,
            last,
            plot.over_time(points, begin, now, label=f"{title}, {label}: {last or 'nothing measured yet'}", unit=unit),
        )

    return [
        line("Storage used", "used", text.size),
        line("Received, bytes", "received_bytes", text.size),
        line("Received, images", "received", "{:,.0f}".format),
        line("Waiting to be sent", "backlog", "{:,.0f}".format),
        line("Oldest that waits", "oldest", text.span),
        line("Sites that report", "sites", "{:,.0f}".format),
    ]
