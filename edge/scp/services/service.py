"""The declaration of a DIMSE service, and what it is given to serve a request (PS3.7 section 7.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.config.sections import Config
from edge.dicom.acse import Role
from edge.dicom.command import CommandField
from edge.dicom.dialogue import Dialogue, DimseMessage
from edge.dicom.pdu import Released
from edge.dicom.scu import Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import PeerError
from edge.query.asking import AskedQuery, Asker, QueryEnd
from edge.scp.admission import Admission, Caller, Resolver
from edge.scp.gateway_link import GatewayLink, KnownRequests, KnownSteps
from edge.scp.recorder import Recorder
from edge.scp.response import StoreResponse
from edge.scp.services.worklist_source import KnownWorklist

LITTLE_ENDIAN = frozenset({EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN})

CALLS = Role(scu=True, scp=False)
#: How a caller leaves that is still owed an answer: by any fault, an A-ABORT among them, or by its A-RELEASE.
CALLER_LEAVES = (PeerError, Released)


class Responder(Protocol):
    """The association on which a request came, and what of the gateway its services use."""

    dialogue: Dialogue
    caller: Caller
    admission: Admission
    called_ae: str
    extended: Mapping[str, bytes]  # what was agreed of the extended negotiation, by SOP class

    @property
    def config(self) -> Config: ...

    @property
    def asker(self) -> Asker: ...

    @property
    def addresses_of(self) -> Resolver: ...

    @property
    def config_data_dir(self) -> Path:
        """Where the spool is."""

    roles: Mapping[str, Role]  # that were granted, by SOP class

    def secure_for(self, host: str) -> Secure | None:
        """What begins TLS with a peer; None where there is no [tls]."""

    @property
    def commitments(self) -> KnownRequests: ...

    @property
    def steps(self) -> KnownSteps: ...

    @property
    def worklist(self) -> KnownWorklist: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def link(self) -> GatewayLink: ...

    def check_room(self) -> None:
        """Raises StorageFull when no object may be taken."""

    def respond(self, request: DimseMessage, answer: StoreResponse) -> None:
        """Answer a request whose data set has been read."""

    def respond_stored(self, request: DimseMessage, answer: StoreResponse, begun: float = 0.0, size: int = 0) -> None:
        """Answer a C-STORE, and count it; a shortage of ours is noted."""

    def refuse(self, request: DimseMessage, answer: StoreResponse) -> None:
        """Discard the request's data set, and answer why; it counts as not stored."""

    def note_query(self, asked: AskedQuery, identifier: bytes, end: QueryEnd) -> None:
        """What was asked, and how it ended: for the audit trail."""

    def note_refusal(self, why: str) -> None:
        """Put into log and audit trail that the caller asked for what it may not."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service: which presentation contexts it serves, for which callers, and how it answers one request."""

    name: str
    is_for: Callable[[str], bool]  # an abstract syntax
    is_allowed: Callable[[Admission], bool]
    command: CommandField
    handle: Callable[[DimseMessage, Responder], None]
    transfer_syntaxes: frozenset[str] | None = LITTLE_ENDIAN  # messages that we read; None: any, kept as it came
    extended: bytes = b""  # fields of the extended negotiation that it has (PS3.7 section D.3.3.5)
    roles: Role = CALLS  # that a caller may have, as the requestor's (PS3.7 section D.3.3.4)


def allow_by_word(word: str) -> Callable[[Admission], bool]:
    """Allow a service to callers whose `[modality] services` have this word."""
    return lambda admission: word in admission.services
