"""Asking an archive to prove custody: storage commitment (PS3.4 annex J), or a C-FIND at IMAGE level (PS3.4 annex C).

What requests and reports say is in edge.dicom.commitment_data. `open_commitment` and `open_query` begin the exchanges
in which we are the SCU, `open_reports` those in which we report to a modality, each on an association of its own, in
the caller's thread. They raise PeerError when the peer or the network fails, ServiceRefused when the peer does not
offer the service; every wait and every length is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.acse import Context, Role
from edge.dicom.command import PROCESSING_FAILURE, SUCCESS, CommandField, Element
from edge.dicom.commitment_data import (
    REQUEST_STORAGE_COMMITMENT,
    Reference,
    Report,
    action_information,
    parse_report,
    report_information,
)
from edge.dicom.dialogue import Deadline, DimseMessage
from edge.dicom.failures import RequestFailed, raise_failure
from edge.dicom.pdu import Released
from edge.dicom.scu import Association, Peer, Secure, associate
from edge.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH,
    STORAGE_COMMITMENT_PUSH_INSTANCE,
    STUDY_ROOT_FIND,
)
from edge.errors import PeerError, ProtocolError, Unreadable

#: Seconds to connect, to be accepted, to be answered, to be released.
STEP_SECONDS = 30.0
#: Seconds for one C-FIND with all its matches.
FIND_SECONDS = 120.0
#: How soon a stay for a report notices that it is over.
NOTICE_SECONDS = 0.1


QUERY_RETRIEVE_LEVEL, SOP_INSTANCE_UID = 0x00080052, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E


# -- the exchanges ----------------------------------------------------------------------------------------------------


@contextmanager
def _open(
    sop_class: str, peer: Peer, calling_ae: str, secure: Secure | None, roles: dict[str, Role] | None = None
) -> Iterator[Association]:
    contexts = [Context(1, sop_class, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    with associate(
        peer, calling_ae, contexts, {1: "the service"}, seconds=STEP_SECONDS, roles=roles, secure=secure
    ) as association:
        yield association


class Commitment:
    """An association on which storage commitment is asked for, and its report may come as well (PS3.4 section J.3)."""

    def __init__(self, association: Association, on_report: Callable[[Report], bool]) -> None:
        self._association, self._on_report = association, on_report
        self.reported = False

    def ask(self, transaction_uid: str, references: Iterable[Reference]) -> None:
        """N-ACTION: returns when the archive has taken the request. Raises ServiceRefused or PeerError."""
        elements: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.N_ACTION_RQ,
            Element.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
            Element.REQUESTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_PUSH_INSTANCE,
            Element.ACTION_TYPE_ID: REQUEST_STORAGE_COMMITMENT,
        }
        data = action_information(transaction_uid, references, self._association.accepted[1])
        deadline = Deadline(STEP_SECONDS)
        for answer in self._association.request(1, elements, data, deadline=deadline, serve=self._take):
            self._association.read(answer, deadline)
            raise_failure("the storage commitment request", answer.status)

    def await_report(self, over: threading.Event, seconds: float) -> None:
        """Wait up to `seconds` for reports on this association, until `over` is set or the peer leaves."""
        end, association = time.monotonic() + seconds, self._association
        try:
            while not over.is_set() and time.monotonic() < end:
                if association.wire.has_something(min(NOTICE_SECONDS, seconds)):
                    self._take(association.receive(STEP_SECONDS))
        except Released:
            association.answer_release()
        except PeerError:
            association.abort()  # its report will come another way, or the deadline will

    def _take(self, message: DimseMessage) -> None:
        """Answer an N-EVENT-REPORT (PS3.4 section J.3.3)."""
        if message.field != CommandField.N_EVENT_REPORT_RQ:
            raise ProtocolError("a message came that is neither the response nor a storage commitment report")
        data, status = self._association.read(message, Deadline(STEP_SECONDS)), PROCESSING_FAILURE
        try:
            event_type = message.command.number(Element.EVENT_TYPE_ID)
            if self._on_report(parse_report(data, self._association.accepted[1], event_type)):
                self.reported, status = True, SUCCESS
        except Unreadable:
            pass  # the status says so
        self._association.respond(message, status)


@contextmanager
def open_commitment(
    destination: Destination, calling_ae: str, on_report: Callable[[Report], bool], secure: Secure | None = None
) -> Iterator[Commitment]:
    """`on_report`: was it a report for us? Called by `ask` and `await_report`; what it raises they raise."""
    with _open(STORAGE_COMMITMENT_PUSH, destination, calling_ae, secure) as association:
        yield Commitment(association, on_report)


class Reporting:
    """An association on which reports go to a modality (PS3.4 section J.3.3): we called, and are the SCP."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def report(self, transaction_uid: str, committed: Mapping[Reference, str], failed: Mapping[Reference, int]) -> None:
        """N-EVENT-REPORT: returns when the modality has acknowledged it. Raises ServiceRefused or PeerError.

        `committed`: with the AE title from which it is retrieved, where that is not ours. `failed`: with the reason.
        """
        syntax, deadline = self._association.accepted[1], Deadline(STEP_SECONDS)
        event_type, data = report_information(transaction_uid, committed, failed, syntax)
        elements: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
            Element.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
            Element.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_PUSH_INSTANCE,
            Element.EVENT_TYPE_ID: event_type,
        }
        for answer in self._association.request(1, elements, data, deadline=deadline):
            self._association.read(answer, deadline)
            raise_failure("the storage commitment report", answer.status)
            if answer.status != SUCCESS:
                text = f"the storage commitment report was answered with status {answer.status:04X}"
                raise RequestFailed(text, answer.status)

    def kill(self) -> None:
        """End the exchange from another thread."""
        self._association.kill()


