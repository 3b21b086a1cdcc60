"""The same object in another transfer syntax, without loss: for a destination that refuses the one it came in.

`possible` says whether there is a way, `transcode` goes it on a copy, `Transcoder` does so in a worker process with
bounded memory and time, because codecs are C code that hostile input may crash or bloat.

No Dataset is built: a flat walk copies each value's bytes, writes headers and byte order anew, and replaces Pixel Data
frame by frame. Text, private and unknown elements, UIDs and lossy flags stay what they were. Sequences get undefined
length, group lengths go (PS3.5 section 7.2), elements of unknown VR become UN (section 6.2.2). Of an image that is
lossy already, the destination gets what its decoder shows; nothing is compressed with loss again.
Refused, with the reason: video, JPEG XL, lengths that lie, 32-bit pixels in big endian (writers disagree on the order
of their words), and whatever does not decode to the same pixels again once compressed.
"""

# ruff: noqa: PLC0415 - pydicom and numpy are imported where they are used: only the worker pays for them

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from queue import LifoQueue
from struct import pack, unpack
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from edge.errors import StorageFull, TransformError, Transient

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]  # one frame: (rows, columns) or (rows, columns, samples)
    Frames = Iterator[tuple[Pixels, str]]  # with their Photometric Interpretation

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
ENCAPSULATED_NATIVE, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"

#: Worth proposing beside the native transfer syntax, the best first.
FALLBACKS: tuple[str, ...] = (EXPLICIT, IMPLICIT)
#: Lossless encodings that we can make as well, the best first.
COMPRESSED_FALLBACKS: tuple[str, ...] = (JPEG_LS, JPEG_2000, RLE, DEFLATED)

_NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
_ENCODERS = {JPEG_LS, JPEG_2000, RLE}
_JPEG = dict.fromkeys((JPEG_BASELINE, JPEG_EXTENDED, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"), "gdcm")
_JPEG_LS = dict.fromkeys((JPEG_LS, "1.2.840.10008.1.2.4.81"), "pyjpegls")
_JPEG_2000 = dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)), "pylibjpeg")
#: Which of pydicom's plugins decodes a transfer syntax, and encodes ours.
_PLUGIN = {**_JPEG, **_JPEG_LS, **_JPEG_2000, RLE: "pylibjpeg"}
_DECODED = {*_PLUGIN, ENCAPSULATED_NATIVE, DEFLATED_FRAMES}
_VIDEO = {f"1.2.840.10008.1.2.4.{n}{part}" for n in range(100, 109) for part in ("", ".1")}
_NO_DECODER = {
    **dict.fromkeys(_VIDEO, "video (MPEG, HEVC) cannot become frames without loss"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "there is no decoder for JPEG 2000 Part 2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (94, 95, 204, 205)), "its pixels stay on a JPIP server"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "there is no decoder for JPEG XL"),
}

MIB = 1 << 20
_CHUNK = MIB
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_META_LENGTH, _META_SYNTAX, _META_PRIVATE = 0x00020000, 0x00020010, (0x00020100, 0x00020102)
_PIXEL_DATA = 0x7FE00010
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002  # the Extended Offset Table, PS3.3 section C.7.6.3.1.8
_FRAGMENT_TABLES = {_OFFSETS, _OFFSET_LENGTHS, 0x7FE00003}
_PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280004, 0x00280006, 0x00280008
_IMAGE_TAGS = {
    0x00280002: "samples",
    _PHOTOMETRIC: "photometric",
    _PLANAR: "planar",
    _FRAMES: "frames",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "allocated",
    0x00280101: "stored",
    0x00280103: "signed",
}
_COLOURS = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}

#: Value Representations (PS3.5 section 6.2) by the width of their length field in Explicit VR (section 7.1.2).
_LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_SHORT = frozenset(
    ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI")
) | {"UL", "US"}
#: Bytes in a word, where byte order matters (PS3.5 section 7.3). UN is little endian everywhere (section 6.2.2).
_WORD = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}


@dataclass(frozen=True, slots=True)
class Converted:
    """A Part 10 file with the converted data set. It can be made again, so it is not synced."""

    path: Path
    dataset_offset: int  # where the data set begins
    size: int  # of the file, in bytes


def possible(source_syntax: str, target_syntax: str) -> str | None:
    """None when objects can go from one transfer syntax to the other without (further) loss, else why not.

    `transcode` may still refuse a single object, for what it holds.
    """
    if source_syntax == target_syntax:
        return None
    if target_syntax not in FALLBACKS + COMPRESSED_FALLBACKS:
        return f"Edge does not convert to transfer syntax {target_syntax}"
    if reason := _NO_DECODER.get(source_syntax):
        return f"transfer syntax {source_syntax} cannot be converted: {reason}"
    if source_syntax not in _NATIVE | _DECODED:
        return f"transfer syntax {source_syntax} cannot be converted: Edge does not know it"
    return None


