"""Lossless compression of native real objects of each kind: exact, or refused with a reason, in three encodings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.dicom.part10 import MAX_META, parse_meta
from edge.errors import TransformError, Unreadable
from edge.transform import Converted, Transcoder, pixels
from edge.transform.elements import ELEMENT, DataSet
from edge.transform.image import Image
from edge.transform.syntaxes import COMPRESSIONS, EXPLICIT_LITTLE, NATIVE
from tests.support.objects import RealFile, files_of_each_kind

#: Why an object goes as it is; each is a class of objects, not a fault of one encoding.
REFUSED = (
    "holds no Pixel Data",
    "pixels of 1 bits",
    "pixels of 32 bits",
    "32-bit pixels in big endian",
    "subsampled chrominance",
    "longer than what holds it",
    "Pixel Data has",
    "Photometric Interpretation of the image is missing",
    "cannot encode frame 1",
)


@pytest.fixture(scope="module")
def transcoder() -> Iterator[Transcoder]:
    made = Transcoder()
    yield made
    made.close()


def pixels_of(path: Path, offset: int, syntax: str) -> bytes:
    """Native Pixel Data of the first level."""
    with path.open("rb") as file:
        data_set = DataSet(file, offset, path.stat().st_size, syntax)
        for event in data_set.walk():
            if event.kind is ELEMENT and event.tag == 0x7FE00010 and event.data_set == offset:
                file.seek(event.at)
                return file.read(event.length)
    return b""


def test_native_real_objects_of_each_kind(transcoder: Transcoder, tmp_path: Path) -> None:
    outcome: Counter[str] = Counter()
    unexpected: list[str] = []
    plain = tmp_path / "plain"
    for file in files_of_each_kind():
        try:
            meta = parse_meta(file.path.read_bytes()[:MAX_META])
        except Unreadable:
            continue
        syntax, offset = meta.context_key.transfer_syntax_uid, meta.dataset_offset
        if syntax not in NATIVE:
            continue
        theirs = b""
        for method, small in compressed(transcoder, file, offset, syntax, tmp_path, unexpected):
            if not theirs:
                first = transcoder.convert(file.path, offset, syntax, EXPLICIT_LITTLE, plain)
                theirs = pixels_of(plain, first.dataset_offset, EXPLICIT_LITTLE)
                plain.unlink()
            back = transcoder.convert(
                small.path, small.dataset_offset, COMPRESSIONS[method], EXPLICIT_LITTLE, tmp_path / "back"
            )
            check_pixels(file, pixels_of(back.path, back.dataset_offset, EXPLICIT_LITTLE), theirs)
            back.path.unlink()
            outcome[method] += 1
    assert not unexpected
    # OpenJPEG makes no image of less than 32 rows or columns.
    assert outcome == {"jpeg-ls": 48, "jpeg-2000": 41, "rle": 50}


def compressed(
    transcoder: Transcoder, file: RealFile, offset: int, syntax: str, tmp_path: Path, unexpected: list[str]
) -> Iterator[tuple[str, Converted]]:
    """The object by each method that takes it; why one does not, must be one of REFUSED."""
    for method, target in COMPRESSIONS.items():
        small = tmp_path / method
        try:
            yield method, transcoder.convert(file.path, offset, syntax, target, small)
        except TransformError as error:
            unexpected += [] if any(reason in str(error) for reason in REFUSED) else [f"{file}: {error}"]
        small.unlink(missing_ok=True)


def check_pixels(file: RealFile, ours: bytes, theirs: bytes) -> None:
    """The same; but colour by plane becomes colour by pixel, and one may have a byte of padding more."""
    if ours[: len(theirs)] == theirs[: len(ours)]:
        assert abs(len(ours) - len(theirs)) <= 1, str(file)
        return
    blob = file.path.read_bytes()
    assert b"\x28\x00\x06\x00" in blob or b"\x00\x28\x00\x06" in blob, str(file)  # Planar Configuration
    differ = Counter(ours)
    differ.subtract(Counter(theirs))
    assert sum(map(abs, differ.values())) <= 1, str(file)


@pytest.mark.parametrize("syntax", sorted(COMPRESSIONS.values()))
def test_a_frame_that_does_not_decode_to_the_same_pixels_is_not_used(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image("MONOCHROME2", 1, 0, 1, 64, 64, 8, 8, 0)
    frame = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    assert pixels.encode_frame(frame, syntax, image)
    decode = pixels.decode_frame

    def decode_wrongly(data: bytes, syntax: str, image: Image) -> tuple[pixels.Pixels, str]:
        found, colour = decode(data, syntax, image)
        found = found.copy()
        found[5, 5] += 1
        return found, colour

    monkeypatch.setattr(pixels, "decode_frame", decode_wrongly)
    monkeypatch.setattr("jpeg_ls.decode_from_buffer", lambda _: frame.tobytes()[::-1])
    with pytest.raises(TransformError, match="it would change"):
        pixels.encode_frame(frame, syntax, image)
