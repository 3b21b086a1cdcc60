"""What the doors ask of the gateway, for it has one truth for all of them: places, who has called, reports, refusals.

`LocalLink` is the gateway's side, one for each door. A door in a process of its own has a `RemoteLink`: what it asks
goes over a socket as JSON, and `serve_link` asks the local one. When that socket ends, one of the two processes has.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Protocol

from edge.dicom.performed_step import StepAnswer
from edge.errors import Cause, EdgeError, Hindered, ReportRefused, StorageUnhealthy, hindrance, place_of
from edge.model import Origin
from edge.network.answer_times import AnswerTally, tally_of
from edge.network.frames import receive_frame, send_frame
from edge.network.shares import Full
from edge.network.tls import Certificate
from edge.query.asking import NotedQuery
from edge.scp.admission import Admission, Caller
from edge.scp.capacity import AssociationPlace, Associations, Limit

log = logging.getLogger(__name__)

#: Presentation contexts as they are remembered: abstract syntax, transfer syntaxes.
Proposed = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class MadeCopy:
    """A copy of an object, in a file of the daemon's; without a path it cannot be made."""

    path: str = ""
    dataset_offset: int = 0
    size: int = 0
    sop_instance_uid: str = ""  # where it differs from the object's: the copy is de-identified


class Copies(Protocol):
    """Makes copies of objects, for retrievals."""

    def start(self, path: str, target_syntax: str, destination: str) -> int: ...
    def find(self, token: int) -> MadeCopy | None: ...
    def drop(self, token: int) -> None: ...


class Readers(Protocol):
    """What is read by retrievals, so that nothing of it is evicted; and what is fetched for them, once."""

    def note(self, studies: Sequence[int], is_begun: bool) -> None: ...
    def begin_fetch(self, study_uid: str) -> bool: ...
    def end_fetch(self, study_uid: str) -> None: ...


class GatewayLink(Protocol):
    """See the module's docstring. Thread-safe."""

    def take_place(self, title: str, address: str) -> int | Limit:
        """A place for an association, for a connection that was handed on to this door."""

    def give_back_place(self, place: int) -> None:
        """The association has ended."""

    def note_left(self) -> None:
        """A connection that was handed on to this door has ended without asking for a place."""

    def note_call(self, caller: Caller, admission: Admission, proposed: Proposed, stored: int) -> None:
        """See edge.scp.callers."""

    def note_answers(self, modality: str, tally: AnswerTally) -> None:
        """How long the answers to a modality took (edge.network.answer_times)."""

    def note_refusal(self, address: str, title: str, why: str) -> None:
        """See edge.scp.rejections."""

    def note_query(self, query: NotedQuery) -> None:
        """A question was answered."""

    def note_reading(self, studies: Sequence[int], is_begun: bool) -> None:
        """A retrieval reads, or has read, files of these studies."""

    def begin_fetch(self, study_uid: str) -> bool:
        """Begin to fetch a study from an archive. False: another retrieval does."""

    def end_fetch(self, study_uid: str) -> None:
        """What this retrieval fetches of a study is here, or does not come."""

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        """Have a copy made of an object of the spool, as `destination` gets it; the copy's number."""

    def find_copy(self, token: int) -> MadeCopy | None:
        """None: it is not made yet."""

    def drop_copy(self, token: int) -> None:
        """The copy's file may go."""

    def note_hindrance(self, cause: Cause) -> None:
        """Something was refused for our sake."""

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        """Take of the sender's share of quarantine; False: it is used up."""

    def take_report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: Caller
    ) -> bool:
        """An archive's storage commitment report. False: the transaction is not ours. Raises ReportRefused."""

    def is_forbidden(self, sop_instance_uid: str) -> bool:
        """Does a rejection note forbid that this instance comes again?"""

    def fail(self, reason: str) -> None:
        """A write has failed: nothing more may be accepted."""


class KnownRequests(Protocol):
    """Which requests for storage commitment are known, of a caller and its Transaction UIDs."""

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        """What was asked under this Transaction UID."""

    def is_full(self, modality: str) -> bool:
        """Are as many reports owed to a modality as are kept?"""

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        """A request is on record, and may not be in the catalog yet."""


class KnownSteps(Protocol):
    """Which performed procedure steps are known, and their states."""

    def begin(self, uid: str, operation: str, state: str, digest: bytes) -> StepAnswer:
        """May this message follow on what is on record? Then it must be ended, unless it is a repeat."""

    def end(self, uid: str, *, is_recorded: bool) -> None:
        """The message is on record, or not."""


