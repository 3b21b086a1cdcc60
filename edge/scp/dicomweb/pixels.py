"""WADO-RS of parts of an object (PS3.18 sections 10.4.1.1.5 and 10.4.1.1.6): frames, and bulk data.

Frames go as they are kept where the caller accepts that: native ones as application/octet-stream in little endian,
compressed ones under the media type of their compression, with its transfer syntax. Else they are decoded, or encoded
without loss, one by one in the transcoder's worker; their colours are then what the object's metadata says.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from edge.dicom import header as headers
from edge.dicom.elements import DEFLATED, EXPLICIT, FORMS
from edge.dicom.pixel_data import ByteRange, PixelData, encapsulated_frames, native_frames
from edge.dicom.place import locate_value
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import EdgeError, Hindered, TransformError, Unreadable
from edge.network.multipart import PartDelimiters
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.exchange import Exchange, FilePart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.media_types import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import count_bytes, etag_of, not_modified, with_range
from edge.store.held import HeldInstance
from edge.transform import Transcoder, possible
from edge.transform.syntaxes import EXPLICIT_LITTLE, JPEG_2000, JPEG_LS, RLE

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
#: What frames can become, by the media type that asks for it.
_TARGETS = {OCTETS: EXPLICIT_LITTLE, "image/jls": JPEG_LS, "image/jp2": JPEG_2000, "image/dicom-rle": RLE}
_KEPT = 64
MOST_FRAMES = 10_000

FrameRanges = Sequence[Sequence[ByteRange]]


class PixelResource:
    """See the module's docstring. Thread-safe."""

    def __init__(self, holdings: Holdings, transcoder: Transcoder) -> None:
        self._holdings, self._transcoder = holdings, transcoder
        self._kept: OrderedDict[int, FrameRanges] = OrderedDict()
        self._lock = threading.Lock()

    # -- frames -------------------------------------------------------------------------------------------------------

    def frames(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        """GET .../frames/{list}."""
        (instance,) = self._holdings.find(exchange, names, "wado-rs frames")
        accepted = media_types.parse_accepted(exchange.accept)
        form = choose_frames(accepted, instance.transfer_syntax_uid, is_single=names["list"].count(",") == 0)
        etag = etag_of([instance], f"{names['list']} {form}")
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        if form.syntax == _syntax_of(instance.transfer_syntax_uid):
            found = self._frames_of(instance)
            chosen = [found[number - 1] for number in read_frame_numbers(names["list"], len(found))]
            return _answer(exchange, form, [self._parts(instance, each) for each in chosen], etag)
        numbers = read_frame_numbers(names["list"], count_frames(self._holdings, instance))
        return self._answer_recoded(exchange, instance, numbers, form, etag)

    def _answer_recoded(
        self, exchange: Exchange, instance: HeldInstance, numbers: Sequence[int], form: FrameForm, etag: str
    ) -> WebAnswer:
        first = self._recode(instance, numbers[0], form.syntax)  # a failure is said before the answer begins
        if not form.is_multipart:
            return _answer(exchange, form, [[first]], etag)
        delimiters = PartDelimiters(form.name)

        def list_parts() -> Iterator[bytes]:
            yield delimiters.open_part(form.content_type) + first
            for number in numbers[1:]:
                yield delimiters.open_part(form.content_type) + self._recode(instance, number, form.syntax)
            yield delimiters.closing

        headers = _headers_of(delimiters.content_type, etag)
        return WebAnswer(HTTPStatus.OK, headers, parts=list_parts(), length=None)

    def _recode(self, instance: HeldInstance, number: int, syntax: str) -> bytes:
        path, offset = self._holdings.path_of(instance), instance.dataset_offset
        try:
            return self._transcoder.recode_frame(path, offset, instance.transfer_syntax_uid, number, syntax)
        except TransformError as error:
            raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"The frame cannot become that: {error}.") from None
        except Hindered:
            raise
        except (EdgeError, OSError):
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "It cannot be done now.", {"Retry-After": "5"}) from None

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
            read = headers.read_at(fd, instance.dataset_offset)
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
        """GET .../bulkdata/{tag}: a value, also of an item. Pixel data that is compressed goes frame by frame."""
        (instance,) = self._holdings.find(exchange, names, "wado-rs bulk data")
        place = [int(each, 10 if at % 2 else 16) for at, each in enumerate(names["tag"].split("/"))]
        etag = etag_of([instance], f"{names['tag']} {exchange.accept}")
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        accepted = media_types.parse_accepted(exchange.accept)
        syntax = instance.transfer_syntax_uid
        if syntax in DEFLATED:
            form = choose_bulk(accepted, EXPLICIT_LITTLE)
            return _answer(exchange, form, [[self._value_of(instance, place)]], etag)
        found = self._find_value(instance, place)
        if not found.is_encapsulated:
            return _answer(exchange, choose_bulk(accepted, syntax), [self._parts(instance, [found.value])], etag)
        form = choose_frames(accepted, syntax, is_single=False)
        if form.syntax == _syntax_of(syntax):
            return _answer(exchange, form, [self._parts(instance, each) for each in self._frames_of(instance)], etag)
        return self._answer_recoded(
            exchange, instance, range(1, count_frames(self._holdings, instance) + 1), form, etag
        )

    def _find_value(self, instance: HeldInstance, place: Sequence[int]) -> PixelData:
        try:
            pixels = self._holdings.pixels_of(instance)
            if [pixels.tag] == list(place):
                return pixels
            header = self._holdings.read_header(instance).data
            value = locate_value(header, FORMS.get(instance.transfer_syntax_uid, EXPLICIT), place)
            return PixelData(value.offset, place[-1], "", value)
        except (Unreadable, OSError) as error:
            raise HttpError(HTTPStatus.NOT_FOUND, f"It cannot be given: {error}.") from None

    def _value_of(self, instance: HeldInstance, place: Sequence[int]) -> bytes:
        """The value of a deflated object, as far as it is inflated here: what is longer is never cut short."""
        try:
            header = self._holdings.read_header(instance).data
            found = locate_value(header, EXPLICIT, place)
            if found.offset + found.count > len(header):
                raise Unreadable("its object is deflated, and too long; ask for frames")
            return header[found.offset : found.offset + found.count]
        except (Unreadable, OSError) as error:
            raise HttpError(HTTPStatus.NOT_FOUND, f"It cannot be given: {error}.") from None


