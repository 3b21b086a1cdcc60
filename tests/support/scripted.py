"""A storage SCP that misbehaves by script, for the tests of the way out.

    with ScriptedScp(stores=[abort_midway, succeed]) as scp:    # the last one of a script goes on for ever
        ...
    assert scp.uids() == [...]

Each association and each C-STORE plays the next act of its script. Threads and sockets are real; every wait is bounded.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from edge.dicom import command as dimse
from edge.dicom import pdu
from edge.dicom.acse import (
    Context,
    ContextResult,
    Request,
    accept_pdu,
    answer_contexts,
    parse_request,
    reject_pdu,
)
from edge.dicom.command import Command, CommandField, Element
from edge.dicom.pdu import Released
from edge.dicom.wire import Wire
from edge.errors import EdgeError, PeerError

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

WAIT = 600.0


@dataclass(frozen=True)
class Received:
    """One whole object."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    priority: int
    at: float  # monotonic


class Link:
    """One association, as an act sees it."""

    def __init__(self, scp: ScriptedScp, sock: socket.socket, request: Request) -> None:
        self.scp, self.request = scp, request
        self.wire = Wire(sock, request.max_pdu)
        self.contexts: dict[int, tuple[str, str]] = {}

    def read_object(self, context: int, command: Command) -> Received:
        pieces: list[bytes] = []
        self.wire.read_data_set(context, lambda views: pieces.extend(map(bytes, views)))
        sop_class, syntax = self.contexts[context]
        uid = command.text(Element.AFFECTED_SOP_INSTANCE_UID)
        priority = command.number(Element.PRIORITY)
        return Received(uid, sop_class, syntax, b"".join(pieces), priority, time.monotonic())

    def respond(self, context: int, command: Command, status: int, comment: str = "", **changed: int) -> None:
        answer = dimse.response_to(command, status, comment)
        answer.update({Element[name.upper()]: value for name, value in changed.items()})
        self.wire.send_message(context, answer)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.close()


Store = Callable[[Link, int, Command], None]
Associate = Callable[["ScriptedScp", socket.socket, Request], Link | None]

# Acts of a C-STORE.


def succeed(link: Link, context: int, command: Command) -> None:
    link.scp.keep(link.read_object(context, command))
    link.respond(context, command, 0)


def answer_with(status: int, comment: str = "") -> Store:
    def act(link: Link, context: int, command: Command) -> None:
        link.read_object(context, command)
        link.respond(context, command, status, comment)

    return act


def abort_midway(link: Link, context: int, command: Command) -> None:
    link.wire.abort()


def reset_midway(link: Link, context: int, command: Command) -> None:
    link.reset()


def abort_after(link: Link, context: int, command: Command) -> None:
    """It has the whole object, but never says so."""
    link.read_object(context, command)
    link.wire.abort()


