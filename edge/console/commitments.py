"""What modalities have asked as storage commitment, and which of them still wait for a report."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store import commitment_requests
from edge.text import mask_uids
from edge.web.guard import visitor_of

MOST_SHOWN = 200


class CommitmentPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /commitments. Who may not see patient data sees no UIDs."""
        with self._access.db.reading() as conn:
            found = commitment_requests.list_requests(conn, limit=MOST_SHOWN)
        if not visitor_of(request).sees_patients:
            found = [replace(each, transaction_uid=mask_uids(each.transaction_uid)) for each in found]
        return self._pages.render(request, "commitments.html", requests=found, full=len(found) == MOST_SHOWN)
