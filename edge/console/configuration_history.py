"""The history of the configuration, with each difference and the way back; and planned maintenance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.config.edit import differences
from edge.config.maintenance import windows_of
from edge.console.access import ConsolePage, read_reason
from edge.errors import ConfigError, EdgeError
from edge.store import configuration_versions
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of
from edge.web.listing import read_list_page, read_view

#: Lines of a difference that the page shows.
MOST_DIFFERENCE_LINES = 400


class ConfigurationHistory(ConsolePage):
    def index(
        self, request: Request, *, fault: str = "", problems: list[str] | None = None, code: int = 200
    ) -> Response:
        """GET /configuration/history; with `?state=N` the lines that this state changed."""
        view = read_view(request, "/configuration/history", configuration_versions.VERSION_COLUMNS)
        with self._access.db.reading() as conn:
            page = read_list_page(configuration_versions.list_versions(conn), view)
            latest = configuration_versions.latest_version(conn)
            chosen = _asked_state(request)
            state = configuration_versions.find_version(conn, chosen) if chosen else None
            before = configuration_versions.version_before(conn, chosen) if chosen else None
        lines = differences(before.files if before else {}, state.files) if state else []
        return self._pages.render(
            request,
            "configuration-history.html",
            code=code,
            view=view,
            page=page,
            used=latest.id if latest else None,
            chosen=state,
            lines=lines[:MOST_DIFFERENCE_LINES],
            cut=len(lines) > MOST_DIFFERENCE_LINES,
            fault=fault,
            problems=problems or [],
        )

    def roll_back(self, request: Request) -> Response:
        """POST /configuration/rollback: the files of an earlier state again."""
        visitor = visitor_of(request)
        try:
            fields = {"version": row_number(visitor.field("state")), "reason": read_reason(visitor)}
            self._access.command("configuration-rollback", {**fields, "who": visitor.name})
        except ConfigError as error:
            return self.index(request, problems=error.problems, code=422)
        except (EdgeError, ValueError) as error:
            return self.index(request, fault=str(error), code=422)
        visitor.leave_notice(f"The files are those of state {fields['version']} again, and in use.")
        return RedirectResponse("/configuration/history", 303)


class MaintenancePage(ConsolePage):
    def index(
        self, request: Request, *, fault: str = "", code: int = 200, given: Mapping[str, Any] | None = None
    ) -> Response:
        """GET /maintenance. `given`: what a person has typed, which stays in the form after a fault."""
        config, now = self._access.config(), time.time()
        found = windows_of(config.maintenances.values(), config.calendar.time_zone)
        return self._pages.render(
            request,
            "maintenance.html",
            code=code,
            windows=[(each, "over" if each.end <= now else "now" if each.holds(now) else "planned") for each in found],
            given={"from": time.strftime("%Y-%m-%dT22:00", time.localtime(now)), **(given or {})},
            fault=fault,
        )

    def plan(self, request: Request) -> Response:
        """POST /maintenance/plan and /maintenance/remove."""
        visitor = visitor_of(request)
        removes = request.url.path.endswith("/remove")
        names = ("name",) if removes else ("name", "from", "to")
        fields: dict[str, Any] = {name: visitor.field(name) for name in names}
        fields |= {"who": visitor.name, "reason": read_reason(visitor)}
        try:
            self._access.command(f"configuration-maintenance-{'remove' if removes else 'add'}", fields)
        except ConfigError as error:
            return self.index(request, fault="; ".join(error.problems), code=422, given=fields)
        except EdgeError as error:
            return self.index(request, fault=str(error), code=422, given=fields)
        visitor.leave_notice("The maintenance is removed." if removes else "The maintenance is planned.")
        return RedirectResponse("/maintenance", 303)


def _asked_state(request: Request) -> int | None:
    try:
        return row_number(request.query_params.get("state", ""))
    except ValueError:
        return None
