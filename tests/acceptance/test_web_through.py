"""WADO-RS through to an archive: what only that has is fetched once, as cached, and passed on as it comes."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from tests.support.objects import ct_files, new_uid, sop_instance_uid
from tests.support.peers import Orthanc, storescu, wait_until
from tests.support.querying import DcmqrScp
from tests.support.web_archive import Received, Said, WebArchive, web_orthanc
from tests.support.web_door import Answer, WebEdge

CONFIG = """
[query]
through = ["archive"]
[destination.archive]
{way}
[route.everything]
to = ["archive"]
"""
DIMSE = 'ae_title = "{title}"\nhost = "127.0.0.1"\nport = {port}'
WEB = 'kind = "dicomweb"\nurl = "http://127.0.0.1:{port}/dicom-web"'


@dataclass
class Site:
    edge: WebEdge
    archive: Orthanc | DcmqrScp
    studies: list[str]  # that only the archive has, ten instances each
    today: str  # two of its instances are here, and two more at the archive alone

    def get(self, path: str, accept: str = "") -> Answer:
        return self.edge.web("GET", path, {"Accept": accept} if accept else {}, client="looker")

    def get_all(self, path: str, accept: str = "") -> Answer:
        """Get until the archive has answered in time: a busy machine may make it late, which is said."""

        def get() -> Answer | None:
            answer = self.get(path, accept)
            return None if answer.status == 503 or "warning" in answer.headers else answer

        return wait_until(get, 90, "the archive's answer", interval=1.0)  # type: ignore[return-value]


def start_archive(kind: str, folder: Path) -> tuple[Orthanc | DcmqrScp, str]:
    if kind == "C-GET at dcmqrscp":
        archive = DcmqrScp(folder)
        return archive, DIMSE.format(title=archive.ae_title, port=archive.port)
    orthanc = web_orthanc(folder)
    return orthanc, WEB.format(port=orthanc.http_port)


@pytest.fixture(scope="module", params=["C-GET at dcmqrscp", "WADO-RS at Orthanc"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("through")
    archive, way = start_archive(request.param, folder / "archive")
    with archive:
        studies = [new_uid() for _ in range(4)]
        for number, uid in enumerate(studies):
            storescu(
                ct_files(folder / f"s{number}", 10, 20_000, StudyInstanceUID=uid), archive.port, called=archive.ae_title
            )
        today, series = new_uid(), new_uid()
        both = ct_files(folder / "today", 4, 20_000, StudyInstanceUID=today, SeriesInstanceUID=series)
        storescu(both, archive.port, called=archive.ae_title)
        with WebEdge(folder / "edge", CONFIG.format(way=way)) as edge:
            assert edge.stow(*(path.read_bytes() for path in both[:2])).status == 200
            edge.settle()
            yield Site(edge, archive, studies, today)


def received(edge: WebEdge, study: str) -> tuple[int, int]:
    """Instances of a study in the catalog, and deliveries of them."""
    edge.settle()
    with sqlite3.connect(f"file:{edge.data_dir}/catalog.db?mode=ro", uri=True) as conn:
        return conn.execute(
            "SELECT count(DISTINCT i.id), count(d.instance_id) FROM instance i JOIN study s ON s.id = i.study_id "
            "LEFT JOIN delivery d ON d.instance_id = i.id WHERE s.study_uid = ?",
            (study,),
        ).fetchone()  # type: ignore[no-any-return]


def objects(answer: Answer) -> dict[str, pydicom.Dataset]:
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    assert answer.body.endswith(b"\r\n--" + boundary + b"--\r\n")
    bodies = (each.partition(b"\r\n\r\n")[2] for each in answer.body.split(b"\r\n--" + boundary)[1:-1])
    found = [pydicom.dcmread(io.BytesIO(body)) for body in bodies]
    return {str(each.SOPInstanceUID): each for each in found}


def test_two_who_want_one_study_have_it_fetched_once(site: Site) -> None:
    study, answers = site.studies[0], list[Answer]()
    threads = [threading.Thread(target=lambda: answers.append(site.get_all(f"/studies/{study}"))) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [(each.status, len(objects(each))) for each in answers] == [(200, 10), (200, 10)]
    assert received(site.edge, study) == (10, 0)  # cached: owed to nobody
    again = site.get_all(f"/studies/{study}")
    assert (again.status, len(objects(again)), "etag" in again.headers) == (200, 10, True)


def test_metadata_of_what_the_archive_has(site: Site) -> None:
    answer = site.get_all(f"/studies/{site.studies[1]}/metadata", "application/dicom+json")
    found = answer.json()
    assert (answer.status, len({each["00080018"]["Value"][0] for each in found})) == (200, 10)
    assert {each["00280010"]["Value"][0] for each in found} == {found[0]["00280010"]["Value"][0]}


def test_one_instance_and_its_frame_are_fetched_alone(site: Site) -> None:
    study = site.studies[2]
    listed = site.get_all(f"/studies/{study}/instances").json()
    series, uid = listed[0]["0020000E"]["Value"][0], listed[0]["00080018"]["Value"][0]
    at = f"/studies/{study}/series/{series}/instances/{uid}"
    assert site.get_all(f"{at}/frames/1").status == 200
    assert site.get_all(f"{at}/rendered").status == 200
    assert received(site.edge, study) == (1, 0)
    assert site.get_all(f"/studies/{study}/thumbnail").status == 200
    assert received(site.edge, study) == (1, 0)


def test_what_is_here_is_completed_by_what_is_not(site: Site) -> None:
    answer = site.get_all(f"/studies/{site.today}")
    assert (answer.status, len(objects(answer))) == (200, 4)


def test_nobody_has_it(site: Site) -> None:
    assert site.get_all("/studies/1.2.3").status == 404


def test_an_archive_that_is_away_is_said(site: Site) -> None:
    if isinstance(site.archive, DcmqrScp):
        return  # tests/system/test_query_through.py has the outages of DIMSE
    os.kill(site.archive.pid, signal.SIGSTOP)
    try:
        answer = site.get(f"/studies/{site.today}/metadata")
        assert (answer.status, len(answer.json())) == (200, 4)
        gone = site.get(f"/studies/{site.studies[3]}")
        assert (gone.status, "archive" in gone.body.decode(), gone.headers["retry-after"]) == (503, True, "30")
        found = site.get(f"/studies?StudyInstanceUID={site.today}")
        assert (found.status, len(found.json())) == (200, 1)
        assert "archive did not answer" in found.headers["warning"]
    finally:
        os.kill(site.archive.pid, signal.SIGCONT)
    wait_until(lambda: site.get(f"/studies/{site.studies[3]}").status == 200, 90, "it is back", interval=1.0)


class NamedArchive:
    """An archive that answers QIDO-RS with all of a study, and gives the instances of `given` by WADO-RS, slowly."""

    def __init__(self) -> None:
        self.studies: dict[str, dict[str, Path]] = {}  # UID of a study -> of its instances
        self.given: dict[str, Path] = {}
        self.web = WebArchive(self._answer)

    def add(self, folder: Path, count: int) -> str:
        """A new study. Returns its UID."""
        files = {sop_instance_uid(path): path for path in ct_files(folder, count, 4096)}
        study = str(pydicom.dcmread(next(iter(files.values()))).StudyInstanceUID)
        self.studies[study] = files
        self.given |= files
        return study

    def requests_of(self, study: str) -> tuple[int, int]:
        """Searches in a study, and retrievals of its instances."""
        found = [each.path.partition("?")[0] for each in self.web.received if study in each.path]
        retrievals = sum("/instances/" in each for each in found)
        return len(found) - retrievals, retrievals

    def _answer(self, request: Received) -> Said:
        if "/instances/" not in request.path:
            found = [self._describe(path) for study, at in self.studies.items() for path in at.values()
                     if study in request.path]  # fmt: skip
            return Said(200, json.dumps(found).encode(), {"Content-Type": "application/dicom+json"})
        uid = request.path.rpartition("/")[2].partition("?")[0]
        if uid not in self.given:
            return Said(404)
        time.sleep(0.1)  # as a line does: two who ask meet
        return Said(200, self.given[uid].read_bytes(), {"Content-Type": "application/dicom"})

    def _describe(self, path: Path) -> dict[str, Any]:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        values = {
            "00080016": ds.SOPClassUID,
            "00080018": ds.SOPInstanceUID,
            "0020000D": ds.StudyInstanceUID,
            "0020000E": ds.SeriesInstanceUID,
        }
        return {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items()}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NamedArchive, WebEdge]]:
    archive = NamedArchive()
    with WebEdge(tmp_path_factory.mktemp("named"), CONFIG.format(way=WEB.format(port=archive.web.port))) as edge:
        yield archive, edge
    archive.web.close()


def test_what_does_not_come_cuts_the_answer_off(named: tuple[NamedArchive, WebEdge], tmp_path: Path) -> None:
    """An archive that names six instances and gives one: nobody may take the answer for a whole one."""
    archive, edge = named
    study = archive.add(tmp_path, 6)
    first, *others = archive.studies[study]
    for each in others:
        del archive.given[each]
    for path in (f"/studies/{study}", f"/studies/{study}/metadata"):
        with pytest.raises(http.client.IncompleteRead) as cut:
            edge.web("GET", path, client="looker")
        assert first.encode() in cut.value.partial
    assert received(edge, study) == (1, 0)


def test_each_instance_leaves_the_archive_once(named: tuple[NamedArchive, WebEdge], tmp_path: Path) -> None:
    """Three callers at the same time: two wait for what one fetches. Of what is whole nobody asks again."""
    archive, edge = named
    study = archive.add(tmp_path, 6)
    answers = list[Answer]()
    ask = lambda: answers.append(edge.web("GET", f"/studies/{study}", client="looker"))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [len(objects(each)) for each in answers] == [6, 6, 6]
    searches, retrievals = archive.requests_of(study)
    assert retrievals == 6
    series = str(pydicom.dcmread(next(iter(archive.studies[study].values()))).SeriesInstanceUID)
    for path in (f"/studies/{study}", f"/studies/{study}/metadata", f"/studies/{study}/series/{series}/metadata"):
        assert edge.web("GET", path, client="looker").status == 200
    assert archive.requests_of(study) == (searches, 6)
