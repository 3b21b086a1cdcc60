"""The DIMSE services, one file each. A new one is a new file and a line in `SERVICES`."""

from __future__ import annotations

from edge.dicom.acse import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Context,
    ContextResult,
    Request,
    Role,
)
from edge.dicom.uids import STORAGE_COMMITMENT_PUSH, usable_uid
from edge.scp.admission import Admission
from edge.scp.services.commitment_report import COMMITMENT_REPORT_SERVICE
from edge.scp.services.echo import ECHO_SERVICE
from edge.scp.services.find import FIND_SERVICE
from edge.scp.services.get import GET_SERVICE
from edge.scp.services.move import MOVE_SERVICE
from edge.scp.services.mpps import STEP_CREATE_SERVICE, STEP_SET_SERVICE
from edge.scp.services.service import Service
from edge.scp.services.storage_commitment import COMMITMENT_REQUEST_SERVICE
from edge.scp.services.store import STORE_SERVICE
from edge.scp.services.worklist import WORKLIST_SERVICE

SERVICES: tuple[Service, ...] = (
    ECHO_SERVICE,
    STORE_SERVICE,
    COMMITMENT_REPORT_SERVICE,
    COMMITMENT_REQUEST_SERVICE,
    STEP_CREATE_SERVICE,
    STEP_SET_SERVICE,
    WORKLIST_SERVICE,
    FIND_SERVICE,
    GET_SERVICE,
    MOVE_SERVICE,
)


def find_service(abstract_syntax: str, command: int) -> Service | None:
    """What serves this request on a presentation context of this abstract syntax."""
    return next((each for each in SERVICES if each.command == command and each.is_for(abstract_syntax)), None)


def choose(admission: Admission, context: Context, role: Role | None = None) -> ContextResult:
    """Decide on one presentation context. The first transfer syntax is the caller's own preference: kept as it came.

    `role`: as the requestor proposes it. Who retrieves is the SCP of the storage classes on the same association.
    """
    known = [each for each in SERVICES if each.is_for(context.abstract_syntax)]
    is_given = role is not None and role.scp and may_be_given(admission, context.abstract_syntax)
    service = next((each for each in known if each.is_allowed(admission) or (is_given and each is STORE_SERVICE)), None)
    if service is None:
        return ContextResult(context.id, result=USER_REJECTION if known else ABSTRACT_SYNTAX_NOT_SUPPORTED)
    # A transfer syntax is kept with the object, and so must be a UID; an odd abstract syntax is not needed.
    offered = tuple(syntax for syntax in context.transfer_syntaxes if usable_uid(syntax))
    if service.transfer_syntaxes is not None:
        offered = tuple(syntax for syntax in offered if syntax in service.transfer_syntaxes)
    if not offered:
        return ContextResult(context.id, result=TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return ContextResult(context.id, offered[0])


def may_be_given(admission: Admission, sop_class: str) -> bool:
    """May objects of a class go to this caller, on its own association (C-GET)?"""
    return "retrieve" in admission.services and STORE_SERVICE.is_for(sop_class)


def grant_roles(admission: Admission, request: Request, accepted: set[str]) -> dict[str, Role]:
    """Grant, of the roles that were proposed, those that we have, as they were asked for (PS3.7 section D.3.3.4).

    A modality may be the SCU of what we serve, and of storage commitment; an archive is the SCP of the commitment that
    it reports. What is left out has the default roles. `accepted`: the SOP classes of the contexts that we accept. A
    role is not the service: whether storage commitment is offered, the result of its context says.
    """
    granted = {}
    for sop_class, asked in request.roles.items():
        is_commitment = sop_class == STORAGE_COMMITMENT_PUSH
        allowed = [each.roles for each in SERVICES if each.is_for(sop_class) and each.is_allowed(admission)]
        may_be_scu = bool(admission.modality) if is_commitment else sop_class in accepted
        may_be_scp = any(each.scp for each in allowed) or may_be_given(admission, sop_class)
        if not is_commitment and not allowed:
            may_be_scu = False  # it is given objects of the class, and may send none
        role = Role(asked.scu and may_be_scu, asked.scp and may_be_scp)
        if role.scu or role.scp:
            granted[sop_class] = role
    return granted


def grant_extended(request: Request, accepted: set[str]) -> dict[str, bytes]:
    """What we agree to of the extended negotiation, for accepted classes that asked (PS3.4 section C.5).

    Each field that is asked for and that the service has is 1, every other one 0.
    """
    granted = {}
    for sop_class, asked in request.extended.items():
        offers = next((each.extended for each in SERVICES if each.is_for(sop_class) and each.extended), b"")
        if sop_class in accepted and offers:
            granted[sop_class] = bytes(a & 1 & b for a, b in zip(asked, offers.ljust(len(asked), b"\0"), strict=False))
    return granted
