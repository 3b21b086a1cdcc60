"""Frames: from native and compressed Pixel Data to arrays, and back into lossless encodings.

Loads numpy; the codecs are loaded by `load_codecs`, or with the first frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import ENCODING_PROFILES, get_encoder
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import UID

from edge.errors import TransformError
from edge.transform.image import Image
from edge.transform.syntaxes import (
    DEFLATED_FRAMES,
    ENCAPSULATED_NATIVE,
    JPEG_2000,
    JPEG_2000_FAMILY,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    PLUGIN,
    RLE,
)

Pixels = NDArray[Any]  # one frame: (rows, columns) or (rows, columns, samples)
Frames = Iterator[tuple[Pixels, str]]  # with their Photometric Interpretation

#: A black frame of 8 x 8 pixels in JPEG Lossless (Process 14, Selection Value 1).
_BLACK_JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffc3000b080008000801011100ffc40015000101000000000000000000000000000000"
    "08ffda00080101000100009fc0000000000000007fffd9"
)


def load_codecs() -> None:
    """Load every codec, by use: nothing can be loaded once the worker has given up its access to files."""
    image = Image("MONOCHROME2", samples=1, rows=64, columns=64, allocated=8, stored=8)
    black: Pixels = np.zeros((64, 64), "u1")
    for syntax in (JPEG_LS, JPEG_2000, RLE):
        encode_frame(black, syntax, image)
    decode_frame(_BLACK_JPEG, JPEG_LOSSLESS, replace(image, rows=8, columns=8))
    rgb_of(np.zeros((8, 8, 3), "u1"))


def frame_pixels(raw: bytes | bytearray | memoryview, image: Image) -> Pixels:
    """The pixels of one native frame (PS3.5 section 8.1.1)."""
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


def float_pixels(raw: bytes, image: Image) -> Pixels:
    """The values of one frame of Float or Double Float Pixel Data (PS3.3 sections C.7.6.25 and C.7.6.26)."""
    return np.frombuffer(raw, "<f4" if image.allocated == 32 else "<f8", image.rows * image.columns).reshape(
        image.rows, image.columns
    )


def decode_frame(frame: bytes, syntax: str, image: Image, *, as_rgb: bool = True) -> tuple[Pixels, str]:
    """One compressed frame, and the Photometric Interpretation that it has once decoded.

    `as_rgb`: a lossy JPEG as viewers show it; else with the luminance and chrominance that it has.
    """
    if syntax == DEFLATED_FRAMES:
        frame = zlib.decompressobj(-15).decompress(frame, image.frame_size + 1)
    if syntax in (DEFLATED_FRAMES, ENCAPSULATED_NATIVE):
        return frame_pixels(frame, image), image.photometric
    # pydicom keeps GDCM from 12-bit JPEG Extended. GDCM decodes it: it reads the frame, not the transfer syntax.
    decoder = get_decoder(JPEG_BASELINE if syntax == JPEG_EXTENDED else syntax)
    raw, described = decoder.as_buffer(encapsulate([frame]), decoding_plugin=PLUGIN[syntax], **image.options())
    container, planar = int(described["bits_allocated"]), int(described.get("planar_configuration", 0))
    colour = str(described["photometric_interpretation"]).removesuffix("_422")  # decoded: no longer subsampled
    if container > max(image.allocated, 8):
        raise TransformError(f"it has {container} bits a sample, Bits Allocated says {image.allocated}")
    pixels = frame_pixels(raw, replace(image, planar=planar, allocated=container))
    unused = container - _precision(frame, syntax, image, container)
    if unused > 0:  # a frame need not know whether it is signed: its highest bit is the sign all the same
        pixels = pixels << unused >> unused
    pixels = pixels.astype(image.dtype, copy=False)
    if as_rgb and syntax in (JPEG_BASELINE, JPEG_EXTENDED) and colour == "YBR_FULL":
        return rgb_of(pixels), "RGB"
    return pixels, colour


def _precision(frame: bytes, syntax: str, image: Image, container: int) -> int:
    """Bits a sample that a compressed frame holds."""
    if syntax in JPEG_2000_FAMILY:
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


def restore_colours(pixels: Pixels, image: Image, photometric: str) -> tuple[Pixels, Image]:
    """Colours of a decoded lossy JPEG as the object's Photometric Interpretation says; other frames as they are."""
    if image.photometric != "YBR_FULL" or photometric == "YBR_FULL":
        return pixels, image
    if photometric == "YBR_FULL_422":
        return _fold_422(pixels), replace(image, photometric=photometric, samples=2, planar=0)
    return rgb_of(pixels), replace(image, photometric="RGB")


