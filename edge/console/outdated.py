"""The page of copies at destinations under former demographics, with what the archive was sent of the change since."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import ConsolePage
from edge.store.outdated_copies import OutdatedCopy, list_outdated_copies
from edge.store.studies import numbers_of
from edge.web.listing import SortKeys, cut_page, read_view

#: Groups of images that are listed.
MOST_COPIES = 1_000
_COLUMNS: SortKeys[OutdatedCopy] = {
    "destination": lambda each: each.destination,
    "images": lambda each: each.images,
    "sent": lambda each: each.sent_at,
    "changed": lambda each: each.changed_at,
}


class OutdatedPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /outdated. It names studies by their number, and no patient."""
        view = read_view(request, "/outdated", _COLUMNS)
        with self._access.db.reading() as conn:
            found = list_outdated_copies(conn, limit=MOST_COPIES)
            page = cut_page(found, view, _COLUMNS)
            study_ids = numbers_of(conn, [each.study_uid for each in page.rows])
        return self._pages.render(
            request,
            "outdated.html",
            view=view,
            page=page,
            study_ids=study_ids,
            relays=sorted(self._access.config().relays),
            most=MOST_COPIES if len(found) == MOST_COPIES else 0,
        )
