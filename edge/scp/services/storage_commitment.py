"""N-ACTION of the Storage Commitment Push Model (PS3.4 section J.3.2): a modality asks whether its images are safe.

Promise: success is answered only when the request is a durable record of the journal. Its result is never waited for:
the report goes on another association (edge.outbound.commitment_reports).

The data set goes straight into a receive buffer, and one request at a time is held in memory beside it.
"""

from __future__ import annotations

import threading
import time

from edge.dicom.command import PROCESSING_FAILURE, SUCCESS, CommandField, Element
from edge.dicom.commitment_data import (
    CLASS_NOT_SUPPORTED,
    DUPLICATE_TRANSACTION,
    NO_SUCH_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    AskedCommitment,
    parse_commitment_request,
)
from edge.dicom.dialogue import DimseMessage
from edge.dicom.items import MAX_DATA_SET
from edge.dicom.uids import STORAGE_COMMITMENT_PUSH, STORAGE_COMMITMENT_PUSH_INSTANCE
from edge.errors import Hindered, StorageUnhealthy, Unreadable
from edge.journal.kinds import commitment_request
from edge.journal.kinds.commitment_request import CommitmentRequest
from edge.model import ContextKey, Origin
from edge.scp.recorder import Recording
from edge.scp.response import MAX_COMMENT, StoreResponse, answer_for
from edge.scp.services.service import Responder, Service, allow_by_word

# DIMSE statuses of an N-ACTION (PS3.7 section 10.1.4.1.10 and annex C).
INVALID_ARGUMENT, NO_SUCH_ACTION, NOT_AUTHORIZED, RESOURCE_LIMITATION = 0x0115, 0x0123, 0x0124, 0x0213

_TOO_LONG = StoreResponse(RESOURCE_LIMITATION, f"a request of more than {MAX_DATA_SET >> 20} MiB")
_is_allowed = allow_by_word("commit")
_one_at_a_time = threading.Lock()


def serve_commitment_request(request: DimseMessage, responder: Responder) -> None:
    answer = _refusal(request, responder)
    if answer is None:
        answer = _receive(request, responder)
    else:
        responder.dialogue.skip(request)
    responder.respond(request, answer)


def _refusal(request: DimseMessage, responder: Responder) -> StoreResponse | None:
    """Why a request is refused before its data set is read, or None."""
    command, admission = request.command, responder.admission
    if not _is_allowed(admission):  # an archive has this abstract syntax, too
        responder.note_refusal("it asks for storage commitment, which its services do not name")
        return StoreResponse(NOT_AUTHORIZED, "commit is not among its services")
    if command.text(Element.REQUESTED_SOP_CLASS_UID) != STORAGE_COMMITMENT_PUSH:
        return StoreResponse(CLASS_NOT_SUPPORTED, "not the Storage Commitment Push Model SOP class")
    if command.text(Element.REQUESTED_SOP_INSTANCE_UID) != STORAGE_COMMITMENT_PUSH_INSTANCE:
        return StoreResponse(NO_SUCH_INSTANCE, "not the well-known instance of storage commitment")
    if command.get(Element.ACTION_TYPE_ID) != REQUEST_STORAGE_COMMITMENT:
        return StoreResponse(NO_SUCH_ACTION, "the action type is not 1")
    if admission.way_back is None:
        responder.note_refusal("it asks for storage commitment, and no host and port say where to report it")
        return StoreResponse(PROCESSING_FAILURE, "no host and port in its [modality] to report to")
    return None


def _receive(request: DimseMessage, responder: Responder) -> StoreResponse:
    """Receive the data set into the journal's buffer, and record it."""
    caller, dialogue, kind = responder.caller, responder.dialogue, commitment_request.CODE
    origin = Origin(caller.ae_title, responder.called_ae, caller.address, time.time())
    syntax = dialogue.syntax(request)
    try:
        known_as = ContextKey(STORAGE_COMMITMENT_PUSH, syntax), STORAGE_COMMITMENT_PUSH_INSTANCE
        recording = responder.recorder.begin(*known_as, origin)
    except (Hindered, StorageUnhealthy, MemoryError) as error:
        dialogue.skip(request)
        return _answer_for(error)
    try:
        sink = _Sink(recording)
        dialogue.read_into(request, sink)
        if sink.failure is not None:
            return sink.failure
        with _one_at_a_time:
            asked = parse_commitment_request(recording.read_bytes(0, recording.size), syntax)
        if (refusal := _known_refusal(asked, responder)) is not None:
            return refusal
        is_tls = caller.certificate is not None
        facts = CommitmentRequest(asked.transaction_uid, syntax, origin, responder.admission.modality, is_tls)
        responder.recorder.record(recording, kind, commitment_request.encode(facts))
        responder.commitments.note(caller.ae_title, asked.transaction_uid, asked.digest)
        return StoreResponse(SUCCESS)
    except Unreadable as error:
        return StoreResponse(INVALID_ARGUMENT, str(error)[:MAX_COMMENT])
    except (Hindered, StorageUnhealthy, MemoryError) as error:
        return _answer_for(error)
    finally:
        recording.discard()


def _known_refusal(asked: AskedCommitment, responder: Responder) -> StoreResponse | None:
    """The same request again is taken again; another one under its Transaction UID is not."""
    known = responder.commitments.find_digests(responder.caller.ae_title, asked.transaction_uid)
    if known and asked.digest not in known:
        return StoreResponse(DUPLICATE_TRANSACTION, "this Transaction UID was used for other instances")
    if not known and responder.commitments.is_full(responder.admission.modality):
        return StoreResponse(RESOURCE_LIMITATION, "too many reports are owed to it: it does not take them")
    return None


def _answer_for(error: Hindered | StorageUnhealthy | MemoryError) -> StoreResponse:
    """0xA700 is a status of C-STORE alone."""
    found = answer_for(error)
    return StoreResponse(RESOURCE_LIMITATION, found.comment, found.cause)


class _Sink:
    """Takes fragments into a recording; after a failure it discards the rest."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.failure: StoreResponse | None = None

    def __call__(self, views: list[memoryview]) -> None:
        if self.failure is None:
            try:
                self._recording.write(views)
            except (Hindered, StorageUnhealthy, MemoryError) as error:
                self.failure = _answer_for(error)
            if self._recording.size > MAX_DATA_SET:
                self.failure = _TOO_LONG


COMMITMENT_REQUEST_SERVICE = Service(
    "storage commitment requests",
    STORAGE_COMMITMENT_PUSH.__eq__,
    _is_allowed,
    CommandField.N_ACTION_RQ,
    serve_commitment_request,
)
