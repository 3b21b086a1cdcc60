"""C-FIND of the Modality Worklist (PS3.4 annex K), answered from the last list; the source is never waited for.

A list that is older than [worklist] keep, or that never came, is A700: an empty success would say that nobody is
scheduled. An identifier that cannot be read is C001. C-CANCEL works between two answers.
"""

from __future__ import annotations

from edge.dicom import items
from edge.dicom.command import SUCCESS, CommandField
from edge.dicom.dialogue import DimseMessage
from edge.dicom.items import Attributes
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.errors import EdgeError, Hindered, StorageUnhealthy, Unreadable
from edge.query.worklist import WorklistItem, answer_maker, find_items, has_unsupported_keys
from edge.scp.services.service import Responder, Service, has_word

# DIMSE statuses (PS3.4 table K.4-2).
OUT_OF_RESOURCES, CANNOT_PARSE, CANCELLED, PENDING, PENDING_UNSUPPORTED = 0xA700, 0xC001, 0xFE00, 0xFF00, 0xFF01


def serve_worklist(request: DimseMessage, responder: Responder) -> None:
    dialogue = responder.dialogue
    body, syntax = dialogue.read(request), dialogue.syntax(request)
    try:
        keys = items.decode_items(body, syntax)
    except Unreadable as error:
        return dialogue.respond(request, CANNOT_PARSE, str(error))
    try:
        found = responder.worklist.read(responder.admission.modality)
    except (Hindered, StorageUnhealthy, EdgeError):
        return dialogue.respond(request, OUT_OF_RESOURCES, "the worklist cannot be read now")
    if found is None:
        return dialogue.respond(request, OUT_OF_RESOURCES, "no worklist that is recent enough")
    status = PENDING_UNSUPPORTED if has_unsupported_keys(keys) else PENDING
    make = answer_maker(keys)
    for each in find_items(keys, found):
        if dialogue.is_cancelled(request):
            return dialogue.respond(request, CANCELLED)
        dialogue.respond(request, status, data=_encode(make(each), each, syntax))
    dialogue.respond(request, SUCCESS)


def _encode(answer: Attributes, found: WorklistItem, syntax: str) -> bytes:
    """In the character set in which the source wrote the item, where that can hold it; else in UTF-8."""
    return items.encode_items(answer, syntax, found.charset)


WORKLIST_SERVICE = Service(
    "the modality worklist",
    MODALITY_WORKLIST_FIND.__eq__,
    has_word("worklist"),
    CommandField.C_FIND_RQ,
    serve_worklist,
)
