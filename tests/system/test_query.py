"""Query and retrieve of a running gateway, with real peers: DCMTK, Orthanc, dcmjs-dimse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.objects import ct_files, new_uid
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until
from tests.support.querying import QUERY, final_status, find, run_dcmtk


@pytest.mark.slow
def test_a_viewer_finds_and_gets_and_has_sent_while_the_process_that_answers_is_killed(tmp_path: Path) -> None:
    study = new_uid()
    with StoreScp(tmp_path / "archive") as archive, Edge(tmp_path / "edge", routes_to(archive) + QUERY) as edge:
        storescu(ct_files(tmp_path / "made", 3, 20_000, StudyInstanceUID=study), edge.port)
        keys = [f"StudyInstanceUID={study}", "NumberOfStudyRelatedInstances"]
        (found,), said = find(tmp_path / "out", edge.port, "STUDY", *keys)
        assert (found.NumberOfStudyRelatedInstances, final_status(said)) == (3, "0000")

        (answers,) = [pid for pid in children(edge.pid) if "edge-answers" in name_of(pid)]
        import os
        import signal

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
    import sqlite3

    with sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True) as conn:
        return conn.execute("SELECT who, payload FROM ledger WHERE event = ?", (event,)).fetchall()
