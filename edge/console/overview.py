"""The first page: are we all right, the path as a picture, each destination, the disk, the alerts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.config.sections import Config
from edge.console import pipeline_diagram
from edge.console.access import Access
from edge.console.headline import drains, headline, level_of, of_destination, of_disk, verdict
from edge.errors import EdgeError
from edge.monitor import samples
from edge.store.database import Connection
from edge.text import percent, size
from edge.web import plot
from edge.web.guard import row_number, visitor_of
from edge.web.pages import Pages

PLOT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Card:
    """One destination, as it is shown."""

    name: str
    level: str
    word: str
    drains: str
    told: Mapping[str, Any]
    plot: Markup


class Overview:
    """`routes` are those of "/" and its parts."""

    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages
        self._flow = pipeline_diagram.Flow()

    def page(self, request: Request) -> Response:
        """GET /. The page asks for itself again every two seconds; what it then takes is the part that lives."""
        return self._pages.render(request, "overview.html", **self._context())

    def acknowledge(self, request: Request) -> Response:
        """POST /alerts/acknowledge: somebody looks after it."""
        visitor = visitor_of(request)
        note = visitor.field("note")[:500]
        try:
            given = {"id": row_number(visitor.field("id")), "who": visitor.name, "note": note}
            self._access.command("alert-acknowledge", given)
        except (EdgeError, ValueError) as error:
            context = self._context() | {"fault": str(error)}
            return self._pages.render(request, "overview.html", code=409, **context)
        return RedirectResponse("/#alerts", 303)

    def _context(self) -> dict[str, Any]:
        now, config, status = time.time(), self._access.config(), self._access.status()
        rates = self._flow.rates(status, now)
        marks = config.storage.warn, config.storage.refuse
        left = pipeline_diagram.sources(status, rates, list(config.modalities), now)
        with self._access.db.reading() as conn:
            cards = [self._card(conn, name, told, now) for name, told in status["destinations"].items()]
            disk = _disk(conn, config, status, now)
        return {
            "status": status,
            "verdict": verdict(status),
            "picture": pipeline_diagram.draw(
                status, left, pipeline_diagram.targets(status, rates), rates.get(("in", ""), 0.0), marks
            ),
            "cards": cards,
            "disk": disk,
            "alerts": [(level_of(each), headline(each), each) for each in status["alerts"]],
            "now": now,
        }

    @staticmethod
    def _card(conn: Connection, name: str, told: Mapping[str, Any], now: float) -> Card:
        level, word = of_destination(told)
        points = samples.series(conn, f"backlog/{name}", now - PLOT_SECONDS)
        waiting = told["pending"] + told["deferred"]
        points.append((now, float(waiting)))
        left = told["drain_seconds"]
        forecast = (now + left, 0.0) if left and told["state"] == "up" else None
        label = f"Images waiting for {name} over 24 hours: now {waiting:,}; {drains(told)}"
        drawn = plot.over_time(points, now - PLOT_SECONDS, now, label=label, forecast=forecast)
        return Card(name, level, word, drains(told), told, drawn)


def _disk(conn: Connection, config: Config, status: Mapping[str, Any], now: float) -> dict[str, Any]:
    level, word = of_disk(status, config.storage.warn, config.storage.refuse)
    storage = status["storage"]
    total = storage.get("total_bytes") or storage["free_bytes"] / max(1e-6, 1 - storage["used_fraction"])
    used = total * storage["used_fraction"]
    points = [*samples.series(conn, "disk.used", now - PLOT_SECONDS), (now, used)]
    limit, left = total * config.storage.refuse, storage["full_in_seconds"]
    label = f"Disk use over 24 hours: now {percent(storage['used_fraction'])} of {size(total)}"
    drawn = plot.over_time(
        points,
        now - PLOT_SECONDS,
        now,
        label=label,
        unit=size,
        forecast=(now + left, limit) if left else None,
        limit=limit,
        top=total,
    )
    return {"level": level, "word": word, "total": total, "plot": drawn, "limit": config.storage.refuse}
