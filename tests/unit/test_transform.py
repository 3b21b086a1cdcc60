"""Conversion to another transfer syntax: nothing is lost, the impossible is refused, and no codec harms the daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import jpeg_ls
import numpy as np
import psutil
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.utils import as_pixel_options, pixel_array

from edge.errors import Permanent, StorageFull, TransformError, Transient
from edge.text import MIB
from edge.transform import COMPRESSED_FALLBACKS, FALLBACKS, Converted, Transcoder, possible
from edge.transform.recode import ConversionRequest, Descriptors, transcode
from edge.transform.syntaxes import (
    BIG_ENDIAN,
    DEFLATED_EXPLICIT,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_LS,
    RLE,
)
from edge.transform.transcoder import _check_answer
from tests.support.objects import RealFile, dataset, files_of_each_kind, new_uid, part10, read_meta, real_files
from tests.support.peers import requires, wait_until

NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED_EXPLICIT, BIG_ENDIAN)
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
PIXEL_DATA = 0x7FE00010
REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def transcoder() -> Iterator[Transcoder]:
    transcoder = Transcoder()
    yield transcoder
    transcoder.close()


def convert(transcoder: Transcoder, source: Path, target_syntax: str, target: Path) -> Converted:
    meta, offset = read_meta(source.read_bytes())
    return transcoder.convert(source, offset, syntax_in(meta), target_syntax, target)


def here(source: Path, source_syntax: str, target_syntax: str, target: Path, largest: int = 1024 * MIB) -> None:
    """Convert in this process."""
    offset = read_meta(source.read_bytes())[1]
    scratch = target.with_suffix(".scratch")
    with open(source, "rb") as file, open(target, "wb") as out, open(scratch, "w+b") as plain:
        files = Descriptors(file.fileno(), out.fileno(), plain.fileno())
        transcode(files, ConversionRequest(offset, source_syntax, target_syntax, largest))


def syntax_in(meta: dict[int, bytes]) -> str:
    return meta.get(0x0010, b"").rstrip(b"\0").decode()


def syntax_of(path: Path) -> str:
    return syntax_in(read_meta(path.read_bytes())[0])


# --- What is possible ---


@pytest.mark.parametrize("source", [*NATIVE, JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS, JPEG_2000, RLE, DEFLATED_FRAMES])
@pytest.mark.parametrize("target", [*FALLBACKS, *COMPRESSED_FALLBACKS])
def test_what_can_be_converted(source: str, target: str) -> None:
    assert possible(source, target) is None


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("1.2.840.10008.1.2.4.102", EXPLICIT_LITTLE, "video"),
        ("1.2.840.10008.1.2.4.103.1", IMPLICIT_LITTLE, "video"),
        ("1.2.840.10008.1.2.4.108", EXPLICIT_LITTLE, "video"),
        ("1.2.840.10008.1.2.4.110", EXPLICIT_LITTLE, "JPEG XL"),
        ("1.2.840.10008.1.2.4.94", EXPLICIT_LITTLE, "JPIP"),
        ("1.2.3.4", EXPLICIT_LITTLE, "does not know"),
        (EXPLICIT_LITTLE, BIG_ENDIAN, "does not convert to"),
        (EXPLICIT_LITTLE, JPEG_BASELINE, "does not convert to"),
    ],
)
def test_what_cannot_be_converted_says_why(source: str, target: str, reason: str) -> None:
    assert reason in str(possible(source, target))
    assert possible(source, source) is None


def test_the_daemon_does_not_load_the_codecs() -> None:
    script = "import edge.daemon.lifecycle, edge.transform as t, sys; t.Transcoder(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    assert not {"pydicom", "numpy", "gdcm"} & set(loaded.stdout.split())


# --- Real objects, judged by DCMTK and pydicom ---


def readable(files: list[RealFile]) -> list[tuple[Path, str]]:
    """Part 10 files that name their transfer syntax, and are whole."""
    broken = {"MR_truncated.dcm", "rtplan_truncated.dcm", "test_files_dicomdirtests_DICOMDIR-nooffset"}
    whole = [file.path for file in files if file.row["readable"] == "yes" and file.path.name not in broken]
    return [(path, syntax_of(path)) for path in whole if syntax_of(path)]


def normal_form(path: Path, scratch: Path) -> bytes:
    """The data set as DCMTK writes it in Implicit VR Little Endian: equal for equal content."""
    command = [requires("dcmconv"), "-dc", "-F", "+ti", "-g", "-e", str(path), str(scratch)]
    subprocess.run(command, check=True, capture_output=True)
    return scratch.read_bytes()


def test_native_objects_keep_every_byte_of_every_value(transcoder: Transcoder, tmp_path: Path) -> None:
    """Byte order, VR, deflate; text, private and unknown elements, words and floats, sequences."""
    files = [(path, syntax) for path, syntax in readable(files_of_each_kind()) if syntax in NATIVE]
    assert len(files) > 80
    for number, (path, syntax) in enumerate(files):
        if syntax == BIG_ENDIAN and "rtdose" in path.name:
            continue
        target_syntax = [other for other in (EXPLICIT_LITTLE, IMPLICIT_LITTLE, DEFLATED_EXPLICIT) if other != syntax][
            number % 2
        ]
        target = tmp_path / f"{number}.dcm"
        converted = convert(transcoder, path, target_syntax, target)
        assert normal_form(target, tmp_path / "ours") == normal_form(path, tmp_path / "theirs"), path
        assert (syntax_of(target), converted.size) == (target_syntax, target.stat().st_size)
        assert read_meta(target.read_bytes())[1] == converted.dataset_offset


def beside_pixels(path: Path) -> list[tuple[int, Any]]:
    """Every element in order, items' too, but those that speak of the encoding of pixels, and group lengths."""
    skipped = {PIXEL_DATA, 0x7FE00001, 0x7FE00002, 0x00280004, 0x00280006}
    elements = [element for element in pydicom.dcmread(path).iterall() if element.tag & 0xFFFF]
    return [(e.tag, len(e.value) if e.VR == "SQ" else e.value) for e in elements if e.tag not in skipped]


