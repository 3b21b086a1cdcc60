"""`edge echo` and the test of a link, at an Orthanc by DIMSE and by DICOMweb, and at storescp, which proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from edge.config.sections import Config
from edge.outbound.echo import ask, has_images, proposals_for, proposals_to
from edge.outbound.link_test import run_link_test
from tests.support.gateway import configuration
from tests.support.peers import Orthanc, StoreScp, free_port
from tests.support.web_archive import web_orthanc
from tests.support.worklists import WorklistScp


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with web_orthanc(tmp_path_factory.mktemp("peer") / "orthanc") as peer:
        yield peer


def config_for(folder: Path, orthanc: Orthanc, plain_port: int = 1) -> Config:
    tables = []
    for name, host, port, proof in (
        ("query", "127.0.0.1", orthanc.port, "query"),
        ("commitment", "localhost", orthanc.port, "commitment"),
        ("unproved", "127.0.0.1", plain_port, "commitment"),
    ):
        at = f'ae_title = "{orthanc.ae_title}"\nhost = "{host}"\nport = {port}'
        tables.append(f'[destination.{name}]\n{at}\nconfirm = "{proof}"\n')
    for name, port in (("web", orthanc.http_port), ("absent", free_port())):
        tables.append(f'[destination.{name}]\nkind = "dicomweb"\nurl = "http://127.0.0.1:{port}/dicom-web"\n')
    return configuration(folder, f'[site]\nid = "0067"\ndata_dir = "{folder}"\n' + "".join(tables))


@pytest.mark.parametrize("name", ["query", "commitment", "web"])
def test_an_archive_that_proves_arrival_says_so(tmp_path: Path, orthanc: Orthanc, name: str) -> None:
    config = config_for(tmp_path, orthanc)
    found = ask(config, config.destinations[name], proposals_for([]))
    assert (found.reachable, found.proof_error) == (True, None), found.error
    assert bool(found.contexts) == (name != "web")
    assert found.echo_seconds is not None


def test_one_that_proves_nothing_is_named(tmp_path: Path, orthanc: Orthanc) -> None:
    with StoreScp(tmp_path / "archive") as archive:
        config = config_for(tmp_path, orthanc, archive.port)
        found = ask(config, config.destinations["unproved"], proposals_for([]))
    assert found.reachable
    assert "not supported" in (found.proof_error or "")


@pytest.mark.parametrize(("name", "ways"), [("query", ["C-GET", "C-MOVE"]), ("web", ["WADO-RS"])])
def test_how_an_archive_gives_studies_back_is_named(
    tmp_path: Path, orthanc: Orthanc, name: str, ways: list[str]
) -> None:
    config = config_for(tmp_path, orthanc)
    found = ask(config, config.destinations[name], proposals_for([]))
    assert [each.name for each in found.retrieval] == ways


def test_one_that_does_not_know_us_as_a_move_destination_says_so(tmp_path: Path, orthanc: Orthanc) -> None:
    """As dcm4chee does, before it searches; dcmqrscp only where it has something to send."""
    archive, port = AE("ORTHANC"), free_port()
    for sop_class in (Verification, StudyRootQueryRetrieveInformationModelMove):
        archive.add_supported_context(sop_class)
    handlers: list[Any] = [(evt.EVT_C_MOVE, lambda _: iter([(None, None)]))]
    server: Any = archive.start_server(("127.0.0.1", port), False, evt_handlers=handlers)
    try:
        config = config_for(tmp_path, orthanc, port)
        found = ask(config, config.destinations["unproved"], proposals_for([]))
    finally:
        server.shutdown()
    (way,) = found.retrieval
    assert way.name == "C-MOVE"
    assert "does not know EDGE as a destination of C-MOVE" in way.obstacle


def test_an_archive_that_coerces_what_it_stores_is_measured(tmp_path: Path, orthanc: Orthanc) -> None:
    archive, port = AE("ORTHANC"), free_port()
    for sop_class in (Verification, SecondaryCaptureImageStorage):
        archive.add_supported_context(sop_class)
    handlers: list[Any] = [(evt.EVT_C_STORE, lambda _: 0xB000)]
    server: Any = archive.start_server(("127.0.0.1", port), False, evt_handlers=handlers)
    try:
        config = config_for(tmp_path, orthanc, port)
        found = run_link_test(config, config.destinations["unproved"], proposals_for([]), 2)
    finally:
        server.shutdown()
    assert found.error is None
    assert found.throughput is not None
    assert found.throughput.objects == 2


def test_a_receiver_gives_nothing_back(tmp_path: Path, orthanc: Orthanc) -> None:
    with StoreScp(tmp_path / "archive") as archive:
        config = config_for(tmp_path, orthanc, archive.port)
        assert ask(config, config.destinations["unproved"], proposals_for([])).retrieval == ()


def test_a_ris_is_asked_for_what_it_is_configured_for(tmp_path: Path) -> None:
    with WorklistScp(tmp_path / "ris", free_port()) as ris:
        at = f'ae_title = "RIS"\nhost = "127.0.0.1"\nport = {ris.port}\n'
        text = f'[site]\nid = "1"\ndata_dir = "{tmp_path}"\n[destination.ris]\n{at}'
        text += '[worklist]\nfrom = "ris"\n[mpps]\nto = ["ris"]\n'
        config = configuration(tmp_path, text)
        found = ask(config, config.destinations["ris"], proposals_to(config, "ris", []))
        assert {each.sop_class_uid: each.accepted for each in found.contexts} == {
            ModalityWorklistInformationFind: True,
            ModalityPerformedProcedureStep: False,
        }
        sent = configuration(tmp_path, text + '[route.all]\nto = ["ris"]\n')
    assert set(proposals_for([])) < set(proposals_to(sent, "ris", []))
    assert [has_images(each, "ris") for each in (config, sent)] == [False, True]


def test_a_web_server_that_is_not_there_is_a_result(tmp_path: Path, orthanc: Orthanc) -> None:
    config = config_for(tmp_path, orthanc)
    found = ask(config, config.destinations["absent"], ())
    assert not found.reachable
    assert "destination.absent" in (found.error or "")


@pytest.mark.parametrize("name", ["query", "web"])
def test_objects_go_over_the_link(tmp_path: Path, orthanc: Orthanc, name: str) -> None:
    config, before = config_for(tmp_path, orthanc), orthanc.count()
    found = run_link_test(config, config.destinations[name], proposals_for([]), 3)
    assert found.error is None
    assert found.throughput is not None
    assert found.throughput.objects == 3
    assert len(found.round_trips) == 10
    assert orthanc.count() == before + 3
