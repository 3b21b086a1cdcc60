"""Documents, pictures, videos and models as DICOM objects, with the identity of their patient and order.

    PDF   Encapsulated PDF Storage (PS3.3 section A.45.1)         STL   Encapsulated STL Storage (A.85.1)
    JPEG  VL Photographic Image Storage (A.32.4), JPEG as it is   PNG   the same, native
    MP4   Video Photographic Image Storage (A.32.7), H.264 as it is

Promise: the same file for the same patient and order gives the same object, so that a second import adds nothing: UIDs
are made of its digest, and no time of the import is in it. Raises TransformError for what DICOM cannot hold as it is.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import unpack
from typing import IO, NamedTuple

from edge.dicom.items import Attributes, encode_items, item
from edge.errors import TransformError
from edge.importer.whose import LocalIdentity
from edge.model import ContextKey
from edge.store.imports import ImportObject, ImportStudy
from edge.text import MIB

_EXPLICIT = "1.2.840.10008.1.2.1"
_JPEG_BASELINE, _MPEG4 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.102"
_DOCUMENT_TAG, _FRAME_OF_REFERENCE = 0x00420011, 0x00200052
_ENCAPSULATED_DOCUMENT, _PIXEL_DATA = b"\x42\x00\x11\x00OB\0\0", b"\xe0\x7f\x10\x00"
#: The longest element of defined length, and of a fragment.
_MOST = 0xFFFFFFFE
#: The largest PNG, in bytes once it is unpacked.
_MOST_PIXELS = 512 * MIB


@dataclass(frozen=True, slots=True)
class WrappedObject:
    """An object that is about to be recorded."""

    context_key: ContextKey
    sop_instance_uid: str
    parts: Iterable[bytes]  # of its data set

    def read_into(self, sink: Callable[[list[memoryview]], None]) -> None:
        """Hand its data set to a sink."""
        for part in self.parts:
            sink([memoryview(part)])


Value = str | Sequence[Attributes]
MakerOfWrapped = Callable[[IO[bytes], ImportObject, dict[int, str]], WrappedObject]


class _Pixels(NamedTuple):
    """What the Image Pixel module says of a picture or video."""

    rows: int
    columns: int
    samples: int
    photometric: str
    frames: int = 1
    frame_milliseconds: str = ""


def wrap(file: IO[bytes], found: ImportObject, study: ImportStudy, identity: LocalIdentity, site: str) -> WrappedObject:
    """Make a DICOM object of a staged file. Raises TransformError."""
    maker = _MAKERS[found.kind]
    return maker(file, found, _common(found, study, identity, site))


def derive_uid(*parts: str) -> str:
    """A UID of the form 2.25 (PS3.5 section B.2), always the same for the same parts."""
    digest = hashlib.sha256("\0".join(("edge import", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _common(found: ImportObject, study: ImportStudy, identity: LocalIdentity, site: str) -> dict[int, str]:
    """What every object says of its patient, study and series."""
    of_order = identity.accession or f"import {study.batch_id}"
    study_uid = identity.study_uid or derive_uid("study", site, identity.patient_id, identity.issuer, of_order)
    return {
        0x00080018: derive_uid("object", site, study_uid, found.sha256.hex()),
        0x00080020: "",
        0x00080023: "",
        0x00080030: "",
        0x00080033: "",
        0x00080050: identity.accession,
        0x00080070: "",
        0x00080090: "",
        0x00081030: identity.description,
        0x0008103E: found.name.rpartition("/")[2][:64].replace("\\", "_"),
        0x00100010: identity.patient_name,
        0x00100020: identity.patient_id,
        0x00100021: identity.issuer,
        0x00100030: identity.birth_date,
        0x00100040: identity.sex,
        0x0020000D: study_uid,
        0x0020000E: derive_uid("series", site, study_uid, found.kind),
        0x00200010: identity.procedure_id[:16],
        0x00200011: "1",
        0x00200013: "1",
    }


def _document(sop_class: str, mime: str, modality: str, more: Mapping[int, Value]) -> MakerOfWrapped:
    def make(file: IO[bytes], found: ImportObject, common: dict[int, str]) -> WrappedObject:
        if found.size > _MOST:
            raise TransformError("it is larger than an element of DICOM can be")
        values: dict[int, Value] = {
            **common,
            0x00080016: sop_class,
            0x00080060: modality,
            0x0008002A: "",
            0x00080064: "WSD",
            0x0040A043: (),
            0x00280301: "YES",
            0x00420010: common[0x0008103E],
            0x00420012: mime,
            0x00420015: str(found.size),
            **more,
        }
        if _FRAME_OF_REFERENCE in values:
            values[_FRAME_OF_REFERENCE] = derive_uid("frame of reference", common[0x00080018])
        size = found.size + found.size % 2
        before = {tag: value for tag, value in values.items() if tag < _DOCUMENT_TAG}
        behind = {tag: value for tag, value in values.items() if tag > _DOCUMENT_TAG}
        head = _encode(before) + _ENCAPSULATED_DOCUMENT + size.to_bytes(4, "little")
        parts = chain([head], read_pieces(file), [bytes(found.size % 2) + _encode(behind)])
        return WrappedObject(ContextKey(sop_class, _EXPLICIT), common[0x00080018], parts)

    return make


def _jpeg(file: IO[bytes], found: ImportObject, common: dict[int, str]) -> WrappedObject:
    rows, columns, samples = _parse_jpeg(file, found.size)
    values = _without_times(common) | _photographic(
        _Pixels(rows, columns, samples, "YBR_FULL_422" if samples == 3 else "MONOCHROME2")
    )
    values |= {0x00282110: "01", 0x00282114: "ISO_10918_1"}
    return _encapsulate(file, found, values, "1.2.840.10008.5.1.4.1.1.77.1.4", _JPEG_BASELINE)


def _mp4(file: IO[bytes], found: ImportObject, common: dict[int, str]) -> WrappedObject:
    video = _parse_mp4(file, found.size)
    values = _without_times(common) | _photographic(video)
    values |= {0x00280009: "00181063", 0x00181063: video.frame_milliseconds, 0x00280008: str(video.frames)}
    values |= {0x00282110: "01", 0x00282114: "ISO_14496_10"}
    return _encapsulate(file, found, values, "1.2.840.10008.5.1.4.1.1.77.1.4.1", _MPEG4)


def _png(file: IO[bytes], found: ImportObject, common: dict[int, str]) -> WrappedObject:
    if found.size > _MOST_PIXELS:
        raise TransformError("the picture is too large")
    pixels, rows = _decode_png(file.read())
    values = _without_times(common) | _photographic(pixels)
    data = b"".join(rows)
    padded = len(data) + len(data) % 2
    head = _PIXEL_DATA + b"OB\0\0" + padded.to_bytes(4, "little")
    parts = (_encode(values | {0x00080016: _PHOTO}), head, data, bytes(len(data) % 2))
    return WrappedObject(ContextKey(_PHOTO, _EXPLICIT), common[0x00080018], parts)


_PHOTO = "1.2.840.10008.5.1.4.1.1.77.1.4"


def _photographic(pixels: _Pixels) -> dict[int, Value]:
    """The Image Pixel module, and what is asked of a photograph beside it."""
    values: dict[int, Value] = {
        0x00080008: "ORIGINAL\\PRIMARY",
        0x00080060: "XC",
        0x00200020: "",
        0x00200060: "",
        0x00280002: str(pixels.samples),
        0x00280004: pixels.photometric,
        0x00280010: str(pixels.rows),
        0x00280011: str(pixels.columns),
        0x00280100: "8",
        0x00280101: "8",
        0x00280102: "7",
        0x00280103: "0",
        0x00280301: "YES",
        0x00282110: "00",
        0x00400555: (),
    }
    return values | ({0x00280006: "0"} if pixels.samples == 3 else {})


def _without_times(common: Mapping[int, str]) -> dict[int, Value]:
    """Remove the times: a picture may be older than its file."""
    return {tag: value for tag, value in common.items() if tag not in (0x00080023, 0x00080033)}


def _encapsulate(
    file: IO[bytes], found: ImportObject, values: dict[int, Value], sop_class: str, syntax: str
) -> WrappedObject:
    """Pixel Data in one fragment (PS3.5 section A.4)."""
    if found.size > _MOST:
        raise TransformError("it is larger than a fragment of DICOM can be")
    size = found.size + found.size % 2
    head = _PIXEL_DATA + b"OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    head += b"\xfe\xff\x00\xe0" + size.to_bytes(4, "little")
    tail = bytes(found.size % 2) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    parts = chain([_encode(values | {0x00080016: sop_class}), head], read_pieces(file), [tail])
    return WrappedObject(ContextKey(sop_class, syntax), str(values[0x00080018]), parts)


def _encode(values: Mapping[int, Value]) -> bytes:
    made: Attributes = item(dict(sorted(values.items())))
    return encode_items(made, _EXPLICIT)


def read_pieces(file: IO[bytes], offset: int = 0) -> Iterator[bytes]:
    """All of a file from `offset` on."""
    file.seek(offset)
    while chunk := file.read(MIB):
        yield chunk


# -- what the files say ------------------------------------------------------------------------------------------------


def _parse_jpeg(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Return rows, columns and samples of a JPEG of process 1 (ISO/IEC 10918-1); others DICOM cannot hold so."""
    at = 2
    while at + 10 < size:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[0] != 0xFF:
            break
        marker, length = head[1], int.from_bytes(head[2:4], "big")
        if marker == 0xC0:
            rows, columns, samples = *unpack(">HH", head[5:9]), head[9]
            if head[4] != 8 or samples not in (1, 3) or not rows or not columns:
                raise TransformError("the JPEG is not of 8 bits in one or three colours")
            return rows, columns, samples
        if 0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise TransformError("the JPEG is progressive or extended: save it as baseline JPEG")
        at += 2 + length
    raise TransformError("the JPEG is damaged")