#: pydicom cannot decode these at all; see the tests of 12-bit JPEG and of single bits.
NOT_FOR_PYDICOM = {"JPEG-lossy.dcm", "JPGExtended.dcm", "RG2_JPLY.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}
DAMAGED = {"emri_small_jpeg_2k_lossless_too_short.dcm"}


@pytest.mark.filterwarnings("ignore")
def test_compressed_objects_keep_their_pixels_and_all_else(transcoder: Transcoder, tmp_path: Path) -> None:
    files = [(path, syntax) for path, syntax in readable(files_of_each_kind()) if syntax not in NATIVE]
    files = [(path, syntax) for path, syntax in files if path.name not in NOT_FOR_PYDICOM | DAMAGED]
    files = [(path, syntax) for path, syntax in files if not path.name.startswith("liver")]
    assert len({syntax for _, syntax in files}) >= 9
    for number, (path, syntax) in enumerate(files):
        target = tmp_path / f"{number}.dcm"
        convert(transcoder, path, EXPLICIT_LITTLE, target)
        assert beside_pixels(target) == beside_pixels(path), path
        if "PixelData" in pydicom.dcmread(path):
            theirs = pixel_array(pydicom.dcmread(path))  # of a path it trusts the transfer syntax's VR
            np.testing.assert_array_equal(pixel_array(target), theirs, err_msg=f"{path} {syntax}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target_syntax", [JPEG_LS, JPEG_2000, RLE])
def test_compressing_keeps_the_pixels(transcoder: Transcoder, tmp_path: Path, target_syntax: str) -> None:
    names = {"CT_small.dcm", "MR_small_expb.dcm", "emri_small.dcm", "693_J2KI.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"}
    names |= {"SC_rgb_rle_16bit_2frame.dcm", "examples_ybr_color.dcm", "OBXXXX1A_expb.dcm", "JLSL_16_15_1_1F.dcm"}
    files = [(path, syntax) for path, syntax in readable(real_files()) if path.name in names]
    assert len(files) == len(names)
    for path, syntax in files:
        target = tmp_path / f"{path.name}"
        convert(transcoder, path, target_syntax, target)
        assert syntax_of(target) == target_syntax
        np.testing.assert_array_equal(pixel_array(target), pixel_array(path), err_msg=f"{path} {syntax}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm", "RG2_JPLY.dcm"])
def test_12_bit_jpeg_is_decoded_as_dcmtk_does(transcoder: Transcoder, tmp_path: Path, name: str) -> None:
    (source,) = [file.path for file in real_files() if file.path.name == name]
    convert(transcoder, source, EXPLICIT_LITTLE, tmp_path / "ours.dcm")
    subprocess.run([requires("dcmdjpeg"), source, tmp_path / "theirs.dcm"], check=True, capture_output=True)
    np.testing.assert_array_equal(pixel_array(tmp_path / "ours.dcm"), pixel_array(tmp_path / "theirs.dcm"))


@pytest.mark.parametrize("kind", ["deflate", "j2k"])
def test_frames_of_single_bits_join_without_a_gap(transcoder: Transcoder, tmp_path: Path, kind: str) -> None:
    paths = {file.path.name: file.path for file in real_files()}
    convert(transcoder, paths[f"liver_nonbyte_aligned_{kind}.dcm"], EXPLICIT_LITTLE, tmp_path / "out.dcm")
    native = pydicom.dcmread(paths["liver_nonbyte_aligned.dcm"])
    assert pydicom.dcmread(tmp_path / "out.dcm").PixelData == native.PixelData


def test_damaged_objects_are_refused(transcoder: Transcoder, tmp_path: Path) -> None:
    names = {"MR_truncated.dcm", "rtplan_truncated.dcm", *DAMAGED}
    for file in real_files():
        if file.path.name in names:
            with pytest.raises(TransformError, match=r"ends inside|is longer than what holds it"):
                convert(transcoder, file.path, DEFLATED_EXPLICIT, tmp_path / "out.dcm")
            assert not any(tmp_path.iterdir())


