"""WADO-RS rendered and thumbnails (PS3.18 section 10.4.1.1.3): frames as pictures for people, not for diagnosis.

Pixel data is decoded in the transcoder's sandboxed worker alone. Presentation states are not applied. Pictures are
JPEG, or PNG where that is accepted and JPEG is not. Of several frames or instances each is a part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import chain

from edge.errors import EdgeError, Hindered, TransformError
from edge.network.multipart import PartDelimiters
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.exchange import Exchange, WebAnswer
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.pixels import count_frames, read_frame_numbers
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import etag_of, not_modified
from edge.scp.dicomweb.resources import JPEG, PNG
from edge.scp.dicomweb.view_parameters import list_unsupported, read_picture_view
from edge.store.held import HeldInstance
from edge.text import MIB
from edge.transform import Transcoder
from edge.transform.view import View

_ACCESS = "wado-rs rendered"
#: Longest sides of a picture, of a thumbnail, and of a thumbnail where nothing is said, in pixels.
_LARGEST, _LARGEST_THUMBNAIL, _THUMBNAIL = 4096, 1024, 128
#: One picture takes at most this time, a frame at most this number of bytes once it is decoded; a worker stays.
RENDER_SECONDS, MOST_RENDERED, RENDER_IDLE_SECONDS = 20.0, 512 * MIB, 600.0
#: Workers that draw and decode at a time.
DRAWERS = 2


class RenderedResource:
    """See the module's docstring. Thread-safe."""

    def __init__(self, holdings: Holdings, transcoder: Transcoder) -> None:
        self._holdings, self._transcoder = holdings, transcoder

    def one(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../rendered of an instance, or of one frame or several."""
        view = read_picture_view(exchange, _LARGEST)
        (instance,) = self._holdings.find(exchange, names, _ACCESS)
        numbers = read_frame_numbers(names.get("list", "1"), count_frames(self._holdings, instance))
        return self._answer(exchange, [(instance, replace(view, frame=each)) for each in numbers])

    def several(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../rendered of a study or series: the first frame of each instance that has an image."""
        view = read_picture_view(exchange, _LARGEST)
        found = self._holdings.find(exchange, names, _ACCESS)
        return self._answer(exchange, [(each, view) for each in found], passes_over=True)

    def thumbnail(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../thumbnail; of a study or series, the instance in its middle stands for it."""
        view = read_picture_view(exchange, _LARGEST_THUMBNAIL, _THUMBNAIL)
        instance = _pick(self._holdings.find_some(exchange, names, _ACCESS))
        (number,) = read_frame_numbers(names.get("frame", "1"), count_frames(self._holdings, instance))
        return self._answer(exchange, [(instance, replace(view, frame=number))])

    def _answer(
        self, exchange: Exchange, wanted: Sequence[tuple[HeldInstance, View]], *, passes_over: bool = False
    ) -> WebAnswer:
        """`passes_over`: what has no picture is left out, and each is a part."""
        name, is_multipart = _choose_picture(exchange.accept, is_list=passes_over or len(wanted) > 1)
        wanted = [(instance, replace(view, is_jpeg=name == JPEG)) for instance, view in wanted]
        etag = etag_of([instance for instance, _ in wanted], repr([view for _, view in wanted]))
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        if unsupported := list_unsupported(exchange):
            headers["Warning"] = f'299 edge "not supported and left out: {", ".join(unsupported)}"'
        pictures = self._pictures(wanted, passes_over)
        first = next(pictures, b"")  # a failure is said before the answer begins
        if not first:
            raise HttpError(HTTPStatus.NOT_ACCEPTABLE, "There is no picture of it: it has no images.")
        if not is_multipart:
            return WebAnswer(HTTPStatus.OK, {**headers, "Content-Type": name}, first)
        delimiters = PartDelimiters(name)
        headers["Content-Type"] = delimiters.content_type

        def list_parts() -> Iterator[bytes]:
            for each in chain((first,), pictures):
                yield delimiters.open_part(name) + each
            yield delimiters.closing

        return WebAnswer(HTTPStatus.OK, headers, parts=list_parts(), length=None)

    def _pictures(self, wanted: Sequence[tuple[HeldInstance, View]], passes_over: bool) -> Iterator[bytes]:
        for instance, view in wanted:
            try:
                yield self._draw(instance, view)
            except HttpError as error:
                if not passes_over or error.status is not HTTPStatus.NOT_ACCEPTABLE:
                    raise

    def _draw(self, instance: HeldInstance, view: View) -> bytes:
        path, offset = self._holdings.path_of(instance), instance.dataset_offset
        try:
            return self._transcoder.render(path, offset, instance.transfer_syntax_uid, view).data
        except TransformError as error:
            raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"There is no picture of it: {error}.") from None
        except Hindered:
            raise
        except (EdgeError, OSError):
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "It cannot be drawn now.", {"Retry-After": "5"}) from None


def _pick(found: list[HeldInstance]) -> HeldInstance:
    """The one in the middle, of those that have an image."""
    images = [each for each in found if each.rows] or found
    return images[len(images) // 2]


def _choose_picture(accept: str, *, is_list: bool) -> tuple[str, bool]:
    """The media type of a picture, and whether it comes in parts. Raises HttpError: 406."""
    for each in media_types.parse_accepted(accept):
        if each.name == "multipart/related":
            kind = each.parameters.get("type", JPEG).lower()
            if kind in (JPEG, PNG, "*/*"):
                return PNG if kind == PNG else JPEG, True
        for name in (JPEG, PNG):
            if each.covers(name) or each.name == "multipart/*":
                return name, is_list or each.name == "multipart/*"
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"Accept is to name one of: {JPEG}, {PNG}.")
