"""Hostile callers of queries, retrievals, the worklist and performed steps: none breaks what others are served."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from edge.dicom import items
from edge.dicom.acse import Context, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline
from edge.dicom.performed_step import MODALITY_PERFORMED_PROCEDURE_STEP
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.errors import PeerError
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files, new_uid
from tests.support.peers import storescu, wait_until
from tests.support.performing import CREATED, send_step

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = new_uid()
MODALITIES = """
[query]
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "store", "query", "retrieve", "worklist", "mpps"]
"""
SOP_CLASSES = {1: STUDY_ROOT_FIND, 3: STUDY_ROOT_GET, 5: STUDY_ROOT_MOVE, 7: MODALITY_WORKLIST_FIND, 9: CT,
               11: MODALITY_PERFORMED_PROCEDURE_STEP}  # fmt: skip


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    folder = tmp_path_factory.mktemp("hostile")
    with Receiving(folder, CONFIG + MODALITIES) as receiving:
        storescu(ct_files(folder / "made", 5, 200_000, StudyInstanceUID=STUDY, PatientID="P1"), receiving.port)
        receiving.settle()
        yield receiving


def associate(edge: Receiving) -> Association:
    contexts = [Context(number, uid, (EXPLICIT_VR_LITTLE_ENDIAN,)) for number, uid in SOP_CLASSES.items()]
    roles = {CT: Role(scu=False, scp=True)}
    return Association.open("127.0.0.1", edge.port, "VIEWER", "EDGE", contexts, roles=roles)


def identifier(level: str, keys: dict[int, Any]) -> bytes:
    return items.encode_items(items.item({0x00080052: level, **keys}), EXPLICIT_VR_LITTLE_ENDIAN)


def request(field: CommandField, context: int, **more: Any) -> dict[int, int | str]:
    said: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: SOP_CLASSES[context],
        Element.COMMAND_FIELD: field,
        Element.PRIORITY: 0,
    }
    return said | {Element[name]: value for name, value in more.items()}


def ask(association: Association, context: int, data: bytes, field: CommandField = CommandField.C_FIND_RQ) -> list[int]:
    """The statuses of the answers."""
    found = []
    for answer in association.request(context, request(field, context), data, deadline=Deadline(30.0)):
        association.skip(answer)
        found.append(answer.status)
    return found


def is_served(edge: Receiving) -> bool:
    """Is another caller answered, as if nothing had been?"""
    association = associate(edge)
    found = ask(association, 1, identifier("STUDY", {0x0020000D: STUDY}))
    association.release()
    return found == [0xFF00, 0]


@pytest.mark.parametrize(
    ("level", "keys", "statuses"),
    [
        ("STUDY", {0x00100010: "A" * 65_000}, [0]),
        ("STUDY", {0x00100010: "*?" * 30_000}, [0]),
        ("STUDY", {0x00081030: "*a" * 2_000 + "b"}, [0]),
        ("STUDY", {0x0020000D: "\\".join([STUDY, *["1.2.3"] * 10_000])}, [0xFF00, 0]),
        ("STUDY", {0x00080020: "20260101-20250101"}, [0]),
        ("STUDY", {0x00080020: "99999999"}, [0]),
        ("STUDY", {0x00080030: "-"}, [0xFF00, 0]),
        ("STUDY", {0x00100020: "\\\\\\\\"}, [0xFF00, 0]),
        ("STUDY", {0x00201208: "many"}, [0]),
        ("PATIENTS", {}, [0xA900]),
        ("STUDY\\SERIES", {}, [0xA900]),
    ],
)
def test_odd_keys_are_answered_or_refused(
    edge: Receiving, level: str, keys: dict[int, Any], statuses: list[int]
) -> None:
    association = associate(edge)
    found = ask(association, 1, identifier(level, keys))
    assert [each & 0xFF00 if each in PENDING else each for each in found] == statuses
    assert association.echo(1) in (0, 0x0211), "the association lives"
    association.release()
    assert is_served(edge)


def test_sequences_in_sequences_without_end_are_c001(edge: Receiving) -> None:
    opened = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    association = associate(edge)
    for context in (1, 3, 7):
        field = CommandField.C_GET_RQ if context == 3 else CommandField.C_FIND_RQ
        assert ask(association, context, identifier("STUDY", {}) + opened * 500, field) == [0xC001]
    association.release()
    assert is_served(edge)


@pytest.mark.parametrize(("context", "field"), [(7, CommandField.C_GET_RQ), (1, CommandField.C_MOVE_RQ), (3, 0x0140)])
def test_a_command_of_another_service_in_a_context_is_0211(edge: Receiving, context: int, field: int) -> None:
    association = associate(edge)
    assert ask(association, context, identifier("STUDY", {}), field) == [0x0211]  # type: ignore[arg-type]
    association.release()
    assert is_served(edge)


def test_a_request_in_a_context_that_was_not_accepted_ends_that_association_alone(edge: Receiving) -> None:
    association = associate(edge)
    said = request(CommandField.C_FIND_RQ, 1, MESSAGE_ID=1, DATA_SET_TYPE=1)
    association.wire.send_message(99, said, identifier("STUDY", {}))
    with pytest.raises(PeerError):
        association.receive(10.0)
    association.abort()
    assert is_served(edge)


def test_the_same_message_id_again_and_again_is_answered_each_time(edge: Receiving) -> None:
    association = associate(edge)
    for _ in range(3):
        said = request(CommandField.C_FIND_RQ, 1, MESSAGE_ID=7, DATA_SET_TYPE=1)
        association.wire.send_message(1, said, identifier("STUDY", {0x0020000D: STUDY}))
        statuses = []
        while not statuses or statuses[-1] in PENDING:
            answer = association.receive(10.0)
            association.skip(answer)
            assert answer.command.number(Element.MESSAGE_ID_RESPONDED_TO) == 7
            statuses.append(answer.status)
        assert statuses == [0xFF00, 0]
    association.release()


def test_a_cancel_before_anything_and_one_of_another_message_cancel_nothing(edge: Receiving) -> None:
    association = associate(edge)
    cancel = {
        Element.COMMAND_FIELD: CommandField.C_CANCEL_RQ,
        Element.MESSAGE_ID_RESPONDED_TO: 1,
        Element.DATA_SET_TYPE: 0x0101,
    }
    association.wire.send_message(1, cancel)
    assert ask(association, 1, identifier("STUDY", {0x0020000D: STUDY})) == [0xFF00, 0]
    association.wire.send_message(1, {**cancel, Element.MESSAGE_ID_RESPONDED_TO: 999})
    assert ask(association, 1, identifier("STUDY", {0x0020000D: STUDY})) == [0xFF00, 0]
    association.release()


def test_an_abort_within_a_sub_operation_leaves_nothing_behind(edge: Receiving) -> None:
    """A C-GET whose caller goes while an object is on its way: what was read is let go of."""
    for _ in range(5):
        association = associate(edge)
        said = request(CommandField.C_GET_RQ, 3, MESSAGE_ID=1, DATA_SET_TYPE=1)
        association.wire.send_message(3, said, identifier("STUDY", {0x0020000D: STUDY}))
        association.receive(10.0)
        association.abort()
    wait_until(lambda: edge.associations.total == 0, 20, "the associations have ended")
    wait_until(lambda: not +edge.link._reading, 10, "nothing is read any more")
    assert is_served(edge)


@pytest.mark.parametrize("answer", ["wrong status field", "other message id", "a request"])
def test_nonsense_in_answer_to_a_sub_operation_ends_that_retrieval(
    edge: Receiving, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    association = associate(edge)
    said = request(CommandField.C_GET_RQ, 3, MESSAGE_ID=1, DATA_SET_TYPE=1)
    association.wire.send_message(3, said, identifier("STUDY", {0x0020000D: STUDY}))
    store = association.receive(10.0)
    while store.field != CommandField.C_STORE_RQ:
        association.skip(store)
        store = association.receive(10.0)
    association.skip(store)
    message = store.command.number(Element.MESSAGE_ID)
    nonsense = {
        "wrong status field": {Element.COMMAND_FIELD: 0x8020, Element.MESSAGE_ID_RESPONDED_TO: message},
        "other message id": {Element.COMMAND_FIELD: 0x8001, Element.MESSAGE_ID_RESPONDED_TO: message + 9},
        "a request": {Element.COMMAND_FIELD: CommandField.C_ECHO_RQ, Element.MESSAGE_ID: 3},
    }[answer]
    association.wire.send_message(store.context, {**nonsense, Element.DATA_SET_TYPE: 0x0101, Element.STATUS: 0})
    with pytest.raises(PeerError):
        read_to_its_end(association)
    association.abort()
    wait_until(lambda: edge.associations.total == 0, 20, "the association has ended")
    assert not [each for each in caplog.records if "unexpected fault" in each.getMessage() or each.levelname == "ERROR"]
    assert edge.noted[-1].what == "retrieve", "what was sent is on record"
    assert is_served(edge)


def read_to_its_end(association: Association) -> None:
    while True:
        association.skip(association.receive(10.0))


def test_slow_readers_hold_nobody_up(edge: Receiving) -> None:
    """Twenty that ask and read nothing, while others are answered."""
    slow = [associate(edge) for _ in range(20)]
    for each in slow:
        each.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        said = request(CommandField.C_GET_RQ, 3, MESSAGE_ID=1, DATA_SET_TYPE=1)
        each.wire.send_message(3, said, identifier("STUDY", {0x0020000D: STUDY}))
    assert all(is_served(edge) for _ in range(5))
    for each in slow:
        each.abort()
    wait_until(lambda: edge.associations.total == 0, 30, "the associations have ended")


def test_many_callers_at_once_are_all_answered(edge: Receiving) -> None:
    found: list[list[int]] = []

    def call() -> None:
        association = associate(edge)
        for _ in range(5):
            found.append(ask(association, 1, identifier("STUDY", {0x0020000D: STUDY})))
        association.release()

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[0xFF00, 0]] * 60


@pytest.mark.parametrize(
    "data",
    [
        {**CREATED, 0x00100010: "A" * 65_000},
        {**CREATED, 0x00400340: [items.item({0x0020000E: "1.2"})] * 5_000},
        {**CREATED, 0x00400270: CREATED[0x00400270] * 2_000},  # type: ignore[operator]
    ],
)
def test_large_steps_are_taken_or_refused_and_the_next_is_taken(edge: Receiving, data: dict[int, Any]) -> None:
    status = send_step(edge.port, new_uid(), data, calling="VIEWER").status
    assert status in (0, 0x0106, 0x0110, 0x0213)
    assert send_step(edge.port, new_uid(), CREATED, calling="VIEWER").status == 0


def test_two_n_creates_of_one_uid_at_once_are_one_step(edge: Receiving) -> None:
    uid, found = new_uid(), list[int]()

    def create(name: str) -> None:
        found.append(send_step(edge.port, uid, {**CREATED, 0x00100020: name}, calling="VIEWER").status)

    threads = [threading.Thread(target=create, args=(f"P{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    edge.settle()
    assert found.count(0) == 1
    assert set(found) <= {0, 0x0111, 0x0213}, "it exists, or is being created: again later"
    assert edge.rows(f"SELECT count(*) FROM performed_step WHERE sop_instance_uid = '{uid}'") == [(1,)]
