"""The statement says what Edge proposes as a user: peers that record, and a gateway that does all that it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest

from edge.config import load_config
from edge.config.sections import Config
from edge.console.statements import dimse, web
from edge.dicom.uids import (
    PATIENT_ROOT_FIND,
    STORAGE_COMMITMENT_PUSH,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    is_storage,
)
from tests.support import committing
from tests.support.objects import ct_files
from tests.support.peers import Edge, storescu, wait_until
from tests.support.performing import CREATED, ended, send_step
from tests.support.querying import find, run_dcmtk
from tests.support.recording import CT, STUDY, Recorder, WebRecorder

CONFIG = """
[modality.ct1]
ae_title = "CT1"
hosts = ["127.0.0.1"]
port = {ct1}
services = ["echo", "store", "commit", "mpps", "worklist"]
[modality.view]
ae_title = "VIEW"
hosts = ["127.0.0.1"]
port = {view}
services = ["echo", "query", "retrieve"]
[modality.silent]
ae_title = "SILENT"
services = ["echo", "store", "commit"]
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
confirm = "commitment"
[destination.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
confirm = "query"
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {ris}
[destination.cloud]
kind = "dicomweb"
url = "{cloud}"
confirm = "query"
[route.everything]
to = ["archive", "pacs", "cloud"]
[query]
through = ["pacs"]
[worklist]
from = "ris"
[mpps]
to = ["ris"]
ian = ["ris"]
"""
NAMES = ("archive", "pacs", "ris", "ct1", "view")
Pairs = set[tuple[str, str]]


@pytest.fixture
def peers() -> Iterator[dict[str, Recorder]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Recorder()) for name in NAMES}


def stated(config: Config) -> Pairs:
    return {(peer, uid) for peer, _, uid in dimse.list_proposed(config)}


def recorded(peers: dict[str, Recorder]) -> Pairs:
    return {
        (name, dimse.ANY_STORAGE if is_storage(uid) else uid) for name, each in peers.items() for uid in each.proposed
    }


def do_all(edge: Edge, folder: Path) -> None:
    """Everything for which the gateway calls somebody."""
    (file,) = ct_files(folder / "ct", 1, 4096)
    sent = pydicom.dcmread(file)
    storescu([file], edge.port, "-aet", "CT1")
    committing.ask(edge.port, [(CT, sent.SOPInstanceUID)])
    send_step(edge.port, "1.2.9", CREATED)
    send_step(edge.port, "1.2.9", ended([sent.SOPInstanceUID]), is_set=True)
    find(folder / "found", edge.port, "PATIENT", "PatientID", root="-P", calling="VIEW")
    for study, to in ((STUDY, "VIEW"), (sent.StudyInstanceUID, "VIEW"), (sent.StudyInstanceUID, "CT1")):
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        run_dcmtk("movescu", "-S", "-aet", "VIEW", "-aec", "EDGE", "-aem", to, "127.0.0.1", str(edge.port), *keys)
    for name in ("archive", "pacs", "ris", "cloud"):
        edge.cli("echo", name)
        edge.cli("restore", "--from", name)


def test_the_statement_and_what_is_proposed_differ_in_nothing(tmp_path: Path, peers: dict[str, Recorder]) -> None:
    ports = {name: each.port for name, each in peers.items()}
    with WebRecorder() as cloud, Edge(tmp_path, CONFIG.format(cloud=cloud.url, **ports)) as edge:
        do_all(edge, tmp_path)
        config = load_config(edge.config_dir)
        expected = stated(config)
        wait_until(lambda: cloud.asked == set(web.list_web_uses(config)["cloud"]), 60, "each Web service was asked")
        wait_until(lambda: expected <= recorded(peers), 60, "all that is stated was proposed")
    assert recorded(peers) - expected == set()
    assert expected >= {
        ("archive", STORAGE_COMMITMENT_PUSH), ("ct1", STORAGE_COMMITMENT_PUSH), ("pacs", PATIENT_ROOT_FIND),
        ("pacs", STUDY_ROOT_MOVE), ("ris", STUDY_ROOT_GET), ("view", dimse.ANY_STORAGE),
    }  # fmt: skip
    assert {name for name, uid in expected if uid == STUDY_ROOT_FIND} == {"archive", "pacs", "ris"}
