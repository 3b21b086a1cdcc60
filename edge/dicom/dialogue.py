"""The messages of one association, the same from either side: requests, answers, data sets (PS3.7 sections 6.3 and 9).

Acceptor and requestor of the association hold the same object. A message is a command set; its data set is read behind
it, once: into memory, to a sink, or past. One request of ours is outstanding at a time. While its answer
is due the peer may send requests of its own: the C-STOREs of a C-GET, the report on a commitment. A C-CANCEL is never
answered (PS3.7 section 9.3.2.3): it is noted, and one that crosses the final response cancels nothing.

Every wait is bounded. PeerError and ProtocolError end the association: its owner aborts it. It belongs to one thread;
only `kill` and `count_moved` may come from another.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from edge.dicom import command as dimse
from edge.dicom import pdu
from edge.dicom.command import Command, CommandField, Element, response_to
from edge.dicom.items import MAX_DATA_SET
from edge.dicom.pdu import IDLE_SECONDS, Released
from edge.dicom.pdu_reader import DataSetTarget, Sink
from edge.dicom.wire import Digest, Wire
from edge.errors import PeerError, ProtocolError

# C-STORE priorities (PS3.7 section 9.3.1.1).
MEDIUM, HIGH = 0, 1
STORE_ANSWER_SECONDS = 120.0  # an archive may store an object before it answers
#: Statuses of an answer that is not the last one (PS3.4 tables C.4-1 to C.4-3).
PENDING = frozenset({0xFF00, 0xFF01})


class DimseMessage(NamedTuple):
    """A command set and its presentation context. Its data set, where it has one, is still to be read."""

    context: int
    command: Command

    @property
    def field(self) -> int:
        return self.command.number(Element.COMMAND_FIELD)

    @property
    def status(self) -> int:
        return self.command.number(Element.STATUS)


class SubOperations(NamedTuple):
    """Sub-operations of a C-GET or C-MOVE (PS3.7 section 9.1.3); in order of their elements, (0000,1020) on.

    `remaining`: None in a final answer that is no cancellation (PS3.4 section C.4.2.1.6).
    """

    remaining: int | None
    completed: int
    failed: int
    warning: int

    def elements(self) -> dict[int, int | str]:
        return {Element.REMAINING + at: min(number, 0xFFFF) for at, number in enumerate(self) if number is not None}


class Deadline:
    """When the peer must have finished what it is doing: in all, and for each message."""

    def __init__(self, seconds: float, each: float = IDLE_SECONDS) -> None:
        self._end, self._each = time.monotonic() + seconds, each

    def left(self) -> float:
        """Seconds to wait for the next message; PeerError when the time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise PeerError("the peer took too long")
        return min(left, self._each)


#: Serves a request of the peer that comes while an answer to ours is due: reads its data set and responds.
ServeRequest = Callable[[DimseMessage], None]


