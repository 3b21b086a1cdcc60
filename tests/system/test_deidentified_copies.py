"""Copies without identity at a real archive: nothing names the patient, and proof is asked for under the new UIDs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from pydicom.sequence import Sequence

from tests.support.objects import ct_files, dataset, new_uid, part10, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, dcmsend, free_port, requires, storescu, wait_until
from tests.support.querying import final_status, run_dcmtk
from tests.unit.test_deidentify import canary

CANARIES = (b"canary", b"bird", b"19631122", b"0042-secret", b"1.2.826.0.1.999")

CLOCK = "1.2.826.0.1.999.6"  # of the whole study: a Synchronization Frame of Reference UID


class Ran(NamedTuple):
    edge: Edge
    teaching: Orthanc
    raw: StoreScp
    files: list[Path]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A canary report and three slices went to a teaching archive, and as they came to another."""
    tmp_path = tmp_path_factory.mktemp("deidentified")
    port = free_port()
    key = tmp_path / "project.key"
    key.touch(0o600)
    key.write_text("q8Z2mVw0sX7tB4nL1cR9yK3hJ6gF5dA0")
    with Orthanc(tmp_path / "teaching", port) as teaching, StoreScp(tmp_path / "raw") as raw:
        config = f"""
[destination.teaching]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {teaching.port}
confirm = "commitment"
deidentify = "basic"
project = "T17"
project_key = "{key}"
[destination.raw]
ae_title = "{raw.ae_title}"
host = "127.0.0.1"
port = {raw.port}
[coerce.all]
set = {{ InstitutionName = "Canary Clinic" }}
to = ["teaching"]
[mask.scanner]
when = {{ Modality = "CT", ManufacturerModelName = "Writes Text" }}
areas = [[0, 0, 100, 10], [500, 30, 4000, 4000]]
[route.all]
to = ["teaching", "raw"]
[query]
[modality.viewer]
ae_title = "VIEWER"
services = ["query", "retrieve"]
"""
        with Edge(tmp_path / "edge", config, port=port) as edge:
            report, _ = canary()
            del report.EncapsulatedDocument  # of a document a person decides
            (tmp_path / "report.dcm").write_bytes(part10(report))
            patient = {
                "PatientID": "0042-secret",
                "PatientName": "Canary^Bird",
                "StudyInstanceUID": "1.2.826.0.1.999.5",
            }
            clean = {"BurnedInAnnotation": "NO", "SynchronizationFrameOfReferenceUID": CLOCK}
            files = ct_files(tmp_path / "ct", 3, 40_000, **patient, **clean)
            files += ct_files(tmp_path / "risky", 1, 40_000, **patient)
            storescu([tmp_path / "report.dcm", *files], edge.port)
            dcmsend(_with_text(tmp_path, patient), edge.port)
            wait_until(lambda: _count(edge, "teaching", "confirmed") == 6, 60, "six are proved by the teaching archive")
            wait_until(lambda: _count(edge, "raw", "confirmed") == 7, 60, "all are at the other")
            yield Ran(edge, teaching, raw, files)


def _with_text(tmp_path: Path, patient: dict[str, str]) -> list[Path]:
    """Two images of a device with a mask: one as it is, one compressed."""
    text = {**patient, "ManufacturerModelName": "Writes Text", "BurnedInAnnotation": "YES"}
    paths = ct_files(tmp_path / "text", 2, 40_000, **text)
    packed = paths[1].with_suffix(".jls")
    subprocess.run([requires("dcmcjpls"), "+el", str(paths[1]), str(packed)], check=True)
    return [paths[0], packed]


def _count(edge: Edge, destination: str, state: str) -> int:
    return int(edge.api_status()["destinations"][destination][state])


def _at_teaching(ran: Ran) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(BytesIO(ran.teaching.file(each))) for each in ran.teaching.instances().values()]


def _held(ran: Ran) -> list[dict[str, Any]]:
    return list(json.loads(ran.edge.ask("queue", "list", "--state", "held", "--json").stdout))


def test_nothing_that_was_planted_is_on_the_wire_or_in_the_log(ran: Ran) -> None:
    for identifier in ran.teaching.instances().values():
        plain = ran.teaching.file(identifier).lower()
        assert not [each for each in CANARIES if each in plain]
    heartbeat = json.dumps(ran.edge.api_status()["destinations"]).lower().encode()
    for text in (ran.edge.log.read_bytes().lower(), ran.teaching.log.read_bytes().lower(), heartbeat):
        assert not [each for each in CANARIES if each in text]


