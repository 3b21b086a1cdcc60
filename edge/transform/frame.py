"""`render`: one frame of an object on disk, as a picture for people; nothing of that is for diagnosis.

`recode` gives the frame instead as another transfer syntax has it.

A survey finds the image and how its values are meant to be shown (Modality LUT, VOI LUT, palette; PS3.3 sections
C.11.1, C.11.2 and C.7.9), of one frame also in its functional groups (section C.7.6.16). Only that frame is read and
decoded. Presentation states and overlays are not applied; of several VOI LUTs the first is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom.encaps import get_frame

from edge.errors import TransformError
from edge.text import MIB
from edge.transform.descriptors import reader, writer
from edge.transform.elements import (
    ELEMENT,
    END,
    FRAGMENTS,
    ITEM_START,
    PIXEL_DATA_TAG,
    SEQUENCE,
    DataSet,
    WalkEvent,
    element_fault,
    read_bytes,
    swap_bytes,
)
from edge.transform.image import Image, checked_image, codec
from edge.transform.recode import FRAGMENT_TABLES, IMAGE_TAGS, ConversionRequest, Descriptors, image_value, open_plain
from edge.transform.syntaxes import ENCODERS, EXPLICIT_LITTLE, NATIVE, decodes, video_fault

_FLOAT_PIXELS, _DOUBLE_PIXELS = 0x7FE00008, 0x7FE00009
_PIXELS = {PIXEL_DATA_TAG, _FLOAT_PIXELS, _DOUBLE_PIXELS}
_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002
#: Decimal strings that say how values are shown: tag -> name.
_DECIMALS = {0x00281050: "center", 0x00281051: "width", 0x00281052: "intercept", 0x00281053: "slope"}
_PALETTES = {
    **{0x00281101 + i: f"descriptor{i}" for i in range(3)},
    **{0x00281201 + i: f"palette{i}" for i in range(3)},
}
_PALETTES |= {0x00281221 + i: f"segmented{i}" for i in range(3)}
#: Sequences of lookup tables -> name, and what an item has: descriptor and data.
_LOOKUPS = {0x00283000: "modality", 0x00283010: "voi"}
_LOOKUP_PARTS = (0x00283002, 0x00283006)
_PADDING, _FUNCTION = 0x00280120, 0x00281056
#: The longest value that is read: a palette has at most 65536 entries of two bytes.
_LONGEST = 131_072


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Which frame to show, and how."""

    dataset_offset: int
    source_syntax: str
    frame: int = 1
    form: str = "png"  # or "jpeg", or "values"
    target_syntax: str = EXPLICIT_LITTLE  # of values
    side: int = 0  # the longer side of the picture, at most; 0: as large as the frame
    center: float | None = None  # of the window; None: as the object says, else by its values
    width: float | None = None
    function: str = ""  # of the window: a value of VOI LUT Function (0028,1056); empty: as the object says
    fit: Sequence[int] = ()  # columns and rows of the picture, at most
    region: Sequence[int] = ()  # of the frame: first column, first row, columns, rows
    quality: int = 90  # of a JPEG
    largest: int = 1024 * MIB  # what may be inflated or decoded, in bytes


@dataclass(slots=True)
class ImageSurvey:
    """What the object says of its image and how it is shown."""

    values: dict[str, Any] = field(default_factory=dict)
    pixels: WalkEvent | None = None
    tables: dict[int, bytes] = field(default_factory=dict)
    decimals: dict[str, float] = field(default_factory=dict)
    palette: dict[str, bytes] = field(default_factory=dict)
    lookups: dict[tuple[str, int], bytes] = field(default_factory=dict)  # (name, tag) -> value of the first item
    function: str = ""  # VOI LUT Function
    padding: int | None = None

    def lookup(self, name: str) -> tuple[bytes, bytes]:
        """Return descriptor and data of a lookup table; empty where there is none."""
        descriptor, data = (self.lookups.get((name, tag), b"") for tag in _LOOKUP_PARTS)
        return descriptor, data


def render(files: Descriptors, request: FrameRequest) -> dict[str, Any]:
    """Write one frame as a picture to the target. Returns its size, window and number of frames.

    Raises TransformError where the object has no image, or none that can be shown.
    """
    from edge.transform.picture import draw  # noqa: PLC0415 - numpy, only where frames are decoded

    with _open_frame(files, request) as (values, image, found, frames):
        picture = draw(values, image, found, request)
    with writer(files.target) as out:
        size = out.write(picture.data)
    return {"frames": frames, "size": size, **picture.facts}