def _decode_png(data: bytes) -> tuple[_Pixels, list[bytes]]:
    """Return the picture of a PNG of 8 bits that is not interlaced (ISO/IEC 15948), without transparency."""
    at, head, palette, packed = 8, b"", b"", []
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        head, palette = (body if name == b"IHDR" else head), (body if name == b"PLTE" else palette)
        if name == b"IDAT":
            packed.append(body)
        at += 12 + length
    if len(head) != 13:
        raise TransformError("the PNG is damaged")
    columns, rows, bits, kind, _, _, interlaced = unpack(">LLBBBBB", head)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 0)
    if bits != 8 or interlaced or not samples:
        raise TransformError("the PNG is interlaced, or not of 8 bits: save it as a plain PNG or JPEG")
    if rows * columns * samples > _MOST_PIXELS or not rows or not columns:
        raise TransformError("the picture is too large")
    wanted = rows * (1 + columns * samples)
    try:
        lines = zlib.decompressobj().decompress(b"".join(packed), wanted)
    except zlib.error:
        raise TransformError("the PNG is damaged") from None
    if len(lines) < wanted:
        raise TransformError("the PNG is cut short")
    shown = [_flatten(line, kind, palette) for line in _unfilter(lines, rows, columns * samples, samples)]
    colours = 1 if kind in (0, 4) else 3
    return _Pixels(rows, columns, colours, "MONOCHROME2" if colours == 1 else "RGB"), shown


