"""C-FIND of the Query/Retrieve models (PS3.4 section C.4.1): the answers are made elsewhere (edge.query), and pulled.

A C-CANCEL is met between two answers: those that wait to go together are withdrawn then. One slow caller holds its own
thread and a cursor, nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace

from edge.dicom.command import CommandField
from edge.dicom.dialogue import DimseMessage
from edge.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from edge.query.asking import AnswerBatch, AskedQuery, NoAnswer, QueryEnd
from edge.query.levels import OUT_OF_RESOURCES, TERMINATED
from edge.scp.response import StoreResponse
from edge.scp.services.service import CALLER_LEAVES, Responder, Service, allow_by_word

log = logging.getLogger(__name__)

#: Of an identifier, in bytes: a list of 10,000 UIDs has 650 KB.
MOST_IDENTIFIER = 1 << 20
PATIENT_ROOT, STUDY_ROOT = "PATIENT", "STUDY"
_TOP = {PATIENT_ROOT_FIND: PATIENT_ROOT, STUDY_ROOT_FIND: STUDY_ROOT}
#: Relational queries, date and time as one range, no fuzzy matching of names, the query's own time zone.
_EXTENDED = bytes([1, 1, 0, 1])
IDENTIFIER_TOO_LONG = StoreResponse(OUT_OF_RESOURCES, f"an identifier of more than {MOST_IDENTIFIER >> 20} MiB")


def read_identifier(request: DimseMessage, responder: Responder) -> bytes | None:
    """The identifier of a request; None where it is too long: then it has passed by, and the association goes on."""
    data, is_whole = bytearray(), True

    def keep(views: list[memoryview]) -> None:
        nonlocal is_whole
        is_whole &= len(data) + sum(map(len, views)) <= MOST_IDENTIFIER
        if is_whole:
            for view in views:
                data.extend(view)

    responder.dialogue.read_into(request, keep)
    return bytes(data) if is_whole else None


def asked_by(request: DimseMessage, responder: Responder, what: str, top: str) -> AskedQuery:
    """How this association's identifiers are meant."""
    sop_class = responder.dialogue.contexts[request.context][0]
    agreed = responder.extended.get(sop_class, b"").ljust(2, b"\0")
    is_complete = bool(responder.config.query.complete_as) and responder.called_ae == responder.config.query.complete_as
    syntax = responder.dialogue.syntax(request)
    return AskedQuery(what, top, syntax, responder.called_ae, bool(agreed[0]), bool(agreed[1]), is_complete)


def serve_find(request: DimseMessage, responder: Responder) -> None:
    identifier = read_identifier(request, responder)
    if identifier is None:
        return responder.respond(request, IDENTIFIER_TOO_LONG)
    dialogue = responder.dialogue
    asked = asked_by(request, responder, "find", _TOP[dialogue.contexts[request.context][0]])
    count, last, began = 0, AnswerBatch(), time.monotonic()
    try:
        with contextlib.closing(responder.asker.ask(asked, identifier, makes_ahead=True)) as batches:
            for last in batches:
                for number, answer in enumerate(last.answers, start=1):
                    if dialogue.is_cancelled(request):
                        count -= dialogue.withdraw()
                        raise _Cancelled
                    # The first one goes at once: a person waits for it. So does one behind which more must be made.
                    may_wait = count > 0 and (number < len(last.answers) or last.status is not None)
                    dialogue.respond(request, last.pending, data=answer, may_wait=may_wait)
                    count += 1
                if last.status is None and dialogue.is_cancelled(request):
                    raise _Cancelled
    except _Cancelled:
        last = AnswerBatch(status=TERMINATED)
    except NoAnswer as error:
        log.error("a query is refused: %s", error)
        last = AnswerBatch(status=OUT_OF_RESOURCES, comment=str(error))
    except CALLER_LEAVES:
        seconds = time.monotonic() - began  # the caller has gone; what it was answered is on record
        responder.note_query(asked, identifier, QueryEnd(count, TERMINATED, last.left_out, seconds=seconds))
        raise
    _end(request, responder, asked, identifier, QueryEnd(count, 0, seconds=time.monotonic() - began), last)


class _Cancelled(Exception):
    """A C-CANCEL has come."""


def _end(
    request: DimseMessage, responder: Responder, asked: AskedQuery, identifier: bytes, end: QueryEnd, last: AnswerBatch
) -> None:
    """The final answer; and what was asked goes on record, for the audit trail."""
    status = OUT_OF_RESOURCES if last.status is None else last.status
    responder.note_query(asked, identifier, replace(end, status=status, left_out=last.left_out, comment=last.comment))
    responder.respond(request, StoreResponse(status, last.comment))


FIND_SERVICE = Service(
    "queries", _TOP.__contains__, allow_by_word("query"), CommandField.C_FIND_RQ, serve_find, extended=_EXTENDED
)
