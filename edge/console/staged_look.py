"""A quick look at images of an import, before a person says whose they are (edge.console.look); each is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from edge.console.access import Access, ConsolePage
from edge.console.look import FrameSource, Looker, as_picture, place_in, read_frame_view
from edge.importer.recognize import FileKind
from edge.importer.staging import STAGED_FOLDER
from edge.store import imports
from edge.store.database import Transaction
from edge.store.imports import ImportObject
from edge.web.guard import visitor_of

if TYPE_CHECKING:
    from edge.web.pages import Pages

#: Images of a study that its import shows.
MOST_STAGED_PICTURES = 6
#: Images of a study among which a page leads on.
_MOST_LISTED = 5000


class StagedLookPages(ConsolePage):
    def __init__(self, access: Access, pages: Pages, looker: Looker) -> None:
        super().__init__(access, pages)
        self._looker = looker

    def show(self, request: Request) -> Response:
        """GET /import/NUMBER/images/NUMBER: one frame large, with window and level."""
        found = self._find(request)
        if found is None:
            return self._pages.render_missing(request)
        with self._access.db.reading() as conn:
            numbers = [each.id for each in list_staged_images(conn, found.study_id)]
        view, batch = read_frame_view(request), f"/import/{found.batch_id}"
        drawn = self._looker.draw(self._source_of(found), view)
        reason = drawn if isinstance(drawn, str) else ""
        return self._pages.render(
            request,
            "look.html",
            title=f"Image of import {found.batch_id}",
            address=f"{batch}/images/{found.id}",
            links=[(f"{batch}#study-{found.study_id}", "The import")],
            place=place_in(numbers, found.id, f"{batch}/images/{{}}"),
            view=view,
            reason=reason,
            series=None,
            document=None,
            drawn=None if reason else drawn,
        )

    def picture(self, request: Request) -> Response:
        """GET /import/NUMBER/images/NUMBER/frame.png; `frame`, `side`, `center` and `width` as in the page."""
        found = self._find(request)
        if found is None:
            return Response("There is no such image.\n", 404, media_type="text/plain")
        return as_picture(self._looker.draw(self._source_of(found), read_frame_view(request)))

    def _source_of(self, found: ImportObject) -> FrameSource:
        path = self._access.config().site.data_dir / STAGED_FOLDER / found.path
        return FrameSource(path, found.transfer_syntax_uid, found.dataset_offset)

    def _find(self, request: Request) -> ImportObject | None:
        """Return a staged image of the import that the address names; the look is recorded."""
        batch, number = request.path_params["number"], request.path_params["image"]
        with self._access.db.reading() as conn:
            found = imports.find_import_object(conn, number)
        if found is None or found.batch_id != batch or not found.path or found.kind != FileKind.DICOM.value:
            return None
        self._access.views.record_page(visitor_of(request), f"images of import {batch}")
        return found


def list_staged_images(conn: Transaction, study: int) -> list[ImportObject]:
    """List the DICOM objects of a staged study that are still staged files."""
    found = imports.list_import_objects(conn, study, limit=_MOST_LISTED)
    return [each for each in found if each.path and each.kind == FileKind.DICOM.value]


def choose_staged_images(conn: Transaction, study: int) -> list[ImportObject]:
    """Choose the images that stand for a staged study, evenly among all of them."""
    found = list_staged_images(conn, study)
    return found[:: max(1, -(-len(found) // MOST_STAGED_PICTURES))]
