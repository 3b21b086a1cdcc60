"""What destinations have under former demographics, with what the archive was sent of the change since then."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store.outdated_copies import list_outdated_copies
from edge.store.studies import numbers_of

COPIES_SHOWN = 200


class OutdatedPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /outdated. It names studies by their number, and no patient."""
        with self._access.db.reading() as conn:
            found = list_outdated_copies(conn, limit=COPIES_SHOWN)
            study_ids = numbers_of(conn, [each.study_uid for each in found])
        return self._pages.render(
            request,
            "outdated.html",
            copies=found,
            study_ids=study_ids,
            relays=sorted(self._access.config().relays),
            full=len(found) == COPIES_SHOWN,
        )
