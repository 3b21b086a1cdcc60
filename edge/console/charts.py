"""The charts of measurements over hours to 13 months, and the report of a month: on the screen and on paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.errors import EdgeError
from edge.monitor.monthly import latest_months, month_of, monthly_report
from edge.monitor.monthly_text import report_csv, report_tables, summary_lines
from edge.spool.room import disk_of
from edge.store import samples
from edge.store.database import Transaction
from edge.text import amount, size
from edge.web import plot

_DAY = 86400.0
CHART_REACHES = {
    "day": ("24 hours", _DAY),
    "week": ("7 days", 7 * _DAY),
    "month": ("30 days", 30 * _DAY),
    "year": ("13 months", 396 * _DAY),
}
#: Months that the page offers.
REPORT_MONTHS = 13
Points = Sequence[tuple[float, float]]
#: Points of a line of what grows: each is a stretch of the time shown.
STRETCHES = 96


class Charts(ConsolePage):
    def page(self, request: Request) -> Response:
        """GET /charts."""
        key = request.query_params.get("over", "day")
        key = key if key in CHART_REACHES else "day"
        label, seconds = CHART_REACHES[key]
        now = time.time()
        with self._access.db.reading() as conn:
            parts = list(_parts(conn, now - seconds, now, label))
        reaches = {name: each[0] for name, each in CHART_REACHES.items()}
        return self._pages.render(request, "charts.html", parts=parts, reaches=reaches, chosen=key, label=label)

    def report(self, request: Request) -> Response:
        """GET /report; `?month=2026-11`, and `.csv` for spreadsheets."""
        config, now = self._access.config(), time.time()
        asked = request.query_params.get("month", "")
        try:
            month = month_of(asked, config.calendar, now)
        except EdgeError as error:
            month, fault = month_of("", config.calendar, now), str(error)
        else:
            fault = ""
        with self._access.db.reading() as conn:
            found = monthly_report(conn, config, disk_of(config.site.data_dir), month, now)
        if request.url.path.endswith(".csv"):
            headers = {"content-disposition": f'attachment; filename="edge-{config.site.id}-{month.name}.csv"'}
            return Response(report_csv(found), headers=headers, media_type="text/csv; charset=utf-8")
        return self._pages.render(
            request,
            "report.html",
            code=422 if fault else 200,
            report=found,
            tables=report_tables(found),
            lines=summary_lines(found),
            months=latest_months(config.calendar, now, REPORT_MONTHS),
            fault=fault,
        )


def _parts(conn: Transaction, begin: float, now: float, label: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each part of the page: its heading and its plots."""
    draw = _Drawing(begin, now, label)
    used, received = (samples.series(conn, name, begin) for name in ("disk.used", "received.bytes"))
    yield (
        "Storage and intake",
        [
            draw.plot("Disk used", used, size),
            draw.plot("Received, a stretch", grown(received, begin, now), size),
        ],
    )
    destinations = samples.names_below(conn, "backlog/")
    yield (
        "Waiting, by destination",
        [draw.plot(name, samples.series(conn, f"backlog/{name}", begin), "{:,.0f}".format) for name in destinations],
    )
    for heading, prefix in (("Answers of destinations", "sent"), ("Our answers to modalities", "received")):
        names = samples.names_below(conn, f"{prefix}.answers/")
        yield heading, [draw.plot(name, _mean_answers(conn, prefix, name, begin, now), _ms) for name in names]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.0f} s"


def _mean_answers(conn: Transaction, prefix: str, name: str, begin: float, now: float) -> list[tuple[float, float]]:
    counts = grown(samples.series(conn, f"{prefix}.answers/{name}", begin), begin, now)
    seconds = dict(grown(samples.series(conn, f"{prefix}.answer.seconds/{name}", begin), begin, now))
    return [(at, seconds.get(at, 0.0) / count) for at, count in counts if count]


def grown(points: Points, begin: float, now: float) -> list[tuple[float, float]]:
    """How much a sum grew in each stretch of the time shown; it may begin again at 0."""
    width = (now - begin) / STRETCHES
    sums: dict[int, float] = {}
    for (_, before), (at, after) in pairwise(points):
        stretch = int((at - begin) // width)
        sums[stretch] = sums.get(stretch, 0.0) + (after - before if after >= before else after)
    return [(begin + (stretch + 1) * width, value) for stretch, value in sorted(sums.items())]


class _Drawing:
    """Draws the plots of one page."""

    def __init__(self, begin: float, now: float, label: str) -> None:
        self._begin, self._now, self._label = begin, now, label

    def plot(self, title: str, points: Points, unit: Callable[[float], str]) -> dict[str, Any]:
        last = unit(points[-1][1]) if points else ""
        label = f"{title}, {self._label}: {last or 'nothing'}; {amount(len(points), 'measurement')}"
        drawn: Markup = plot.over_time(points, self._begin, self._now, label=label, unit=unit)
        return {"title": title, "plot": drawn, "last": last}
