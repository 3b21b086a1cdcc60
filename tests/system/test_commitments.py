"""Storage commitment for modalities with real peers: dcmjs-dimse and Orthanc as scanners, Orthanc as archive."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from tests.support.certificates import Authority, Pair
from tests.support.committing import CT_CLASS, DcmjsModality, ask
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, echoscu, free_port, routes_to, storescu, wait_until

MODALITY = """
[modality.ct1]
ae_title = "{ae_title}"
hosts = ["127.0.0.1"]
port = {port}
services = ["echo", "store", "commit"]
commit = "{commit}"
"""


def modality(port: int, commit: str = "local", ae_title: str = "CT1") -> str:
    return MODALITY.format(port=port, commit=commit, ae_title=ae_title)


def listed(edge: Edge) -> list[dict[str, Any]]:
    done = edge.cli("commitments", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def state(edge: Edge) -> list[tuple[str, str]]:
    return [(each["transaction_uid"], each["state"]) for each in listed(edge)]


@pytest.mark.slow
def test_a_scanner_that_is_off_has_its_report_in_the_morning(tmp_path: Path) -> None:
    """dcmjs-dimse with its port closed; the gateway is killed between the answer and the report."""
    port, archive = free_port(), StoreScp(tmp_path / "archive")
    with archive, Edge(tmp_path / "edge", routes_to(archive) + modality(port), unknown="refuse") as edge:
        (path,) = ct_files(tmp_path / "ct", 1, 20_000)
        uid = sop_instance_uid(path)
        storescu([path], edge.port)
        arguments = ["--uid", "1.2.826.0.1.9", "--late", "600", "--wait", "600", "127.0.0.1", str(edge.port), "CT1"]
        named = [f"{CT_CLASS}/{uid}", f"{CT_CLASS}/9.9.9"]
        with DcmjsModality(tmp_path / "asks", [*arguments, "EDGE", str(port), *named]) as scanner:
            (answer,) = wait_until(lambda: scanner.events("n-action"), 30, "the answer")
            assert answer["status"] == "0000"
            edge.kill()
        edge.start()
        wait_until(lambda: any(each["tries"] for each in listed(edge)), 60, "a try that fails", interval=0.5)
        assert state(edge) == [("1.2.826.0.1.9", "decided")]
        assert edge.api_status()["commitments"] == {"open": 1}
        edge.kill()
        edge.start()
        with DcmjsModality(
            tmp_path / "takes", ["--only-listen", "--wait", "600", "-", "1", "CT1", "EDGE", str(port)]
        ) as scanner:
            wait_until(lambda: scanner.events("listening"), 30, "its port is open")
            echoscu(edge.port)  # it calls for anything: the report comes at once
            (report,) = wait_until(lambda: scanner.events("report"), 20, "the report")
            assert (report["type"], report["transaction"], report["where"]) == (2, "1.2.826.0.1.9", "new association")
            assert (report["committed"], report["failed"]) == ([uid], [["9.9.9", "0112"]])
            (call,) = scanner.events("called")
            assert (call["by"], call["as"]) == ("EDGE", "CT1")
            # Before the modality ends: it may have said that it has the report, and not yet answered it.
            wait_until(lambda: state(edge) == [("1.2.826.0.1.9", "reported")], 20, "it is on record", interval=0.5)
        assert edge.api_status()["commitments"] == {"open": 0}
        study = edge.cli("studies", "list", "--json")
        (found,) = json.loads(study.stdout)
        proof = edge.cli("prove", found["study_uid"]).stdout
        assert "committed to CT1" in proof
        assert "transaction 1.2.826.0.1.9" in proof
        people = edge.cli("commitments", "list").stdout
        assert "reported" in people
        assert "ct1" in people


@pytest.mark.slow
def test_orthanc_as_a_scanner(tmp_path: Path) -> None:
    edge_port = free_port()
    with Orthanc(tmp_path / "scanner", edge_port) as scanner:
        text = '[route.all]\nto = ["archive"]\n[destination.archive]\nae_title = "A"\nhost = "127.0.0.1"\nport = 1\n'
        text += modality(scanner.port, ae_title="ORTHANC")
        with Edge(tmp_path / "edge", text, unknown="refuse", port=edge_port) as edge:
            files = ct_files(tmp_path / "ct", 3, 20_000)
            storescu(files, edge.port, calling="ORTHANC")
            uids = [sop_instance_uid(each) for each in files]
            body = {"DicomInstances": [[CT_CLASS, uid] for uid in [*uids, "9.9.9"]]}
            request = urllib.request.Request(
                scanner.url("/modalities/edge/storage-commitment"), json.dumps(body).encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                identifier = json.loads(response.read())["ID"]
            path = f"/storage-commitment/{identifier}"
            wait_until(lambda: scanner.get(path)["Status"] != "Pending", 40, "the report", interval=0.2)
            report = scanner.get(path)
            assert report["Status"] == "Failure", "of one"
            assert {each["SOPInstanceUID"] for each in report["Success"]} == set(uids)
            (failure,) = report["Failures"]
            assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("9.9.9", 0x0112)
            wait_until(lambda: state(edge)[0][1] == "reported", 20, "it is on record", interval=0.5)


@pytest.mark.slow
def test_nothing_is_promised_for_an_archive_that_is_down(tmp_path: Path) -> None:
    """Only what the archive has proved is committed, when it has."""
    edge_port, port = free_port(), free_port()
    archive = Orthanc(tmp_path / "archive", edge_port)
    text = routes_to(archive, confirm="commitment") + modality(port, "archive")
    with Edge(tmp_path / "edge", text, unknown="refuse", port=edge_port) as edge:
        arguments = ["--wait", "600", "127.0.0.1", str(edge.port), "CT1", "EDGE", str(port)]
        files = ct_files(tmp_path / "ct", 3, 20_000)
        storescu(files, edge.port)
        uids = [sop_instance_uid(each) for each in files]
        with DcmjsModality(tmp_path / "ct1", [*arguments, *(f"{CT_CLASS}/{uid}" for uid in uids)]) as scanner:
            wait_until(lambda: scanner.events("n-action"), 30, "the answer")
            wait_until(lambda: edge.api_status()["destinations"]["orthanc"]["state"] == "down", 60, "it is down")
            assert not scanner.events("report")
            assert [each["state"] for each in listed(edge)] == ["waiting"]
            with archive:
                (report,) = wait_until(lambda: scanner.events("report"), 120, "the report", interval=0.2)
                assert (report["type"], set(report["committed"])) == (1, set(uids))
                assert edge.api_status()["destinations"]["orthanc"]["confirmed"] == 3


def test_the_check_knows_the_word_and_warns_of_what_is_not_reported(tmp_path: Path) -> None:
    with StoreScp(tmp_path / "archive") as archive:
        edge = Edge(tmp_path / "edge", routes_to(archive) + modality(104), unknown="refuse")
        said = edge.cli("check").stdout
        assert "no effect" not in said
        assert "commitment" not in said
        edge.configure(routes_to(archive) + modality(104, "archive").replace("port = 104\nservices", "services"))
        said = edge.cli("check").stdout
        assert "modality.ct1.services: its requests for storage commitment are refused" in said
        assert 'the C-STORE status alone is the proof (confirm = "status")' in said


def test_the_list_is_json_and_its_end_is_said(tmp_path: Path) -> None:
    archive = StoreScp(tmp_path / "archive")
    with archive, Edge(tmp_path / "edge", routes_to(archive) + modality(free_port()), unknown="refuse") as edge:
        assert listed(edge) == []
        assert ask(edge.port, [(CT_CLASS, "1.2.3")], "1.2.9").status == 0
        edge.settle()
        (found,) = listed(edge)
        assert (found["transaction_uid"], found["state"], found["modality"]) == ("1.2.9", "waiting", "ct1")
        assert found["requested_at"].endswith("Z")


# -- over TLS ---------------------------------------------------------------------------------------------------------


class TlsModality:
    """pynetdicom as a scanner that speaks TLS alone, with one certificate to call and another to be called with."""

    def __init__(self, ca: Path, calls: Pair, called: Pair) -> None:
        self.port = free_port()
        self._ca, self._calls, self._called = ca, calls, called
        self.reports: list[tuple[int, Dataset, str]] = []  # event type, content, subject of our certificate

    def _context(self, side: ssl.Purpose, pair: Pair) -> ssl.SSLContext:
        context = ssl.create_default_context(side, cafile=str(self._ca))
        context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _take(self, event: evt.Event) -> tuple[int, None]:
        peer = event.assoc.dul.socket.socket.getpeercert()
        self.reports.append((event.request.EventTypeID, event.event_information, str(peer["subject"])))
        return 0, None

    @contextmanager
    def listening(self) -> Iterator[None]:
        ae = AE("CT1")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        context = self._context(ssl.Purpose.CLIENT_AUTH, self._called)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        server = ae.start_server(("127.0.0.1", self.port), False, ssl_context=context, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()

    def ask(self, port: int, uid: str) -> str:
        asked, reference = Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT_CLASS, uid
        asked.TransactionUID, asked.ReferencedSOPSequence = generate_uid(), [reference]
        ae = AE("CT1")
        ae.add_requested_context(StorageCommitmentPushModel)
        context = self._context(ssl.Purpose.SERVER_AUTH, self._calls)
        association = ae.associate("127.0.0.1", port, ae_title="EDGE", tls_args=(context, None))
        assert association.is_established
        status, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        association.release()
        assert status.Status == 0
        return str(asked.TransactionUID)


def test_who_asks_over_tls_has_its_report_over_tls_and_nobody_else(tmp_path: Path) -> None:
    """Both certificates are checked: whoever listens at the scanner's address with another one hears nothing."""
    clinic, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "Stranger CA")
    own, calls = clinic.issue("edge.example.org", "127.0.0.1"), clinic.issue("ct1.example.org", "127.0.0.1", file="ct1")
    tls = free_port()
    forged = TlsModality(clinic.ca, calls, stranger.issue("ct1.example.org", "127.0.0.1"))
    other = TlsModality(clinic.ca, calls, clinic.issue("ct2.example.org", "127.0.0.2"))
    scanner = TlsModality(clinic.ca, calls, calls)
    forged.port = other.port = scanner.port
    config = modality(scanner.port) + 'certificate = "ct1.example.org"\n'
    config += f'[tls]\nport = {tls}\ncertificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{clinic.ca}"\n'
    with StoreScp(tmp_path / "archive") as archive, Edge(tmp_path / "edge", routes_to(archive) + config) as edge:
        (path,) = ct_files(tmp_path / "ct", 1, 20_000)
        storescu([path], tls, *calls.dcmtk(clinic.ca))
        with forged.listening():
            uid = forged.ask(tls, sop_instance_uid(path))
            (found,) = wait_until(lambda: [each for each in listed(edge) if each["tries"]], 20, "a try", interval=0.3)
            assert "no TLS with it" in found["last_error"]
        with other.listening():
            other.ask(tls, "1.2.3")
            wait_until(lambda: len([each for each in listed(edge) if each["tries"]]) == 2, 20, "a try", interval=0.3)
        assert not forged.reports
        assert not other.reports
        with scanner.listening():
            scanner.ask(tls, "1.2.4")  # it calls: what is owed is reported at once
            wait_until(lambda: len(scanner.reports) == 3, 30, "all reports")
        assert uid in {str(content.TransactionUID) for _, content, _ in scanner.reports}
        assert all("edge.example.org" in subject for *_, subject in scanner.reports)
