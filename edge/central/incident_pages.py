"""The centre's pages of incidents: the list, each one, and what operators decide about one or many."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from edge.central.access import CentralPage
from edge.central.columns import PART_ROWS
from edge.store.central import incidents, outages
from edge.store.engine import EngineTransaction, Row
from edge.text import amount
from edge.web.endpoints import row_number
from edge.web.guard import visitor_of
from edge.web.listing import SortKeys, cut_page, filter_rows, parse_view

INCIDENT_SORT_KEYS: SortKeys[Row] = {
    "id": lambda row: row["id"],
    "kind": lambda row: row["kind"],
    "site": lambda row: row["site"],
    "state": lambda row: tuple(bool(row[f"{each}_at"]) for each in ("closed", "escalated", "acknowledged")),
    "opened": lambda row: row["opened_at"],
    "age": lambda row: (row["closed_at"] or time.time()) - row["opened_at"],
}
INCIDENT_COLUMNS = {"id": "No.", "kind": "What", "site": "Where", "state": "State", "opened": "Since", "age": "For"}
#: Incidents that the page considers.
MOST_INCIDENTS = 2000
INCIDENT_DECISIONS = {
    "acknowledge": incidents.acknowledge,
    "note": incidents.add_note,
    "close": incidents.close_by_hand,
}


class IncidentPages(CentralPage):
    async def list_incidents(self, request: Request) -> Response:
        query = request.query_params
        closed = query.get("show") == "all"
        view = parse_view("/incidents", query, INCIDENT_COLUMNS, ("show",))
        most = MOST_INCIDENTS
        found = await self._store.read(lambda conn: incidents.listing(conn, closed=closed, limit=most))
        return await self._pages.render_large(
            request,
            "incidents.html",
            view=view,
            part=cut_page(filter_rows(found, view.wanted, _incident_text), view, INCIDENT_SORT_KEYS, PART_ROWS),
            columns=[(key, label, key == "age") for key, label in INCIDENT_COLUMNS.items()],
            closed=closed,
            cut=len(found) == most,
        )

    async def decide_many(self, request: Request) -> Response:
        """Acknowledge, note or close several incidents with one note."""
        visitor = visitor_of(request)
        text, decide = visitor.field("note")[: incidents.MAX_NOTE], INCIDENT_DECISIONS.get(visitor.field("what"))
        try:
            numbers = [row_number(each) for each in visitor.form.get("pick", [])][:MOST_INCIDENTS]
        except ValueError:
            numbers = []
        if decide is None or not numbers or not text:
            return PlainTextResponse("Choose incidents, and write a note. Go back and try again.\n", 422)

        def work(conn: EngineTransaction) -> int:
            return sum(_decide_one(conn, decide, number, time.time(), visitor.name, text) for number in numbers)

        count = await self._store.write(work)
        visitor.leave_notice(f"The note is added to {amount(count, 'incident')}.")
        return RedirectResponse(
            visitor.field("back") if visitor.field("back").startswith("/incidents") else "/incidents", 303
        )

    async def show_incident(self, request: Request) -> Response:
        number = request.path_params["number"]
        found, notes, members = await self._store.read(
            lambda conn: (
                incidents.find_incident(conn, number),
                incidents.notes(conn, number),
                outages.list_of_incident(conn, number),
            )
        )
        if found is None:
            return self._pages.render_missing(request)
        return await self._pages.render_large(request, "incident.html", incident=found, notes=notes, members=members)

    async def decide(self, request: Request) -> Response:
        """Acknowledge, note or close."""
        visitor, number = visitor_of(request), request.path_params["number"]
        text, what = visitor.field("note")[: incidents.MAX_NOTE], visitor.field("what")
        if what not in INCIDENT_DECISIONS or (what != "acknowledge" and not text):
            return PlainTextResponse("Say what it is about: the note is empty. Go back and write one.\n", 422)
        try:
            await self._store.write(
                lambda conn: INCIDENT_DECISIONS[what](conn, number, time.time(), visitor.name, text)
            )
        except incidents.NoIncident as error:
            return PlainTextResponse(f"{error}\n", 409)
        return RedirectResponse(f"/incidents/{number}", 303)


def _decide_one(
    conn: EngineTransaction, decide: Callable[..., None], number: int, now: float, who: str, text: str
) -> bool:
    """Decide one incident; False: it is over meanwhile."""
    try:
        decide(conn, number, now, who, text)
    except incidents.NoIncident:
        return False
    return True


def _incident_text(row: Row) -> str:
    return f"{row['id']} {row['kind']} {row['site'] or ''} {row['severity']} {row['text']}"
