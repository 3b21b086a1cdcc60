"""C-ECHO (PS3.7 section 9.1.5, PS3.4 annex A)."""

from __future__ import annotations

from edge.dicom.command import SUCCESS, CommandField
from edge.dicom.dialogue import DimseMessage
from edge.dicom.uids import VERIFICATION
from edge.scp.response import StoreResponse
from edge.scp.services.service import Responder, Service, allow_by_word


def serve_echo(request: DimseMessage, responder: Responder) -> None:
    responder.respond(request, StoreResponse(SUCCESS))


ECHO_SERVICE = Service("verification", VERIFICATION.__eq__, allow_by_word("echo"), CommandField.C_ECHO_RQ, serve_echo)
