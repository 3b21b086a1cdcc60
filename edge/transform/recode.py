"""`transcode`: one object on disk, written again in another transfer syntax.

A survey first finds the images; then every value is copied from file to file and Pixel Data recoded frame by frame.
No file is opened here: descriptors are all it gets. Numpy is loaded only for frames.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import SEEK_END, BytesIO
from itertools import chain, islice
from struct import pack
from typing import IO, TYPE_CHECKING, Any

from edge.errors import TransformError
from edge.text import MIB
from edge.transform.descriptors import new_file, reader, writer
from edge.transform.elements import (
    COPY_BYTES,
    ELEMENT,
    END,
    FRAGMENTS,
    ITEM_START,
    ITEM_TAG,
    PIXEL_DATA_TAG,
    SEQUENCE,
    SEQUENCE_DELIMITER,
    UNDEFINED_LENGTH,
    WORD,
    DataSet,
    ElementWriter,
    WalkEvent,
    definite_vr,
    element_fault,
    read_bytes,
    swap_bytes,
    walk,
)
from edge.transform.image import Image, checked_image, codec
from edge.transform.syntaxes import DEFLATED_EXPLICIT, ENCODERS, IMPLICIT_LITTLE, NATIVE, possible

if TYPE_CHECKING:
    from edge.transform.pixels import Frames

_META_LENGTH, _META_SYNTAX, _META_PRIVATE = 0x00020000, 0x00020010, (0x00020100, 0x00020102)
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002  # the Extended Offset Table, PS3.3 section C.7.6.3.1.8
FRAGMENT_TABLES = {_OFFSETS, _OFFSET_LENGTHS, 0x7FE00003}
_PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280004, 0x00280006, 0x00280008
_KEPT = 10_000  # elements that are remembered from the survey; a data set of more is walked twice
IMAGE_TAGS = {
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


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The open files of a conversion. They are used by position and stay open."""

    source: int  # readable: a Part 10 file
    target: int  # writable and empty
    scratch: int  # readable, writable and empty: for the inflated data set, where the source is deflated; else -1


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What to convert."""

    dataset_offset: int  # where the data set begins in the source
    source_syntax: str
    target_syntax: str
    largest: int = 1024 * MIB  # what may be inflated or decoded, in bytes


def transcode(files: Descriptors, request: ConversionRequest) -> tuple[int, int]:
    """Write the object in another transfer syntax. Where its data set begins, and the size of the file.

    Raises TransformError where the object cannot be converted, OSError where the disk fails; what the target holds
    then means nothing.
    """
    if reason := possible(request.source_syntax, request.target_syntax):
        raise TransformError(reason)
    offset = request.dataset_offset
    with reader(files.source) as file, writer(files.target) as out:
        if request.source_syntax == request.target_syntax:
            shutil.copyfileobj(file, out, COPY_BYTES)
        else:
            head = _file_meta(file, offset, request.target_syntax)
            with open_plain(file, files.scratch, request) as data_set:
                offset = out.write(head)
                _convert(data_set, request.target_syntax, out, request.largest)
        return offset, out.tell()


# --- The survey: what must be known before the first byte is written ---


@dataclass(slots=True)
class _Found:
    """What the survey keeps of a data set, the whole or an item: its image, if it holds one."""

    values: dict[str, Any] = field(default_factory=dict)
    pixels: WalkEvent | None = None
    tables: dict[int, bytes] = field(default_factory=dict)


def _survey(data_set: DataSet, events: Iterable[WalkEvent]) -> dict[int, _Found]:
    """The images, and parts of such, by where the data set begins that holds them."""
    found: dict[int, _Found] = {}
    for event in events:
        if event.kind not in (ELEMENT, FRAGMENTS):
            continue
        if event.tag == PIXEL_DATA_TAG:
            found.setdefault(event.data_set, _Found()).pixels = event
        elif event.tag in IMAGE_TAGS:
            value = image_value(event, read_bytes(data_set.file, event.at, min(event.length, 16), data_set.end))
            found.setdefault(event.data_set, _Found()).values[IMAGE_TAGS[event.tag]] = value
        elif event.tag in FRAGMENT_TABLES:
            table = read_bytes(data_set.file, event.at, event.length, data_set.end)
            found.setdefault(event.data_set, _Found()).tables[event.tag] = table
    return found


def image_value(event: WalkEvent, raw: bytes) -> str | int:
    if event.tag == _PHOTOMETRIC:
        return raw.decode("latin-1").strip(" \0")
    if event.tag == _FRAMES:
        text = raw.strip(b" \0")
        return (int(text) if text.isdigit() else 0) or 1
    return int.from_bytes(raw[:2], "little" if event.little else "big")


def _decoded_frames(data_set: DataSet, found: _Found, image: Image) -> Frames:
    """Each frame of encapsulated Pixel Data."""
    assert found.pixels is not None
    extended = _OFFSETS in found.tables and _OFFSET_LENGTHS in found.tables
    offsets = (found.tables[_OFFSETS], found.tables[_OFFSET_LENGTHS]) if extended else None
    from pydicom.encaps import generate_frames  # noqa: PLC0415 - only where frames are decoded

    from edge.transform.pixels import decode_frame  # noqa: PLC0415

    with reader(data_set.file.fileno()) as file:  # a position of its own: frames are read while elements are
        file.seek(found.pixels.at)
        frames = generate_frames(file, number_of_frames=image.frames, extended_offsets=offsets)
        for number in range(1, image.frames + 1):
            with codec(f"find frame {number} of {image.frames}"):
                frame = next(frames, None)
            if frame is None:
                raise TransformError(f"cannot convert: Pixel Data has {number - 1} frames, not {image.frames}")
            with codec(f"decode frame {number}"):
                decoded = decode_frame(frame, data_set.syntax, image)
            yield decoded
        if next(frames, None) is not None:
            raise TransformError(f"cannot convert: Pixel Data has more than {image.frames} frames")


def _native_frames(data_set: DataSet, event: WalkEvent, image: Image) -> Frames:
    """Each frame of native Pixel Data."""
    from edge.transform.pixels import frame_pixels  # noqa: PLC0415 - only where frames are encoded

    if image.photometric == "YBR_FULL_422":
        raise TransformError("cannot compress native Pixel Data with subsampled chrominance (YBR_FULL_422)")
    if not image.size <= event.length <= image.size + 1:
        raise TransformError(f"cannot compress: Pixel Data has {event.length} bytes, the image {image.size}")
    word = 1 if event.little else WORD.get(event.vr, 1)
    for at in range(event.at, event.at + image.size, image.frame_size):
        skip = (at - event.at) % word  # a frame of 8-bit pixels may begin inside a word
        length = -(-(skip + image.frame_size) // word) * word
        raw = swap_bytes(read_bytes(data_set.file, at - skip, length, event.at + event.length), word)
        yield frame_pixels(raw[skip:], image), image.photometric


# --- Writing ---


class _Deflater:
    """Deflates what is written (PS3.5 section A.5)."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._deflate, self._size = out, zlib.compressobj(wbits=-15), 0

    def write(self, data: bytes) -> None:
        self._size += self._out.write(self._deflate.compress(data))

    def close(self) -> None:
        self._size += self._out.write(self._deflate.flush())
        self._out.write(bytes(self._size % 2))