def transcode(
    source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path, largest: int = 1024 * MIB
) -> Converted:
    """Write the object in Part 10 file `source` to the new file `target` (mode 0600) in another transfer syntax.

    `largest` bounds what is inflated or decoded, in bytes. Raises TransformError where the object cannot be converted,
    OSError where the disk fails; no `target` is left then.
    """
    if reason := possible(source_syntax, target_syntax):
        raise TransformError(reason)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(source, "rb") as file, os.fdopen(descriptor, "wb") as out:
            offset = dataset_offset
            if source_syntax == target_syntax:
                shutil.copyfileobj(file, out, _CHUNK)
            else:
                offset = out.write(_file_meta(file, dataset_offset, target_syntax))
                with _plain(file, dataset_offset, source_syntax, target.parent, largest) as data_set:
                    _convert(data_set, target_syntax, out, largest)
            return Converted(target, offset, out.tell())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


# --- The walk: what stands where in a data set ----------------------------------------------------------------------


class _Kind(Enum):
    ELEMENT = "element"
    FRAGMENTS = "fragments"  # encapsulated Pixel Data, its delimiter included (PS3.5 section A.4)
    SEQUENCE = "sequence"
    ITEM = "item"
    END = "end"  # of an item or a sequence; the tag is its delimiter


class _Event(NamedTuple):
    kind: _Kind
    tag: int
    vr: str = ""  # as sent, or the dictionary's, which may be ambiguous
    at: int = 0  # where the value begins
    length: int = 0
    little: bool = True
    data_set: int = 0  # where the data set begins that it belongs to


class _Level(NamedTuple):
    """A data set or a sequence on the way down."""

    data_set: int
    end: int | None  # None: a delimiter ends it
    limit: int  # no value passes it
    explicit: bool
    little: bool
    sequence: bool = False


def _fault(tag: int, what: str) -> TransformError:
    return TransformError(f"cannot convert: element ({tag >> 16:04X},{tag & 0xFFFF:04X}) {what}")


def _read(file: IO[bytes], at: int, length: int, limit: int) -> bytes:
    if at + length <= limit:
        file.seek(at)
        if len(data := file.read(length)) == length:
            return data
    raise TransformError("cannot convert: the data set ends inside an element")


@lru_cache(maxsize=8192)
def _dictionary_vr(tag: int) -> str:
    """The VR of an element that came in Implicit VR."""
    from pydicom.datadict import dictionary_VR

    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"  # Private Creator, PS3.5 section 7.8.1
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _looks_explicit(file: IO[bytes], at: int) -> bool:
    """Inside UN it shall be Implicit VR (PS3.5 section 6.2.2), and some writers switch elsewhere: believe the bytes."""
    file.seek(at)
    return file.read(6)[4:].decode("latin-1") in _LONG | _SHORT


def _head(file: IO[bytes], at: int, level: _Level) -> tuple[int, str, int, int]:
    """Tag, VR, length and position of the value of the element at `at` (PS3.5 section 7.1)."""
    order = "<" if level.little else ">"
    raw = _read(file, at, 8, level.limit)
    group, element = unpack(order + "HH", raw[:4])
    tag = group << 16 | element
    if group == 0xFFFE or not level.explicit:
        return tag, "" if group == 0xFFFE else _dictionary_vr(tag), unpack(order + "L", raw[4:])[0], at + 8
    vr = raw[4:6].decode("latin-1")
    if vr in _LONG:
        return tag, vr, unpack(order + "L", _read(file, at + 8, 4, level.limit))[0], at + 12
    if vr not in _SHORT:
        raise _fault(tag, "has an unknown Value Representation")
    return tag, vr, unpack(order + "H", raw[6:])[0], at + 8


def _fragments_end(file: IO[bytes], at: int, level: _Level) -> int:
    while True:
        tag, _, length, at = _head(file, at, level)
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM or at + length > level.limit:
            raise _fault(_PIXEL_DATA, "is not made of whole fragments")
        at += length


def _kind(tag: int, vr: str, at: int, length: int, level: _Level) -> _Kind:
    """What an element is whose value begins at `at`, or TransformError where it cannot stand."""
    if length != _UNDEFINED and at + length > level.limit:
        raise _fault(tag, "is longer than what holds it")
    if level.end is None and tag == (_SEQUENCE_END if level.sequence else _ITEM_END):
        return _Kind.END
    if level.sequence != (tag >> 16 == 0xFFFE) or (level.sequence and tag != _ITEM):
        raise _fault(tag, "stands where it cannot: a length before it is wrong")
    if level.sequence:
        return _Kind.ITEM
    if length != _UNDEFINED:
        return _Kind.SEQUENCE if vr == "SQ" and length else _Kind.ELEMENT
    if tag == _PIXEL_DATA:
        return _Kind.FRAGMENTS
    if vr not in ("SQ", "UN"):
        raise _fault(tag, f"has undefined length, which VR {vr} cannot have")
    return _Kind.SEQUENCE


