"""The doors and the service behind them, with DCMTK and with callers that misbehave."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind, Verification

from edge.config.sections import Listen
from edge.dicom import acse, command, pdu
from edge.dicom.acse import Context, Request
from edge.dicom.command import CommandField, Element
from edge.dicom.uids import STORAGE_COMMITMENT_PUSH
from edge.dicom.wire import Wire
from edge.errors import AssociationRejected, StorageFull
from edge.network import shares
from edge.network.shares import Share
from edge.network.tls import Certificate
from edge.scp import association, listener
from edge.scp.admission import admit
from edge.scp.services import choose
from tests.support.gateway import CONFIG, Receiving, configuration
from tests.support.objects import ct_files, dataset, part10, sop_instance_uid
from tests.support.peers import dcmsend, echoscu, storescu, wait_until

EXPLICIT = "1.2.840.10008.1.2.1"
CT = str(CTImageStorage)
#: What `caller` opened in this test; closed when it ends.
WIRES: list[Wire] = []


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


@pytest.fixture(autouse=True)
def _close_callers() -> Iterator[None]:
    yield
    while WIRES:
        WIRES.pop().close()


def caller(port: int, calling: str = "CT1", contexts: tuple[Context, ...] | None = None) -> Wire:
    """Our own SCU, byte by byte: it can misbehave."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    contexts = contexts or (Context(1, CT, (EXPLICIT,)), Context(3, str(Verification), (EXPLICIT,)))
    sock.sendall(acse.request_pdu(Request(calling, "EDGE", contexts, 0)))
    head = sock.recv(6, socket.MSG_WAITALL)
    body = sock.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
    if head[0] == pdu.A_ASSOCIATE_RJ:
        sock.close()
        raise acse.parse_reject(head + body)
    WIRES.append(Wire(sock, acse.parse_accept(head + body).max_pdu))
    return WIRES[-1]


def store_rq(uid: str, sop_class: str = CT, **more: int) -> dict[int, int | str]:
    return {
        Element.AFFECTED_SOP_CLASS_UID: sop_class,
        Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
        Element.MESSAGE_ID: 1,
        Element.PRIORITY: 0,
        Element.DATA_SET_TYPE: command.DATA_SET,
        Element.AFFECTED_SOP_INSTANCE_UID: uid,
    }


def store(wire: Wire, path: Path, uid: str = "") -> command.Command:
    wire.send_message(1, store_rq(uid or sop_instance_uid(path)), dataset(path))
    return wire.read_command(60)[1]


def test_storescu_delivers_and_the_data_set_is_kept_byte_for_byte(edge: Receiving, tmp_path: Path) -> None:
    sent = ct_files(tmp_path / "ct", 5, 200_000)
    storescu(sent, edge.port)
    assert sorted(map(dataset, edge.files())) == sorted(map(dataset, sent))
    assert edge.rows("SELECT count(*) FROM delivery WHERE state = 'pending' AND destination = 'archive'") == [(5,)]
    assert edge.queued == ["archive"] * 5
    assert edge.partials() == []


def test_dcmsend_delivers(edge: Receiving, tmp_path: Path) -> None:
    sent = ct_files(tmp_path / "ct", 3, 50_000)
    dcmsend(sent, edge.port)
    assert sorted(map(dataset, edge.files())) == sorted(map(dataset, sent))


def test_echo(edge: Receiving) -> None:
    echoscu(edge.port)


def test_a_caller_not_named_is_rejected_and_remembered(tmp_path: Path) -> None:
    text = CONFIG.replace('ae_title = "*"', 'ae_title = "CT*"\nhosts = ["127.0.0.0/8"]')
    with Receiving(tmp_path, text) as edge:
        with pytest.raises(AssociationRejected) as refusal:
            caller(edge.port, "STRANGER")
        assert (refusal.value.result, refusal.value.source, refusal.value.reason) == (1, 1, 3)
        caller(edge.port, "CT9").close()
        work = edge.callers.take()
        assert work is not None
        edge.db.write(work)
        peers = edge.rows("SELECT ae_title, address, admitted FROM peer ORDER BY ae_title")
        assert peers == [("CT9", "127.0.0.1", 1), ("STRANGER", "127.0.0.1", 0)]


