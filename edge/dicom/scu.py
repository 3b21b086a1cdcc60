"""An association that we ask for: edge.dicom.pdu.Wire from the SCU's side (PS3.8 section 9, PS3.7 sections 9 and 10).

Every wait is bounded. Whatever goes wrong raises PeerError (or Unreadable, where our own file is at fault) with a text
that tells refusal, silence and noise apart, and leaves the association aborted: it is never used again, for nobody
knows what of the broken message is still on its way.

One message is outstanding at a time. An association belongs to one thread; only `kill` may come from another.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edge import hindrance, tls
from edge.dicom import command as dimse
from edge.dicom import pdu
from edge.dicom.acse import (
    MAX_CONTEXTS,
    NO_REASON,
    Accepted,
    Context,
    Request,
    Role,
    parse_accept,
    parse_reject,
    request_pdu,
)
from edge.dicom.command import Command, CommandField, Element
from edge.dicom.pdu import Aborted, Released, Wire
from edge.dicom.uids import VERIFICATION, usable_uid
from edge.errors import Cause, PeerError, ProtocolError
from edge.model import ContextKey

RELEASE_SECONDS = 5.0
#: A round trip of so many seconds is a long line.
LONG_LINE = 0.02

#: Begins TLS on a connection within so many seconds, or raises PeerError with it closed: edge.tls.Caller.
Secure = Callable[[socket.socket, float], socket.socket]

# C-STORE priorities (PS3.7 section 9.3.1.1).
MEDIUM, HIGH, LOW = range(3)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a peer, in seconds."""

    connect: float = 10.0
    associate: float = 30.0  # for the answer to the A-ASSOCIATE-RQ
    answer: float = 120.0  # for the answer to one message: an archive may store it first


# -- what to propose --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """The contexts of one association, the kinds that they serve, and the kinds that need another association."""

    contexts: tuple[Context, ...]
    kinds: frozenset[ContextKey]
    left: tuple[ContextKey, ...]


def plan_contexts(
    kinds: Sequence[ContextKey], fallbacks: Sequence[Sequence[str]] = (), limit: int = MAX_CONTEXTS
) -> Plan:
    """One context for each kind, the most urgent first, and for its SOP class one for each group of `fallbacks`.

    A peer accepts one transfer syntax of a context (PS3.8 section 9.3.3.2): so that it can take several, each has a
    context of its own. A kind goes with all of its class' fallbacks or waits in `left`: a refusal is then final.
    Kinds whose UIDs cannot be proposed are in none of them.
    """
    by_class: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    contexts: list[Context] = []
    served: list[ContextKey] = []
    left: list[ContextKey] = []
    for kind in filter(can_propose, dict.fromkeys(kinds)):
        proposed = by_class[kind.sop_class_uid]
        more = _missing(kind.transfer_syntax_uid, proposed, fallbacks)
        if len(contexts) + len(more) > limit:
            left.append(kind)
            continue
        served.append(kind)
        for group in more:
            proposed.append(group)
            contexts.append(Context(2 * len(contexts) + 1, kind.sop_class_uid, group))
    return Plan(tuple(contexts), frozenset(served), tuple(left))


def can_propose(kind: ContextKey) -> bool:
    return usable_uid(kind.sop_class_uid) and usable_uid(kind.transfer_syntax_uid)


