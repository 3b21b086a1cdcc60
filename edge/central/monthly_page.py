"""The page of the fleet's month, to print, and its CSV."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edge.central import export
from edge.central.access import CentralAccess, CentralPage
from edge.central.monthly import REPORT_COLUMNS, FleetMonth, fleet_month, read_month
from edge.central.question_pages import show
from edge.errors import EdgeError
from edge.monitor.monthly import latest_months, month_of

#: Months that the page offers.
MONTHS_OFFERED = 13


class FleetReport(CentralPage):
    """The handlers. The report of a month is kept for a while at a large fleet (edge.central.answers)."""

    def __init__(self, access: CentralAccess) -> None:
        super().__init__(access)
        access.answers.add("report", partial(self._make, ""), access.config)

    async def page(self, request: Request) -> Response:
        """GET /report and /report.csv; `?month=2026-11`."""
        asked, config, fault = request.query_params.get("month", ""), self._config(), ""
        try:
            month_of(asked, config.calendar, time.time())
        except EdgeError as error:
            asked, fault = "", str(error)
        found: FleetMonth = await (self._answers.get("report") if not asked else self._make(asked))
        if request.url.path.endswith(".csv"):
            headers = {"content-disposition": f'attachment; filename="fleet-{found.month.name}.csv"'}
            return Response(
                export.as_csv(REPORT_COLUMNS, found.rows), headers=headers, media_type="text/csv; charset=utf-8"
            )
        months = latest_months(config.calendar, time.time(), MONTHS_OFFERED)
        context: dict[str, Any] = {"report": found, "columns": REPORT_COLUMNS, "show": show, "months": months}
        code = 422 if fault else 200
        return await self._pages.render_large(request, "report.html", code=code, fault=fault, **context)

    async def _make(self, asked: str) -> FleetMonth:
        now, config = time.time(), self._config()
        month = month_of(asked, config.calendar, now)
        found = await self._store.read(lambda conn: read_month(conn, month, now))
        return await to_thread.run_sync(fleet_month, found, config, month, now)