@pytest.mark.parametrize(
    ("ae_title", "address", "modality"),
    [
        ("CT1", "10.4.0.9", "ct"),
        ("CT1", "10.5.0.1", ""),
        ("ct1", "10.4.0.9", ""),
        ("MR1", "fd00::7", "mr"),
        ("X", "10.4.0.9", ""),
    ],
)
def test_admission_is_by_title_and_address(tmp_path: Path, ae_title: str, address: str, modality: str) -> None:
    text = CONFIG.replace(
        '[modality.any]\nae_title = "*"',
        '[modality.ct]\nae_title = "CT?"\nhosts = ["10.4.0.0/16"]\n'
        '[modality.mr]\nae_title = "MR1"\nhosts = ["fd00::/8"]',
    )
    config = configuration(tmp_path, text)
    assert admit(config, ae_title, address).modality == modality
    assert config.listen == Listen(ae_title="EDGE")


MATRIX = """
[tls]
certificate = "edge.pem"
key = "edge.key"
ca = "ca.pem"
[modality.ct]
ae_title = "CT1"
hosts = ["10.4.0.0/16"]
certificate = "ct1.*"
[modality.old]
ae_title = "OLD"
hosts = ["10.4.0.7"]
services = ["store"]
[modality.pinned]
ae_title = "PINNED"
certificate = "sha256:AB{}"
services = ["echo"]
[modality.others]
ae_title = "*"
certificate = "*.clinic"
services = ["echo", "query", "admin"]
[destination.secured]
ae_title = "VNA"
host = "vna.clinic"
port = 104
tls = true
[destination.named]
ae_title = "PACS"
host = "pacs.clinic"
port = 104
certificate = "pacs.clinic"
""".replace("{}", "ab" * 31)

CT_CERT = Certificate(("ct1.clinic",), "sha256:" + "11" * 32, 0.0)
PINNED_CERT = Certificate(("x",), "sha256:" + "ab" * 32, 0.0)
VNA_CERT = Certificate(("vna.elsewhere",), "sha256:" + "22" * 32, 0.0)
PACS_CERT = Certificate(("pacs.clinic",), "sha256:" + "33" * 32, 0.0)

# Services: e(cho), s(tore), c(ommitment reports); query and admin open nothing.
ADMISSIONS = [
    ("CT1", "10.4.0.9", CT_CERT, "es"),
    ("CT1", "10.4.0.9", None, ""),
    ("CT1", "10.4.0.9", PINNED_CERT, ""),
    ("CT1", "10.5.0.9", CT_CERT, "e"),  # at another address it is one of the others
    ("CT1", "10.5.0.9", None, ""),
    ("OLD", "10.4.0.7", None, "s"),
    ("OLD", "10.4.0.7", CT_CERT, "s"),
    ("OLD", "10.4.0.8", None, ""),
    ("PINNED", "192.0.2.1", PINNED_CERT, "e"),
    ("PINNED", "192.0.2.1", CT_CERT, ""),
    ("ANY", "192.0.2.1", CT_CERT, "e"),
    ("ANY", "192.0.2.1", VNA_CERT, ""),
    ("ANY", "192.0.2.1", None, ""),
    ("VNA", "192.0.2.1", None, ""),
    ("VNA", "192.0.2.1", VNA_CERT, "ec"),
    ("PACS", "192.0.2.1", None, ""),
    ("PACS", "192.0.2.1", VNA_CERT, ""),
    ("PACS", "192.0.2.1", PACS_CERT, "ec"),
]


@pytest.mark.parametrize(("ae_title", "address", "certificate", "services"), ADMISSIONS)
def test_title_network_certificate_and_service_all_decide(
    tmp_path: Path, ae_title: str, address: str, certificate: Certificate | None, services: str
) -> None:
    config = configuration(tmp_path, CONFIG.split("[modality", 1)[0] + MATRIX)
    admission = admit(config, ae_title, address, certificate)
    asked = {
        "e": str(Verification),
        "s": CT,
        "c": STORAGE_COMMITMENT_PUSH,
        "q": str(PatientRootQueryRetrieveInformationModelFind),
    }
    taken = [name for name, uid in asked.items() if choose(admission, Context(1, uid, (EXPLICIT,))).result == 0]
    assert "".join(taken) == services
    assert admission.is_granted == bool(services)
    assert admission.is_granted or admission.refusal_reason


def test_a_service_that_is_not_open_is_refused_by_context(tmp_path: Path) -> None:
    text = CONFIG.replace('ae_title = "*"', 'ae_title = "*"\nservices = ["store"]')
    with Receiving(tmp_path, text) as edge:
        assert "No Acceptable Presentation Contexts" in echoscu(edge.port, check=False).stderr
        storescu(ct_files(tmp_path / "ct", 1, 10_000), edge.port)


