"""A second site: it gets a copy of the last days, and an empty gateway gets its images back from there."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.objects import ct_files, dataset
from tests.support.peers import Edge, Orthanc, StoreScp, free_port, requires, storescu, wait_until
from tests.support.web_door import WebEdge

COUNT = 6


def config(archive: Orthanc, second: Orthanc | Edge, title: str, *, confirm: str = "query", more: str = "") -> str:
    return f"""
[destination.archive]
ae_title = "{archive.ae_title}"
host = "127.0.0.1"
port = {archive.port}
confirm = "{confirm}"
[destination.second-site]
ae_title = "{title}"
host = "127.0.0.1"
port = {second.port}
confirm = "query"
keep_last = "30d"
[route.everything]
to = ["archive"]
{more}
"""


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class TalkingOrthanc(Orthanc):
    """Its log has each object that is stored, also one that it has already."""

    def command(self) -> list[str]:
        return [requires("Orthanc"), "--verbose", str(self.configuration)]


def orthanc(running: ExitStack, directory: Path, edge_port: int, title: str = "ORTHANC") -> Orthanc:
    made = TalkingOrthanc(directory, edge_port, DicomAet=title, DicomAlwaysAllowGet=True)
    return running.enter_context(made)


def digests(edge: Edge) -> dict[str, str]:
    """SHA-256 of the data sets that lie in the spool."""
    edge.settle()
    found = sorted((edge.data_dir / "spool").rglob("*.dcm"))
    return {hashlib.sha256(dataset(each)).hexdigest(): each.name for each in found}


def destination(edge: Edge, name: str) -> dict[str, Any]:
    return dict(edge.api_status()["destinations"][name])


def is_proved(edge: Edge, count: int) -> bool:
    return all(destination(edge, name)["confirmed"] == count for name in ("archive", "second-site"))


def lose(edge: Edge) -> None:
    """The gateway's disk is gone; its configuration is installed again."""
    edge.stop()
    shutil.rmtree(edge.data_dir)
    edge.data_dir.mkdir()
    edge.process = None


