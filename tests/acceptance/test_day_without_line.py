"""A site's day without its line: everything that the equipment asks is answered here, and arrives when it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.dicom import items
from tests.support.committing import CT_CLASS, DcmjsModality
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, free_port, routes_to, storescu, wait_until
from tests.support.performing import CREATED, Ris, ended, send_step
from tests.support.querying import final_status, run_dcmtk
from tests.support.querying import find as find_studies
from tests.support.worklists import ITEMS, WorklistScp, find

CONFIG = """
[modality.ct1]
ae_title = "CT1"
hosts = ["127.0.0.1"]
port = {scanner}
services = ["echo", "store", "commit", "worklist", "mpps"]
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "query", "retrieve"]
[modality.station]
ae_title = "STATION"
host = "127.0.0.1"
port = {station}
[query]
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {worklist}
[destination.steps]
ae_title = "RIS"
host = "127.0.0.1"
port = {steps}
[worklist]
from = "ris"
refresh = "2s"
[mpps]
to = ["steps"]
ian = ["steps"]
[prefetch.ct]
when = {{ Modality = "CT" }}
from = "orthanc"
share = 1.0
"""
STUDY = "2.25.101"  # of the worklist's first item, of patient P1


@pytest.mark.slow
def test_a_day_without_the_line(tmp_path: Path) -> None:
    """Worklist served, images taken and committed, studies retrieved, steps performed; then all of it goes."""
    worklist_port, steps_port, edge_port, scanner_port = (free_port() for _ in range(4))
    archive = Orthanc(tmp_path / "archive", edge_port)
    ris = WorklistScp(tmp_path / "ris", worklist_port)
    ris.put(ITEMS[:1])
    text = routes_to(archive, confirm="commitment")
    station = StoreScp(tmp_path / "station", "STATION")
    text += CONFIG.format(scanner=scanner_port, worklist=worklist_port, steps=steps_port, station=station.port)
    jane = {"PatientID": "P1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101"}
    prior = ct_files(tmp_path / "prior", 2, 20_000, StudyDate="20250601", **jane)
    today = ct_files(tmp_path / "today", 3, 20_000, StudyInstanceUID=STUDY, AccessionNumber="A1", **jane)
    uids = [sop_instance_uid(each) for each in today]
    with Edge(tmp_path / "edge", text, unknown="refuse", port=edge_port) as edge:
        # In the morning the line is up.
        with archive, ris:
            storescu(prior, archive.port, called="ORTHANC")
            wait_until(lambda: edge.api_status()["instances"]["cached"] == 2, 60, "the prior is here", interval=0.3)
        # Now archive and RIS are gone, for the rest of the day.
        (item,) = find(edge.port, tmp_path / "answers", "AccessionNumber=A1", "PatientName", "StudyInstanceUID")
        assert f"[{STUDY}]" in item
        scheduled = items.item({0x0020000D: STUDY, 0x00400009: "SPS1", 0x00080050: "A1"})
        assert send_step(edge.port, "1.2.7", {**CREATED, 0x00400270: [scheduled]}).status == 0
        storescu(today, edge.port)
        arguments = ["--wait", "60", "127.0.0.1", str(edge.port), "CT1", "EDGE", str(scanner_port)]
        with DcmjsModality(tmp_path / "ct1", [*arguments, *(f"{CT_CLASS}/{uid}" for uid in uids)]) as scanner:
            (report,) = wait_until(lambda: scanner.events("report"), 60, "the report")
            assert (report["type"], set(report["committed"])) == (1, set(uids))
        assert send_step(edge.port, "1.2.7", ended(uids), is_set=True).status == 0
        edge.settle()
        assert find(edge.port, tmp_path / "answers", "AccessionNumber=A1") == [], "its step is over"
        assert retrieved(edge, tmp_path / "viewer", "PatientID=P1") == 5, "today's images and the prior"
        (found,), _ = find_studies(tmp_path / "found", edge.port, "STUDY", "StudyDate=20260102", "StudyInstanceUID")
        assert (found.StudyInstanceUID, found.InstanceAvailability) == (STUDY, "ONLINE")
        with station:
            assert retrieved(edge, tmp_path / "mover", "PatientID=P1", "-aem", "STATION") == 0
            assert station.uids() == {sop_instance_uid(each) for each in (*prior, *today)}
        edge.kill()
        edge.start()
        assert edge.api_status()["mpps"]["open"] == 2
        # In the evening the line is back.
        with archive, Ris(tmp_path / "steps", steps_port) as steps:
            wait_until(
                lambda: edge.api_status()["destinations"]["orthanc"]["confirmed"] == 3, 120, "proof", interval=0.5
            )
            assert set(uids) <= set(archive.instances())
            wait_until(lambda: len(steps.messages()) == 3, 60, "the RIS has all")
            assert steps.of("1.2.7") == [("N-CREATE", "IN PROGRESS", "0000"), ("N-SET", "COMPLETED", "0000")]
            (series,) = steps.messages()[2]["data"]["ReferencedSeriesSequence"]
            assert {each["ReferencedSOPInstanceUID"] for each in series["ReferencedSOPSequence"]} == set(uids)
            assert archive.count() == 5, "the prior is not sent back"
        assert edge.cli("prove", STUDY).returncode == 0


def confirmed(edge: Edge) -> int:
    return int(edge.api_status()["destinations"]["orthanc"]["confirmed"])


def retrieved(edge: Edge, folder: Path, key: str, *to: str) -> int:
    """How many images a viewer gets by C-GET, or has sent elsewhere by C-MOVE."""
    folder.mkdir()
    where = ["-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(edge.port), "-k", "QueryRetrieveLevel=PATIENT"]
    words = ["movescu", "-d", "-P", *to] if to else ["getscu", "-d", "-P", "-od", str(folder)]
    done = run_dcmtk(*words, *where, "-k", key)
    assert final_status(done.stdout + done.stderr) == "0000"
    return len([*folder.iterdir()])
