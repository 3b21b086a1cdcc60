"""The messages of one association from either side, over a socket: answers, cancel, sub-operations."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline, Dialogue, DimseMessage, SubOperations
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.dicom.wire import Wire
from edge.errors import PeerError, ProtocolError

FIND, CT = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS = {1: (FIND, EXPLICIT_VR_LITTLE_ENDIAN), 3: (CT, EXPLICIT_VR_LITTLE_ENDIAN)}
REQUEST: dict[int, int | str] = {Element.AFFECTED_SOP_CLASS_UID: FIND, Element.COMMAND_FIELD: CommandField.C_FIND_RQ}
PENDING, SUCCESS, CANCELLED = 0xFF00, 0x0000, 0xFE00


@contextmanager
def dialogue_with(serve: Callable[[Dialogue], None]) -> Iterator[Dialogue]:
    """Our side of an association whose other side does `serve` in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    thread = threading.Thread(target=serve, args=(Dialogue(Wire(theirs), CONTEXTS, 5.0),))
    thread.start()
    try:
        yield Dialogue(Wire(ours), CONTEXTS, 5.0)
    finally:
        thread.join(60)
        for each in (ours, theirs, listener):
            each.close()
    assert not thread.is_alive()


def test_pending_answers_come_with_their_data_sets_and_counts() -> None:
    def serve(peer: Dialogue) -> None:
        request = peer.receive(5.0)
        assert peer.read(request) == b"identifier"
        for number in range(3):
            peer.respond(request, PENDING, data=b"match %d " % number, counts=SubOperations(3 - number, number, 0, 0))
        peer.respond(request, SUCCESS, counts=SubOperations(0, 2, 1, 0))

    with dialogue_with(serve) as ours:
        found = []
        for answer in ours.request(1, REQUEST, b"identifier", deadline=Deadline(60.0)):
            counts = tuple(answer.command.get(Element.REMAINING + at) for at in range(4))
            found.append((answer.status, ours.read(answer), counts))
    assert found == [
        (PENDING, b"match 0 ", (3, 0, 0, 0)),
        (PENDING, b"match 1 ", (2, 1, 0, 0)),
        (PENDING, b"match 2 ", (1, 2, 0, 0)),
        (SUCCESS, b"", (0, 2, 1, 0)),
    ]


def test_a_cancel_is_seen_between_answers_and_a_late_one_cancels_nothing() -> None:
    cancelled, may_end = threading.Event(), threading.Event()

    def serve(peer: Dialogue) -> None:
        first = peer.receive(5.0)
        assert not peer.is_cancelled(first)
        peer.respond(first, PENDING, data=b"ab")
        assert cancelled.wait(60)
        assert peer.wire.has_something(5.0)
        assert peer.is_cancelled(first)
        peer.respond(first, CANCELLED)
        second = peer.receive(5.0)  # with the message ID of the first, whose late cancel came before it
        assert not peer.is_cancelled(second)
        peer.respond(second, SUCCESS)
        may_end.set()

    with dialogue_with(serve) as ours:
        statuses = []
        for answer in ours.request(1, REQUEST, deadline=Deadline(60.0)):
            ours.skip(answer)
            statuses.append(answer.status)
            if answer.status == PENDING:
                ours.cancel(1)
                cancelled.set()
        ours.cancel(1)
        ours._message_id -= 1
        statuses += [answer.status for answer in ours.request(1, REQUEST, deadline=Deadline(60.0))]
        assert may_end.wait(60)
    assert statuses == [PENDING, CANCELLED, SUCCESS]


def test_either_side_stores_while_an_answer_is_due(tmp_path: Path) -> None:
    path, kept, originators = tmp_path / "object", bytearray(), []
    path.write_bytes(b"0123456789")

    def serve(peer: Dialogue) -> None:
        request = peer.receive(5.0)
        with path.open("rb") as file:
            stored = peer.store(3, CT, "1.2.3", file.fileno(), 2, 8, originator=("MOVER", 7))
        assert stored == (0xB000, "coerced")
        peer.respond(request, SUCCESS, counts=SubOperations(0, 1, 0, 0))

    with dialogue_with(serve) as ours:

        def take(message: DimseMessage) -> None:
            originators.append(
                (
                    message.command.text(Element.MOVE_ORIGINATOR_AE_TITLE),
                    message.command.number(Element.MOVE_ORIGINATOR_MESSAGE_ID),
                )
            )
            ours.read_into(message, lambda views: kept.extend(b"".join(views)))
            ours.respond(message, 0xB000, "coerced")

        (answer,) = ours.request(1, REQUEST, deadline=Deadline(60.0), serve=take)
    assert (answer.status, bytes(kept), originators) == (SUCCESS, b"23456789", [("MOVER", 7)])


def test_a_request_where_an_answer_is_due_breaks_the_association() -> None:
    def serve(peer: Dialogue) -> None:
        peer.receive(5.0)
        with pytest.raises(PeerError):
            list(peer.request(1, REQUEST, deadline=Deadline(60.0)))

    with dialogue_with(serve) as ours, pytest.raises(ProtocolError, match="lacks"):
        list(ours.request(1, REQUEST, deadline=Deadline(60.0)))


def test_the_whole_of_the_answers_has_a_deadline() -> None:
    def answer_always(peer: Dialogue) -> None:
        request = peer.receive(5.0)
        while True:
            peer.respond(request, PENDING, data=b"ab")

    def serve(peer: Dialogue) -> None:
        with pytest.raises(PeerError):
            answer_always(peer)

    # Between two messages it says that the peer took too long; within one, that it stopped.
    with dialogue_with(serve) as ours, pytest.raises(PeerError):
        deque(map(ours.skip, ours.request(1, REQUEST, deadline=Deadline(0.3))))


def test_a_data_set_has_a_bound() -> None:
    def serve(peer: Dialogue) -> None:
        with pytest.raises(ProtocolError, match="more than 100 bytes"):
            peer.read(peer.receive(5.0), most=100)
        peer.abort()

    with dialogue_with(serve) as ours, pytest.raises(PeerError):
        list(ours.request(1, REQUEST, bytes(102), deadline=Deadline(60.0)))
