"""STOW-RS of metadata and bulk data (PS3.18 section 10.5.2): objects are put together, then taken as if sent whole.

The metadata parts are DICOM JSON or XML; each BulkDataURI in them names a part by its Content-Location. Parts are held
in memory, MOST_METADATA and MOST_BULK bytes of a request at most: what is larger is sent as application/dicom. Pixel
data that is compressed has a part for each frame, all under one Content-Location.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from edge.dicom.elements import (
    EXPLICIT,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    NUMBERS,
    SEQUENCE_END,
    UNDEFINED,
    to_bytes,
    write_head,
)
from edge.dicom.json import PN_GROUPS, Json
from edge.dicom.native_model import xml_to_json
from edge.dicom.part10 import plain_head
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.errors import Unreadable
from edge.model import ContextKey
from edge.scp.dicomweb.exchange import DICOM_JSON, DICOM_XML
from edge.scp.dicomweb.media_types import parse_media
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.receive import StowReceiver
from edge.text import MIB
from edge.transform.syntaxes import NATIVE

MOST_METADATA, MOST_BULK = 16 * MIB, 128 * MIB
_PIXEL_DATA, _CHARACTER_SET = 0x7FE00010, 0x00080005
_SOP_CLASS, _SOP_INSTANCE = "00080016", "00080018"
_UTF_8: Json = {"00080005": {"vr": "CS"}}  # whatever metadata says of its character set


@dataclass(frozen=True, slots=True)
class BulkPart:
    """A part that is not metadata."""

    data: bytes
    transfer_syntax_uid: str


class ComposedParts:
    """The parts of one such request (edge.network.multipart.PartSink)."""

    def __init__(self, receiver: StowReceiver) -> None:
        self._receiver = receiver
        self._documents: list[tuple[str, bytes]] = []
        self._bulk: dict[str, list[BulkPart]] = defaultdict(list)
        self._headers: dict[str, str] = {}
        self._data = bytearray()
        self._metadata_bytes = self._bulk_bytes = 0

    def begin(self, headers: dict[str, str]) -> None:
        self._headers, self._data = headers, bytearray()

    @property
    def _media_type(self) -> str:
        return parse_media(self._headers.get("content-type", "")).name

    def write(self, data: memoryview) -> None:
        is_metadata = self._media_type in (DICOM_JSON, DICOM_XML)
        used = self._metadata_bytes if is_metadata else self._bulk_bytes
        if used + len(self._data) + len(data) > (MOST_METADATA if is_metadata else MOST_BULK):
            text = (
                f"At most {MOST_METADATA // MIB} MiB of metadata and {MOST_BULK // MIB} MiB of bulk data: send larger"
            )
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{text} objects as application/dicom.")
        self._data += data

    def end(self) -> None:
        media, data = parse_media(self._headers.get("content-type", "")), bytes(self._data)
        if media.name in (DICOM_JSON, DICOM_XML):
            self._documents.append((media.name, data))
            self._metadata_bytes += len(data)
            return
        syntax = media.parameters.get("transfer-syntax", EXPLICIT_VR_LITTLE_ENDIAN)
        self._bulk[self._headers.get("content-location", "").strip()].append(BulkPart(data, syntax))
        self._bulk_bytes += len(data)

    def finish(self) -> None:
        """Hand over each object: the body is whole. Raises HttpError: 400 for metadata that cannot be read."""
        for name, document in self._documents:
            for data_set in _read_document(name, document):
                self._take(data_set)

    def _take(self, data_set: Json) -> None:
        uids = [_first(data_set, tag) for tag in (_SOP_CLASS, _SOP_INSTANCE)]
        try:
            data, syntax = compose_data_set(data_set, self._bulk)
        except _NO_DATA_SET:
            self._receiver.note_unreadable(*uids)
            return
        self._receiver.begin({})
        self._receiver.write(memoryview(plain_head(ContextKey(uids[0], syntax), uids[1])))
        self._receiver.write(memoryview(data))
        self._receiver.end()


#: What metadata raises that is no data set: its shape is anybody's.
_NO_DATA_SET = (
    *(Unreadable, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError),
    struct.error,
)


def _first(data_set: Json, tag: str) -> str:
    values = data_set.get(tag, {}).get("Value")
    return str(values[0]) if isinstance(values, list) and values else ""


def _read_document(name: str, document: bytes) -> Sequence[Json]:
    try:
        found = json.loads(document) if name == DICOM_JSON else xml_to_json(document)
        data_sets = found if isinstance(found, list) else [found]
        if all(isinstance(each, dict) and all(isinstance(part, dict) for part in each.values()) for each in data_sets):
            return data_sets
    except (ValueError, RecursionError, Unreadable):
        pass
    raise HttpError(HTTPStatus.BAD_REQUEST, "The metadata is no data set in DICOM JSON or XML.")


def compose_data_set(data_set: Json, bulk: Mapping[str, Sequence[BulkPart]]) -> tuple[bytes, str]:
    """A data set as it is encoded, and its transfer syntax: that of its pixel data. Raises for what is none."""
    pixel_data: Json = next((each for tag, each in data_set.items() if int(tag, 16) == _PIXEL_DATA), {})
    pixels = bulk.get(pixel_data.get("BulkDataURI", ""), ())
    syntaxes = {each.transfer_syntax_uid for each in pixels}
    if len(syntaxes) > 1:
        raise ValueError("frames in several transfer syntaxes")
    syntax = syntaxes.pop() if syntaxes else EXPLICIT_VR_LITTLE_ENDIAN
    if syntax in NATIVE and syntax != EXPLICIT_VR_LITTLE_ENDIAN:
        raise ValueError("native bulk data is little endian")
    if not json.dumps(data_set, ensure_ascii=False).isascii():  # such texts must be said to be UTF-8
        data_set = {**_UTF_8, **data_set}
    return b"".join(_encode(data_set, bulk, 0)), syntax


def _encode(data_set: Json, bulk: Mapping[str, Sequence[BulkPart]], depth: int) -> Iterator[bytes]:
    if depth > MAX_DEPTH:
        raise ValueError("sequences are too deep")
    elements = {int(tag, 16): element for tag, element in data_set.items() if int(tag, 16) & 0xFFFF}
    for tag in sorted(elements):
        if tag >> 16 > 2 and tag < 0xFFFE0000:
            yield from _encode_element(tag, elements[tag], bulk, depth)


def _encode_element(tag: int, element: Json, bulk: Mapping[str, Sequence[BulkPart]], depth: int) -> Iterator[bytes]:
    vr = str(element["vr"])
    if vr == "SQ":
        yield write_head(tag, "SQ", UNDEFINED, EXPLICIT)
        for each in element.get("Value") or ():
            yield write_head(ITEM, "", UNDEFINED, EXPLICIT)
            yield from _encode(each, bulk, depth + 1)
            yield write_head(ITEM_END, "", 0, EXPLICIT)
        yield write_head(SEQUENCE_END, "", 0, EXPLICIT)
    elif tag == _CHARACTER_SET:
        yield _with_head(tag, "CS", b"ISO_IR 192")  # texts of JSON and XML are UTF-8 here
    elif "BulkDataURI" in element:
        parts = bulk[element["BulkDataURI"]]
        if not parts:
            raise ValueError("bulk data that did not come")
        if tag == _PIXEL_DATA and parts[0].transfer_syntax_uid not in NATIVE:
            yield from _encapsulate(parts)
        else:
            yield _with_head(tag, vr, b"".join(each.data for each in parts))
    elif "InlineBinary" in element:
        yield _with_head(tag, vr, _decode_binary(element["InlineBinary"]))
    else:
        values = tuple(_as_text(vr, each) for each in element.get("Value") or ())
        yield _with_head(tag, vr, to_bytes(vr, values, "<", "utf-8") if values else b"")


def _with_head(tag: int, vr: str, value: bytes) -> bytes:
    value += b"\0" * (len(value) & 1)
    return write_head(tag, vr, len(value), EXPLICIT) + value


def _encapsulate(frames: Sequence[BulkPart]) -> Iterator[bytes]:
    """Fragments, one a frame, behind an empty offset table (PS3.5 section A.4)."""
    yield write_head(_PIXEL_DATA, "OB", UNDEFINED, EXPLICIT) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    for each in frames:
        data = each.data + b"\0" * (len(each.data) & 1)
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _decode_binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None


def _as_decimal_string(value: float) -> str:
    """A DS (PS3.5 section 6.2) as exact as its 16 characters allow."""
    if not math.isfinite(value):
        raise ValueError("no decimal number")
    texts = (repr(value), *(f"{value:.{digits}g}" for digits in range(16, 0, -1)))
    return next(text for text in texts if len(text) <= 16)


def _as_text(vr: str, value: Any) -> str:
    """A value of JSON as an element has it."""
    if value is None:
        return ""
    if vr == "PN":
        groups = value if isinstance(value, dict) else {"Alphabetic": value}
        return "=".join(str(groups.get(name) or "") for name in PN_GROUPS).rstrip("=")
    if vr == "DS" and isinstance(value, float):
        return _as_decimal_string(value)
    if vr in NUMBERS and vr not in ("FL", "FD", "AT"):
        return str(int(value))
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError("no value of this VR")
    return str(value)
