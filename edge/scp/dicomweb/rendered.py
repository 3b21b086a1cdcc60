"""WADO-RS rendered and thumbnails (PS3.18 section 10.4.1.1.3): single frames as pictures for people, not for diagnosis.

A foreign byte is decoded in the transcoder's sandboxed worker alone. Presentation states are not applied. Pictures are
PNG.
"""

from __future__ import annotations

from http import HTTPStatus

from edge.errors import EdgeError, Hindered, TransformError
from edge.scp.dicomweb import media
from edge.scp.dicomweb.exchange import Exchange, WebAnswer
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import not_modified
from edge.scp.dicomweb.retrieve import etag_of
from edge.store.held import HeldInstance
from edge.text import MIB
from edge.transform import Transcoder

PNG = "image/png"
#: Longest sides of a picture and of a thumbnail, in pixels.
_LARGEST, _THUMBNAIL = 4096, 128
#: One picture takes at most this time, a frame at most this number of bytes once it is decoded; a worker stays.
RENDER_SECONDS, MOST_RENDERED, RENDER_IDLE_SECONDS = 20.0, 512 * MIB, 600.0


class RenderedResource:
    """See the module's docstring. Thread-safe."""

    def __init__(self, holdings: Holdings, transcoder: Transcoder) -> None:
        self._holdings, self._transcoder = holdings, transcoder

    def frame(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../rendered, of an instance or one of its frames."""
        return self._answer(exchange, names, min(_LARGEST, _read_side(exchange) or _LARGEST))

    def thumbnail(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../thumbnail; of a study or series, the instance in its middle stands for it."""
        return self._answer(exchange, names, min(1024, _read_side(exchange) or _THUMBNAIL))

    def _answer(self, exchange: Exchange, names: dict[str, str], side: int) -> WebAnswer:
        media.choose_media(exchange.request.header("accept"), (PNG,))
        window = _read_window(exchange)
        found = self._holdings.find(exchange, names, "wado-rs rendered")
        instance = _pick(found)
        number = int(names.get("frame", 1))
        etag = etag_of([instance], f"{number} {side} {window}")
        headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Type": PNG}
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        return WebAnswer(HTTPStatus.OK, headers, self._draw(instance, number, side, window))

    def _draw(self, instance: HeldInstance, number: int, side: int, window: tuple[float, float] | None) -> bytes:
        try:
            drawn = self._transcoder.render(
                self._holdings.path_of(instance),
                instance.dataset_offset,
                instance.transfer_syntax_uid,
                frame=number,
                side=side,
                window=window,
            )
        except TransformError as error:
            raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"There is no picture of it: {error}.") from None
        except Hindered:
            raise
        except (EdgeError, OSError):
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "It cannot be drawn now.", {"Retry-After": "5"}) from None
        return drawn.png


def _pick(found: list[HeldInstance]) -> HeldInstance:
    """The one in the middle, of those that have an image."""
    images = [each for each in found if each.rows] or found
    return images[len(images) // 2]


def _read_side(exchange: Exchange) -> int:
    """The longer side that `viewport` asks for; 0: none. Raises HttpError: 400."""
    text = next(iter(exchange.values("viewport")), "")
    if not text:
        return 0
    sides = text.split(",")[:2]
    if not all(each.isascii() and each.isdigit() and 0 < int(each) < 100_000 for each in sides):
        raise HttpError(HTTPStatus.BAD_REQUEST, "viewport is to begin with width and height in pixels.")
    return max(map(int, sides))


def _read_window(exchange: Exchange) -> tuple[float, float] | None:
    """Center and width that `window` asks for. Raises HttpError: 400."""
    text = next(iter(exchange.values("window")), "")
    if not text:
        return None
    try:
        center, width = (float(each) for each in text.split(",")[:2])
        if not (abs(center) < 1e9 and 0 < width < 1e9):
            raise ValueError
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "window is to begin with center and width.") from None
    return center, width
