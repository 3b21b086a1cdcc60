"""Asking an archive to prove custody: storage commitment (PS3.4 annex J), or a C-FIND at IMAGE level (PS3.4 annex C).

`parse_report` reads what an archive reports: bounded, not recursive, Unreadable for any damage. `Commitment` and
`Query` are the exchanges in which we are the SCU, each on an association of its own, in the caller's thread. They raise
PeerError when the peer or the network fails, ServiceRefused when the peer does not offer the service; every wait and
every length is bounded.
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from pynetdicom.status import (
    GENERAL_STATUS,
    QR_FIND_SERVICE_CLASS_STATUS,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_WARNING,
    code_to_category,
)

from edge.config.sections import Destination
from edge.dicom import header, pdu
from edge.dicom.acse import CONTEXT_RESULTS, Context
from edge.dicom.command import DATA_SET, Command, CommandField, Element, response_to
from edge.dicom.header import DEFLATED, EXPLICIT, FORMS, ITEM, ITEM_END, SEQUENCE_END, SHORT_VRS, UNDEFINED, Form
from edge.dicom.pdu import Released
from edge.dicom.scu import Association, Patience, Secure
from edge.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH,
    STORAGE_COMMITMENT_PUSH_INSTANCE,
    usable_uid,
)
from edge.errors import EdgeError, PeerError, Permanent, ProtocolError, Unreadable

#: Seconds to connect, to be accepted, to be answered, to be released.
STEP_SECONDS = 30.0
#: Seconds for one C-FIND with all its matches.
FIND_SECONDS = 120.0
#: How soon a stay for a report notices that it is over.
NOTICE_SECONDS = 0.1
#: Of a report: bytes, and instances that it names. We never ask about so many at once.
MAX_REPORT = 1 << 20
MAX_REPORTED = 10_000

#: Study Root Query/Retrieve Information Model - FIND (PS3.4 section C.6.2).
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
#: N-EVENT-REPORT event types (PS3.4 table J.3-2) and the one N-ACTION type (table J.3-1).
ALL_COMMITTED, FAILURES_EXIST = 1, 2
REQUEST_STORAGE_COMMITMENT = 1
SUCCESS, PENDING = 0x0000, 0xFF00
#: A status (PS3.7 annex C), and the Failure Reason (PS3.3 section C.14.1.1) that stands for one that was left out.
PROCESSING_FAILURE = 0x0110
#: Statuses that say that asking again soon is of no use (PS3.7 annex C).
LASTING = frozenset({0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211, 0xA900})

#: Statuses that speak of the service or of the destination as a whole, not of what the request names: no such SOP
#: class, SOP class not supported, no such action, not authorized, unrecognized operation (PS3.7 annex C), out of
#: resources (0213: PS3.7 annex C; A700: PS3.4 table C.4-1).
GENERAL = frozenset({0x0118, 0x0122, 0x0123, 0x0124, 0x0211, 0x0213, 0xA700})

QUERY_RETRIEVE_LEVEL, SOP_INSTANCE_UID = 0x00080052, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
REFERENCED_SOP_CLASS_UID, REFERENCED_SOP_INSTANCE_UID = 0x00081150, 0x00081155
TRANSACTION_UID, FAILURE_REASON = 0x00081195, 0x00081197
FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199


class ServiceRefused(Permanent):
    """The destination does not offer the service, or not to us: a person must change one side or the other.

    `status`: of its answer; None where it did not come to that.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class RequestFailed(PeerError):
    """The destination answered a request with a status that says that it failed."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def is_of_request(error: EdgeError) -> bool:
    """May what the request named have caused this, of which the destination proves others? Else it is general."""
    if isinstance(error, (ServiceRefused, RequestFailed)):
        return error.status is not None and error.status not in GENERAL
    return isinstance(error, PeerError)


# -- what is said -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance of which custody is to be proved."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Report:
    """The content of an N-EVENT-REPORT: what is in custody, and what is not, with the Failure Reason."""

    transaction_uid: str
    committed: tuple[str, ...]  # SOP Instance UIDs
    failed: dict[str, int]


def new_transaction_uid() -> str:
    """A UID that nobody has used (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def action_information(transaction_uid: str, references: Iterable[Reference], transfer_syntax_uid: str) -> bytes:
    """The data set of the N-ACTION request (PS3.4 table J.3-1); an instance named twice is asked about once."""
    explicit = FORMS.get(transfer_syntax_uid, EXPLICIT).explicit
    items = b""
    for each in dict.fromkeys(references):
        item = _uid_element(REFERENCED_SOP_CLASS_UID, each.sop_class_uid, explicit=explicit)
        item += _uid_element(REFERENCED_SOP_INSTANCE_UID, each.sop_instance_uid, explicit=explicit)
        items += struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, len(item)) + item
    transaction = _uid_element(TRANSACTION_UID, transaction_uid, explicit=explicit)
    return transaction + _element(REFERENCED_SOP_SEQUENCE, b"SQ", items, explicit=explicit)


