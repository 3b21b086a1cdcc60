"""Association negotiation (PS3.8 section 9.3, PS3.7 annex D): bytes to frozen facts and back, no socket in sight.

pynetdicom's PDU classes encode and decode; this module decides. Anything that cannot be decoded raises ProtocolError.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from edge.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.dicom.pdu import MAX_PDU_IN
from edge.errors import AssociationRejected, ProtocolError

# pynetdicom logs what it decodes, and pydicom warns of it; a caller's bytes are not ours to print, nor to remember.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

# Presentation context results (PS3.8 table 9-18).
ACCEPTED, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = range(5)
CONTEXT_RESULTS = {
    USER_REJECTION: "refused by the peer's user",
    NO_REASON: "refused without a reason",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "the SOP class is not supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "none of the transfer syntaxes is supported",
}
MAX_CONTEXTS = 128


@dataclass(frozen=True, slots=True)
class Context:
    """One proposed presentation context: transfer syntaxes in order of preference."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """SCP/SCU role selection for one SOP class, as the requestor's roles (PS3.7 annex D.3.3.4)."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class Request:
    """An A-ASSOCIATE-RQ."""

    calling_ae: str
    called_ae: str
    contexts: tuple[Context, ...]
    max_pdu: int
    roles: dict[str, Role] = field(default_factory=dict)
    implementation: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Our decision on one context: `transfer_syntax` when accepted, else the result code."""

    id: int
    transfer_syntax: str = ""
    result: int = ACCEPTED


@dataclass(frozen=True, slots=True)
class Accepted:
    """An A-ASSOCIATE-AC, or our own: what holds for the life of the association."""

    max_pdu: int
    contexts: dict[int, str]  # accepted context id -> transfer syntax
    refused: dict[int, int] = field(default_factory=dict)  # context id -> result


def _title(value: object) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
    return raw.decode("latin-1").strip(" \0")


def parse_request(pdu: bytes) -> Request:
    """Read an A-ASSOCIATE-RQ. Raises ProtocolError when it cannot be read or breaks PS3.8 section 9.3.2."""
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(pdu)
        primitive = request.to_primitive()
        contexts = tuple(
            Context(
                int(item.presentation_context_id or 0), str(item.abstract_syntax), tuple(map(str, item.transfer_syntax))
            )
            for item in request.presentation_context
        )
        calling, called = _title(request.calling_ae_title), _title(request.called_ae_title)
    except Exception as error:  # noqa: BLE001 - the decoder raises whatever the bytes provoke
        raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be decoded ({type(error).__name__})") from None
    ids = [context.id for context in contexts]
    if len(set(ids)) != len(ids) or any(i % 2 == 0 for i in ids):
        raise ProtocolError("presentation context IDs must be odd and distinct (PS3.8 section 9.3.2.2)")
    max_pdu, roles, implementation = 0, {}, ""
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            max_pdu = item.maximum_length_received
        elif isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            roles[str(item.sop_class_uid)] = Role(bool(item.scu_role), bool(item.scp_role))
        elif isinstance(item, ImplementationVersionNameNotification):
            implementation = item.implementation_version_name or ""
    return Request(calling, called, contexts, max_pdu, roles, implementation)


def answer_contexts(
    request: Request, choose: Callable[[Context], Answer]
) -> tuple[list[Answer], dict[int, tuple[str, str]]]:
    """Decide on every context; also the accepted ones as id -> (abstract syntax, transfer syntax)."""
    answers = [choose(context) for context in request.contexts]
    accepted = {
        context.id: (context.abstract_syntax, answer.transfer_syntax)
        for context, answer in zip(request.contexts, answers, strict=True)
        if answer.result == ACCEPTED
    }
    return answers, accepted


def accept_pdu(request: Request, answers: Iterable[Answer], roles: dict[str, Role]) -> bytes:
    """Encode the A-ASSOCIATE-AC that answers `request`; `roles` are those we grant, for the SOP classes that asked."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = request.calling_ae
    primitive.called_ae_title = request.called_ae
    primitive.result, primitive.result_source = 0, 1
    proposed = {context.id: context for context in request.contexts}
    results = []
    for answer in answers:
        context = PresentationContext()
        context.context_id = answer.id
        context.abstract_syntax = UID(proposed[answer.id].abstract_syntax)
        fallback = proposed[answer.id].transfer_syntaxes or ("1.2.840.10008.1.2",)
        context.transfer_syntax = [UID(answer.transfer_syntax or fallback[0])]
        context.result = answer.result
        results.append(context)
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = _user_information(roles)
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return pdu.encode()


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    primitive = A_ASSOCIATE()
    primitive.result, primitive.result_source, primitive.diagnostic = result, source, reason
    pdu = A_ASSOCIATE_RJ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def request_pdu(request: Request) -> bytes:
    """Encode an A-ASSOCIATE-RQ; `request.max_pdu` is not used: we announce our own."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = request.calling_ae
    primitive.called_ae_title = request.called_ae
    contexts = []
    for proposed in request.contexts:
        context = PresentationContext()
        context.context_id = proposed.id
        context.abstract_syntax = UID(proposed.abstract_syntax)
        context.transfer_syntax = [UID(syntax) for syntax in proposed.transfer_syntaxes]
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = _user_information(request.roles)
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def parse_accept(pdu: bytes) -> Accepted:
    """Read an A-ASSOCIATE-AC. Raises ProtocolError when it cannot be read or answers no presentation context at all."""
    accept = A_ASSOCIATE_AC()
    try:
        accept.decode(pdu)
        contexts = {
            int(item.presentation_context_id or 0): str(item.transfer_syntax or "")
            for item in accept.presentation_context
            if item.result == ACCEPTED
        }
        refused = {
            int(item.presentation_context_id or 0): int(item.result or 0)
            for item in accept.presentation_context
            if item.result != ACCEPTED
        }
        max_pdu = accept.user_information.maximum_length if accept.user_information else 0
    except Exception as error:  # noqa: BLE001 - as in parse_request
        raise ProtocolError(f"an A-ASSOCIATE-AC that cannot be decoded ({type(error).__name__})") from None
    if not contexts and not refused:
        raise ProtocolError("an A-ASSOCIATE-AC that answers no presentation context (PS3.8 section 9.3.3)")
    return Accepted(max_pdu or 0, contexts, refused)


def parse_reject(pdu: bytes) -> AssociationRejected:
    """Read an A-ASSOCIATE-RJ into the error that it means, in words."""
    if len(pdu) < 10:
        raise ProtocolError("an A-ASSOCIATE-RJ that ends too early")
    result, source, reason = pdu[7], pdu[8], pdu[9]
    text = REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
    lasting = "for good" if result == 1 else "for now"
    return AssociationRejected(f"the association was rejected {lasting}: {text}", result, source, reason)


#: A-ASSOCIATE-RJ (source, reason) in words (PS3.8 table 9-21).
REJECTIONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "it does not know our AE title (calling AE title not recognized); have it added there",
    (1, 7): "it does not answer to that AE title (called AE title not recognized); check the destination's ae_title",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


def _user_information(roles: dict[str, Role]) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = MAX_PDU_IN
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    items: list[Any] = [length, implementation, version]
    for sop_class, role in roles.items():
        item = SCP_SCU_RoleSelectionNegotiation()
        item.sop_class_uid = UID(sop_class)
        item.scu_role, item.scp_role = role.scu, role.scp
        items.append(item)
    return items