def recode(files: Descriptors, request: FrameRequest) -> dict[str, Any]:
    """Write one frame to the target as another transfer syntax has it, without (further) loss.

    Native values are little endian; the order of colours is the object's Planar Configuration, and they are what its
    Photometric Interpretation says, for who asks has read that in its metadata. Raises TransformError.
    """
    from edge.transform.pixels import (  # noqa: PLC0415 - numpy, only where frames are decoded
        encode_frame,
        pack_frame,
        restore_colours,
    )

    with _open_frame(files, request) as (decoded, image_of_frame, found, frames):
        values, image = restore_colours(decoded, image_of_frame, str(found.values.get("photometric", "")))
        if request.target_syntax in ENCODERS and image.photometric == "YBR_FULL_422":
            raise TransformError("no lossless compression has subsampled chrominance (YBR_FULL_422)")
        if request.target_syntax not in ENCODERS:
            data = pack_frame(values, image)
        else:
            with codec(f"encode frame {request.frame}"):
                data = encode_frame(values, request.target_syntax, image)
    with writer(files.target) as out:
        size = out.write(data)
    return {"frames": frames, "size": size, "photometric": image.photometric}


@contextmanager
def _open_frame(files: Descriptors, request: FrameRequest) -> Iterator[tuple[Any, Image, ImageSurvey, int]]:
    """The values of a frame, what is said of them, and how many frames there are."""
    if reason := video_fault(request.source_syntax):
        raise TransformError(reason)
    plain = ConversionRequest(request.dataset_offset, request.source_syntax, request.source_syntax, request.largest)
    with reader(files.source) as file, open_plain(file, files.scratch, plain) as data_set:
        found = survey_image(data_set, request.frame)
        if found.pixels is None:
            raise TransformError("it has no image: its content is text, values or a document")
        if found.pixels.tag != PIXEL_DATA_TAG:
            found.values.setdefault("samples", 1)
            found.values.setdefault("photometric", "MONOCHROME2")
            found.values["stored"] = found.values.get("allocated", 0)
        frames = found.values.get("frames", 1)
        if not 1 <= request.frame <= frames:
            raise TransformError(f"it has no frame {request.frame}, but {frames}")
        image = checked_image({**found.values, "frames": 1}, request.largest)
        values, colour = _read_frame(data_set, found, replace(image, frames=frames), request.frame)
        yield values, replace(image, photometric=colour), found, frames


def survey_image(data_set: DataSet, frame: int) -> ImageSurvey:
    """Find the image of the whole data set, and what is said of one frame, counted from 1."""
    found, groups = ImageSurvey(), _Groups(frame)
    for event in data_set.walk():
        groups.note(event)
        if event.kind not in (ELEMENT, FRAGMENTS):
            continue
        if event.tag in _DECIMALS and (groups.depth == 0 or groups.concerns_frame):
            _note_decimal(found, data_set, event, overrides=groups.depth > 0)
        elif event.tag in _LOOKUP_PARTS and (name := groups.lookup):
            _note_lookup(found, data_set, event, name)
        elif groups.depth == 0:
            _note_top(found, data_set, event)
    return found


class _Groups:
    """Where a walk is: at the top, in the functional groups of all frames or of one, or elsewhere."""

    def __init__(self, frame: int) -> None:
        self._frame, self._path, self._items = frame, [0], 0

    @property
    def depth(self) -> int:
        return len(self._path) - 1

    @property
    def lookup(self) -> str:
        """The name of the lookup table in whose item the walk is; empty elsewhere, and in other frames' groups."""
        name = _LOOKUPS.get(self._path[-2], "") if self.depth >= 2 else ""
        return name if self.depth == 2 or self.concerns_frame else ""

    @property
    def concerns_frame(self) -> bool:
        top = self._path[1] if self.depth else 0
        return top == _SHARED_GROUPS or (top == _FRAME_GROUPS and self._items == self._frame)

    def note(self, event: WalkEvent) -> None:
        if event.kind in (SEQUENCE, ITEM_START):
            self._path.append(event.tag)
            if self.depth == 2 and self._path[1] == _FRAME_GROUPS:
                self._items += 1
        elif event.kind is END:
            self._path.pop()


def _note_decimal(found: ImageSurvey, data_set: DataSet, event: WalkEvent, *, overrides: bool) -> None:
    text = read_bytes(data_set.file, event.at, min(event.length, 64), data_set.end).decode("latin-1")
    try:
        value = float(text.split("\\")[0].strip(" \0"))
    except ValueError:
        return
    if abs(value) < 1e15 and (overrides or _DECIMALS[event.tag] not in found.decimals):
        found.decimals[_DECIMALS[event.tag]] = value


