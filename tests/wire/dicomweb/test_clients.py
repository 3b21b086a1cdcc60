"""The clients of the web door, as people see them: `edge clients`, the console's page, and each look in the ledger."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom

from edge.config.sections import WebClient
from edge.store import callers
from edge.store.callers import Calls
from edge.store.database import Store
from edge.store.peers import list_certificate_ends
from edge.store.web_clients import list_clients
from tests.support.objects import ct_files
from tests.support.peers import wait_until
from tests.support.web_door import WebEdge


def test_who_may_call_who_has_and_who_may_no_more(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "catalog.db")) as db:
        calls = [
            ("VIEWER", "10.0.0.1", Calls("client.viewer", 1.0, 5.0, calls=2)),
            ("VIEWER", "10.0.0.2", Calls("client.viewer", 1.0, 9.0, last_stored=8.0, stored=3)),
            ("OLD", "10.0.0.3", Calls("client.old", 1.0, 2.0)),
            ("CT1", "10.0.0.4", Calls("ct1", 1.0, 2.0)),
        ]
        for title, address, heard in calls:
            db.write(lambda conn, a=title, b=address, c=heard: callers.remember_peer(conn, a, b, c))
        configured = [WebClient("viewer", token="/t"), WebClient("ai", certificate="ai", services=("store",))]
        with db.reading() as conn:
            found = {each.name: each for each in list_clients(conn, configured)}
    assert list(found) == ["ai", "viewer", "old"]
    assert (found["ai"].last_seen_at, found["ai"].signs_in_with, found["ai"].stored) == (None, "certificate", 0)
    viewer = found["viewer"]
    assert (viewer.addresses, viewer.last_seen_at, viewer.last_stored_at, viewer.stored) == (
        ("10.0.0.2", "10.0.0.1"), 9.0, 8.0, 3,
    )  # fmt: skip
    assert (found["old"].is_configured, found["old"].ae_title) == (False, "OLD")


def test_when_the_certificates_of_configured_callers_end(tmp_path: Path) -> None:
    calls = [
        ("AI", "10.0.0.1", Calls("client.ai", 1.0, 50.0, certificate_expires=1000.0)),
        ("AI", "10.0.0.2", Calls("client.ai", 1.0, 90.0, certificate_expires=2000.0)),  # the new one
        ("GONE", "10.0.0.3", Calls("client.gone", 1.0, 90.0, certificate_expires=3000.0)),
        ("OLD", "10.0.0.4", Calls("client.old", 1.0, 2.0, certificate_expires=4000.0)),
        ("CT1", "10.0.0.5", Calls("ct1", 1.0, 90.0, certificate_expires=5000.0)),
    ]
    with closing(Store(tmp_path / "catalog.db")) as db:
        for title, address, heard in calls:
            db.write(lambda conn, a=title, b=address, c=heard: callers.remember_peer(conn, a, b, c))
        with db.reading() as conn:
            found = list_certificate_ends(conn, {"client.ai", "client.old", "ct1"}, since=10.0)
    assert found == {"client.ai": 2000.0, "ct1": 5000.0}


def test_the_command_and_the_audit_trail_have_each_client(edge: WebEdge, tmp_path: Path) -> None:
    files = ct_files(tmp_path / "ct", 3, 4096)
    assert edge.stow(*(path.read_bytes() for path in files)).status == 200
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    assert edge.web("GET", f"/studies/{study}/metadata", client="looker").status == 200

    def listed() -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(edge.cli("clients", "list", "--json").stdout)}

    wait_until(lambda: all(each["last_seen_at"] for each in listed().values()), 20, "both were noted", interval=0.5)
    found = listed()
    assert found["viewer"]["stored"] >= 3 > found["looker"]["stored"] == 0
    assert found["looker"]["signs_in_with"] == "token"
    assert "looker" in edge.cli("clients", "list").stdout
    shown = edge.cli("audit", "report", "--study", study, "--json")
    assert "client.looker" in shown.stdout, shown.stderr
