"""C-STORE (PS3.7 section 9.1.1, PS3.4 annex B): what `Recorder.accept` returns is the answer."""

from __future__ import annotations

import time
from dataclasses import replace

from edge.config.sections import Config
from edge.dicom.command import PROCESSING_FAILURE, CommandField, Element
from edge.dicom.dialogue import HIGH, DimseMessage
from edge.dicom.part10 import EDGE_UID
from edge.dicom.uids import is_storage, usable_uid
from edge.errors import Hindered, StorageUnhealthy
from edge.model import ContextKey, Origin, Priority
from edge.network.sites import read_passed
from edge.scp.admission import Admission, identity_fault
from edge.scp.gateway_link import GatewayLink
from edge.scp.recorder import Recording
from edge.scp.response import StoreResponse, answer_for
from edge.scp.services.service import Responder, Service, allow_by_word

# DIMSE statuses (PS3.7 annex C).
SOP_CLASS_NOT_SUPPORTED, INVALID_SOP_INSTANCE, _NOT_AUTHORIZED = 0x0122, 0x0117, 0x0124
#: At once, of an object that is refused while it comes.
_PASSED_BYTES = 64 << 10
_may_store = allow_by_word("store")


def _is_allowed(admission: Admission) -> bool:
    return _may_store(admission) or admission.gives_back


def serve_store(request: DimseMessage, responder: Responder) -> None:
    """Receive one object into a receive buffer, and record it; its data set is read in place, never held."""
    # Some senders name another SOP class than their context's: the object's own is what the header must say.
    command, dialogue, caller = request.command, responder.dialogue, responder.caller
    context_key = ContextKey(command.text(Element.AFFECTED_SOP_CLASS_UID), dialogue.syntax(request))
    uid = command.text(Element.AFFECTED_SOP_INSTANCE_UID)
    refusal = _refusal(context_key, uid, request, responder)
    if refusal is not None:
        return responder.refuse(request, refusal)
    source = find_archive(request, responder)
    origin = Origin(caller.ae_title, responder.called_ae, caller.address, time.time(), source)
    if EDGE_UID in responder.extended and (passed := read_passed(command.text(Element.PASSED_SITES))):
        is_stat = command.get(Element.PRIORITY) == HIGH
        origin = replace(origin, passed=passed, priority=Priority.STAT if is_stat else Priority.ROUTINE)
    try:
        recording = responder.recorder.begin(context_key, uid, origin)
    except (Hindered, StorageUnhealthy, MemoryError) as error:
        return responder.refuse(request, answer_for(error))
    target = _Target(recording)
    try:
        dialogue.read_to(request, target)
    except BaseException:
        recording.discard()
        raise
    begun, size = time.monotonic(), recording.size
    if target.failure is not None:
        recording.discard()
        answer = answer_for(target.failure)
    else:
        answer = responder.recorder.accept(recording, context_key, uid, origin)
    responder.respond_stored(request, answer, begun, size)


def refuse_object(context_key: ContextKey, uid: str) -> StoreResponse | None:
    """Why no object of this SOP class and UID is taken at any door, or None."""
    if not usable_uid(context_key.sop_class_uid) or not is_storage(context_key.sop_class_uid):
        return StoreResponse(SOP_CLASS_NOT_SUPPORTED, "not a storage SOP class")
    if not usable_uid(uid):
        return StoreResponse(INVALID_SOP_INSTANCE, "not a valid SOP Instance UID")
    return None


def find_archive(request: DimseMessage, responder: Responder) -> str:
    """The archive from which a C-MOVE of ours brings this object, which is cached then; empty: it is sent to us.

    The archive names who moves (PS3.4 section C.4.2.2.2), or no one; it is known by its address or certificate.
    """
    admission, config = responder.admission, responder.config
    mover = request.command.text(Element.MOVE_ORIGINATOR_AE_TITLE)
    is_ours = mover == config.listen.ae_title or (not mover and not _may_store(admission))
    destination = config.destinations.get(admission.destination)
    if not admission.gives_back or not is_ours or destination is None:
        return ""
    return "" if identity_fault(destination, responder.caller, responder.addresses_of) else destination.name


def _refusal(context_key: ContextKey, uid: str, request: DimseMessage, responder: Responder) -> StoreResponse | None:
    """Why an object is refused before a byte of it is taken, or None."""
    # Who may only retrieve, or give back, has storage contexts as well.
    if not _may_store(responder.admission) and not find_archive(request, responder):
        responder.note_refusal("it sends an object, and its services do not name store")
        return StoreResponse(_NOT_AUTHORIZED, "store is not among its services")
    if (refusal := refuse_object(context_key, uid)) is not None:
        return refusal
    if not request.command.has_data_set:
        return StoreResponse(PROCESSING_FAILURE, "C-STORE without a data set")
    try:
        responder.check_room()
        return refuse_rejected(uid, responder.config, responder.link)
    except Hindered as error:
        return answer_for(error)


def refuse_rejected(uid: str, config: Config, link: GatewayLink) -> StoreResponse | None:
    """Why an instance that a rejection note forbids is not taken again, where [iocm] says so; or None."""
    if config.iocm.again != "refuse" or not link.is_forbidden(uid):
        return None
    return StoreResponse(_NOT_AUTHORIZED, "a rejection note forbids this instance")


class _Target:
    """Where an object goes: into its recording; after a failure the rest is discarded."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.failure: Hindered | StorageUnhealthy | MemoryError | None = None

    def room(self) -> memoryview:
        if self.failure is None:
            try:
                return self._recording.room()
            except (Hindered, StorageUnhealthy, MemoryError) as error:
                self.failure = error
        return memoryview(bytearray(_PASSED_BYTES))

    def took(self, count: int) -> None:
        if self.failure is None:
            self._recording.took(count)


STORE_SERVICE = Service(
    "storage", is_storage, _is_allowed, CommandField.C_STORE_RQ, serve_store, transfer_syntaxes=None
)
