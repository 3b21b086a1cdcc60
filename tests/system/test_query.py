"""Query and retrieve of a running gateway, with real peers: DCMTK, Orthanc, dcmjs-dimse."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.committing import node_modules
from tests.support.objects import ct_files, new_uid, sop_instance_uid
from tests.support.peers import (
    ENVIRONMENT,
    Edge,
    Orthanc,
    StoreScp,
    free_port,
    http_get,
    requires,
    routes_to,
    storescu,
    wait_until,
)
from tests.support.querying import QUERY, final_status, find, run_dcmtk

VIEWER_SCRIPT = Path(__file__).parent.parent / "support" / "query_viewer.js"


@pytest.mark.slow
def test_a_viewer_finds_and_gets_and_has_sent_while_the_process_that_answers_is_killed(tmp_path: Path) -> None:
    study = new_uid()
    with StoreScp(tmp_path / "archive") as archive, Edge(tmp_path / "edge", routes_to(archive) + QUERY) as edge:
        storescu(ct_files(tmp_path / "made", 3, 20_000, StudyInstanceUID=study), edge.port)
        keys = [f"StudyInstanceUID={study}", "NumberOfStudyRelatedInstances"]
        (found,), said = find(tmp_path / "out", edge.port, "STUDY", *keys)
        assert (found.NumberOfStudyRelatedInstances, final_status(said)) == (3, "0000")

        (answers,) = [pid for pid in children(edge.pid) if "edge-answers" in name_of(pid)]
        os.kill(answers, signal.SIGKILL)
        (found,), said = find(tmp_path / "out", edge.port, "STUDY", *keys)
        assert (found.NumberOfStudyRelatedInstances, final_status(said)) == (3, "0000")

        got = tmp_path / "got"
        got.mkdir()
        where = ["-aet", "VIEWER", "-aec", "EDGE", "127.0.0.1", str(edge.port), "-k", "QueryRetrieveLevel=STUDY"]
        done = run_dcmtk("getscu", "-d", "-S", "-od", str(got), *where, "-k", keys[0])
        assert final_status(done.stdout + done.stderr) == "0000"
        assert len([*got.iterdir()]) == 3
        # Implicit alone: each image is converted without loss, by the daemon.
        for path in got.iterdir():
            path.unlink()
        done = run_dcmtk("getscu", "-d", "-S", "+xi", "-od", str(got), *where, "-k", keys[0])
        assert final_status(done.stdout + done.stderr) == "0000", done.stdout + done.stderr

        wait_until(lambda: archive.stores() >= 3, 30, "the deliveries")
        done = run_dcmtk("movescu", "-d", "-S", "-aem", archive.ae_title, *where, "-k", keys[0])
        assert final_status(done.stdout + done.stderr) == "0000"
        assert archive.stores() == 6
        events = wait_until(lambda: ledger_of(edge, "retrieved"), 20, "the audit trail")
        assert events
        asked = json.loads(edge.cli("queries", "list", "--json").stdout)
        assert {each["what"] for each in asked} == {"find", "retrieve"}
        assert all(each["caller"] == "VIEWER" and keys[0] in each["keys"] for each in asked)
        assert ledger_of(edge, "viewed"), "it shows patient data"
        status = edge.api_status()
        assert (status["queries"]["find"]["asked"], status["queries"]["find"]["failed"]) == (2, 0)
        assert status["queries"]["retrieve"]["answers"] == 9
        assert 'edge_queries_total{what="find",outcome="answered"} 2' in http_get(edge.url("/metrics"))[1].decode()


@pytest.mark.slow
def test_dcmjs_dimse_finds_gets_and_moves(tmp_path: Path) -> None:
    study = new_uid()
    with StoreScp(tmp_path / "archive") as archive, Edge(tmp_path / "edge", routes_to(archive) + QUERY) as edge:
        paths = ct_files(tmp_path / "made", 3, 20_000, StudyInstanceUID=study, PatientName="Doe^Jane")
        storescu(paths, edge.port)
        wait_until(lambda: archive.stores() == 3, 30, "the deliveries")
        done = subprocess.run(
            [requires("node"), str(VIEWER_SCRIPT), "127.0.0.1", str(edge.port), "VIEWER", "EDGE", study, "ARCHIVE"],
            env={**ENVIRONMENT, "NODE_PATH": str(node_modules())},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        said = [json.loads(line) for line in done.stdout.splitlines()]
        found, found_end = [each for each in said if each["what"] == "find"]
        assert (found["status"], found_end["status"], int(found["count"])) == ("ff00", "0000", 3)
        assert {each["uid"] for each in said if each["what"] == "store"} == {sop_instance_uid(path) for path in paths}
        got = [each for each in said if each["what"] == "get"][-1]
        assert (got["status"], got["completed"], got["failed"]) == ("0000", 3, 0)
        moved = [each for each in said if each["what"] == "move"][-1]
        assert (moved["status"], moved["completed"], archive.stores()) == ("0000", 3, 6)


@pytest.mark.slow
def test_orthanc_asks_and_has_a_study_moved_to_it(tmp_path: Path) -> None:
    study, port = new_uid(), free_port()
    to = f'[destination.orthanc]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {port}\n'
    text = to + QUERY.replace("VIEWER", "ORTHANC")
    with Edge(tmp_path / "edge", text) as edge, Orthanc(tmp_path / "orthanc", edge.port, port) as orthanc:
        storescu(ct_files(tmp_path / "made", 3, 20_000, StudyInstanceUID=study, PatientName="Doe^Jane"), edge.port)
        asked = post(orthanc, "/modalities/edge/query", {"Level": "Study", "Query": {"PatientName": "doe*"}})
        answers = orthanc.get(f"{asked['Path']}/answers?expand&simplify")
        assert [each["StudyInstanceUID"] for each in answers] == [study]
        post(orthanc, f"{asked['Path']}/answers/0/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
        assert orthanc.count() == 3


def post(orthanc: Orthanc, path: str, body: dict[str, object]) -> dict[str, Any]:
    request = urllib.request.Request(orthanc.url(path), json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        found = json.load(response)
    assert isinstance(found, dict)
    return found


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == pid:
            found += [int(path.name), *children(int(path.name))]
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def ledger_of(edge: Edge, event: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True) as conn:
        return conn.execute("SELECT who, payload FROM ledger WHERE event = ?", (event,)).fetchall()
