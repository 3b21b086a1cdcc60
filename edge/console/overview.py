"""The first page: the headline, the diagram, the alerts, each destination, the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.config.sections import Config
from edge.console import headline, pipeline_diagram
from edge.console.access import Access, ConsolePage, read_required_reason
from edge.console.alert_acting import act_on_alert, offered_to
from edge.console.alert_actions import AlertAction, AlertSubject, subject_of
from edge.console.waiting_now import describe_safety, list_waiting_lines
from edge.errors import EdgeError
from edge.store import samples
from edge.store.database import Transaction
from edge.text import iso, percent, size
from edge.web import plot
from edge.web.endpoints import row_number
from edge.web.guard import Visitor, visitor_of
from edge.web.pages import Pages

_PLOT_SECONDS = 24 * 3600.0


class ShownAlert(NamedTuple):
    """An alert as the page shows it."""

    level: str
    title: str
    subject: AlertSubject
    actions: tuple[AlertAction, ...]
    alert: Mapping[str, Any]  # of the status


class Overview(ConsolePage):
    def __init__(self, access: Access, pages: Pages) -> None:
        super().__init__(access, pages)
        self._rates = pipeline_diagram.RateMeter()

    def page(self, request: Request) -> Response:
        """GET /. The page requests itself every two seconds, and replaces its part `#live`."""
        return self._pages.render(request, "overview.html", **self._context(visitor_of(request)))

    def acknowledge(self, request: Request) -> Response:
        """POST /alerts/acknowledge: record who works on an alert."""
        visitor = visitor_of(request)
        note = visitor.field("note")[:500]
        try:
            fields = {"id": row_number(visitor.field("id")), "who": visitor.name, "note": note}
            self._access.command("alert-acknowledge", fields)
        except (EdgeError, ValueError) as error:
            return self._pages.render(request, "overview.html", code=409, **self._context(visitor), fault=str(error))
        visitor.leave_notice("Acknowledged.")
        return RedirectResponse("/#alerts", 303)

    def act(self, request: Request) -> Response:
        """POST /alerts/act: do what an alert offers, with a reason."""
        visitor = visitor_of(request)
        try:
            number, reason = row_number(visitor.field("id")), read_required_reason(visitor)
            visitor.leave_notice(act_on_alert(self._access, visitor, number, visitor.field("action"), reason))
        except (EdgeError, ValueError) as error:
            return self._pages.render(request, "overview.html", code=409, **self._context(visitor), fault=str(error))
        return RedirectResponse("/#alerts", 303)

    def _context(self, visitor: Visitor) -> dict[str, Any]:
        now, config, status = time.time(), self._access.config(), self._access.status()
        rates = self._rates.measure(status, now)
        marks = config.storage.warn, config.storage.refuse
        with self._access.db.reading() as conn:
            cards = [_card(conn, config, name, found, now) for name, found in status["destinations"].items()]
            disk = _disk(conn, config, status, now)
            lines = list_waiting_lines(conn, config.destinations, now)
        self._access.views.record(
            visitor, "what waits", studies=sorted(each.study.study_id for each in lines if each.study.study_id)
        )
        queue = status["queue"]
        waiting = queue["pending"] + queue["active"] + queue["deferred"] + queue["held"]
        return {
            "status": status,
            "headline": headline.summarize_status(status),
            "diagram": pipeline_diagram.diagram_of(status, rates, list(config.modalities), marks, now),
            "cards": cards,
            "disk": disk,
            "lines": lines,
            "safety": describe_safety(waiting, status["alerts"]),
            "alerts": [_show_alert(each, status, visitor) for each in headline.list_worst_first(status["alerts"])],
            "now": now,
            "now_iso": iso(now),
        }


def _show_alert(alert: Mapping[str, Any], status: Mapping[str, Any], visitor: Visitor) -> ShownAlert:
    level, title = headline.level_of(alert), headline.alert_title(alert, status)
    return ShownAlert(level, title, subject_of(alert), offered_to(visitor, alert), alert)


def _card(conn: Transaction, config: Config, name: str, found: Mapping[str, Any], now: float) -> dict[str, Any]:
    given = config.destinations.get(name)
    level, word = headline.destination_state(found)
    drains = headline.drain_forecast(found)
    waiting = found["pending"] + found["deferred"]
    points = [*samples.series(conn, f"backlog/{name}", now - _PLOT_SECONDS), (now, float(waiting))]
    left = found["drain_seconds"]
    forecast = (now + left, 0.0) if left and found["state"] == "up" else None
    label = f"Images waiting for {name} over 24 hours: now {waiting:,}; {drains}"
    drawn = plot.over_time(points, now - _PLOT_SECONDS, now, label=label, forecast=forecast)
    shown = {"name": name, "level": level, "word": word, "drains": drains, "found": found, "plot": drawn}
    return {**shown, "is_web": given is not None and given.is_web}


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