# --- Made objects: what must not change, and what must ---


def image(array: Any, stored: int = 0, photometric: str = "", **attributes: Any) -> Dataset:
    """A secondary capture of (rows, columns), (frames, rows, columns) or (..., 3) pixels."""
    colour = array.shape[-1] == 3
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientName = "1.2.840.10008.5.1.4.1.1.7", new_uid(), "Canary^Name"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if photometric:
        ds.PhotometricInterpretation = photometric
    if colour:
        ds.PlanarConfiguration = 0
    if array.ndim == 4 or (array.ndim == 3 and not colour):
        ds.NumberOfFrames = len(array)
    ds.Rows, ds.Columns = array.shape[-3:-1] if colour else array.shape[-2:]
    ds.BitsAllocated = 8 * array.itemsize
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(array.dtype.kind == "i")
    ds.add_new(PIXEL_DATA, "OW" if array.itemsize > 1 else "OB", array.tobytes() + b"\0" * (array.nbytes % 2))
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def compressed(ds: Dataset, frames: list[bytes]) -> Dataset:
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def rle(array: Any) -> list[bytes]:
    """Frames in RLE that keep every bit."""
    ds = image(array[0])
    return [get_encoder(RLE).encode(frame.tobytes(), **as_pixel_options(ds)) for frame in array]


def saved(path: Path, ds: Dataset, syntax: str = EXPLICIT_LITTLE) -> Path:
    path.write_bytes(part10(ds, syntax))
    return path


def raw(path: Path, elements: bytes, syntax: str = EXPLICIT_LITTLE) -> Path:
    """A file whose data set is just these bytes."""
    empty = part10(image(np.zeros((1, 1), "u1")), syntax)
    path.write_bytes(empty[: read_meta(empty)[1]] + elements)
    return path


def element(tag: int, vr: str, value: bytes) -> bytes:
    """In Explicit VR Little Endian."""
    length = pack("<HL", 0, len(value)) if vr in ("OB", "SQ", "UN") else pack("<H", len(value))
    return pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value


def test_unused_bits_survive(transcoder: Transcoder, tmp_path: Path) -> None:
    """An overlay in the high bits (PS3.5 section 8.1.2) is not the pixel's value, but it is data."""
    pixels = np.random.default_rng(1).integers(0, 65536, (1, 32, 33), "u2")
    source = saved(tmp_path / "in.dcm", compressed(image(pixels, stored=12), rle(pixels)), RLE)
    convert(transcoder, source, EXPLICIT_LITTLE, tmp_path / "native.dcm")
    assert pydicom.dcmread(tmp_path / "native.dcm").PixelData == pixels.tobytes()
    convert(transcoder, tmp_path / "native.dcm", RLE, tmp_path / "again.dcm")
    convert(transcoder, tmp_path / "again.dcm", EXPLICIT_LITTLE, tmp_path / "end.dcm")
    assert (tmp_path / "end.dcm").read_bytes() == (tmp_path / "native.dcm").read_bytes()
    with pytest.raises(TransformError, match="cannot encode frame 1"):
        convert(transcoder, tmp_path / "native.dcm", JPEG_2000, tmp_path / "lossy.dcm")
    assert not (tmp_path / "lossy.dcm").exists()


