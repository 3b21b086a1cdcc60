"""Earlier studies are fetched from Orthanc ahead of the appointments that wlmscpfs lists."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.objects import ct_files
from tests.support.peers import Edge, Orthanc, StoreScp, free_port, routes_to, storescu, wait_until
from tests.support.web_archive import web_orthanc
from tests.support.worklists import ITEMS, WorklistScp

WORKLIST = """
[modality.ct1]
ae_title = "CT1"
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {ris}
[worklist]
from = "ris"
refresh = "1s"
"""
RULE = """
[prefetch.{name}]
when = {{ Modality = "CT" }}
from = "{archive}"
priors = 2
years = 5
share = 1.0
"""
ORTHANC = '[destination.orthanc]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {port}\n'
JANE = {"PatientID": "P1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101"}


def listed(edge: Edge) -> list[dict[str, Any]]:
    done = edge.cli("prefetch", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def fetched(edge: Edge) -> list[dict[str, Any]]:
    return [each for each in listed(edge) if each["state"] == "fetched"]


def archived(tmp_path: Path, archive: Orthanc, *dates: str, count: int = 3, **attributes: Any) -> None:
    for date in dates:
        files = ct_files(tmp_path / f"prior-{date}", count, 20_000, **(JANE | {"StudyDate": date} | attributes))
        storescu(files, archive.port, called=archive.ae_title)


def start_archive(way: str, folder: Path, edge_port: int) -> tuple[Orthanc, str]:
    """An archive that gives back in one way alone, and its [destination]."""
    if way == "wado":
        archive = web_orthanc(folder)
        return archive, f'kind = "dicomweb"\nurl = "{archive.url("/dicom-web")}"'
    edge = {"AET": "EDGE", "Host": "127.0.0.1", "Port": edge_port, "AllowGet": way == "get"}
    archive = Orthanc(folder, edge_port, DicomModalities={"edge": edge}, DicomAet=way.upper())
    archive.ae_title = way.upper()
    return archive, f'ae_title = "{archive.ae_title}"\nhost = "127.0.0.1"\nport = {archive.port}'


WAYS = ("get", "move", "wado")


@pytest.mark.slow
def test_the_newest_earlier_studies_are_here_before_the_appointment(tmp_path: Path) -> None:
    """They are cached: owed to nobody, not counted as received, not sent back. What is here is not fetched again.

    One archive gives by C-GET, one by C-MOVE alone, one by WADO-RS; each has three studies of the patient, of which two
    are wanted, and one of another patient under the same number.
    """
    ris_port, edge_port, text = free_port(), free_port(), ""
    ris = WorklistScp(tmp_path / "ris", ris_port)
    ris.put(ITEMS)
    with ExitStack() as stack:
        other = stack.enter_context(StoreScp(tmp_path / "other"))
        for number, way in enumerate(WAYS):
            archive, where = start_archive(way, tmp_path / way, edge_port)
            stack.enter_context(archive)
            archived(tmp_path / f"of-{way}", archive, f"2026010{number + 1}", "20250601", "20250101")
            archived(tmp_path / f"of-{way}", archive, "20251231", PatientName="Roe^Rick", PatientBirthDate="19500505")
            text += f"[destination.{way}]\n{where}\n" + RULE.format(name=way, archive=way)
        stack.enter_context(ris)
        text = routes_to(other) + WORKLIST.format(ris=ris_port) + text
        edge = stack.enter_context(Edge(tmp_path / "edge", text, unknown="refuse", port=edge_port))
        wait_until(lambda: here(edge) == 18, 60, "two earlier studies of each", interval=0.2)
        wait_until(lambda: len(fetched(edge)) == 6, 60, "that is on record", interval=0.5)
        found = listed(edge)
        assert sorted(each["state"] for each in found) == ["conflict"] * 3 + ["fetched"] * 6
        assert {each["fetched"] for each in found if each["state"] == "fetched"} == {3}
        status = edge.api_status()
        assert (status["instances"]["received"], status["queue"]["pending"], other.files()) == (0, 0, [])
        assert len(json.loads(edge.cli("studies", "list", "--json").stdout)) == 6
        assert "2026-01-02 10:15" in edge.cli("prefetch", "list").stdout
        ris.clear()
        wait_until(lambda: edge.api_status()["worklist"]["items"] == 0, 30, "the appointment is gone")


@pytest.mark.slow
def test_an_outage_and_a_kill_resume_at_the_instance(tmp_path: Path) -> None:
    ris_port, edge_port, port = free_port(), free_port(), free_port()
    ris = WorklistScp(tmp_path / "ris", ris_port)
    ris.put(ITEMS)
    archive = Orthanc(tmp_path / "archive", edge_port, port)
    with ris:
        with archive:
            archived(tmp_path, archive, "20260101", count=60)
        text = WORKLIST.format(ris=ris_port) + ORTHANC.format(port=port)
        text += RULE.format(name="ct", archive="orthanc")
        with Edge(tmp_path / "edge", text.replace("share = 1.0", "share = 0.05"), port=edge_port) as edge:
            with archive:
                wait_until(lambda: here(edge) > 10, 60, "some objects", interval=0.2)
                edge.kill()
            edge.start()
            some = here(edge)
            assert 10 < some < 60
            with archive:
                edge.stop()
                edge.configure(text)
                edge.start()
                wait_until(lambda: len(fetched(edge)) == 1, 90, "the rest", interval=0.5)
                assert here(edge) == 60
                assert sum(each["fetched"] for each in listed(edge)) <= 60


def here(edge: Edge) -> int:
    return int(edge.api_status()["instances"]["cached"])
