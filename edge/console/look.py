"""A quick look at images, not for diagnosis: thumbnails of a study's series, one frame large with its window.

Promise: pixels are decoded in the transcoder's sandboxed worker alone; presentation states and overlays are not
applied. What cannot be shown is a picture that says why. Each look is recorded by study.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import escape
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edge.console.access import IMAGES, Access, ConsolePage
from edge.console.document import DOCUMENT_HEADERS, EncapsulatedDocument, find_document
from edge.dicom import part10
from edge.errors import EdgeError, TransformError, Unreadable
from edge.store import queries
from edge.store.queries import Instance
from edge.store.series_list import list_study_series
from edge.store.studies import numbers_of
from edge.text import MIB, printable
from edge.transform import Transcoder
from edge.transform.view import View
from edge.web.guard import visitor_of

if TYPE_CHECKING:
    from edge.transform.view import RenderedFrame
    from edge.web.pages import Pages

#: The longest side of a large picture, in pixels.
LARGE = 1024
#: The longest time for a frame, and its largest size in bytes once it is decoded.
DRAW_SECONDS, MOST_DECODED = 20.0, 512 * MIB
#: A worker stays ready for this time after the last frame.
_IDLE_SECONDS = 600.0
#: Pictures that are kept for the request that follows.
_KEPT = 64
_PLAIN = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


@dataclass(frozen=True, slots=True)
class FrameSource:
    """The file whose frames are shown. `offset`: of its data set; None: behind its file meta information."""

    path: Path
    transfer_syntax_uid: str
    offset: int | None = None


class Looker:
    """Draws frames, and keeps the last ones. Thread-safe; its worker starts with the first look."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._transcoder = Transcoder(workers=1, timeout=DRAW_SECONDS, idle=_IDLE_SECONDS, largest=MOST_DECODED)
        self._kept: OrderedDict[tuple[FrameSource, View, int, int], RenderedFrame | str] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, source: FrameSource, view: View) -> RenderedFrame | str:
        """Return a picture, or why there is none. What may pass is not kept, nor what holds for a former file."""
        try:
            file = source.path.stat()
            key = source, view, file.st_ino, file.st_mtime_ns
            with self._lock:
                if (found := self._kept.get(key)) is not None:
                    return found
            drawn = self._draw(source, view)
        except Unreadable:
            return "its file cannot be read"
        except OSError:
            return "its file is not on this disk any more"
        except EdgeError as error:
            return str(error)
        with self._lock:
            self._kept[key] = drawn
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return drawn

    def warm(self) -> None:
        """Have the worker ready: somebody sees a list from which images are opened."""
        self._transcoder.warm()

    def source_of(self, instance: Instance) -> FrameSource:
        return FrameSource(self._access.spool.path_of(instance.path), instance.transfer_syntax_uid)

    def _draw(self, source: FrameSource, view: View) -> RenderedFrame | str:
        offset = _dataset_offset(source.path) if source.offset is None else source.offset
        try:
            return self._transcoder.render(source.path, offset, source.transfer_syntax_uid, view)
        except TransformError as error:
            return str(error)


def _dataset_offset(path: Path) -> int:
    """Where the data set of a stored file begins. Raises OSError and Unreadable."""
    with path.open("rb") as file:
        return part10.parse_meta(file.read(part10.MAX_META)).dataset_offset


