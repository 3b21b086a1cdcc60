"""Objects for the tests: made CT slices, the real files, and a look into Part 10 files that is not Edge's own."""

from __future__ import annotations

import csv
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import PYDICOM_ROOT_UID, UID, CTImageStorage, ExplicitVRLittleEndian

REAL_DATA = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data" / "dicom"

#: A real slice, which pydicom brings along.
REAL_CT = Path(str(get_testdata_file("CT_small.dcm")))
#: DICOM attributes by keyword, to set in made objects.
Attributes = dict[str, Any]


def ct_files(directory: Path, count: int, size: int = 512 * 1024, **attributes: Any) -> list[Path]:
    """Valid CT slices (PS3.3 A.3) of one new series, about `size` bytes each. Made once, then only the UIDs differ."""
    directory.mkdir(parents=True, exist_ok=True)
    uids = [new_uid() for _ in range(count + 1)]
    template = _ct(uids[0], size, attributes)
    marker = uids[0].encode()
    paths = [directory / f"{number:06}.dcm" for number in range(count)]
    for path, uid in zip(paths, uids[1:], strict=True):
        path.write_bytes(template.replace(marker, uid.encode()))
    return paths


def new_uid() -> str:
    """A fresh UID, always 60 characters long."""
    digits = 60 - len(PYDICOM_ROOT_UID)
    return PYDICOM_ROOT_UID + str(random.SystemRandom().randrange(10 ** (digits - 1), 10**digits))