@contextmanager
def open_reports(peer: Peer, calling_ae: str, secure: Secure | None = None) -> Iterator[Reporting]:
    """We ask for the SCP's role (PS3.7 section D.3.3.4); a modality that says nothing of roles is reported to as well.

    `calling_ae`: the AE title that the modality called.
    """
    roles = {STORAGE_COMMITMENT_PUSH: Role(scu=False, scp=True)}
    with _open(STORAGE_COMMITMENT_PUSH, peer, calling_ae, secure, roles) as association:
        yield Reporting(association)


def find_identifier(
    study_uid: str, series_uid: str, sop_instance_uids: Iterable[str], transfer_syntax_uid: str
) -> bytes:
    """The Identifier of a C-FIND at IMAGE level: a whole series, or the instances listed (PS3.4 section C.2.2.2)."""
    identifier = items.item(
        {
            SOP_INSTANCE_UID: "\\".join(sop_instance_uids),
            QUERY_RETRIEVE_LEVEL: "IMAGE",
            STUDY_INSTANCE_UID: study_uid,
            SERIES_INSTANCE_UID: series_uid,
        }
    )
    return items.encode_items(identifier, transfer_syntax_uid)


class Query:
    """An association on which an archive is asked what it has."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def has(self, wanted: Set[str], study_uid: str, series_uid: str, *, one_by_one: bool = False) -> set[str]:
        """Which of the wanted SOP Instance UIDs of a series the archive has. Raises ServiceRefused or PeerError.

        It is asked what it has of the series, or, with `one_by_one`, whether it has each of those.
        """
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 0,  # medium
        }
        syntax = self._association.accepted[1]
        listed = sorted(wanted) if one_by_one else ()
        identifier = find_identifier(study_uid, series_uid, listed, syntax)
        deadline, found, status = Deadline(FIND_SECONDS), set[str](), SUCCESS
        for answer in self._association.request(1, elements, identifier, deadline=deadline):
            status = answer.status
            if data := self._association.read(answer, deadline):
                found.add(_read_matched_uid(data, syntax))
        raise_failure("the query", status)
        return found & wanted


@contextmanager
def open_query(destination: Destination, calling_ae: str, secure: Secure | None = None) -> Iterator[Query]:
    with _open(STUDY_ROOT_FIND, destination, calling_ae, secure) as association:
        yield Query(association)


def _read_matched_uid(data: bytes, transfer_syntax_uid: str) -> str:
    try:
        return items.decode_items(data, transfer_syntax_uid).text(SOP_INSTANCE_UID)
    except Unreadable:
        raise ProtocolError("an answer to the query that cannot be read") from None
