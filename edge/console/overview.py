"""The first page: the headline, the diagram, the alerts, each destination, the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.config.sections import Config
from edge.console import headline, pipeline_diagram
from edge.console.access import Access, ConsolePage
from edge.errors import EdgeError
from edge.store import samples
from edge.store.database import Transaction
from edge.text import iso, percent, size
from edge.web import plot
from edge.web.guard import row_number, visitor_of
from edge.web.pages import Pages

_PLOT_SECONDS = 24 * 3600.0
#: Alert -> the page on which its images or settings are.
_PAGES = {
    **dict.fromkeys(("destination-down", "destination-removed", "backlog-old"), "/queue"),
    "work-held": "/queue?state=held",
    "lost": "/exceptions#lost",
    "conflict": "/exceptions#conflict",
    "quarantine": "/exceptions#quarantined",
    "patient-mismatch": "/exceptions#mismatch",
    "unroutable": "/exceptions#unroutable",
    "configuration-rejected": "/configuration",
    **dict.fromkeys(("unknown-equipment", "new-modality", "modality-silent"), "/equipment"),
    "commitment-unreported": "/commitments",
}


class Overview(ConsolePage):
    def __init__(self, access: Access, pages: Pages) -> None:
        super().__init__(access, pages)
        self._rates = pipeline_diagram.RateMeter()

    def page(self, request: Request) -> Response:
        """GET /. The page requests itself every two seconds, and replaces its part `#live`."""
        return self._pages.render(request, "overview.html", **self._context())

    def acknowledge(self, request: Request) -> Response:
        """POST /alerts/acknowledge: record who works on an alert."""
        visitor = visitor_of(request)
        note = visitor.field("note")[:500]
        try:
            fields = {"id": row_number(visitor.field("id")), "who": visitor.name, "note": note}
            self._access.command("alert-acknowledge", fields)
        except (EdgeError, ValueError) as error:
            return self._pages.render(request, "overview.html", code=409, **self._context(), fault=str(error))
        return RedirectResponse("/#alerts", 303)

    def _context(self) -> dict[str, Any]:
        now, config, status = time.time(), self._access.config(), self._access.status()
        rates = self._rates.measure(status, now)
        marks = config.storage.warn, config.storage.refuse
        with self._access.db.reading() as conn:
            cards = [_card(conn, name, found, now) for name, found in status["destinations"].items()]
            disk = _disk(conn, config, status, now)
        return {
            "status": status,
            "headline": headline.summarize_status(status),
            "diagram": pipeline_diagram.diagram_of(status, rates, list(config.modalities), marks, now),
            "cards": cards,
            "disk": disk,
            "alerts": [
                (headline.level_of(each), headline.alert_title(each), _PAGES.get(each["kind"]), each)
                for each in headline.list_worst_first(status["alerts"])
            ],
            "now": now,
            "now_iso": iso(now),
        }


def _card(conn: Transaction, name: str, found: Mapping[str, Any], now: float) -> dict[str, Any]:
    level, word = headline.destination_state(found)
    drains = headline.drain_forecast(found)
    waiting = found["pending"] + found["deferred"]
    points = [*samples.series(conn, f"backlog/{name}", now - _PLOT_SECONDS), (now, float(waiting))]
    left = found["drain_seconds"]
    forecast = (now + left, 0.0) if left and found["state"] == "up" else None
    label = f"Images waiting for {name} over 24 hours: now {waiting:,}; {drains}"
    drawn = plot.over_time(points, now - _PLOT_SECONDS, now, label=label, forecast=forecast)
    return {"name": name, "level": level, "word": word, "drains": drains, "found": found, "plot": drawn}


def _disk(conn: Transaction, config: Config, status: Mapping[str, Any], now: float) -> dict[str, Any]:
    level, word = headline.disk_state(status, config.storage.warn, config.storage.refuse)
    storage = status["storage"]
    total = storage.get("total_bytes") or storage["free_bytes"] / max(1e-6, 1 - storage["used_fraction"])
    used = total * storage["used_fraction"]
    points = [*samples.series(conn, "disk.used", now - _PLOT_SECONDS), (now, used)]
    limit, left = total * config.storage.refuse, storage["full_in_seconds"]
    forecast = headline.fill_forecast(storage, config.storage.refuse)
    label = f"Disk use over 24 hours: now {percent(storage['used_fraction'])} of {size(total)}"
    drawn = plot.over_time(
        points,
        now - _PLOT_SECONDS,
        now,
        label=label,
        unit=size,
        forecast=(now + left, limit) if left and left >= 1 else None,
        limit=limit,
        top=total,
    )
    found = {"level": level, "word": word, "total": total, "plot": drawn, "forecast": forecast}
    return {**found, "limit": config.storage.refuse}