def test_what_an_encoder_spoils_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every compressed frame is decoded again and compared."""
    pixels = np.random.default_rng(5).integers(0, 256, (40, 40), "u1")
    source = saved(tmp_path / "in.dcm", image(pixels))
    spoiled = get_encoder(RLE).encode(pixels.tobytes()[::-1], **as_pixel_options(image(pixels)))
    monkeypatch.setattr("pydicom.pixels.encoders.base.Encoder.encode", lambda *_, **__: spoiled)
    with pytest.raises(TransformError, match="cannot encode frame 1: it would change"):
        here(source, EXPLICIT_LITTLE, RLE, tmp_path / "out.dcm")


def test_elements_on_both_sides_of_pixel_data_stay_as_they_are(tmp_path: Path) -> None:
    """They are copied together as far as they stand side by side: what is left out, or is new, comes between."""
    pixels = np.random.default_rng(7).integers(0, 256, (40, 40), "u1")
    blob = saved(tmp_path / "in.dcm", image(pixels)).read_bytes()
    begin, end = read_meta(blob)[1], blob.index(b"\xe0\x7f\x10\x00")
    head, pixel_data = blob[begin:end], blob[end:]
    lengths, long = element(0x00080000, "UL", bytes(4)), element(0x00091010, "UN", bytes(range(256)) * 5000)
    private, padding = element(0x00090010, "LO", b"EDGE"), element(0xFFFCFFFC, "OB", b"\1\2\3\4")
    at = head.index(b"\x28\x00\x02\x00")
    elements = lengths + head[:at] + private + long + head[at:] + pixel_data + padding
    here(raw(tmp_path / "raw.dcm", elements), EXPLICIT_LITTLE, JPEG_LS, tmp_path / "out.dcm")
    made = (tmp_path / "out.dcm").read_bytes()
    assert made[read_meta(made)[1] :].startswith(head[:at] + private + long + head[at:])
    assert made.endswith(pack("<HHL", 0xFFFE, 0xE0DD, 0) + padding)


def test_colours_change_only_with_lossy_jpeg(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (1, 16, 16, 3), "u1")
    losslessly = image(pixels, photometric="YBR_FULL", LossyImageCompression="01", LossyImageCompressionRatio="7")
    source = saved(tmp_path / "in.dcm", compressed(losslessly, rle(pixels)), RLE)
    convert(transcoder, source, EXPLICIT_LITTLE, tmp_path / "out.dcm")
    ds = pydicom.dcmread(tmp_path / "out.dcm")
    assert (ds.PhotometricInterpretation, ds.PixelData) == ("YBR_FULL", pixels.tobytes())
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 7)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == losslessly.SOPInstanceUID

    (jpeg,) = [file.path for file in real_files() if file.path.name == "SC_rgb_dcmtk_+eb+cy+np.dcm"]
    assert pydicom.dcmread(jpeg).PhotometricInterpretation == "YBR_FULL_422"
    convert(transcoder, jpeg, IMPLICIT_LITTLE, tmp_path / "jpeg.dcm")
    ds = pydicom.dcmread(tmp_path / "jpeg.dcm")
    assert (ds.PhotometricInterpretation, ds.PlanarConfiguration, len(ds.PixelData)) == ("RGB", 0, 30_000)


def test_colour_by_plane_is_compressed_by_pixel(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 40, 40, 3), "u1")
    ds = image(pixels, PlanarConfiguration=1)
    ds.PixelData = pixels.transpose(0, 3, 1, 2).tobytes()
    for target_syntax in (JPEG_LS, JPEG_2000, RLE):
        target = tmp_path / f"{target_syntax}.dcm"
        convert(transcoder, saved(tmp_path / "in.dcm", ds), target_syntax, target)
        np.testing.assert_array_equal(pixel_array(target), pixels)
        assert pydicom.dcmread(target).PlanarConfiguration == 0


@pytest.mark.parametrize("stored", [8, 12, 16])
def test_signed_pixels_keep_their_sign(transcoder: Transcoder, tmp_path: Path, stored: int) -> None:
    half = 1 << (stored - 1)
    pixels = np.random.default_rng(4).integers(-half, half, (1, 40, 40)).astype("i2")
    source = saved(tmp_path / "in.dcm", image(pixels, stored=stored))
    for target_syntax in (JPEG_LS, JPEG_2000, RLE):
        convert(transcoder, source, target_syntax, tmp_path / f"{target_syntax}.dcm")
        convert(transcoder, tmp_path / f"{target_syntax}.dcm", EXPLICIT_LITTLE, tmp_path / f"{target_syntax}-back.dcm")
        assert pydicom.dcmread(tmp_path / f"{target_syntax}-back.dcm").PixelData == pixels.tobytes()
    (frame,) = generate_frames(pydicom.dcmread(tmp_path / f"{JPEG_LS}.dcm").PixelData, number_of_frames=1)
    assert jpeg_ls.decode_from_buffer(frame) == pixels.tobytes()  # whoever does not extend the sign has it, too


@pytest.mark.parametrize("stored", [13, 15])
def test_13_to_15_bits_go_16_deep(transcoder: Transcoder, tmp_path: Path, stored: int) -> None:
    """CharLS has a faster way for 16; readers have the same bytes, and Bits Stored stays what it is."""
    pixels = np.random.default_rng(6).integers(0, 1 << stored, (1, 40, 40)).astype("u2")
    small = tmp_path / "small.dcm"
    convert(transcoder, saved(tmp_path / "in.dcm", image(pixels, stored=stored)), JPEG_LS, small)
    (frame,) = generate_frames(pydicom.dcmread(small).PixelData, number_of_frames=1)
    assert jpeg_ls.CharLS._CharLS.read_header(frame)["bits_per_sample"] == 16
    subprocess.run([requires("dcmdjpls"), small, tmp_path / "theirs.dcm"], check=True, capture_output=True)
    convert(transcoder, small, EXPLICIT_LITTLE, tmp_path / "ours.dcm")
    for native in ("theirs.dcm", "ours.dcm"):
        ds = pydicom.dcmread(tmp_path / native)
        assert (ds.PixelData, ds.BitsStored, ds.HighBit) == (pixels.tobytes(), stored, stored - 1)

    pixels[0, 7, 7] |= 1 << stored
    overlaid = saved(tmp_path / "overlaid.dcm", image(pixels, stored=stored))
    with pytest.raises(TransformError, match="cannot encode frame 1"):
        convert(transcoder, overlaid, JPEG_LS, tmp_path / "deeper.dcm")


def test_icons_are_decoded_too_and_offset_tables_go(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.arange(2 * 16 * 16, dtype="u2").reshape(2, 16, 16)
    icon = compressed(image(pixels[:1, :8, :8].astype("u1")), rle(pixels[:1, :8, :8].astype("u1")))
    ds = compressed(image(pixels, IconImageSequence=[icon]), [])
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(rle(pixels))
    source = saved(tmp_path / "in.dcm", ds, RLE)
    for target_syntax in (EXPLICIT_LITTLE, JPEG_LS):
        convert(transcoder, source, target_syntax, tmp_path / f"{target_syntax}.dcm")
        out = pydicom.dcmread(tmp_path / f"{target_syntax}.dcm")
        assert out.IconImageSequence[0].PixelData == pixels[0, :8, :8].astype("u1").tobytes()
        assert "ExtendedOffsetTable" not in out
        np.testing.assert_array_equal(pixel_array(out), pixels)


def test_a_wrong_number_of_frames_is_refused(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.arange(3 * 16 * 16, dtype="u2").reshape(3, 16, 16)
    for frames in (2, 4):
        ds = compressed(image(pixels), rle(pixels))
        ds.NumberOfFrames = frames
        with pytest.raises(TransformError, match="frames"):
            convert(transcoder, saved(tmp_path / "in.dcm", ds, RLE), EXPLICIT_LITTLE, tmp_path / "out.dcm")


def test_private_elements_come_back_whole(transcoder: Transcoder, tmp_path: Path) -> None:
    """Implicit VR does not say the VR of private elements: as UN (PS3.5 section 6.2.2) they lose nothing."""
    elements = (
        element(0x00091001, "UN", b"\x01\x02\x03\x04"),
        element(0x00280103, "US", b"\x01\x00"),
        element(0x00280106, "SS", b"\xff\xff"),
        element(0x00291002, "UN", b"x" * 70_000),
        element(0x00409096, "SQ", b""),
        element(0x00431010, "UN", bytes(5)),
    )
    explicit = raw(tmp_path / "in.dcm", element(0x00090010, "LO", b"EDGE TEST ") + b"".join(elements))
    convert(transcoder, explicit, IMPLICIT_LITTLE, tmp_path / "implicit.dcm")
    convert(transcoder, tmp_path / "implicit.dcm", EXPLICIT_LITTLE, tmp_path / "back.dcm")
    assert dataset(tmp_path / "back.dcm") == dataset(explicit)


def test_what_a_short_length_cannot_say_becomes_un(transcoder: Transcoder, tmp_path: Path) -> None:
    value = b"1\\" * 40_000
    implicit = raw(tmp_path / "in.dcm", pack("<HHL", 0x0018, 0x1164, len(value)) + value, IMPLICIT_LITTLE)  # a DS
    convert(transcoder, implicit, EXPLICIT_LITTLE, tmp_path / "out.dcm")
    assert dataset(tmp_path / "out.dcm") == element(0x00181164, "UN", value)


def test_group_lengths_go_and_sequences_get_undefined_length(transcoder: Transcoder, tmp_path: Path) -> None:
    inner = element(0x00080000, "UL", pack("<L", 10)) + element(0x00080100, "SH", b"T1")
    item = pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    source = raw(tmp_path / "in.dcm", element(0x00080000, "UL", bytes(4)) + element(0x00081032, "SQ", item))
    convert(transcoder, source, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    assert dataset(tmp_path / "out.dcm") == (
        pack("<HHL", 0x0008, 0x1032, 0xFFFFFFFF)
        + pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        + pack("<HHL2s", 0x0008, 0x0100, 2, b"T1")
        + pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    )


def test_unknown_sequences_hold_implicit_vr_in_every_syntax(transcoder: Transcoder, tmp_path: Path) -> None:
    """PS3.5 section 6.2.2: a UN of undefined length is in Implicit VR Little Endian, in big endian objects too."""
    inside = pack("<HHLHHLH", 0xFFFE, 0xE000, 0xFFFFFFFF, 0x0028, 0x0010, 2, 0x0102)
    ends = pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    big = pack(">HH2sHL", 0x0029, 0x1001, b"UN", 0, 0xFFFFFFFF) + inside + ends
    convert(transcoder, raw(tmp_path / "in.dcm", big, BIG_ENDIAN), IMPLICIT_LITTLE, tmp_path / "out.dcm")
    assert dataset(tmp_path / "out.dcm") == pack("<HHL", 0x0029, 0x1001, 0xFFFFFFFF) + inside + ends


def test_big_endian_pixels(transcoder: Transcoder, tmp_path: Path) -> None:
    """8-bit pixels in words, of frames that end inside a word; 32-bit ones have no known order of words."""
    pixels = np.arange(1, 28, dtype="u1").reshape(3, 3, 3)
    ds = image(pixels)
    ds["PixelData"].VR = "OW"
    ds.PixelData = np.frombuffer(pixels.tobytes() + b"\0", "u2").byteswap().tobytes()
    source = saved(tmp_path / "in.dcm", ds, BIG_ENDIAN)
    for target_syntax in (EXPLICIT_LITTLE, RLE):
        convert(transcoder, source, target_syntax, tmp_path / f"{target_syntax}.dcm")
        np.testing.assert_array_equal(pixel_array(tmp_path / f"{target_syntax}.dcm"), pixels)
    wide = saved(tmp_path / "wide.dcm", image(np.zeros((2, 2), "u4")), BIG_ENDIAN)
    with pytest.raises(TransformError, match="order of their words"):
        convert(transcoder, wide, EXPLICIT_LITTLE, tmp_path / "out.dcm")


def test_objects_without_pixels_are_not_compressed(transcoder: Transcoder, tmp_path: Path) -> None:
    ds = image(np.zeros((2, 2), "u1"))
    del ds.PixelData
    with pytest.raises(TransformError, match="no Pixel Data"):
        convert(transcoder, saved(tmp_path / "in.dcm", ds), JPEG_LS, tmp_path / "out.dcm")
    for number, target_syntax in enumerate((IMPLICIT_LITTLE, DEFLATED_EXPLICIT)):
        convert(transcoder, tmp_path / "in.dcm", target_syntax, tmp_path / f"{number}.dcm")
        assert pydicom.dcmread(tmp_path / f"{number}.dcm").PatientName == "Canary^Name"


# --- Hostile and unlucky ---


def test_nesting_has_no_end_that_hurts(transcoder: Transcoder, tmp_path: Path) -> None:
    depth = 50_000
    begin = pack("<HH2sHLHHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    source = raw(tmp_path / "in.dcm", begin * depth + end * depth)
    convert(transcoder, source, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    assert len(dataset(tmp_path / "out.dcm")) == depth * (16 + 16)


def test_lying_lengths_are_refused(transcoder: Transcoder, tmp_path: Path) -> None:
    whole = element(0x00100010, "PN", b"Canary^Name ")
    item = pack("<HHL", 0xFFFE, 0xE000, 200) + whole
    for lie in (whole[:-1], whole + b"\x10", element(0x00081032, "SQ", item), element(0x00081032, "SQ", whole)):
        with pytest.raises(TransformError) as refusal:
            convert(transcoder, raw(tmp_path / "in.dcm", lie), IMPLICIT_LITTLE, tmp_path / "out.dcm")
        assert "Canary" not in str(refusal.value)
        assert not (tmp_path / "out.dcm").exists()


def test_refusals_tell_nothing_of_the_patient(transcoder: Transcoder, tmp_path: Path) -> None:
    pixels = np.zeros((1, 16, 16), "u1")
    ds = compressed(image(pixels, photometric="CANARY NAME"), rle(pixels))
    with pytest.raises(TransformError, match="Photometric Interpretation") as refusal:
        convert(transcoder, saved(tmp_path / "in.dcm", ds, RLE), EXPLICIT_LITTLE, tmp_path / "out.dcm")
    assert "CANARY" not in str(refusal.value)


def test_what_would_grow_too_large_is_refused_before(tmp_path: Path) -> None:
    bomb = compressed(image(np.zeros((1, 16, 16), "u1"), Rows=60_000, Columns=60_000), [b"\xff\xd8\xff\xd9"])
    source = saved(tmp_path / "in.dcm", bomb, JPEG_LS)
    with pytest.raises(TransformError, match="too large to convert: 3433 MiB decoded, at most 1024 MiB"):
        here(source, JPEG_LS, EXPLICIT_LITTLE, tmp_path / "out.dcm")
    deflated = zlib.compressobj(wbits=-15)
    data = element(0x00091001, "OB", bytes(40 * MIB))
    source = raw(tmp_path / "bomb.dcm", deflated.compress(data) + deflated.flush(), DEFLATED_EXPLICIT)
    with pytest.raises(TransformError, match="more than 8 MiB inflated"):
        here(source, DEFLATED_EXPLICIT, EXPLICIT_LITTLE, tmp_path / "out.dcm", 8 * MIB)


@pytest.mark.parametrize("beyond", range(1, 260, 37))
def test_inflating_ends_where_the_data_set_ends(beyond: int, transcoder: Transcoder, tmp_path: Path) -> None:
    """Also when the last bytes are still inside the inflater while the file is read to its end."""
    data = element(0x00091001, "OB", bytes(MIB - 12 + beyond // 2 * 2))
    deflater = zlib.compressobj(wbits=-15)
    deflated = deflater.compress(data) + deflater.flush()
    convert(transcoder, raw(tmp_path / "in.dcm", deflated, DEFLATED_EXPLICIT), EXPLICIT_LITTLE, tmp_path / "out.dcm")
    assert dataset(tmp_path / "out.dcm") == data
    with pytest.raises(TransformError, match="cut short"):
        convert(
            transcoder,
            raw(tmp_path / "in.dcm", deflated[:-1], DEFLATED_EXPLICIT),
            EXPLICIT_LITTLE,
            tmp_path / "out.dcm2",
        )


def test_the_copy_is_private_and_new(transcoder: Transcoder, tmp_path: Path) -> None:
    source = saved(tmp_path / "in.dcm", image(np.zeros((2, 2), "u1")))
    converted = convert(transcoder, source, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    assert converted.path.stat().st_mode & 0o777 == 0o600
    before = converted.path.read_bytes()
    with pytest.raises(Transient, match="File exists"):
        convert(transcoder, source, RLE, converted.path)
    assert converted.path.read_bytes() == before


# --- The worker ---


class Stuck:
    """A conversion that takes a minute: it deflates 16 GiB of nothing, which a sparse file holds."""

    def __init__(self, transcoder: Transcoder, directory: Path) -> None:
        self.transcoder, self.target = transcoder, directory / "stuck.dcm"
        self.threads = ThreadPoolExecutor(1)
        source = endless(directory / "endless.dcm")
        self.answer: Future[Converted] = self.threads.submit(
            convert_bare, transcoder, source, DEFLATED_EXPLICIT, self.target
        )
        wait_until(lambda: has_begun(self.target) or self.answer.done(), 60, "the worker has begun")

    def error(self) -> BaseException:
        error = self.answer.exception(timeout=60)
        self.threads.shutdown()
        assert error is not None
        assert not self.target.exists()
        return error


def endless(path: Path) -> Path:
    raw(path, b"")
    with path.open("r+b") as file:
        for number in range(4):
            file.seek(0, os.SEEK_END)
            file.write(pack("<HH2sHL", 0x0009, 0x1001 + number, b"OB", 0, 0xFFFFFFF0))
            file.truncate(file.tell() + 0xFFFFFFF0)
    return path


def convert_bare(transcoder: Transcoder, source: Path, target_syntax: str, target: Path) -> Converted:
    """`convert` without reading the whole source."""
    with source.open("rb") as file:
        offset = read_meta(file.read(1000))[1]
    return transcoder.convert(source, offset, EXPLICIT_LITTLE, target_syntax, target)


def has_begun(target: Path) -> bool:
    return target.exists() and target.stat().st_size > 0


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie is none either
            if any("edge.transform.worker" in word for word in child.cmdline()):
                found.append(child)
    return found


def is_dead(process: psutil.Process) -> bool:
    """Whether or not its parent has noticed."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def single() -> Iterator[Transcoder]:
    """One worker of its own."""
    transcoder = Transcoder(workers=1)
    yield transcoder
    transcoder.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return saved(tmp_path / "small.dcm", image(np.zeros((2, 2), "u1")))


