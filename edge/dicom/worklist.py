"""C-FIND of the Modality Worklist as SCU (PS3.4 annex K): a source is asked for its list.

Only a list that its source says is complete is one: a failure, a limit that was reached (A700) or a lost connection is
none. Raises PeerError or ServiceRefused then; every wait, length and count is bounded.
"""

from __future__ import annotations

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import SUCCESS, CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline
from edge.dicom.failures import RequestFailed
from edge.dicom.items import Attributes
from edge.dicom.scu import Peer, Secure, associate
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import ProtocolError, Unreadable

MODALITY_WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
#: Seconds for each step, and for the whole list.
_STEP_SECONDS, LIST_SECONDS = 30.0, 120.0
#: Items of a list.
MOST_ITEMS = 20_000


def find_worklist(where: Peer, calling_ae: str, keys: Attributes, secure: Secure | None = None) -> list[Attributes]:
    """All items that a source has for these keys."""
    contexts = [Context(1, MODALITY_WORKLIST_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))]
    words = {1: "the modality worklist"}
    with associate(where, calling_ae, contexts, words, seconds=_STEP_SECONDS, secure=secure) as association:
        syntax, found, status = association.accepted[1], list[Attributes](), SUCCESS
        elements: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: MODALITY_WORKLIST_FIND,
            Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Element.PRIORITY: 0,  # medium
        }
        deadline = Deadline(LIST_SECONDS, _STEP_SECONDS)
        for answer in association.request(1, elements, items.encode_items(keys, syntax), deadline=deadline):
            data, status = association.read(answer, deadline), answer.status
            if status in PENDING:
                found.append(_decode(data, syntax))
                if len(found) > MOST_ITEMS:
                    raise ProtocolError(f"a worklist of more than {MOST_ITEMS} items")
        if status != SUCCESS:
            raise RequestFailed(f"the worklist query failed with status {status:04X}", status)
        return found


def _decode(data: bytes, syntax: str) -> Attributes:
    try:
        return items.decode_items(data, syntax)
    except Unreadable:
        raise ProtocolError("an item of the worklist that cannot be read") from None