def _fold_422(pixels: Pixels) -> Pixels:
    """Two pixels share their chrominance: Y1 Y2 Cb Cr (PS3.3 section C.7.6.3.1.2)."""
    rows, columns, _ = pixels.shape
    if columns % 2:
        raise TransformError("an odd number of columns cannot share their chrominance")
    pairs = pixels.reshape(rows, columns // 2, 2, 3)
    shared = np.rint(pairs[..., 1:].mean(axis=2)).astype(pixels.dtype)
    return np.concatenate([pairs[..., 0], shared], axis=2).reshape(rows, columns, 2)


def rgb_of(pixels: Pixels) -> Pixels:
    out = np.empty_like(pixels)
    for row in range(0, len(pixels), 64):  # in strips: it computes in 32-bit floats
        out[row : row + 64] = convert_color_space(pixels[row : row + 64], "YBR_FULL", "RGB")
    return out


def encode_frame(pixels: Pixels, syntax: str, image: Image) -> bytes:
    """One frame, compressed and proved to decode to the same pixels.

    Where the sign does not fit Bits Stored, all allocated bits are encoded. An overlay in bits beyond Bits Stored is no
    pixel's value, and only RLE keeps it.
    """
    depths = [_depth(pixels, syntax, image)]
    if image.signed and depths[0] < image.allocated:
        depths.append(image.allocated)
    for bits in depths:
        try:
            frame = _proved_frame(pixels, syntax, replace(image, stored=bits))
        except (RuntimeError, ValueError, TransformError):
            if bits == depths[-1]:
                raise
            continue
        if frame is not None:
            return frame
    raise TransformError(f"it would change in transfer syntax {syntax}")


def _depth(pixels: Pixels, syntax: str, image: Image) -> int:
    """Bits a sample to encode.

    JPEG-LS knows no sign, and most of its readers do not extend it: with all allocated bits they have the same bytes
    again. CharLS has a faster way for 16 bits than for 13 to 15, with a code as long. (For 9 to 11 bits it would be
    the one for 12, whose code is up to 4 % longer.)
    """
    if syntax == RLE or (syntax == JPEG_LS and image.signed):
        return image.allocated
    faster = syntax == JPEG_LS and image.samples == 1 and image.allocated == 16 and image.stored > 12
    return 16 if faster and not int(pixels.max()) >> image.stored else image.stored


def _proved_frame(pixels: Pixels, syntax: str, image: Image) -> bytes | None:
    """One frame, compressed as deep as `image` says; None where it does not decode to these pixels."""
    if syntax == JPEG_LS:
        return _proved_jpeg_ls(pixels, image)
    data: Any = pixels if syntax == JPEG_2000 else pixels.tobytes()  # of bytes no value is read
    frame = get_encoder(syntax).encode(data, encoding_plugin=PLUGIN[syntax], **image.options())
    return frame if np.array_equal(decode_frame(frame, syntax, image)[0], pixels) else None


def _proved_jpeg_ls(pixels: Pixels, image: Image) -> bytes | None:
    """Encode by CharLS itself: for a small frame pydicom's checks take as long as CharLS takes for the frame."""
    if not _is_jpeg_ls_profile(image):
        raise TransformError("JPEG-LS has no form for such pixels (PS3.5 section 8.2.3)")
    data = pixels.tobytes()
    frame: bytes = jpeg_ls.encode_pixel_data(data, **image.options())
    decoded = jpeg_ls.decode_from_buffer(frame)
    if len(decoded) != len(data):  # values of 8 bits in 16
        return frame if np.array_equal(np.frombuffer(decoded, "u1"), pixels.ravel()) else None
    return frame if decoded == data else None


@lru_cache(maxsize=64)
def _is_jpeg_ls_profile(image: Image) -> bool:
    asked = (image.photometric, image.samples, image.signed, image.allocated, image.stored)
    return any(
        asked[:2] == (colours, samples) and asked[2] in signs and asked[3] in allocated and asked[4] in stored
        for colours, samples, signs, allocated, stored in ENCODING_PROFILES[UID(JPEG_LS)]
    )


def pack_frame(pixels: Pixels, image: Image) -> bytes:
    """The values of one frame as native pixel data has them (PS3.5 section 8.1.1)."""
    if image.allocated == 1:
        return np.packbits(pixels.ravel(), bitorder="little").tobytes()
    if pixels.ndim == 3 and image.planar:
        pixels = pixels.transpose(2, 0, 1)
    return pixels.tobytes()


def pack_bits(frames: Frames) -> Iterator[bytes]:
    """Frames of single bits, end to end."""
    rest: Pixels = np.zeros(0, "u1")
    for pixels, _ in frames:
        bits = np.concatenate((rest, pixels.ravel()))
        whole = len(bits) // 8 * 8
        rest = bits[whole:]
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    yield np.packbits(rest, bitorder="little").tobytes()