def test_the_copies_say_what_they_are_and_belong_together(ran: Ran) -> None:
    images = _slices(ran)
    assert {each.PatientIdentityRemoved for each in images} == {"YES"}
    assert len({each.StudyInstanceUID for each in images}) == len({each.SeriesInstanceUID for each in images}) == 1
    assert len({each.PatientID for each in images}) == 1
    assert all(each.PatientID.startswith("T17-") for each in images)
    assert not any("OriginalAttributesSequence" in each for each in images)
    pixels = {pydicom.dcmread(path).PixelData for path in ran.files}
    assert {each.PixelData for each in images} <= pixels


def _slices(ran: Ran) -> list[pydicom.Dataset]:
    """The images of devices without a mask."""
    there = [each for each in _at_teaching(ran) if each.get("Modality") == "CT"]
    return [each for each in there if "113101" not in _methods(each)]


def _methods(image: pydicom.Dataset) -> list[str]:
    return [str(each.CodeValue) for each in image.DeidentificationMethodCodeSequence]


def test_what_a_device_writes_into_its_images_is_black_in_the_copies(ran: Ran) -> None:
    there = [each for each in _at_teaching(ran) if each.get("Modality") == "CT"]
    masked = [each for each in there if "113101" in _methods(each)]
    assert sorted(str(each.file_meta.TransferSyntaxUID) for each in masked) == [
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.4.80",
    ]
    for each in masked:
        assert each.BurnedInAnnotation == "NO"
        pixels = each.pixel_array
        assert not pixels[:10, :100].any()
        assert not pixels[30:, 500:].any()
        assert pixels[10:30].any(axis=1).all()
        assert pixels[:10, 100:].any(axis=1).all()
    rules = [each["payload"]["rules"] for each in _changes(ran)]
    assert ["all", "deidentify T17", "mask scanner"] in rules


def _changes(ran: Ran) -> list[dict[str, Any]]:
    found = json.loads(ran.edge.ask("prove", "--json", "1.2.826.0.1.999.5").stdout)
    return [each for each in found["events"] if each["event"] == "changed"]


def test_the_kept_objects_and_other_destinations_are_as_they_came(ran: Ran) -> None:
    got = {sop_instance_uid(path): dataset(path) for path in ran.raw.files()}
    for path in ran.files:
        assert got[sop_instance_uid(path)] == dataset(path)


def test_a_retrieval_to_a_destination_has_the_copies_of_that_destination(ran: Ran) -> None:
    """C-MOVE sends there what the route has sent: the same objects again, and nothing that names the patient."""
    before, raw = ran.teaching.instances().keys(), ran.raw.stores()
    where = ["-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(ran.edge.port), "-k", "QueryRetrieveLevel=STUDY"]
    keys = ["-k", "StudyInstanceUID=1.2.826.0.1.999.5"]
    moved = run_dcmtk("movescu", "-d", "-S", "-aem", "ORTHANC", *where, *keys)
    said = moved.stdout + moved.stderr
    assert final_status(said) == "b000", "what a person is to inspect is not moved"
    assert re.findall(r"(Completed|Failed) Suboperations *: (\d+)", said)[-2:] == [("Completed", "5"), ("Failed", "1")]
    assert ran.teaching.instances().keys() == before
    moved = run_dcmtk("movescu", "-d", "-S", "-aem", ran.raw.ae_title, *where, *keys)
    assert final_status(moved.stdout + moved.stderr) == "0000"
    assert ran.raw.stores() == raw + 6
    test_the_kept_objects_and_other_destinations_are_as_they_came(ran)


def test_what_may_name_the_patient_in_its_pixels_waits_for_a_person(ran: Ran) -> None:
    (held,) = _held(ran)
    assert (held["destination"], held["reason_code"]) == ("teaching", "may-name-patient")
    assert "Burned In Annotation is absent" in held["reason"]
    retried = ran.edge.ask("queue", "retry", "--destination", "teaching", "--reason", "again")
    assert retried.returncode in (0, 1, 2)
    assert "teaching is tried now." in retried.stdout
    assert "`edge queue release ID`" in retried.stdout
    assert len(_held(ran)) == 1  # a retry is no decision
    done = ran.edge.ask("queue", "release", str(held["id"]), "--reason", "inspected: no text in it")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: _count(ran.edge, "teaching", "confirmed") == 7, 60, "it is proved, too")
    assert not _held(ran)


def test_the_proof_of_a_study_names_the_profile(ran: Ran) -> None:
    found = json.loads(ran.edge.ask("prove", "--json", "1.2.826.0.1.999.5").stdout)
    assert found["proved"]
    rules = {tuple(each["payload"]["rules"]) for each in found["events"] if each["event"] == "changed"}
    assert rules == {("all", "deidentify T17"), ("all", "deidentify T17", "mask scanner")}


