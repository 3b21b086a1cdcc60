"""Through to archives: merged answers, what a dead one costs, and retrieval of what only an archive has.

One gateway has all kinds of archives behind it: what gives back by C-GET, by C-MOVE alone, and by WADO-RS.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from tests.support.objects import ct_files, new_uid, rejection_note, sop_instance_uid
from tests.support.peers import Edge, Orthanc, free_port, storescu, wait_until
from tests.support.querying import DcmqrScp, final_status, find, run_dcmtk
from tests.support.web_archive import web_orthanc
from tests.system.test_query import ledger_of

VIEWER = """
[query]
through = [{names}]
complete_as = "EDGEALL"
[iocm]
senders = ["ct1"]
[modality.ct1]
ae_title = "CT1"
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "store", "query", "retrieve"]
[route.everything]
to = ["orthanc"]
"""
BY_PORT = '[destination.{name}]\nae_title = "{title}"\nhost = "127.0.0.1"\nport = {port}\n'
BY_WEB = '[destination.{name}]\nkind = "dicomweb"\nurl = "{url}"\n'
ARCHIVES = ["orthanc", "dcmqrscp", "dcmqrscp-move", "orthanc-move", "orthanc-web"]
WHOSE = {"PatientID": "P1", "PatientName": "Doe^Jane"}


@dataclass
class Site:
    """Archives that each have a prior which the gateway has never seen, and a study of today, sent to `orthanc`."""

    edge: Edge
    archives: dict[str, Orthanc | DcmqrScp]
    priors: dict[str, str]
    today: str
    images: list[Path]  # of today

    def ask(self, folder: Path, *keys: str, called: str = "EDGE") -> tuple[dict[str, object], str]:
        answers, said = find(folder, self.edge.port, "STUDY", "StudyInstanceUID", *keys, called=called)
        return {each.StudyInstanceUID: each for each in answers}, said

    def ask_all(self, folder: Path, *keys: str) -> dict[str, object]:
        """Ask until each archive has answered in time: a busy machine may make one late, which is said."""

        def ask() -> dict[str, object] | None:
            answers, said = self.ask(folder, *keys, called="EDGEALL")
            return answers if final_status(said) == "0000" else None

        return wait_until(ask, 60, "the answers of all archives") or {}


def start_archive(name: str, folder: Path, edge_port: int) -> Orthanc | DcmqrScp:
    if name == "orthanc-web":
        return web_orthanc(folder)
    if name.startswith("orthanc"):
        edge = {"AET": "EDGE", "Host": "127.0.0.1", "Port": edge_port, "AllowGet": name == "orthanc"}
        made = Orthanc(folder, edge_port, DicomModalities={"edge": edge}, DicomAet=name.upper())
        made.ae_title = name.upper()
        return made
    options = ["--disable-get"] if name.endswith("move") else []
    return DcmqrScp(folder, f"edge = (EDGE, 127.0.0.1, {edge_port})", options=options, ae_title=name.upper())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port, archives, priors = tmp_path_factory.mktemp("site"), free_port(), {}, {}
    text, today = VIEWER.format(names=", ".join(f'"{name}"' for name in ARCHIVES)), new_uid()
    with ExitStack() as stack:
        for number, name in enumerate(ARCHIVES):
            archive = archives[name] = stack.enter_context(start_archive(name, folder / name, port))
            priors[name] = new_uid()
            files = ct_files(
                folder / f"p{number}", 20, 20_000, StudyInstanceUID=priors[name], StudyDate="20200101", **WHOSE
            )
            storescu(files, archive.port, called=archive.ae_title)
            if isinstance(archive, Orthanc) and name == "orthanc-web":
                text += BY_WEB.format(name=name, url=archive.url("/dicom-web"))
            else:
                text += BY_PORT.format(name=name, title=archive.ae_title, port=archive.port)
        edge = stack.enter_context(Edge(folder / "edge", text, unknown="refuse", port=port))
        images = ct_files(folder / "today", 3, 20_000, StudyInstanceUID=today, **WHOSE)
        storescu(images, edge.port)
        wait_until(lambda: archives["orthanc"].count() == 23, 60, "today's study is at its archive")
        yield Site(edge, archives, priors, today, images)


@pytest.mark.slow
def test_answers_are_merged_by_uid_and_say_where_a_study_is(site: Site, tmp_path: Path) -> None:
    answers = site.ask_all(tmp_path / "out", "PatientID=P1", "NumberOfStudyRelatedInstances", "StudyDate")
    assert answers.keys() == {*site.priors.values(), site.today}
    today = answers.pop(site.today)
    assert (today.InstanceAvailability, today.NumberOfStudyRelatedInstances) == ("ONLINE", 3)
    for name, archive in site.archives.items():
        prior = answers[site.priors[name]]
        assert (prior.InstanceAvailability, prior.StudyDate) == ("NEARLINE", "20200101")
        assert prior.RetrieveAETitle == (archive.ae_title if name != "orthanc-web" else "EDGEALL")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_study_of_the_archive_is_fetched_once_cached_and_passed_on(site: Site, tmp_path: Path, name: str) -> None:
    prior, before, done = site.priors[name], len(ledger_of(site.edge, "fetched")), list[bool]()

    def get(number: int) -> None:
        got = tmp_path / f"got{number}"
        got.mkdir()
        where = ["-od", str(got), "-aet", "VIEWER", "-aec", "EDGEALL", "127.0.0.1", str(site.edge.port)]
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={prior}"]

        def is_whole() -> bool:
            ran = run_dcmtk("getscu", "-d", "-S", *where, *keys)
            return final_status(ran.stdout + ran.stderr) == "0000"

        done.append(wait_until(is_whole, 60, "all archives have answered in time"))

    threads = [threading.Thread(target=get, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]
    assert [len([*(tmp_path / f"got{number}").iterdir()]) for number in range(2)] == [20, 20]
    assert len(ledger_of(site.edge, "fetched")) == before + 20, "each was fetched once"
    answers, _ = site.ask(tmp_path / "out", f"StudyInstanceUID={prior}", "NumberOfStudyRelatedInstances")
    assert (answers[prior].InstanceAvailability, answers[prior].NumberOfStudyRelatedInstances) == ("ONLINE", 20)


@pytest.mark.slow
def test_a_dead_archive_is_said_and_the_others_answer(site: Site, tmp_path: Path) -> None:
    """What its silence costs, once in a while: tests/query/test_archives.py."""
    site.archives["dcmqrscp"].pause()
    try:
        answers, said = site.ask(tmp_path / "out", "PatientID=P1")
        assert answers.keys() == {*site.priors.values(), site.today}
        assert final_status(said) == "0000"
        _, said = site.ask(tmp_path / "out", "PatientID=P1", called="EDGEALL")
        assert final_status(said) == "c001"
        assert "no answer of dcmqrscp" in said
    finally:
        site.archives["dcmqrscp"].resume()


@pytest.mark.slow
def test_a_note_reaches_the_archive_and_hides_what_that_one_still_has(site: Site, tmp_path: Path) -> None:
    """Orthanc stores a rejection note and heeds none."""
    storescu([rejection_note(tmp_path / "note.dcm", site.images[:2])], site.edge.port)
    archive = site.archives["orthanc"]
    assert isinstance(archive, Orthanc)
    wait_until(lambda: archive.count() == 24, 60, "the note is at the archive")
    series = str(pydicom.dcmread(site.images[0]).SeriesInstanceUID)
    keys = [f"StudyInstanceUID={site.today}", f"SeriesInstanceUID={series}"]
    answers, _ = find(tmp_path / "out", site.edge.port, "IMAGE", *keys, "SOPInstanceUID")
    left = sop_instance_uid(site.images[2])
    assert [each.SOPInstanceUID for each in answers] == [left]
    got = tmp_path / "got"
    got.mkdir()
    where = ["-od", str(got), "-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(site.edge.port)]
    wanted = [word for key in ("QueryRetrieveLevel=SERIES", *keys) for word in ("-k", key)]
    ran = run_dcmtk("getscu", "-d", "-S", *where, *wanted)
    assert final_status(ran.stdout + ran.stderr) == "0000"
    assert [pydicom.dcmread(path).SOPInstanceUID for path in got.iterdir()] == [left]