def _inside(file: IO[bytes], event: _Event, level: _Level) -> _Level:
    """The level that a sequence or an item begins."""
    end = None if event.length == _UNDEFINED else event.at + event.length
    limit = level.limit if end is None else end
    if event.kind is _Kind.SEQUENCE:
        little = level.little or event.vr == "UN"
        return _Level(level.data_set, end, limit, level.explicit, little, sequence=True)
    return _Level(event.at, end, limit, level.explicit and _looks_explicit(file, event.at), level.little)


def _walk(file: IO[bytes], start: int, end: int, explicit: bool, little: bool) -> Iterator[_Event]:
    """The elements of a data set in their order, depth first, without recursion and without their values."""
    stack = [_Level(start, end, end, explicit, little)]
    at = start
    while stack:
        level = stack[-1]
        if at == level.end:
            stack.pop()
            if stack:
                yield _Event(_Kind.END, _SEQUENCE_END if level.sequence else _ITEM_END)
            continue
        tag, vr, length, at = _head(file, at, level)
        event = _Event(_kind(tag, vr, at, length, level), tag, vr, at, length, level.little, level.data_set)
        if event.kind is _Kind.END:
            stack.pop()
        elif event.kind in (_Kind.SEQUENCE, _Kind.ITEM):
            stack.append(_inside(file, event, level))
        else:
            at = _fragments_end(file, at, level) if event.kind is _Kind.FRAGMENTS else at + length
        yield event


# --- The survey: what must be known before the first byte is written ------------------------------------------------


@dataclass(frozen=True, slots=True)
class _DataSet:
    """A data set on disk, not deflated."""

    file: IO[bytes]
    start: int
    end: int
    syntax: str

    def walk(self) -> Iterator[_Event]:
        explicit = _looks_explicit(self.file, self.start)  # some writers name the other one
        return _walk(self.file, self.start, self.end, explicit, self.syntax != BIG_ENDIAN)


@dataclass(slots=True)
class _Found:
    """What the survey keeps of a data set, the whole or an item: its image, if it holds one."""

    values: dict[str, Any] = field(default_factory=dict)
    pixels: _Event | None = None
    tables: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Image:
    """The Image Pixel module (PS3.3 section C.7.6.3), as far as codecs need it."""

    photometric: str = ""
    samples: int = 0
    planar: int = 0
    frames: int = 1
    rows: int = 0
    columns: int = 0
    allocated: int = 0
    stored: int = 0
    signed: int = 0

    @property
    def frame_size(self) -> int:
        """Bytes of one native frame."""
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8

    @property
    def size(self) -> int:
        """Bytes of native Pixel Data without padding; frames of single bits follow each other without a gap."""
        return (self.rows * self.columns * self.samples * self.allocated * self.frames + 7) // 8

    @property
    def dtype(self) -> str:
        return f"<{'ui'[self.signed]}{max(self.allocated // 8, 1)}"

    def options(self) -> dict[str, Any]:
        """One frame, as pydicom's decoders and encoders want it described."""
        return {
            "photometric_interpretation": self.photometric,
            "samples_per_pixel": self.samples,
            "planar_configuration": 0,
            "number_of_frames": 1,
            "rows": self.rows,
            "columns": self.columns,
            "bits_allocated": self.allocated,
            "bits_stored": self.stored,
            "pixel_representation": self.signed,
        }


def _survey(data_set: _DataSet) -> dict[int, _Found]:
    """The images, and parts of such, by where the data set begins that holds them."""
    found: dict[int, _Found] = {}
    for event in data_set.walk():
        if event.kind not in (_Kind.ELEMENT, _Kind.FRAGMENTS):
            continue
        if event.tag == _PIXEL_DATA:
            found.setdefault(event.data_set, _Found()).pixels = event
        elif event.tag in _IMAGE_TAGS:
            value = _image_value(event, _read(data_set.file, event.at, min(event.length, 16), data_set.end))
            found.setdefault(event.data_set, _Found()).values[_IMAGE_TAGS[event.tag]] = value
        elif event.tag in _FRAGMENT_TABLES:
            table = _read(data_set.file, event.at, event.length, data_set.end)
            found.setdefault(event.data_set, _Found()).tables[event.tag] = table
    return found