def _result(like: pydicom.Dataset, path: Path, study: str) -> str:
    """A report on a copy, as an AI service makes one: it knows the pseudonyms alone."""
    ds, reference, series, content = (pydicom.Dataset() for _ in range(4))
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.22", new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, new_uid(), "SR"
    ds.FrameOfReferenceUID = like.FrameOfReferenceUID
    ds.SynchronizationFrameOfReferenceUID = like.SynchronizationFrameOfReferenceUID
    ds.SynchronizationFrameOfReferenceUID = like.SynchronizationFrameOfReferenceUID
    ds.PatientID, ds.PatientName, ds.PatientIdentityRemoved = like.PatientID, like.PatientName, "YES"
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = like.SOPClassUID, like.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = like.SeriesInstanceUID, Sequence([reference])
    content.StudyInstanceUID, content.ReferencedSeriesSequence = study, Sequence([series])
    ds.CurrentRequestedProcedureEvidenceSequence = Sequence([content])
    path.write_bytes(part10(ds))
    return str(ds.SOPInstanceUID)


def test_a_result_gets_its_patient_back_and_goes_on_under_the_original_study(ran: Ran, tmp_path: Path) -> None:
    like = next(each for each in _slices(ran))
    uid = _result(like, tmp_path / "sr.dcm", like.StudyInstanceUID)
    before = len(ran.teaching.instances())
    storescu([tmp_path / "sr.dcm"], ran.edge.port, calling="ORTHANC")
    wait_until(lambda: uid in ran.raw.uids(), 30, "the result is at the archive")
    (path,) = [each for each in ran.raw.files() if sop_instance_uid(each) == uid]
    got = pydicom.dcmread(path)
    assert (got.StudyInstanceUID, got.PatientID, got.PatientName) == ("1.2.826.0.1.999.5", "0042-secret", "Canary^Bird")
    assert "PatientIdentityRemoved" not in got
    assert got.FrameOfReferenceUID in {pydicom.dcmread(each).FrameOfReferenceUID for each in ran.files}
    assert got.SynchronizationFrameOfReferenceUID == CLOCK != like.SynchronizationFrameOfReferenceUID
    evidence = got.CurrentRequestedProcedureEvidenceSequence[0]
    originals = {sop_instance_uid(each) for each in ran.files}
    assert evidence.StudyInstanceUID == "1.2.826.0.1.999.5"
    assert evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID in originals
    assert got.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientID == like.PatientID
    assert len(ran.teaching.instances()) == before  # it does not go back to where it came from


def test_copies_that_come_back_and_results_of_unknown_studies_go_nowhere(ran: Ran, tmp_path: Path) -> None:
    like = next(each for each in _at_teaching(ran) if each.get("Modality") == "CT")
    uids = {str(like.SOPInstanceUID), _result(like, tmp_path / "sr.dcm", "1.2.3.4.5")}
    like.save_as(tmp_path / "copy.dcm")
    storescu([tmp_path / "copy.dcm", tmp_path / "sr.dcm"], ran.edge.port, calling="ORTHANC")
    ran.edge.settle()
    held = [each for each in _held(ran) if each["reason_code"] == "unknown-study"]
    assert len(held) == 2
    assert {each["destination"] for each in held} <= {"", None, "(no route)"}
    assert not uids & ran.raw.uids()


def test_no_copy_has_a_new_error_for_dciodvfy(ran: Ran, tmp_path: Path) -> None:
    """What the table empties or replaces stays a legal object."""
    for path in ran.files[:1]:
        there = _slices(ran)[0]
        there.save_as(tmp_path / "copy.dcm")
        assert _errors(tmp_path / "copy.dcm") <= _errors(path)


def _errors(path: Path) -> set[str]:
    done = subprocess.run([requires("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def test_who_has_the_way_back_is_the_service_alone(ran: Ran) -> None:
    for path in ran.edge.data_dir.glob("catalog.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_while_others_may_read_the_key_nothing_is_sent(ran: Ran, tmp_path: Path) -> None:
    """The last test of this gateway: its key is open for a while."""
    key, before = ran.edge.directory.parent / "project.key", ran.teaching.instances().keys()
    key.chmod(0o644)
    ran.edge.reload()
    wait_until(lambda: "chmod 600" in ran.edge.log.read_text(), 30, "the gateway complains of the key")
    storescu(ct_files(tmp_path / "ct", 1, 20_000, BurnedInAnnotation="NO"), ran.edge.port)
    wait_until(lambda: _count(ran.edge, "teaching", "deferred") == 1, 30, "it waits")
    (waiting,) = json.loads(ran.edge.ask("queue", "list", "--state", "deferred", "--json").stdout)
    assert "chmod 600" in waiting["reason"]
    assert ran.teaching.instances().keys() == before
    key.chmod(0o600)
    ran.edge.reload()
    wait_until(lambda: len(ran.teaching.instances()) == len(before) + 1, 60, "it goes")
