"""Asking an archive what it has (PS3.4 annex C: C-FIND, Study Root). What it gives back: edge.query.fetching.

Raises PeerError when the peer or the network fails, ServiceRefused when it does not offer the service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline
from edge.dicom.failures import raise_failure
from edge.dicom.items import Attributes
from edge.dicom.scu import Association, Peer, Secure, associate
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from edge.errors import ProtocolError, Unreadable

STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
#: Seconds for each step, and for one C-FIND.
_STEP_SECONDS, _FIND_SECONDS = 30.0, 120.0
#: Answers of one C-FIND.
_MOST_ANSWERS = 20_000
_FIND = 1


class ArchiveExchange:
    """An association with an archive."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def find(self, keys: Mapping[int, str]) -> list[Attributes]:
        """What the archive has. `keys`: the level among them."""
        association = self._association
        syntax, found, status = association.accepted[_FIND], list[Attributes](), 0
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 2,  # low
        }
        deadline = Deadline(_FIND_SECONDS, _STEP_SECONDS)
        data = items.encode_items(items.item(keys), syntax)
        for answer in association.request(_FIND, elements, data, deadline=deadline):
            body, status = association.read(answer, deadline), answer.status
            if status in PENDING:
                found.append(_decode(body, syntax))
                if len(found) > _MOST_ANSWERS:
                    raise ProtocolError(f"more than {_MOST_ANSWERS} answers")
        raise_failure("the query", status)
        return found


def _decode(data: bytes, syntax: str) -> Attributes:
    try:
        return items.decode_items(data, syntax)
    except Unreadable:
        raise ProtocolError("an answer to the query that cannot be read") from None


@contextmanager
def open_archive(peer: Peer, calling_ae: str, secure: Secure | None = None) -> Iterator[ArchiveExchange]:
    """An association for queries; released at the end, aborted after an error."""
    contexts = [Context(_FIND, STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    with associate(peer, calling_ae, contexts, {_FIND: "C-FIND"}, seconds=_STEP_SECONDS, secure=secure) as association:
        yield ArchiveExchange(association)
