"""N-CREATE and N-SET as SCU (PS3.7 section 10.1): performed steps and availability notifications go to a RIS.

A message goes as it came, byte for byte, in the transfer syntax in which it came. Only where the peer does not take
that one is it encoded again, in the other little endian one; text is UTF-8 then.

Raises PeerError when the peer or the network fails, ServiceRefused when the peer does not offer the service.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline
from edge.dicom.failures import ServiceRefused
from edge.dicom.scu import Association, Peer, Secure, associate
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, name_of
from edge.errors import ProtocolError, Unreadable

#: Seconds to connect, to be accepted, to be answered.
_STEP_SECONDS = 30.0
_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a message."""

    status: int
    comment: str = ""  # the peer's own words


class NormalizedExchange:
    """An association on which messages go."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def create(self, sop_class: str, uid: str, body: bytes, transfer_syntax_uid: str) -> Answered:
        """N-CREATE: the peer's answer."""
        command: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.N_CREATE_RQ,
            Element.AFFECTED_SOP_CLASS_UID: sop_class,
            Element.AFFECTED_SOP_INSTANCE_UID: uid,
        }
        return self._request(sop_class, command, body, transfer_syntax_uid)

    def set(self, sop_class: str, uid: str, body: bytes, transfer_syntax_uid: str) -> Answered:
        """N-SET: the peer's answer."""
        command: dict[int, int | str] = {
            Element.COMMAND_FIELD: CommandField.N_SET_RQ,
            Element.REQUESTED_SOP_CLASS_UID: sop_class,
            Element.REQUESTED_SOP_INSTANCE_UID: uid,
        }
        return self._request(sop_class, command, body, transfer_syntax_uid)

    def kill(self) -> None:
        """End the exchange from another thread."""
        self._association.kill()

    def _request(self, sop_class: str, command: dict[int, int | str], body: bytes, syntax: str) -> Answered:
        association = self._association
        context = self._context_for(sop_class, syntax)
        if (accepted := association.accepted[context]) != syntax:
            body = encode_again(body, syntax, accepted)
        deadline = Deadline(_STEP_SECONDS)
        (answer,) = association.request(context, command, body, deadline=deadline)
        association.read(answer, deadline)  # the attributes as the peer has them: nobody asks
        return Answered(answer.status, answer.command.text(Element.ERROR_COMMENT))

    def _context_for(self, sop_class: str, syntax: str) -> int:
        """A context of the class, in this transfer syntax where the peer takes it. Raises ServiceRefused."""
        association = self._association
        found = [c for c in association.accepted if association.proposed[c].abstract_syntax == sop_class]
        if not found:
            raise ServiceRefused(f"it does not offer {name_of(sop_class)}")
        return next((each for each in found if association.accepted[each] == syntax), found[0])


def encode_again(body: bytes, transfer_syntax_uid: str, other: str) -> bytes:
    """A small data set in another transfer syntax. Raises ProtocolError for what cannot be read."""
    try:
        return items.encode_items(items.decode_items(body, transfer_syntax_uid), other)
    except (Unreadable, ValueError):
        raise ProtocolError("a message of ours cannot be encoded in the peer's transfer syntax") from None


@contextmanager
def open_normalized(
    peer: Peer, calling_ae: str, sop_classes: Sequence[str], secure: Secure | None = None
) -> Iterator[NormalizedExchange]:
    """An association that proposes each class in either syntax; released at the end, aborted after an error."""
    proposed = [(sop_class, syntax) for sop_class in sop_classes for syntax in _SYNTAXES]
    contexts = [Context(2 * at + 1, sop_class, (syntax,)) for at, (sop_class, syntax) in enumerate(proposed)]
    with associate(peer, calling_ae, contexts, {}, seconds=_STEP_SECONDS, secure=secure) as association:
        yield NormalizedExchange(association)
