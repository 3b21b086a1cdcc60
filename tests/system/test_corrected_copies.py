"""Corrections on the way out with real peers: Orthanc gets corrected copies, a storescp the bytes as they came."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest

from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, free_port, storescu, wait_until

RULES = """
[coerce.institution]
to = ["archive"]
set = { InstitutionName = "Example Health Clinic" }
remove = ["PatientComments"]
regex = { PatientID = ["([0-9]+)", "MTF-\\\\1"] }
issuer = { PatientID = "MTF0067" }
[coerce.too-long]
when = { SeriesDescription = "odd" }
to = ["archive"]
prefix = { AccessionNumber = "a prefix that leaves no room" }
"""


class Ran(NamedTuple):
    edge: Edge
    archive: Orthanc
    raw: StoreScp
    files: list[Path]
    study: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Five slices were sent to both, and one on which a rule fails."""
    tmp_path = tmp_path_factory.mktemp("corrected")
    port = free_port()
    study = "1.2.826.0.1.3680043.8.498.77"
    with Orthanc(tmp_path / "orthanc", port) as archive, StoreScp(tmp_path / "raw") as raw:
        both = f"""
[destination.archive]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive.port}
confirm = "commitment"
[destination.raw]
ae_title = "{raw.ae_title}"
host = "127.0.0.1"
port = {raw.port}
[route.all]
to = ["archive", "raw"]
"""
        with Edge(tmp_path / "edge", both + RULES, port=port) as edge:
            patient = {"StudyInstanceUID": study, "PatientID": "0042", "PatientName": "Doe^Jane"}
            files = ct_files(tmp_path / "ct", 5, **patient, PatientComments="x")
            odd = ct_files(tmp_path / "odd", 1, **patient, SeriesDescription="odd")
            storescu([*files, *odd], edge.port)
            wait_until(lambda: archive.count() == 5 and len(raw.files()) == 6, 60, "all are where they go")
            wait_until(lambda: _confirmed(edge) == 11, 60, "both have proved it")
            yield Ran(edge, archive, raw, files, study)


def _confirmed(edge: Edge) -> int:
    return sum(each["confirmed"] for each in edge.api_status()["destinations"].values())


def at_archive(ran: Ran, path: Path) -> pydicom.Dataset:
    blob = ran.archive.file(ran.archive.instances()[sop_instance_uid(path)])
    return pydicom.dcmread(BytesIO(blob))


def test_the_archive_gets_the_corrected_values_with_the_originals_on_record(ran: Ran) -> None:
    for path in ran.files:
        got, sent = at_archive(ran, path), pydicom.dcmread(path)
        assert (got.InstitutionName, got.PatientID, got.IssuerOfPatientID) == (
            "Example Health Clinic",
            "MTF-0042",
            "MTF0067",
        )
        assert "PatientComments" not in got
        (record,) = got.OriginalAttributesSequence
        (before,) = record.ModifiedAttributesSequence
        assert (before.PatientID, before.PatientComments) == ("0042", "x")
        assert (record.ModifyingSystem, record.ReasonForTheAttributeModification) == ("Edge 0067", "COERCE")
        assert got.PixelData == sent.PixelData


def test_what_has_no_rule_gets_the_bytes_as_they_came(ran: Ran) -> None:
    sent = {sop_instance_uid(path): dataset(path) for path in ran.files}
    got = {sop_instance_uid(path): dataset(path) for path in ran.raw.files()}
    assert {uid: got[uid] for uid in sent} == sent


def test_the_proof_names_both_checksums_and_the_rule(ran: Ran) -> None:
    found = json.loads(ran.edge.ask("prove", "--json", ran.study).stdout)
    changed = [each for each in found["events"] if each["event"] == "changed"]
    digests = {}
    for each in changed:
        assert (each["destination"], each["payload"]["rules"]) == ("archive", ["institution"])
        digests |= dict(zip(each["payload"]["sha256_received"], each["payload"]["sha256_sent"], strict=True))
    assert set(digests) == {hashlib.sha256(dataset(path)).hexdigest() for path in ran.files}
    sent = {hashlib.sha256(dataset(ran.archive.file(each))).hexdigest() for each in ran.archive.instances().values()}
    assert len(digests) == 5
    assert set(digests.values()) == sent


def test_an_object_on_which_a_rule_fails_is_held_with_the_name_of_the_rule(ran: Ran) -> None:
    (held,) = json.loads(ran.edge.ask("queue", "list", "--json").stdout)
    assert (held["destination"], held["state"], held["reason_code"]) == ("archive", "held", "rule-failed")
    assert "rule too-long cannot be applied to it" in held["reason"]


def test_explain_shows_before_and_after_for_each_destination(ran: Ran) -> None:
    done = ran.edge.ask("route", "explain", str(ran.files[0]))
    assert done.returncode == 0, done.stderr
    assert "the copy for archive would be changed by institution" in done.stdout
    assert 'PatientID: "0042" -> "MTF-0042"' in done.stdout
    assert 'PatientComments: "x" -> absent' in done.stdout
    (found,) = json.loads(ran.edge.ask("route", "explain", "--json", str(ran.files[0])).stdout)
    (copy,) = found["copies"]
    assert {each["keyword"] for each in copy["changes"]} == {
        *("InstitutionName", "PatientID", "IssuerOfPatientID", "PatientComments", "OriginalAttributesSequence")
    }


def test_a_study_is_shown_as_received_and_as_sent(ran: Ran) -> None:
    shown = ran.edge.ask("studies", "show", ran.study)
    assert "Sent with other bytes than received" in shown.stdout
    assert "institution" in shown.stdout
    found = json.loads(ran.edge.ask("studies", "show", ran.study, "--json").stdout)
    sent = [each["sent_as"] for each in found["instances"] if each["sent_as"]]
    assert len(sent) == 5
    assert {each["rules"][0] for (each,) in sent} == {"institution"}


def test_the_originals_of_corrected_copies_are_warned_about(ran: Ran) -> None:
    assert "retention.corrected" not in ran.edge.ask("check").stdout  # one destination gets them as they came
    config = ran.edge.config_dir / "10-test.toml"
    text = config.read_text()
    try:
        config.write_text(text.replace('to = ["archive", "raw"]', 'to = ["archive"]'))
        assert "retention.corrected = true" in ran.edge.ask("check").stdout
    finally:
        config.write_text(text)
