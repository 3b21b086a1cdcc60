"""Values of one frame as a picture of eight bits: region, window, palette, colour, size; and PNG, written by hand.

Loads numpy.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import TransformError
from edge.transform.image import Image
from edge.transform.jpeg import encode_jpeg
from edge.transform.lookup import LookupTable, apply_palette, read_table
from edge.transform.pixels import Pixels, rgb_of

if TYPE_CHECKING:
    from edge.transform.frame import FrameRequest, ImageSurvey

#: The largest picture, in pixels a side.
MOST_SIDE = 4096


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, and what a person may ask of it."""

    data: bytes
    facts: dict[str, Any]


def draw(values: Pixels, image: Image, found: ImageSurvey, request: FrameRequest) -> Picture:
    """Draw a frame. Raises TransformError where its values have no colours."""
    facts: dict[str, Any] = {"rows": image.rows, "columns": image.columns, "is_colour": True}
    if image.photometric == "YBR_FULL_422" and values.shape[-1] == 2:
        values = _unfold_422(values)
    values, most = _cut(values, request.region), request.fit or (request.side, request.side)
    if image.photometric == "PALETTE COLOR":
        drawn = _shrink(apply_palette(values, found), most)
    elif image.samples == 3:
        drawn = _shrink(_colour(values, image), most)
    else:
        values = _extend_sign(values, image)
        shown = _shrink(_rescale(values, image, found), most)
        padding = None if found.padding is None else _as_stored(found.padding, image)
        center, width, function = _window(values, shown, found, request, padding)
        if request.width is None and not request.function and (table := _voi_table(shown, found)) is not None:
            drawn, center, width = (
                table.apply_grey(shown),
                table.first + len(table.values) / 2,
                float(len(table.values)),
            )
        else:
            drawn = _apply_window(shown, center, width, function)
        drawn = 255 - drawn if image.photometric == "MONOCHROME1" else drawn
        facts |= {"is_colour": False, "center": round(center, 3), "width": round(width, 3)}
        facts |= {"lowest": float(shown.min()), "highest": float(shown.max())}
    return Picture(encode_jpeg(drawn, request.quality) if request.form == "jpeg" else encode_png(drawn), facts)


def _cut(values: Pixels, region: Sequence[int]) -> Pixels:
    """A part of the frame. Raises TransformError where that is none."""
    if not region:
        return values
    column, row, columns, rows = region
    found = values[row : row + rows, column : column + columns]
    if not found.size:
        raise TransformError("the region is outside the image")
    return found


def _as_stored(padding: int, image: Image) -> int:
    """Return Pixel Padding Value (0028,0120) as the image's values are: signed where they are."""
    return padding - 65536 if image.signed and padding >= 32768 else padding


def _extend_sign(values: Pixels, image: Image) -> Pixels:
    """Native values whose sign fills Bits Stored need not fill their words (PS3.5 section 8.1.1)."""
    unused = image.allocated - image.stored if image.signed else 0
    return values << unused >> unused if unused else values


def _rescale(values: Pixels, image: Image, found: ImageSurvey) -> Pixels:
    """Apply the Modality LUT, a table or a slope and an intercept (PS3.3 section C.11.1)."""
    table = read_table(*found.lookup("modality"), signed=bool(image.signed))
    if table is not None:
        return table.apply(values).astype("f4")
    slope, intercept = found.decimals.get("slope", 1.0), found.decimals.get("intercept", 0.0)
    shown = values.astype("f4")
    if slope not in (0.0, 1.0):
        shown *= slope
    if intercept:
        shown += intercept
    finite: Pixels = np.nan_to_num(shown, copy=False)
    return finite


