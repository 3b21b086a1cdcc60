"""The statements say what associations get: a robot proposes every SOP class, and compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom import _config as pynetdicom_config

from edge.config import load_config
from edge.config.sections import Config
from edge.console.statements import accepted, hl7, ihe, make_statement, render_document, web
from edge.console.statements.document import Section
from edge.hl7.extraction import list_identifiers, list_order_groups
from edge.hl7.extraction import patient_facts as read_patient_facts
from edge.hl7.form import EventClass, FormFault, classify_event
from edge.hl7.message import Hl7Message, parse_message
from edge.scp.dicomweb.resources import WebResource
from edge.scp.services import SERVICES
from edge.scp.services.service import Service
from tests.support.gateway import Receiving
from tests.support.hl7 import Hl7Receiving
from tests.support.objects import ct_files
from tests.support.peers import REPOSITORY
from tests.support.web_door import WebEdge

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
[modality.work]
ae_title = "WORK"
hosts = ["127.0.0.1"]
port = 106
services = ["echo", "store", "worklist", "mpps"]
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
SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.70",
    accepted.PRIVATE,
)
#: Addresses of PS3.18 beside those that are served (chapters 8 to 14): a test asks for all of them.
UNSERVED_PATHS = (
    "/", "/studies/{study}/bulkdata",
    "/studies/{study}/pixeldata", "/studies/{study}/series/{series}/bulkdata",
    "/studies/{study}/series/{series}/instances/{instance}/bulkdata",
    "/studies/{study}/series/{series}/instances/{instance}/pixeldata", "/workitems", "/workitems/{study}",
    "/workitems/{study}/state", "/workitems/{study}/cancelrequest", "/workitems/{study}/subscribers/EDGE",
    "/color-palettes", "/defined-procedure-protocol", "/hanging-protocol", "/implant-template", "/inventory",
    "/commitment-requests/{study}", "/modality-scheduled-procedure-steps", "/modality-performed-procedure-steps",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE")
Pairs = set[tuple[str, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    pynetdicom_config.UNRESTRICTED_STORAGE_SERVICE = False
    with Receiving(tmp_path_factory.mktemp("site"), CONFIG) as made:
        yield made


def negotiated(port: int, title: str) -> Pairs:
    """(abstract syntax, transfer syntax) that a caller really gets, each proposed in a context of its own."""
    wanted = [(uid, syntax) for uid in accepted.abstract_syntaxes() for syntax in SYNTAXES]
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
    admission = accepted.admission_of(site.config, site.config.modalities[name])
    found: Pairs = set()
    for each in accepted.list_accepted(admission, table):
        syntaxes = SYNTAXES if each.transfer_syntaxes is None else each.transfer_syntaxes
        found |= {(each.abstract_syntax, syntax) for syntax in syntaxes if syntax in SYNTAXES}
    return found


@pytest.mark.parametrize("name", ["ct1", "us1", "view", "work", "ping"])
def test_the_statement_and_the_associations_differ_in_nothing(site: Receiving, name: str) -> None:
    found = negotiated(site.port, name.upper())
    assert found ^ stated(site, name) == set()
    assert (accepted.PRIVATE, accepted.PRIVATE) in found or name in ("ping", "view")
    for left_out in SERVICES:  # a changed table shows
        if left_out.name in _services(site, name):
            classes = [uid for uid in accepted.abstract_syntaxes() if left_out.is_for(uid)]
            rest = [each for each in SERVICES if not any(map(each.is_for, classes))]
            assert found ^ stated(site, name, rest)


def _services(site: Receiving, name: str) -> set[str]:
    admission = accepted.admission_of(site.config, site.config.modalities[name])
    return {each.service for each in accepted.list_accepted(admission)}


def test_the_json_has_the_same(site: Receiving) -> None:
    made = json.loads(render_document(make_statement("dicom", site.config), "json"))
    listed = {each["abstract_syntax"] for each in made["facts"]["scp"]["ct1"]}
    assert listed == {uid for uid, _ in stated(site, "ct1")}
    services = {each["service"] for each in made["facts"]["scp"]["work"]}
    assert services >= {"the modality worklist", "performed procedure steps", "storage"}


#: The template of PS3.2 annex N: each heading down to its second level, as a statement numbers it.
TEMPLATE = """
1 Overview; 1.1 Content and Transfer; 1.2 DIMSE Services; 1.3 DICOM Web Services; 1.4 Media Services
1.5 Real-Time Video Service; 1.6 De-identification Profiles; 1.7 Specific Character Sets
2 Table of Contents
3 Introduction; 3.1 Revision History; 3.2 Audience; 3.3 Remarks; 3.4 Terms and Definitions; 3.5 Abbreviations
3.6 References
4 Implementation Model; 4.1 Application Entities and Data Flow
5 Service and Interoperability Description; 5.1 Mapping of Services to Application Entities; 5.2 DIMSE Services
5.3 DICOM Web Services; 5.4 Media Services; 5.5 Real-Time Video Services; 5.6 Cross-Service Considerations
5.7 Specific Character Sets
6 Configuration; 6.1 General Configuration Parameters; 6.2 Configuration of DIMSE Services
6.3 Configuration of DICOM Web Services; 6.4 Configuration of Media Storage Service
6.5 Configuration of Real-Time Video Service; 6.6 Configuration of Audit Trail - Syslog
7 Network and Media Communication Details; 7.1 General; 7.2 Specifications; 7.3 Status Codes
8 Security; 8.1 Introduction; 8.2 External Network Requirements; 8.3 TCP Port Configuration
8.4 DICOM Security Profiles Support; 8.5 User Identity Negotiation Support; 8.6 Web Services Security Features
8.7 Other Security Features
A.A Information Object Definitions; A.B Structured Report Content Encoding; A.C Security Details
A.C.1 External Network Requirement Details; A.C.2 DICOM Security Profile Details; A.D Mapping of Attributes
A.E Code Set Usage
"""


def _headings(sections: Sequence[Section], levels: int) -> list[str]:
    found = []
    for each in sections:
        found.append(f"{each.number} {each.title}")
        found += _headings(each.sections, levels - 1) if levels > 1 else []
    return found


def test_the_headings_are_those_of_the_template(site: Receiving) -> None:
    made = make_statement("dicom", site.config)
    expected = [each.strip() for line in TEMPLATE.strip().splitlines() for each in line.split(";")]
    assert _headings(made.sections, 2) == expected


# -- DICOMweb ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebEdge]:
    with WebEdge(tmp_path_factory.mktemp("door"), "[query]\n") as edge:
        yield edge


def _ask(edge: WebEdge, client: str, method: str, path: str) -> bool:
    """Does it answer, in whatever way? A resource that is not there, or not for this client, does not."""
    answer = edge.web(method, path, {"Accept": "*/*"}, client=client)
    assert answer.status < 500, (method, path, answer)
    return answer.status not in (401, 403, 405) and not (answer.status == 404 and b"no such resource" in answer.body)


def _fill(path: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def test_the_statement_and_the_web_door_differ_in_nothing(door: WebEdge, tmp_path: Path) -> None:
    (file,) = ct_files(tmp_path, 1, 4096)
    ds = pydicom.dcmread(file)
    assert door.stow(file.read_bytes()).status == 200
    uids = {"study": ds.StudyInstanceUID, "series": ds.SeriesInstanceUID, "instance": ds.SOPInstanceUID}
    names = {**uids, "list": "1", "frame": "1", "tag": "7FE00010"}
    paths = sorted({*(each.path for each in web.WEB_RESOURCES), *UNSERVED_PATHS})
    config = load_config(door.config_dir)
    for client in ("viewer", "looker", ""):
        found = {(m, path) for m in METHODS for path in paths if _ask(door, client, m, _fill(path, names))}
        stated = set(_stated_web(config, client))
        assert found ^ stated == set(), client
        for left_out in web.WEB_RESOURCES if client else ():  # a changed table shows
            if (left_out.method, left_out.path) in stated:
                assert found ^ set(_stated_web(config, client, [e for e in web.WEB_RESOURCES if e is not left_out]))
    for each in web.WEB_RESOURCES:  # and the media types of the answers
        answer = door.web(each.method, _fill(each.path, names), {"Accept": "*/*"})
        kind = answer.headers.get("content-type", "").partition(";")[0]
        assert each.method == "POST" or kind in each.media, (each.path, kind, answer)


def _stated_web(config: Config, client: str, table: Sequence[WebResource] = web.WEB_RESOURCES) -> list[tuple[str, str]]:
    if not client:
        return []
    return [(each.method, each.path) for each in web.list_web_resources(config, config.clients[client], table)]


# -- HL7 --------------------------------------------------------------------------------------------------------------


def _list_differences(site: Hl7Receiving, run: str, profiles: Sequence[hl7.MessageProfile]) -> list[str]:
    """The differences between the profiles and what a sender is answered and the catalog then has."""
    differing = []
    with site.client() as client:
        for number, each in enumerate(profiles):
            own, event = f"{run}{number}", f"{each.kind}^{each.trigger}"
            segments = [line.replace("T1^", f"T1{own}^").replace("T2^", f"T2{own}^") for line in each.segments]
            segments = [line.replace("|P1", f"|P1{own}") for line in segments or [f"PID|1||T1{own}^^^MTF^MR"]]
            (said,) = client.ask(hl7.build_message(each.kind, each.trigger, segments, f"C{own}"))
            effect = _effect_of(site, own)
            if said.code != each.answer or effect != _EXPECTED[each.effect]:
                differing.append(f"{event}: {said.code}, {effect}")
            required = {(segment, field): answer for segment, field, answer in each.required}
            for place, data in hl7.leave_out(each.kind, each.trigger, each.segments):
                (said,) = client.ask(data.replace(b"|1|P|", f"|D{own}-{place[0]}-{place[1]}|P|".encode()))
                if said.code != required.get(place, "AA"):
                    differing.append(f"{event} without {place}: {said.code}")
    return differing


#: Of each effect: is the number known, does the old one lead to it, is there an order?
_EXPECTED = dict.fromkeys(EventClass, (0, 0, 0)) | {
    EventClass.UPDATE: (1, 0, 0),
    EventClass.MERGE: (1, 1, 0),
    EventClass.CHANGE_NUMBER: (1, 1, 0),
    EventClass.ORDER: (1, 0, 1),
}


def _effect_of(site: Hl7Receiving, own: str) -> tuple[int, ...]:
    count = "SELECT count(*) FROM patient_identifier WHERE number = ?"
    (known,), (old,) = site.rows(count, f"T1{own}")[0], site.rows(count, f"T2{own}")[0]
    (orders,) = site.rows("SELECT count(*) FROM imaging_order WHERE placer_number = ?", f"P1{own}")[0]
    return known, old, orders


def test_the_statement_and_the_hl7_door_differ_in_nothing(tmp_path: Path) -> None:
    def classify(message: Hl7Message) -> EventClass:
        return EventClass.ORDER if message.trigger == "A28" else classify_event(message)

    def find_nothing(_: Hl7Message) -> FormFault | None:
        return None

    with Hl7Receiving(tmp_path) as receiving:
        assert _list_differences(receiving, "a", hl7.list_profiles()) == []
        changed = _list_differences(receiving, "b", hl7.list_profiles(classify))  # a changed table shows
        assert [each.partition(":")[0] for each in changed] == ["ADT^A28"]
        assert len(_list_differences(receiving, "c", hl7.list_profiles(faulted=find_nothing))) > 10


VALUES = {"birth_date": "19800203", "sex": "O", "control": "CA", "scheduled_at": "202601020304", "study_uid": "1.2.3"}


@pytest.mark.parametrize("each", hl7.FIELDS, ids=lambda each: f"{each.segment}-{each.field}.{each.component}")
def test_each_field_that_is_stated_is_read(each: hl7.ReadField) -> None:
    value = VALUES.get(each.attribute, "STAT" if each.attribute == "priority" else "X7")
    segments = {name: name for name in ("PID", "PV1", "ORC", "TQ1", "OBR", "IPC", "ZDS", "MRG")}
    if each.attribute == "status":
        value, segments["ORC"] = "CM", "ORC|SC"
    text = segments[each.segment]
    text += "|" * (each.field - text.count("|")) + "^" * (each.component - 1) + value
    segments[each.segment] = text
    message = parse_message(hl7.build_message("OMI", "O23", tuple(segments.values())))
    found = message.first(each.segment)
    assert found is not None
    if each.attribute == "number":
        assert [one.number for one in list_identifiers(found, each.field)] == [value]
        return
    facts = read_patient_facts(found) if each.segment == "PID" else list_order_groups(message)[0]
    empty = list_order_groups(parse_message(hl7.build_message("OMI", "O23", ("PID", "ORC", "OBR"))))[0]
    got = getattr(facts, each.attribute)
    assert str(value) in str(got) or got != getattr(empty, each.attribute, None)


def test_a_site_without_hl7_says_so(site: Receiving) -> None:
    assert "It is closed on this gateway" in render_document(make_statement("hl7", site.config), "md")


# -- for people, and IHE ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dicom", "ihe", "hl7"])
@pytest.mark.parametrize("form", ["md", "html"])
def test_both_are_documents_for_people(site: Receiving, kind: str, form: str) -> None:
    text = render_document(make_statement(kind, site.config), form)
    assert "Edge" in text
    assert "Test Clinic" in text or kind in ("dicom", "hl7")
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
    (folder / "site.toml").write_text(CONFIG + '[iocm]\nsenders = ["ct1"]\n')
    claimed = make_statement("ihe", load_config(folder)).facts["actors"]
    assert claimed == ["Imaging Object Change Management (IOCM): Image Manager/Archive"]
