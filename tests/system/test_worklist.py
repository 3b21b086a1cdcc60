"""The worklist of a running gateway: its source goes away, its age is known, the catalog keeps it over a restart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import Edge, free_port, wait_until
from tests.support.worklists import ITEMS, WorklistScp, find

CONFIG = """
[modality.ct1]
ae_title = "CT1"
services = ["echo", "worklist", "mpps"]
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {port}
[worklist]
from = "ris"
refresh = "1s"
keep = "1h"
"""


def listed(edge: Edge) -> dict[str, Any]:
    done = edge.cli("worklist", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_the_list_outlives_its_source_and_a_restart_with_its_age(tmp_path: Path) -> None:
    """A source that matches no dates of today is asked for all it has: the peers' items are of another day."""
    port = free_port()
    with Edge(tmp_path / "edge", CONFIG.format(port=port)) as edge:
        with pytest.raises(subprocess.CalledProcessError):
            find(edge.port, tmp_path / "answers", "AccessionNumber")
        ris = WorklistScp(tmp_path / "ris", port)
        ris.put(ITEMS)
        with ris:
            wait_until(lambda: edge.api_status()["worklist"]["items"] == 3, 30, "the list")
            assert len(find(edge.port, tmp_path / "answers", "AccessionNumber")) == 3
            state = listed(edge)
            assert (state["stale"], state["as_of"][-1], len(state["items"])) == (False, "Z", 3)
            assert {each["accession"] for each in state["items"]} == {"A1", "A2", "A3"}
            (before,) = find(edge.port, tmp_path / "answers", "AccessionNumber=A3", "StudyInstanceUID")
        wait_until(lambda: stale(edge), 60, "the alert", interval=0.3)
        edge.kill()
        edge.start()
        assert len(find(edge.port, tmp_path / "answers", "AccessionNumber")) == 3
        assert find(edge.port, tmp_path / "answers", "AccessionNumber=A3", "StudyInstanceUID") == [before]
        wait_until(lambda: listed(edge)["stale"], 30, "people know it", interval=0.5)
        assert edge.api_status()["worklist"]["stale"] is True
        people = edge.cli("worklist", "list").stdout
        assert "cannot be refreshed" in people
        with WorklistScp(ris.directory, port):
            wait_until(lambda: not stale(edge), 60, "it is over", interval=0.3)
            assert edge.api_status()["worklist"]["stale"] is False


def test_the_source_is_asked_at_once_by_command(tmp_path: Path) -> None:
    port = free_port()
    ris = WorklistScp(tmp_path / "ris", port)
    ris.put(ITEMS[:1])
    with ris, Edge(tmp_path / "edge", CONFIG.format(port=port).replace('"1s"', '"15m"')) as edge:
        wait_until(lambda: edge.api_status()["worklist"]["items"] == 1, 30, "the list")
        ris.put(ITEMS[1:])
        assert edge.cli("worklist", "refresh", "--reason", "two more").returncode == 0
        wait_until(lambda: edge.api_status()["worklist"]["items"] == 3, 30, "those that have come since")


def stale(edge: Edge) -> list[dict[str, Any]]:
    return [each for each in edge.api_status()["alerts"] if each["kind"] == "worklist-stale"]
