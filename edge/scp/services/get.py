"""C-GET (PS3.4 section C.4.3): what is wanted comes back on the caller's own association, one C-STORE an object.

Each object goes in a context whose storage class the caller has proposed with the role of an SCP, and whose transfer
syntax it is kept in or can become without loss; what no context carries has failed, and is listed.
"""

from __future__ import annotations

import os
from collections import defaultdict

from edge.dicom.command import CommandField
from edge.dicom.dialogue import DimseMessage
from edge.dicom.uids import PATIENT_ROOT_GET, STUDY_ROOT_GET
from edge.query.located import Located
from edge.scp.fetch_through import ThroughFetch
from edge.scp.services.find import IDENTIFIER_TOO_LONG, PATIENT_ROOT, STUDY_ROOT, asked_by, read_identifier
from edge.scp.services.retrieving import Retrieval, is_intact, open_object
from edge.scp.services.service import Responder, Service, allow_by_word
from edge.transform.syntaxes import choose_syntax

_TOP = {PATIENT_ROOT_GET: PATIENT_ROOT, STUDY_ROOT_GET: STUDY_ROOT}


class _OwnAssociation:
    """See edge.scp.fetch_through.Carrier."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._contexts: dict[str, dict[str, int]] = defaultdict(dict)  # SOP class -> transfer syntax -> context
        for number, (sop_class, syntax) in responder.dialogue.contexts.items():
            role = responder.roles.get(sop_class)
            if role is not None and role.scp:
                self._contexts[sop_class].setdefault(syntax, number)

    def prepare(self, wanted: list[Located]) -> None:
        """The contexts are what they are."""

    def carry(self, instance: Located) -> int | None:
        taken = self._contexts.get(instance.sop_class_uid, {})
        syntax = choose_syntax(instance.transfer_syntax_uid, taken) if instance.path else None
        opened = open_object(instance, syntax, self._responder) if syntax is not None else None
        if opened is None or syntax is None:
            return None
        try:
            # Bytes that are not what was received would end the caller's association: that is found out before.
            if opened.expected is not None and not is_intact(opened.fd, instance):
                self._responder.link.note_damaged(instance.path)
                return None
            where = taken[syntax], instance.sop_class_uid, opened.sop_instance_uid
            return self._responder.dialogue.store(*where, opened.fd, opened.offset, opened.length)[0]
        finally:
            os.close(opened.fd)


def serve_get(request: DimseMessage, responder: Responder) -> None:
    identifier = read_identifier(request, responder)
    if identifier is None:
        return responder.respond(request, IDENTIFIER_TOO_LONG)
    asked = asked_by(request, responder, "retrieve", _TOP[responder.dialogue.contexts[request.context][0]])
    Retrieval(request, responder, asked, identifier, responder.caller.ae_title).run(
        _OwnAssociation(responder), ThroughFetch(responder).run
    )


GET_SERVICE = Service(
    "retrieval on the same association",
    _TOP.__contains__,
    allow_by_word("retrieve"),
    CommandField.C_GET_RQ,
    serve_get,
    extended=bytes([1]),
)
