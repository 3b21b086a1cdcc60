"""Documents, pictures, videos and models as DICOM objects: valid, with the order's identity, the same again."""

from __future__ import annotations

import hashlib
import subprocess
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from edge.dicom import part10
from edge.errors import TransformError
from edge.importer.recognize import FileKind, recognize
from edge.importer.whose import LocalIdentity
from edge.importer.wrap import wrap
from edge.model import Origin
from edge.store.imports import DiscPatient, ImportObject, ImportState, ImportStudy
from tests.support.peers import requires

ORDER = LocalIdentity("L77", "CLINIC", "Müller^Lea", "19710203", "F", "A4711", "1.2.3.4", "Skin", "RP1")
STUDY = ImportStudy(1, 3, "", DiscPatient(), "", "", "", "", ImportState.ASSIGNED, {}, "anna", 1.8e9, "", {})
PIXELS = np.arange(48 * 32 * 3, dtype="u1").reshape(48, 32, 3)


def picture(kind: str, pixels: Any = PIXELS, **more: Any) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind, **more)
    return out.getvalue()


def box(name: bytes, *body: bytes) -> bytes:
    data = b"".join(body)
    return pack(">L", 8 + len(data)) + name + data


def video(codec: bytes = b"avc1") -> bytes:
    """An MP4 with the boxes that say what it is: 25 frames a second, 640 x 480."""
    entry = box(codec, bytes(24), pack(">HH", 640, 480), bytes(50))
    stsd, stts = box(b"stsd", bytes(4), pack(">L", 1), entry), box(b"stts", bytes(4), pack(">LLL", 1, 50, 512))
    media = box(
        b"mdia", box(b"mdhd", bytes(12), pack(">LL", 12800, 25600), bytes(4)), box(b"minf", box(b"stbl", stsd, stts))
    )
    return box(b"ftyp", b"isomiso2") + box(b"moov", box(b"trak", media)) + box(b"mdat", bytes(5001))


def model() -> bytes:
    return b"tooth".ljust(80) + pack("<L", 2) + bytes(100)


PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n1"


def wrapped(tmp_path: Path, data: bytes, identity: LocalIdentity = ORDER, name: str = "left hand.jpg") -> bytes:
    path = tmp_path / "staged"
    path.write_bytes(data)
    with path.open("rb") as file:
        kind = recognize(file.fileno(), len(data)).kind
        digest = hashlib.sha256(data).digest()
        found = ImportObject(1, 1, 3, name, kind.value, len(data), 0.0, "", digest, "", "", "", 0, "staged", "")
        made = wrap(file, found, STUDY, identity, "0067")
        body = b"".join(made.parts)
    return part10.preamble_and_meta(made.context_key, made.sop_instance_uid, Origin("", "", "", 0.0)) + body


@pytest.mark.parametrize(
    ("data", "kind", "sop_class"),
    [
        (PDF, FileKind.PDF, "1.2.840.10008.5.1.4.1.1.104.1"),
        (model(), FileKind.STL, "1.2.840.10008.5.1.4.1.1.104.3"),
        (picture("JPEG"), FileKind.JPEG, "1.2.840.10008.5.1.4.1.1.77.1.4"),
        (picture("PNG"), FileKind.PNG, "1.2.840.10008.5.1.4.1.1.77.1.4"),
        (video(), FileKind.MP4, "1.2.840.10008.5.1.4.1.1.77.1.4.1"),
    ],
)
def test_each_kind_becomes_an_object(tmp_path: Path, data: bytes, kind: FileKind, sop_class: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        assert recognize(file.fileno(), len(data)).kind is kind
    blob = wrapped(tmp_path, data)
    ds = pydicom.dcmread(BytesIO(blob))
    assert ds.SOPClassUID == sop_class
    assert str(ds.PatientName) == "Müller^Lea"
    assert (ds.PatientID, ds.IssuerOfPatientID, ds.AccessionNumber) == ("L77", "CLINIC", "A4711")
    assert (ds.StudyInstanceUID, ds.StudyID, ds.StudyDescription) == ("1.2.3.4", "RP1", "Skin")
    assert wrapped(tmp_path, data) == blob  # and again
    other = pydicom.dcmread(BytesIO(wrapped(tmp_path, data[:-2] + b"\1\1")))
    assert other.SOPInstanceUID != ds.SOPInstanceUID
    assert other.SeriesInstanceUID == ds.SeriesInstanceUID


def test_documents_are_in_them_as_they_are(tmp_path: Path) -> None:
    for data in (PDF, model()):
        ds = pydicom.dcmread(BytesIO(wrapped(tmp_path, data)))
        assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == data
        assert ds.EncapsulatedDocumentLength == len(data)


def test_pictures_have_the_pixels_that_they_had(tmp_path: Path) -> None:
    ds = pydicom.dcmread(BytesIO(wrapped(tmp_path, picture("PNG"))))
    assert np.array_equal(ds.pixel_array, PIXELS)
    alpha = np.dstack([PIXELS, np.full((48, 32), 7, "u1")])
    for shown, given in (
        (PIXELS, alpha),
        (PIXELS[..., 0], PIXELS[..., 0]),
    ):
        assert np.array_equal(pydicom.dcmread(BytesIO(wrapped(tmp_path, picture("PNG", given)))).pixel_array, shown)
    palette = Image.fromarray(PIXELS).quantize(200)
    out = BytesIO()
    palette.save(out, "PNG", bits=8)
    ds = pydicom.dcmread(BytesIO(wrapped(tmp_path, out.getvalue())))
    assert np.array_equal(ds.pixel_array, np.asarray(palette.convert("RGB")))
    data = picture("JPEG")
    ds = pydicom.dcmread(BytesIO(wrapped(tmp_path, data)))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
    assert data in ds.PixelData
    assert ds.pixel_array.shape == (48, 32, 3)
    ds = pydicom.dcmread(BytesIO(wrapped(tmp_path, video())))
    assert (ds.NumberOfFrames, ds.Rows, ds.Columns, float(ds.FrameTime)) == (50, 480, 640, 40.0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (picture("JPEG", progressive=True), "progressive"),
        (picture("JPEG")[:30], "damaged"),
        (picture("PNG")[:-40], "cut short"),
        (video(b"hvc1"), "not H.264"),
        (video()[:-100], "damaged or cut short"),
        (box(b"ftyp", b"isomiso2") + box(b"mdat", bytes(10)), "no video"),
    ],
)
def test_what_dicom_cannot_hold_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(TransformError, match=says):
        wrapped(tmp_path, data)


@pytest.mark.parametrize("data", [PDF, model(), picture("JPEG"), picture("PNG")])
def test_dciodvfy_finds_no_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "made.dcm").write_bytes(wrapped(tmp_path, data, LocalIdentity("L77", "", "Local^Lea", "19710203", "F")))
    done = subprocess.run([requires("dciodvfy"), tmp_path / "made.dcm"], capture_output=True, text=True, check=False)
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    assert errors == []