def find_identifier(
    study_uid: str, series_uid: str, sop_instance_uids: Iterable[str], transfer_syntax_uid: str
) -> bytes:
    """The Identifier of a C-FIND at IMAGE level: a whole series, or the instances listed (PS3.4 section C.2.2.2)."""
    explicit = FORMS.get(transfer_syntax_uid, EXPLICIT).explicit
    return b"".join(
        (
            _uid_element(SOP_INSTANCE_UID, "\\".join(sop_instance_uids), explicit=explicit),
            _element(QUERY_RETRIEVE_LEVEL, b"CS", b"IMAGE ", explicit=explicit),
            _uid_element(STUDY_INSTANCE_UID, study_uid, explicit=explicit),
            _uid_element(SERIES_INSTANCE_UID, series_uid, explicit=explicit),
        )
    )


def _uid_element(tag: int, uid: str, *, explicit: bool) -> bytes:
    value = uid.encode("latin-1", "replace")
    return _element(tag, b"UI", value + b"\0" * (len(value) & 1), explicit=explicit)


def _element(tag: int, vr: bytes, value: bytes, *, explicit: bool) -> bytes:
    """One element in little endian (PS3.5 section 7.1)."""
    group, number = tag >> 16, tag & 0xFFFF
    if not explicit:
        return struct.pack("<HHL", group, number, len(value)) + value
    if vr in SHORT_VRS:
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value
    return struct.pack("<HH2s2xL", group, number, vr, len(value)) + value


# -- what is reported -------------------------------------------------------------------------------------------------


def parse_report(data: bytes, transfer_syntax_uid: str, event_type: int) -> Report:
    """Read the data set of an N-EVENT-REPORT (PS3.4 section J.3.3). Raises Unreadable.

    An instance that stands in both sequences has failed.
    """
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise Unreadable(f"a storage commitment report of event type {event_type}; expected 1 or 2")
    if len(data) > MAX_REPORT or transfer_syntax_uid in DEFLATED:
        raise Unreadable(f"a storage commitment report that is deflated, or longer than {MAX_REPORT} bytes")
    form = FORMS.get(transfer_syntax_uid, EXPLICIT)
    transaction_uid = ""
    referenced: list[tuple[str, int]] = []
    failed: list[tuple[str, int]] = []
    for tag, start, end in _elements(data, form, 0, len(data)):
        if tag == TRANSACTION_UID:
            transaction_uid = _uid(data[start:end])
        elif tag == REFERENCED_SOP_SEQUENCE:
            referenced += _items(data, form, start, end)
        elif tag == FAILED_SOP_SEQUENCE:
            failed += _items(data, form, start, end)
    if not transaction_uid:
        raise Unreadable("a storage commitment report without a Transaction UID (0008,1195)")
    reasons = dict(failed)
    return Report(transaction_uid, tuple(uid for uid, _ in referenced if uid not in reasons), reasons)


def _items(data: bytes, form: Form, start: int, end: int) -> list[tuple[str, int]]:
    """SOP Instance UID and Failure Reason of each item of a sequence."""
    found = []
    for tag, item_start, item_end in _elements(data, form, start, end):
        if tag != ITEM:
            raise _damaged(item_start)
        found.append(_item(data, form, item_start, item_end))
        if len(found) > MAX_REPORTED:
            raise Unreadable(f"a storage commitment report that names more than {MAX_REPORTED} instances")
    return found


def _item(data: bytes, form: Form, start: int, end: int) -> tuple[str, int]:
    uid, reason = "", PROCESSING_FAILURE
    for tag, value_start, value_end in _elements(data, form, start, end):
        if tag == REFERENCED_SOP_INSTANCE_UID:
            uid = _uid(data[value_start:value_end])
        elif tag == FAILURE_REASON:
            if value_end - value_start != 2:
                raise _damaged(value_start)
            (reason,) = struct.unpack_from(form.order + "H", data, value_start)
    if not uid:
        raise Unreadable("a storage commitment report that names no instance (0008,1155) in an item")
    return uid, reason