def _write_native(writer: ElementWriter, frames: Frames, image: Image) -> None:
    """Native Pixel Data."""
    from edge.transform.pixels import pack_bits  # noqa: PLC0415 - only where frames are decoded

    padding = image.size % 2
    writer.head(PIXEL_DATA_TAG, "OW" if image.allocated > 8 else "OB", image.size + padding)
    for data in pack_bits(frames) if image.allocated == 1 else (pixels.tobytes() for pixels, _ in frames):
        writer.write(data)
    writer.write(bytes(padding))


def _write_encapsulated(writer: ElementWriter, frames: Frames, syntax: str, image: Image, out: IO[bytes]) -> None:
    """Compressed Pixel Data, a fragment a frame, with its Basic Offset Table (PS3.5 section A.4)."""
    from edge.transform.pixels import encode_frame  # noqa: PLC0415 - only where frames are encoded

    writer.head(PIXEL_DATA_TAG, "OB", UNDEFINED_LENGTH)
    writer.element(ITEM_TAG, "", bytes(4 * image.frames))
    first, offsets = out.tell(), []
    for number, (pixels, colour) in enumerate(frames, 1):
        offsets.append(out.tell() - first)
        with codec(f"encode frame {number}"):
            frame = encode_frame(pixels, syntax, replace(image, photometric=colour))
        writer.element(ITEM_TAG, "", frame + bytes(len(frame) % 2))
    writer.head(SEQUENCE_DELIMITER, "", 0)
    end = out.tell()
    out.seek(first - 4 * image.frames)
    out.write(pack(f"<{image.frames}L", *offsets))
    out.seek(end)


