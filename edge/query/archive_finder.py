"""Asking an archive what it has: C-FIND (PS3.4 section C.4.1) or QIDO-RS, by the kind of the destination.

Raises PeerError when the archive or the network fails, ServiceRefused when it does not offer the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline
from edge.dicom.failures import ServiceRefused, raise_failure
from edge.dicom.items import Attributes
from edge.dicom.scu import Association, Patience, Secure
from edge.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
)
from edge.errors import ProtocolError, Unreadable
from edge.query.web_exchange import WebExchange

_MODELS = {"PATIENT": PATIENT_ROOT_FIND, "STUDY": STUDY_ROOT_FIND}
_CONTEXT = 1
#: Where nobody waits: seconds for each step, and for one C-FIND.
UNHURRIED, UNHURRIED_FIND_SECONDS = Patience(30.0, 30.0, 30.0), 120.0


class Finder(Protocol):
    """An open exchange with an archive."""

    def find(self, keys: Attributes) -> Iterator[Attributes]:
        """What the archive has. `keys`: the Query/Retrieve Level among them."""

    def close(self) -> None: ...

    def kill(self) -> None:
        """End it from another thread: what waits for the archive fails."""


class DimseFinder:
    """C-FIND on an association of ours. See Finder."""

    def __init__(self, association: Association, seconds: float, message_seconds: float) -> None:
        self._association, self._seconds, self._message_seconds = association, seconds, message_seconds
        self.close, self.kill = association.release, association.kill

    def find(self, keys: Attributes) -> Iterator[Attributes]:
        association, syntax = self._association, self._association.accepted[_CONTEXT]
        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: association.proposed[_CONTEXT].abstract_syntax,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 0,
        }
        deadline, status = Deadline(self._seconds, self._message_seconds), 0
        data = items.encode_items(keys, syntax)
        for answer in association.request(_CONTEXT, request, data, deadline=deadline):
            body, status = association.read(answer, deadline), answer.status
            if status in PENDING and body:
                try:
                    yield items.decode_items(body, syntax)
                except Unreadable:
                    association.abort()
                    raise ProtocolError("an answer to the query that cannot be read") from None
        raise_failure("the query", status)


def open_finder(
    destination: Destination,
    calling_ae: str,
    secure: Secure | None = None,
    *,
    top: str = "STUDY",
    patience: Patience = UNHURRIED,
    seconds: float = UNHURRIED_FIND_SECONDS,
) -> Finder:
    """`top`: of the information model. `seconds`: for one query. Raises PeerError, ServiceRefused."""
    if destination.is_web:
        return WebExchange(destination)
    where = destination.host, destination.port, calling_ae, destination.ae_title
    contexts = [Context(_CONTEXT, _MODELS[top], (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    association = Association.open(*where, contexts, patience=patience, secure=secure)
    if _CONTEXT not in association.accepted:
        association.release()
        raise ServiceRefused(f"{destination.name} does not offer C-FIND of this information model")
    return DimseFinder(association, seconds, patience.answer)


@contextmanager
def open_background_finder(destination: Destination, calling_ae: str, secure: Secure | None = None) -> Iterator[Finder]:
    """A finder for queries that nobody waits for; cut after an error."""
    finder = open_finder(destination, calling_ae, secure)
    try:
        yield finder
    except BaseException:
        finder.kill()
        raise
    finally:
        finder.close()
