"""A device's mask: which bytes become black, in every layout of native pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from edge.config.masks import Area, Mask
from edge.config.tables import keys
from edge.config.values import Unfit
from edge.model import InstanceHeader, Origin
from edge.transform.confidentiality import Deidentification
from edge.transform.corrections import NO_FACTS, NO_RULES
from edge.transform.image import Image
from edge.transform.masking import black_runs, compile_masks, image_of, mask_fault
from edge.transform.preview import CopyPreview, PreviewSteps, preview_copy
from edge.transform.syntaxes import EXPLICIT_LITTLE, JPEG_LOSSLESS
from tests.unit.test_corrections import encoded


def image(photometric: str = "MONOCHROME2", allocated: int = 8, **more: int) -> Image:
    samples = 1 if photometric.startswith("MONO") else 3
    given = {"samples": samples, "rows": 3, "columns": 4, "allocated": allocated, "stored": allocated, **more}
    return Image(photometric, **given)


def masked(found: Image, *areas: Area, order: str = "<") -> bytes:
    data = bytearray(b"\x55" * found.size)
    for at, black in black_runs(found, areas, order):
        data[at : at + len(black)] = black
    assert len(data) == found.size
    return bytes(data)


@pytest.mark.parametrize(
    ("found", "black"),
    [
        (image(), b"\0"),
        (image("MONOCHROME1"), b"\xff"),
        (image(allocated=16), b"\0\0"),
        (image("MONOCHROME1", 16, stored=12), b"\xff\x0f"),
        (image(allocated=16, stored=12, signed=1), b"\x00\xf8"),
        (image("MONOCHROME1", 16, stored=12, signed=1), b"\xff\x07"),
        (image("RGB"), b"\0\0\0"),
        (image("YBR_FULL"), b"\0\x80\x80"),
    ],
)
def test_the_black_of_each_kind_of_image(found: Image, black: bytes) -> None:
    other = b"\x55" * len(black)
    rows = other * 4 + (other + black * 2 + other) * 2
    assert masked(found, Area(1, 1, 2, 9)) == rows


def test_every_frame_and_plane_is_masked_and_nothing_else() -> None:
    two = masked(image(frames=2), Area(0, 0, 1, 1), Area(3, 2, 1, 1))
    assert [at for at, each in enumerate(two) if each == 0] == [0, 11, 12, 23]
    planes = masked(image("YBR_FULL", planar=1), Area(3, 0, 5, 1))
    assert [(at, each) for at, each in enumerate(planes) if each != 0x55] == [(3, 0), (15, 0x80), (27, 0x80)]
    assert masked(image("MONOCHROME1", 16, stored=12), Area(0, 0, 1, 1), order=">")[:2] == b"\x0f\xff"


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (image(), ""),
        (image("PALETTE COLOR", samples=1), "PALETTE COLOR of 8 bits"),
        (image("YBR_FULL_422"), "YBR_FULL_422 of 8 bits"),
        (image(allocated=1), "MONOCHROME2 of 1 bits"),
        (Image(), "an image without Photometric Interpretation of 0 bits"),
        (image(columns=1), "a mask beside the image"),
    ],
)
def test_what_cannot_be_masked_says_why(found: Image, fault: str) -> None:
    assert mask_fault(found, [Area(2, 0, 2, 2)]) == fault


def test_a_mask_is_of_the_device_that_it_describes() -> None:
    made = Mask("us", (Area(0, 0, 9, 9),), when={"ManufacturerModelName": "Echo*"}, to=("teaching",))
    (compiled,) = compile_masks({"us": made}, "teaching")
    assert compile_masks({"us": made}, "research") == ()
    assert compiled.keywords == {"ManufacturerModelName"}
    for model, fits in (("Echo 5", True), ("Other", False)):
        header = InstanceHeader("", "", "", Origin("US1", "EDGE", "", 0.0), {"ManufacturerModelName": (model,)})
        assert compiled.fits(header) is fits


@pytest.mark.parametrize("value", [[[0, 0, 0, 5]], [[0, 0, 5]], [[-1, 0, 5, 5]], [[0, 0, True, 5]], ["x"]])
def test_areas_that_are_none(value: Any) -> None:
    with pytest.raises(Unfit):
        keys(Mask)["areas"].read(value)


def test_an_image_is_read_from_its_header() -> None:
    said = {"PhotometricInterpretation": ("RGB",), "SamplesPerPixel": ("3",), "Rows": ("3",), "Columns": ("4",)}
    found = image_of({**said, "BitsAllocated": ("8",), "BitsStored": ("8",)})
    assert found == image("RGB")


def preview(tmp_path: Path, syntax: str = EXPLICIT_LITTLE, photometric: str = "MONOCHROME2") -> CopyPreview:
    """What the dry run says of an ultrasound image of a device that has a mask."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.1", "1.2.2", "1.2.3", "T1"
    ds.Modality, ds.Manufacturer, ds.PhotometricInterpretation = "US", "Example", photometric
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored = 4, 4, 1, 8, 8
    data = encoded(ds)
    (tmp_path / "us").write_bytes(data)
    areas = keys(Mask)["areas"].read([[0, 0, 4, 1]])
    masks = compile_masks({"echo": Mask("echo", areas, {"Manufacturer": "Example"})}, "research")
    steps = PreviewSteps("research", NO_RULES, NO_FACTS, "Edge", Deidentification("T17", b"k" * 32), masks)
    header = InstanceHeader("1.2", "1.2.1", syntax, Origin("US1", "EDGE", "10.0.0.1", 0.0))
    with (tmp_path / "us").open("rb") as file:
        return preview_copy(file.fileno(), 0, len(data), header, steps)


def test_the_dry_run_names_the_mask_that_applies(tmp_path: Path) -> None:
    found = preview(tmp_path)
    assert (found.rules, found.fault) == (("deidentify T17", "mask echo"), "")
    assert ("BurnedInAnnotation", None, "NO") in [(each.keyword, each.before, each.after) for each in found.changes]


def test_the_dry_run_says_why_a_mask_cannot_be_applied(tmp_path: Path) -> None:
    found = preview(tmp_path, photometric="PALETTE COLOR")
    assert found.rules == ("deidentify T17",)
    assert "mask echo cannot be applied: PALETTE COLOR of 8 bits" in found.fault
    assert "without loss" in preview(tmp_path, syntax=JPEG_LOSSLESS).fault