def never_answer(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.scp.stopping.wait(WAIT)


def never_read(link: Link, context: int, command: Command) -> None:
    link.scp.stopping.wait(WAIT)


def answer_after(seconds: float) -> Store:
    def act(link: Link, context: int, command: Command) -> None:
        link.scp.keep(link.read_object(context, command))
        link.scp.stopping.wait(seconds)
        link.respond(context, command, 0)

    return act


def answer_twice(link: Link, context: int, command: Command) -> None:
    succeed(link, context, command)
    link.respond(context, command, 0)


def answer_another(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.respond(context, command, 0, message_id_responded_to=command.number(Element.MESSAGE_ID) + 1)


def answer_as_echo(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.respond(context, command, 0, command_field=CommandField.C_ECHO_RSP)


def ask_to_release(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.wire.send_raw(pdu.release_rq())


def stay_silent(link: Link, context: int, command: Command) -> None:
    """It has the whole object and says nothing, until the other side has had enough."""
    link.read_object(context, command)
    link.wire.read_command(10 * WAIT)


def half_a_pdu(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.wire.send_raw(b"\x04\x00\x00\x00\x01\x00\x00\x00")
    link.wire.read_command(10 * WAIT)


def answer_garbage(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.wire.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def close_politely(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.wire.close()


def answer_in_another_context(link: Link, context: int, command: Command) -> None:
    link.read_object(context, command)
    link.respond(context + 2, command, 0)


def close_after_answer(link: Link, context: int, command: Command) -> None:
    """A peer that takes one object an association."""
    succeed(link, context, command)
    link.wire.close()


# Acts of an association.


def accept(takes: Callable[[str, str], bool] = lambda sop_class, syntax: True, max_pdu: int | None = None) -> Associate:
    """Accept the first transfer syntax of each context that `takes(SOP class, transfer syntax)`; announce `max_pdu`."""

    def choose(context: Context) -> ContextResult:
        for syntax in context.transfer_syntaxes:
            if takes(context.abstract_syntax, syntax):
                return ContextResult(context.id, syntax)
        known = any(takes(context.abstract_syntax, s) for s in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"))
        return ContextResult(context.id, result=4 if known else 3)

    def act(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
        answers, accepted = answer_contexts(request, choose)
        body = bytearray(accept_pdu(request, answers, {}))
        if max_pdu is not None:
            at = body.rindex(b"\x51\x00\x00\x04")  # the Maximum Length sub-item
            body[at + 4 : at + 8] = max_pdu.to_bytes(4, "big")
        sock.sendall(body)
        link = Link(scp, sock, request)
        link.contexts = accepted
        return link

    return act


def reject(result: int, source: int, reason: int) -> Associate:
    def act(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
        sock.sendall(reject_pdu(result, source, reason))
        return None

    return act


def say(data: bytes) -> Associate:
    """Answer anything, then close."""

    def act(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
        sock.sendall(data)
        return None

    return act


def fall_silent(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
    scp.stopping.wait(WAIT)
    return None


def hang_up(scp: ScriptedScp, sock: socket.socket, request: Request) -> Link | None:
    return None


class ScriptedScp:
    """See the module's docstring. `release`: "answer", "close", "abort" or "silent"."""

    ae_title = "ARCHIVE"

    def __init__(
        self,
        stores: Sequence[Store] = (succeed,),
        associations: Sequence[Associate] = (accept(),),
        release: str = "answer",
        port: int = 0,
        most: int = 0,
        address: str = "127.0.0.1",
    ) -> None:
        """`most`: associations at once; more are rejected for now."""
        self._stores, self._associations, self._release, self._most = list(stores), list(associations), release, most
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self.requests: list[Request] = []
        self.stores = 0  # C-STORE requests so far
        self.connections = self.open = self.most_open = self.releases = 0
        self.stopping = threading.Event()
        self._server = socket.create_server((address, port))
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._listener.join(WAIT)
        self._server.close()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
        for thread in self._threads:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in self._threads), "a scripted association did not end"

    def keep(self, received: Received) -> None:
        with self._lock:
            self._received.append(received)

    @property
    def received(self) -> list[Received]:
        with self._lock:
            return list(self._received)

    def uids(self) -> list[str]:
        return [each.sop_instance_uid for each in self.received]

    def _listen(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._sockets.append(sock)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            full = bool(self._most) and self.open >= self._most
            act = reject(2, 3, 2) if full else _next(self._associations)
            self.open += not full
            self.most_open = max(self.most_open, self.open)
        try:
            sock.settimeout(WAIT)
            request = parse_request(_read_pdu(sock))
            self.requests.append(request)
            link = act(self, sock, request)
            if link is not None:
                self._converse(link)
        except (OSError, EdgeError):
            pass  # the gateway has had enough, or we have closed: the test looks at what came of it
        finally:
            sock.close()
            with self._lock:
                self.open -= not full

    def _converse(self, link: Link) -> None:
        while True:
            try:
                context, command = link.wire.read_command(WAIT)
            except Released:
                self._end(link)
                return
            if command.number(Element.COMMAND_FIELD) == CommandField.C_ECHO_RQ:
                link.respond(context, command, 0)
                continue
            with self._lock:
                self.stores += 1
                act = _next(self._stores)
            act(link, context, command)
            if link.wire.sock.fileno() < 0:
                return

    def _end(self, link: Link) -> None:
        self.releases += 1
        if self._release == "answer":
            link.wire.send_raw(pdu.release_rp())
        elif self._release == "abort":
            link.wire.abort()
        elif self._release == "silent":
            self.stopping.wait(WAIT)


def _next(script: list[Store] | list[Associate]):  # type: ignore[no-untyped-def]
    return script.pop(0) if len(script) > 1 else script[0]


def _read_pdu(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
        piece = sock.recv(65_536)
        if not piece:
            raise PeerError("closed")
        data += piece
    return data


def native_only(sop_class: str, syntax: str) -> bool:
    """A peer that takes uncompressed objects only."""
    return syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
