"""WADO-RS and QIDO-RS after a merge: every way shows the patient of today, and the kept object stays as it came."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom

from tests.support.hl7 import MllpClient, merge, update
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.web_door import SharedEdge


def test_a_merged_patients_images_are_given_away_as_today(edge: SharedEdge, tmp_path: Path) -> None:
    with MllpClient(edge.hl7_port) as client:
        (path,) = ct_files(tmp_path / "ct", 1, 8192, PatientID="PAT-A", PatientName="OLD^A", PatientSex="F")
        assert edge.stow(path.read_bytes()).status == 200
        edge.settle()
        ds = pydicom.dcmread(path)
        address = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        before = edge.web("GET", address, headers={"Accept": "application/dicom"})
        assert dataset(before.body) == dataset(path)
        for message in (update("1", "PAT-A", "OLD^A"), merge("2", "PAT-A", "PAT-B")):
            assert client.ask(message)[0].code == "AA"
        edge.settle()
        after = edge.web("GET", address, headers={"Accept": "application/dicom"})
        got = pydicom.dcmread(BytesIO(after.body))
        assert (got.PatientID, got.PatientName) == ("PAT-B", "TESTPATIENT^MERGED")
        assert got.PixelData == ds.PixelData
        assert after.headers["etag"] != before.headers["etag"]
        whole = edge.web("GET", f"/studies/{ds.StudyInstanceUID}", headers={"Accept": "multipart/related"})
        assert b"TESTPATIENT^MERGED" in whole.body
        (found,) = edge.web("GET", f"{address}/metadata", headers={"Accept": "application/dicom+json"}).json()
        assert (found["00100020"]["Value"], found["00100010"]["Value"]) == (
            ["PAT-B"],
            [{"Alphabetic": "TESTPATIENT^MERGED"}],
        )
        for number in ("PAT-A", "PAT-B"):
            (study,) = edge.web("GET", f"/studies?PatientID={number}").json()
            assert study["00100020"]["Value"] == ["PAT-B"]
        spool = (edge.data_dir / "spool").rglob("*.dcm")
        (kept,) = (each for each in spool if sop_instance_uid(each) == ds.SOPInstanceUID)
        assert dataset(kept) == dataset(path)
