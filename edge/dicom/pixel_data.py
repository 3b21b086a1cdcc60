"""The place of the pixel data in a data set, and of each frame (PS3.5 section 8.2 and annex A.4). Raises Unreadable.

Nothing is decoded: frames are ranges of bytes of the file. Bounds: MOST_HEADER bytes before the pixel data are read,
and MOST_FRAGMENTS fragments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.dicom.elements import DEFLATED, EXPLICIT, FORMS, ITEM, SEQUENCE_END, UNDEFINED
from edge.dicom.header import END_OF_DATA, PIXEL_DATA, Read, Walk, Window
from edge.errors import Unreadable

MOST_HEADER = 64 << 20
MOST_FRAGMENTS = 1_000_000
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_NOTHING: frozenset[int] = frozenset()
_BATCH = 64 << 10


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of the data set."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class PixelData:
    """The element with the pixels; `header_bytes`: where it and those beside it begin."""

    header_bytes: int
    tag: int = 0  # 0: there is none
    vr: str = ""
    value: ByteRange = ByteRange(0, 0)  # without an end where it is encapsulated
    is_encapsulated: bool = False


def find_pixel_data(read: Read, length: int, transfer_syntax_uid: str, begin: int = 0) -> PixelData:
    """Walk to the pixel data of a data set of `length` bytes. `begin`: an element before it, where that is known."""
    if transfer_syntax_uid in DEFLATED:
        raise Unreadable("a deflated data set is read in another way")
    form = FORMS.get(transfer_syntax_uid, EXPLICIT)
    window, offset, header = Window(read, length, MOST_HEADER), begin, -1
    walk = Walk(window, _NOTHING, _NOTHING, 0)
    while True:
        tag, vr, start, size = window.element(offset, form)
        if tag >> 16 == 0x7FE0 and header < 0:
            header = offset
        if tag == END_OF_DATA or tag >> 16 > 0x7FE0:
            return PixelData(header if header >= 0 else min(offset, length))
        if tag in _PIXELS:
            name = vr.decode("ascii") or "OW"
            value = ByteRange(start, length - start if size == UNDEFINED else size)
            return PixelData(header, tag, name, value, size == UNDEFINED)
        if tag >= PIXEL_DATA:
            offset = start + size
            continue
        offset = walk.walk_sequence(offset, form) if size == UNDEFINED else start + size
        if offset > length:
            raise Unreadable(f"a value of {size} bytes runs past the end of the data set, byte {start}")


def native_frames(pixels: PixelData, frames: int, bits: int) -> list[ByteRange]:
    """Frames of `bits` bits each, which follow each other."""
    if bits % 8:
        if frames > 1:
            raise Unreadable("frames that do not end with a byte")
        bits += 8 - bits % 8
    size = bits // 8
    if size * frames > pixels.value.count:
        raise Unreadable(f"{pixels.value.count} bytes of pixel data are too few for {frames} frames of {size}")
    return [ByteRange(pixels.value.offset + number * size, size) for number in range(frames)]


def encapsulated_frames(read: Read, pixels: PixelData, frames: int) -> list[Sequence[ByteRange]]:
    """Each frame's fragments, by the offset table where one frame may have several."""
    (table, *fragments), begin = _fragments(read, pixels)
    if len(fragments) == frames:
        return [[each] for each in fragments]
    if frames == 1:
        return [fragments]
    offsets = _offsets(read, table)
    if len(offsets) != frames:
        raise Unreadable(f"{len(fragments)} fragments of {frames} frames, and no table says which is whose")
    ends = [*offsets[1:], 1 << 62]
    return [
        [each for each in fragments if first <= each.offset - 8 - begin < end]
        for first, end in zip(offsets, ends, strict=True)
    ]


def _fragments(read: Read, pixels: PixelData) -> tuple[list[ByteRange], int]:
    """The Basic Offset Table, then the fragments; and where the first fragment's item begins."""
    found: list[ByteRange] = []
    at, end = pixels.value.offset, pixels.value.offset + pixels.value.count
    buffer, base = b"", at
    begin = at
    while at + 8 <= end and len(found) <= MOST_FRAGMENTS:
        if not base <= at <= base + len(buffer) - 8:
            buffer, base = read(at, _BATCH if found and found[-1].count < _BATCH // 8 else 8), at
        tag = int.from_bytes(buffer[at - base : at - base + 2], "little") << 16
        tag |= int.from_bytes(buffer[at - base + 2 : at - base + 4], "little")
        size = int.from_bytes(buffer[at - base + 4 : at - base + 8], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or size == UNDEFINED or at + 8 + size > end:
            raise Unreadable(f"the fragments of the pixel data are damaged, byte {at}")
        found.append(ByteRange(at + 8, size))
        at += 8 + size
        if len(found) == 1:
            begin = at
    if not found:
        raise Unreadable("the pixel data has no offset table")
    return found, begin


def _offsets(read: Read, table: ByteRange) -> list[int]:
    raw = read(table.offset, table.count)
    return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw) - 3, 4)]
