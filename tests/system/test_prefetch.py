"""Earlier studies are fetched from Orthanc ahead of the appointments that wlmscpfs lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.objects import ct_files
from tests.support.peers import Edge, Orthanc, StoreScp, free_port, routes_to, storescu, wait_until
from tests.support.web_archive import web_orthanc
from tests.support.worklists import ITEMS, WorklistScp

CONFIG = """
[modality.ct1]
ae_title = "CT1"
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {ris}
[destination.orthanc]
{archive}
[worklist]
from = "ris"
refresh = "1s"
[prefetch.ct]
when = {{ Modality = "CT" }}
from = "orthanc"
priors = 2
years = 5
share = 1.0
{more}
"""
BY_PORT = 'ae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {}'
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
        storescu(files, archive.port, called="ORTHANC")


def start_archive(way: str, folder: Path, edge_port: int) -> tuple[Orthanc, str]:
    """An archive that gives back in one way alone, and its [destination]."""
    if way == "WADO-RS":
        archive = web_orthanc(folder)
        return archive, f'kind = "dicomweb"\nurl = "{archive.url("/dicom-web")}"'
    edge = {"AET": "EDGE", "Host": "127.0.0.1", "Port": edge_port, "AllowGet": way == "C-GET"}
    archive = Orthanc(folder, edge_port, DicomModalities={"edge": edge})
    return archive, BY_PORT.format(archive.port)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["C-GET", "C-MOVE", "WADO-RS"])
def test_the_newest_earlier_studies_are_here_before_the_appointment(tmp_path: Path, way: str) -> None:
    """They are cached: owed to nobody, not counted as received, not sent back. What is here is not fetched again."""
    ris_port, edge_port = free_port(), free_port()
    ris = WorklistScp(tmp_path / "ris", ris_port)
    ris.put(ITEMS)
    archive, where = start_archive(way, tmp_path / "archive", edge_port)
    with StoreScp(tmp_path / "other") as other, archive, ris:
        archived(tmp_path, archive, "20260101", "20250601", "20250101")
        archived(tmp_path, archive, "20251231", PatientName="Roe^Rick", PatientBirthDate="19500505")
        text = routes_to(other) + CONFIG.format(ris=ris_port, archive=where, more="")
        with Edge(tmp_path / "edge", text, unknown="refuse", port=edge_port) as edge:
            wait_until(lambda: len(fetched(edge)) == 2, 60, "two earlier studies", interval=0.5)
            assert sorted(each["state"] for each in listed(edge)) == ["conflict", "fetched", "fetched"]
            assert [each["fetched"] for each in fetched(edge)] == [3, 3]
            status = edge.api_status()
            assert status["instances"]["received"] == 0
            assert status["queue"]["pending"] == 0
            assert other.files() == []
            found = json.loads(edge.cli("studies", "list", "--json").stdout)
            assert len(found) == 2
            assert status["instances"]["cached"] == 6
            assert json.loads(edge.cli("studies", "list", "--json").stdout)
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
        text = CONFIG.format(ris=ris_port, archive=BY_PORT.format(port), more="").replace("share = 1.0", "share = 0.05")
        with Edge(tmp_path / "edge", text, port=edge_port) as edge:
            with archive:
                wait_until(lambda: here(edge) > 10, 60, "some objects", interval=0.2)
                edge.kill()
            edge.start()
            some = here(edge)
            assert 10 < some < 60
            with archive:
                edge.stop()
                edge.configure(CONFIG.format(ris=ris_port, archive=BY_PORT.format(port), more=""))
                edge.start()
                wait_until(lambda: len(fetched(edge)) == 1, 90, "the rest", interval=0.5)
                assert here(edge) == 60
                assert sum(each["fetched"] for each in listed(edge)) <= 60


def here(edge: Edge) -> int:
    return int(edge.api_status()["instances"]["cached"])
