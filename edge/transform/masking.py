"""A device's mask: areas of an image that its equipment writes text into are set to black in the copy that goes out.

Only native pixels are changed, in place, in a copy that was just written: what is compressed is decompressed before,
and compressed without loss behind. An image whose black is not certain (a palette, subsampled colour, single bits) is
refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.config.conditions import FACTS, Condition, compile_condition
from edge.config.masks import Area, Mask
from edge.dicom.header import read_at
from edge.dicom.pixel_data import find_pixel_data
from edge.errors import TransformError
from edge.model import InstanceHeader, Values
from edge.transform.image import Image
from edge.transform.syntaxes import BIG_ENDIAN, ENCODERS, EXPLICIT_LITTLE, IMPLICIT_LITTLE

#: Transfer syntaxes whose pixels are changed in place; of the other lossless ones they are decoded and encoded again.
NATIVE_PIXELS = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, BIG_ENDIAN})
_MASKED_COLOURS = frozenset({"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL"})


@dataclass(frozen=True, slots=True)
class CompiledMask:
    """A [mask] table, compiled."""

    name: str
    conditions: tuple[Condition, ...]
    areas: tuple[Area, ...]

    @property
    def keywords(self) -> frozenset[str]:
        """What it asks the object for."""
        return frozenset(each.keyword for each in self.conditions if each.keyword not in FACTS)

    def fits(self, header: InstanceHeader) -> bool:
        return all(each.holds(header) for each in self.conditions)


def compile_masks(masks: Mapping[str, Mask], destination: str) -> tuple[CompiledMask, ...]:
    """The masks for one destination, in the order of the files."""
    return tuple(
        CompiledMask(each.name, tuple(compile_condition(*one) for one in each.when.items()), each.areas)
        for each in masks.values()
        if not each.to or destination in each.to
    )


def choose_mask(masks: Sequence[CompiledMask], header: InstanceHeader) -> tuple[CompiledMask | None, str]:
    """The first mask that fits an object, or why that one cannot be applied.

    The header has the attributes of IMAGE_KEYWORDS, and those that the masks ask for.
    """
    found = next((each for each in masks if each.fits(header)), None)
    if found is None:
        return None, ""
    fault = mask_fault(image_of(header.attributes), found.areas)
    if not fault and header.transfer_syntax_uid not in NATIVE_PIXELS | ENCODERS:
        fault = "pixels that it cannot decode and encode again without loss"
    return (None, f"mask {found.name} cannot be applied: {fault}") if fault else (found, "")


def mask_fault(image: Image, areas: Sequence[Area]) -> str:
    """Why an image cannot be masked; empty where it can."""
    if image.photometric not in _MASKED_COLOURS or image.allocated not in (8, 16):
        return f"{image.photometric or 'an image without Photometric Interpretation'} of {image.allocated} bits"
    if image.samples != (1 if image.photometric.startswith("MONO") else 3):
        return f"{image.photometric} of {image.samples} samples a pixel"
    if not any(each.x < image.columns and each.y < image.rows for each in areas):
        return "a mask beside the image"
    return ""


def _black(image: Image) -> tuple[int, ...]:
    """The value of each sample of a black pixel (PS3.3 section C.7.6.3.1.2)."""
    top = 1 << image.stored
    if image.photometric == "MONOCHROME2":
        return (-(top >> 1) if image.signed else 0,)
    if image.photometric == "MONOCHROME1":
        return ((top >> 1) - 1 if image.signed else top - 1,)
    return (0, 0, 0) if image.photometric == "RGB" else (0, top >> 1, top >> 1)


def black_runs(image: Image, areas: Sequence[Area], order: str = "<") -> Iterator[tuple[int, bytes]]:
    """Offset in native Pixel Data, and the bytes that make it black. `order`: "<" or ">"."""
    octets = image.allocated // 8
    endian = "big" if order == ">" else "little"
    black = [(each % (1 << image.allocated)).to_bytes(octets, endian) for each in _black(image)]  # type: ignore[arg-type]
    planes = [(at * image.rows * image.columns * octets, octets, each) for at, each in enumerate(black)]
    if not image.planar:
        planes = [(0, octets * image.samples, b"".join(black))]
    for frame in range(image.frames):
        for area in areas:
            width = min(area.x + area.width, image.columns) - area.x
            for row in range(area.y, min(area.y + area.height, image.rows)) if width > 0 else ():
                for start, step, pixel in planes:
                    at = frame * image.frame_size + start + (row * image.columns + area.x) * step
                    yield at, pixel * width


def blacken(path: Path, dataset_offset: int, transfer_syntax_uid: str, image: Image, areas: Sequence[Area]) -> None:
    """Set the areas of every frame to black in a file whose pixels are native. Raises TransformError, OSError."""
    if fault := mask_fault(image, areas):
        raise TransformError(f"cannot be masked: {fault}")
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        length = os.fstat(fd).st_size - dataset_offset
        pixels = find_pixel_data(read_at(fd, dataset_offset), length, transfer_syntax_uid)
        if pixels.is_encapsulated or pixels.value.count < image.size:
            raise TransformError("cannot be masked: its pixels are not those that its header describes")
        order = ">" if transfer_syntax_uid == BIG_ENDIAN else "<"
        for at, black in black_runs(image, areas, order):
            os.pwrite(fd, black, dataset_offset + pixels.value.offset + at)
    finally:
        os.close(fd)


def image_of(values: Mapping[str, Values]) -> Image:
    """The image that a header describes; what is absent is 0."""

    def number(keyword: str, default: int = 0) -> int:
        text = (values.get(keyword) or ("",))[0]
        return int(text) if text.isdigit() else default

    return Image(
        (values.get("PhotometricInterpretation") or ("",))[0],
        number("SamplesPerPixel"),
        number("PlanarConfiguration"),
        number("NumberOfFrames", 1),
        number("Rows"),
        number("Columns"),
        number("BitsAllocated"),
        number("BitsStored"),
        number("PixelRepresentation"),
    )


IMAGE_KEYWORDS = frozenset(
    (
        *("PhotometricInterpretation", "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
        *("BitsAllocated", "BitsStored", "PixelRepresentation"),
    )
)