def _ct(uid: str, size: int, attributes: Attributes) -> bytes:
    rows = max(1, size // 1024)
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = new_uid(), new_uid(), new_uid()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260102", "101500", "A0001", "1"
    ds.Modality, ds.Manufacturer, ds.StationName = "CT", "Edge", "CT1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Patient", "P0001", "19700101", "O"
    ds.ReferringPhysicianName, ds.PositionReferenceIndicator, ds.PatientPosition = "", "", "HFS"
    ds.KVP, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "120", 1, 1, 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["0", "0", "0"], ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleIntercept, ds.RescaleSlope = ["0.5", "0.5"], "1", "-1024", "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", rows, 512
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.add_new(0x7FE00010, "OW", random.Random(size).randbytes(rows * 1024))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are wrong on purpose
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return part10(ds)


def object_named(path: Path, name: bytes, charset: str = "", number: int = 1) -> Path:
    """A Part 10 file with these bytes as Patient's Name, whatever they mean in the character set that it declares."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
    if charset:
        ds.SpecificCharacterSet = charset
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.4.{number}", f"1.2.5.{number}"
    ds.PatientID, ds.Modality = f"P{number}", "CT"
    ds.PatientName = "@" * len(name)
    path.write_bytes(part10(ds).replace(b"@" * len(name), name))
    return path


def part10(ds: pydicom.Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """A data set as a Part 10 file (PS3.10 section 7)."""
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax_uid)
    blob = BytesIO()
    ds.save_as(blob, enforce_file_format=True)
    return blob.getvalue()


def read_meta(blob: bytes) -> tuple[dict[int, bytes], int]:
    """File Meta Information (PS3.10 section 7.1) by element number, and where the data set begins."""
    assert blob[128:132] == b"DICM", "not a Part 10 file"
    meta: dict[int, bytes] = {}
    at = 132
    while blob[at : at + 2] == b"\x02\x00":
        long = blob[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"UT", b"SQ")
        start = at + (12 if long else 8)
        length = int.from_bytes(blob[at + 8 : at + 12] if long else blob[at + 6 : at + 8], "little")
        meta[int.from_bytes(blob[at + 2 : at + 4], "little")] = blob[start : start + length]
        at = start + length
    return meta, at


def dataset(source: Path | bytes) -> bytes:
    """The bytes of the data set alone: what must arrive as it was sent."""
    blob = source if isinstance(source, bytes) else source.read_bytes()
    return blob[read_meta(blob)[1] :]


def sop_instance_uid(path: Path) -> str:
    """From the File Meta Information."""
    with path.open("rb") as file:
        return read_meta(file.read(16_384))[0][0x0003].rstrip(b"\0 ").decode()


@dataclass(frozen=True)
class RealFile:
    """One file of the collection of real objects, and its row of the manifest."""

    path: Path
    row: dict[str, str]

    def __str__(self) -> str:
        return self.row["file"]


def real_files() -> list[RealFile]:
    """The real objects, from a dozen sources, that lie beside the repository. Where they do not, a loud skip."""
    manifest = REAL_DATA / "MANIFEST.csv"
    if not manifest.exists():
        pytest.skip(f"NOT TESTED HERE: no real DICOM files: {manifest} is absent")
    with manifest.open(encoding="utf-8", newline="") as lines:
        return [RealFile(REAL_DATA / row["file"], row) for row in csv.DictReader(lines)]


_KIND = (
    *("SOPClassUID", "SpecificCharacterSet", "PhotometricInterpretation", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_SIZE = ("NumberOfFrames", "Rows", "Columns")


def files_of_each_kind() -> list[RealFile]:
    """Of the readable ones one of each source, transfer syntax, class, character set and form of pixels.

    It is the smallest one, but an image has 32 rows if there is such a one.
    """
    found: dict[tuple[str, ...], tuple[bool, int, RealFile]] = {}
    for file in real_files():
        if file.row["readable"] == "yes":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are odd
                ds = pydicom.dcmread(file.path, stop_before_pixels=True, specific_tags=[*_KIND, *_SIZE])
                is_multi_frame = str(ds.get("NumberOfFrames") or 1) != "1"
                values = [str(ds.get(keyword)) for keyword in _KIND]
                kind = (file.row["source"], file.row["transfer_syntax"], str(is_multi_frame), *values)
                this = (min(ds.get("Rows", 32), ds.get("Columns", 32)) < 32, int(file.row["size"]), file)
            found[kind] = min(found.get(kind, this), this, key=lambda each: each[:2])
    return [file for _, _, file in found.values()]


def rejection_note(path: Path, rejected: Sequence[Path], code: str = "113001", uid: str = "") -> Path:
    """A Key Object Selection Document that rejects these instances (IHE, Imaging Object Change Management)."""
    study = pydicom.dcmread(rejected[0], stop_before_pixels=True)
    note = pydicom.Dataset()
    note.SOPClassUID, note.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.59", uid or new_uid()
    note.StudyInstanceUID, note.SeriesInstanceUID, note.Modality = study.StudyInstanceUID, new_uid(), "KO"
    note.PatientID, note.PatientName = study.PatientID, study.PatientName
    note.PatientBirthDate, note.PatientSex = study.get("PatientBirthDate", ""), study.get("PatientSex", "")
    title = pydicom.Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = code, "DCM", "Rejected"
    note.ConceptNameCodeSequence = [title]
    named = []
    for each in rejected:
        found = pydicom.dcmread(each, stop_before_pixels=True)
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = found.SOPClassUID, found.SOPInstanceUID
        named.append(reference)
    series, evidence = pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = study.SeriesInstanceUID, named
    evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = study.StudyInstanceUID, [series]
    note.CurrentRequestedProcedureEvidenceSequence = [evidence]
    path.write_bytes(part10(note))
    return path


def as_pdf(path: Path, pdf: bytes = b"%PDF-1.4\n%%EOF\n") -> Path:
    """The object with a PDF document in place of its image (PS3.3 section A.45.1)."""
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.104.1")
    del ds.PixelData
    ds.EncapsulatedDocument, ds.MIMETypeOfEncapsulatedDocument = pdf + b"\0" * (len(pdf) & 1), "application/pdf"
    ds.EncapsulatedDocumentLength = len(pdf)
    ds.save_as(path)
    return path
