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
from edge.dicom.header import read_from
from edge.errors import EdgeError, TransformError
from edge.importer.localize import ImportDecision, localize
from edge.importer.whose import LocalIdentity, check_patient, list_differences
from edge.store.imports import DiscPatient
from edge.transform.copying import PlainDataSet
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


def localized(blob: bytes, identity: LocalIdentity = HERE) -> bytes | None:
    """The changed object as a Part 10 file; None: nothing differs."""
    meta = part10.parse_meta(blob[: part10.MAX_META])
    data = blob[meta.dataset_offset :]
    pieces = localize(
        PlainDataSet(read_from(data), len(data)), meta.context_key.transfer_syntax_uid, identity, DECISION
    )
    return None if pieces is None else blob[: meta.dataset_offset] + b"".join(pieces)


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
    assert kept.AttributeModificationDateTime == "20270115080000.000000+0000"
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
    [
        ("ISO_IR 100", "Müller^Jürgen", True),
        ("ISO_IR 192", "山田^太郎", True),
        (["", "ISO 2022 IR 87"], "山田^太郎", True),
        ("ISO_IR 100", "山田^太郎", False),
        ("", "Müller", False),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_character_set_stays_where_it_can(
    tmp_path: Path, charset: str | list[str], name: str, stays: bool, syntax: str
) -> None:
    texts = {"StudyDescription": "Schädel", "PatientComments": "Größe"} if isinstance(charset, str) and charset else {}
    blob = sample(tmp_path, syntax, SpecificCharacterSet=charset, **texts)
    after = read(localized(blob, LocalIdentity("L77", patient_name=name)) or b"")
    assert after.SpecificCharacterSet == (charset if stays else "ISO_IR 192")
    assert str(after.PatientName) == name
    for keyword, text in texts.items():
        assert after[keyword].value == text
    assert after.ReferencedImageSequence[1].PatientName == "Nested^Nora"
    assert after.PixelData == read(blob).PixelData


def test_a_data_set_that_lies_is_refused(tmp_path: Path) -> None:
    """Cut short, or by a length inside a sequence; also where nothing is to be changed."""
    blob = sample(tmp_path)
    at = blob.index(b"Nested^Nora") - 2
    for wrong in (blob[:-10], blob[:at] + b"\xfe\x7f" + blob[at + 2 :]):
        for identity in (HERE, LocalIdentity("P0001")):
            with pytest.raises(TransformError):
                localized(wrong, identity)


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


def test_what_describes_the_foreign_issuer_goes_with_the_foreign_number(tmp_path: Path) -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    blob = sample(tmp_path, IssuerOfPatientIDQualifiersSequence=[issuer])
    after = read(localized(blob) or b"")
    assert "IssuerOfPatientIDQualifiersSequence" not in after
    was = after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert was.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3"
