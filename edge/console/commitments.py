"""The page of requests for storage commitment by modalities, and of those that still wait for a report."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store.commitment_requests import REQUEST_COLUMNS, ListedRequest, list_requests
from edge.text import mask_uids
from edge.web.guard import visitor_of
from edge.web.listing import read_list_page, read_view


class CommitmentPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /commitments. Who may not see patient data sees no UIDs."""
        view = read_view(request, "/commitments", REQUEST_COLUMNS, ("state",))
        with self._access.db.reading() as conn:
            page = read_list_page(list_requests(conn, state=view.choice("state")), view)
        if not visitor_of(request).sees_patients:
            page = page.map(_mask)
        return self._pages.render(request, "commitments.html", view=view, page=page)


def _mask(each: ListedRequest) -> ListedRequest:
    return replace(each, transaction_uid=mask_uids(each.transaction_uid))
