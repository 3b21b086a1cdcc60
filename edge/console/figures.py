"""Figures of the last week by sender, and their trend: what objects state, how soon studies are proved. No patients."""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.monitor.figures import summarize
from edge.store import figures
from edge.store.database import CatalogRow
from edge.store.samples import DAY
from edge.text import percent
from edge.web import plot

PLOT_DAYS = 90
_PLOTS = {
    "patient_id": "Patient ID in form",
    "accession": "Accession number",
    "description": "Study description",
    "referring_physician": "Referring physician",
    "lossy": "Lossy objects",
    "private": "Private SOP classes",
}


class FiguresPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /figures."""
        now = time.time()
        with self._access.db.reading() as conn:
            found = summarize(conn, now)
            days = figures.list_days(conn, int(now // DAY) - PLOT_DAYS)
        plots = [(title, _trend(days, name, title, now)) for name, title in _PLOTS.items()]
        return self._pages.render(request, "figures.html", figures=found, plots=plots)


def _trend(days: Sequence[CatalogRow], name: str, title: str, now: float) -> Markup:
    points = [(row["day"] * DAY + DAY / 2, row[name] / row["objects"]) for row in days if row["objects"]]
    label = f"{title}: share of objects by day, {PLOT_DAYS} days"
    return plot.over_time(points, now - PLOT_DAYS * DAY, now, label=label, unit=percent, top=1.0)