def test_unknown_callers_may_be_accepted_and_archives_may_not_store(tmp_path: Path) -> None:
    config = configuration(tmp_path, CONFIG.replace('ae_title = "*"', 'ae_title = "CT1"'))
    archive = admit(config, "ARCHIVE", "127.0.0.1")
    assert archive.destination == "archive"
    assert choose(archive, Context(1, CT, (EXPLICIT,))).result == acse.USER_REJECTION
    accepting = configuration(tmp_path, CONFIG.replace("[listen]", '[listen]\nunknown = "accept"'))
    assert admit(accepting, "ANYONE", "10.0.0.1").is_granted


def test_every_storage_class_and_syntax_is_taken_and_other_services_are_not(edge: Receiving) -> None:
    contexts = (
        Context(1, "1.2.3.4.5.6.7", ("1.2.840.10008.1.2.4.112",)),  # a private class, JPEG XL
        Context(3, CT, ("1.2.840.10008.1.2.4.201", EXPLICIT)),  # HTJ2K first: taken as it would come
        Context(5, str(PatientRootQueryRetrieveInformationModelFind), (EXPLICIT,)),
    )
    request = Request("CT1", "EDGE", contexts, 0)
    sock = socket.create_connection(("127.0.0.1", edge.port), timeout=60)
    sock.sendall(acse.request_pdu(request))
    answer = acse.parse_accept(sock.recv(65_536))
    sock.close()
    assert answer.contexts == {1: "1.2.840.10008.1.2.4.112", 3: "1.2.840.10008.1.2.4.201"}
    assert answer.refused == {5: acse.USER_REJECTION}  # it is there, and not for this caller


def test_the_same_object_again_changes_nothing(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    wire = caller(edge.port)
    assert store(wire, path).number(Element.STATUS) == 0
    before = edge.files(), edge.rows("SELECT * FROM instance"), edge.rows("SELECT * FROM delivery")
    assert store(wire, path).number(Element.STATUS) == 0
    assert before == (edge.files(), edge.rows("SELECT * FROM instance"), edge.rows("SELECT * FROM delivery"))
    wire.close()


@pytest.mark.parametrize(("conflicts", "state"), [("hold", "held"), ("forward", "pending")])
def test_other_bytes_under_a_known_uid_are_kept_beside_the_first(tmp_path: Path, conflicts: str, state: str) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    other = tmp_path / "other.dcm"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    other.write_bytes(blob)
    with Receiving(tmp_path, CONFIG.replace("[listen]", f'[listen]\nconflicts = "{conflicts}"')) as edge:
        wire = caller(edge.port)
        assert [store(wire, each).number(Element.STATUS) for each in (path, other)] == [0, 0]
        wire.close()
        assert sorted(map(dataset, edge.files())) == sorted([dataset(path), dataset(other)])
        assert edge.rows("SELECT state FROM instance ORDER BY id") == [("stored",), ("conflict",)]
        assert edge.rows("SELECT state FROM delivery ORDER BY id") == [("pending",), (state,)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: b"\x08\x00\x05\x00ZZ\xff\xff" + blob,  # no such VR, and a length that lies
        lambda blob: blob[:200],  # cut
        lambda blob: (
            b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff"
            + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff" * 1000
            + blob
        ),
    ],
)
def test_an_unreadable_object_is_quarantined_and_the_sender_is_told(edge: Receiving, tmp_path: Path, damage) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    data = damage(dataset(path))
    wire = caller(edge.port)
    for _ in range(2):  # a sender that tries again does not fill the disk
        wire.send_message(1, store_rq("1.2.3.4"), data)
        answer = wire.read_command(60)[1]
        assert answer.number(Element.STATUS) == 0xC000
        assert "quarantine" in answer.text(Element.ERROR_COMMENT)
    assert store(wire, path).number(Element.STATUS) == 0  # the association goes on
    wire.close()
    states = edge.rows("SELECT state, reason <> '' FROM instance ORDER BY id")
    assert states == [("quarantined", 1), ("stored", 0)]
    assert data in [dataset(each) for each in edge.files()]


