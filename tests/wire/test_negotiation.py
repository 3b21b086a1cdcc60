"""What equipment sends is taken as its peers take it; what cannot be is refused with its reason, and named in a log."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.daemon.receivers import MOST_RECEIVERS
from edge.dicom import acse, command, pdu
from edge.dicom.acse import Context, RequestRefused, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.wire import Wire
from edge.errors import ProtocolError
from edge.scp import listener
from tests.support import variants
from tests.support.effort import count_calls
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import wait_until
from tests.support.variants import ACCEPTED, APP, REFUSED, ask, context, item, role, user

ANSWERS = {pdu.A_ASSOCIATE_AC: "accepted", pdu.A_ASSOCIATE_RJ: "rejected", pdu.A_ABORT: "aborted"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    with Receiving(tmp_path_factory.mktemp("edge")) as receiving:
        yield receiving


# -- A-ASSOCIATE-RQ ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_pdu", ACCEPTED.values(), ids=ACCEPTED)
def test_what_peers_accept_is_accepted(edge: Receiving, request_pdu: bytes) -> None:
    answer = ask(edge.port, request_pdu)
    assert ANSWERS.get(answer[0], answer) == "accepted"
    assert answer[10:74] == request_pdu[10:74], "repeated as it came (PS3.8 table 9-17)"
    proposed = {each.id for each in acse.parse_request(request_pdu).contexts}
    if proposed:
        accepted = acse.parse_accept(answer)
        assert accepted.contexts.keys() | accepted.refused.keys() == proposed


@pytest.mark.parametrize("request_pdu", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_answered_with_its_reason(edge: Receiving, request_pdu: bytes) -> None:
    version = request_pdu[6:8]
    expected = b"\x03\0\0\0\0\x04\0\x01\x02\x02" if version in (b"\0\0", b"\0\2") else pdu.abort(2, 6)
    assert ask(edge.port, request_pdu) == expected


@pytest.mark.parametrize(
    ("request_pdu", "said"),
    [
        (
            REFUSED["last item too long"],
            "'CT1' at 127.0.0.1: the A-ASSOCIATE-RQ: item 60H claims 100 bytes, 3 are left",
        ),
        (REFUSED["context sub-item too long"], "'CT1' at 127.0.0.1: presentation context 1: item 40H claims 400 bytes"),
        (REFUSED["version bit 0 missing"], "'CT1' at 127.0.0.1: the A-ASSOCIATE-RQ has protocol version 0002H"),
        (REFUSED["fixed part cut"], "'CT1' at 127.0.0.1: the A-ASSOCIATE-RQ has 66 bytes"),
        (
            struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + variants.usual(calling=b"CT1\n\x1b[2J")[6:],
            "'CT1??[2J' at 127.0.0.1: its A-ASSO",
        ),
        (b"\x04\0\0\0\0\x06" + bytes(6), "127.0.0.1: its first byte is 0x04, not an A-ASSOCIATE-RQ"),
    ],
)
def test_the_log_names_title_field_and_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_pdu: bytes, said: str
) -> None:
    with caplog.at_level(logging.WARNING), Receiving(tmp_path) as edge:
        assert ask(edge.port, request_pdu)[0] in (pdu.A_ABORT, pdu.A_ASSOCIATE_RJ)
        wait_until(lambda: f"refused: {said}" in caplog.text, 5, said)
        (refusal,) = edge.refusals.take()
        assert (refusal.calling_ae or "127.0.0.1") in said
    assert all(line.isprintable() for line in caplog.text.splitlines())


def test_a_title_is_known_however_it_is_padded(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG.replace('ae_title = "*"', 'ae_title = "CT1"')) as edge:
        for title in (b"CT1", b"CT1" + bytes(13), b"   CT1", b"CT1  " + bytes(11), b"CT1\0junk"):
            assert ask(edge.port, variants.usual(calling=title))[0] == pdu.A_ASSOCIATE_AC
        for title in (b"CT1x", b"CT1\x01", b"ct1", b"CT\xa01", b"", bytes(16)):
            assert ask(edge.port, variants.usual(calling=title)) == acse.reject_pdu(1, 1, 3)


def test_an_odd_transfer_syntax_is_never_chosen() -> None:
    request = acse.parse_request(variants.pdu(APP, context(1, b"1.2", b"\x1b[2J", b"1." + b"3" * 80, b"1.2.3"), user()))
    assert [len(each) < 65 and each.isprintable() for each in request.contexts[0].transfer_syntaxes] == [
        True,
        False,
        True,
    ]


def test_of_contexts_with_one_id_the_first_that_can_be_accepted_has_it(edge: Receiving) -> None:
    find = context(1, variants.FIND, variants.EXPLICIT)
    answer = ask(edge.port, variants.pdu(APP, find, context(1, variants.CT, variants.EXPLICIT), find, user()))
    assert acse.parse_accept(answer).contexts == {1: variants.EXPLICIT.decode()}


# -- and its bounds ---------------------------------------------------------------------------------------------------

#: Of functions, for the 40,000 items of a request at most.
CALLS = 40_000 * 75


def test_the_largest_legal_request_is_accepted_and_costs_little(edge: Receiving) -> None:
    request = variants.largest()
    assert 8 << 20 < len(request) <= pdu.MAX_ASSOCIATE + 6
    parsed = acse.parse_request(request)
    assert count_calls(lambda: acse.parse_request(request)) < CALLS
    assert sum(len(each.transfer_syntaxes) for each in parsed.contexts) <= 128 * acse.MAX_CONTEXT_ITEMS
    assert ask(edge.port, request)[0] == pdu.A_ASSOCIATE_AC


def test_small_requests_leave_room_for_the_largest_in_each_of_several_doors(
    edge: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.door, "_most_bytes", listener.MAX_REQUEST_BYTES // MOST_RECEIVERS)
    with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as other:
        other.sendall(variants.usual()[:-1])
        wait_until(lambda: [each.data for each in edge.door._waiting if each.data], 5, "another one is received")
        assert ask(edge.port, variants.largest())[0] == pdu.A_ASSOCIATE_AC


@pytest.mark.parametrize(
    "small", [item(0x60, b""), item(0x20, b"\1\0\0\0" + item(0x40, b"") * 200), item(0x50, item(0x60, b"") * 200)]
)
def test_what_a_stranger_makes_us_read_is_bounded(small: bytes) -> None:
    request = variants.pdu(small * ((8 << 20) // len(small)))

    def read() -> None:
        with pytest.raises(RequestRefused, match="more than 40000 items"):
            acse.parse_request(request)

    assert count_calls(read) < CALLS


def test_all_requests_together_are_bounded_and_small_ones_do_not_suffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_REQUEST_BYTES", 1 << 20)
    big = struct.pack(">BxL", 1, 8 << 20) + bytes(400_000)
    with Receiving(tmp_path) as edge:
        large = [socket.create_connection(("127.0.0.1", edge.port), timeout=60) for _ in range(6)]
        for sock in large:
            sock.sendall(big)
        wait_until(lambda: len(edge.door._leaving) >= 4, 10, "the largest go")
        held = sum(len(each.data) for each in list(edge.door._waiting))
        assert held <= 1 << 20
        assert ask(edge.port, variants.usual())[0] == pdu.A_ASSOCIATE_AC
        assert ask(edge.port, variants.many_contexts(128, 45))[0] == pdu.A_ASSOCIATE_AC
        assert any(why.startswith("the requests that are being received take more") for why in edge.refused())
        for sock in large:
            sock.close()


def test_an_open_association_keeps_nothing_of_its_request(tmp_path: Path) -> None:
    with Receiving(tmp_path) as edge, socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(variants.many_contexts(128, 45))
        assert sock.recv(1) == b"\x02"
        wait_until(lambda: edge.associations.total, 5, "it is open")
        assert [len(each.data) for each in edge.door._serving] == [0]


def test_the_answer_to_what_is_too_long_is_not_lost_in_a_reset(edge: Receiving) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
            sock.sendall(struct.pack(">BxL", 1, 0x7FFFFFFF) + bytes(200_000))
            assert sock.recv(10, socket.MSG_WAITALL) == pdu.abort(2, 6)
            assert sock.recv(1) == b""


def test_who_lingers_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(listener, "MAX_LEAVING", 3)
    with Receiving(tmp_path) as edge:
        callers = [socket.create_connection(("127.0.0.1", edge.port), timeout=60) for _ in range(8)]
        for sock in callers:
            sock.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
            assert sock.recv(10) == pdu.abort(2, 2)
            assert len(edge.door._leaving) <= 3
        wait_until(lambda: not edge.door._leaving, 5, "all are gone")
        for sock in callers:
            sock.close()


def test_what_is_remembered_of_a_proposal_is_bounded(tmp_path: Path) -> None:
    with Receiving(tmp_path) as edge:
        assert ask(edge.port, variants.many_contexts(128, 60, 64))[0] == pdu.A_ASSOCIATE_AC
        work = edge.callers.take()
        assert work is not None
        edge.db.write(work)
        ((length,),) = edge.rows("SELECT length(contexts) FROM peer")
        assert 1000 < length < 20_000


# -- roles ------------------------------------------------------------------------------------------------------------

ROLES = """
[modality.ct]
ae_title = "CT1"
[modality.both]
ae_title = "BOTH"
[destination.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = 104
confirm = "commitment"
[destination.both]
ae_title = "BOTH"
host = "127.0.0.1"
port = 105
confirm = "commitment"
"""
#: Who calls, what it proposes as (SCU, SCP), what it is granted (None: the default), whether its context is accepted.
PROPOSED = [
    ("CT1", variants.COMMITMENT, (1, 0), (1, 0), False),
    ("CT1", variants.COMMITMENT, (1, 1), (1, 0), False),
    ("CT1", variants.COMMITMENT, (0, 1), None, False),
    ("PACS", variants.COMMITMENT, (0, 1), (0, 1), True),
    ("PACS", variants.COMMITMENT, (1, 1), (0, 1), True),
    ("PACS", variants.COMMITMENT, (1, 0), None, True),  # it may report all the same
    ("BOTH", variants.COMMITMENT, (1, 1), (1, 1), True),
    ("BOTH", variants.COMMITMENT, (1, 0), (1, 0), True),
    ("CT1", variants.CT, (1, 0), (1, 0), True),
    ("CT1", variants.CT, (1, 1), (1, 0), True),
    ("CT1", variants.CT, (0, 1), None, True),
    ("CT1", variants.VERIFICATION, (1, 0), (1, 0), True),
    ("CT1", variants.FIND, (1, 0), None, False),
]


def granted_roles(answer: bytes) -> dict[str, Role]:
    """The role sub-items of an A-ASSOCIATE-AC, read as a request's are."""
    return acse.parse_request(b"\x01" + answer[1:]).roles


@pytest.mark.parametrize(("who", "sop_class", "asked", "granted", "accepted"), PROPOSED)
def test_a_role_that_we_grant_is_granted_as_it_was_asked(
    tmp_path: Path, who: str, sop_class: bytes, asked: tuple[int, int], granted: tuple[int, int] | None, accepted: bool
) -> None:
    with Receiving(tmp_path, CONFIG.split("[modality", 1)[0] + ROLES) as edge:
        proposal = variants.pdu(APP, context(1, sop_class), user(role(sop_class, *asked)), calling=who.encode())
        answer = ask(edge.port, proposal)
    found = granted_roles(answer).get(sop_class.decode())
    assert (found and (int(found.scu), int(found.scp))) == granted
    assert (1 in acse.parse_accept(answer).contexts) == accepted


# -- command sets -----------------------------------------------------------------------------------------------------


def element(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


US = struct.Struct("<H").pack
CANCEL = element(0, 0x0100, US(0x0FFF)) + element(0, 0x0120, US(1)) + element(0, 0x0800, US(0x0101))


@pytest.fixture
def wire(edge: Receiving) -> Iterator[Wire]:
    sock = socket.create_connection(("127.0.0.1", edge.port), timeout=60)
    contexts = (
        Context(1, variants.CT.decode(), (variants.EXPLICIT.decode(),)),
        Context(3, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),
    )
    sock.sendall(acse.request_pdu(acse.Request("CT1", "EDGE", contexts, 0)))
    head = sock.recv(6, socket.MSG_WAITALL)
    sock.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
    opened = Wire(sock, 16_384)
    yield opened
    opened.close()


def say(wire: Wire, number: int, command_set: bytes, data: bytes = b"") -> None:
    wire.send_raw(wire._fragments(number, 1, command_set) + (wire._fragments(number, 0, data) if data else b""))


def test_a_cancel_that_crosses_the_final_response_changes_nothing(edge: Receiving, wire: Wire, tmp_path: Path) -> None:
    for path in ct_files(tmp_path / "ct", 2, 5_000):
        say(wire, 3, CANCEL)
        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: variants.CT.decode(),
            Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
            Element.MESSAGE_ID: 1,
            Element.PRIORITY: 0,
            Element.DATA_SET_TYPE: command.DATA_SET,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid(path),
        }
        wire.send_message(1, request, dataset(path))
        say(wire, 1, CANCEL)
        answer = wire.read_command(60)[1]
        assert (answer.number(Element.COMMAND_FIELD), answer.number(Element.STATUS)) == (0x8001, 0)
    wire.send_raw(pdu.release_rq())
    assert wire.sock.recv(10, socket.MSG_WAITALL) == pdu.release_rp(), "no answer to a cancel came before"


ECHO = {
    0x0002: b"1.2.840.10008.1.1\0",
    0x0100: US(0x0030),
    0x0110: US(7),
    0x0800: US(0x0101),
}


def echo(*more: bytes, **changed: bytes) -> bytes:
    elements = {**ECHO, **{int(name[1:], 16): value for name, value in changed.items()}}
    return b"".join(element(0, number, value) for number, value in sorted(elements.items())) + b"".join(more)


@pytest.mark.parametrize(
    "command_set",
    [
        echo(),
        element(0, 0, b"\xff\xff\xff\x00") + echo(),  # a group length that lies
        element(0, 0, b"") + echo(),
        echo(e0700=b""),  # what a C-ECHO does not need, without or with too many values
        echo(e0700=b"\0\0\0\0"),
        echo(e1031=b""),
        echo(e1031=b"\1"),
        echo(e1030=b""),
        echo(e0903=b"\0" * 40),
        echo(e0800=US(0x0101) + US(0)),
        echo(e0001=b"retired"),  # (0000,0001) Length to End
        echo(e5110=b"\xff\xfe\x1b"),
        echo(element(0x0008, 0x0005, b"ISO_IR 100")),  # of another group
        element(0x0002, 0x0010, b"1.2.840.10008.1.2\0") + echo(),
        echo(e0002=b"1.2.840.10008.1.1 "),
        echo(e0002=b""),
    ],
)
def test_a_command_set_is_read_for_what_is_needed(wire: Wire, command_set: bytes) -> None:
    say(wire, 3, command_set)
    answer = wire.read_command(60)[1]
    assert (answer.number(Element.STATUS), answer.number(Element.MESSAGE_ID_RESPONDED_TO)) == (0, 7)


@pytest.mark.parametrize(
    ("command_set", "why"),
    [
        (element(0, 0x0100, b"\x30"), "Command Field"),
        (element(0, 0x0110, US(1)), "Command Field"),
        (echo(b"\0\0"), "ends inside an element"),
        (
            struct.pack("<HHL", 0, 0x0002, 500) + b"1.2",
            r"\(0000,0002\) of the command set claims 500 bytes, 3 are left",
        ),
        (struct.pack("<HHL", 8, 0x0005, 9) + b"1.2", r"\(0008,0005\) of the command set claims 9 bytes"),
    ],
)
def test_a_command_set_without_what_is_needed_is_refused_by_name(command_set: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        command.decode_command(command_set).number(Element.COMMAND_FIELD)