def count_frames(holdings: Holdings, instance: HeldInstance) -> int:
    """How many frames it has. Raises HttpError: 404."""
    try:
        return holdings.frames_of(instance)
    except (Unreadable, OSError) as error:
        raise HttpError(HTTPStatus.NOT_FOUND, f"It has no frames that can be distinguished: {error}.") from None


def read_frame_numbers(text: str, frames: int) -> list[int]:
    """The numbers of an address. Raises HttpError: 404, 413."""
    found = [int(each) for each in text.split(",")]
    if len(found) > MOST_FRAMES:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {MOST_FRAMES} frames in one request.")
    if not all(1 <= each <= frames for each in found):
        raise HttpError(HTTPStatus.NOT_FOUND, f"It has {frames} frames.")
    return found


# -- what is accepted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrameForm:
    """How frames or values go: media type, transfer syntax, and whether each is a part."""

    name: str
    syntax: str
    is_multipart: bool

    @property
    def content_type(self) -> str:
        """The content type of a frame or value, alone or as a part."""
        return f"{self.name}; transfer-syntax={self.syntax}"


def _syntax_of(syntax: str) -> str:
    """Native values are the same in implicit and explicit VR (PS3.5 annex A)."""
    return EXPLICIT_VR_LITTLE_ENDIAN if syntax == IMPLICIT_VR_LITTLE_ENDIAN else syntax


def choose_frames(accepted: Sequence[MediaType], kept: str, *, is_single: bool) -> FrameForm:
    """How the frames of an object go that is kept in a transfer syntax. Raises HttpError: 406."""
    syntax = _syntax_of(kept)
    own = _MEDIA.get(syntax, OCTETS)
    for each in accepted:
        if each.breadth and each.covers("multipart/related"):
            kind, is_multipart = "*/*", True
        elif each.name == "multipart/related":
            kind, is_multipart = each.parameters.get("type", own).lower(), True
        elif is_single:
            kind, is_multipart = each.name, False
        else:
            continue
        target = _target_of(kind, each.parameters.get("transfer-syntax", ""), own, syntax)
        if target:
            return FrameForm(own if target == syntax else kind, target, is_multipart)
    text = f'Accept is to allow multipart/related; type="{own}"; transfer-syntax={syntax}, or transfer-syntax=*.'
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)


def _target_of(kind: str, wanted: str, own: str, syntax: str) -> str:
    """The transfer syntax in which frames go to who accepts this; empty: in none."""
    if syntax not in DEFLATED and wanted in ("*", syntax, "") and kind in (own, "*/*", f"{own.partition('/')[0]}/*"):
        return syntax
    if syntax not in DEFLATED and kind == OCTETS and wanted in ("*", syntax):
        return syntax  # what cornerstone and OHIF ask for: as it is kept
    target = _TARGETS.get(kind, EXPLICIT_LITTLE if kind == "*/*" else "")
    can_be = not wanted or wanted in ("*", target)
    return target if target and can_be and possible(syntax, target) is None else ""


def choose_bulk(accepted: Sequence[MediaType], kept: str) -> FrameForm:
    """How a value that is not compressed goes. Raises HttpError: 406."""
    for each in accepted:
        if each.covers("multipart/related"):
            return FrameForm(OCTETS, _syntax_of(kept), True)
        if each.covers(OCTETS):
            return FrameForm(OCTETS, _syntax_of(kept), False)
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f'Accept is to allow multipart/related; type="{OCTETS}".')


def _headers_of(content_type: str, etag: str) -> dict[str, str]:
    return {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Type": content_type}


def _answer(exchange: Exchange, form: FrameForm, parts: Sequence[Sequence[bytes | FilePart]], etag: str) -> WebAnswer:
    if not form.is_multipart:
        return with_range(exchange.request, _headers_of(form.content_type, etag), parts[0])
    delimiters = PartDelimiters(form.name)
    body: list[bytes | FilePart] = []
    for each in parts:
        body += [delimiters.open_part(form.content_type), *each]
    body.append(delimiters.closing)
    headers = _headers_of(delimiters.content_type, etag)
    return WebAnswer(HTTPStatus.OK, headers, parts=body, length=count_bytes(body))