def warms(looker: Looker, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Have the worker started behind the answer of a page from which an operator opens images."""

    def answer(request: Request) -> Response:
        response = page(request)
        if visitor_of(request).sees_patients:
            response.background = BackgroundTask(looker.warm)
        return response

    return answer


class LookPages(ConsolePage):
    def __init__(self, access: Access, pages: Pages, looker: Looker) -> None:
        super().__init__(access, pages)
        self._looker = looker

    def show(self, request: Request) -> Response:
        """GET /instances/NUMBER: one frame large, with window and level."""
        found = self._find(request)
        if found is None:
            return self._pages.render_missing(request)
        instance, study_id = found
        view = read_frame_view(request)
        drawn = self._looker.draw(self._looker.source_of(instance), view)
        with self._access.db.reading() as conn:
            series = list_study_series(conn, study_id) if study_id is not None else []
        mine = next((each for each in series if instance.id in each.instances), None)
        reason = drawn if isinstance(drawn, str) else ""
        document = self._find_document(instance) if reason else None
        return self._pages.render(
            request,
            "look.html",
            title=f"Image {instance.id}",
            address=f"/instances/{instance.id}",
            links=[
                *([(f"/studies/{study_id}", "The study")] if study_id else []),
                (f"/exceptions/{instance.id}", "Its header"),
            ],
            series=mine,
            place=place_in(mine.instances if mine else (), instance.id, "/instances/{}"),
            view=view,
            reason=reason,
            document=document,
            drawn=None if reason else drawn,
        )

    def picture(self, request: Request) -> Response:
        """GET /instances/NUMBER/frame.png; `frame`, `side`, `center` and `width` as in the page."""
        found = self._find(request)
        if found is None:
            return Response("There is no such image.\n", 404, media_type="text/plain")
        return as_picture(self._looker.draw(self._looker.source_of(found[0]), read_frame_view(request)))

    def document(self, request: Request) -> Response:
        """GET /instances/NUMBER/document: the PDF of an encapsulated document."""
        found = self._find(request)
        document = self._find_document(found[0]) if found is not None else None
        if found is None or document is None:
            return self._pages.render_missing(request)
        name = f'inline; filename="document-{found[0].id}.pdf"'
        headers = {**DOCUMENT_HEADERS, "content-disposition": name, "content-length": str(document.length)}
        return StreamingResponse(document.read(), media_type=document.mime, headers=headers)

    def _find_document(self, instance: Instance) -> EncapsulatedDocument | None:
        spool = self._access.spool
        try:
            offset = spool.read_meta(instance.path).dataset_offset
            return find_document(spool.path_of(instance.path), offset, instance.transfer_syntax_uid)
        except (EdgeError, Unreadable, OSError):
            return None

    def _find(self, request: Request) -> tuple[Instance, int | None] | None:
        """Return the instance and its study; the look is recorded."""
        with self._access.db.reading() as conn:
            instance = queries.instance(conn, request.path_params["number"])
            if instance is None:
                return None
            study_id = numbers_of(conn, [instance.study_uid]).get(instance.study_uid)
        studies, instances = ([study_id], []) if study_id is not None else ([], [instance.id])
        self._access.views.record(visitor_of(request), IMAGES, studies=studies, instances=instances)
        return instance, study_id


def read_frame_view(request: Request) -> View:
    """Which frame an address asks for, and how; what it says wrongly is as if it were not there."""
    query = request.query_params

    def number(name: str, default: int, most: int) -> int:
        text = query.get(name, "")
        return min(most, max(1, int(text))) if text.isascii() and text.isdigit() and len(text) < 8 else default

    window = None
    try:
        center, width = float(query.get("center", "")), float(query.get("width", ""))
        if abs(center) < 1e9 and 0 < width < 1e9:
            window = center, width
    except ValueError:
        pass
    return View(number("frame", 1, 1_000_000), number("side", LARGE, LARGE), window)


def as_picture(drawn: RenderedFrame | str) -> Response:
    """Answer with a frame, or with a picture that says why there is none."""
    if isinstance(drawn, str):
        return Response(_draw_reason(drawn), media_type="image/svg+xml", headers=_PLAIN)
    return Response(drawn.data, media_type="image/png")


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """Where an image is among others: addresses of the one before and the one behind it."""

    number: int = 1
    of: int = 1
    previous: str = ""
    following: str = ""


def place_in(numbers: Sequence[int], number: int, address: str) -> SeriesPlace:
    """Return the place of an image among `numbers`. `address`: of an image, with {} for its number. Pure."""
    if number not in numbers:
        return SeriesPlace()
    at = numbers.index(number)
    before = address.format(numbers[at - 1]) if at else ""
    behind = address.format(numbers[at + 1]) if at + 1 < len(numbers) else ""
    return SeriesPlace(at + 1, len(numbers), before, behind)


def _draw_reason(reason: str) -> str:
    """Return a picture that says why there is no other."""
    words, line = printable(reason).split(), ""
    lines: list[str] = []
    for word in words:
        if len(line) + len(word) > 24:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    rows = "".join(
        f'<tspan x="80" dy="{14 if i else 0}">{escape(each)}</tspan>' for i, each in enumerate([*lines, line][:8])
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160" width="160" height="160">'
        '<rect width="160" height="160" fill="#e8e8e8"/><text x="80" y="44" font-family="sans-serif" font-size="11"'
        f' fill="#333" text-anchor="middle">{rows}</text></svg>'
    )
