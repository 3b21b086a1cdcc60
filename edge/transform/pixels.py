"""Frames: from native and compressed Pixel Data to arrays, and back into lossless encodings."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import get_j2k_parameters

from edge.errors import TransformError
from edge.transform.syntaxes import (
    DEFLATED_FRAMES,
    ENCAPSULATED_NATIVE,
    JPEG_2000_FAMILY,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    MIB,
    PLUGIN,
    RLE,
)

Pixels = NDArray[Any]  # one frame: (rows, columns) or (rows, columns, samples)
Frames = Iterator[tuple[Pixels, str]]  # with their Photometric Interpretation

_COLOURS = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}


@dataclass(frozen=True, slots=True)
class Image:
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


def checked_image(values: dict[str, Any], largest: int) -> Image:
    """The image, once it is certain that codecs can be told of it and that it is not too large."""
    image = Image(**values)
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


@contextmanager
def codec(doing: str) -> Iterator[None]:
    """Codecs raise whatever they like: say what was being done, and quote their last word."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except TransformError as error:
        raise TransformError(f"cannot {doing}: {error}") from error
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise TransformError(f'cannot {doing}: "{said[-1].strip()[:200]}"') from error


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


def decode(frame: bytes, syntax: str, image: Image) -> tuple[Pixels, str]:
    """One compressed frame, and the Photometric Interpretation that it has once decoded."""
    if syntax == DEFLATED_FRAMES:
        frame = zlib.decompressobj(-15).decompress(frame, image.frame_size + 1)
    if syntax in (DEFLATED_FRAMES, ENCAPSULATED_NATIVE):
        return frame_pixels(frame, image), image.photometric
    # pydicom keeps GDCM from 12-bit JPEG Extended. GDCM decodes it: it looks at the frame, not at the transfer syntax.
    decoder = get_decoder(JPEG_BASELINE if syntax == JPEG_EXTENDED else syntax)
    raw, told = decoder.as_buffer(encapsulate([frame]), decoding_plugin=PLUGIN[syntax], **image.options())
    container, planar = int(told["bits_allocated"]), int(told.get("planar_configuration", 0))
    colour = str(told["photometric_interpretation"]).removesuffix("_422")  # decoded: no longer subsampled
    if container > max(image.allocated, 8):
        raise TransformError(f"it has {container} bits a sample, Bits Allocated says {image.allocated}")
    pixels = frame_pixels(raw, replace(image, planar=planar, allocated=container))
    unused = container - _precision(frame, syntax, image, container)
    if unused > 0:  # a frame need not know whether it is signed: its highest bit is the sign all the same
        pixels = pixels << unused >> unused
    pixels = pixels.astype(image.dtype, copy=False)
    if syntax in (JPEG_BASELINE, JPEG_EXTENDED) and colour == "YBR_FULL":
        return _rgb(pixels), "RGB"  # as whoever shows a lossy JPEG does
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


def _rgb(pixels: Pixels) -> Pixels:
    out = np.empty_like(pixels)
    for row in range(0, len(pixels), 64):  # in strips: it computes in 32-bit floats
        out[row : row + 64] = convert_color_space(pixels[row : row + 64], "YBR_FULL", "RGB")
    return out


def encode(pixels: Pixels, syntax: str, image: Image) -> bytes:
    """One frame, compressed and proved to decode to the same pixels."""
    options = image.options()
    data: Any = pixels
    if syntax == RLE:  # bytes as they are, unused bits and what overlays keep there included
        data, options["bits_stored"] = pixels.tobytes(), image.allocated
    frame = get_encoder(syntax).encode(data, encoding_plugin=PLUGIN[syntax], **options)
    if not np.array_equal(decode(frame, syntax, image)[0], pixels):
        raise TransformError(f"it would change in transfer syntax {syntax}")
    return frame


def packed(frames: Frames) -> Iterator[bytes]:
    """Frames of single bits, end to end."""
    rest: Pixels = np.zeros(0, "u1")
    for pixels, _ in frames:
        bits = np.concatenate((rest, pixels.ravel()))
        whole = len(bits) // 8 * 8
        rest = bits[whole:]
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    yield np.packbits(rest, bitorder="little").tobytes()