class LocalLink:
    """See GatewayLink."""

    def __init__(
        self,
        associations: Associations,
        note_call: Callable[[Caller, Admission, Proposed, int], None],
        note_refusal: Callable[[str, str, str], None],
        note_hindrance: Callable[[Cause], None],
        keeps_unreadable: Callable[[Origin, int], bool],
        take_report: Callable[[str, Sequence[str], Mapping[str, int], Caller], bool],
        fail: Callable[[str], None],
        commitments: KnownRequests,
        steps: KnownSteps,
        read_worklist: Callable[[str, str, int], dict[str, Any]],
        note_query: Callable[[NotedQuery], None] = lambda _: None,
        copies: Copies | None = None,
        readers: Readers | None = None,
        note_answers: Callable[[str, AnswerTally], None] = lambda _name, _tally: None,
        is_forbidden: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.is_forbidden = is_forbidden
        self.commitments, self.steps, self.read_worklist = commitments, steps, read_worklist
        self.note_query = note_query
        self._begun_steps: set[str] = set()
        self._copies, self._readers = copies, readers
        self._tokens: set[int] = set()
        self._reading: Counter[int] = Counter()
        self._fetching: set[str] = set()
        self.note_answers = note_answers
        self.more: Mapping[str, Callable[..., dict[str, Any]]] = {}  # what edge.scp.dicomweb asks beside these
        self._associations, self._lock = associations, threading.Lock()
        self._places: dict[int, AssociationPlace] = {}
        self._number = 0
        self.connections = 0  # that were handed on and have not ended
        self.note_call, self.note_refusal, self.note_hindrance = note_call, note_refusal, note_hindrance
        self.keeps_unreadable, self.take_report, self.fail = keeps_unreadable, take_report, fail

    def note_handed_on(self) -> None:
        """A connection goes to this door."""
        with self._lock:
            self.connections += 1

    def note_left(self) -> None:
        with self._lock:
            self.connections -= 1

    def take_place(self, title: str, address: str) -> int | Limit:
        place = self._associations.take(title, address)
        if isinstance(place, Limit):
            self.note_left()
            return place
        with self._lock:
            self._number += 1
            self._places[self._number] = place
            return self._number

    def give_back_place(self, place: int) -> None:
        with self._lock:
            found = self._places.pop(place)
            self.connections -= 1
        self._associations.give_back(found)

    def note_reading(self, studies: Sequence[int], is_begun: bool) -> None:
        if self._readers is not None:
            self._readers.note(studies, is_begun)
            for study in studies:
                self._reading[study] += 1 if is_begun else -1

    def begin_fetch(self, study_uid: str) -> bool:
        if self._readers is not None and not self._readers.begin_fetch(study_uid):
            return False
        self._fetching.add(study_uid)
        return True

    def end_fetch(self, study_uid: str) -> None:
        if study_uid in self._fetching:
            self._fetching.discard(study_uid)
            if self._readers is not None:
                self._readers.end_fetch(study_uid)

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        if self._copies is None:
            return 0
        token = self._copies.start(path, target_syntax, destination)
        self._tokens.add(token)
        return token

    def find_copy(self, token: int) -> MadeCopy | None:
        return self._copies.find(token) if self._copies is not None and token in self._tokens else MadeCopy()

    def drop_copy(self, token: int) -> None:
        if self._copies is not None and token in self._tokens:
            self._tokens.discard(token)
            self._copies.drop(token)

    def close(self) -> None:
        """The door has ended, with all its associations."""
        for token in list(self._tokens):
            self.drop_copy(token)
        for study_uid in list(self._fetching):
            self.end_fetch(study_uid)
        for study in list((+self._reading).elements()):
            self.note_reading([study], False)
        for place in list(self._places):
            self.give_back_place(place)
        for uid in list(self._begun_steps):
            self.end_step(uid, is_recorded=False)

    def begin_step(self, uid: str, operation: str, state: str, digest: bytes) -> StepAnswer:
        """See KnownSteps; what this door has begun ends with it."""
        answer = self.steps.begin(uid, operation, state, digest)
        if not answer.status and not answer.is_repeat:
            self._begun_steps.add(uid)
        return answer

    def end_step(self, uid: str, *, is_recorded: bool) -> None:
        self._begun_steps.discard(uid)
        self.steps.end(uid, is_recorded=is_recorded)


class RemoteLink:
    """See GatewayLink. The process ends when the gateway does: nothing may be answered that nobody will apply."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._lock = sock, threading.Lock()

    def _send(self, what: str, *values: Any) -> None:
        try:
            with self._lock:
                send_frame(self._sock, json.dumps([what, *values]).encode())
        except OSError:
            os._exit(1)

    def ask(self, what: str, *values: Any) -> Any:
        """Raises Hindered or StorageUnhealthy, where the gateway is; EdgeError for a fault."""
        try:
            with self._lock:
                send_frame(self._sock, json.dumps([what, *values]).encode())
                found = json.loads(receive_frame(self._sock))
        except (OSError, EOFError):
            os._exit(1)
        if "hindered" in found:
            raise hindrance.error_for(Cause(found["hindered"]))
        if "fault" in found:
            raise EdgeError("the gateway has met an unexpected fault")
        return found

    def take_place(self, title: str, address: str) -> int | Limit:
        found = self.ask("take_place", title, address)
        return found["place"] if "place" in found else Limit(Full[found["full"]], found["why"])

    def give_back_place(self, place: int) -> None:
        self._send("give_back_place", place)

    def note_left(self) -> None:
        self._send("note_left")

    def note_call(self, caller: Caller, admission: Admission, proposed: Proposed, stored: int) -> None:
        services = sorted(admission.services)
        said = (admission.modality, admission.destination, services, admission.why)
        self._send("note_call", astuple(caller), said, proposed, stored)

    def note_answers(self, modality: str, tally: AnswerTally) -> None:
        self._send("note_answers", modality, tally.as_list())

    def note_refusal(self, address: str, title: str, why: str) -> None:
        self._send("note_refusal", address, title, why)

    def note_query(self, query: NotedQuery) -> None:
        self._send("note_query", asdict(query))

    def note_reading(self, studies: Sequence[int], is_begun: bool) -> None:
        self.ask("note_reading", list(studies), is_begun)

    def begin_fetch(self, study_uid: str) -> bool:
        return bool(self.ask("begin_fetch", study_uid)["is_ours"])

    def end_fetch(self, study_uid: str) -> None:
        self._send("end_fetch", study_uid)

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        return int(self.ask("start_copy", path, target_syntax, destination)["token"])

    def find_copy(self, token: int) -> MadeCopy | None:
        found = self.ask("find_copy", token)
        return MadeCopy(**found["copy"]) if found["copy"] is not None else None

    def drop_copy(self, token: int) -> None:
        self._send("drop_copy", token)

    def note_hindrance(self, cause: Cause) -> None:
        self._send("note_hindrance", cause.value)

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        return bool(self.ask("keeps_unreadable", astuple(origin), size)["is_kept"])

    def take_report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: Caller
    ) -> bool:
        found = self.ask("take_report", transaction_uid, list(committed), dict(failed), astuple(caller))
        if "refused" in found:
            raise ReportRefused(found["refused"])
        return bool(found["is_ours"])

    def is_forbidden(self, sop_instance_uid: str) -> bool:
        return bool(self.ask("is_forbidden", sop_instance_uid)["is_forbidden"])

    def fail(self, reason: str) -> None:
        self._send("fail", reason)


class RemoteRequests:
    """See KnownRequests."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        return {bytes.fromhex(each) for each in self._link.ask("find_digests", calling_ae, transaction_uid)["digests"]}

    def is_full(self, modality: str) -> bool:
        return bool(self._link.ask("is_full", modality)["is_full"])

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        self._link.ask("note_request", calling_ae, transaction_uid, digest.hex())


class RemoteSteps:
    """See KnownSteps."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    def begin(self, uid: str, operation: str, state: str, digest: bytes) -> StepAnswer:
        found = self._link.ask("begin_step", uid, operation, state, digest.hex())
        return StepAnswer(found["status"], found["is_repeat"])

    def end(self, uid: str, *, is_recorded: bool) -> None:
        self._link.ask("end_step", uid, is_recorded)


def serve_link(sock: socket.socket, link: LocalLink) -> None:
    """Answer what a door in another process asks, until it has ended, or says what is no request.

    A fault of one request ends no other.
    """
    while True:
        try:
            what, *values = json.loads(receive_frame(sock))
            more = link.more.get(what)
            answers = what in _ANSWERED or more is not None
        except (OSError, EOFError, ValueError, TypeError):
            return
        try:
            found = more(*values) if more is not None else (_ANSWERED if answers else _NOTED)[what](link, *values)
        except (Hindered, StorageUnhealthy) as error:
            found = {"hindered": hindrance.cause_of(error).value}
        except Exception as error:  # noqa: BLE001 - one odd request must not end the associations of a door
            log.error("a request of a receiving process: %s", place_of(error))
            found = {"fault": True}
        if answers:
            try:
                send_frame(sock, json.dumps(found).encode())
            except OSError:
                return


def _take_place(link: LocalLink, title: str, address: str) -> dict[str, Any]:
    found = link.take_place(title, address)
    return {"full": found.full.name, "why": found.why} if isinstance(found, Limit) else {"place": found}


def _take_report(
    link: LocalLink, transaction_uid: str, committed: list[str], failed: dict[str, int], caller: list[Any]
) -> dict[str, Any]:
    try:
        return {"is_ours": link.take_report(transaction_uid, committed, failed, _caller(caller))}
    except ReportRefused as error:
        return {"refused": str(error)}


def _keeps_unreadable(link: LocalLink, origin: list[Any], size: int) -> dict[str, Any]:
    return {"is_kept": link.keeps_unreadable(Origin(*origin), size)}


def _find_digests(link: LocalLink, calling_ae: str, transaction_uid: str) -> dict[str, Any]:
    return {"digests": [each.hex() for each in link.commitments.find_digests(calling_ae, transaction_uid)]}


def _note_request(link: LocalLink, calling_ae: str, transaction_uid: str, digest: str) -> dict[str, Any]:
    link.commitments.note(calling_ae, transaction_uid, bytes.fromhex(digest))
    return {}


def _begin_step(link: LocalLink, uid: str, operation: str, state: str, digest: str) -> dict[str, Any]:
    answer = link.begin_step(uid, operation, state, bytes.fromhex(digest))
    return {"status": answer.status, "is_repeat": answer.is_repeat}


def _end_step(link: LocalLink, uid: str, is_recorded: bool) -> dict[str, Any]:
    link.end_step(uid, is_recorded=is_recorded)
    return {}


def _note_reading(link: LocalLink, studies: list[int], is_begun: bool) -> dict[str, Any]:
    link.note_reading(studies, is_begun)
    return {}


def _find_copy(link: LocalLink, token: int) -> dict[str, Any]:
    found = link.find_copy(token)
    return {"copy": asdict(found) if found is not None else None}


def _note_call(link: LocalLink, caller: list[Any], admission: list[Any], proposed: list[Any], stored: int) -> None:
    modality, destination, services, why = admission
    contexts = [(syntax, tuple(transfer)) for syntax, transfer in proposed]
    link.note_call(_caller(caller), Admission(modality, destination, frozenset(services), why), contexts, stored)


def _caller(said: list[Any]) -> Caller:
    ae_title, address, certificate = said
    if certificate is None:
        return Caller(ae_title, address)
    names, fingerprint, expires = certificate
    return Caller(ae_title, address, Certificate(tuple(names), fingerprint, expires))


_ANSWERED: dict[str, Callable[..., dict[str, Any]]] = {
    "take_place": _take_place,
    "take_report": _take_report,
    "keeps_unreadable": _keeps_unreadable,
    "find_digests": _find_digests,
    "is_full": lambda link, modality: {"is_full": link.commitments.is_full(modality)},
    "note_request": _note_request,
    "begin_step": _begin_step,
    "end_step": _end_step,
    "read_worklist": lambda link, modality, stamp, offset: link.read_worklist(modality, stamp, offset),
    "note_reading": _note_reading,
    "begin_fetch": lambda link, study: {"is_ours": link.begin_fetch(study)},
    "start_copy": lambda link, *values: {"token": link.start_copy(*values)},
    "find_copy": _find_copy,
    "is_forbidden": lambda link, uid: {"is_forbidden": link.is_forbidden(uid)},
}
_NOTED: dict[str, Callable[..., None]] = {
    "give_back_place": LocalLink.give_back_place,
    "note_left": LocalLink.note_left,
    "drop_copy": LocalLink.drop_copy,
    "end_fetch": LocalLink.end_fetch,
    "note_call": _note_call,
    "note_answers": lambda link, modality, values: link.note_answers(modality, tally_of(values)),
    "note_refusal": lambda link, *values: link.note_refusal(*values),
    "note_query": lambda link, said: link.note_query(NotedQuery.read(said)),
    "note_hindrance": lambda link, cause: link.note_hindrance(Cause(cause)),
    "fail": lambda link, reason: link.fail(reason),
}
