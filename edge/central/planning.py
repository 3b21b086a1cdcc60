"""Planned work at sites: what fails meanwhile is planned downtime, and nobody is notified of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.central.access import CentralPage
from edge.central.config import CentralConfig, Site
from edge.central.site_cards import described_sites
from edge.config.maintenance import as_local, fault_of_window
from edge.config.parsers import parse_date_and_time
from edge.errors import EdgeError
from edge.monitor.workdays import local
from edge.store.central import maintenance
from edge.store.central.centre_state import journal
from edge.text import amount
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of

#: Windows that are over are listed for this time.
OVER_SECONDS = 30 * 86400.0
MOST_REASON = 300


class MaintenancePlans(CentralPage):
    async def index(
        self, request: Request, fault: str = "", given: Mapping[str, str] | None = None, code: int = 200
    ) -> Response:
        """GET /maintenance."""
        now, config = time.time(), self._config()
        found, sites = await self._store.read(
            lambda conn: (maintenance.list_windows(conn, now - OVER_SECONDS), described_sites(conn, config))
        )
        today = local(config.calendar, now).strftime("%Y-%m-%dT22:00")
        return await self._pages.render_large(
            request,
            "maintenance.html",
            code=code,
            fault=fault,
            windows=found,
            tags=sorted({tag for site in sites.values() for tag in site.tags}),
            given={"from": today, **(given or {})},
            now=now,
        )

    async def plan(self, request: Request) -> Response:
        """POST /maintenance/plan."""
        visitor, config = visitor_of(request), self._config()
        given = {name: visitor.field(name) for name in ("sites", "tag", "from", "to", "reason")}
        try:
            sites = await self._store.read(lambda conn: described_sites(conn, config))
            chosen = choose_sites(sites, given["sites"], given["tag"])
            begin, end = (parse_moment(config, given[name]) for name in ("from", "to"))
            if fault := fault_of_window(begin, end):
                raise EdgeError(f"To: {fault}.")
            if not given["reason"]:
                raise EdgeError("Give a reason: it is shown with the sites.")
        except EdgeError as error:
            return await self.index(request, str(error), given, 422)
        begins_at, ends_at, reason = begin.timestamp(), end.timestamp(), given["reason"][:MOST_REASON]

        def work(conn: Any) -> None:
            maintenance.plan_work(conn, chosen, begins_at, ends_at, reason, visitor.name)
            journal(conn, visitor.name, f"maintenance planned at {amount(len(chosen), 'site')}: {reason}")

        await self._store.write(work)
        visitor.leave_notice(f"The maintenance of {amount(len(chosen), 'site')} is planned.")
        return RedirectResponse("/maintenance", 303)

    async def remove(self, request: Request) -> Response:
        """POST /maintenance/remove: what has not begun is removed, what goes on ends now."""
        visitor, now = visitor_of(request), time.time()
        try:
            numbers = [row_number(each) for each in visitor.form.get("pick", [])]
        except ValueError:
            numbers = []
        if not numbers:
            return await self.index(request, "Select at least one row.", None, 422)

        def work(conn: Any) -> None:
            maintenance.remove_work(conn, numbers, now)
            journal(conn, visitor.name, f"maintenance removed or ended: {len(numbers)} rows")

        await self._store.write(work)
        return RedirectResponse("/maintenance", 303)


def choose_sites(sites: Mapping[str, Site], text: str, tag: str) -> list[str]:
    """The sites that a person names, by number or "all", and by tag. Raises EdgeError for one that is not there."""
    named = text.replace(",", " ").split()
    if named == ["all"]:
        return list(sites)
    if unknown := [each for each in named if each not in sites]:
        raise EdgeError(f"There is no site {', '.join(unknown)}.")
    chosen = dict.fromkeys(named)
    if tag:
        chosen |= dict.fromkeys(site.id for site in sites.values() if tag in site.tags)
    if not chosen:
        raise EdgeError('Name at least one site, a tag, or "all".')
    return list(chosen)


def parse_moment(config: CentralConfig, text: str) -> datetime:
    """A time that a person has typed, in the zone of the calendar, or with its offset. Raises EdgeError."""
    try:
        found = parse_date_and_time(text)
    except ValueError:
        raise EdgeError('Write times such as "2026-12-05 22:00".') from None
    zone = config.calendar.zone
    return as_local(found, zone).replace(tzinfo=zone)
