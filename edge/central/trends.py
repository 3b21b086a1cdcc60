"""The fleet over time: storage, intake and backlog of all sites together, and which versions they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from anyio import to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge import text
from edge.central.answers import KeptAnswers
from edge.central.reports import DAY
from edge.store.central import history, sites
from edge.store.engine import EngineStore, Row
from edge.web import plot
from edge.web.pages import Pages

#: key -> (label, seconds, table).
TREND_REACHES: dict[str, tuple[str, float, str]] = {
    "day": ("24 hours", DAY, "history_hour"),
    "month": ("30 days", 30 * DAY, "history_day"),
    "year": ("13 months", 396 * DAY, "history_day"),
}


class Trends:
    """The handler. A year of a thousand sites is 400,000 rows: what was read of them is kept for a while."""

    def __init__(
        self, store: EngineStore, pages: Pages, answers: KeptAnswers, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._pages, self._answers, self._clock = store, pages, answers, clock
        for key in TREND_REACHES:
            answers.add(f"trends {key}", partial(self._measure, key))

    async def page(self, request: Request) -> Response:
        """GET /trends."""
        key = request.query_params.get("over", "month")
        key = key if key in TREND_REACHES else "month"
        now = self._clock()
        measured = await self._answers.get(f"trends {key}")
        versions = await self._store.read(sites.count_versions)
        label, seconds, _ = TREND_REACHES[key]
        plots = await to_thread.run_sync(partial(fleet_plots, measured, now - seconds, now, label))
        render = partial(self._pages.render, request, "trends.html")
        context: dict[str, Any] = {"reaches": {each: found[0] for each, found in TREND_REACHES.items()}, "chosen": key}
        return await to_thread.run_sync(partial(render, **context, plots=plots, versions=versions, now=now))

    async def _measure(self, key: str) -> Sequence[Row]:
        _, seconds, table = TREND_REACHES[key]
        begin = self._clock() - seconds
        return await self._store.read(lambda conn: history.list_fleet_measurements(conn, table, begin))


def fleet_plots(measured: Sequence[Row], begin: float, now: float, label: str) -> list[tuple[str, str, Markup]]:
    """What was measured: (title, the last value, plot)."""

    def line(title: str, column: str, unit: Callable[[float], str]) -> tuple[str, str, Markup]:
        points = [(float(row["at"]), float(row[column])) for row in measured if row[column] is not None]
        last = unit(points[-1][1]) if points else "nothing measured yet"
        return title, last, plot.over_time(points, begin, now, label=f"{title}, {label}: {last}", unit=unit)

    return [
        line("Storage used", "used", text.size),
        line("Received, bytes", "received_bytes", text.size),
        line("Received, images", "received", "{:,.0f}".format),
        line("Waiting to be sent", "backlog", "{:,.0f}".format),
        line("Oldest that waits", "oldest", text.span),
        line("Sites that report", "sites", "{:,.0f}".format),
    ]