def test_an_empty_gateway_is_restored_and_nothing_is_sent_again(tmp_path: Path, running: ExitStack) -> None:
    port = free_port()
    archive = orthanc(running, tmp_path / "archive", port)
    second = orthanc(running, tmp_path / "second", port, "SITE2")
    edge = Edge(tmp_path / "edge", config(archive, second, "SITE2"), port=port)
    running.enter_context(edge)
    for number, date in enumerate(("20261127", "")):  # a study without a date is no less wanted
        storescu(ct_files(tmp_path / f"ct{number}", COUNT // 2, 4096, StudyDate=date), edge.port)
    wait_until(lambda: is_proved(edge, COUNT), 60, "both have all")
    assert destination(edge, "second-site")["keep_last_seconds"] == 30 * 86400
    before = digests(edge)
    assert second.count() == COUNT
    lose(edge)
    sent = _stores(archive)
    assert sent == COUNT
    done = edge.cli("restore", "--from", "second-site", "--days", "20000", "--json", timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert (found["instances"], found["missing"], found["studies"]) == (COUNT, 0, 2)
    assert found["seconds"] > 0
    assert digests(edge).keys() == before.keys()
    assert found["with_origin"] == 0
    again = json.loads(edge.cli("restore", "--from", "second-site", "--json", "--days", "20000", timeout=120).stdout)
    assert (again["instances"], again["already_here"]) == (0, COUNT)
    edge.start()
    wait_until(lambda: is_proved(edge, COUNT), 60, "proof was asked for, and came")
    assert _stores(archive) == sent


def _stores(archive: Orthanc) -> int:
    text = archive.log.read_text(errors="replace")
    return text.count("New instance stored") + text.count("Already stored")


def test_what_came_before_the_second_site_is_copied_too(tmp_path: Path, running: ExitStack) -> None:
    port = free_port()
    archive = orthanc(running, tmp_path / "archive", port)
    second = orthanc(running, tmp_path / "second", port, "SITE2")
    with_copy = config(archive, second, "SITE2")
    without = with_copy.replace('keep_last = "30d"\n', "")
    edge = running.enter_context(Edge(tmp_path / "edge", without, port=port))
    storescu(ct_files(tmp_path / "ct", COUNT, 4096), edge.port)
    wait_until(lambda: destination(edge, "archive")["confirmed"] == COUNT, 60, "the archive has all")
    assert second.count() == 0
    edge.configure(with_copy)
    edge.reload()
    wait_until(lambda: second.count() == COUNT, 60, "the second site has what came before")
    wait_until(lambda: destination(edge, "second-site").get("oldest_not_there") is None, 60, "all is proved there")


def test_a_status_destination_that_cannot_be_asked_is_sent_again_and_named_and_listed_holds_come_back(
    tmp_path: Path, running: ExitStack
) -> None:
    port = free_port()
    second = orthanc(running, tmp_path / "second", port, "SITE2")
    archive = running.enter_context(StoreScp(tmp_path / "storescp"))
    text = config(archive, second, "SITE2", confirm="status")  # type: ignore[arg-type]
    edge = running.enter_context(Edge(tmp_path / "edge", text, port=port))
    storescu(ct_files(tmp_path / "ct", 2, 4096), edge.port)
    wait_until(lambda: is_proved(edge, 2), 60, "both have all")
    (study,) = json.loads(edge.cli("studies", "list", "--json").stdout)
    edge.cli("studies", "hold", study["study_uid"], "--reason", "case 17")
    listed = tmp_path / "holds.json"
    listed.write_text(edge.cli("studies", "holds", "--json").stdout)
    lose(edge)
    args = ("restore", "--from", "second-site", "--days", "20000", "--holds", str(listed), "--json")
    found = json.loads(edge.cli(*args, timeout=120).stdout)
    assert (found["sent_again"], found["holds"]) == ({"archive": 2}, 1)
    (held,) = json.loads(edge.cli("studies", "holds", "--json").stdout)
    assert held["study_uid"] == study["study_uid"]
    assert "case 17" in held["reason"]


SECOND = """
[modality.first]
ae_title = "EDGE"
hosts = ["127.0.0.1"]
services = ["echo", "store", "query", "retrieve"]
[query]
[destination.vna]
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
[route.everything]
to = ["vna"]
"""


def test_the_doors_are_open_while_a_restore_runs_and_the_ledgers_copy_tells_who_sent(
    tmp_path: Path, running: ExitStack
) -> None:
    port = free_port()
    archive = orthanc(running, tmp_path / "archive", port)
    second = orthanc(running, tmp_path / "second", port, "SITE2")
    edge = running.enter_context(Edge(tmp_path / "edge", config(archive, second, "SITE2"), port=port))
    storescu(ct_files(tmp_path / "ct", COUNT, 4096), edge.port)
    wait_until(lambda: is_proved(edge, COUNT), 60, "both have all")
    before = _origins(edge)
    (study,) = json.loads(edge.cli("studies", "list", "--json").stdout)
    edge.cli("studies", "hold", study["study_uid"], "--reason", "case 17")
    edge.settle()
    wait_until(lambda: _has_copied_all(edge), 30, "the ledger's copy has all")
    shutil.copytree(edge.data_dir / "journal", tmp_path / "ledger", ignore=shutil.ignore_patterns("*.seg*"))
    lose(edge)
    archive.delete(next(iter(archive.instances().values())))
    edge.start()
    sent = _stores(archive)
    args = ("restore", "--from", "second-site", "--days", "20000", "--ledger", str(tmp_path / "ledger"), "--json")
    done = edge.cli(*args, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    storescu(ct_files(tmp_path / "new", 1, 4096), edge.port)  # the doors are open
    found = json.loads(done.stdout)
    assert (found["instances"], found["with_origin"], found["holds"]) == (COUNT, COUNT, 1)
    assert {uid: each for uid, each in _origins(edge).items() if uid in before} == before
    wait_until(lambda: is_proved(edge, COUNT + 1), 60, "proof was asked for, and came")
    assert _stores(archive) == sent + 2  # the new one, and the one that it lacks
    (held,) = json.loads(edge.cli("studies", "holds", "--json").stdout)
    assert (held["study_uid"], held["reason"]) == (study["study_uid"], "case 17")


def _origins(edge: Edge) -> dict[str, tuple[str, float]]:
    """Who sent each image, and when, as the catalog has it."""
    edge.settle()
    with sqlite3.connect(f"file:{edge.data_dir}/catalog.db?mode=ro", uri=True) as conn:
        rows = conn.execute("SELECT sop_instance_uid, calling_ae, received_at FROM instance").fetchall()
    return {uid: (title, at) for uid, title, at in rows}


def _has_copied_all(edge: Edge) -> bool:
    text = "".join(each.read_text() for each in (edge.data_dir / "journal").glob("*.jsonl"))
    return "legal-hold" in text and text.count('"received"') >= 1


def test_a_dicomweb_destination_gives_back_by_wado_rs(tmp_path: Path, running: ExitStack) -> None:
    port = free_port()
    archive = orthanc(running, tmp_path / "archive", port)
    elsewhere = running.enter_context(StoreScp(tmp_path / "elsewhere"))
    (tmp_path / "second").mkdir()
    there = SECOND.format(title=elsewhere.ae_title, port=elsewhere.port)
    second = running.enter_context(WebEdge(tmp_path / "second", there))
    text = config(archive, archive, "UNUSED").partition("[destination.second-site]")[0]
    text += f'[destination.second-site]\nkind = "dicomweb"\nurl = "{second.web_url}"\nconfirm = "query"\n'
    text += f'token = "{tmp_path}/second/viewer-token"\nkeep_last = "30d"\n[route.everything]\nto = ["archive"]\n'
    edge = running.enter_context(Edge(tmp_path / "edge", text, port=port))
    storescu(ct_files(tmp_path / "ct", COUNT, 4096), edge.port)
    wait_until(lambda: is_proved(edge, COUNT), 60, "both have all")
    before = digests(edge)
    lose(edge)
    sent = _stores(archive)
    done = edge.cli("restore", "--from", "second-site", "--days", "20000", timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(edge).keys() == before.keys()
    edge.start()
    wait_until(lambda: is_proved(edge, COUNT), 60, "proof was asked for, and came")
    assert _stores(archive) == sent


def test_another_edge_is_the_second_site_and_gives_back_every_byte(tmp_path: Path, running: ExitStack) -> None:
    port = free_port()
    archive = orthanc(running, tmp_path / "archive", port)
    elsewhere = running.enter_context(StoreScp(tmp_path / "elsewhere"))
    second = Edge(tmp_path / "second", SECOND.format(title=elsewhere.ae_title, port=elsewhere.port), unknown="refuse")
    running.enter_context(second)
    edge = running.enter_context(Edge(tmp_path / "edge", config(archive, second, "EDGE"), port=port))
    storescu(ct_files(tmp_path / "ct", COUNT, 4096), edge.port)
    wait_until(lambda: is_proved(edge, COUNT), 60, "both have all")
    before = digests(edge)
    assert digests(second).keys() == before.keys()
    lose(edge)
    sent = _stores(archive)
    done = edge.cli("restore", "--from", "second-site", "--days", "20000", timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{COUNT} images of 1 study restored from second-site in" in done.stdout
    assert digests(edge).keys() == before.keys()
    edge.start()
    wait_until(lambda: is_proved(edge, COUNT), 60, "proof was asked for, and came")
    assert _stores(archive) == sent
