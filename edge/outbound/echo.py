"""One C-ECHO to a destination, and what it accepts: for the command, the console and the test of a link."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.config.sections import Config, Destination
from edge.dicom.acse import CONTEXT_RESULTS
from edge.dicom.scu import Association, plan_contexts
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION, name_of
from edge.errors import PeerError
from edge.model import ContextKey
from edge.network import tls

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


def proposals_for(received: Iterable[ContextKey]) -> list[ContextKey]:
    """List what to propose: what was received, or common classes; each SOP class also in the uncompressed syntaxes."""
    kinds = list(received)
    classes = dict.fromkeys(kind.sop_class_uid for kind in kinds) or COMMON
    plain = [ContextKey(sop_class, syntax) for sop_class in classes for syntax in UNCOMPRESSED]
    return list(dict.fromkeys([*kinds, *plain]))


def ask(config: Config, destination: Destination, kinds: Sequence[ContextKey]) -> Echo:
    """Open associations and collect the results. An unreachable destination is a result, too."""
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
        return Echo(*at, False, _with_remedy(str(error), destination), None, None, ())
    assert first is not None, "there is always the Verification SOP Class to propose"
    return Echo(*at, True, None, *first, tuple(offers))


def _round_trip(association: Association) -> float | None:
    context = association.context_for(VERIFICATION)
    if context is None:
        return None
    begin = time.monotonic()
    status = association.echo(context)
    if status:
        raise PeerError(f"it answered C-ECHO with status 0x{status:04X}")
    return time.monotonic() - begin


def _offers(association: Association) -> Iterator[Offer]:
    for number, context in association.proposed.items():
        if context.abstract_syntax != VERIFICATION:
            sop_class, syntax = context.abstract_syntax, context.transfer_syntaxes[0]
            accepted = number in association.accepted
            result = association.refused.get(number, 0)
            reason = "" if accepted else CONTEXT_RESULTS.get(result, f"refused with result {result}")
            yield Offer(sop_class, name_of(sop_class), syntax, name_of(syntax), accepted, reason)


def _with_remedy(error: str, destination: Destination) -> str:
    key = f"destination.{destination.name}"
    return f"{error}; compare {key} (ae_title, host, port, tls) with the archive's own settings, and check the network"
