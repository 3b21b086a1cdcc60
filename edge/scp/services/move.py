"""C-MOVE (PS3.4 section C.4.2): what is wanted is sent to another AE, on associations that we open.

The destination is a [destination], or a [modality] that can be called back; no other. Each C-STORE names who asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from edge.config.sections import Config
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import DimseMessage
from edge.dicom.scu import Association, Patience, plan_contexts
from edge.dicom.uids import PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE
from edge.errors import PeerError, Unreadable
from edge.model import ContextKey
from edge.query.asking import QueryEnd
from edge.query.located import Located
from edge.scp.fetch_through import ThroughFetch
from edge.scp.response import MAX_COMMENT, StoreResponse
from edge.scp.services.find import IDENTIFIER_TOO_LONG, PATIENT_ROOT, STUDY_ROOT, asked_by, read_identifier
from edge.scp.services.retrieving import DESTINATION_UNKNOWN, Retrieval, open_object
from edge.scp.services.service import Responder, Service, allow_by_word
from edge.transform.syntaxes import COMPRESSED_FALLBACKS, FALLBACKS, choose_syntax

log = logging.getLogger(__name__)

_TOP = {PATIENT_ROOT_MOVE: PATIENT_ROOT, STUDY_ROOT_MOVE: STUDY_ROOT}
#: Someone waits: a receiver that does not answer is given up soon.
PATIENCE = Patience(connect=10.0, associate=15.0, answer=60.0)


@dataclass(frozen=True, slots=True)
class MoveDestination:
    """Where objects go, and how it is called."""

    ae_title: str
    host: str
    port: int
    tls_name: str = ""  # that its certificate must bear; empty: no TLS
    copies_for: str = ""  # the [destination] that gets copies of its own; empty: objects go as they are kept


def find_move_destination(config: Config, ae_title: str) -> MoveDestination | None:
    """Find the move destination by its AE title, exactly as written."""
    for name, destination in config.destinations.items():
        if destination.ae_title == ae_title and not destination.is_web:
            tls_name = (destination.tls_name or destination.host) if destination.tls else ""
            copies_for = name if config.changes_copies(name) else ""
            return MoveDestination(ae_title, destination.host, destination.port, tls_name, copies_for)
    for modality in config.modalities.values():
        if modality.ae_title == ae_title and modality.way_back is not None:
            host, port = modality.way_back
            return MoveDestination(ae_title, host, port, host if modality.certificate else "")
    return None


class _OtherAssociations:
    """See edge.scp.fetch_through.Carrier: one association for as many kinds of objects as it has contexts for."""

    def __init__(self, responder: Responder, to: MoveDestination, message_id: int) -> None:
        self._responder, self._to = responder, to
        self._originator = responder.caller.ae_title, message_id
        self._kinds: list[ContextKey] = []  # that are still to be sent, the next first
        self._association: Association | None = None
        self._served: frozenset[ContextKey] = frozenset()

    def prepare(self, wanted: list[Located]) -> None:
        """The kinds of what is wanted, in one association where they fit."""
        kinds = (ContextKey(each.sop_class_uid, each.transfer_syntax_uid) for each in wanted)
        self._kinds = list(dict.fromkeys(kinds))
        wanted.sort(key=lambda each: self._kinds.index(ContextKey(each.sop_class_uid, each.transfer_syntax_uid)))

    def carry(self, instance: Located) -> int | None:
        key = ContextKey(instance.sop_class_uid, instance.transfer_syntax_uid)
        association = self._associate(key) if instance.path else None
        contexts = self._contexts(association, key) if association is not None else {}
        syntax = choose_syntax(key.transfer_syntax_uid, contexts)
        to = self._to.copies_for
        opened = open_object(instance, syntax, self._responder, to) if syntax is not None else None
        if association is None or opened is None or syntax is None:
            return None
        try:
            where = contexts[syntax], instance.sop_class_uid, opened.sop_instance_uid
            data, expected = (opened.fd, opened.offset, opened.length), opened.expected
            return association.store(*where, *data, expected, originator=self._originator)[0]
        except (Unreadable, PeerError, OSError) as error:
            log.warning("an object of a retrieval could not be sent to %s: %s", self._to.ae_title, error)
            if not isinstance(error, PeerError):
                self._responder.link.note_damaged(instance.path)
            self._association = None
            return None
        finally:
            os.close(opened.fd)

    def _associate(self, key: ContextKey) -> Association:
        """Raises PeerError: the destination cannot be reached."""
        # One that was idle, while others were fetched, the receiver may have ended meanwhile.
        if self._association is not None and key in self._served and self._association.is_quiet():
            return self._association
        self.close()
        at = self._kinds.index(key) if key in self._kinds else 0
        plan = plan_contexts([key, *self._kinds[at + 1 :]], (FALLBACKS, COMPRESSED_FALLBACKS))
        to, calling_ae = self._to, self._responder.config.listen.ae_title
        secure = self._responder.secure_for(to.tls_name) if to.tls_name else None
        self._association = Association.open(
            to.host, to.port, calling_ae, to.ae_title, plan.contexts, patience=PATIENCE, secure=secure
        )
        self._served = plan.kinds
        return self._association

    @staticmethod
    def _contexts(association: Association, key: ContextKey) -> Mapping[str, int]:
        """Accepted transfer syntaxes of its SOP class, with their contexts."""
        return {
            syntax: context
            for context, syntax in association.accepted.items()
            if association.proposed[context].abstract_syntax == key.sop_class_uid
        }

    def close(self) -> None:
        if self._association is not None:
            self._association.release()
            self._association = None


def serve_move(request: DimseMessage, responder: Responder) -> None:
    identifier = read_identifier(request, responder)
    if identifier is None:
        return responder.respond(request, IDENTIFIER_TOO_LONG)
    title = request.command.text(Element.MOVE_DESTINATION)
    asked = asked_by(request, responder, "retrieve", _TOP[responder.dialogue.contexts[request.context][0]])
    to = find_move_destination(responder.config, title)
    if to is None:
        comment = f"no such move destination: {title}"[:MAX_COMMENT]
        end = QueryEnd(0, DESTINATION_UNKNOWN, destination=title, comment=comment)
        responder.note_query(asked, identifier, end)
        return responder.respond(request, StoreResponse(end.status, comment))
    carrier = _OtherAssociations(responder, to, request.command.number(Element.MESSAGE_ID))
    try:
        Retrieval(request, responder, asked, identifier, title).run(carrier, ThroughFetch(responder).run)
    finally:
        carrier.close()


MOVE_SERVICE = Service(
    "retrieval to another AE",
    _TOP.__contains__,
    allow_by_word("retrieve"),
    CommandField.C_MOVE_RQ,
    serve_move,
    extended=bytes([1]),
)
