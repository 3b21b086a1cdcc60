"""Through to the archive: merged answers, what a dead archive costs, and retrieval of what only the archive has."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.objects import ct_files, new_uid
from tests.support.peers import Edge, Orthanc, free_port, storescu, wait_until
from tests.support.querying import DcmqrScp, final_status, find, run_dcmtk
from tests.support.web_archive import web_orthanc
from tests.system.test_query import ledger_of

VIEWER = """
[query]
through = ["archive"]
complete_as = "EDGEALL"
[modality.ct1]
ae_title = "CT1"
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "store", "query", "retrieve"]
[destination.archive]
{where}
[route.everything]
to = ["archive"]
"""
ARCHIVES = ["Orthanc", "dcmqrscp", "dcmqrscp without C-GET", "Orthanc without C-GET", "Orthanc by DICOMweb"]


def start_archive(name: str, folder: Path, edge_port: int) -> Orthanc | DcmqrScp:
    """One that gives back by C-GET, by C-MOVE alone, or by WADO-RS."""
    if name == "Orthanc by DICOMweb":
        return web_orthanc(folder)
    if name.startswith("Orthanc"):
        edge = {"AET": "EDGE", "Host": "127.0.0.1", "Port": edge_port, "AllowGet": name == "Orthanc"}
        return Orthanc(folder, edge_port, DicomModalities={"edge": edge})
    options = ["--disable-get"] if name.endswith("without C-GET") else []
    return DcmqrScp(folder, f"edge = (EDGE, 127.0.0.1, {edge_port})", options=options)


def where_of(name: str, archive: Orthanc | DcmqrScp) -> str:
    """Its [destination], without the table's name."""
    if isinstance(archive, Orthanc) and name == "Orthanc by DICOMweb":
        return f'kind = "dicomweb"\nurl = "{archive.url("/dicom-web")}"'
    return f'ae_title = "{archive.ae_title}"\nhost = "127.0.0.1"\nport = {archive.port}'


@pytest.fixture(scope="module", params=ARCHIVES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """An archive with a prior that the gateway has never seen, and a study of today that both have."""
    folder, edge_port = tmp_path_factory.mktemp("site"), free_port()
    with start_archive(request.param, folder / "archive", edge_port) as archive:
        prior, today = new_uid(), new_uid()
        whose = {"PatientID": "P1", "PatientName": "Doe^Jane"}
        paths = ct_files(folder / "prior", 20, 20_000, StudyInstanceUID=prior, StudyDate="20200101", **whose)
        storescu(paths, archive.port, called=archive.ae_title)
        text = VIEWER.format(where=where_of(request.param, archive))
        with Edge(folder / "edge", text, unknown="refuse", port=edge_port) as edge:
            storescu(ct_files(folder / "today", 3, 20_000, StudyInstanceUID=today, **whose), edge.port)
            yield edge, archive, prior, today


def ask(site: tuple, folder: Path, *keys: str, called: str = "EDGE") -> tuple[dict[str, object], str]:
    edge, _, _, _ = site
    answers, said = find(folder, edge.port, "STUDY", "StudyInstanceUID", *keys, called=called)
    return {each.StudyInstanceUID: each for each in answers}, said


def is_web(edge: Edge) -> bool:
    return "dicomweb" in (edge.config_dir / "10-test.toml").read_text()


def test_answers_are_merged_by_uid_and_say_where_a_study_is(site: tuple, tmp_path: Path) -> None:
    edge, archive, prior, today = site
    wait_until(lambda: edge.cli("queue", "list", "--json").stdout.strip() in ("[]", ""), 30, "deliveries", interval=0.5)
    answers, said = ask(site, tmp_path / "out", "PatientID=P1", "NumberOfStudyRelatedInstances", "StudyDate")
    assert answers.keys() == {prior, today}, said
    assert final_status(said) == "0000"
    assert answers[today].InstanceAvailability == "ONLINE"
    assert answers[today].NumberOfStudyRelatedInstances == 3
    assert answers[prior].InstanceAvailability == "NEARLINE"
    assert answers[prior].RetrieveAETitle == (archive.ae_title if not is_web(edge) else "EDGE")
    assert answers[prior].StudyDate == "20200101"


def test_a_study_of_the_archive_is_fetched_once_cached_and_passed_on(site: tuple, tmp_path: Path) -> None:
    edge, _, prior, _ = site
    done: list[str] = []

    def get(number: int) -> None:
        got = tmp_path / f"got{number}"
        got.mkdir()
        where = ["-od", str(got), "-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(edge.port)]
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={prior}"]
        ran = run_dcmtk("getscu", "-d", "-S", *where, *keys)
        done.append(final_status(ran.stdout + ran.stderr))

    threads = [threading.Thread(target=get, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["0000", "0000"]
    assert [len([*(tmp_path / f"got{number}").iterdir()]) for number in range(2)] == [20, 20]
    assert len(ledger_of(edge, "fetched")) == 20, "each was fetched once"
    answers, _ = ask(site, tmp_path / "out", f"StudyInstanceUID={prior}", "NumberOfStudyRelatedInstances")
    assert (answers[prior].InstanceAvailability, answers[prior].NumberOfStudyRelatedInstances) == ("ONLINE", 20)


def test_a_dead_archive_costs_little_and_is_said(site: tuple, tmp_path: Path) -> None:
    _, archive, _, today = site
    os.kill(archive.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answers, said = ask(site, tmp_path / "out", "PatientID=P1")
        first = time.monotonic() - began
        assert today in answers
        assert final_status(said) == "0000"
        assert first < 6.0
        began = time.monotonic()
        _, said = ask(site, tmp_path / "out", "PatientID=P1", called="EDGEALL")
        assert final_status(said) == "c001"
        assert "no answer of archive" in said
        assert time.monotonic() - began < 2.0, "it is known to be away"
    finally:
        os.kill(archive.pid, signal.SIGCONT)
