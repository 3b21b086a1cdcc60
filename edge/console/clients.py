"""Machines that call the DICOMweb services, and when they last did."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store import web_clients


class ClientsPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /clients."""
        config = self._access.config()
        with self._access.db.reading() as conn:
            found = web_clients.list_clients(conn, config.clients.values())
        return self._pages.render(request, "clients.html", clients=found, is_open=config.dicomweb.is_on)