def _note_lookup(found: ImageSurvey, data_set: DataSet, event: WalkEvent, name: str) -> None:
    if event.length <= _LONGEST:
        raw = read_bytes(data_set.file, event.at, event.length, data_set.end)
        found.lookups.setdefault((name, event.tag), raw if event.little else swap_bytes(raw, 2))


def _note_top(found: ImageSurvey, data_set: DataSet, event: WalkEvent) -> None:
    if event.tag in _PIXELS:
        found.pixels = event
    elif event.tag in IMAGE_TAGS:
        value = image_value(event, read_bytes(data_set.file, event.at, min(event.length, 16), data_set.end))
        found.values[IMAGE_TAGS[event.tag]] = value
    elif event.tag in FRAGMENT_TABLES:
        found.tables[event.tag] = read_bytes(data_set.file, event.at, event.length, data_set.end)
    elif event.tag in _PALETTES and event.length <= _LONGEST:
        raw = read_bytes(data_set.file, event.at, event.length, data_set.end)
        found.palette[_PALETTES[event.tag]] = raw if event.little else swap_bytes(raw, 2)
    elif event.tag == _FUNCTION:
        raw = read_bytes(data_set.file, event.at, min(event.length, 16), data_set.end)
        found.function = raw.decode("latin-1").strip(" \0")
    elif event.tag == _PADDING and event.length == 2:
        raw = read_bytes(data_set.file, event.at, 2, data_set.end)
        found.padding = int.from_bytes(raw, "little" if event.little else "big")


def _read_frame(data_set: DataSet, found: ImageSurvey, image: Image, number: int) -> tuple[Any, str]:
    """Return the values of one frame and its Photometric Interpretation."""
    event = found.pixels
    assert event is not None
    if event.kind is FRAGMENTS:
        return _read_compressed(data_set, found, image, number)
    if data_set.syntax not in NATIVE:
        raise element_fault(PIXEL_DATA_TAG, "is not encapsulated, as its transfer syntax demands")
    return _read_native(data_set, event, image, number)


def _read_compressed(data_set: DataSet, found: ImageSurvey, image: Image, number: int) -> tuple[Any, str]:
    if not decodes(data_set.syntax):
        raise TransformError(f"there is no decoder for transfer syntax {data_set.syntax}")
    assert found.pixels is not None
    extended = _OFFSETS in found.tables and _OFFSET_LENGTHS in found.tables
    offsets = (found.tables[_OFFSETS], found.tables[_OFFSET_LENGTHS]) if extended else None
    from edge.transform.pixels import decode_frame  # noqa: PLC0415

    with reader(data_set.file.fileno()) as file:
        file.seek(found.pixels.at)
        with codec(f"find frame {number} of {image.frames}"):
            frame = get_frame(file, number - 1, number_of_frames=image.frames, extended_offsets=offsets)
        with codec(f"decode frame {number}"):
            return decode_frame(frame, data_set.syntax, replace(image, frames=1), as_rgb=False)


def _read_native(data_set: DataSet, event: WalkEvent, image: Image, number: int) -> tuple[Any, str]:
    from edge.transform.pixels import float_pixels, frame_pixels  # noqa: PLC0415

    if image.photometric == "YBR_FULL_422":
        image = replace(image, samples=2)  # two values a pixel: PS3.3 section C.7.6.3.1.2
    bits = image.rows * image.columns * image.samples * image.allocated
    begin, skip = divmod((number - 1) * bits, 8)
    length = (skip + bits + 7) // 8
    if begin + length > event.length:
        raise TransformError(f"Pixel Data has {event.length} bytes, too few for frame {number}")
    word = 1 if event.little else max(1, image.allocated // 8)
    if not event.little and event.vr == "OW" and image.allocated == 8:
        word = 2
    start = begin % 2 if word == 2 else 0
    raw = read_bytes(data_set.file, event.at + begin - start, length + start + (length + start) % word, data_set.end)
    raw = swap_bytes(raw, word)[start:]
    if event.tag != PIXEL_DATA_TAG:
        return float_pixels(raw, image), image.photometric
    return frame_pixels(_unskip(raw, skip, bits), image), image.photometric


def _unskip(raw: bytes, skip: int, bits: int) -> bytes:
    """Return bits from their own first byte on; frames of single bits follow each other without a gap."""
    if not skip:
        return raw[: (bits + 7) // 8]
    shifted = int.from_bytes(raw, "little") >> skip
    return (shifted & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "little")
