"""A study on a medium has the patient of today, and is otherwise what was received."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from edge.storage.file_set import export_folder, file_set_uid, read_todays_patients, zip_parts
from edge.store import queries
from edge.store.queries import Instance
from tests.store.test_identity_checks import ALICE, Clinic
from tests.support.hl7 import merge, update
from tests.support.objects import new_uid

FEED = """
[hl7]
port = 2575
[feed.his]
hosts = ["127.0.0.1"]
authority = "MTF0067"
"""


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "hl7.toml").write_text(FEED)
    with Clinic(tmp_path) as made:
        yield made


def export(clinic: Clinic, study: str) -> tuple[list[Instance], Path, zipfile.ZipFile]:
    """The study in a folder, and in a ZIP archive."""
    folder, uid = clinic.tmp_path / "usb", file_set_uid(study)
    with clinic.db.reading() as conn:
        found = queries.instances_of(conn, int(clinic.one("SELECT id FROM study WHERE study_uid = ?", study)))
        today = read_todays_patients(conn, clinic.config, found)
    root = clinic.data_dir / "spool"
    export_folder(root, found, folder, uid, lambda _done, _of: None, today)
    return found, folder, zipfile.ZipFile(io.BytesIO(b"".join(zip_parts(root, found, uid, today))))


def test_a_merged_patient_is_on_the_medium_under_the_number_of_today(clinic: Clinic) -> None:
    study = new_uid()
    clinic.send(study, ALICE)
    clinic.hear(update("M1", "T1", "TEST^ALICE"), update("M2", "T9", "MARRIED^ALICE"), merge("M3", "T1", "T9"))
    (instance,), folder, archive = export(clinic, study)
    (name,) = [each for each in archive.namelist() if each != "DICOMDIR"]
    assert (folder / name).read_bytes() == archive.read(name)
    before = pydicom.dcmread(clinic.data_dir / "spool" / instance.path)
    after = pydicom.dcmread(folder / name)
    assert (before.PatientID, after.PatientID, str(after.PatientName)) == ("T1", "T9", "TESTPATIENT^MERGED")
    assert after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientID == "T1"
    assert after.PixelData == before.PixelData
    listed = pydicom.dcmread(folder / "DICOMDIR").DirectoryRecordSequence
    assert [each.PatientID for each in listed if each.DirectoryRecordType == "PATIENT"] == ["T9"]
    assert archive.read("DICOMDIR") == (folder / "DICOMDIR").read_bytes()


def test_what_nobody_knows_better_is_on_the_medium_as_it_was_received(clinic: Clinic) -> None:
    study = new_uid()
    clinic.send(study, ALICE)
    (instance,), folder, _ = export(clinic, study)
    (exported,) = [each for each in folder.rglob("I*") if each.is_file()]
    assert exported.read_bytes() == (clinic.data_dir / "spool" / instance.path).read_bytes()