def _image_value(event: _Event, raw: bytes) -> str | int:
    if event.tag == _PHOTOMETRIC:
        return raw.decode("latin-1").strip(" \0")
    if event.tag == _FRAMES:
        text = raw.strip(b" \0")
        return (int(text) if text.isdigit() else 0) or 1
    return int.from_bytes(raw[:2], "little" if event.little else "big")


def _image(values: dict[str, Any], largest: int) -> _Image:
    """The image, once it is certain that codecs can be told of it and that it is not too large."""
    image = _Image(**values)
    if image.photometric not in _COLOURS:
        raise TransformError("cannot convert: the Photometric Interpretation of the image is missing or unknown")
    if image.samples not in (1, 3) or image.planar > 1 or image.signed > 1:
        raise TransformError(
            f"cannot convert an image of {image.samples} samples a pixel, Planar Configuration {image.planar}, "
            f"Pixel Representation {image.signed}"
        )
    if image.allocated not in (1, 8, 16, 32, 64) or not 0 < image.stored <= image.allocated:
        raise TransformError(f"cannot convert an image of {image.stored} bits stored in {image.allocated}")
    if not image.rows or not image.columns:
        raise TransformError(f"cannot convert an image of {image.rows} rows and {image.columns} columns")
    if image.size > largest:
        raise TransformError(f"too large to convert: {image.size // MIB} MiB decoded, at most {largest // MIB} MiB")
    return image


# --- Pixels, one frame at a time ------------------------------------------------------------------------------------


@contextmanager
def _codec(doing: str) -> Iterator[None]:
    """Codecs raise whatever they like: say what was being done, and their last word."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise TransformError(f"cannot {doing}: {said[-1].strip()[:200]}") from error


def _decoded(data_set: _DataSet, found: _Found, image: _Image) -> Frames:
    """Each frame of encapsulated Pixel Data."""
    from pydicom.encaps import generate_frames

    assert found.pixels is not None
    extended = _OFFSETS in found.tables and _OFFSET_LENGTHS in found.tables
    offsets = (found.tables[_OFFSETS], found.tables[_OFFSET_LENGTHS]) if extended else None
    with open(data_set.file.name, "rb") as file:  # a position of its own: frames are read while elements are
        file.seek(found.pixels.at)
        frames = generate_frames(file, number_of_frames=image.frames, extended_offsets=offsets)
        for number in range(1, image.frames + 1):
            with _codec(f"find frame {number} of {image.frames}"):
                frame = next(frames, None)
            if frame is None:
                raise TransformError(f"cannot convert: Pixel Data has {number - 1} frames, not {image.frames}")
            with _codec(f"decode frame {number}"):
                decoded = _decode(frame, data_set.syntax, image)
            yield decoded
        if next(frames, None) is not None:
            raise TransformError(f"cannot convert: Pixel Data has more than {image.frames} frames")


def _native(data_set: _DataSet, event: _Event, image: _Image) -> Frames:
    """Each frame of native Pixel Data."""
    if image.photometric == "YBR_FULL_422":
        raise TransformError("cannot compress native Pixel Data with subsampled chrominance (YBR_FULL_422)")
    if not image.size <= event.length <= image.size + 1:
        raise TransformError(f"cannot compress: Pixel Data has {event.length} bytes, the image {image.size}")
    word = 1 if event.little else _WORD.get(event.vr, 1)
    for at in range(event.at, event.at + image.size, image.frame_size):
        skip = (at - event.at) % word  # a frame of 8-bit pixels may begin inside a word
        length = -(-(skip + image.frame_size) // word) * word
        raw = _swapped(_read(data_set.file, at - skip, length, event.at + event.length), word)
        yield _pixels(raw[skip:], image), image.photometric


def _swapped(data: bytes, word: int) -> bytes:
    if word == 1:
        return data
    words = array({2: "H", 4: "I", 8: "Q"}[word], data)
    words.byteswap()
    return words.tobytes()


def _pixels(raw: bytes | bytearray | memoryview, image: _Image) -> Pixels:
    """The pixels of one native frame (PS3.5 section 8.1.1)."""
    import numpy as np

    if not image.frame_size <= len(raw) <= image.frame_size + 1:
        raise TransformError(f"a frame has {len(raw)} bytes, not {image.frame_size}")
    count = image.rows * image.columns * image.samples
    if image.allocated == 1:
        bits = np.unpackbits(np.frombuffer(raw, "u1"), count=count, bitorder="little")
        return bits.reshape(image.rows, image.columns)
    pixels: Pixels = np.frombuffer(raw, image.dtype, count)
    if image.samples == 1:
        return pixels.reshape(image.rows, image.columns)
    if image.planar:
        return pixels.reshape(image.samples, image.rows, image.columns).transpose(1, 2, 0)
    return pixels.reshape(image.rows, image.columns, image.samples)


def _decode(frame: bytes, syntax: str, image: _Image) -> tuple[Pixels, str]:
    """One compressed frame, and the Photometric Interpretation that it has once decoded."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if syntax == DEFLATED_FRAMES:
        frame = zlib.decompressobj(-15).decompress(frame, image.frame_size + 1)
    if syntax in (DEFLATED_FRAMES, ENCAPSULATED_NATIVE):
        return _pixels(frame, image), image.photometric
    # pydicom keeps GDCM from 12-bit JPEG Extended. GDCM decodes it: it looks at the frame, not at the transfer syntax.
    decoder = get_decoder(JPEG_BASELINE if syntax == JPEG_EXTENDED else syntax)
    raw, told = decoder.as_buffer(encapsulate([frame]), decoding_plugin=_PLUGIN[syntax], **image.options())
    container, planar = int(told["bits_allocated"]), int(told.get("planar_configuration", 0))
    colour = str(told["photometric_interpretation"]).removesuffix("_422")  # decoded: no longer subsampled
    if container > max(image.allocated, 8):
        raise TransformError(f"it has {container} bits a sample, Bits Allocated says {image.allocated}")
    pixels = _pixels(raw, replace(image, planar=planar, allocated=container))
    unused = container - _precision(frame, syntax, image, container)
    if unused > 0:  # a frame need not know whether it is signed: its highest bit is the sign all the same
        pixels = pixels << unused >> unused
    pixels = pixels.astype(image.dtype, copy=False)
    if syntax in (JPEG_BASELINE, JPEG_EXTENDED) and colour == "YBR_FULL":
        return _rgb(pixels), "RGB"  # as whoever shows a lossy JPEG does
    return pixels, colour


