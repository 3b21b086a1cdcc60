"""One association, from its A-ASSOCIATE-RQ to its end, in a thread of its own; edge.scp.services serve its requests.

Dispatch is by the abstract syntax of the presentation context and the command (`find_service`). A violation of the
protocol aborts the association; an object that was not whole is forgotten: it was not answered with success.
The line that answers a C-STORE is the last of `edge.scp.services.store.serve_store`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge.config.sections import Config
from edge.dicom import acse, pdu
from edge.dicom.acse import Context, Request, RequestRefused, Role
from edge.dicom.command import SUCCESS
from edge.dicom.dialogue import Dialogue, DimseMessage
from edge.dicom.part10 import EDGE_UID
from edge.dicom.pdu import Aborted, Released
from edge.dicom.scu import Secure
from edge.dicom.wire import Wire
from edge.errors import PeerError, ProtocolError, place_of
from edge.errors.hindrance import words_of
from edge.model import UNNAMED_CALLER
from edge.network import shares, tls
from edge.network.answer_times import AnswerTally
from edge.network.shares import caller_of
from edge.network.sites import write_site
from edge.query.asking import AskedQuery, Asker, NotedQuery, QueryEnd
from edge.scp.admission import Admission, Caller, Resolver, admit, modality_of
from edge.scp.capacity import Equipment
from edge.scp.gateway_link import GatewayLink, KnownRequests, KnownSteps, Proposed
from edge.scp.recorder import Recorder
from edge.scp.response import StoreResponse
from edge.scp.services import choose, find_service, grant_extended, grant_roles
from edge.scp.services.worklist_source import KnownWorklist

log = logging.getLogger(__name__)

# A-ASSOCIATE-RJ: result, source, reason (PS3.8 table 9-21).
CALLING_AE_NOT_RECOGNIZED = (1, 1, 3)
UNRECOGNIZED_OPERATION = 0x0211  # DIMSE status (PS3.7 annex C)
#: While stopping, an association that has been quiet for these seconds is not in the middle of anything.
QUIET_SECONDS = 1.0
#: Seconds after which an association that has stored nothing may end where others want its place.
YIELD_SECONDS = 10.0
#: An association that lasts for hours reports this often that its modality stores.
REPORT_SECONDS = 60.0


class Receiver:
    """What all associations share. `config` may be replaced at any time; new associations see the new one."""

    def __init__(
        self,
        config: Config,
        recorder: Recorder,
        check_room: Callable[[], None],
        link: GatewayLink,
        commitments: KnownRequests,
        steps: KnownSteps,
        worklist: KnownWorklist,
        data_dir: Path | None = None,
        secure_for: Callable[[str], Secure | None] = lambda _: None,
    ) -> None:
        """`check_room` raises StorageFull when no object may be taken. `data_dir`: None, the configuration's."""
        self.config, self.recorder, self.check_room, self.link = config, recorder, check_room, link
        self.stopping = threading.Event()
        self._open: set[AcceptedAssociation] = set()
        self._lock = threading.Lock()
        self.commitments, self.steps, self.worklist = commitments, steps, worklist
        self.data_dir, self.secure_for = data_dir or config.site.data_dir, secure_for
        self.asker, self.addresses_of = Asker(self.data_dir), Resolver()

    def serve(self, sock: socket.socket, request_pdu: bytearray, address: str) -> None:
        """Serve one association to its end; every way that it can end is said here. Empties `request_pdu`."""
        try:
            request = acse.parse_request(request_pdu)
        except RequestRefused as error:
            self.link.note_refusal(address, error.calling_ae, str(error))
            self._send(sock, error.answer, address, error.calling_ae)
            return
        finally:
            request_pdu.clear()
        caller = Caller(request.calling_ae, address, tls.certificate_of(sock))
        association = self._negotiate(sock, request, caller)
        del request  # a long one would stay as long as the association
        if association is None:
            return
        with self._lock:
            self._open.add(association)
        try:
            association.run()
        finally:
            with self._lock:
                self._open.discard(association)
            association.report_stored()

    def _negotiate(self, sock: socket.socket, request: Request, caller: Caller) -> AcceptedAssociation | None:
        """Answer the request; the association, where it is accepted."""
        admission = admit(self.config, caller.ae_title, caller.address, caller.certificate)
        most = shares.PROPOSED if admission.is_granted else shares.PROPOSED_REFUSED
        self.link.note_call(caller, admission, shorten_proposal(request.contexts, most), 0)
        if not admission.is_granted:
            self.link.note_refusal(caller.address, caller.ae_title, admission.refusal_reason)
            self._send(sock, acse.reject_pdu(*CALLING_AE_NOT_RECOGNIZED), caller.address, caller.ae_title)
            return None
        answers, contexts = acse.answer_contexts(
            request, lambda context: choose(admission, context, request.roles.get(context.abstract_syntax))
        )
        accepted = {abstract_syntax for abstract_syntax, _ in contexts.values()}
        roles, extended = grant_roles(admission, request, accepted), grant_extended(request, accepted)
        if EDGE_UID in request.extended:
            extended[EDGE_UID] = write_site(self.config.site.id).encode()
        self._send(sock, acse.accept_pdu(request, answers, roles, extended), caller.address, caller.ae_title)
        wire = Wire(sock, request.max_pdu, waits_in_kernel=True)
        association = AcceptedAssociation(self, wire, request.called_ae, contexts, caller, admission)
        association.extended, association.roles = extended, roles
        association.on_stored = lambda number: self.link.note_call(caller, admission, (), number)
        return association

    def _send(self, sock: socket.socket, data: bytes, address: str, calling_ae: str) -> None:
        sock.settimeout(pdu.PDU_SECONDS)
        try:
            sock.sendall(data)
        except OSError:
            self.link.note_refusal(address, calling_ae, "it was gone before our answer")

    def end_idle(self, caller: str, modality: str) -> bool:
        """End the association of a caller (network.shares), or of a modality, that has stored nothing for the longest.

        Only between messages, and after YIELD_SECONDS: nothing is lost that is being received. False: none is idle.
        """
        with self._lock:
            theirs = [each for each in self._open if self._is_of(each, caller, modality)]
        return any(each.end_for_others() for each in sorted(theirs, key=lambda each: each.useful_at))

    def _is_of(self, association: AcceptedAssociation, caller: str, modality: str) -> bool:
        who = association.caller
        return (not caller or caller_of(who.address) == caller) and (
            not modality or equipment_of(self.config, who.ae_title, who.address).name == modality
        )

    def note_hindrance(self, answer: StoreResponse, caller: Caller) -> None:
        """Note that an object was refused because of the gateway itself; the log says why."""
        if answer.cause is not None:
            self.link.note_hindrance(answer.cause)
            why = words_of(answer.cause)
            log.warning("an object of %r at %s is refused, the gateway is %s", caller.ae_title, caller.address, why)

    def refresh(self) -> None:
        """Do nothing: there is nothing to read again."""

    def drain(self, seconds: float) -> None:
        """Stop in order: quiet associations end at once, busy ones when they pause, at the latest after `seconds`."""
        self.stopping.set()
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self._end_quiet(QUIET_SECONDS)
            time.sleep(0.05)
        self._end_quiet(0.0)
        patience = time.monotonic() + 5.0  # for the one object that each may still be receiving
        while self._open and time.monotonic() < patience:
            self._end_quiet(0.0)
            time.sleep(0.05)

    def _end_quiet(self, quiet: float) -> None:
        with self._lock:
            associations = list(self._open)
        for association in associations:
            association.end_if_quiet(quiet)


