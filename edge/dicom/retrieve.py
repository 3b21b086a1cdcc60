"""C-GET of one instance (PS3.4 section C.4.3): a destination gives back what it was sent, on our own association.

`get` hands the data set's bytes to a sink as they come. PeerError when the peer or the network fails, ServiceRefused
when the peer does not offer the service or does not have the instance; every wait and length is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.config.sections import Destination
from edge.dicom import command as dimse
from edge.dicom.acse import CONTEXT_RESULTS, Context, Role
from edge.dicom.command import Command, CommandField, Element, response_to
from edge.dicom.commitment import ServiceRefused, find_identifier
from edge.dicom.pdu import Released
from edge.dicom.scu import Association, Patience, Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import PeerError, ProtocolError
from edge.model import ContextKey

#: Study Root Query/Retrieve Information Model - GET (PS3.4 section C.6.2).
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
GET, STORE = 1, 3  # presentation contexts
STEP_SECONDS = 30.0
#: Seconds for the whole of one C-GET.
GET_SECONDS = 300.0
SUCCESS, PENDING, OUT_OF_RESOURCES = 0x0000, 0xFF00, 0xA700

Sink = Callable[[list[memoryview]], None]


def get(
    destination: Destination,
    calling_ae: str,
    kind: ContextKey,
    study_uid: str,
    series_uid: str,
    uid: str,
    sink: Sink,
    secure: Secure | None = None,
) -> None:
    """Have the destination send one instance, in the transfer syntax of `kind`; its data set's bytes go to `sink`.

    Returns when the whole data set has been handed over. What the sink raises ends the association.
    """
    contexts = [
        Context(GET, STUDY_ROOT_GET, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
        Context(STORE, kind.sop_class_uid, (kind.transfer_syntax_uid,)),
    ]
    roles = {kind.sop_class_uid: Role(scu=False, scp=True)}
    patience = Patience(STEP_SECONDS, STEP_SECONDS, STEP_SECONDS)
    where = destination
    association = Association.open(
        where.host, where.port, calling_ae, where.ae_title, contexts, roles=roles, patience=patience, secure=secure
    )
    try:
        _check(association, where)
        identifier = find_identifier(study_uid, series_uid, [uid], association.accepted[GET])
        _Getting(association, uid, sink).run(identifier)
    except BaseException:
        association.abort()
        raise
    association.release()


def _check(association: Association, where: Destination) -> None:
    for context, what in ((GET, "C-GET"), (STORE, "to give back objects of this kind")):
        if context not in association.accepted:
            why = CONTEXT_RESULTS.get(association.refused[context], "it does not say why")
            raise ServiceRefused(f"{where.host}:{where.port} does not offer {what}: {why}")


class _Getting:
    """One C-GET: the C-STOREs that come on the same association, until its final response."""

    def __init__(self, association: Association, uid: str, sink: Sink) -> None:
        self._wire, self._uid, self._sink = association.wire, uid, sink
        self._until = time.monotonic() + GET_SECONDS
        self._came = 0

    def run(self, identifier: bytes) -> None:
        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
            Element.COMMAND_FIELD: CommandField.C_GET_RQ,
            Element.MESSAGE_ID: 1,
            Element.PRIORITY: 0,  # medium
            Element.DATA_SET_TYPE: dimse.DATA_SET,
        }
        self._wire.send_message(GET, request, identifier)
        while (status := self._next()) == PENDING:
            pass
        if status != SUCCESS:
            raise ServiceRefused(f"C-GET ended with status {status:04X}")
        if self._came != 1:
            raise ServiceRefused(f"C-GET gave {self._came} objects where one was asked for: it does not have it")

    def _next(self) -> int:
        """Take one message; the status of the C-GET so far."""
        try:
            context, command = self._wire.read_command(self._time_left())
        except Released:
            raise PeerError("the peer released the association where an answer was due") from None
        field = command.number(Element.COMMAND_FIELD)
        if (context, field) == (GET, CommandField.C_GET_RSP):
            if command.has_data_set:  # the Failed SOP Instance UID List
                self._wire.read_data_set(GET, lambda _: None)
            return command.number(Element.STATUS)
        if (context, field) == (STORE, CommandField.C_STORE_RQ) and command.has_data_set:
            self._store(command)
            return PENDING
        raise ProtocolError(f"a message {field:04X} came where an object or the end of the C-GET was due")

    def _store(self, command: Command) -> None:
        if command.text(Element.AFFECTED_SOP_INSTANCE_UID) != self._uid or self._came:
            raise ProtocolError("an object came that was not asked for")
        self._came += 1
        self._wire.read_data_set(STORE, self._take)
        self._wire.send_message(STORE, response_to(command, SUCCESS))

    def _take(self, views: list[memoryview]) -> None:
        self._time_left()
        self._sink(views)

    def _time_left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise PeerError("the peer took too long")
        return min(left, STEP_SECONDS)
