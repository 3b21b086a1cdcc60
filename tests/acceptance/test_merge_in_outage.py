"""The day of a merge during an outage: what waited for the archive goes there under the patient of today."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from tests.support.hl7 import MllpClient, merge, update
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import Edge, Orthanc, free_port, storescu, wait_until
from tests.support.querying import final_status, find, run_dcmtk

CONFIG = """
[hl7]
port = {hl7}
[feed.his]
hosts = ["127.0.0.1"]
authority = "MTF0067"
[destination.archive]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive}
confirm = "commitment"
[route.all]
to = ["archive"]
[modality.viewer]
ae_title = "VIEWER"
hosts = ["127.0.0.1"]
services = ["echo", "query", "retrieve"]
[query]
"""
WAITING, LATER = 300, 20


@pytest.mark.slow
def test_three_hundred_images_arrive_under_the_patient_of_today(tmp_path: Path) -> None:
    port, hl7, archive_port = free_port(), free_port(), free_port()
    config = CONFIG.format(hl7=hl7, archive=archive_port)
    with Edge(tmp_path / "edge", config, port=port) as edge, MllpClient(hl7) as client:
        for number, patient in enumerate("ABC"):
            assert client.ask(update(f"before{number}", f"PAT-{patient}", f"OLD^{patient}"))[0].code == "AA"
        cached = ct_files(tmp_path / "ct", WAITING, 8192, PatientID="PAT-A", PatientName="OLD^A", PatientSex="F")
        storescu(cached, edge.port)
        messages = [update("a08", "PAT-A", "NEW^A"), merge("a40-1", "PAT-A", "PAT-B"), merge("a40-2", "PAT-B", "PAT-C")]
        for message in messages:
            assert client.ask(message)[0].code == "AA"
        late = ct_files(tmp_path / "late", LATER, 8192, PatientID="PAT-A", PatientName="OLD^A", PatientSex="F")
        storescu(late, edge.port)
        edge.settle()
        _check_what_a_viewer_sees(edge, tmp_path, cached[0])
        with Orthanc(tmp_path / "orthanc", port, archive_port) as archive:
            total = WAITING + LATER
            wait_until(
                lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == total, 100, "all are proved"
            )
            assert archive.count() == total
            assert {each["MainDicomTags"]["PatientID"] for each in archive.get("/patients?expand")} == {"PAT-C"}
            there = archive.instances()
            for path in (*cached, *late):
                _check(archive.file(there[sop_instance_uid(path)]), path)
        _check_custody(edge, [*cached, *late])
        assert json.loads(edge.cli("studies", "outdated", "--json").stdout) == []
        assert client.ask(update("after", "PAT-C", "MARRIED^C"))[0].code == "AA"
        edge.settle()
        outdated = json.loads(edge.cli("studies", "outdated", "--json").stdout)
        assert sorted(each["images"] for each in outdated) == [LATER, WAITING]
        assert {(each["destination"], "name" in each["differs_in"]) for each in outdated} == {("archive", True)}


def _check_what_a_viewer_sees(edge: Edge, tmp_path: Path, image: Path) -> None:
    """While the line is cut: the cache answers and gives the patient of today, by each number."""
    for number in ("PAT-A", "PAT-B", "PAT-C"):
        found, _ = find(tmp_path / number, edge.port, "STUDY", f"PatientID={number}", "PatientName", "StudyInstanceUID")
        assert len(found) == 2
        assert {(each.PatientID, str(each.PatientName)) for each in found} == {("PAT-C", "TESTPATIENT^MERGED")}
        listed = json.loads(edge.cli("studies", "list", "--search", number, "--json").stdout)
        assert len(listed) == 2
    uid = f"SOPInstanceUID={sop_instance_uid(image)}"
    above = pydicom.dcmread(image, stop_before_pixels=True)
    keys = [f"StudyInstanceUID={above.StudyInstanceUID}", f"SeriesInstanceUID={above.SeriesInstanceUID}", uid]
    (tmp_path / "got").mkdir()
    given = ["-d", "-S", "-od", str(tmp_path / "got"), "-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(edge.port)]
    done = run_dcmtk(
        "getscu", *given, "-k", "QueryRetrieveLevel=IMAGE", *(word for key in keys for word in ("-k", key))
    )
    assert final_status(done.stdout + done.stderr) == "0000"
    (got,) = (tmp_path / "got").iterdir()
    _check(got.read_bytes(), image)


def _check(got: bytes, path: Path) -> None:
    after, before = pydicom.dcmread(BytesIO(got)), pydicom.dcmread(path)
    assert (after.PatientID, after.PatientName, after.IssuerOfPatientID) == ("PAT-C", "TESTPATIENT^MERGED", "MTF0067")
    (record,) = after.OriginalAttributesSequence
    was = record.ModifiedAttributesSequence[0]
    assert (was.PatientID, was.PatientName, record.ReasonForTheAttributeModification) == ("PAT-A", "OLD^A", "CORRECT")
    assert after.PixelData == before.PixelData
    assert after.StudyInstanceUID == before.StudyInstanceUID


def _check_custody(edge: Edge, cached: list[Path]) -> None:
    """What is kept is what came, and the proof is whole."""
    study = str(pydicom.dcmread(cached[0]).StudyInstanceUID)
    done = edge.cli("prove", "--json", study)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["proved"]
    assert found["chain"]["whole"]
    rules = {tuple(each["payload"]["rules"]) for each in found["events"] if each["event"] == "changed"}
    assert rules == {("demographics",)}
    kept = {hashlib.sha256(dataset(path)).hexdigest() for path in (edge.data_dir / "spool").rglob("*.dcm")}
    assert {hashlib.sha256(dataset(path)).hexdigest() for path in cached} <= kept
    assert edge.cli("verify").returncode == 0
