"""What was asked of the gateway: with the caller, the keys, and how it ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.query.listing import describe_keys
from edge.store.asked import list_asked
from edge.web.guard import visitor_of

_MOST_SHOWN = 200


class AskedPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /asked. Who may not see patient data sees which keys were asked for, and no values."""
        visitor = visitor_of(request)
        with self._access.db.reading() as conn:
            found = list_asked(conn, _MOST_SHOWN)
        self._access.views.record_page(visitor, "queries page")
        sees = visitor.sees_patients
        rows = [(each, describe_keys(each.identifier, each.syntax, with_values=sees)) for each in found]
        return self._pages.render(request, "asked.html", rows=rows, full=len(found) == _MOST_SHOWN)