def _unfilter(lines: bytes, rows: int, width: int, step: int) -> Iterator[bytes]:
    """Undo the filters of a PNG (ISO/IEC 15948 section 9.2)."""
    above = bytearray(width)
    for number in range(rows):
        begin = number * (width + 1)
        kind, line = lines[begin], bytearray(lines[begin + 1 : begin + 1 + width])
        if kind == 2:
            line = bytearray((a + b) & 255 for a, b in zip(line, above, strict=True))
        elif kind:
            for i in range(width):
                left, corner = (line[i - step], above[i - step]) if i >= step else (0, 0)
                line[i] = (line[i] + _predict(kind, left, above[i], corner)) & 255
        yield bytes(line)
        above = line


def _predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + up) // 2
    if kind != 4:
        raise TransformError("the PNG is damaged")
    guess = left + up - corner
    a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
    return left if a <= b and a <= c else up if b <= c else corner


def _flatten(line: bytes, kind: int, palette: bytes) -> bytes:
    """A line in grey or RGB; transparency is left out."""
    if kind == 3:
        if max(line, default=0) * 3 + 3 > len(palette):
            raise TransformError("the PNG names colours that it does not have")
        return b"".join(palette[3 * each : 3 * each + 3] for each in line)
    if kind == 4:
        return line[::2]
    if kind == 6:
        out = bytearray(len(line) // 4 * 3)
        out[::3], out[1::3], out[2::3] = line[::4], line[1::4], line[2::4]
        return bytes(out)
    return line


def _parse_mp4(file: IO[bytes], size: int) -> _Pixels:
    """Return the video of an MP4 (ISO/IEC 14496-12): H.264, its frames and how long each is shown."""
    found: dict[bytes, bytes] = {}
    for name, body in _boxes(file, 0, size, 0):
        if name == b"stsd" and b"avc1" not in body[:24] and b"mp4a" not in body[:24]:
            raise TransformError("the video is not H.264: convert it to MP4 with H.264")
        if name == b"stsd" and b"avc1" in body[:24]:
            found[b"stsd"] = body
        elif name in (b"stts", b"mdhd") and b"stsd" not in found:
            found[name] = body  # of the current track: its sample description is between mdhd and stts
        elif name == b"stts" and b"timed" not in found:
            found[name], found[b"timed"] = body, b"1"
    if b"stsd" not in found or len(found.get(b"stts", b"")) < 16 or len(found.get(b"mdhd", b"")) < 16:
        raise TransformError("the file has no video that can be read")
    columns, rows = unpack(">HH", found[b"stsd"][40:44])
    (entries,) = unpack(">L", found[b"stts"][4:8])
    entries = min(entries, (len(found[b"stts"]) - 8) // 8)
    pairs = [unpack(">LL", found[b"stts"][8 + 8 * i : 16 + 8 * i]) for i in range(entries)]
    frames, units = sum(each[0] for each in pairs), sum(each[0] * each[1] for each in pairs)
    scale = unpack(">L", found[b"mdhd"][20:24] if found[b"mdhd"][0] else found[b"mdhd"][12:16])[0]
    if not (frames and units and scale and rows and columns):
        raise TransformError("the file has no video that can be read")
    return _Pixels(rows, columns, 3, "YBR_PARTIAL_420", frames, f"{1000 * units / frames / scale:.6g}")


_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})