@dataclass(frozen=True, slots=True)
class _Recoding:
    """Pixel Data to be written in another encoding."""

    image: Image
    frames: Frames
    photometric: str  # of all frames
    syntax: str | None  # None: native

    def write(self, writer: ElementWriter, out: IO[bytes]) -> None:
        frames = self._alike()
        if self.syntax is None:
            _write_native(writer, frames, self.image)
        else:
            _write_encapsulated(writer, frames, self.syntax, self.image, out)

    def _alike(self) -> Frames:
        for pixels, colour in self.frames:
            if colour != self.photometric:
                raise TransformError("cannot convert: not all frames have one Photometric Interpretation")
            yield pixels, colour


def _recoding(data_set: DataSet, at: int, found: _Found, target: str, largest: int) -> _Recoding | None:
    """What to do with the Pixel Data of the data set that begins at `at`. None: copy it as it is."""
    event = found.pixels
    whole = at == data_set.start  # else an item's, an icon for instance: native is allowed there (PS3.5 section A.4)
    if event is None:
        return None
    _check_pixels(data_set, event, found, whole=whole)
    syntax = target if whole and target in ENCODERS else None
    if event.kind is ELEMENT and syntax is None:
        return None
    image = checked_image(found.values, largest)
    if syntax and image.allocated not in (8, 16):
        raise TransformError(f"cannot compress pixels of {image.allocated} bits")
    if not whole and image.frames > 1:
        raise TransformError("cannot convert: the image in an item has more than one frame")
    frames = (
        _decoded_frames(data_set, found, image) if event.kind is FRAGMENTS else _native_frames(data_set, event, image)
    )
    first = next(frames)  # only the frame itself says which colours it has
    rest = frames if image.frames > 1 else iter(list(frames))  # ends the iterator: it holds a file
    return _Recoding(image, chain([first], rest), first[1], syntax)


def _check_pixels(data_set: DataSet, event: WalkEvent, found: _Found, *, whole: bool) -> None:
    """Refuse Pixel Data of a form that its transfer syntax does not allow, or whose words have no known order."""
    if event.kind is FRAGMENTS and data_set.syntax in NATIVE:
        raise element_fault(PIXEL_DATA_TAG, "is encapsulated, which its transfer syntax does not allow")
    if event.kind is ELEMENT and whole and data_set.syntax not in NATIVE:
        raise element_fault(PIXEL_DATA_TAG, "is not encapsulated, as its transfer syntax demands")
    if not event.little and event.vr == "OW" and found.values.get("allocated", 0) > 16:
        raise TransformError("cannot convert 32-bit pixels in big endian: writers disagree on the order of their words")


