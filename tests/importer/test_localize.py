"""An imported object with the local identity: what differs changes and is kept, everything else is as it was."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from edge.dicom import part10
from edge.errors import EdgeError, TransformError
from edge.importer.localize import ImportDecision, NeedsUtf8, localize, to_utf8
from edge.importer.whose import LocalIdentity, check_patient, list_differences
from edge.store.imports import DiscPatient
from edge.transform.elements import DataSet
from tests.support.objects import ct_files
from tests.support.objects import part10 as write_part10
from tests.support.peers import requires

HERE = LocalIdentity("L77", "CLINIC", "Local^Lea", "19710203", "F", "A4711")
DECISION = ImportDecision("0067", "import 3", 1_800_000_000.0)
#: dcmconv's names of transfer syntaxes.
DCMCONV = {ImplicitVRLittleEndian: "+ti", ExplicitVRBigEndian: "+tb"}
CHANGED = {
    "PatientName": "Local^Lea",
    "PatientID": "L77",
    "IssuerOfPatientID": "CLINIC",
    "PatientBirthDate": "19710203",
    "PatientSex": "F",
    "AccessionNumber": "A4711",
}


def open_data_set(blob: bytes) -> DataSet:
    meta = part10.parse_meta(blob[: part10.MAX_META])
    return DataSet(BytesIO(blob), meta.dataset_offset, len(blob), meta.kind.transfer_syntax_uid)


def localized(blob: bytes, identity: LocalIdentity = HERE) -> bytes | None:
    """The changed object as a Part 10 file; None: nothing differs."""
    meta = part10.parse_meta(blob[: part10.MAX_META])
    parts = localize(open_data_set(blob), identity, DECISION)
    return None if parts is None else blob[: meta.dataset_offset] + b"".join(parts)


def read(blob: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(blob))


def sample(tmp_path: Path, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> bytes:
    [path] = ct_files(tmp_path / "made", 1, 2048, **attributes)
    ds = pydicom.dcmread(path)
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.PatientName = "1.2.3", "Nested^Nora"
    ds.ReferencedImageSequence = [item, item]
    ds.add_new(0x00091001, "UN", b"private\0")
    if syntax == JPEGLSLossless:
        ds.compress(syntax)
        return write_part10(ds, syntax)
    if syntax in DCMCONV:
        (tmp_path / "plain.dcm").write_bytes(write_part10(ds))
        dcmconv = [requires("dcmconv"), DCMCONV[syntax], tmp_path / "plain.dcm", tmp_path / "converted.dcm"]
        subprocess.run(dcmconv, check=True)
        return (tmp_path / "converted.dcm").read_bytes()
    return write_part10(ds)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless]
)
def test_only_the_identity_changes_and_the_originals_are_kept(tmp_path: Path, syntax: str) -> None:
    blob = sample(tmp_path, syntax)
    before, after = read(blob), read(localized(blob) or b"")
    for keyword, value in CHANGED.items():
        assert after[keyword].value == value, keyword
    [kept] = after.OriginalAttributesSequence
    [values] = kept.ModifiedAttributesSequence
    assert values.PatientName == "Test^Patient"
    assert (values.PatientID, values.AccessionNumber, values.PatientSex) == ("P0001", "A0001", "O")
    assert values.IssuerOfPatientID == ""  # there was none
    assert kept.AttributeModificationDateTime == "20270115080000+0000"
    assert (kept.ModifyingSystem, kept.SourceOfPreviousValues) == ("Edge 0067", "import 3")
    assert kept.ReasonForTheAttributeModification == "COERCE"
    for keyword in (*CHANGED, "OriginalAttributesSequence"):
        for ds in (before, after):
            if keyword in ds:
                del ds[keyword]
    assert before == after
    assert [each.tag for each in after] == sorted(each.tag for each in after)


def test_it_is_the_same_again_and_does_nothing_twice(tmp_path: Path) -> None:
    blob = sample(tmp_path)
    once = localized(blob)
    assert once == localized(blob)
    assert localized(once or b"") is None


def test_an_object_that_agrees_goes_through_untouched(tmp_path: Path) -> None:
    blob = sample(tmp_path)
    assert localized(blob, LocalIdentity("P0001", "", "Test^Patient", "19700101", "O")) is None
    assert localized(blob, LocalIdentity("P0001")) is None  # what nobody knows changes nothing


@pytest.mark.parametrize("undefined", [False, True])
def test_one_more_item_behind_the_originals_of_others(tmp_path: Path, undefined: bool) -> None:
    other = Dataset()
    other.ModifyingSystem, other.ReasonForTheAttributeModification = "OTHER", "CORRECT"
    ds = read(sample(tmp_path))
    ds.OriginalAttributesSequence = [other]
    ds["OriginalAttributesSequence"].is_undefined_length = undefined
    after = read(localized(write_part10(ds)) or b"")
    assert [each.ModifyingSystem for each in after.OriginalAttributesSequence] == ["OTHER", "Edge 0067"]


@pytest.mark.parametrize(
    ("charset", "name", "stays"),
    [("ISO_IR 100", "Müller^Jürgen", True), ("ISO_IR 192", "山田^太郎", True), ("ISO_IR 100", "山田^太郎", False)],
)
def test_the_character_set_stays_where_it_can(tmp_path: Path, charset: str, name: str, stays: bool) -> None:
    blob = sample(tmp_path, SpecificCharacterSet=charset, StudyDescription="Schädel", PatientComments="Größe")
    identity = LocalIdentity("L77", patient_name=name)
    if not stays:
        with pytest.raises(NeedsUtf8):
            localized(blob, identity)
        offset = part10.parse_meta(blob[: part10.MAX_META]).dataset_offset
        out = BytesIO()
        to_utf8(open_data_set(blob), out)
        blob = blob[:offset] + out.getvalue()
    after = read(localized(blob, identity) or b"")
    assert after.SpecificCharacterSet == (charset if stays else "ISO_IR 192")
    assert str(after.PatientName) == name
    assert (after.StudyDescription, after.PatientComments) == ("Schädel", "Größe")
    assert after.ReferencedImageSequence[1].PatientName == "Nested^Nora"
    assert after.PixelData == read(blob).PixelData


def test_without_a_character_set_it_becomes_utf_8(tmp_path: Path) -> None:
    ds = read(sample(tmp_path))
    del ds.SpecificCharacterSet
    blob = write_part10(ds)
    with pytest.raises(NeedsUtf8):
        localized(blob, LocalIdentity("L77", patient_name="Müller"))
    out = BytesIO()
    to_utf8(open_data_set(blob), out)
    changed = DataSet(BytesIO(out.getvalue()), 0, out.tell(), ExplicitVRLittleEndian)
    parts = localize(changed, LocalIdentity("L77", patient_name="Müller"), DECISION)
    assert parts is not None
    after = pydicom.dcmread(BytesIO(b"".join(parts)), force=True)
    assert after.SpecificCharacterSet == "ISO_IR 192"
    assert str(after.PatientName) == "Müller"


def test_a_data_set_that_lies_is_refused(tmp_path: Path) -> None:
    blob = sample(tmp_path)
    with pytest.raises(TransformError):
        localized(blob[:-10])


# -- whose it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disc", "differs"),
    [
        (DiscPatient("X", "", "LOCAL^LEA", "19710203", "F"), []),
        (DiscPatient("X", "", "Lokal^Lea", "19710203", "F"), ["name"]),
        (DiscPatient("X", "", "Local^Lea", "19710302", "F"), ["birth date"]),
        (DiscPatient("X", "", "", "", ""), []),
        (DiscPatient("X", "", "Local^Lea^^^", "19710203", "m"), ["sex"]),
    ],
)
def test_in_what_two_patients_differ(disc: DiscPatient, differs: list[str]) -> None:
    assert list_differences(disc, HERE) == differs
    if set(differs) - {"name"}:
        with pytest.raises(EdgeError, match="give a reason"):
            check_patient(disc, HERE, "  ")
    assert check_patient(disc, HERE, "seen the passport") == differs
