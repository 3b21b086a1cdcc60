"""N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 section J.3.3): an archive reports what we asked of it."""

from __future__ import annotations

from edge.dicom import commitment_data
from edge.dicom.acse import Role
from edge.dicom.command import PROCESSING_FAILURE, SUCCESS, CommandField, Element
from edge.dicom.dialogue import DimseMessage
from edge.dicom.uids import STORAGE_COMMITMENT_PUSH
from edge.errors import ReportRefused, Unreadable
from edge.scp.response import StoreResponse
from edge.scp.services.service import Responder, Service


def serve_commitment_report(request: DimseMessage, responder: Responder) -> None:
    responder.respond(request, _take(request, responder))


def _take(request: DimseMessage, responder: Responder) -> StoreResponse:
    data = responder.dialogue.read(request)
    try:
        event_type = request.command.number(Element.EVENT_TYPE_ID)
        report = commitment_data.parse_report(data, responder.dialogue.syntax(request), event_type)
    except Unreadable as error:
        return StoreResponse(PROCESSING_FAILURE, str(error))
    try:
        is_ours = responder.link.take_report(report.transaction_uid, report.committed, report.failed, responder.caller)
    except ReportRefused as error:
        responder.note_refusal(str(error))
        return StoreResponse(PROCESSING_FAILURE, "not from the archive that was asked")
    return StoreResponse(SUCCESS if is_ours else PROCESSING_FAILURE)


COMMITMENT_REPORT_SERVICE = Service(
    "storage commitment reports",
    STORAGE_COMMITMENT_PUSH.__eq__,
    lambda admission: bool(admission.destination),
    CommandField.N_EVENT_REPORT_RQ,
    serve_commitment_report,
    roles=Role(scu=False, scp=True),
)