def only_worker(before: set[int]) -> psutil.Process:
    (worker,) = [worker for worker in workers_of(os.getpid()) if worker.pid not in before]
    return worker


@pytest.fixture
def before() -> set[int]:
    """Workers that others have started."""
    return {worker.pid for worker in workers_of(os.getpid())}


def test_a_crash_is_a_refusal_and_the_next_has_a_new_worker(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path
) -> None:
    stuck = Stuck(single, tmp_path)
    crashed = only_worker(before)
    crashed.send_signal(signal.SIGSEGV)
    error = stuck.error()
    assert isinstance(error, TransformError)
    assert "crashed (SIGSEGV)" in str(error)
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    assert only_worker(before) != crashed


def test_a_worker_that_others_kill_is_no_fault_of_the_object_until_it_repeats(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path
) -> None:
    """The kernel kills it first when memory ends: the object is tried again, a bounded number of times."""
    errors = []
    for _ in range(3):
        stuck = Stuck(single, tmp_path)
        only_worker(before).kill()
        errors.append(stuck.error())
    assert [type(error).__bases__[0] for error in errors] == [Transient, Transient, Permanent]
    assert "3 converters were killed" in str(errors[2])
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "out.dcm")


def test_a_worker_that_died_between_objects_is_not_noticed(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path
) -> None:
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "first.dcm")
    worker = only_worker(before)
    worker.kill()
    wait_until(lambda: is_dead(worker), 10, "the worker has died")
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "second.dcm")


