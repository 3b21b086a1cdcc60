"""One C-ECHO to a destination, what it accepts, whether it answers for the proof of arrival, and how it gives back.

Of a DICOMweb destination one question by QIDO-RS: what it accepts is seen only when objects go.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from edge.config.sections import Config, Destination
from edge.dicom.acse import CONTEXT_RESULTS
from edge.dicom.commitment import open_commitment, open_query
from edge.dicom.performed_step import INSTANCE_AVAILABILITY_NOTIFICATION, MODALITY_PERFORMED_PROCEDURE_STEP
from edge.dicom.scu import Association, plan_contexts
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION, name_of
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.errors import EdgeError, PeerError, Unavailable
from edge.model import ContextKey
from edge.network import tls
from edge.outbound.confirm.qido import open_qido
from edge.outbound.retrieval_ways import NOBODYS_UID, RetrievalWay, find_retrieval_ways
from edge.outbound.transport.stow import WebDestination, WebSession

#: Proposed where nothing has been received yet: CT, MR, US, CR, DX, secondary capture, and PDF documents.
COMMON = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.104.1",
)
UNCOMPRESSED = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


@dataclass(frozen=True, slots=True)
class Offer:
    """One proposed presentation context and its result."""

    sop_class_uid: str
    sop_class: str
    transfer_syntax_uid: str
    transfer_syntax: str
    accepted: bool
    reason: str  # where not accepted


@dataclass(frozen=True, slots=True)
class Echo:
    """The result for one destination."""

    destination: str
    ae_title: str
    host: str
    port: int
    reachable: bool
    error: str | None
    associate_seconds: float | None
    echo_seconds: float | None  # None where it does not accept C-ECHO
    contexts: tuple[Offer, ...]
    url: str = ""  # of a DICOMweb destination
    confirm: str = "status"
    proof_error: str | None = None  # why it does not answer for the proof; None also where none is asked of it
    retrieval: tuple[RetrievalWay, ...] = ()  # how it gives objects back, the first choice first
    refuses: bool = False  # it answers, and is not reachable because it refuses us

    @property
    def address(self) -> str:
        """The text for people."""
        return f"{self.destination} ({self.url or f'{self.ae_title} at {self.host}:{self.port}'})"

    @property
    def outage(self) -> str:
        """What a destination does that is not reachable, in words."""
        return "answers, but refuses this gateway" if self.refuses else "is not reachable"


def proposals_for(received: Iterable[ContextKey]) -> list[ContextKey]:
    """List what to propose: what was received, or common classes; each SOP class also in the uncompressed syntaxes."""
    kinds = list(received)
    classes = dict.fromkeys(kind.sop_class_uid for kind in kinds) or COMMON
    plain = [ContextKey(sop_class, syntax) for sop_class in classes for syntax in UNCOMPRESSED]
    return list(dict.fromkeys([*kinds, *plain]))


def proposals_to(config: Config, name: str, received: Iterable[ContextKey]) -> list[ContextKey]:
    """List what to propose to a destination: the services that the configuration asks of it, and what it may be sent.

    One that no route names, and that is asked for something else, gets no images.
    """
    wanted = {
        MODALITY_WORKLIST_FIND: config.worklist.from_ == name,
        MODALITY_PERFORMED_PROCEDURE_STEP: name in config.mpps.to,
        INSTANCE_AVAILABILITY_NOTIFICATION: name in config.mpps.ian,
    }
    services = [
        ContextKey(sop_class, EXPLICIT_VR_LITTLE_ENDIAN) for sop_class, is_wanted in wanted.items() if is_wanted
    ]
    return [*services, *(proposals_for(received) if has_images(config, name) else ())]


def has_images(config: Config, name: str) -> bool:
    """Is a destination sent images, or asked for them? One that is asked for something else alone has none."""
    if name in config.retrieves_from or any(name in route.to for route in config.routes.values()):
        return True
    return not (config.worklist.from_ == name or name in config.mpps.to or name in config.mpps.ian)


def ask(config: Config, destination: Destination, kinds: Sequence[ContextKey]) -> Echo:
    """Open associations and collect the results. An unreachable destination is a result, too."""
    found = _ask_web(destination) if destination.is_web else _ask(config, destination, kinds)
    if not found.reachable:
        return found
    proof_error, ways = _try_proof(config, destination), find_retrieval_ways(config, destination)
    return replace(found, confirm=destination.confirm, proof_error=proof_error, retrieval=ways)


def _try_proof(config: Config, destination: Destination) -> str | None:
    """Ask as confirmation does, for an instance that nobody has; storage commitment is negotiated alone."""
    try:
        if destination.is_web:
            with open_qido(destination) as qido:
                qido.has({NOBODYS_UID}, NOBODYS_UID, NOBODYS_UID, one_by_one=True)
        elif destination.confirm == "query":
            with open_query(destination, config.listen.ae_title, tls.secure(config, destination)) as query:
                query.has({NOBODYS_UID}, NOBODYS_UID, NOBODYS_UID)
        elif destination.confirm == "commitment":
            with open_commitment(destination, config.listen.ae_title, lambda _: False, tls.secure(config, destination)):
                pass
    except EdgeError as error:
        return str(error)
    return None


def _ask_web(destination: Destination) -> Echo:
    where = urlsplit(destination.url)
    at = (destination.name, "", where.hostname or "", where.port or (443 if where.scheme == "https" else 80))
    try:
        begin = time.monotonic()
        session = WebSession(WebDestination(destination))
        try:
            session.probe()
            connected = time.monotonic()
            session.probe()
            trip = time.monotonic() - connected
        finally:
            session.close()
    except PeerError as error:
        text = f"{error}; compare destination.{destination.name} (url, ca, token) with the server's own settings"
        return Echo(*at, False, text, None, None, (), destination.url, refuses=error.refuses)
    return Echo(*at, True, None, connected - begin, trip, (), destination.url)


def _ask(config: Config, destination: Destination, kinds: Sequence[ContextKey]) -> Echo:
    at = (destination.name, destination.ae_title, destination.host, destination.port)
    offers: list[Offer] = []
    first: tuple[float, float | None] | None = None
    left: tuple[ContextKey, ...] = (ContextKey(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN), *kinds)
    secure = tls.secure(config, destination)
    try:
        while left:
            plan = plan_contexts(left)
            begin = time.monotonic()
            association = Association.open(
                destination.host,
                destination.port,
                config.listen.ae_title,
                destination.ae_title,
                plan.contexts,
                secure=secure,
            )
            associated = time.monotonic() - begin
            first = first or (associated, _round_trip(association))
            offers += _offers(association)
            association.release()
            left = plan.left
    except PeerError as error:
        return Echo(*at, False, _with_remedy(error, destination), None, None, (), refuses=error.refuses)
    assert first is not None, "there is always the Verification SOP Class to propose"
    return Echo(*at, True, None, *first, tuple(offers))


def _round_trip(association: Association) -> float | None:
    context = association.context_for(VERIFICATION)
    if context is None:
        return None
    begin = time.monotonic()
    status = association.echo(context)
    if status:
        raise Unavailable(f"it answered C-ECHO with status 0x{status:04X}")
    return time.monotonic() - begin


def _offers(association: Association) -> Iterator[Offer]:
    for number, context in association.proposed.items():
        if context.abstract_syntax != VERIFICATION:
            sop_class, syntax = context.abstract_syntax, context.transfer_syntaxes[0]
            accepted = number in association.accepted
            result = association.refused.get(number, 0)
            reason = "" if accepted else CONTEXT_RESULTS.get(result, f"refused with result {result}")
            yield Offer(sop_class, name_of(sop_class), syntax, name_of(syntax), accepted, reason)


def _with_remedy(error: PeerError, destination: Destination) -> str:
    key = f"destination.{destination.name}"
    compare = f"{error}; compare {key} (ae_title, host, port, tls) with the archive's own settings"
    return compare if error.refuses else f"{compare}, and check the network"