def equipment_of(config: Config, calling_ae: str, address: str) -> Equipment:
    """The equipment that a caller says it is, for its share of associations."""
    found = modality_of(config, calling_ae, address)
    return Equipment(found.name, found.associations) if found else Equipment()


def shorten_proposal(contexts: Sequence[Context], left: int) -> Proposed:
    """What a caller proposed, cut to `left` characters: anybody may propose anything."""
    found = []
    for each in contexts:
        left -= len(each.abstract_syntax) + sum(map(len, each.transfer_syntaxes))
        if left < 0:
            break
        found.append((each.abstract_syntax, each.transfer_syntaxes))
    return tuple(found)


class AcceptedAssociation:
    """One established association."""

    def __init__(
        self,
        receiver: Receiver,
        wire: Wire,
        called_ae: str,
        contexts: dict[int, tuple[str, str]],
        caller: Caller,
        admission: Admission,
    ) -> None:
        self._receiver, self.caller, self.admission, self.called_ae = receiver, caller, admission, called_ae
        self.dialogue = Dialogue(wire, contexts)
        self.useful_at = time.monotonic()  # it began then, or stored an object
        self._ended_for_others = False
        self._waiting_since: float | None = None  # between messages since then
        self.stored = self.failed = 0
        self.extended: Mapping[str, bytes] = {}
        self.roles: Mapping[str, Role] = {}
        self.on_stored: Callable[[int], None] = lambda _: None
        self.answers = AnswerTally()  # since the last report
        self._reported, self._report_at = 0, 0.0  # how many are reported as stored, and when they are next

    def run(self) -> None:
        """Serve messages until the peer releases, or something ends the association."""
        ended, caller, wire = "released", self.caller, self.dialogue.wire
        try:
            self._messages()
        except Released:
            self.dialogue.answer_release()
        except Aborted as error:
            ended = str(error)
        except PeerError as error:
            ended = "the gateway is stopping" if self._receiver.stopping.is_set() else f"aborted: {error}"
            wire.abort()
            if self._ended_for_others:
                ended = "ended: it was idle while others wanted its place"
                self.note_refusal(ended)
            elif isinstance(error, ProtocolError):
                self.note_refusal(str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the peer waiting
            ended = "aborted: an unexpected fault"
            log.error("association with %r: %s", caller.ae_title, place_of(error))
            wire.abort()
        level, counts = logging.WARNING if self.failed else logging.INFO, (self.stored, self.failed)
        log.log(level, "%r at %s: %d stored, %d not; %s", caller.ae_title, caller.address, *counts, ended)

    def _messages(self) -> None:
        while True:
            self._waiting_since = time.monotonic()
            request = self.dialogue.receive()
            self._waiting_since = None
            service = find_service(self.dialogue.contexts[request.context][0], request.field)
            if service is None:
                self.refuse(request, StoreResponse(UNRECOGNIZED_OPERATION))
            else:
                service.handle(request, self)

    def end_if_quiet(self, seconds: float) -> None:
        """End the association when it has been between messages for `seconds`: its reader wakes and aborts."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since >= seconds:
            self.dialogue.wire.hang_up(socket.SHUT_RD)

    def end_for_others(self) -> bool:
        """End, where it is idle, since others want its place; False where it is not, or ends already."""
        is_idle = self._waiting_since is not None and time.monotonic() - self.useful_at >= YIELD_SECONDS
        if not is_idle or self._ended_for_others:
            return False
        self._ended_for_others = True
        self.dialogue.wire.hang_up(socket.SHUT_RD)
        return True

    # -- what services use: edge.scp.services.service.Responder -------------------------------------------------------

    @property
    def config(self) -> Config:
        return self._receiver.config

    @property
    def asker(self) -> Asker:
        return self._receiver.asker

    @property
    def addresses_of(self) -> Resolver:
        return self._receiver.addresses_of

    @property
    def config_data_dir(self) -> Path:
        return self._receiver.data_dir

    def secure_for(self, host: str) -> Secure | None:
        return self._receiver.secure_for(host)

    @property
    def recorder(self) -> Recorder:
        return self._receiver.recorder

    @property
    def link(self) -> GatewayLink:
        return self._receiver.link

    @property
    def commitments(self) -> KnownRequests:
        return self._receiver.commitments

    @property
    def steps(self) -> KnownSteps:
        return self._receiver.steps

    @property
    def worklist(self) -> KnownWorklist:
        return self._receiver.worklist

    def check_room(self) -> None:
        self._receiver.check_room()

    def respond(self, request: DimseMessage, answer: StoreResponse) -> None:
        self.dialogue.respond(request, answer.status, answer.comment)

    def respond_stored(self, request: DimseMessage, answer: StoreResponse, begun: float = 0.0, size: int = 0) -> None:
        now, is_stored = time.monotonic(), answer.status == SUCCESS  # no clock that is set back delays the report
        if begun:
            self.answers.add(now - begun, size, is_refused=not is_stored)
        if is_stored:
            self.useful_at = now
        self.stored += is_stored
        self.failed += not is_stored
        self._receiver.note_hindrance(answer, self.caller)
        self.respond(request, answer)
        if is_stored and now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self.report_stored()

    def refuse(self, request: DimseMessage, answer: StoreResponse) -> None:
        self.dialogue.skip(request)
        self.failed += 1
        self._receiver.note_hindrance(answer, self.caller)
        self.respond(request, answer)

    def note_query(self, asked: AskedQuery, identifier: bytes, end: QueryEnd) -> None:
        self.useful_at = time.monotonic()
        self._receiver.link.note_query(NotedQuery.make(asked, identifier, end, self.caller))

    def note_refusal(self, why: str) -> None:
        self._receiver.link.note_refusal(self.caller.address, self.caller.ae_title, why)

    def report_stored(self) -> None:
        """Report how many objects were stored since the last time."""
        if self.stored > self._reported:
            self.on_stored(self.stored - self._reported)
            self._reported = self.stored
        if self.answers.count:
            tally, self.answers = self.answers, AnswerTally()
            self._receiver.link.note_answers(self.admission.modality or UNNAMED_CALLER, tally)