def test_a_conversion_has_a_time_limit(before: set[int], small: Path, tmp_path: Path) -> None:
    transcoder = Transcoder(workers=1, timeout=1.0)
    try:
        error = Stuck(transcoder, tmp_path).error()
        assert isinstance(error, TransformError)
        assert "longer than 1 s" in str(error)
        transcoder._workers[0]._timeout = 100.0
        convert(transcoder, small, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    finally:
        transcoder.close()
    assert {worker.pid for worker in workers_of(os.getpid())} <= before


def test_memory_has_a_limit(tmp_path: Path, small: Path) -> None:
    transcoder = Transcoder(workers=1, memory=1024 * MIB, largest=8192 * MIB)
    ds = image(np.zeros((2, 2), "u2"), Rows=30_000, Columns=40_000)
    ds.PixelData = b""
    source = saved(tmp_path / "in.dcm", ds)
    blob = source.read_bytes()[:-4] + pack("<L", 2_400_000_000)
    source.write_bytes(blob)
    os.truncate(source, len(blob) + 2_400_000_000)  # a hole: it takes no room
    try:
        with pytest.raises(TransformError, match="more memory than"):
            transcoder.convert(source, read_meta(blob)[1], EXPLICIT_LITTLE, RLE, tmp_path / "out.dcm")
        assert not (tmp_path / "out.dcm").exists()
        convert(transcoder, small, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    finally:
        transcoder.close()


def test_close_ends_what_goes_on(before: set[int], single: Transcoder, small: Path, tmp_path: Path) -> None:
    stuck = Stuck(single, tmp_path)
    single.close()
    assert isinstance(stuck.error(), Transient)
    assert {worker.pid for worker in workers_of(os.getpid())} <= before
    with pytest.raises(Transient):
        convert(single, small, IMPLICIT_LITTLE, tmp_path / "out.dcm")


def test_a_worker_without_work_leaves(before: set[int], small: Path, tmp_path: Path) -> None:
    transcoder = Transcoder(workers=1, idle=0.2)
    convert(transcoder, small, IMPLICIT_LITTLE, tmp_path / "first.dcm")
    convert(transcoder, small, IMPLICIT_LITTLE, tmp_path / "second.dcm")  # the first one's timer goes off, and waits on
    wait_until(lambda: {worker.pid for worker in workers_of(os.getpid())} <= before, 10, "the worker has left")
    convert(transcoder, small, IMPLICIT_LITTLE, tmp_path / "third.dcm")
    transcoder.close()


def test_a_worker_for_whose_end_there_is_no_thread_leaves_behind_its_answer(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", refuse)
        convert(single, small, IMPLICIT_LITTLE, tmp_path / "first.dcm")
    assert {worker.pid for worker in workers_of(os.getpid())} <= before
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "second.dcm")


def test_signals_for_the_daemon_do_not_end_the_worker(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path
) -> None:
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "first.dcm")
    worker = only_worker(before)
    assert os.getsid(worker.pid) != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        worker.send_signal(number)
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "second.dcm")
    assert only_worker(before) == worker