def _missing(
    syntax: str, proposed: Sequence[tuple[str, ...]], fallbacks: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """What a kind needs of its SOP class beside what is proposed: its own syntax alone, and each group without it."""
    missing: list[tuple[str, ...]] = [] if (syntax,) in proposed else [(syntax,)]
    for group in fallbacks:
        rest = tuple(s for s in group if s != syntax and (s,) not in proposed)
        # A peer that refuses `syntax` will not choose it from a group either: that group serves as well.
        if rest and not any(set(rest) <= set(p) <= {*rest, syntax} for p in proposed):
            missing.append(rest)
    return missing


# -- the association --------------------------------------------------------------------------------------------------


class Association:
    """An established association, made by `open`. `accepted`: context ID -> transfer syntax; `refused`: -> result."""

    def __init__(self, wire: Wire, proposed: Sequence[Context], accepted: Accepted, answer_seconds: float) -> None:
        self.wire = wire
        self.proposed = {context.id: context for context in proposed}
        self.accepted, self.refused = accepted.contexts, accepted.refused
        self._answer_seconds = answer_seconds
        self._message_id = 0

    @classmethod
    def open(
        cls,
        host: str,
        port: int,
        calling_ae: str,
        called_ae: str,
        contexts: Sequence[Context],
        *,
        roles: dict[str, Role] | None = None,
        patience: Patience | None = None,
        secure: Secure | None = None,
    ) -> Association:
        """Connect (IPv4 or IPv6), begin TLS where `secure` is given, and negotiate.

        Raises AssociationRejected, or PeerError saying what else was met.
        """
        patience = patience or Patience()
        request = request_pdu(Request(calling_ae, called_ae, tuple(contexts), 0, roles or {}))
        sock = _connect(host, port, patience.connect)
        if secure is not None:
            sock = secure(sock, patience.connect)
        try:
            accepted = _checked(_negotiate(sock, request, patience.associate), contexts)
            return cls(Wire(sock, accepted.max_pdu), contexts, accepted, patience.answer)
        except BaseException:
            sock.close()
            raise

    @property
    def round_trip(self) -> float:
        """The smoothed round-trip time of the connection, in seconds, as TCP has measured it."""
        return _round_trip(self.wire.sock)

    def context_for(self, sop_class_uid: str) -> int | None:
        """An accepted context of an abstract syntax."""
        return next((c for c in self.accepted if self.proposed[c].abstract_syntax == sop_class_uid), None)

    def store(
        self,
        context: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        fd: int,
        offset: int,
        length: int,
        sha256: bytes | None = None,
        priority: int = MEDIUM,
    ) -> tuple[int, str]:
        """C-STORE `length` bytes of the file from `offset` (PS3.7 section 9.1.1); its status and Error Comment.

        Raises PeerError; Unreadable when the bytes are too few or not those of `sha256`; OSError when they cannot be
        read. The peer then never has a whole object.
        """
        with self._or_abort():
            request: dict[int, int | str] = {
                Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
                Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
                Element.MESSAGE_ID: self._next_id(),
                Element.PRIORITY: priority,
                Element.DATA_SET_TYPE: dimse.DATA_SET,
                Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            }
            self.wire.send_file(context, request, fd, offset, length, sha256, pad=True)
            answer = self._answer(CommandField.C_STORE_RSP, context)
            return answer.number(Element.STATUS), answer.text(Element.ERROR_COMMENT)

    def ask(self, context: int, elements: dict[int, int | str], data_set: bytes = b"") -> Command:
        """Send any request whose one answer has no data set (C-ECHO, N-ACTION), and wait for that answer."""
        with self._or_abort():
            request: dict[int, int | str] = elements | {
                Element.MESSAGE_ID: self._next_id(),
                Element.DATA_SET_TYPE: dimse.DATA_SET if data_set else dimse.NO_DATA_SET,
            }
            self.wire.send_message(context, request, data_set)
            return self._answer(int(elements[Element.COMMAND_FIELD]) | 0x8000)

    def echo(self, context: int) -> int:
        """C-ECHO (PS3.7 section 9.1.5): its status."""
        return self.ask(
            context, {Element.AFFECTED_SOP_CLASS_UID: VERIFICATION, Element.COMMAND_FIELD: CommandField.C_ECHO_RQ}
        ).number(Element.STATUS)

    def is_quiet(self) -> bool:
        """Between messages nothing is due: where the peer has spoken or gone, the association is over."""
        return not self.wire.has_something(0.0)

    def release(self, seconds: float = RELEASE_SECONDS) -> None:
        """A-RELEASE, as well as the peer takes part in it, then close. Never raises."""
        end = time.monotonic() + seconds
        try:
            self.wire.send_raw(pdu.release_rq(), seconds)
            while (left := end - time.monotonic()) > 0:
                self.wire.read_command(left)  # a late message: nobody waits for it
        except (Released, PeerError):
            pass  # answered; or gone without an answer: either way it is over
        self.wire.close()

    def abort(self) -> None:
        """A-ABORT as the service user, then close. Never raises."""
        self.wire.abort(source=0)

    def kill(self) -> None:
        """From another thread: end whatever the owner waits for; the owner meets a PeerError and aborts."""
        self.wire.hang_up(socket.SHUT_RDWR)

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def moved(self) -> int:
        """How many bytes have come and gone; from any thread."""
        return self.wire.moved()

    def _answer(self, expected: int, context: int | None = None) -> Command:
        """The answer to the message that was sent, in the presentation context `context` where one is named."""
        answered_in, answer = self.wire.read_command(self._answer_seconds)
        field, to = answer.number(Element.COMMAND_FIELD), answer.number(Element.MESSAGE_ID_RESPONDED_TO)
        if (field, to) != (expected, self._message_id):
            due = f"{expected:04X} to message {self._message_id}"
            raise ProtocolError(f"the peer answered {field:04X} to message {to} where {due} was due")
        if context not in (None, answered_in):
            raise ProtocolError(f"the peer answered in presentation context {answered_in}, not in {context}")
        if answer.has_data_set:
            raise ProtocolError(f"the peer's answer {field:04X} announces a data set, which it cannot have")
        return answer

    @contextmanager
    def _or_abort(self) -> Iterator[None]:
        try:
            yield
        except Released:
            self.abort()
            raise PeerError("the peer asked to release the association where an answer was due") from None
        except BaseException:
            self.abort()
            raise


# -- connecting and negotiating ---------------------------------------------------------------------------------------


def _round_trip(sock: socket.socket) -> float:
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)  # struct tcp_info of linux/tcp.h
    except OSError:
        return 0.0  # it has ended
    return int.from_bytes(info[68:72], sys.byteorder) / 1e6


