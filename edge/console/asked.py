"""The page of queries and retrievals: the caller, the keys, and how each ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.query.listing import describe_keys
from edge.store.asked import ASKED_COLUMNS, list_asked
from edge.web.guard import visitor_of
from edge.web.listing import read_list_page, read_view


class AskedPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /asked. Who may not see patient data sees which keys were asked for, and no values."""
        visitor = visitor_of(request)
        view = read_view(request, "/asked", ASKED_COLUMNS)
        with self._access.db.reading() as conn:
            page = read_list_page(list_asked(conn), view)
        self._access.views.record_page(visitor, "queries page")
        sees = visitor.sees_patients
        shown = page.map(lambda each: (each, describe_keys(each.identifier, each.syntax, with_values=sees)))
        return self._pages.render(request, "asked.html", view=view, page=shown)
