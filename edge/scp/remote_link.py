"""A door in a process of its own asks the gateway over a socket, as JSON; `serve_link` asks the local link for it.

When that socket ends, one of the two processes has: the receiving one then ends at once, for nothing may be answered
that nobody will apply.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

from edge.dicom.performed_step import StepAnswer
from edge.errors import Cause, EdgeError, Hindered, ReportRefused, StorageUnhealthy, hindrance, place_of
from edge.model import Origin
from edge.network.answer_times import AnswerTally, tally_of
from edge.network.frames import receive_frame, send_frame
from edge.network.shares import Full
from edge.network.tls import Certificate
from edge.query.asking import NotedQuery
from edge.scp.admission import Admission, Caller
from edge.scp.capacity import Limit
from edge.scp.gateway_link import LocalLink, MadeCopy, Proposed

log = logging.getLogger(__name__)


class RemoteLink:
    """See edge.scp.gateway_link.GatewayLink."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._lock = sock, threading.Lock()

    def _send(self, what: str, *values: Any) -> None:
        try:
            with self._lock:
                send_frame(self._sock, json.dumps([what, *values]).encode())
        except OSError:
            os._exit(1)

    def ask(self, what: str, *values: Any) -> Any:
        """Raises Hindered or StorageUnhealthy, where the gateway is; ReportRefused; EdgeError for a fault."""
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
        if "refused" in found:
            raise ReportRefused(found["refused"])
        return found["answer"]

    def take_place(self, title: str, address: str) -> int | Limit:
        found = self.ask("take_place", title, address)
        return found if isinstance(found, int) else Limit(Full[found[0]], found[1])

    def give_back_place(self, place: int) -> None:
        self._send("give_back_place", place)

    def note_left(self) -> None:
        self._send("note_left")

    def note_call(self, caller: Caller, admission: Admission, proposed: Proposed, stored: int) -> None:
        services = sorted(admission.services)
        said = (admission.modality, admission.destination, services, admission.lacks)
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
        return bool(self.ask("begin_fetch", study_uid))

    def end_fetch(self, study_uid: str) -> None:
        self._send("end_fetch", study_uid)

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        return int(self.ask("start_copy", path, target_syntax, destination))

    def find_copy(self, token: int) -> MadeCopy | None:
        found = self.ask("find_copy", token)
        return MadeCopy(*found) if found is not None else None

    def drop_copy(self, token: int) -> None:
        self._send("drop_copy", token)

    def note_damaged(self, path: str) -> None:
        self._send("note_damaged", path)

    def note_hindrance(self, cause: Cause) -> None:
        self._send("note_hindrance", cause.value)

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        return bool(self.ask("keeps_unreadable", astuple(origin), size))

    def take_report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: Caller
    ) -> bool:
        return bool(self.ask("take_report", transaction_uid, list(committed), dict(failed), astuple(caller)))

    def is_forbidden(self, sop_instance_uid: str) -> bool:
        return bool(self.ask("is_forbidden", sop_instance_uid))

    def fail(self, reason: str) -> None:
        self._send("fail", reason)


class RemoteRequests:
    """See edge.scp.gateway_link.KnownRequests."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        return {bytes.fromhex(each) for each in self._link.ask("find_digests", calling_ae, transaction_uid)}

    def is_full(self, modality: str) -> bool:
        return bool(self._link.ask("is_full", modality))

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        self._link.ask("note_request", calling_ae, transaction_uid, digest.hex())


class RemoteSteps:
    """See edge.scp.gateway_link.KnownSteps."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    def begin(self, uid: str, operation: str, state: str, digest: bytes, has_series: bool | None = None) -> StepAnswer:
        return StepAnswer(*self._link.ask("begin_step", uid, operation, state, digest.hex(), has_series))

    def end(self, uid: str, *, is_recorded: bool) -> None:
        self._link.ask("end_step", uid, is_recorded)


def serve_link(sock: socket.socket, link: LocalLink) -> None:
    """Answer what a door in another process asks, until it has ended, or says what is no request.

    A fault of one request ends no other.
    """
    while True:
        try:
            what, *values = json.loads(receive_frame(sock))
            answer = link.more.get(what) or _ANSWERED.get(what)
        except (OSError, EOFError, ValueError, TypeError):
            return
        try:
            if answer is None:
                _NOTED[what](link, *values)
            else:
                found = {"answer": answer(*values) if what in link.more else answer(link, *values)}
        except (Hindered, StorageUnhealthy) as error:
            found = {"hindered": hindrance.cause_of(error).value}
        except ReportRefused as error:
            found = {"refused": str(error)}
        except Exception as error:  # noqa: BLE001 - one odd request must not end the associations of a door
            log.error("a request of a receiving process: %s", place_of(error))
            found = {"fault": True}
        if answer is not None:
            try:
                send_frame(sock, json.dumps(found).encode())
            except OSError:
                return


def _take_place(link: LocalLink, title: str, address: str) -> int | tuple[str, str]:
    found = link.take_place(title, address)
    return (found.full.name, found.why) if isinstance(found, Limit) else found


def _find_copy(link: LocalLink, token: int) -> tuple[Any, ...] | None:
    found = link.find_copy(token)
    return None if found is None else astuple(found)


def _begin_step(
    link: LocalLink, uid: str, operation: str, state: str, digest: str, has_series: bool | None
) -> tuple[Any, ...]:
    return astuple(link.begin_step(uid, operation, state, bytes.fromhex(digest), has_series))


def _note_call(link: LocalLink, caller: list[Any], admission: list[Any], proposed: list[Any], stored: int) -> None:
    modality, destination, services, lacks = admission
    contexts = [(syntax, tuple(transfer)) for syntax, transfer in proposed]
    link.note_call(_caller(caller), Admission(modality, destination, frozenset(services), lacks), contexts, stored)


def _caller(said: list[Any]) -> Caller:
    ae_title, address, certificate = said
    if certificate is None:
        return Caller(ae_title, address)
    names, fingerprint, expires = certificate
    return Caller(ae_title, address, Certificate(tuple(names), fingerprint, expires))


_ANSWERED: dict[str, Callable[..., Any]] = {
    "take_place": _take_place,
    "take_report": lambda link, uid, committed, failed, caller: link.take_report(
        uid, committed, failed, _caller(caller)
    ),
    "keeps_unreadable": lambda link, origin, size: link.keeps_unreadable(Origin(*origin), size),
    "find_digests": lambda link, *named: [each.hex() for each in link.commitments.find_digests(*named)],
    "is_full": lambda link, modality: link.commitments.is_full(modality),
    "note_request": lambda link, ae, uid, digest: link.commitments.note(ae, uid, bytes.fromhex(digest)),
    "begin_step": _begin_step,
    "end_step": lambda link, uid, is_recorded: link.end_step(uid, is_recorded=is_recorded),
    "read_worklist": lambda link, *asked: link.read_worklist(*asked),
    "note_reading": LocalLink.note_reading,
    "begin_fetch": LocalLink.begin_fetch,
    "start_copy": LocalLink.start_copy,
    "find_copy": _find_copy,
    "is_forbidden": lambda link, uid: link.is_forbidden(uid),
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
    "note_damaged": lambda link, path: link.note_damaged(str(path)),
    "note_hindrance": lambda link, cause: link.note_hindrance(Cause(cause)),
    "fail": lambda link, reason: link.fail(reason),
}
