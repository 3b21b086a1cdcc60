"""What outsiders may take: each, all, and what is kept for others. The core, then each door, table and channel."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pynetdicom.sop_class import CTImageStorage

from edge.dicom import acse, pdu
from edge.dicom.acse import Context, Request
from edge.errors import AssociationRejected
from edge.model import ContextKey, Origin
from edge.network import shares
from edge.network.shares import Budget, Full, Places, ProvenCallers, Share, caller_of, limit_met
from edge.scp import association
from edge.scp.admission import Admission, Caller
from edge.scp.association import shorten_proposal
from edge.scp.callers import Callers
from edge.scp.capacity import AssociationPlace, Associations, EndIdle, Equipment, Limit
from edge.scp.dicom_protocol import DicomProtocol
from edge.scp.listener import ConnectionListener
from edge.scp.ports import hand_on
from edge.scp.response import StoreResponse
from edge.store.peers import refused_since
from edge.store.quarantine import QuarantineShare
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files
from tests.support.peers import storescu, wait_until

CT = str(CTImageStorage)
EXPLICIT = "1.2.840.10008.1.2.1"


# -- the core ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "total", "count", "kept", "full"),
    [
        (0, 0, 1, 1.0, None),
        (3, 3, 1, 1.0, Full.EACH),
        (2, 2, 2, 1.0, Full.EACH),
        (0, 8, 1, 1.0, Full.ALL),
        (0, 8, 1, 0.5, None),
        (0, 9, 1, 0.5, Full.ALL),
        (5, 9, 1, 0.0, None),
        (8, 8, 1, 0.0, Full.EACH),
        (0, 10, 1, 0.0, Full.ALL),
    ],
)
def test_each_has_a_limit_all_have_one_and_the_last_places_are_kept(
    held: int, total: int, count: int, kept: float, full: Full | None
) -> None:
    assert limit_met(Share(each=3, all=10, reserved=2), held, total, count, kept) is full


def test_places_are_counted_and_the_greediest_is_known() -> None:
    places = Places(Share(each=3, all=10))
    for _ in range(3):
        assert places.take("a") is None
    assert places.take("a") is Full.EACH
    assert places.take("b") is None
    assert (places.largest_holder(), places.caller_with_more("b"), places.caller_with_more("a")) == ("a", "a", "")
    for _ in range(4):
        places.give_back("a")
    assert (places.total, places.count_of("a")) == (1, 0), "nobody gives back more than was taken"


def test_a_budget_is_for_all_and_for_each_and_counts_what_it_leaves_out() -> None:
    budget = Budget(3, 60.0, each=2)
    assert [budget.take(0.0, "a") for _ in range(4)] == [0, 0, None, None]
    assert [budget.take(0.0, "b") for _ in range(2)] == [2, None]
    assert budget.take(60.0, "b") == 1
    for number in range(10_000):
        budget.take(61.0, str(number))
    assert len(budget._taken) <= 3, "who is refused is not counted for long"


def test_who_is_known_is_forgotten_in_time_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProvenCallers, "MOST", 3)
    known = ProvenCallers()
    for number in range(5):
        known.remember(f"fd00:0:0:{number}::1", 0.0)
    assert [known.has(f"fd00:0:0:{number}::99", 1.0) for number in range(5)] == [False, False, True, True, True]
    assert not known.has("fd00:0:0:4::1", ProvenCallers.SECONDS)


def test_a_caller_is_an_address_or_a_network_of_ipv6() -> None:
    assert caller_of("::ffff:10.0.0.1") == caller_of("10.0.0.1") == "10.0.0.1"
    assert caller_of("2001:db8:1:2:3::4") == caller_of("2001:db8:1:2::1") != caller_of("2001:db8:1:3::1")
    assert caller_of("fe80::1%eth0") == caller_of("fe80::1")
    assert caller_of("") == ""


# -- associations ------------------------------------------------------------------------------------------------------


#: AE titles of this test: who they are.
EQUIPMENT = {"CT1": Equipment("ct"), "TWO": Equipment("two", 2)}


def granted(end_idle: EndIdle = lambda caller, modality: False) -> Associations:
    return Associations(lambda title, address: EQUIPMENT.get(title, Equipment("any")), end_idle)


def taken(associations: Associations, address: str, most: int, title: str = "X") -> int:
    """How many places an address gets."""
    return sum(isinstance(associations.take(title, address), AssociationPlace) for _ in range(most))


def test_two_addresses_with_a_title_cannot_close_the_door() -> None:
    associations = granted()
    for address in ("10.0.0.1", "10.0.0.2"):
        assert taken(associations, address, 400) == shares.ASSOCIATIONS.each
    assert taken(associations, "10.0.0.3", 1), "an address that has none has a place"
    assert taken(associations, "10.0.0.1", 1, "CT1"), "a modality that has none has one, whatever its address"
    why = "129 associations from this address are open, the most"
    assert associations.take("X", "10.0.0.1") == Limit(Full.EACH, why)


def test_a_network_full_of_addresses_cannot_close_the_door_to_a_modality_that_has_none() -> None:
    associations = granted()
    for number in range(400):
        taken(associations, f"10.0.{number}.1", 1)
    assert associations.total == shares.ASSOCIATIONS.all - shares.ASSOCIATIONS.reserved // 2
    assert taken(associations, "10.1.0.1", 1, "CT1")
    ipv6 = granted()
    found = sum(taken(ipv6, f"2001:db8::{number:x}", 1) for number in range(400))
    assert found == shares.ASSOCIATIONS.each, "addresses of one /64 are one caller"


def test_a_modality_has_as_many_as_it_is_given() -> None:
    associations = granted()
    first = associations.take("TWO", "10.0.0.1")
    assert isinstance(first, AssociationPlace)
    assert taken(associations, "10.0.0.1", 5, "TWO") == 1
    why = "2 associations are open, the most of [modality.two]"
    assert associations.take("TWO", "10.0.0.2") == Limit(Full.EACH, why)
    associations.give_back(first)
    assert taken(associations, "10.0.0.2", 2, "TWO") == 1


def test_where_one_wants_a_place_the_greediest_loses_an_idle_one() -> None:
    asked: list[tuple[str, str]] = []

    def end_idle(caller: str, modality: str) -> bool:
        asked.append((caller, modality))
        return True

    associations = granted(end_idle)
    for number in (1, 2, 3):
        taken(associations, f"10.0.0.{number}", 100)
    assert asked, "the third has been given the places of the others"
    assert all(modality == "" and caller in ("10.0.0.1", "10.0.0.2") for caller, modality in asked)


@pytest.fixture
def callers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def associated(stack: ExitStack, port: int, address: str = "127.0.0.1", title: str = "CT1") -> socket.socket:
    """An association from one of this machine's addresses, that says nothing more."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0)))
    sock.sendall(acse.request_pdu(Request(title, "EDGE", (Context(1, CT, (EXPLICIT,)),), 0)))
    head = sock.recv(6, socket.MSG_WAITALL)
    body = sock.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
    if head[0] == pdu.A_ASSOCIATE_RJ:
        raise acse.parse_reject(head + body)
    return sock