def test_a_data_set_that_is_not_what_the_command_says_is_quarantined(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    wire = caller(edge.port)
    assert store(wire, path, uid="1.2.3.4").number(Element.STATUS) == 0xC000
    wire.close()


@pytest.mark.parametrize("uid", ["../../../../tmp/pwned", "", "1" * 65, "1.2 3", "1.2/3", "1.2\x003", "<b>", "'; --"])
def test_a_uid_that_is_none_is_refused(edge: Receiving, tmp_path: Path, uid: str) -> None:
    wire = caller(edge.port)
    wire.send_message(1, store_rq(uid), b"x" * 1000)
    assert wire.read_command(60)[1].number(Element.STATUS) in (0x0117,)
    wire.close()
    assert edge.files() == []


def test_no_room_is_said_before_bytes_are_taken_and_echo_goes_on(tmp_path: Path) -> None:
    room = [False]

    def check_room() -> None:
        if not room[0]:
            raise StorageFull("no room")

    (path,) = ct_files(tmp_path / "ct", 1, 20_000)
    with Receiving(tmp_path, check_room=check_room) as edge:
        echoscu(edge.port)
        wire = caller(edge.port)
        assert store(wire, path).number(Element.STATUS) == 0xA700
        assert edge.files() == edge.partials() == []
        room[0] = True
        assert store(wire, path).number(Element.STATUS) == 0
        wire.close()


def test_room_that_ends_within_an_object(tmp_path: Path) -> None:
    calls = [0]

    def check_room() -> None:
        calls[0] += 1
        if calls[0] > 1:
            raise StorageFull("no room")

    (path,) = ct_files(tmp_path / "ct", 1, 20 << 20)
    with Receiving(tmp_path, check_room=check_room) as edge:
        wire = caller(edge.port)
        assert store(wire, path).number(Element.STATUS) == 0xA700
        assert edge.files() == edge.partials() == []
        wire.close()


def test_an_object_cut_short_leaves_nothing(edge: Receiving, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 300_000)
    wire = caller(edge.port)
    message = wire._fragments(1, 1, command.encode(store_rq(sop_instance_uid(path)))) + wire._fragments(
        1, 0, dataset(path)
    )
    wire.send_raw(message[:200_000])
    wait_until(lambda: edge.is_receiving, 10, "the object is being received")
    wire.close()
    wait_until(lambda: not edge.is_receiving, 10, "what was received is gone")
    assert edge.files() == []


def test_a_message_in_a_context_that_was_not_accepted_aborts(edge: Receiving) -> None:
    wire = caller(edge.port)
    wire.send_message(99, store_rq("1.2.3"), b"x")
    with pytest.raises(pdu.Aborted):
        wire.read_command(60)


def test_release_is_answered(edge: Receiving) -> None:
    wire = caller(edge.port)
    wire.send_raw(pdu.release_rq())
    assert wire.sock.recv(10, socket.MSG_WAITALL)[0] == pdu.A_RELEASE_RP
    wire.close()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_who_does_not_ask_for_an_association_is_sent_away(edge: Receiving, rubbish: bytes) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(rubbish)
        try:
            assert sock.recv(10) == b""
        except ConnectionResetError:
            pass  # closed with our bytes unread


def test_damaged_requests_are_aborted(edge: Receiving) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(struct.pack(">BxL", 1, 100) + os.urandom(68) + b"\x20\0\xff\xff" + os.urandom(28))
        assert sock.recv(10) == pdu.abort(2, 6)


def test_the_silent_do_not_keep_anyone_waiting(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 600.0)
    silent = [socket.create_connection(("127.0.0.1", edge.port)) for _ in range(shares.UNASSOCIATED.each + 50)]
    before = threading.active_count()
    echoscu(edge.port)
    assert threading.active_count() <= before + 1
    assert 0 < len(edge.door._waiting) <= shares.UNASSOCIATED.each, "they still wait"
    for sock in silent:
        sock.close()


def test_the_late_are_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.2)
    with Receiving(tmp_path) as edge, socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(b"\x01\x00\x00")
        assert sock.recv(1) == b""


def test_too_many_associations_are_rejected_as_a_local_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "ASSOCIATIONS", Share(2, 2))
    with Receiving(tmp_path) as edge:
        wires = [caller(edge.port), caller(edge.port)]
        with pytest.raises(AssociationRejected) as refusal:
            caller(edge.port)
        assert (refusal.value.result, refusal.value.source, refusal.value.reason) == (2, 3, 2)
        wires.pop().abort()
        wait_until(lambda: edge.associations.total == 1, 10, "the place is free")
        caller(edge.port).close()
        wires.pop().close()


