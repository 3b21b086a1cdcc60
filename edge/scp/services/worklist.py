"""C-FIND of the Modality Worklist (PS3.4 annex K), answered from the last list; the source is never waited for.

A list that is older than [worklist] keep, or that never came, is A700: an empty success would say that nobody is
scheduled. An identifier that cannot be read is C001. C-CANCEL works between two answers.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from edge.dicom import items
from edge.dicom.command import SUCCESS, CommandField
from edge.dicom.dialogue import DimseMessage
from edge.dicom.items import Attributes
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.errors import EdgeError, Hindered, StorageUnhealthy, Unreadable
from edge.query.asking import AskedQuery, QueryEnd
from edge.query.worklist import START_DATE, WorklistItem, answer_maker, find_items, has_unsupported_keys
from edge.scp.response import MAX_COMMENT, StoreResponse
from edge.scp.services.find import IDENTIFIER_TOO_LONG, read_identifier
from edge.scp.services.service import CALLER_LEAVES, Responder, Service, allow_by_word

# DIMSE statuses (PS3.4 table K.4-2).
_OUT_OF_RESOURCES, _CANNOT_PARSE, _CANCELLED, _PENDING, _PENDING_UNSUPPORTED = 0xA700, 0xC001, 0xFE00, 0xFF00, 0xFF01

#: By which the day of the site is known.
_now = time.time


def serve_worklist(request: DimseMessage, responder: Responder) -> None:
    identifier = read_identifier(request, responder)
    if identifier is None:
        return responder.respond(request, IDENTIFIER_TOO_LONG)
    began = time.monotonic()
    asked = AskedQuery("worklist", "WORKLIST", responder.dialogue.syntax(request), responder.called_ae)
    is_recorded = _is_first_in_a_while(responder.caller.ae_title, identifier)

    def note(count: int, status: int) -> None:
        end = QueryEnd(count, status, seconds=time.monotonic() - began, is_recorded=is_recorded)
        responder.note_query(asked, identifier, end)

    count, answer = _answer(request, responder, identifier, note)
    note(count, answer.status)
    responder.respond(request, answer)


def _answer(
    request: DimseMessage, responder: Responder, identifier: bytes, note: Callable[[int, int], None]
) -> tuple[int, StoreResponse]:
    """Send the items that match. Returns how many, and the final response. Raises CALLER_LEAVES, noted."""
    dialogue, syntax = responder.dialogue, responder.dialogue.syntax(request)
    try:
        keys = items.decode_items(identifier, syntax)
        found = responder.worklist.read(responder.admission.modality)
    except Unreadable as error:
        return 0, StoreResponse(_CANNOT_PARSE, str(error)[:MAX_COMMENT])
    except (Hindered, StorageUnhealthy, EdgeError):
        return 0, StoreResponse(_OUT_OF_RESOURCES, "the worklist cannot be read now")
    if found is None:
        return 0, StoreResponse(_OUT_OF_RESOURCES, "no worklist that is recent enough")
    found = _served_to(responder, found)
    status, make, count = _PENDING_UNSUPPORTED if has_unsupported_keys(keys) else _PENDING, answer_maker(keys), 0
    try:
        for each in find_items(keys, found):
            if dialogue.is_cancelled(request):
                return count - dialogue.withdraw(), StoreResponse(_CANCELLED)
            # The first one goes at once: a person waits for it.
            dialogue.respond(request, status, data=_encode(make(each), each, syntax), may_wait=count > 0)
            count += 1
    except CALLER_LEAVES:
        note(count, _CANCELLED)
        raise
    return count, StoreResponse(SUCCESS)


def _served_to(responder: Responder, found: Sequence[WorklistItem]) -> Sequence[WorklistItem]:
    """What `[modality] worklist` leaves of it: steps for its own AE title, or of today at the site."""
    modality = responder.config.modalities.get(responder.admission.modality)
    parts, title = modality.worklist if modality else (), responder.caller.ae_title
    today = responder.config.calendar.day_at(_now()).strftime("%Y%m%d")
    if "own" in parts:
        found = [each for each in found if title in each.stations]
    if "today" in parts:
        found = [each for each in found if each.step.text(START_DATE) == today]
    return found


#: A modality that asks the same again within this time is recorded once: many ask every ten seconds.
_NOTED_SECONDS, _MOST_NOTED = 15 * 60.0, 10_000
_noted: OrderedDict[tuple[str, bytes], float] = OrderedDict()
_lock = threading.Lock()


def _is_first_in_a_while(title: str, identifier: bytes) -> bool:
    key, now = (title, hashlib.sha256(identifier).digest()), time.monotonic()
    with _lock:
        if now - _noted.get(key, -_NOTED_SECONDS) < _NOTED_SECONDS:
            return False
        _noted[key] = now
        _noted.move_to_end(key)
        if len(_noted) > _MOST_NOTED:
            _noted.popitem(last=False)
        return True


def _encode(answer: Attributes, found: WorklistItem, syntax: str) -> bytes:
    """Encode in the character set in which the source wrote the item, where that can hold it; else in UTF-8."""
    return items.encode_items(answer, syntax, found.charset)


WORKLIST_SERVICE = Service(
    "the modality worklist",
    MODALITY_WORKLIST_FIND.__eq__,
    allow_by_word("worklist"),
    CommandField.C_FIND_RQ,
    serve_worklist,
)