class Dialogue:
    """See the module's docstring. `contexts`: accepted context ID -> (abstract syntax, transfer syntax).

    `answer_seconds`: how long the answer to a C-ECHO or C-STORE of ours may take.
    """

    def __init__(
        self, wire: Wire, contexts: Mapping[int, tuple[str, str]], answer_seconds: float = STORE_ANSWER_SECONDS
    ) -> None:
        self.wire, self.contexts, self.answer_seconds = wire, contexts, answer_seconds
        self._message_id = 0
        self._cancelled: object = None  # message ID of the last C-CANCEL

    # -- messages in --------------------------------------------------------------------------------------------------

    def receive(self, seconds: float = IDLE_SECONDS) -> DimseMessage:
        """The next message that is no C-CANCEL. Raises Released, PeerError."""
        while True:
            message = DimseMessage(*self.wire.read_command(seconds))
            if message.field != CommandField.C_CANCEL_RQ:
                if message.context not in self.contexts:
                    raise ProtocolError(f"a message in presentation context {message.context}, which was not accepted")
                if not message.field & 0x8000:
                    self._cancelled = None  # that came too late for the request before this one
                return message
            self._note_cancel(message)

    def is_cancelled(self, request: DimseMessage) -> bool:
        """Has the peer cancelled this request of its own? To be asked between two answers."""
        while self.wire.has_something(0.0):
            message = DimseMessage(*self.wire.read_command())
            if message.field != CommandField.C_CANCEL_RQ:
                raise ProtocolError(f"a message {message.field:04X} came before the answer to the one before it")
            self._note_cancel(message)
        return request.command.number(Element.MESSAGE_ID) == self._cancelled

    def withdraw(self) -> int:
        """Forget the answers that wait for the next one: their request is cancelled. Returns how many."""
        return self.wire.withdraw()

    def _note_cancel(self, message: DimseMessage) -> None:
        self._cancelled = message.command.get(Element.MESSAGE_ID_RESPONDED_TO)
        self.skip(message)

    def read(self, message: DimseMessage, deadline: Deadline | None = None, most: int = MAX_DATA_SET) -> bytes:
        """The data set of a message; empty where it has none. ProtocolError when it is longer than `most`."""
        data = bytearray()

        def keep(views: list[memoryview]) -> None:
            for view in views:
                data.extend(view)
            if len(data) > most:
                raise ProtocolError(f"a data set of more than {most} bytes")
            if deadline is not None:
                deadline.left()

        self.read_into(message, keep)
        return bytes(data)

    def read_into(self, message: DimseMessage, sink: Sink) -> None:
        """Hand the data set of a message to `sink`, in views that are valid during the call."""
        if message.command.has_data_set:
            self.wire.read_data_set(message.context, sink)

    def read_to(self, message: DimseMessage, target: DataSetTarget) -> None:
        """Receive the data set of a message straight to where `target` has room for it."""
        if message.command.has_data_set:
            self.wire.read_data_set_to(message.context, target)

    def skip(self, message: DimseMessage) -> None:
        """Discard the data set of a message."""
        self.read_into(message, lambda _: None)

    def syntax(self, message: DimseMessage) -> str:
        """The transfer syntax of a message's data set."""
        return self.contexts[message.context][1]

    # -- messages out -------------------------------------------------------------------------------------------------

    def respond(
        self,
        request: DimseMessage,
        status: int,
        comment: str = "",
        data: bytes = b"",
        counts: SubOperations | None = None,
        more: Mapping[int, int | str] | None = None,
        *,
        may_wait: bool = False,
    ) -> None:
        """Answer a request, whose data set has been read; a pending status announces more answers.

        `more`: further elements of the command set. `may_wait`: the next answer follows at once (Wire.send_message).
        """
        elements = response_to(request.command, status, comment) | dict(more or {})
        if counts is not None:
            elements |= counts.elements()
        if data:
            elements[Element.DATA_SET_TYPE] = dimse.DATA_SET
        self.wire.send_message(request.context, elements, data, may_wait=may_wait)

    def request(
        self,
        context: int,
        elements: Mapping[int, int | str],
        data: bytes = b"",
        *,
        deadline: Deadline,
        serve: ServeRequest | None = None,
    ) -> Iterator[DimseMessage]:
        """Send a request; its answers as they come, the last one included. Each one's data set is the caller's to read.

        `serve` takes the peer's own requests meanwhile; without it they are a violation of the protocol.
        """
        with self._or_abort():
            kind = dimse.DATA_SET if data else dimse.NO_DATA_SET
            request = {**elements, Element.MESSAGE_ID: self._next_id(), Element.DATA_SET_TYPE: kind}
            self.wire.send_message(context, request, data)
        is_pending = True
        while is_pending:
            with self._or_abort():
                answer = self._answer(context, int(request[Element.COMMAND_FIELD]) | 0x8000, deadline, serve)
                is_pending = answer.status in PENDING
            yield answer

    def cancel(self, context: int) -> None:
        """C-CANCEL of the request that is outstanding: its last answer is still due (PS3.7 section 9.3.2.3)."""
        request: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.C_CANCEL_RQ,
            Element.MESSAGE_ID_RESPONDED_TO: self._message_id,
            Element.DATA_SET_TYPE: dimse.NO_DATA_SET,
        }
        self.wire.send_message(context, request)

    def store(
        self,
        context: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        fd: int,
        offset: int,
        length: int,
        expected: Digest | None = None,
        priority: int = MEDIUM,
        originator: tuple[str, int] | None = None,
        passed: str = "",
    ) -> tuple[int, str]:
        """C-STORE `length` bytes of the file from `offset` (PS3.7 section 9.1.1); its status and Error Comment.

        `originator`: AE title and message ID of the C-MOVE for which it is. `passed`: see Element.PASSED_SITES.
        Raises PeerError; Unreadable when the bytes are too few or not the `expected` ones; OSError when they cannot
        be read. Then the peer never has all of it.
        """
        with self._or_abort():
            request: dict[int, int | str] = {
                Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
                Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
                Element.MESSAGE_ID: self._next_id(),
                Element.PRIORITY: priority,
                Element.DATA_SET_TYPE: dimse.DATA_SET,
                Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            }
            if originator is not None:
                request[Element.MOVE_ORIGINATOR_AE_TITLE], request[Element.MOVE_ORIGINATOR_MESSAGE_ID] = originator
            if passed:
                request[Element.PASSED_SITES] = passed
            self.wire.send_file(context, request, fd, offset, length, expected, pad=True)
            _, answer = found = self._answer(context, CommandField.C_STORE_RSP, Deadline(self.answer_seconds))
            self.refuse_data_set(found)
            return answer.number(Element.STATUS), answer.text(Element.ERROR_COMMENT)

    def refuse_data_set(self, answer: DimseMessage) -> None:
        """ProtocolError where an answer announces a data set that it cannot have."""
        if answer.command.has_data_set:
            raise ProtocolError(f"the peer's answer {answer.field:04X} announces a data set, which it cannot have")

    def _answer(
        self, context: int, expected: int, deadline: Deadline, serve: ServeRequest | None = None
    ) -> DimseMessage:
        """The next answer to what was sent."""
        while True:
            message = self.receive(deadline.left())
            field = message.field
            if not field & 0x8000 and serve is not None:
                serve(message)
                continue
            to = message.command.number(Element.MESSAGE_ID_RESPONDED_TO)
            if (field, to) != (expected, self._message_id):
                due = f"{expected:04X} to message {self._message_id}"
                raise ProtocolError(f"the peer answered {field:04X} to message {to} where {due} was due")
            if message.context != context:
                raise ProtocolError(f"the peer answered in presentation context {message.context}, not in {context}")
            return message

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    # -- the end ------------------------------------------------------------------------------------------------------

    def answer_release(self) -> None:
        """Answer the peer's A-RELEASE, and close. Never raises."""
        try:
            self.wire.send_raw(pdu.release_rp())
        except PeerError:
            pass  # it left without waiting for our A-RELEASE-RP: all is answered already
        self.wire.close()

    def abort(self) -> None:
        """A-ABORT as the service user, then close. Never raises."""
        self.wire.abort(source=0)

    def kill(self) -> None:
        """End, from another thread, whatever the owner waits for; the owner meets a PeerError and aborts."""
        self.wire.hang_up(socket.SHUT_RDWR)

    def count_moved(self) -> int:
        """How many bytes have come and gone; from any thread."""
        return self.wire.bytes_moved()

    @contextmanager
    def _or_abort(self) -> Iterator[None]:
        try:
            yield
        except Released:
            self.abort()
            raise PeerError("the peer asked to release the association where an answer was due") from None
        except BaseException:
            self.abort()
            raise
