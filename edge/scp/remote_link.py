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

    def note_damaged(self, path: str) -> None:
        self._send("note_damaged", path)

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
    """See edge.scp.gateway_link.KnownRequests."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        return {bytes.fromhex(each) for each in self._link.ask("find_digests", calling_ae, transaction_uid)["digests"]}

    def is_full(self, modality: str) -> bool:
        return bool(self._link.ask("is_full", modality)["is_full"])

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        self._link.ask("note_request", calling_ae, transaction_uid, digest.hex())


class RemoteSteps:
    """See edge.scp.gateway_link.KnownSteps."""

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
    modality, destination, services, lacks = admission
    contexts = [(syntax, tuple(transfer)) for syntax, transfer in proposed]
    link.note_call(_caller(caller), Admission(modality, destination, frozenset(services), lacks), contexts, stored)


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
    "note_damaged": lambda link, path: link.note_damaged(str(path)),
    "note_hindrance": lambda link, cause: link.note_hindrance(Cause(cause)),
    "fail": lambda link, reason: link.fail(reason),
}