def _use_line_well(sock: socket.socket) -> None:
    """On a long line, the congestion control that takes a lost segment for an accident, where this machine has it."""
    if _round_trip(sock) >= LONG_LINE:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pass  # not loaded, or not allowed: the machine's default


def _connect(host: str, port: int, seconds: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout=seconds)
        _use_line_well(sock)
        return sock
    except ConnectionRefusedError:
        raise PeerError(f"{host}:{port} refuses the connection: nothing listens there") from None
    except TimeoutError:
        raise PeerError(
            f"{host}:{port} did not answer within {seconds:g} s: it is down, or a firewall is between"
        ) from None
    except socket.gaierror as error:
        hindrance.raise_shortage(hindrance.refine(Cause.BUSY, Path("/")))  # a lookup that got no descriptor
        raise PeerError(f"the name {host} cannot be resolved ({error.strerror})") from None
    except OSError as error:
        hindrance.raise_shortage(hindrance.cause_of(error))  # ours, not the peer's
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            raise PeerError(f"no route to {host}:{port} ({error.strerror})") from None
        raise PeerError(f"cannot connect to {host}:{port} ({error.strerror or error})") from None


def _negotiate(sock: socket.socket, request: bytes, seconds: float) -> Accepted:
    """Send the A-ASSOCIATE-RQ and read its answer, all within `seconds`."""
    end = time.monotonic() + seconds
    head = b""
    try:
        sock.settimeout(seconds)
        sock.sendall(request)
        head = _receive(sock, 6, end)
        kind, length = head[0], int.from_bytes(head[2:6], "big")
        if kind not in (pdu.A_ASSOCIATE_AC, pdu.A_ASSOCIATE_RJ, pdu.A_ABORT) or length > pdu.MAX_ACCEPT:
            raise ProtocolError(_stranger(head))
        body = _receive(sock, length, end)
    except TimeoutError:
        raise PeerError(
            f"it accepted the connection and then fell silent: no answer to A-ASSOCIATE in {seconds:g} s"
        ) from None
    except OSError as error:
        raise PeerError(_lost(sock, error)) from None
    if kind == pdu.A_ASSOCIATE_RJ:
        raise parse_reject(head + body)
    if kind == pdu.A_ABORT:
        raise Aborted(body[2], body[3]) if length == 4 else ProtocolError(_stranger(head))
    return parse_accept(head + body)


def _receive(sock: socket.socket, count: int, end: float) -> bytes:
    """Exactly `count` bytes before the monotonic time `end`."""
    data = bytearray()
    while len(data) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        piece = sock.recv(count - len(data))
        if not piece:
            raise PeerError(_closed(sock))
        data += piece
    return bytes(data)


def _lost(sock: socket.socket, error: OSError) -> str:
    """With TLS 1.3 a peer judges our certificate after the handshake: its alert, or its leaving, comes here."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it: {tls.explain(error)}"
    if isinstance(sock, ssl.SSLSocket):
        return _closed(sock)
    hint = ": no DICOM there, or DICOM over TLS" if isinstance(error, ConnectionResetError) else ""
    return f"the connection was lost instead of an answer to A-ASSOCIATE ({error.strerror or error}){hint}"


def _closed(sock: socket.socket) -> str:
    if isinstance(sock, ssl.SSLSocket):
        return "it closed the connection right after the TLS handshake: it does not accept our certificate, or us"
    return "it closed the connection instead of answering A-ASSOCIATE: no DICOM there, or DICOM over TLS"


def _stranger(head: bytes) -> str:
    """What else than a DICOM node begins to speak like this?"""
    if head[0] in (0x15, 0x16) and head[1] == 3:
        what = "it speaks TLS: this port takes DICOM over TLS only (tls = true)"
    elif head.startswith(b"HTTP/"):
        what = "it speaks HTTP: the port is that of a web server"
    elif head.startswith(b"SSH-"):
        what = "it speaks SSH"
    else:
        what = f"its answer begins with bytes {head.hex(' ')}"
    return f"it does not speak DICOM: {what}"


def _checked(accepted: Accepted, contexts: Sequence[Context]) -> Accepted:
    """What was accepted of what we proposed: anything else in the answer is of no use."""
    proposed = {context.id: context.transfer_syntaxes for context in contexts}
    usable = {id_: syntax for id_, syntax in accepted.contexts.items() if syntax in proposed.get(id_, ())}
    refused = {id_: accepted.refused.get(id_, NO_REASON) for id_ in proposed if id_ not in usable}
    return replace(accepted, contexts=usable, refused=refused)
