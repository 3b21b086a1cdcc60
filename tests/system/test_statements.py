"""The statements say what associations get: a robot proposes every SOP class, and compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom import _config as pynetdicom_config

from edge.config import load_config
from edge.console.statements import dicom, ihe, make_statement, render_document
from edge.scp.services import SERVICES
from edge.scp.services.service import Service
from tests.support.gateway import Receiving
from tests.support.peers import REPOSITORY

CONFIG = """
[site]
id = "0067"
name = "Test Clinic"
data_dir = "data"
[listen]
ae_title = "EDGE"
[modality.ct1]
ae_title = "CT1"
hosts = ["127.0.0.1"]
port = 104
services = ["echo", "store", "commit"]
[modality.us1]
ae_title = "US1"
[modality.view]
ae_title = "VIEW"
hosts = ["127.0.0.1"]
port = 105
services = ["echo", "query", "retrieve"]
[query]
[modality.ping]
ae_title = "PING"
services = ["echo"]
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
confirm = "commitment"
[route.everything]
to = ["archive"]
"""
#: One of each kind of transfer syntax: the robot proposes each alone.
SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.70", dicom.PRIVATE)
Pairs = set[tuple[str, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    pynetdicom_config.UNRESTRICTED_STORAGE_SERVICE = False
    with Receiving(tmp_path_factory.mktemp("site"), CONFIG) as made:
        yield made


def negotiated(port: int, title: str) -> Pairs:
    """(abstract syntax, transfer syntax) that a caller really gets, each proposed in a context of its own."""
    wanted = [(uid, syntax) for uid in dicom.abstract_syntaxes() for syntax in SYNTAXES]
    found: Pairs = set()
    for at in range(0, len(wanted), 128):
        found |= _propose(port, title, wanted[at : at + 128])
    return found


def _propose(port: int, title: str, wanted: Sequence[tuple[str, str]]) -> Pairs:
    from pynetdicom.presentation import build_context

    ae = AE(ae_title=title)
    ae.requested_contexts = [build_context(uid, UID(syntax)) for uid, syntax in wanted]
    association = ae.associate("127.0.0.1", port, ae_title="EDGE")
    assert association.is_established or association.is_rejected or association.is_aborted
    accepted = {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts}
    if association.is_established:
        association.release()
    return accepted


def stated(site: Receiving, name: str, table: Sequence[Service] | None = None) -> Pairs:
    admission = dicom.admission_of(site.config, site.config.modalities[name])
    found: Pairs = set()
    for each in dicom.list_accepted(admission, table):
        syntaxes = SYNTAXES if each.transfer_syntaxes is None else each.transfer_syntaxes
        found |= {(each.abstract_syntax, syntax) for syntax in syntaxes if syntax in SYNTAXES}
    return found


@pytest.mark.parametrize(("name", "title"), [("ct1", "CT1"), ("us1", "US1"), ("view", "VIEW"), ("ping", "PING")])
def test_the_statement_and_the_associations_differ_in_nothing(site: Receiving, name: str, title: str) -> None:
    found = negotiated(site.port, title)
    assert found ^ stated(site, name) == set()
    assert (dicom.PRIVATE, dicom.PRIVATE) in found or name in ("ping", "view")
    for left_out in SERVICES:  # a changed table shows
        if any(service == left_out.name for service in _services(site, name)):
            assert found ^ stated(site, name, [each for each in SERVICES if each is not left_out])


def _services(site: Receiving, name: str) -> set[str]:
    admission = dicom.admission_of(site.config, site.config.modalities[name])
    return {each.service for each in dicom.list_accepted(admission)}


def test_the_json_has_the_same(site: Receiving) -> None:
    made = json.loads(render_document(make_statement("dicom", site.config), "json"))
    listed = {each["abstract_syntax"] for each in made["facts"]["scp"]["ct1"]}
    assert listed == {uid for uid, _ in stated(site, "ct1")}
    assert [each["number"] for each in made["sections"]] == [str(n) for n in range(1, 9)]


@pytest.mark.parametrize("kind", ["dicom", "ihe"])
@pytest.mark.parametrize("form", ["md", "html"])
def test_both_are_documents_for_people(site: Receiving, kind: str, form: str) -> None:
    text = render_document(make_statement(kind, site.config), form)
    assert "Edge" in text
    assert "Test Clinic" in text or kind == "dicom"
    assert "{" not in text.replace("{font", "").replace("{border", "") or form == "html"


def test_an_actor_is_claimed_only_where_tests_cover_each_transaction_and_the_site_uses_it(tmp_path: Path) -> None:
    for transaction in [*(each for actor in ihe.ACTORS for each in actor.transactions), *ihe.COVERED]:
        assert transaction.tests
        for test in transaction.tests:
            file, _, name = test.partition("::")
            text = (REPOSITORY / "tests" / file).read_text("utf-8")
            assert not name or f"def {name}(" in text, test
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "site.toml").write_text(CONFIG)
    assert make_statement("ihe", load_config(folder)).facts["actors"] == []