def test_a_scanner_stores_while_two_addresses_hold_all_that_they_get(
    tmp_path: Path, callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "ASSOCIATIONS", Share(each=4, all=10, reserved=2))
    with Receiving(tmp_path) as edge:
        for address in ("127.0.0.2", "127.0.0.3"):
            for _ in range(4):
                associated(callers, edge.port, address)
            with pytest.raises(AssociationRejected):
                associated(callers, edge.port, address)
        storescu(ct_files(tmp_path / "ct", 2, 10_000), edge.port)
        assert len(edge.files()) == 2


def test_one_that_has_spoken_is_heard_before_it_would_make_room(
    tmp_path: Path, callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door comes to its callers late: more silent ones of the same address wait behind one with a request."""
    monkeypatch.setattr(shares, "UNASSOCIATED", Share(each=4, all=8))
    ours, feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Receiving(tmp_path) as edge, ours:
        modality, *_ = [_handed_on(callers, edge, ours) for _ in range(20)]
        modality.sendall(acse.request_pdu(Request("CT1", "EDGE", (Context(1, CT, (EXPLICIT,)),), 0)))
        door = ConnectionListener(feed, edge.receiver.serve, DicomProtocol(), edge.link)
        door.open()
        assert modality.recv(1) == bytes([pdu.A_ASSOCIATE_AC])
        ours.close()
        door.join()


def _handed_on(stack: ExitStack, edge: Receiving, feed: socket.socket) -> socket.socket:
    """A caller of 127.0.0.2 whose connection waits before the door."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=60))
        sock, _ = listening.accept()
    edge.link.note_handed_on()
    with sock:
        hand_on(feed, sock, "127.0.0.2", False)
    return theirs


def test_idle_associations_of_the_greedy_end_first_and_those_that_store_stay(
    tmp_path: Path, callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "ASSOCIATIONS", Share(each=8, all=8))
    with Receiving(tmp_path) as edge:
        greedy = []
        for number in range(1, 8):  # one after the other: each is idle for longer than the next
            greedy.append(associated(callers, edge.port, "127.0.0.2"))
            wait_until(lambda number=number: _are_waiting(edge.receiver, number), 5, "it waits for a message")
        associated(callers, edge.port, "127.0.0.3")
        with pytest.raises(AssociationRejected):
            associated(callers, edge.port, "127.0.0.4")
        monkeypatch.setattr(association, "YIELD_SECONDS", 0.0)
        for number in range(4, 7):
            associated(callers, edge.port, f"127.0.0.{number}")
        for sock in greedy[:3]:
            assert sock.recv(1) == bytes([pdu.A_ABORT]), "the ones that were idle for the longest"
        wait_until(lambda: edge.associations.total == 8, 5, "as many as before")
        assert any("idle while others wanted its place" in why for why in edge.refused())


def test_a_modality_that_has_crashed_comes_in_again(
    tmp_path: Path, callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CONFIG.replace('ae_title = "*"', 'ae_title = "CT1"\nassociations = 1')
    with Receiving(tmp_path, text) as edge:
        associated(callers, edge.port)
        with pytest.raises(AssociationRejected):
            associated(callers, edge.port)
        assert edge.refused() == ["1 associations are open, the most of [modality.any]"]
        monkeypatch.setattr(association, "YIELD_SECONDS", 0.0)
        wait_until(lambda: _are_waiting(edge.receiver, 1), 5, "the first association waits for a message")
        associated(callers, edge.port)


def _are_waiting(receiver: association.Receiver, number: int) -> bool:
    """Are so many associations open, and each between two messages?"""
    return [each._waiting_since is not None for each in list(receiver._open)] == [True] * number


# -- who has called ----------------------------------------------------------------------------------------------------


def written(edge: Receiving, heard: Callers) -> None:
    work = heard.take()
    assert work is not None
    edge.db.write(work)


def strangers(callers: Callers, addresses: int, titles: int, net: int = 0) -> None:
    contexts = tuple(Context(number, f"1.2.{number}" + "9" * 50, (EXPLICIT,) * 20) for number in range(1, 256, 2))
    for address in range(addresses):
        for title in range(titles):
            callers.note(
                Caller(f"AE{title}", f"10.{net}.{address}.1"),
                Admission(),
                shorten_proposal(contexts, shares.PROPOSED_REFUSED),
            )


def test_unknown_callers_fill_neither_the_catalog_nor_the_place_of_equipment(tmp_path: Path) -> None:
    now = [1_000_000.0]
    with Receiving(tmp_path) as edge:
        heard = Callers(lambda: now[0])
        for minute in range(10):
            now[0] += 61.0
            strangers(heard, 50, 100, minute)
            heard.note(Caller("CT1", "10.9.9.9"), Admission(modality="ct"))
            written(edge, heard)
        (count, longest) = edge.rows("SELECT count(*), max(length(contexts)) FROM peer WHERE admitted = 0")[0]
        assert count == shares.UNKNOWN_KEPT
        assert longest <= 2 * shares.PROPOSED_REFUSED
        assert edge.rows("SELECT ae_title, calls FROM peer WHERE admitted = 1") == [("CT1", 10)]
        now[0] += 31 * 86_400
        heard.note(Caller("CT1", "10.9.9.9"), Admission(modality="ct"))
        written(edge, heard)
        assert edge.rows("SELECT count(*) FROM peer WHERE admitted = 0") == [(0,)]


def test_what_a_named_caller_lacks_is_kept_and_nothing_of_one_that_is_not_named(tmp_path: Path) -> None:
    with Receiving(tmp_path) as edge:
        heard = Callers(lambda: 1000.0)
        heard.note(Caller("CT1", "10.9.9.9"), Admission(lacks="it must call over TLS"))
        heard.note(Caller("NEW", "10.7.7.7"), Admission())
        written(edge, heard)
        with edge.db.reading() as conn:
            refused = {title: lacks for title, _, _, lacks, _ in refused_since(conn, 0.0)}
        assert refused == {"CT1": "it must call over TLS", "NEW": ""}


def test_one_unknown_caller_leaves_room_for_others_in_the_minute() -> None:
    heard = Callers(lambda: 1000.0)
    strangers(heard, 1, 1000)
    heard.note(Caller("NEW", "10.7.7.7"), Admission())
    assert len(heard._calls) == shares.UNKNOWN_CALLERS.each + 1


def test_equipment_that_has_stored_something_stays_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "UNKNOWN_KEPT", 15)
    with Receiving(tmp_path) as edge:
        heard = Callers(time.time)
        heard.note(Caller("OLD", "10.0.0.1"), Admission(modality="any"), stored=1)
        for number in range(30):
            heard.note(Caller(f"X{number}", "10.0.0.2"), Admission(modality="any"))
        written(edge, heard)
        assert edge.rows("SELECT count(*), sum(stored) FROM peer") == [(16, 1)]


# -- quarantine --------------------------------------------------------------------------------------------------------


def test_junk_of_one_caller_fills_its_part_of_quarantine_and_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 objects that cannot be read, on a small disk; then one that can, and another caller's junk."""
    disk = 2_000 * shares.QUARANTINE_LEAST
    with Receiving(tmp_path, CONFIG + "[quarantine]\nmost = 0.05\n") as edge:
        monkeypatch.setattr(edge.intake.quarantine, "_total_bytes", lambda: disk)
        answers = [junk(edge, number) for number in range(1_000)]
        assert {answer.status for answer in answers} == {0xC000}, "the sender keeps them: it was answered a failure"
        assert [answer.comment.startswith("kept") for answer in answers].count(True) == 10, "a tenth of 5 % of the disk"
        assert len(edge.files()) == 10
        assert not edge.partials()
        storescu(ct_files(tmp_path / "ct", 2, 10_000), edge.port)
        assert edge.rows("SELECT count(*) FROM instance WHERE state = 'stored'") == [(2,)]
        assert junk(edge, 5_000, "10.0.0.2").comment.startswith("kept")
        found = edge.intake.quarantine.unkept()
        assert found is not None
        assert (found.count, found.sender, found.address) == (990, "CT1", "10.0.0.1")


def test_many_callers_fill_no_more_than_all_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiving(tmp_path) as edge:
        monkeypatch.setattr(edge.intake.quarantine, "_total_bytes", lambda: 1_000 * shares.QUARANTINE_LEAST)
        for number in range(60):
            junk(edge, number, f"10.0.0.{number}")
        assert len(edge.files()) == 20


def test_room_in_quarantine_comes_back_when_a_person_has_decided(tmp_path: Path) -> None:
    with Receiving(tmp_path) as edge:
        now = [0.0]
        share = QuarantineShare(edge.db, lambda: 1_000 * shares.QUARANTINE_LEAST, monotonic=lambda: now[0])
        assert [share.take(0.01, "CT1", "10.0.0.1", 1) for _ in range(2)] == [True, False]
        assert not share.take(0.01, "CT1", "10.0.0.1", 1), "the catalog is not asked for each object of a flood"
        assert share.unkept() is not None
        now[0] += 61.0
        assert share.unkept() is None, "there is room for its sender again"
        assert share.take(0.01, "CT1", "10.0.0.1", 1), "the catalog knows of none"
        assert not share.take(0.01, "CT1", "10.0.0.1", 1)
        now[0] += 61.0
        assert share.take(0.01, "CT1", "10.0.0.1", 1)


def junk(edge: Receiving, number: int, address: str = "10.0.0.1") -> StoreResponse:
    """An object whose data set is none."""
    kind, uid, origin = ContextKey(CT, EXPLICIT), f"1.2.3.{number}", Origin("CT1", "EDGE", address, 1.0)
    recording = edge.recorder.begin(kind, uid, origin)
    recording.write([memoryview(b"no data set at all %d" % number)])
    return edge.recorder.accept(recording, kind, uid, origin)