def _window(
    values: Pixels, shown: Pixels, found: ImageSurvey, request: FrameRequest, padding: int | None
) -> tuple[float, float, str]:
    """Return center, width and function: as asked for, as the object says, or the span of the frame's values."""
    function = request.function or found.function
    if request.center is not None and request.width is not None:
        return request.center, max(request.width, 1e-6), function
    if found.decimals.get("width", 0.0) > 0 and "center" in found.decimals:
        return found.decimals["center"], found.decimals["width"], function
    counted = shown
    if padding is not None and values.shape == shown.shape and (kept := values != padding).any():
        counted = shown[kept]
    low, high = (float(each) for each in np.percentile(counted, (0.5, 99.5)))
    if high <= low:
        low, high = float(counted.min()), float(counted.max())
    return (low + high) / 2, max(high - low, 1e-6), request.function or "LINEAR_EXACT"


def _voi_table(shown: Pixels, found: ImageSurvey) -> LookupTable | None:
    """Return the first VOI LUT, where the object has no window that comes before it."""
    if found.decimals.get("width", 0.0) > 0 and "center" in found.decimals:
        return None
    return read_table(*found.lookup("voi"), signed=bool(shown.min() < 0))


def _apply_window(shown: Pixels, center: float, width: float, function: str) -> Pixels:
    """Apply a window (PS3.3 section C.11.2.1.2; of three functions, LINEAR where none is said)."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(-4 * (shown - center) / width))
    elif function == "LINEAR_EXACT" or width < 1:
        share = (shown - center) / width + 0.5
    else:
        share = (shown - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.clip(share * 255.0, 0, 255).astype("u1")


def _colour(values: Pixels, image: Image) -> Pixels:
    eight = values if values.dtype.itemsize == 1 else (values >> max(image.stored - 8, 0)).astype("u1")
    if image.photometric.startswith("YBR_FULL"):
        return rgb_of(np.ascontiguousarray(eight))
    return eight


def _unfold_422(values: Pixels) -> Pixels:
    """Two pixels share their colour: Y1 Y2 Cb Cr (PS3.3 section C.7.6.3.1.2)."""
    rows, columns, _ = values.shape
    four = values.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns // 2, 2, 3), values.dtype)
    out[..., 0] = four[..., :2]
    out[..., 1] = four[..., 2:3]
    out[..., 2] = four[..., 3:4]
    return out.reshape(rows, columns // 2 * 2, 3)


def _shrink(values: Pixels, most: Sequence[int]) -> Pixels:
    """Make a frame smaller by a whole number, each pixel the mean of those that it stands for.

    `most`: columns and rows; 0: as many as there may be.
    """
    sides = zip(values.shape[1::-1], most, strict=True)
    factor = max(-(-side // min(limit or MOST_SIDE, MOST_SIDE)) for side, limit in sides)
    if factor <= 1:
        return values
    rows, columns = (max(1, each // factor) for each in values.shape[:2])
    cut = values[: rows * factor, : columns * factor]
    if cut.shape[0] < factor or cut.shape[1] < factor:
        return values[::factor, ::factor]
    blocks = cut.reshape(rows, factor, columns, factor, *values.shape[2:])
    small: Pixels = blocks.mean(axis=(1, 3)).astype(values.dtype)
    return small


def encode_png(picture: Pixels) -> bytes:
    """Return a picture, grey or RGB of eight bits, as PNG (ISO/IEC 15948), each row without a filter."""
    rows, columns = picture.shape[:2]
    kind = 2 if picture.ndim == 3 else 0
    lines = np.zeros((rows, 1 + columns * (3 if kind else 1)), "u1")
    lines[:, 1:] = picture.reshape(rows, -1)
    head = pack(">LLBBBBB", columns, rows, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        pack(">L", len(data)) + name + data + pack(">L", zlib.crc32(name + data)) for name, data in chunks
    )


def load_drawing() -> None:
    """Load all that `draw` may need: nothing can be loaded once the worker has given up its access to files."""
    values: Pixels = np.arange(64, dtype="u2").reshape(8, 8)
    np.percentile(_shrink(values, (4, 4)), (0.5, 99.5))
    drawn = np.clip(values, 0, 9).astype("u1")
    encode_png(drawn)
    encode_jpeg(np.stack((drawn, drawn, drawn), axis=-1))
    _apply_window(values.astype("f4"), 1.0, 2.0, "SIGMOID")
    np.nan_to_num(values.astype("f4"))
