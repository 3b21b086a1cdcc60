"""The service of one association, from its A-ASSOCIATE-RQ to its end, in a thread of its own.

Dispatch is by the abstract syntax of the presentation context: `SERVICES` is where the next service finds its room. The
line that answers a C-STORE is the last of `Association._store`: what `Intake.accept` returned is the status.

A violation of the protocol aborts the association; an object that was not whole is forgotten, for nobody was told
success.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge import tls
from edge.config.sections import Config
from edge.dicom import acse, commitment, pdu
from edge.dicom.acse import Request, RequestRefused
from edge.dicom.command import Command, CommandField, Element, response_to
from edge.dicom.pdu import Aborted, Released, Wire
from edge.dicom.uids import Service, service_of, usable_uid
from edge.errors import (
    Cause,
    Hindered,
    PeerError,
    ProtocolError,
    ReportRefused,
    StorageUnhealthy,
    Unreadable,
    place_of,
)
from edge.hindrance import words_of
from edge.intake import Intake, StoreResponse, answer_for
from edge.model import ContextKey, Origin
from edge.scp.admission import Caller, admit, choose, grant_roles, modality_of
from edge.scp.callers import Callers
from edge.scp.capacity import Equipment
from edge.shares import caller_of
from edge.spool import Partial

log = logging.getLogger(__name__)

# A-ASSOCIATE-RJ: result, source, reason (PS3.8 table 9-21).
CALLING_AE_NOT_RECOGNIZED = (1, 1, 3)
# DIMSE statuses (PS3.7 annex C).
SUCCESS, SOP_CLASS_NOT_SUPPORTED, INVALID_SOP_INSTANCE, UNRECOGNIZED_OPERATION = 0x0000, 0x0122, 0x0117, 0x0211
PROCESSING_FAILURE = 0x0110
#: While stopping, an association that has been quiet for so long is not in the middle of anything.
QUIET_SECONDS = 1.0
#: Seconds after which an association that has stored nothing may end where others want its place.
YIELD_SECONDS = 10.0
MAX_REPORT = 1 << 20
#: An association that lasts for hours tells so often that its modality is alive.
TELL_SECONDS = 60.0

#: Hears of a refusal: address, calling AE title, why.
Refused = Callable[[str, str, str], None]


class Reports(Protocol):
    """Takes the archive's storage commitment reports; False for a transaction that is not ours.

    Raises ReportRefused where the caller is not the archive that was asked.
    """

    def __call__(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: Caller
    ) -> bool: ...


class Receiver:
    """What all associations share. `config` may be replaced at any time; new associations see the new one."""

    def __init__(
        self,
        config: Config,
        intake: Intake,
        check_room: Callable[[], None],
        reports: Reports,
        refused: Refused = lambda address, calling_ae, why: None,
        hindered: Callable[[Cause], None] = lambda cause: None,
    ) -> None:
        """`check_room` raises StorageFull when no object may be taken; `hindered` hears why objects were refused."""
        self.config, self.intake, self.check_room, self.reports = config, intake, check_room, reports
        self.refused, self._hindered = refused, hindered
        self.stopping = threading.Event()
        self._open: set[Association] = set()
        self._lock = threading.Lock()
        self.callers = Callers()

    def serve(self, sock: socket.socket, request_pdu: bytearray, address: str) -> None:
        """Serve one association to its end; every way that it can end is said here. Empties `request_pdu`."""
        try:
            request = acse.parse_request(request_pdu)
        except RequestRefused as error:
            self.refused(address, error.calling_ae, str(error))
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
            association.tell_stored()

    def _negotiate(self, sock: socket.socket, request: Request, caller: Caller) -> Association | None:
        """Answer the request; the association, where it is accepted."""
        admission = admit(self.config, caller.ae_title, caller.address, caller.certificate)
        self.callers.note(caller, admission, request.contexts)
        if not admission.granted:
            self.refused(caller.address, caller.ae_title, admission.why)
            self._send(sock, acse.reject_pdu(*CALLING_AE_NOT_RECOGNIZED), caller.address, caller.ae_title)
            return None
        answers, contexts = acse.answer_contexts(request, lambda context: choose(admission, context))
        roles = grant_roles(admission, request, {abstract_syntax for abstract_syntax, _ in contexts.values()})
        self._send(sock, acse.accept_pdu(request, answers, roles), caller.address, caller.ae_title)
        association = Association(self, Wire(sock, request.max_pdu), request.called_ae, contexts, caller)
        association.on_stored = lambda number: self.callers.note(caller, admission, stored=number)
        return association

    def _send(self, sock: socket.socket, data: bytes, address: str, calling_ae: str) -> None:
        sock.settimeout(pdu.PDU_SECONDS)
        try:
            sock.sendall(data)
        except OSError:
            self.refused(address, calling_ae, "it was gone before our answer")

    def identify(self, calling_ae: str, address: str) -> Equipment:
        """The equipment that a caller says it is, for its share of associations."""
        found = modality_of(self.config, calling_ae, address)
        return Equipment(found.name, found.associations) if found else Equipment()

    def end_idle(self, caller: str, modality: str) -> bool:
        """End the association of a caller (edge.shares), or of a modality, that has stored nothing for the longest.

        Only between messages, and after YIELD_SECONDS: nothing is lost that is being received. False: none is idle.
        """
        with self._lock:
            theirs = [each for each in self._open if self._is_of(each, caller, modality)]
        return any(each.end_for_others() for each in sorted(theirs, key=lambda each: each.useful_at))

    def _is_of(self, association: Association, caller: str, modality: str) -> bool:
        who = association.caller
        return (not caller or caller_of(who.address) == caller) and (
            not modality or self.identify(who.ae_title, who.address).name == modality
        )

    def note_hindrance(self, answer: StoreResponse, calling_ae: str, address: str) -> None:
        """An object was refused for our sake: status and log say why."""
        if answer.cause is not None:
            self._hindered(answer.cause)
            why = words_of(answer.cause)
            log.warning("an object of %r at %s is refused, the gateway is %s", calling_ae, address, why)

    @property
    def open_associations(self) -> int:
        return len(self._open)

    def drain(self, seconds: float) -> None:
        """Stop in order: quiet associations end at once, busy ones when they pause, at the latest after `seconds`."""
        self.stopping.set()
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self._nudge(QUIET_SECONDS)
            time.sleep(0.05)
        self._nudge(0.0)
        patience = time.monotonic() + 5.0  # for the one object that each may still be receiving
        while self._open and time.monotonic() < patience:
            self._nudge(0.0)
            time.sleep(0.05)

    def _nudge(self, quiet: float) -> None:
        with self._lock:
            associations = list(self._open)
        for association in associations:
            association.end_if_quiet(quiet)


class Association:
    """One established association."""

    def __init__(
        self,
        receiver: Receiver,
        wire: Wire,
        called_ae: str,
        contexts: dict[int, tuple[str, str]],
        caller: Caller,
    ) -> None:
        self._receiver, self._wire, self._contexts, self._caller = receiver, wire, contexts, caller
        self._calling, self._called, self._address = caller.ae_title, called_ae, caller.address
        self.caller = caller
        self.useful_at = time.monotonic()  # it began then, or stored an object
        self._ended_for_others = False
        self._waiting_since: float | None = None  # between messages since then
        self.stored = self.failed = 0
        self.on_stored: Callable[[int], None] = lambda _: None
        self._told_stored, self._tell_at = 0, 0.0  # how much was told, and when it is told next

    def run(self) -> None:
        """Serve messages until the peer releases, or something ends the association."""
        ended = "released"
        try:
            self._messages()
        except Released:
            self._goodbye()
        except Aborted as error:
            ended = str(error)
        except PeerError as error:
            ended = "the gateway is stopping" if self._receiver.stopping.is_set() else f"aborted: {error}"
            self._wire.abort()
            if self._ended_for_others:
                ended = "ended: it was idle while others wanted its place"
                self._receiver.refused(self._address, self._calling, ended)
            elif isinstance(error, ProtocolError):
                self._receiver.refused(self._address, self._calling, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the peer waiting
            ended = "aborted: an unexpected fault"
            log.error("association with %r: %s", self._calling, place_of(error))
            self._wire.abort()
        level = logging.WARNING if self.failed else logging.INFO
        log.log(level, "%r at %s: %d stored, %d not; %s", self._calling, self._address, self.stored, self.failed, ended)

    def _messages(self) -> None:
        while True:
            self._waiting_since = time.monotonic()
            context, command = self._wire.read_command()
            self._waiting_since = None
            if command.number(Element.COMMAND_FIELD) == CommandField.C_CANCEL_RQ:
                self._ignore_cancel(context, command)
                continue
            if context not in self._contexts:
                raise ProtocolError(f"a message in presentation context {context}, which was not accepted")
            abstract_syntax = self._contexts[context][0]
            service = SERVICES.get((service_of(abstract_syntax), command.number(Element.COMMAND_FIELD)))
            if service is None:
                self._refuse(context, command, StoreResponse(UNRECOGNIZED_OPERATION))
            else:
                service(self, context, command)

    def _ignore_cancel(self, context: int, command: Command) -> None:
        """A C-CANCEL-RQ that crosses the final response has nothing to cancel, and is not answered (PS3.7 9.3.2.3)."""
        if command.has_data_set:
            self._wire.read_data_set(context, lambda _: None)

    def _goodbye(self) -> None:
        try:
            self._wire.send_raw(pdu.release_rp())
        except PeerError:
            pass  # it left without waiting for our A-RELEASE-RP: all is answered already
        self._wire.close()

    def end_if_quiet(self, seconds: float) -> None:
        """End the association when it has been between messages for `seconds`: its reader wakes and aborts."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since >= seconds:
            self._wire.hang_up(socket.SHUT_RD)

    def end_for_others(self) -> bool:
        """End, where it is idle, since others want its place; False where it is not, or ends already."""
        is_idle = self._waiting_since is not None and time.monotonic() - self.useful_at >= YIELD_SECONDS
        if not is_idle or self._ended_for_others:
            return False
        self._ended_for_others = True
        self._wire.hang_up(socket.SHUT_RD)
        return True

    def _respond(self, context: int, request: Command, answer: StoreResponse) -> None:
        self._wire.send_message(context, response_to(request, answer.status, answer.comment))

    def _refuse(self, context: int, command: Command, answer: StoreResponse) -> None:
        """Let a message's data set pass by unkept, and say why."""
        if command.has_data_set:
            self._wire.read_data_set(context, lambda _: None)
        self.failed += 1
        self._receiver.note_hindrance(answer, self._calling, self._address)
        self._respond(context, command, answer)

    # -- the services -------------------------------------------------------------------------------------------------

    def _echo(self, context: int, command: Command) -> None:
        """C-ECHO (PS3.7 section 9.1.5)."""
        self._respond(context, command, StoreResponse(SUCCESS))

    def _store(self, context: int, command: Command) -> None:
        """C-STORE (PS3.7 section 9.1.1, PS3.4 annex B)."""
        # Some senders name another SOP class than their context's: the object's own is what the header must say.
        kind = ContextKey(command.text(Element.AFFECTED_SOP_CLASS_UID), self._contexts[context][1])
        uid = command.text(Element.AFFECTED_SOP_INSTANCE_UID)
        refusal = self._refusal(kind, command, uid)
        if refusal is not None:
            return self._refuse(context, command, refusal)
        origin = Origin(self._calling, self._called, self._address, time.time())
        try:
            partial = self._receiver.intake.begin(kind, uid, origin)
        except (Hindered, StorageUnhealthy, MemoryError) as error:
            return self._refuse(context, command, answer_for(error))
        sink = _Sink(partial)
        try:
            self._wire.read_data_set(context, sink)
        except PeerError:
            partial.discard()
            raise
        if sink.failure is not None:
            partial.discard()
            answer = answer_for(sink.failure)
        else:
            answer = self._receiver.intake.accept(partial, kind, uid, origin)
        if answer.status == SUCCESS:
            self.useful_at = time.monotonic()
        self.stored += answer.status == SUCCESS
        self.failed += answer.status != SUCCESS
        self._receiver.note_hindrance(answer, self._calling, self._address)
        self._respond(context, command, answer)
        if origin.received_at >= self._tell_at and answer.status == SUCCESS:
            self._tell_at = origin.received_at + TELL_SECONDS
            self.tell_stored()

    def tell_stored(self) -> None:
        """Tell how many objects were stored since it was last told."""
        if self.stored > self._told_stored:
            self.on_stored(self.stored - self._told_stored)
            self._told_stored = self.stored

    def _refusal(self, kind: ContextKey, command: Command, uid: str) -> StoreResponse | None:
        """Why an object is refused before a byte of it is taken, or None."""
        if not usable_uid(kind.sop_class_uid) or service_of(kind.sop_class_uid) is not Service.STORAGE:
            return StoreResponse(SOP_CLASS_NOT_SUPPORTED, "not a storage SOP class")
        if not usable_uid(uid):
            return StoreResponse(INVALID_SOP_INSTANCE, "not a valid SOP Instance UID")
        if not command.has_data_set:
            return StoreResponse(PROCESSING_FAILURE, "C-STORE without a data set")
        try:
            self._receiver.check_room()
        except Hindered as error:
            return answer_for(error)
        return None

    def _commitment_report(self, context: int, command: Command) -> None:
        """N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 section J.3.3)."""
        data = bytearray()

        def keep(views: list[memoryview]) -> None:
            for view in views:
                data.extend(view)
            if len(data) > MAX_REPORT:
                raise ProtocolError(f"a storage commitment report of more than {MAX_REPORT} bytes")

        if command.has_data_set:
            self._wire.read_data_set(context, keep)
        event_type = command.number(Element.EVENT_TYPE_ID)
        try:
            report = commitment.parse_report(bytes(data), self._contexts[context][1], event_type)
        except Unreadable as error:
            return self._respond(context, command, StoreResponse(PROCESSING_FAILURE, str(error)))
        try:
            ours = self._receiver.reports(report.transaction_uid, report.committed, report.failed, self._caller)
        except ReportRefused as error:
            self._receiver.refused(self._address, self._calling, str(error))
            return self._respond(
                context, command, StoreResponse(PROCESSING_FAILURE, "not from the archive that was asked")
            )
        self._respond(context, command, StoreResponse(SUCCESS if ours else PROCESSING_FAILURE))


#: (service, DIMSE command) -> what serves it. A new service is a new row.
SERVICES: dict[tuple[Service, int], Callable[[Association, int, Command], None]] = {
    (Service.VERIFICATION, CommandField.C_ECHO_RQ): Association._echo,
    (Service.STORAGE, CommandField.C_STORE_RQ): Association._store,
    (Service.STORAGE_COMMITMENT, CommandField.N_EVENT_REPORT_RQ): Association._commitment_report,
}


class _Sink:
    """Takes fragments into a partial file; after a failure it lets the rest pass by."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self.failure: Hindered | StorageUnhealthy | MemoryError | None = None

    def __call__(self, views: list[memoryview]) -> None:
        if self.failure is None:
            try:
                self._partial.write(views)
            except (Hindered, StorageUnhealthy, MemoryError) as error:
                self.failure = error