def test_one_address_cannot_take_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "ASSOCIATIONS", Share(1, 9, 2))
    with Receiving(tmp_path) as edge:
        wire = caller(edge.port)
        for _ in range(3):
            with pytest.raises(AssociationRejected, match="local limit exceeded"):
                caller(edge.port)
        assert edge.refused() == ["1 associations from this address are open, the most"], "said once"
        wire.abort()
        wait_until(lambda: not edge.associations.total, 10, "the place is free")
        caller(edge.port).close()


def test_a_machine_without_threads_rejects_for_now(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(AssociationRejected, match="local limit exceeded"):
            caller(edge.port)
    assert edge.refused() == ["the system gives no more threads"]
    caller(edge.port).close()


def test_a_fault_of_ours_does_not_close_the_door(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(edge.door, "_hand_over", lambda caller: 1 / 0)
        with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
            sock.sendall(acse.request_pdu(Request("CT1", "EDGE", (Context(1, CT, (EXPLICIT,)),), 0)))
            assert sock.recv(1) == b""
    caller(edge.port).close()


@pytest.mark.parametrize(
    ("offence", "why"),
    [
        (struct.pack(">BxL", pdu.P_DATA_TF, 0xFFFFFFF0), "a P-DATA-TF PDU of 4294967280 bytes where"),
        (struct.pack(">BxLLBB", pdu.P_DATA_TF, 6, 2, 1, 2), "a data set fragment came where a command was due"),
        (struct.pack(">BxL", 0x09, 4) + b"xxxx", "a PDU of type 0x09"),
    ],
)
def test_a_limit_that_is_hit_is_reported(edge: Receiving, offence: bytes, why: str) -> None:
    for _ in range(3):
        wire = caller(edge.port)
        wire.send_raw(offence)
        with pytest.raises(pdu.Aborted):
            wire.read_command(60)
    wait_until(lambda: edge.associations.total == 0, 10, "all are over")
    (told,) = edge.refused()
    assert told.startswith(why)


def test_a_clock_that_is_set_back_does_not_silence_a_modality_that_stores(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(association, "REPORT_SECONDS", 0.0)
    years = iter(range(100, 0, -1))
    wire = caller(edge.port)
    with monkeypatch.context() as patched:
        patched.setattr(association.time, "time", lambda: next(years) * 1e7)
        for number, path in enumerate(ct_files(tmp_path / "ct", 3, 1000), 1):
            store(wire, path)
            wait_until(lambda: [each.stored for each in edge.callers._calls.values()] == [number], 5, "it is noted")  # noqa: B023


def test_stopping_ends_quiet_associations_and_lets_busy_ones_finish(edge: Receiving, tmp_path: Path) -> None:
    quiet, busy = caller(edge.port), caller(edge.port)
    (path,) = ct_files(tmp_path / "ct", 1, 300_000)
    message = busy._fragments(1, 1, command.encode(store_rq(sop_instance_uid(path)))) + busy._fragments(
        1, 0, dataset(path)
    )
    busy.send_raw(message[:200_000])
    wait_until(lambda: edge.is_receiving, 10, "the object is being received")
    draining = threading.Thread(target=edge.receiver.drain, args=(10,))
    draining.start()
    with pytest.raises(pdu.Aborted):
        quiet.read_command(60)
    busy.send_raw(message[200_000:])
    assert busy.read_command(60)[1].number(Element.STATUS) == 0
    with pytest.raises(pdu.Aborted):
        busy.read_command(60)
    draining.join(60)
    assert len(edge.files()) == 1


def test_pynetdicom_as_a_modality(edge: Receiving, tmp_path: Path) -> None:
    import pydicom

    (path,) = ct_files(tmp_path / "ct", 1, 100_000)
    ae = AE("CT1")
    ae.add_requested_context(CTImageStorage, EXPLICIT)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", edge.port)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(pydicom.dcmread(path)).Status == 0
    association.release()
    assert association.is_released


def test_a_palette_without_a_study_is_kept_and_routed(edge: Receiving, tmp_path: Path) -> None:
    import pydicom

    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.39.1", "1.2.3.4.5"
    (tmp_path / "palette.dcm").write_bytes(part10(ds))
    storescu([tmp_path / "palette.dcm"], edge.port)
    assert edge.rows("SELECT state, study_id FROM instance") == [("stored", None)]
    assert edge.rows("SELECT state FROM delivery") == [("pending",)]