def _precision(frame: bytes, syntax: str, image: _Image, container: int) -> int:
    """Bits a sample that a compressed frame holds."""
    if syntax in _JPEG_2000:
        from pydicom.pixels.utils import get_j2k_parameters

        return int(get_j2k_parameters(frame).get("precision", container))
    if syntax == RLE:
        return container
    at = 2
    while at + 5 <= len(frame):  # ISO/IEC 10918-1 section B.1: markers up to a Start Of Frame
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return max(frame[at + 4], image.stored)
        if marker == 0xF7:  # JPEG-LS, ISO/IEC 14495-1
            return frame[at + 4]
        at += 2 + length
    return container


def _rgb(pixels: Pixels) -> Pixels:
    import numpy as np
    from pydicom.pixels.processing import convert_color_space

    out = np.empty_like(pixels)
    for row in range(0, len(pixels), 64):  # in strips: it computes in 32-bit floats
        out[row : row + 64] = convert_color_space(pixels[row : row + 64], "YBR_FULL", "RGB")
    return out


def _encode(pixels: Pixels, syntax: str, image: _Image) -> bytes:
    """One frame, compressed and proved to decode to the same pixels."""
    import numpy as np
    from pydicom.pixels.encoders.base import get_encoder

    options = image.options()
    data: Any = pixels
    if syntax == RLE:  # bytes as they are, unused bits and what overlays keep there included
        data, options["bits_stored"] = pixels.tobytes(), image.allocated
    frame = get_encoder(syntax).encode(data, encoding_plugin=_PLUGIN[syntax], **options)
    if not np.array_equal(_decode(frame, syntax, image)[0], pixels):
        raise TransformError(f"it would change in transfer syntax {syntax}")
    return frame


# --- Writing ---------------------------------------------------------------------------------------------------------


