"""An association that we ask for: proposed, opened, released (PS3.8 section 9); its messages: edge.dicom.dialogue.

Every wait is bounded. Whatever goes wrong raises PeerError (or Unreadable, where our own file is at fault) with a text
that tells refusal, silence and noise apart, and leaves the association aborted: it is never used again, for nobody
knows what of the broken message is still on its way.

"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from edge.dicom import pdu
from edge.dicom.acse import (
    CONTEXT_RESULTS,
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
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline, Dialogue
from edge.dicom.failures import ServiceRefused
from edge.dicom.pdu import Aborted, Released
from edge.dicom.uids import VERIFICATION, usable_uid
from edge.dicom.wire import Wire
from edge.errors import Cause, PeerError, ProtocolError, hindrance
from edge.model import ContextKey
from edge.network import tls

RELEASE_SECONDS = 5.0
#: A round trip of at least these seconds is a long line.
LONG_LINE = 0.02

#: Begins TLS on a connection within these seconds, or raises PeerError with it closed (edge.network.tls).
Secure = Callable[[socket.socket, float], socket.socket]


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


def can_propose(context_key: ContextKey) -> bool:
    return usable_uid(context_key.sop_class_uid) and usable_uid(context_key.transfer_syntax_uid)


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


class Association(Dialogue):
    """An established association, made by `open`. `accepted`: context ID -> transfer syntax; `refused`: -> result."""

    def __init__(self, wire: Wire, proposed: Sequence[Context], accepted: Accepted, answer_seconds: float) -> None:
        self.proposed = {context.id: context for context in proposed}
        self.accepted, self.refused, self.extended = accepted.contexts, accepted.refused, accepted.extended
        contexts = {c: (self.proposed[c].abstract_syntax, syntax) for c, syntax in self.accepted.items()}
        super().__init__(wire, contexts, answer_seconds)

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
        extended: dict[str, bytes] | None = None,
    ) -> Association:
        """Connect (IPv4 or IPv6), begin TLS where `secure` is given, and negotiate.

        Raises AssociationRejected, or PeerError saying what else was met.
        """
        patience = patience or Patience()
        request = request_pdu(Request(calling_ae, called_ae, tuple(contexts), 0, roles or {}, extended=extended or {}))
        sock = _connect(host, port, patience.connect)
        if secure is not None:
            sock = secure(sock, patience.connect)
        try:
            accepted = _check_answer(_negotiate(sock, request, patience.associate), contexts)
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

    def echo(self, context: int) -> int:
        """C-ECHO (PS3.7 section 9.1.5): its status."""
        request: dict[int, int | str] = {
            Element.AFFECTED_SOP_CLASS_UID: VERIFICATION,
            Element.COMMAND_FIELD: CommandField.C_ECHO_RQ,
        }
        (answer,) = self.request(context, request, deadline=Deadline(self.answer_seconds))
        self.refuse_data_set(answer)
        return answer.status

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


class Peer(Protocol):
    """What is called: a destination, or a modality under the title by which it called."""

    @property
    def ae_title(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


@contextmanager
def associate(
    where: Peer,
    calling_ae: str,
    contexts: Sequence[Context],
    services: Mapping[int, str],
    *,
    seconds: float,
    roles: dict[str, Role] | None = None,
    secure: Secure | None = None,
) -> Iterator[Association]:
    """An association in which a peer offers each named context; released at the end, aborted after an error.

    `services`: context ID -> what it is for, in words; the peer may refuse the other contexts. Each step may take
    `seconds`. Raises PeerError, ServiceRefused.
    """
    association = Association.open(
        where.host,
        where.port,
        calling_ae,
        where.ae_title,
        contexts,
        roles=roles,
        patience=Patience(seconds, seconds, seconds),
        secure=secure,
    )
    for context, result in association.refused.items():
        if context not in services:
            continue
        association.release()
        why = CONTEXT_RESULTS.get(result, "it does not say why")
        raise ServiceRefused(f"{where.host}:{where.port} does not offer {services[context]}: {why}")
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    association.release()


# -- connecting and negotiating ---------------------------------------------------------------------------------------


def _round_trip(sock: socket.socket) -> float:
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)  # struct tcp_info of linux/tcp.h
    except OSError:
        return 0.0  # it has ended
    return int.from_bytes(info[68:72], sys.byteorder) / 1e6


def _use_line_well(sock: socket.socket) -> None:
    """Choose, for a long line, the congestion control that tolerates loss, where this machine has it."""
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
            raise ProtocolError(_describe_protocol(head))
        body = _receive(sock, length, end)
    except TimeoutError:
        raise PeerError(
            f"it accepted the connection and then fell silent: no answer to A-ASSOCIATE in {seconds:g} s"
        ) from None
    except OSError as error:
        raise PeerError(_describe_loss(sock, error)) from None
    if kind == pdu.A_ASSOCIATE_RJ:
        raise parse_reject(head + body)
    if kind == pdu.A_ABORT:
        raise Aborted(body[2], body[3]) if length == 4 else ProtocolError(_describe_protocol(head))
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
            raise PeerError(_describe_close(sock))
        data += piece
    return bytes(data)


def _describe_loss(sock: socket.socket, error: OSError) -> str:
    """Describe a lost connection: with TLS 1.3 a peer rejects our certificate after the handshake, so it shows here."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it: {tls.explain(error)}"
    if isinstance(sock, ssl.SSLSocket):
        return _describe_close(sock)
    hint = ": no DICOM there, or DICOM over TLS" if isinstance(error, ConnectionResetError) else ""
    return f"the connection was lost instead of an answer to A-ASSOCIATE ({error.strerror or error}){hint}"


def _describe_close(sock: socket.socket) -> str:
    if isinstance(sock, ssl.SSLSocket):
        return "it closed the connection right after the TLS handshake: it does not accept our certificate, or us"
    return "it closed the connection instead of answering A-ASSOCIATE: no DICOM there, or DICOM over TLS"


def _describe_protocol(head: bytes) -> str:
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


def _check_answer(accepted: Accepted, contexts: Sequence[Context]) -> Accepted:
    """What was accepted of what we proposed: anything else in the answer is of no use."""
    proposed = {context.id: context.transfer_syntaxes for context in contexts}
    usable = {id_: syntax for id_, syntax in accepted.contexts.items() if syntax in proposed.get(id_, ())}
    refused = {id_: accepted.refused.get(id_, NO_REASON) for id_ in proposed if id_ not in usable}
    return replace(accepted, contexts=usable, refused=refused)