def _boxes(file: IO[bytes], begin: int, end: int, depth: int) -> Iterator[tuple[bytes, bytes]]:
    """Give the small boxes of a file, depth first; their first 64 KiB."""
    at = begin
    while at + 8 <= end and depth < 8:
        file.seek(at)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        start = at + 8
        if size == 1:
            size, start = int.from_bytes(head[8:16], "big"), at + 16
        size = size or end - at
        if size < 8 or at + size > end:
            raise TransformError("the MP4 is damaged or cut short")
        if name in _CONTAINERS:
            yield from _boxes(file, start, at + size, depth + 1)
        elif name in (b"stsd", b"stts", b"mdhd"):
            file.seek(start)
            yield name, file.read(min(size, 65_536))
        at += size


#: What a model must say (PS3.3 sections C.7.4.1, C.7.5.2 and C.35.1). STL has no units: millimetres are assumed.
_MODEL: Mapping[int, Value] = {
    0x00080070: "Edge",
    0x00081090: "Edge",
    0x00181000: "0",
    0x00181020: "Edge",
    _FRAME_OF_REFERENCE: "",
    0x00201040: "",
    0x004008EA: (item({0x00080100: "mm", 0x00080102: "UCUM", 0x00080104: "millimeter"}),),
}
_MAKERS: Mapping[str, MakerOfWrapped] = {
    "pdf": _document("1.2.840.10008.5.1.4.1.1.104.1", "application/pdf", "DOC", {}),
    "stl": _document("1.2.840.10008.5.1.4.1.1.104.3", "model/stl", "M3D", _MODEL),
    "jpeg": _jpeg,
    "png": _png,
    "mp4": _mp4,
}
