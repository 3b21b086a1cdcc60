"""N-CREATE and N-SET of the Modality Performed Procedure Step SOP class (PS3.4 section F.7.2).

Promise: success is answered only when the message is a durable record of the journal. What may follow on what is
decided by the gateway for all receiving processes, on the catalog and on what is recorded and not applied yet
(edge.scp.services.mpps_register). A message that is refused leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.dicom import items
from edge.dicom.command import SUCCESS, CommandField, Element
from edge.dicom.dialogue import DimseMessage
from edge.dicom.items import Attributes
from edge.dicom.performed_step import (
    DUPLICATE_STEP,
    INVALID_UID,
    INVALID_VALUE,
    MAY_NOT_BE_UPDATED,
    MISSING_ATTRIBUTE,
    MODALITY_PERFORMED_PROCEDURE_STEP,
    NO_LONGER_UPDATED,
    NO_SUCH_STEP,
    PERFORMED_SERIES,
    RESOURCES,
    StepFault,
    StepMessage,
    StepOperation,
    digest_data_set,
    new_step_uid,
    read_create,
    read_set,
)
from edge.dicom.uids import is_uid
from edge.errors import Hindered, StorageUnhealthy, Unreadable
from edge.journal.kinds import performed_step
from edge.journal.kinds.performed_step import RecordedStep
from edge.model import ContextKey, Origin
from edge.scp.response import MAX_COMMENT, StoreResponse, answer_for
from edge.scp.services.service import Responder, Service, allow_by_word

_WORDS = {
    DUPLICATE_STEP: "this step was created with other content",
    NO_SUCH_STEP: "no N-CREATE of this step has come",
    MAY_NOT_BE_UPDATED: "the step is in its final state and may no longer be updated",
    RESOURCES: "another message of this step is being taken",
}


def serve_create(request: DimseMessage, responder: Responder) -> None:
    uid = request.command.text(Element.AFFECTED_SOP_INSTANCE_UID) or new_step_uid()
    _serve(request, responder, uid, StepOperation.CREATE, read_create)


def serve_set(request: DimseMessage, responder: Responder) -> None:
    uid = request.command.text(Element.REQUESTED_SOP_INSTANCE_UID)
    _serve(request, responder, uid, StepOperation.SET, read_set)


def _serve(
    request: DimseMessage,
    responder: Responder,
    uid: str,
    operation: StepOperation,
    read: Callable[[Attributes], StepMessage],
) -> None:
    """Take one message; the answer names its step, also where the modality left the UID to us (PS3.7 10.1.5)."""
    body, syntax = responder.dialogue.read(request), responder.dialogue.syntax(request)
    more: dict[int, int | str] = {Element.AFFECTED_SOP_INSTANCE_UID: uid}
    try:
        if operation is StepOperation.CREATE and not is_uid(uid):
            return responder.dialogue.respond(request, INVALID_UID, "the SOP Instance UID is no UID")
        if operation is StepOperation.SET and (status := _why_no_set(responder, uid)):
            return responder.dialogue.respond(request, status, _WORDS[status])
        data_set = items.decode_items(body, syntax)
        message = read(data_set)
        status = _take(responder, uid, operation, message, data_set, body, syntax)
        answer = StoreResponse(status, _WORDS.get(status, ""))
    except StepFault as fault:
        answer = StoreResponse(fault.status, str(fault))
        more[Element.ATTRIBUTE_IDENTIFIER_LIST] = fault.tag
    except Unreadable as error:
        answer = StoreResponse(INVALID_VALUE if body else MISSING_ATTRIBUTE, str(error))
    except (Hindered, StorageUnhealthy, MemoryError) as error:
        found = answer_for(error)
        answer = StoreResponse(RESOURCES, found.comment)
    if answer.status == MAY_NOT_BE_UPDATED:
        more[Element.ERROR_ID] = NO_LONGER_UPDATED
    responder.dialogue.respond(request, answer.status, answer.comment[:MAX_COMMENT], more=more)


def _why_no_set(responder: Responder, uid: str) -> int:
    """0112 where no N-CREATE of the step has come: that is said before what the message lacks."""
    answer = responder.steps.begin(uid, StepOperation.SET.value, "", b"")
    if answer.status == SUCCESS and not answer.is_repeat:
        responder.steps.end(uid, is_recorded=False)
    return NO_SUCH_STEP if answer.status == NO_SUCH_STEP else SUCCESS


def _take(
    responder: Responder,
    uid: str,
    operation: StepOperation,
    message: StepMessage,
    data_set: Attributes,
    body: bytes,
    syntax: str,
) -> int:
    """Record the message where it may follow on what is on record. Returns the status. Raises Hindered, StepFault."""
    state = message.state.value if message.state is not None else ""
    answer = responder.steps.begin(uid, operation.value, state, digest_data_set(data_set), message.has_series)
    if answer.status == MISSING_ATTRIBUTE:
        raise StepFault(MISSING_ATTRIBUTE, PERFORMED_SERIES)
    if answer.status != SUCCESS or answer.is_repeat:
        return answer.status
    is_recorded = False
    try:
        caller = responder.caller
        origin = Origin(caller.ae_title, responder.called_ae, caller.address, time.time())
        known_as = ContextKey(MODALITY_PERFORMED_PROCEDURE_STEP, syntax), uid
        recording = responder.recorder.begin(*known_as, origin)
        try:
            recording.write([memoryview(body)])
            step = RecordedStep(uid, operation.value, syntax, origin, responder.admission.modality)
            responder.recorder.record(recording, performed_step.CODE, performed_step.encode(step))
        finally:
            recording.discard()
        is_recorded = True
    finally:
        responder.steps.end(uid, is_recorded=is_recorded)
    return SUCCESS


def _service(name: str, command: CommandField, handle: Callable[[DimseMessage, Responder], None]) -> Service:
    is_for = MODALITY_PERFORMED_PROCEDURE_STEP.__eq__
    return Service(name, is_for, allow_by_word("mpps"), command, handle)


STEP_CREATE_SERVICE = _service("performed procedure steps", CommandField.N_CREATE_RQ, serve_create)
STEP_SET_SERVICE = _service("performed procedure step updates", CommandField.N_SET_RQ, serve_set)