def _uid(value: bytes) -> str:
    uid = value.decode("latin-1").strip("\0 ")
    if not usable_uid(uid):
        raise Unreadable("a storage commitment report with something else where a UID was due")
    return uid


def _elements(data: bytes, form: Form, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag, and start and end of the value, of each element between two offsets."""
    while at < end:
        tag, start, size = _head(data, form, at, end)
        if size == UNDEFINED:
            at = _behind_delimiter(data, form, start, end)
            yield tag, start, at - 8
        else:
            at = start + size
            yield tag, start, at


def _behind_delimiter(data: bytes, form: Form, at: int, end: int) -> int:
    """Where it goes on behind the delimiter that closes what begins at `at`."""
    depth = 1
    while depth:
        tag, start, size = _head(data, form, at, end)
        if tag in (ITEM_END, SEQUENCE_END):
            depth -= 1
        elif size == UNDEFINED:
            depth += 1
            size = 0
        at = start + size
    return at


def _head(data: bytes, form: Form, at: int, end: int) -> tuple[int, int, int]:
    """Tag, and start and length of the value, of the element at `at`; a defined length ends before `end`."""
    if end - at < 8:
        raise _damaged(at)
    group, number = struct.unpack_from(form.order + "HH", data, at)
    start = at + 8
    if not form.explicit or group == 0xFFFE:
        (size,) = form.length(data, at + 4)
    elif data[at + 4 : at + 6] in SHORT_VRS:
        (size,) = struct.unpack_from(form.order + "H", data, at + 6)
    elif end - at < 12:
        raise _damaged(at)
    else:
        (size,) = form.length(data, at + 8)
        start = at + 12
    if size != UNDEFINED and size > end - start:
        raise _damaged(at)
    return group << 16 | number, start, size


def _damaged(offset: int) -> Unreadable:
    return Unreadable(f"a storage commitment report that is damaged at byte {offset}")


# -- the exchanges ----------------------------------------------------------------------------------------------------


def failure(service: str, status: int) -> EdgeError | None:
    """What the final status of a request means; None for success and warnings. Pure."""
    if code_to_category(status) in (STATUS_SUCCESS, STATUS_WARNING):
        return None
    _, words = GENERAL_STATUS.get(status) or QR_FIND_SERVICE_CLASS_STATUS.get(status) or ("", "")
    text = f"{service} failed with status {status:04X}" + (f" ({words})" if words else "")
    return ServiceRefused(text, status) if status in LASTING else RequestFailed(text, status)


E = TypeVar("E", bound="_Exchange")


class _Exchange:
    """One association, in which we ask: `with` opens it, and releases it, or aborts it after an error."""

    sop_class = ""

    def __init__(self, destination: Destination, calling_ae: str, secure: Secure | None = None) -> None:
        self._destination, self._calling_ae, self._secure = destination, calling_ae, secure
        self._until = 0.0  # of time.monotonic(): when the peer must have said all of what it is saying
        self._message_id = 0
        self._left = False  # by the peer, or lost

    def __enter__(self: E) -> E:
        where = self._destination
        context = Context(1, self.sop_class, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))
        patience = Patience(STEP_SECONDS, STEP_SECONDS, STEP_SECONDS)
        self._association = Association.open(
            where.host,
            where.port,
            self._calling_ae,
            where.ae_title,
            [context],
            patience=patience,
            secure=self._secure,
        )
        self._wire = self._association.wire
        if 1 not in self._association.accepted:
            self._association.release()
            why = CONTEXT_RESULTS.get(self._association.refused[1], "it does not say why")
            raise ServiceRefused(f"{where.host}:{where.port} does not offer the service: {why}")
        self._syntax = self._association.accepted[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is not None or self._left:
            self._association.abort()
        else:
            self._association.release()

    def _send(self, elements: dict[int, int | str], data_set: bytes, seconds: float) -> None:
        """Send a request, to be answered within so many seconds."""
        self._until = time.monotonic() + seconds
        self._message_id += 1
        elements |= {Element.MESSAGE_ID: self._message_id, Element.DATA_SET_TYPE: DATA_SET}
        self._wire.send_message(1, elements, data_set)

    def _message(self) -> tuple[Command, bytes]:
        """What the peer says next: command set and data set."""
        data = bytearray()

        def keep(views: list[memoryview]) -> None:
            for view in views:
                data.extend(view)
            if len(data) > MAX_REPORT:
                raise ProtocolError(f"a data set of more than {MAX_REPORT} bytes")
            self._time_left()

        try:
            context, command = self._wire.read_command(self._time_left())
        except Released:
            self._wire.send_raw(pdu.release_rp())
            raise PeerError("the peer released the association where an answer was due") from None
        if context != 1:
            raise ProtocolError(f"a message in presentation context {context}, which was not proposed")
        if command.has_data_set:
            self._wire.read_data_set(context, keep)
        return command, bytes(data)

    def _is_answer(self, command: Command, expected: CommandField) -> bool:
        return (
            command.number(Element.COMMAND_FIELD) == expected
            and command.number(Element.MESSAGE_ID_RESPONDED_TO) == self._message_id
        )

    def _time_left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise PeerError("the peer took too long")
        return left


class Commitment(_Exchange):
    """An association on which storage commitment is asked for, and its report may come as well (PS3.4 section J.3)."""

    sop_class = STORAGE_COMMITMENT_PUSH

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        on_report: Callable[[Report], bool],
        secure: Secure | None = None,
    ) -> None:
        """`on_report`: was it a report for us? Called by `ask` and `await_report`; what it raises they raise."""
        super().__init__(destination, calling_ae, secure)
        self._on_report = on_report
        self.reported = False

    def ask(self, transaction_uid: str, references: Iterable[Reference]) -> None:
        """N-ACTION: returns when the archive has taken the request. Raises ServiceRefused or PeerError."""
        elements: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.N_ACTION_RQ,
            Element.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
            Element.REQUESTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_PUSH_INSTANCE,
            Element.ACTION_TYPE_ID: REQUEST_STORAGE_COMMITMENT,
        }
        self._send(elements, action_information(transaction_uid, references, self._syntax), STEP_SECONDS)
        command, data = self._message()
        while not self._is_answer(command, CommandField.N_ACTION_RSP):
            self._serve(command, data)
            command, data = self._message()
        error = failure("the storage commitment request", command.number(Element.STATUS))
        if error is not None:
            raise error

    def await_report(self, over: threading.Event, seconds: float) -> None:
        """Stay so long for reports on this association, until `over` is set or the peer leaves."""
        end = time.monotonic() + seconds
        try:
            while not over.is_set() and time.monotonic() < end:
                if self._wire.has_something(min(NOTICE_SECONDS, seconds)):
                    self._until = time.monotonic() + STEP_SECONDS
                    self._serve(*self._message())
        except PeerError:
            self._left = True  # its report will come another way, or the deadline will

    def _serve(self, command: Command, data: bytes) -> None:
        """Answer an N-EVENT-REPORT (PS3.4 section J.3.3)."""
        if command.number(Element.COMMAND_FIELD) != CommandField.N_EVENT_REPORT_RQ:
            raise ProtocolError("a message came that is neither the response nor a storage commitment report")
        status = PROCESSING_FAILURE
        try:
            report = parse_report(data, self._syntax, command.number(Element.EVENT_TYPE_ID))
            if self._on_report(report):
                self.reported, status = True, SUCCESS
        except Unreadable:
            pass  # the status says so
        self._wire.send_message(1, response_to(command, status))


class Query(_Exchange):
    """An association on which an archive is asked what it has."""

    sop_class = STUDY_ROOT_FIND

    def has(self, wanted: Set[str], study_uid: str, series_uid: str, *, one_by_one: bool = False) -> set[str]:
        """Which of the wanted SOP Instance UIDs of a series the archive has. Raises ServiceRefused or PeerError.

        It is asked what it has of the series, or, with `one_by_one`, whether it has each of those.
        """
        elements: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
            Element.PRIORITY: 0,  # medium
        }
        listed = sorted(wanted) if one_by_one else ()
        self._send(elements, find_identifier(study_uid, series_uid, listed, self._syntax), FIND_SECONDS)
        found: set[str] = set()
        status = PENDING
        while code_to_category(status) == STATUS_PENDING:
            command, data = self._message()
            if not self._is_answer(command, CommandField.C_FIND_RSP):
                raise ProtocolError("a message came that is no response to the query")
            status = command.number(Element.STATUS)
            if data:
                found |= wanted & {self._matched(data)}
        error = failure("the query", status)
        if error is not None:
            raise error
        return found

    def _matched(self, data: bytes) -> str:
        wanted = frozenset({SOP_INSTANCE_UID})
        try:
            found = header.scan(lambda at, n: data[at : at + n], len(data), self._syntax, wanted)
        except Unreadable:
            raise ProtocolError("an answer to the query that cannot be read") from None
        return next(iter(found.get(SOP_INSTANCE_UID, ())), "")
