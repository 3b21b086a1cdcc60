"""WADO-RS of parts of an object (PS3.18 sections 10.4.1.1.5 and 10.4.1.1.6): frames, and bulk data.

Frames go as they are kept: native ones as application/octet-stream in little endian, compressed ones under the media
type of their compression, with its transfer syntax.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus

from edge.dicom import header as headers
from edge.dicom.elements import EXPLICIT, FORMS, UNDEFINED, read_head
from edge.dicom.pixel_data import ByteRange, PixelData, encapsulated_frames, native_frames
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import Unreadable
from edge.scp.dicomweb import media
from edge.scp.dicomweb.exchange import Exchange, FilePart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings, read_at
from edge.scp.dicomweb.media import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import count_bytes, not_modified, with_range
from edge.scp.dicomweb.retrieve import etag_of
from edge.store.held import HeldInstance

OCTETS = "application/octet-stream"
#: Media types of compressed frames (PS3.18 table 8.7.3-5); others go as octets, too.
_MEDIA = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.100": "video/mpeg2",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
}
_SAMPLES, _ROWS, _COLUMNS, _FRAMES, _BITS, _PHOTOMETRIC = (
    0x00280002,
    0x00280010,
    0x00280011,
    0x00280008,
    0x00280100,
    0x00280004,
)
_IMAGE = frozenset({_SAMPLES, _ROWS, _COLUMNS, _FRAMES, _BITS, _PHOTOMETRIC})
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_KEPT = 64
MOST_FRAMES = 10_000

FrameRanges = Sequence[Sequence[ByteRange]]


class PixelResource:
    """See the module's docstring. Thread-safe."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._kept: OrderedDict[int, FrameRanges] = OrderedDict()
        self._lock = threading.Lock()

    # -- frames -------------------------------------------------------------------------------------------------------

    def frames(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../frames/{list}."""
        (instance,) = self._holdings.find(exchange, names, "wado-rs frames")
        accepted = media.parse_accepted(exchange.accept)
        name, is_multipart = _choose_frames(accepted, instance, names["list"].count(",") == 0)
        etag = etag_of([instance], "frames" + names["list"])
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        found = self._frames_of(instance)
        chosen = [found[number - 1] for number in _numbers(names["list"], len(found))]
        content_type = f"{name}; transfer-syntax={_syntax_of(instance)}"
        parts = [self._parts(instance, each) for each in chosen]
        return _answer(exchange, content_type, name, parts, etag, is_multipart=is_multipart)

    def _frames_of(self, instance: HeldInstance) -> FrameRanges:
        with self._lock:
            if (kept := self._kept.get(instance.id)) is not None:
                return kept
        try:
            found = self._find_frames(instance)
        except (Unreadable, OSError) as error:
            raise HttpError(HTTPStatus.NOT_FOUND, f"It has no frames that can be distinguished: {error}.") from None
        with self._lock:
            self._kept[instance.id] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _find_frames(self, instance: HeldInstance) -> FrameRanges:
        pixels = self._holdings.pixels_of(instance)
        if not pixels.tag:
            raise Unreadable("it has no pixel data")
        fd = os.open(self._holdings.path_of(instance), os.O_RDONLY | os.O_CLOEXEC)
        try:
            read = read_at(fd, instance.dataset_offset)
            said = headers.scan(read, instance.data_set_bytes, instance.transfer_syntax_uid, _IMAGE)
            numbers = {tag: int("".join(values[:1]) or 0) for tag, values in said.items() if tag != _PHOTOMETRIC}
            count = max(1, numbers.get(_FRAMES, 1))
            if pixels.is_encapsulated:
                return encapsulated_frames(read, pixels, count)
            bits = numbers[_ROWS] * numbers[_COLUMNS] * numbers.get(_SAMPLES, 1) * numbers[_BITS]
            if "".join(said.get(_PHOTOMETRIC, ())[:1]) == "YBR_FULL_422":
                bits = bits // 3 * 2  # PS3.3 section C.7.6.3.1.2
            return [[each] for each in native_frames(pixels, count, bits)]
        except (ValueError, KeyError):
            raise Unreadable("its rows, columns and bits do not say how long a frame is") from None
        finally:
            os.close(fd)

    def _parts(self, instance: HeldInstance, ranges: Sequence[ByteRange]) -> list[bytes | FilePart]:
        path, base = self._holdings.path_of(instance), instance.dataset_offset
        return [FilePart(path, base + each.offset, each.count) for each in ranges]

    # -- bulk data ----------------------------------------------------------------------------------------------------

    def bulk(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../bulkdata/{tag}: a value of the top level. Pixel data that is compressed goes frame by frame."""
        (instance,) = self._holdings.find(exchange, names, "wado-rs bulk data")
        tag = int(names["tag"], 16)
        try:
            pixels = self._holdings.pixels_of(instance)
            found = pixels if tag == pixels.tag else self._find_value(instance, tag)
        except (Unreadable, OSError) as error:
            raise HttpError(HTTPStatus.NOT_FOUND, f"It cannot be given: {error}.") from None
        etag = etag_of([instance], names["tag"])
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        accepted = media.parse_accepted(exchange.accept)
        if found.is_encapsulated:
            name, is_multipart = _choose_frames(accepted, instance, is_single=False)
            parts = [self._parts(instance, each) for each in self._frames_of(instance)]
        else:
            name, is_multipart = OCTETS, _is_multipart(accepted, OCTETS)
            parts = [self._parts(instance, [found.value])]
        return _answer(
            exchange, f"{name}; transfer-syntax={_syntax_of(instance)}", name, parts, etag, is_multipart=is_multipart
        )

    def _find_value(self, instance: HeldInstance, wanted: int) -> PixelData:
        header = self._holdings.read_header(instance).data
        form, at, padded = FORMS.get(instance.transfer_syntax_uid, EXPLICIT), 0, header + bytes(12)
        walk = headers.Walk(headers.Window(lambda at, n: header[at : at + n], len(header)), frozenset(), frozenset(), 0)
        while at < len(header):
            tag, _, start, size = read_head(padded, at, form)
            end = start + size if size != UNDEFINED else walk.walk_sequence(at, form)
            if tag == wanted and size != UNDEFINED:
                return PixelData(at, tag, "", ByteRange(start, size))
            at = end
        raise Unreadable("there is no such value at its top level")


def _numbers(text: str, frames: int) -> list[int]:
    found = [int(each) for each in text.split(",")]
    if len(found) > MOST_FRAMES:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {MOST_FRAMES} frames in one request.")
    if not all(1 <= each <= frames for each in found):
        raise HttpError(HTTPStatus.NOT_FOUND, f"It has {frames} frames.")
    return found


def _syntax_of(instance: HeldInstance) -> str:
    """Native values are the same in implicit and explicit VR (PS3.5 annex A)."""
    syntax = instance.transfer_syntax_uid
    return EXPLICIT_VR_LITTLE_ENDIAN if syntax == IMPLICIT_VR_LITTLE_ENDIAN else syntax


def _choose_frames(accepted: Sequence[MediaType], instance: HeldInstance, is_single: bool) -> tuple[str, bool]:
    """The media type of a frame, and whether it comes in parts. Raises HttpError: 406."""
    syntax = _syntax_of(instance)
    own = _MEDIA.get(syntax, OCTETS)
    for each in accepted:
        wanted = each.parameters.get("transfer-syntax", "*" if own != OCTETS else syntax)
        if wanted not in ("*", syntax):
            continue
        if each.name == "multipart/related":
            kind = each.parameters.get("type", own).lower()
            is_offered = kind in (own, "*/*") or (kind == OCTETS and "transfer-syntax" in each.parameters)
            if is_offered or (kind == "image/jpeg" and own == "image/jpeg"):
                return own, True
        elif each.name in ("*/*", "multipart/*"):
            return own, True
        elif is_single and (each.covers(own) or (each.name == OCTETS and "transfer-syntax" in each.parameters)):
            return own, False
    text = f'Accept is to allow multipart/related; type="{own}"; transfer-syntax={syntax}, or transfer-syntax=*.'
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)


def _is_multipart(accepted: Sequence[MediaType], name: str) -> bool:
    for each in accepted:
        if each.name in ("multipart/related", "*/*", "multipart/*"):
            return True
        if each.covers(name):
            return False
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f'Accept is to allow multipart/related; type="{name}".')


def _answer(
    exchange: Exchange,
    content_type: str,
    name: str,
    parts: Sequence[Sequence[bytes | FilePart]],
    etag: str,
    *,
    is_multipart: bool,
) -> WebAnswer:
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not is_multipart:
        return with_range(exchange.request, {**headers, "Content-Type": content_type}, parts[0])
    boundary = secrets.token_hex(16)
    head = f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    body: list[bytes | FilePart] = []
    for each in parts:
        body += [head, *each]
    body.append(f"\r\n--{boundary}--\r\n".encode())
    headers["Content-Type"] = f'multipart/related; type="{name}"; boundary={boundary}'
    return WebAnswer(HTTPStatus.OK, headers, parts=body, length=count_bytes(body))
