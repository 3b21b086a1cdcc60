"""The month of the fleet: availability, incidents, volumes and capacity of every site, on a page and as CSV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edge.central import availability, capacity, export
from edge.central.answers import KeptAnswers
from edge.central.columns import Column
from edge.central.config import CentralConfig
from edge.central.question_pages import show
from edge.errors import EdgeError
from edge.monitor.monthly import Month, month_of
from edge.store.central import history, incidents, maintenance, outages, sites
from edge.store.engine import EngineStore, EngineTransaction, Row
from edge.web.pages import Pages

#: Months that the page offers.
MONTHS_OFFERED = 13
YEARS_AHEAD = (1, 2, 3, 4, 5)

REPORT_COLUMNS = (
    Column("site", "Site"),
    Column("name", "Name"),
    Column("available", "Available", "exact"),
    Column("down_seconds", "Down", "seconds"),
    Column("planned_seconds", "Planned", "seconds"),
    Column("outages", "Outages", "count"),
    Column("incidents", "Incidents", "count"),
    Column("received", "Images", "count"),
    Column("received_bytes", "Received", "size"),
    Column("backlog", "Most waiting", "count"),
    Column("used_fraction", "Disk", "share"),
    Column("version", "Version"),
)


@dataclass(frozen=True, slots=True)
class FleetMonth:
    """The report. `rows` have the keys of REPORT_COLUMNS; `ahead`: (years, bytes used, bytes a day) of all sites."""

    month: Month
    rows: Sequence[dict[str, Any]]
    sums: dict[str, Any]
    ahead: Sequence[tuple[int, float, float]]
    versions: Sequence[Row]
    worst: Sequence[dict[str, Any]]
    made_at: float


_Found = tuple[Sequence[Row], Sequence[Row], Sequence[Row], Sequence[Row], Sequence[Row], dict[str, Row], Sequence[Row]]


def read_month(conn: EngineTransaction, month: Month, now: float) -> _Found:
    """What the report is made of."""
    return (
        sites.list_fleet(conn),
        outages.list_outages_since(conn, month.begin, now),
        maintenance.list_windows(conn, month.begin),
        history.sums_of_month(conn, month.begin, month.end),
        incidents.count_by_site(conn, month.begin, month.end),
        history.sums_since(conn, now - capacity.YEAR),
        sites.count_versions(conn),
    )


def fleet_month(found: _Found, config: CentralConfig, month: Month, now: float) -> FleetMonth:
    """Compute the report. Pure."""
    fleet, listed, windows, volumes, opened, sums, versions = found
    names = [{"id": row["id"], "name": row["name"]} for row in fleet]
    downs = {
        each["site"]: each
        for each in availability.list_downtime((listed, names, windows), config, now)
        if each["month"] == month.name
    }
    came = {row["site"]: row for row in volumes}
    count = {row["site"]: row["n"] for row in opened}
    nothing: dict[str, Any] = {"outages": 0, "down_seconds": 0.0, "planned_seconds": 0.0, "available": 1.0}
    rows = []
    for row in fleet:
        down, volume = downs.get(row["id"], nothing), came.get(row["id"])
        rows.append(
            {
                "site": row["id"],
                "name": config.name_of(row["id"], row["name"]),
                **{key: down[key] for key in nothing},
                "incidents": count.get(row["id"], 0),
                "received": volume["received"] if volume else 0,
                "received_bytes": volume["received_bytes"] if volume else 0,
                "backlog": volume["backlog"] if volume else None,
                "used_fraction": row["used_fraction"],
                "version": row["version"],
            }
        )
    return FleetMonth(
        month=month,
        rows=rows,
        sums=_sums(rows),
        ahead=_ahead(sums),
        versions=versions,
        worst=sorted((each for each in rows if each["available"] < 1), key=lambda each: each["available"])[:10],
        made_at=now,
    )


def _sums(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sites": len(rows),
        "available": sum(each["available"] for each in rows) / len(rows) if rows else 1.0,
        **{
            key: sum(each[key] for each in rows)
            for key in ("outages", "incidents", "received", "received_bytes", "down_seconds", "planned_seconds")
        },
    }


def _ahead(sums: dict[str, Row]) -> list[tuple[int, float, float]]:
    """All sites together in some years: each by its own straight line."""
    lines = [capacity.lines_of(fit) for fit in sums.values() if fit["n"] >= capacity.LEAST_DAYS]
    if not lines:
        return []
    return [
        (
            years,
            sum(max(0.0, used + grows * years * 365.25) for (used, grows), _ in lines),
            sum(max(0.0, came + more * years * 365.25) for _, (came, more) in lines),
        )
        for years in YEARS_AHEAD
    ]


class FleetReport:
    """The handlers. The report of a month is kept for a while at a large fleet (edge.central.answers)."""

    def __init__(
        self,
        store: EngineStore,
        config: Callable[[], CentralConfig],
        pages: Pages,
        answers: KeptAnswers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._config, self._pages, self._answers, self._clock = store, config, pages, answers, clock
        answers.add("report", partial(self._make, ""), config)

    async def page(self, request: Request) -> Response:
        """GET /report and /report.csv; `?month=2026-11`."""
        asked, config, fault = request.query_params.get("month", ""), self._config(), ""
        try:
            month_of(asked, config.calendar, self._clock())
        except EdgeError as error:
            asked, fault = "", str(error)
        found: FleetMonth = await (self._answers.get("report") if not asked else self._make(asked))
        if request.url.path.endswith(".csv"):
            headers = {"content-disposition": f'attachment; filename="fleet-{found.month.name}.csv"'}
            return Response(
                export.as_csv(REPORT_COLUMNS, found.rows), headers=headers, media_type="text/csv; charset=utf-8"
            )
        context: dict[str, Any] = {"report": found, "columns": REPORT_COLUMNS, "show": show, "months": self._months()}
        code = 422 if fault else 200
        return await self._pages.render_large(request, "report.html", code=code, fault=fault, **context)

    async def _make(self, asked: str) -> FleetMonth:
        now, config = self._clock(), self._config()
        month = month_of(asked, config.calendar, now)
        found = await self._store.read(lambda conn: read_month(conn, month, now))
        return await to_thread.run_sync(fleet_month, found, config, month, now)

    def _months(self) -> list[str]:
        begin = availability.months_back(self._clock(), 0)
        return [
            time.strftime("%Y-%m", time.gmtime(availability.months_back(begin + 1, n))) for n in range(MONTHS_OFFERED)
        ]