class _Deflater:
    """Deflates what is written (PS3.5 section A.5)."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._deflate, self._size = out, zlib.compressobj(wbits=-15), 0

    def write(self, data: bytes) -> None:
        self._size += self._out.write(self._deflate.compress(data))

    def close(self) -> None:
        self._size += self._out.write(self._deflate.flush())
        self._out.write(bytes(self._size % 2))


class _Writer:
    """Writes elements in little endian."""

    def __init__(self, out: IO[bytes] | _Deflater, explicit: bool) -> None:
        self._out, self._explicit = out, explicit

    def head(self, tag: int, vr: str, length: int) -> None:
        where = pack("<HH", tag >> 16, tag & 0xFFFF)
        if not self._explicit or not vr:
            self._out.write(where + pack("<L", length))
        elif vr in _LONG:
            self._out.write(where + vr.encode() + pack("<HL", 0, length))
        else:
            self._out.write(where + vr.encode() + pack("<H", length))

    def element(self, tag: int, vr: str, value: bytes) -> None:
        """A whole element, its value padded to even length."""
        self.head(tag, vr, len(value) + len(value) % 2)
        self._out.write(value + (b"\0" if vr in ("OB", "UI") else b" ") * (len(value) % 2))

    def copy(self, file: IO[bytes], event: _Event, vr: str) -> None:
        """An element as it came, but for its head and the order of its bytes."""
        word = 1 if event.little else _WORD.get(event.vr, 1)
        if event.length % word:
            raise _fault(event.tag, f"has {event.length} bytes, which VR {event.vr} cannot have")
        self.head(event.tag, vr, event.length)
        end = event.at + event.length
        for at in range(event.at, end, _CHUNK):
            self._out.write(_swapped(_read(file, at, min(_CHUNK, end - at), end), word))

    def native(self, frames: Frames, image: _Image) -> None:
        """Native Pixel Data."""
        padding = image.size % 2
        self.head(_PIXEL_DATA, "OW" if image.allocated > 8 else "OB", image.size + padding)
        for data in _packed(frames) if image.allocated == 1 else (pixels.tobytes() for pixels, _ in frames):
            self._out.write(data)
        self._out.write(bytes(padding))

    def encapsulated(self, frames: Frames, syntax: str, image: _Image, out: IO[bytes]) -> None:
        """Compressed Pixel Data, a fragment a frame, with its Basic Offset Table (PS3.5 section A.4)."""
        self.head(_PIXEL_DATA, "OB", _UNDEFINED)
        self.element(_ITEM, "", bytes(4 * image.frames))
        first, offsets = out.tell(), []
        for number, (pixels, colour) in enumerate(frames, 1):
            offsets.append(out.tell() - first)
            with _codec(f"encode frame {number}"):
                frame = _encode(pixels, syntax, replace(image, photometric=colour))
            self.element(_ITEM, "", frame + bytes(len(frame) % 2))
        self.head(_SEQUENCE_END, "", 0)
        end = out.tell()
        out.seek(first - 4 * image.frames)
        out.write(pack(f"<{image.frames}L", *offsets))
        out.seek(end)


def _packed(frames: Frames) -> Iterator[bytes]:
    """Frames of single bits, end to end."""
    import numpy as np

    rest: Pixels = np.zeros(0, "u1")
    for pixels, _ in frames:
        bits = np.concatenate((rest, pixels.ravel()))
        whole = len(bits) // 8 * 8
        rest = bits[whole:]
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    yield np.packbits(rest, bitorder="little").tobytes()


@dataclass(frozen=True, slots=True)
class _Recoding:
    """Pixel Data to be written in another encoding."""

    image: _Image
    frames: Frames
    photometric: str  # of all frames
    syntax: str | None  # None: native

    def write(self, writer: _Writer, out: IO[bytes]) -> None:
        frames = self._alike()
        if self.syntax is None:
            writer.native(frames, self.image)
        else:
            writer.encapsulated(frames, self.syntax, self.image, out)

    def _alike(self) -> Frames:
        for pixels, colour in self.frames:
            if colour != self.photometric:
                raise TransformError("cannot convert: not all frames have one Photometric Interpretation")
            yield pixels, colour


def _recoding(data_set: _DataSet, at: int, found: _Found, target: str, largest: int) -> _Recoding | None:
    """What to do with the Pixel Data of the data set that begins at `at`. None: copy it as it is."""
    event = found.pixels
    whole = at == data_set.start  # else an item's, an icon for instance: native is allowed there (PS3.5 section A.4)
    if event is None:
        return None
    if event.kind is _Kind.FRAGMENTS and data_set.syntax in _NATIVE:
        raise _fault(_PIXEL_DATA, "is encapsulated, which its transfer syntax does not allow")
    if event.kind is _Kind.ELEMENT and whole and data_set.syntax not in _NATIVE:
        raise _fault(_PIXEL_DATA, "is not encapsulated, as its transfer syntax demands")
    if not event.little and event.vr == "OW" and found.values.get("allocated", 0) > 16:
        raise TransformError("cannot convert 32-bit pixels in big endian: writers disagree on the order of their words")
    syntax = target if whole and target in _ENCODERS else None
    if event.kind is _Kind.ELEMENT and syntax is None:
        return None
    image = _image(found.values, largest)
    if syntax and image.allocated not in (8, 16):
        raise TransformError(f"cannot compress pixels of {image.allocated} bits")
    if not whole and image.frames > 1:
        raise TransformError("cannot convert: the image in an item has more than one frame")
    frames = _decoded(data_set, found, image) if event.kind is _Kind.FRAGMENTS else _native(data_set, event, image)
    first = next(frames)  # only the frame itself says which colours it has
    rest = frames if image.frames > 1 else iter(list(frames))  # ends the iterator: it holds a file
    return _Recoding(image, chain([first], rest), first[1], syntax)


def _convert(data_set: _DataSet, target: str, out: IO[bytes], largest: int) -> None:
    found = _survey(data_set)
    whole = found.get(data_set.start, _Found())
    if target in _ENCODERS and whole.pixels is None:
        raise TransformError(f"cannot convert to transfer syntax {target}: the object holds no Pixel Data to compress")
    recodings: dict[int, _Recoding] = {}
    for at, held in found.items():
        if recoding := _recoding(data_set, at, held, target, largest):
            recodings[at] = recoding
            largest -= recoding.image.size
    deflater = _Deflater(out) if target == DEFLATED else None
    writer = _Writer(deflater or out, target != IMPLICIT)
    for event in data_set.walk():
        if event.kind is _Kind.END:
            writer.head(event.tag, "", 0)
        elif event.kind in (_Kind.SEQUENCE, _Kind.ITEM):
            writer.head(event.tag, "SQ" if event.kind is _Kind.SEQUENCE else "", _UNDEFINED)
        elif beside := recodings.get(event.data_set):
            _write_recoded(writer, data_set, event, beside, out)
        elif event.tag & 0xFFFF:  # no group length
            signed = found.get(event.data_set, whole).values.get("signed", whole.values.get("signed", 0))
            writer.copy(data_set.file, event, _definite_vr(event, signed))
    if deflater:
        deflater.close()


def _write_recoded(writer: _Writer, data_set: _DataSet, event: _Event, recoding: _Recoding, out: IO[bytes]) -> None:
    """An element beside Pixel Data that is recoded, or that itself."""
    if event.tag == _PIXEL_DATA:
        recoding.write(writer, out)
    elif event.tag == _PHOTOMETRIC:
        writer.element(event.tag, "CS", recoding.photometric.encode())
    elif event.tag == _PLANAR:
        writer.element(event.tag, "US", bytes(2))
    elif event.tag & 0xFFFF and event.tag not in _FRAGMENT_TABLES:
        writer.copy(data_set.file, event, _definite_vr(event, recoding.image.signed))


def _definite_vr(event: _Event, signed: int) -> str:
    """The VR to write in Explicit VR (PS3.5 sections 6.2.2 and A.1)."""
    vr = event.vr
    if " or " in vr:
        vr = ("US", "SS")[signed == 1] if vr == "US or SS" else "OW"
    return vr if vr in _LONG or event.length <= 0xFFFF else "UN"


def _file_meta(file: IO[bytes], end: int, syntax: str) -> bytes:
    """Preamble and File Meta Information (PS3.10 section 7.1) as in `file`, of another transfer syntax."""
    elements = [(_META_SYNTAX, "UI", syntax.encode())]
    file.seek(128)
    if file.read(4) == b"DICM":
        for event in _walk(file, 132, end, explicit=True, little=True):
            if event.kind is _Kind.ELEMENT and event.tag not in (_META_LENGTH, _META_SYNTAX, *_META_PRIVATE):
                elements.append((event.tag, event.vr, _read(file, event.at, event.length, end)))
    group = BytesIO()
    for tag, vr, value in sorted(elements):
        _Writer(group, explicit=True).element(tag, vr, value)
    meta = BytesIO()
    _Writer(meta, explicit=True).element(_META_LENGTH, "UL", pack("<L", len(group.getvalue())))
    return bytes(128) + b"DICM" + meta.getvalue() + group.getvalue()


@contextmanager
def _plain(file: IO[bytes], start: int, syntax: str, folder: Path, largest: int) -> Iterator[_DataSet]:
    """The data set of a file; inflated into an unnamed file in `folder`, if it is deflated (PS3.5 section A.5)."""
    if syntax != DEFLATED:
        yield _DataSet(file, start, os.fstat(file.fileno()).st_size, syntax)
        return
    with TemporaryFile(dir=folder) as plain:
        inflate = zlib.decompressobj(-15)
        file.seek(start)
        while not inflate.eof:
            deflated = inflate.unconsumed_tail or file.read(_CHUNK)
            with _codec("inflate the data set"):
                inflated = inflate.decompress(deflated, _CHUNK)
            if not deflated and not inflated:  # at the end of the file it may still hold some
                raise TransformError("cannot convert: the deflated data set is cut short")
            plain.write(inflated)
            if plain.tell() > largest:
                raise TransformError(f"too large to convert: more than {largest // MIB} MiB inflated")
        yield _DataSet(plain, 0, plain.tell(), syntax)


# --- The worker process ----------------------------------------------------------------------------------------------


class Transcoder:
    """`transcode` in worker processes: for many threads, which wait for their turn and for the answer.

    A worker starts with the first object, stops after `idle` seconds without one, and is replaced when it crashed, took
    longer than `timeout` seconds for an object, or has converted many. It dies with this process, even by SIGKILL.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout: float = 300.0,
        idle: float = 60.0,
        memory: int = 4096 * MIB,  # address space of a worker, in bytes
        largest: int = 1024 * MIB,  # decoded or inflated, in bytes
    ) -> None:
        self._largest = largest
        self._workers = [_Worker(timeout, idle, memory) for _ in range(workers)]
        self._free: LifoQueue[_Worker] = LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted:
        """As `transcode`. Raises TransformError also when the worker crashes, hangs or runs out of memory;
        FileNotFoundError without `source`; StorageFull or another Transient when the disk fails, and after `close`."""
        if reason := possible(source_syntax, target_syntax):
            raise TransformError(reason)
        request = {
            "source": str(source.absolute()),
            "dataset_offset": dataset_offset,
            "source_syntax": source_syntax,
            "target_syntax": target_syntax,
            "target": str(target.absolute()),
            "largest": self._largest,
        }
        worker = self._free.get()
        try:
            answer = worker.ask(request)
        except BaseException:
            target.unlink(missing_ok=True)  # what a lost worker left
            raise
        finally:
            self._free.put(worker)
        return _result(answer, source, target)

    def close(self) -> None:
        """Stop the workers; whoever waits for one gets a Transient error. There is no way back."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One worker process and the pipes to it."""

    _ENOUGH = 500  # objects; then a fresh one, for what codecs leak

    def __init__(self, timeout: float, idle: float, memory: int) -> None:
        self._timeout, self._idle, self._memory = timeout, idle, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._served = 0
        self._retire: threading.Timer | None = None
        self._closed = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._retire:
                self._retire.cancel()
            try:
                line = self._exchange(json.dumps(request).encode() + b"\n")
            except BaseException:
                self._stop()
                raise
            self._served += 1
            answer: dict[str, Any] = json.loads(line)
            if self._served >= self._ENOUGH or "exhausted" in answer:
                self._stop()
            else:
                self._retire = threading.Timer(self._idle, self._rest)
                self._retire.daemon = True
                self._retire.start()
            return answer

    def close(self) -> None:
        self._closed = True
        if process := self._process:
            process.kill()  # wakes `ask`
        self._rest()

    def _rest(self) -> None:
        with self._lock:
            self._stop()

    def _exchange(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone: no answer comes either
            process.stdin.write(line)
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(self._timeout * 1000):
            raise TransformError(f"cannot convert: it takes longer than {self._timeout:g} s")
        if answer := process.stdout.readline():
            return answer
        if self._closed:
            raise Transient("the conversion has been stopped")
        raise TransformError(f"cannot convert: the converter crashed ({_ending(process.wait())})")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is not None:
            self._stop()
        if not self._process and not self._closed:
            self._start()
        if not self._process or self._closed:  # perhaps just now
            raise Transient("conversions have stopped")
        return self._process

    def _start(self) -> None:
        theirs, lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge.transform", str(theirs), str(self._memory)],
                cwd=Path(__file__).resolve().parents[1],  # where `-m` finds the package
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries print values there
                pass_fds=(theirs,),
                start_new_session=True,  # signals to our process group are not for it
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(theirs)
        self._lifeline = lifeline

    def _stop(self) -> None:
        if self._retire:
            self._retire.cancel()
        if process := self._process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                pipe.close()
            os.close(self._lifeline)
        self._process, self._served = None, 0


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _result(answer: dict[str, Any], source: Path, target: Path) -> Converted:
    if "size" in answer:
        return Converted(target, answer["dataset_offset"], answer["size"])
    if "refused" in answer:
        raise TransformError(answer["refused"])
    number, about = answer["errno"], answer["about"]
    if number == errno.ENOENT and about == str(source.absolute()):
        raise FileNotFoundError(number, os.strerror(number), str(source))
    if number in (errno.ENOSPC, errno.EDQUOT):
        raise StorageFull("no room to convert an object")
    raise Transient(f"cannot convert now: {os.strerror(number)}")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """What became of one request. Errors tell nothing of what the object says: it may be a patient's."""
    try:
        done = transcode(**{**request, "source": Path(request["source"]), "target": Path(request["target"])})
        return {"dataset_offset": done.dataset_offset, "size": done.size}
    except TransformError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "cannot convert: it takes more memory than a conversion may", "exhausted": True}
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "about": str(error.filename)}
    except Exception as error:  # noqa: BLE001 - a fault of ours: said by type and place, the text may be a value
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "nowhere"
        return {"refused": f"cannot convert: unexpected {type(error).__name__} at {place}"}


def _serve(lifeline: int, memory: int) -> None:
    """Convert what standard input asks for, until it ends or the parent dies."""
    import fcntl
    import resource

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends us
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # SIGIO, which kills, when the parent's end of the pipe closes: even in the midst of a codec. PR_SET_PDEATHSIG
    # would act at the end of the thread that started us.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    os.nice(5)  # receiving and sending come first
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
