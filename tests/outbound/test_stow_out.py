"""STOW-RS out: an instance is stored when the answer names it so, and none of them stops the others."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pydicom
import pytest

from edge.config.kinds import OAuth
from edge.config.sections import Destination
from edge.dicom.part10 import MAX_META, parse_meta
from edge.network.http_client import ClientTls
from edge.network.tokens import OAuthToken
from edge.outbound import Forwarder
from edge.outbound.copies import CopySteps
from edge.outbound.transport import stow
from edge.outbound.transport.stow_answer import Meaning, StowReport, meaning_of_answer, read_report, retry_after
from edge.outbound.transport.stow_compare import has_same_bytes
from edge.transform.confidentiality import Deidentification
from tests.outbound.test_forward import Outbox
from tests.support.certificates import Authority
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import Edge, storescu, wait_until
from tests.support.web_archive import Received, Said, Script, WebArchive, stored, take_all, web_orthanc

JSON = {"Content-Type": "application/dicom+json"}
MakeArchive = Callable[[Script], WebArchive]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "data")
    yield outbox
    outbox.close()


@pytest.fixture
def archive() -> Iterator[MakeArchive]:
    made: list[WebArchive] = []

    def make(script: Script) -> WebArchive:
        made.append(WebArchive(script))
        return made[-1]

    yield make
    for each in made:
        each.close()


def forward(box: Outbox, archive: WebArchive, steps: CopySteps | None = None, **more: Any) -> Forwarder:
    destination = Destination("archive", kind="dicomweb", url=archive.url, **{"confirm": "status", **more})
    forwarder = Forwarder(box.db, box.spool, box.transcoder, destination, "EDGE", steps=steps)
    box.forwarders["archive"] = forwarder
    forwarder.start()
    return forwarder


# -- what an answer means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "count", "meaning"),
    [
        (200, 5, Meaning.READ),
        (202, 5, Meaning.READ),
        (409, 1, Meaning.READ),
        (204, 1, Meaning.FAILED),
        (400, 5, Meaning.SPLIT),
        (400, 1, Meaning.REFUSED),
        (413, 2, Meaning.SPLIT),
        (413, 1, Meaning.REFUSED),
        (415, 1, Meaning.REFUSED),
        (500, 9, Meaning.SPLIT),
        (500, 1, Meaning.FAILED),
        (401, 5, Meaning.DENIED),
        (403, 1, Meaning.DENIED),
        (429, 5, Meaning.LATER),
        (502, 1, Meaning.UPSTREAM),
        (502, 5, Meaning.SPLIT),
        (503, 5, Meaning.LATER),
        (504, 1, Meaning.UPSTREAM),
        (301, 1, Meaning.WRONG),
        (404, 5, Meaning.WRONG),
        (405, 1, Meaning.WRONG),
    ],
)
def test_what_a_status_means(status: int, count: int, meaning: Meaning) -> None:
    assert meaning_of_answer(status, count) is meaning


XML = (
    b'<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
    b'<DicomAttribute tag="00081199" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">'
    b'1.2</Value></DicomAttribute></Item></DicomAttribute><DicomAttribute tag="00081198" vr="SQ"><Item number="1">'
    b'<DicomAttribute tag="00081155" vr="UI"><Value number="1">1.3</Value></DicomAttribute><DicomAttribute tag='
    b'"00081197" vr="US"><Value number="1">272</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>'
)


@pytest.mark.parametrize(
    ("content_type", "body", "report"),
    [
        ("application/dicom+json", stored("1.2", failed={"1.3": 272}), StowReport({"1.2": 0}, {"1.3": 272})),
        ("", b"[" + stored("1.2", warned={"1.2": 0xB000}) + b"]", StowReport({"1.2": 0xB000}, {})),
        ("application/dicom+xml", XML, StowReport({"1.2": 0}, {"1.3": 272})),
        ("application/json", stored("1.2", failed={"1.2": 1}), StowReport({}, {"1.2": 1})),  # in both: not stored
        ("text/html", b"<html>welcome", StowReport()),
        ("application/json", b"{", StowReport()),
        ("application/json", b"[1, null, {}]", StowReport()),
        ("application/json", b'{"00081199": {"Value": [{"00081155": {}}, 7]}}', StowReport()),
        ("application/json", b"", StowReport()),
    ],
)
def test_what_an_answer_names(content_type: str, body: bytes, report: StowReport) -> None:
    assert read_report(content_type, body) == report


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), ("", None), ("soon", None), ("-3", None), ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0)],
)
def test_when_to_come_again(text: str, seconds: float | None) -> None:
    assert retry_after(text, 10.0) == seconds


# -- a scripted server ---------------------------------------------------------------------------------------------


def test_a_backlog_goes_in_batches_byte_for_byte(box: Outbox, archive: MakeArchive, tmp_path: Path) -> None:
    there = archive(take_all)
    paths = ct_files(tmp_path / "ct", 40, 30_000)
    box.add(paths)
    forward(box, there)
    box.wait(confirmed=40)
    came = {parse_meta(each).sop_instance_uid: each for request in there.stores for each in request.files}
    sent = {sop_instance_uid(path): path.read_bytes() for path in paths}
    assert {uid: each[parse_meta(each).dataset_offset :] for uid, each in came.items()} == {
        uid: each[parse_meta(each).dataset_offset :] for uid, each in sent.items()
    }
    assert len(there.stores) < 20
    boundaries = [each.boundary for each in there.stores]
    assert len(set(boundaries)) == len(boundaries)
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in boundaries)
    assert all(b"127.0.0.1" not in each[:1000] for each in came.values())  # where it came from is our own affair


def test_what_is_named_in_neither_sequence_is_not_stored(box: Outbox, archive: MakeArchive) -> None:
    uids = box.make(3)
    there = archive(lambda request: Said(200, stored(*(set(request.uids) - {uids[1]})), JSON))
    forward(box, there)
    box.wait(confirmed=2, deferred=1)
    assert box.row(uids[1])["reason"] == (
        "the destination answered 200 OK, and named it neither as stored nor as failed"
    )


def test_each_instance_has_the_status_that_the_answer_says(box: Outbox, archive: MakeArchive) -> None:
    fine, warned, refused, later = box.make(4)
    failed = {refused: 0xA900, later: 0x0110}
    there = archive(
        lambda request: Said(
            202,
            stored(
                *(uid for uid in request.uids if uid in (fine, warned)),
                warned={warned: 0xB000},
                failed={uid: why for uid, why in failed.items() if uid in request.uids},
            ),
            JSON,
        )
    )
    forward(box, there)
    box.wait(confirmed=2, held=1, deferred=1)
    assert (box.row(fine)["status"], box.row(warned)["status"]) == (0, 0xB000)
    assert (box.row(refused)["state"], box.row(refused)["reason_code"]) == ("held", "refused")
    assert (box.row(later)["state"], box.row(later)["reason_code"]) == ("deferred", "failed")


@pytest.mark.parametrize("status", [413, 400, 500])
def test_a_request_that_fails_as_a_whole_is_halved_until_the_one_is_found(
    box: Outbox, archive: MakeArchive, status: int
) -> None:
    uids = box.make(8)
    there = archive(lambda request: Said(status) if uids[5] in request.uids else take_all(request))
    forward(box, there, associations=1)
    box.wait(confirmed=7, **{"deferred" if status == 500 else "held": 1})
    assert box.row(uids[5])["reason"].startswith(f"the destination answered {status} ")
    assert max(len(each.uids) for each in there.stores) > 1


def test_an_answer_that_never_comes_costs_only_the_one(
    box: Outbox, archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = box.make(4)
    there = archive(lambda request: Said(cut=True) if uids[2] in request.uids else take_all(request))
    forward(box, there, associations=1)
    box.wait(confirmed=3, deferred=1)
    assert box.row(uids[2])["breaks"] == 1


def test_401_is_not_welcome_and_holds_nobody_for_ever(box: Outbox, archive: MakeArchive) -> None:
    box.make(2)
    there = archive(lambda _: Said(401))
    forwarder = forward(box, there)
    wait_until(lambda: forwarder.describe().state == "down", 10, "the circuit is open")
    assert "compare the token" in str(forwarder.describe().last_error)
    box.wait(pending=2)


def test_a_token_of_oauth_is_asked_for_and_renewed_when_it_is_refused(
    box: Outbox, archive: MakeArchive, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret of the tests\n")
    secret.chmod(0o600)
    given: list[str] = []

    def script(request: Received) -> Said:
        if request.path == "/token":
            assert request.body == b"grant_type=client_credentials"
            assert request.headers["authorization"].startswith("Basic ")
            given.append(f"token-{len(given)}")
            return Said(200, json.dumps({"access_token": given[-1], "expires_in": 3600}).encode())
        if request.headers.get("authorization") != "Bearer token-1":
            return Said(401)
        return take_all(request)

    there = archive(script)
    oauth = OAuth(there.url.replace("/dicom-web", "/token"), "edge", str(secret))
    box.make(2)
    forward(box, there, oauth=oauth, associations=1)
    box.wait(confirmed=2)
    assert given == ["token-0", "token-1"]


def test_a_token_is_renewed_ahead_of_its_end(archive: MakeArchive, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret of the tests\n")
    secret.chmod(0o600)
    given, now = list[str](), [1000.0]

    def script(_: Received) -> Said:
        given.append(f"token-{len(given)}")
        return Said(200, json.dumps({"access_token": given[-1], "expires_in": 300}).encode())

    url = archive(script).url.replace("/dicom-web", "/token")
    source = OAuthToken(OAuth(url, "edge", str(secret)), ClientTls(), clock=lambda: now[0])
    assert [source.token(), source.token()] == ["token-0", "token-0"]
    now[0] += 299
    assert (source.token(), len(given)) == ("token-1", 2)
    assert source.renew("token-0")  # another request has renewed it meanwhile
    assert source.token() == "token-1"


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_time_gets_it_and_loses_nothing(box: Outbox, archive: MakeArchive, status: int) -> None:
    refused = list[float]()

    def script(request: Received) -> Said:
        if request.method == "POST" and not refused:
            refused.append(time.monotonic())
            return Said(status, headers={"Retry-After": "1"})
        return take_all(request)

    uids, there = box.make(3), archive(script)
    forwarder = forward(box, there, associations=1)
    box.wait(confirmed=3)
    assert str(status) in str(forwarder.describe().last_error)
    assert {uid for each in there.stores[1:] for uid in each.uids} == set(uids)
    assert there.received[1].began - refused[0] >= 1.0, "the circuit was open"


def test_mutual_tls_with_a_server_that_demands_it(box: Outbox, tmp_path: Path) -> None:
    """Without our certificate nothing gets there; with it all does, and when it ends is known."""
    authority = Authority(tmp_path / "ca")
    theirs, ours = authority.issue("localhost"), authority.issue("edge.example.org", days=5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    context.load_verify_locations(str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    there = WebArchive(take_all, context)
    try:
        uids = box.make(2)
        without = forward(box, there, ca=str(authority.ca), associations=1)
        wait_until(lambda: without.describe().last_error, 10, "it is refused")
        assert not there.received
        without.stop()
        files = {"client_certificate": str(ours.certificate), "client_key": str(ours.key)}
        welcome = forward(box, there, ca=str(authority.ca), associations=1, **files)
        box.wait(confirmed=2)
        assert {uid for each in there.stores for uid in each.uids} == set(uids)
        left = (welcome.certificate_expires or 0.0) - time.time()
        assert 4 * 86_400 < left < 6 * 86_400
    finally:
        there.close()


def test_a_token_in_a_file_is_read_for_each_request(box: Outbox, archive: MakeArchive, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-token-of-the-tests\n")
    token.chmod(0o600)
    there = archive(take_all)
    box.make(1)
    forward(box, there, token=str(token))
    box.wait(confirmed=1)
    assert {each.headers["authorization"] for each in there.stores} == {"Bearer the-token-of-the-tests"}


@pytest.mark.parametrize("has", ["the same", "another", "a longer one", "a shorter one"])
def test_one_that_is_there_already_is_compared(box: Outbox, archive: MakeArchive, has: str) -> None:
    (uid,) = box.make(1)
    ours, is_same = box.path(uid).read_bytes(), has == "the same"
    data = {"the same": ours, "another": ours[:-2] + b"??", "a longer one": ours * 9, "a shorter one": ours[:-2]}[has]

    def script(request: Received) -> Said:
        if request.method == "POST":
            return Said(409, stored(failed={uid: 45070}), JSON)
        assert request.path.endswith(f"/instances/{uid}")
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--b--\r\n"
        return Said(200, body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'})

    forward(box, archive(script))
    box.wait(**{"confirmed" if is_same else "held": 1})
    if not is_same:
        assert box.row(uid)["reason"] == "the destination has other bytes under its SOP Instance UID"


@pytest.mark.parametrize("reason", [0, 0x0107, 45071])  # the last one is Azure's: it is being created
def test_what_is_named_as_failed_was_not_stored_whatever_the_reason(
    box: Outbox, archive: MakeArchive, reason: int
) -> None:
    (uid,) = box.make(1)
    forward(box, archive(lambda _: Said(409, stored(failed={uid: reason}), JSON)))
    box.wait(deferred=1)
    assert box.row(uid)["reason"] == f"the destination names it as failed, with Failure Reason {reason:04X}"


def test_a_copy_that_is_there_already_is_compared_as_it_was_sent(
    box: Outbox, archive: MakeArchive, tmp_path: Path
) -> None:
    """An answer was lost: what is there is the copy without identity, and nobody there is asked for the original."""
    (uid,) = box.add(ct_files(tmp_path / "ct", 1, 4096, BurnedInAnnotation="NO"))

    def script(request: Received) -> Said:
        if request.method == "POST":
            return Said(409, stored(failed={request.uids[0]: 45070}), JSON)
        (copy,) = there.stores[-1].files
        ds = pydicom.dcmread(BytesIO(copy))
        series = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
        assert request.path.endswith(f"{series}/instances/{ds.SOPInstanceUID}")
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + copy + b"\r\n--b--\r\n"
        return Said(200, body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'})

    there = archive(script)
    forward(box, there, CopySteps(project=Deidentification("T17", bytes(32))))
    box.wait(confirmed=1)
    assert not [each for each in there.received if uid.encode() in each.path.encode() + each.body]


class Endless:
    """An answer to WADO-RS that begins with an object and goes on for ever."""

    status, headers = 200, MappingProxyType({"content-type": "application/dicom"})

    def __init__(self, begin: bytes) -> None:
        self._begin, self.given, self.is_closed = begin, 0, False

    def pieces(self) -> Iterator[bytes]:
        piece = self._begin
        while True:
            self.given += 1
            yield piece
            piece = bytes(len(self._begin))

    def close(self) -> None:
        self.is_closed = True


def test_what_is_there_is_compared_as_it_comes_and_no_further_than_ours(box: Outbox) -> None:
    (uid,) = box.make(1)
    data = box.path(uid).read_bytes()
    meta, answer = parse_meta(data[:MAX_META]), Endless(data)
    job = SimpleNamespace(
        data_set_bytes=len(data) - meta.dataset_offset,
        transfer_syntax_uid=meta.context_key.transfer_syntax_uid,
        study_uid="1.2",
        sop_instance_uid=uid,
        sha256=bytes(32),
    )
    with box.path(uid).open("rb") as file:
        there = SimpleNamespace(open=lambda *_: answer)
        assert not has_same_bytes(there, file.fileno(), meta.dataset_offset, job)  # type: ignore[arg-type]
    assert (answer.given, answer.is_closed) == (2, True)


def test_a_damaged_file_of_ours_never_leaves(box: Outbox, archive: MakeArchive) -> None:
    uids = box.make(3)
    path = box.path(uids[1])
    path.write_bytes(path.read_bytes()[:-2] + b"??")
    there = archive(take_all)
    forward(box, there)
    box.wait(confirmed=2, held=1)
    assert box.row(uids[1])["instance_state"] == "lost"
    assert uids[1] not in {uid for request in there.stores for uid in request.uids}


def test_a_server_that_is_away_is_probed_and_gets_all_when_it_is_back(
    box: Outbox, archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.outbound.pace.LINK_FIRST", 0.05)
    is_away = [True]
    there = archive(lambda request: Said(503) if is_away[0] else take_all(request))
    box.make(5)
    forwarder = forward(box, there)
    wait_until(lambda: forwarder.describe().state == "down", 10, "the circuit is open")
    wait_until(lambda: any(each.method == "GET" for each in there.received), 10, "a probe")
    is_away[0] = False
    box.wait(confirmed=5)


@pytest.mark.parametrize("status", [502, 504])
def test_an_object_that_what_is_behind_a_server_never_answers_stops_no_other(
    box: Outbox, archive: MakeArchive, status: int
) -> None:
    """The oldest one: each request with it ends so, such as where the archive runs out of memory with it."""
    bad, *_ = box.make(8)
    there = archive(
        lambda request: Said(status) if request.method == "POST" and bad in request.uids else take_all(request)
    )
    forwarder = forward(box, there)
    box.wait(confirmed=7, deferred=1)
    assert box.row(bad)["reason"].startswith(f"the destination answered {status} ")
    assert forwarder.describe().state == "up"


def test_a_server_with_nothing_behind_it_holds_nothing(
    box: Outbox, archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.outbound.pace.LINK_FIRST", 0.05)
    is_away = [True]
    there = archive(lambda request: Said(502) if is_away[0] else take_all(request))
    box.make(12)
    forwarder = forward(box, there)
    wait_until(lambda: forwarder.describe().refuses, 10, "it takes nothing")
    assert forwarder.describe().last_error == "it answers 502 Bad Gateway"
    is_away[0] = False
    box.come_due()
    box.wait(confirmed=12)


def test_batches_are_bounded_by_bytes(box: Outbox, archive: MakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "REQUEST_BYTES", 100_000)
    there = archive(take_all)
    box.make(8, 60_000)
    forward(box, there)
    box.wait(confirmed=8)
    assert max(len(each.uids) for each in there.stores) == 2


# -- Orthanc ----------------------------------------------------------------------------------------------------------


def test_orthanc_gets_all_by_stow_and_proves_it_by_qido(tmp_path: Path) -> None:
    """What is kept as it came, and what goes corrected and compressed."""
    with web_orthanc(tmp_path / "orthanc") as orthanc:
        cloud = f'kind = "dicomweb"\nurl = "http://127.0.0.1:{orthanc.http_port}/dicom-web"\n'
        config = (
            f'[destination.plain]\n{cloud}[destination.changed]\n{cloud}compress = "jpeg-ls"\n'
            '[coerce.site]\nto = ["changed"]\nset = { InstitutionName = "Example Health Clinic" }\n'
            '[route.changed]\nto = ["changed"]\nwhen = { PatientID = "P2" }\n'
            '[route.plain]\nto = ["plain"]\nwhen = { PatientID = "P1" }\n'
        )
        with Edge(tmp_path / "edge", config) as edge:
            plain = ct_files(tmp_path / "plain", 30, 20_000, PatientID="P1")
            (path,) = ct_files(tmp_path / "changed", 1, 40_000, PatientID="P2", PixelData=bytes(39 * 1024))
            storescu([*plain, path], edge.port)

            def are_proved() -> bool:
                destinations = edge.api_status()["destinations"]
                return [destinations[each]["confirmed"] for each in ("plain", "changed")] == [30, 1]

            wait_until(are_proved, 60, "all are proved by QIDO-RS", interval=0.2)
            there = orthanc.instances()
            assert set(there) == set(map(sop_instance_uid, [*plain, path]))
            got, sent = pydicom.dcmread(BytesIO(orthanc.file(there[sop_instance_uid(path)]))), pydicom.dcmread(path)
            assert got.InstitutionName == "Example Health Clinic"
            assert got.OriginalAttributesSequence[0].ReasonForTheAttributeModification == "COERCE"
            assert str(got.file_meta.TransferSyntaxUID) == "1.2.840.10008.1.2.4.80"
            assert (got.pixel_array == sent.pixel_array).all()
            found = json.loads(edge.cli("prove", "--json", str(sent.StudyInstanceUID)).stdout)
            assert [each["payload"]["rules"] for each in found["events"] if each["event"] == "changed"] == [["site"]]
