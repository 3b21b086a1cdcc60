"""Transfer syntaxes (PS3.5 section 10 and Annex A), and which can become which without loss."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
ENCAPSULATED_NATIVE, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"

#: Worth proposing beside the native transfer syntax, the best first.
FALLBACKS: tuple[str, ...] = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
#: Lossless encodings that we can make as well, the best first.
COMPRESSED_FALLBACKS: tuple[str, ...] = (JPEG_LS, JPEG_2000, RLE, DEFLATED_EXPLICIT)

NATIVE = {IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED_EXPLICIT, BIG_ENDIAN}
ENCODERS = {JPEG_LS, JPEG_2000, RLE}
_JPEG = dict.fromkeys((JPEG_BASELINE, JPEG_EXTENDED, "1.2.840.10008.1.2.4.57", JPEG_LOSSLESS), "gdcm")
_JPEG_LS = dict.fromkeys((JPEG_LS, "1.2.840.10008.1.2.4.81"), "pyjpegls")
JPEG_2000_FAMILY = dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)), "pylibjpeg")
#: What `compress` of a destination may be.
COMPRESSIONS = {"jpeg-ls": JPEG_LS, "jpeg-2000": JPEG_2000, "rle": RLE}
#: Which of pydicom's plugins decodes a transfer syntax, and encodes ours.
PLUGIN = {**_JPEG, **_JPEG_LS, **JPEG_2000_FAMILY, RLE: "pylibjpeg"}
_DECODED = {*PLUGIN, ENCAPSULATED_NATIVE, DEFLATED_FRAMES}
_VIDEO = {f"1.2.840.10008.1.2.4.{n}{part}" for n in range(100, 109) for part in ("", ".1")}
_NO_DECODER = {
    **dict.fromkeys(_VIDEO, "video (MPEG, HEVC) cannot become frames without loss"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "there is no decoder for JPEG 2000 Part 2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (94, 95, 204, 205)), "its pixels stay on a JPIP server"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "there is no decoder for JPEG XL"),
}


def decodes(syntax: str) -> bool:
    """Whether there is a decoder for the frames of a transfer syntax."""
    return syntax in _DECODED


def video_fault(syntax: str) -> str | None:
    """Why a frame of a transfer syntax cannot be shown; None: perhaps it can."""
    if syntax in _VIDEO:
        return "it is a video (MPEG, HEVC), of which no frame can be shown here"
    return _NO_DECODER.get(syntax)


def decodes_frames(source_syntax: str, target_syntax: str) -> bool:
    """Whether a conversion decodes or encodes frames, so that it needs the codecs."""
    return source_syntax not in NATIVE or target_syntax in ENCODERS


@dataclass(frozen=True, slots=True)
class Converted:
    """A Part 10 file with the converted data set. It can be made again, so it is not synced."""

    path: Path
    dataset_offset: int  # where the data set begins
    size: int  # of the file, in bytes


def choose_syntax(source_syntax: str, taken: Collection[str]) -> str | None:
    """Choose the object's own syntax where a peer takes it, else the best that can be made; None: there is none."""
    for syntax in (source_syntax, *FALLBACKS, *COMPRESSED_FALLBACKS):
        if syntax in taken and possible(source_syntax, syntax) is None:
            return syntax
    return None


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
    if source_syntax not in NATIVE | _DECODED:
        return f"transfer syntax {source_syntax} cannot be converted: Edge does not know it"
    return None
