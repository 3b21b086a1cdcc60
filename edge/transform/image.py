"""The image module of a data set, as far as codecs need it. Loads no codec and no numpy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edge.errors import TransformError
from edge.text import MIB

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
    """Check the image: it is returned once it is certain that codecs can decode it and that it is not too large."""
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
    """Codecs raise anything: say what was being done. Their words may have values in them, and are left out."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except TransformError as error:
        raise TransformError(f"cannot {doing}: {error}") from error
    except Exception as error:
        raise TransformError(f"cannot {doing} ({type(error).__name__})") from error