def _convert(data_set: DataSet, target: str, out: IO[bytes], largest: int) -> None:
    few = list(islice(data_set.walk(), _KEPT))
    found = _survey(data_set, few if len(few) < _KEPT else data_set.walk())
    whole = found.get(data_set.start, _Found())
    if target in ENCODERS and whole.pixels is None:
        raise TransformError(f"cannot convert to transfer syntax {target}: the object holds no Pixel Data to compress")
    recodings: dict[int, _Recoding] = {}
    for at, held in found.items():
        if recoding := _recoding(data_set, at, held, target, largest):
            recodings[at] = recoding
            largest -= recoding.image.size
    deflater = _Deflater(out) if target == DEFLATED_EXPLICIT else None
    writer = ElementWriter(deflater or out, target != IMPLICIT_LITTLE)
    with writer.gathering():
        for event in few if len(few) < _KEPT else data_set.walk():
            if event.kind is END:
                writer.head(event.tag, "", 0)
            elif event.kind in (SEQUENCE, ITEM_START):
                writer.head(event.tag, "SQ" if event.kind is SEQUENCE else "", UNDEFINED_LENGTH)
            elif beside := recodings.get(event.data_set):
                _write_recoded(writer, data_set, event, beside, out)
            elif event.tag & 0xFFFF:  # no group length
                signed = found.get(event.data_set, whole).values.get("signed", whole.values.get("signed", 0))
                writer.copy(data_set.file, event, definite_vr(event, signed))
    if deflater:
        deflater.close()


def _write_recoded(
    writer: ElementWriter, data_set: DataSet, event: WalkEvent, recoding: _Recoding, out: IO[bytes]
) -> None:
    """An element beside Pixel Data that is recoded, or that itself."""
    if event.tag == PIXEL_DATA_TAG:
        recoding.write(writer, out)
    elif event.tag == _PHOTOMETRIC:
        writer.element(event.tag, "CS", recoding.photometric.encode())
    elif event.tag == _PLANAR:
        writer.element(event.tag, "US", bytes(2))
    elif event.tag & 0xFFFF and event.tag not in FRAGMENT_TABLES:
        writer.copy(data_set.file, event, definite_vr(event, recoding.image.signed))


def _file_meta(file: IO[bytes], end: int, syntax: str) -> bytes:
    """Preamble and File Meta Information (PS3.10 section 7.1) as in `file`, of another transfer syntax."""
    elements = [(_META_SYNTAX, "UI", syntax.encode())]
    file.seek(128)
    if file.read(4) == b"DICM":
        for event in walk(file, 132, end, explicit=True, little=True):
            if event.kind is ELEMENT and event.tag not in (_META_LENGTH, _META_SYNTAX, *_META_PRIVATE):
                elements.append((event.tag, event.vr, read_bytes(file, event.at, event.length, end)))
    group = BytesIO()
    for tag, vr, value in sorted(elements):
        ElementWriter(group, explicit=True).element(tag, vr, value)
    meta = BytesIO()
    ElementWriter(meta, explicit=True).element(_META_LENGTH, "UL", pack("<L", len(group.getvalue())))
    return bytes(128) + b"DICM" + meta.getvalue() + group.getvalue()


@contextmanager
def open_plain(file: IO[bytes], scratch: int, request: ConversionRequest) -> Iterator[DataSet]:
    """The data set of a file; inflated into the scratch file, if it is deflated (PS3.5 section A.5)."""
    start, syntax, largest = request.dataset_offset, request.source_syntax, request.largest
    if syntax != DEFLATED_EXPLICIT:
        yield DataSet(file, start, file.seek(0, SEEK_END), syntax)
        return
    with new_file(scratch) as plain:
        inflate = zlib.decompressobj(-15)
        file.seek(start)
        while not inflate.eof:
            deflated = inflate.unconsumed_tail or file.read(COPY_BYTES)
            with codec("inflate the data set"):
                inflated = inflate.decompress(deflated, COPY_BYTES)
            if not deflated and not inflated:  # at the end of the file it may still hold some
                raise TransformError("cannot convert: the deflated data set is cut short")
            plain.write(inflated)
            if plain.tell() > largest:
                raise TransformError(f"too large to convert: more than {largest // MIB} MiB inflated")
        plain.flush()  # frames are read beside it
        yield DataSet(plain, 0, plain.tell(), syntax)