def test_a_worker_outlives_the_thread_that_started_it(
    before: set[int], single: Transcoder, small: Path, tmp_path: Path
) -> None:
    thread = threading.Thread(target=convert, args=(single, small, IMPLICIT_LITTLE, tmp_path / "first.dcm"))
    thread.start()
    thread.join()
    worker = only_worker(before)
    convert(single, small, IMPLICIT_LITTLE, tmp_path / "second.dcm")
    assert only_worker(before) == worker


def test_nothing_outlives_a_killed_daemon(tmp_path: Path) -> None:
    """Not even a worker in the midst of a conversion."""
    source = endless(tmp_path / "endless.dcm")
    with source.open("rb") as file:
        offset = read_meta(file.read(1000))[1]
    script = (
        "import pathlib, sys; from edge.transform import Transcoder; d = pathlib.Path(sys.argv[1]);"
        f"Transcoder().convert(d / 'endless.dcm', {offset}, {EXPLICIT_LITTLE!r}, {DEFLATED_EXPLICIT!r}, d / 'out.dcm')"
    )
    daemon = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY)
    try:
        wait_until(lambda: has_begun(tmp_path / "out.dcm"), 20, "the worker has begun")
        (worker,) = workers_of(daemon.pid)
    finally:
        daemon.kill()
        daemon.wait()
    try:
        wait_until(lambda: is_dead(worker), 10, "the worker is gone")
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def test_many_threads_share_the_workers(before: set[int], small: Path, tmp_path: Path) -> None:
    transcoder = Transcoder(workers=2)
    with contextlib.closing(transcoder), ThreadPoolExecutor(8) as threads:
        targets = [tmp_path / f"{number}.dcm" for number in range(40)]
        list(threads.map(lambda target: convert(transcoder, small, IMPLICIT_LITTLE, target), targets))
        assert len({worker.pid for worker in workers_of(os.getpid())} - before) <= 2
    assert len({target.read_bytes() for target in targets}) == 1


def test_faults_of_the_disk_heal(transcoder: Transcoder, small: Path, tmp_path: Path) -> None:
    offset = read_meta(small.read_bytes())[1]
    with pytest.raises(FileNotFoundError):
        transcoder.convert(tmp_path / "absent.dcm", offset, EXPLICIT_LITTLE, IMPLICIT_LITTLE, tmp_path / "out.dcm")
    with pytest.raises(Transient):
        transcoder.convert(small, offset, EXPLICIT_LITTLE, IMPLICIT_LITTLE, tmp_path / "absent" / "out.dcm")
    with pytest.raises(StorageFull):
        _check_answer({"errno": errno.ENOSPC}, tmp_path / "out.dcm", 0)
    assert not (tmp_path / "out.dcm").exists()
