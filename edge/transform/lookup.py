"""Lookup tables of an image: palettes, also segmented ones, Modality LUT and VOI LUT (PS3.3 C.7.9, C.11.1, C.11.2).

Loads numpy. Every table is bounded by its descriptor: 65536 entries at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import unpack
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import TransformError
from edge.transform.pixels import Pixels

if TYPE_CHECKING:
    from edge.transform.frame import ImageSurvey

MOST_ENTRIES = 65536
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A table: `values[0]` is what the value `first`, and what is below, becomes."""

    first: int
    bits: int
    values: Pixels

    def apply(self, stored: Pixels) -> Pixels:
        at = np.clip(stored.astype("i8") - self.first, 0, len(self.values) - 1)
        found: Pixels = self.values[at]
        return found

    def apply_grey(self, shown: Pixels) -> Pixels:
        """Apply the table, and scale what it gives to eight bits."""
        most = float((1 << self.bits) - 1)
        return np.clip(self.apply(shown) * (255.0 / most), 0, 255).astype("u1")


def read_table(descriptor: bytes, data: bytes, *, signed: bool) -> LookupTable | None:
    """Return a table of a descriptor of three values and its data; None where they do not fit each other."""
    if len(descriptor) != 6 or not data:
        return None
    entries, first, bits = unpack("<HHH", descriptor)
    entries = entries or MOST_ENTRIES
    values: Pixels = np.frombuffer(data, "<u2" if len(data) >= 2 * entries else "u1")[:entries]
    if not len(values) or not 1 <= bits <= 16:
        return None
    return LookupTable(first - 65536 if signed and first >= 32768 else first, bits, values)


def apply_palette(values: Pixels, found: ImageSurvey) -> Pixels:
    """Apply the palette (PS3.3 section C.7.6.3.1.5): three tables of equal length."""
    planes = []
    for i in range(3):
        descriptor, raw = found.palette.get(f"descriptor{i}", b""), found.palette.get(f"palette{i}", b"")
        if not raw and (segments := found.palette.get(f"segmented{i}", b"")) and len(descriptor) == 6:
            entries, _, bits = unpack("<HHH", descriptor)
            raw, descriptor = (
                expand_segments(segments, entries or MOST_ENTRIES, of_bytes=bits == 8),
                _of_words(descriptor),
            )
        table = read_table(descriptor, raw, signed=values.dtype.kind == "i")
        if table is None:
            raise TransformError("its colours cannot be shown: it has no palette")
        wide = table.bits == 16 and table.values.dtype.itemsize == 2
        planes.append((table.apply(values) >> (8 if wide else 0)).astype("u1"))
    return np.stack(planes, axis=-1)


def _of_words(descriptor: bytes) -> bytes:
    """Return the descriptor of a table after its expansion, which has 16 bits an entry."""
    return descriptor[:4] + b"\x10\x00"


def expand_segments(data: bytes, entries: int, *, of_bytes: bool = False) -> bytes:
    """Expand a segmented table (PS3.3 section C.7.9.2) of bytes or words, to words. Raises TransformError."""
    units = np.frombuffer(data[: len(data) // 2 * 2], "u1" if of_bytes else "<u2")
    read = _Segments([int(each) for each in units], entries, of_bytes)
    read.expand(0, may_refer=True)
    if len(read.out) < entries:
        raise TransformError("its colours cannot be shown: its segmented palette is too short")
    values = np.array(read.out[:entries], "<u2")
    return (values << 8 if of_bytes else values).astype("<u2").tobytes()


@dataclass(slots=True)
class _Segments:
    """A segmented table while it is expanded; `units` are its bytes or words."""

    units: list[int]
    entries: int
    of_bytes: bool
    out: list[int] = field(default_factory=list)

    def expand(self, at: int, *, may_refer: bool, most: int = 0) -> None:
        """Expand the segments from a place on, `most` of them (0: all)."""
        done = 0
        while at + 2 < len(self.units) and len(self.out) < self.entries and (not most or done < most):
            kind, length = self.units[at : at + 2]
            at += 2
            if kind == _DISCRETE and at + length <= len(self.units):
                self.out += self.units[at : at + length]
                at += length
            elif kind == _LINEAR and self.out:
                begin, last = self.out[-1], self.units[at]
                self.out += [round(begin + (last - begin) * step / length) for step in range(1, length + 1)]
                at += 1
            elif kind == _INDIRECT and may_refer:
                at += self._repeat(at, length)
            else:
                raise TransformError("its colours cannot be shown: its segmented palette is not valid")
            done += 1

    def _repeat(self, at: int, segments: int) -> int:
        """Expand segments that were there before; what they name may not refer again. Returns the units of the offset.

        The offset is in bytes from the begin of the table, the least significant unit first.
        """
        count, bits = (4, 8) if self.of_bytes else (2, 16)
        offset = sum(each << bits * i for i, each in enumerate(self.units[at : at + count]))
        self.expand(offset * 8 // bits, may_refer=False, most=max(segments, 1))
        return count
