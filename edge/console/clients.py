"""Machines that call the DICOMweb services, and when they last did."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store.web_clients import ListedClient, list_clients
from edge.web.listing import SortKeys, cut_page, read_view

_COLUMNS: SortKeys[ListedClient] = {
    "client": lambda each: each.name,
    "called": lambda each: each.last_seen_at,
    "stored": lambda each: each.stored,
    "last": lambda each: each.last_stored_at,
}


class ClientsPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /clients."""
        config = self._access.config()
        view = read_view(request, "/clients", _COLUMNS)
        with self._access.db.reading() as conn:
            found = list_clients(conn, config.clients.values())
        page = cut_page(found, view, _COLUMNS)
        return self._pages.render(request, "clients.html", view=view, page=page, is_open=config.dicomweb.is_on)
