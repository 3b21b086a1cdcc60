"""Association negotiation (PS3.8 section 9.3, PS3.7 annex D): bytes to frozen facts and back, no socket in sight.

Promise: what DCMTK and Orthanc accept is accepted. A value that is not needed is not checked: unknown items and
sub-items are skipped (PS3.8 section 9.3.1), reserved bytes are not tested, AE titles and UIDs may be padded with NUL
or blanks.
What is refused raises RequestRefused with the field, its value made printable, and the PDU that answers it.

Limits, because nobody is known yet: MAX_ITEMS items are read of a request, MAX_CONTEXT_ITEMS sub-items of a context:
the first ones, which the requestor prefers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from edge.dicom import pdu
from edge.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.dicom.pdu import MAX_PDU_IN
from edge.errors import AssociationRejected, ProtocolError

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

# Presentation context results (PS3.8 table 9-18).
ACCEPTED, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = range(5)
CONTEXT_RESULTS = {
    USER_REJECTION: "refused by the peer's user",
    NO_REASON: "refused without a reason",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "the SOP class is not supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "none of the transfer syntaxes is supported",
}
MAX_CONTEXTS = 128
#: Items and sub-items that are read of a request, and of one context.
MAX_ITEMS, MAX_CONTEXT_ITEMS = 40_000, 256
#: Characters of a UID or a text that are kept; a UID has 64 at most, so a longer one is still seen to be none.
MAX_TEXT = 80
#: Longest P-DATA-TF for a peer that does not say what it takes.
UNSTATED_MAX_PDU = 16_384

# Items and sub-items (PS3.8 section 9.3, PS3.7 annex D.3.3).
APPLICATION_ITEM, CONTEXT_RQ, CONTEXT_AC, ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0x10, 0x20, 0x21, 0x30, 0x40
USER_INFORMATION, MAXIMUM_LENGTH, IMPLEMENTATION_UID, ROLE_SELECTION, VERSION_NAME = 0x50, 0x51, 0x52, 0x54, 0x55
EXTENDED_NEGOTIATION = 0x56
_FIXED = struct.Struct(">6xH2x16s16s32x")  # protocol version, called and calling AE title
_ITEM = struct.Struct(">BxH")
#: A-ASSOCIATE-RJ: rejected-permanent, service provider (ACSE), protocol version not supported (PS3.8 table 9-21).
VERSION_NOT_SUPPORTED = (1, 2, 2)
#: A-ABORT reason (PS3.8 table 9-26).
INVALID_PARAMETER_VALUE = 6


@dataclass(frozen=True, slots=True)
class Context:
    """One proposed presentation context: transfer syntaxes in order of preference."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """SCP/SCU role selection for one SOP class, as the requestor's roles (PS3.7 annex D.3.3.4)."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class Request:
    """An A-ASSOCIATE-RQ."""

    calling_ae: str
    called_ae: str
    contexts: tuple[Context, ...]
    max_pdu: int
    roles: dict[str, Role] = field(default_factory=dict)
    implementation: str = ""
    #: SOP class -> Service Class Application Information (PS3.7 annex D.3.3.5)
    extended: dict[str, bytes] = field(default_factory=dict)
    echoed: bytes = b""  # bytes 11 to 74 as they came: both titles and 32 reserved; an answer repeats them


class RequestRefused(ProtocolError):
    """An A-ASSOCIATE-RQ that cannot be served: why, who sent it (empty where that cannot be read), what to answer."""

    def __init__(self, why: str, calling_ae: str, answer: bytes) -> None:
        super().__init__(why)
        self.calling_ae, self.answer = calling_ae, answer


@dataclass(frozen=True, slots=True)
class ContextResult:
    """Our decision on one context: `transfer_syntax` when accepted, else the result code."""

    id: int
    transfer_syntax: str = ""
    result: int = ACCEPTED


@dataclass(frozen=True, slots=True)
class Accepted:
    """An A-ASSOCIATE-AC, or our own: what holds for the life of the association."""

    max_pdu: int
    contexts: dict[int, str]  # accepted context id -> transfer syntax
    refused: dict[int, int] = field(default_factory=dict)  # context id -> result
    extended: dict[str, bytes] = field(default_factory=dict)  # what the peer agreed to, by SOP class


# -- reading ----------------------------------------------------------------------------------------------------------


def title_of(raw: bytes | bytearray) -> str:
    """An AE title: without padding, ended by NUL as by C programs, what is not printable ASCII replaced by "?"."""
    return _printable(raw.decode("latin-1").lstrip(" \0").partition("\0")[0].rstrip(" "))


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" and char != "\\" else "?" for char in text)


def calling_title(request: bytes | bytearray) -> str:
    """The calling AE title of the beginning of an A-ASSOCIATE-RQ; empty where that is too short."""
    return title_of(request[26:42]) if len(request) >= 42 else ""


class _Items:
    """Walks the items of one PDU; damage raises ProtocolError, as does more than MAX_ITEMS of them."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data
        self._left = MAX_ITEMS

    def split_items(self, at: int, end: int, within: str) -> Iterator[tuple[int, int, int]]:
        """Type, and start and end of the value, of each item. Up to three bytes behind the last one are padding."""
        while end - at >= 4:
            kind, length = _ITEM.unpack_from(self.data, at)
            at += 4
            if length > end - at:
                raise ProtocolError(f"{within}: item {kind:02X}H claims {length} bytes, {end - at} are left")
            self._left -= 1
            if self._left < 0:
                raise ProtocolError(f"{within}: more than {MAX_ITEMS} items")
            yield kind, at, at + length
            at += length

    def text(self, start: int, end: int) -> str:
        """A UID or a name, without its padding."""
        return _printable(self.data[start : min(end, start + MAX_TEXT)].decode("latin-1").strip(" \0"))

    def number(self, start: int) -> int:
        return int.from_bytes(self.data[start : start + 4], "big")


def parse_request(request: bytes | bytearray) -> Request:
    """Read an A-ASSOCIATE-RQ (PS3.8 section 9.3.2). Raises RequestRefused."""
    if len(request) < 74:
        why = f"the A-ASSOCIATE-RQ has {len(request)} bytes, at least 74 are due"
        raise RequestRefused(why, calling_title(request), pdu.abort(2, INVALID_PARAMETER_VALUE))
    version, called, calling = _FIXED.unpack_from(request)
    title = title_of(calling)
    items = _Items(request)
    contexts: list[Context] = []
    user = _User()
    try:
        for kind, start, end in items.split_items(74, len(request), "the A-ASSOCIATE-RQ"):
            if kind == CONTEXT_RQ and end > start:
                contexts.append(_context(items, start, end))
            elif kind == USER_INFORMATION:
                user.read(items, start, end)
    except ProtocolError as error:
        raise RequestRefused(str(error), title, pdu.abort(2, INVALID_PARAMETER_VALUE)) from None
    if not version & 1:  # after the items: rubbish has no version
        why = f"the A-ASSOCIATE-RQ has protocol version {version:04X}H, whose bit 0 is not set"
        raise RequestRefused(why, title, reject_pdu(*VERSION_NOT_SUPPORTED))
    known = (user.max_pdu, user.roles, user.implementation, user.extended)
    return Request(title, title_of(called), tuple(contexts), *known, bytes(request[10:74]))


def _context(items: _Items, start: int, end: int) -> Context:
    number, abstract_syntax, syntaxes = items.data[start], "", dict[str, None]()
    sub_items = items.split_items(start + 4, end, f"presentation context {number}")
    for kind, at, stop in islice(sub_items, MAX_CONTEXT_ITEMS):
        if kind == ABSTRACT_SYNTAX:
            abstract_syntax = items.text(at, stop)
        elif kind == TRANSFER_SYNTAX:
            syntaxes[items.text(at, stop)] = None
    return Context(number, abstract_syntax, tuple(syntaxes))


@dataclass(slots=True)
class _User:
    """What we need of the user information (PS3.7 annex D.3.3); a sub-item of odd content is as if it were absent."""

    max_pdu: int = UNSTATED_MAX_PDU
    roles: dict[str, Role] = field(default_factory=dict)
    implementation: str = ""
    extended: dict[str, bytes] = field(default_factory=dict)

    def read(self, items: _Items, start: int, end: int) -> None:
        for kind, at, stop in items.split_items(start, end, "the user information"):
            if kind == MAXIMUM_LENGTH and stop - at >= 4:
                self.max_pdu = items.number(at)
            elif kind == ROLE_SELECTION and stop - at > 4:
                behind = at + 2 + int.from_bytes(items.data[at : at + 2], "big")
                if behind + 2 <= stop:
                    roles = Role(bool(items.data[behind]), bool(items.data[behind + 1]))
                    self.roles[items.text(at + 2, behind)] = roles
            elif kind == EXTENDED_NEGOTIATION and stop - at > 2:
                behind = at + 2 + int.from_bytes(items.data[at : at + 2], "big")
                if behind <= stop:
                    self.extended[items.text(at + 2, behind)] = bytes(items.data[behind : min(stop, behind + MAX_TEXT)])
            elif kind == VERSION_NAME:
                self.implementation = title_of(items.data[at : min(stop, at + MAX_TEXT)])


# -- answering --------------------------------------------------------------------------------------------------------


def answer_contexts(
    request: Request, choose: Callable[[Context], ContextResult]
) -> tuple[list[ContextResult], dict[int, tuple[str, str]]]:
    """Decide on every context; also the accepted ones as id -> (abstract syntax, transfer syntax).

    Of contexts that share an ID, the first that can be accepted has it: each ID is answered once.
    """
    answers: dict[int, ContextResult] = {}
    accepted: dict[int, tuple[str, str]] = {}
    for context in request.contexts:
        if context.id in accepted:
            continue
        answer = answers[context.id] = choose(context)
        if answer.result == ACCEPTED:
            accepted[context.id] = (context.abstract_syntax, answer.transfer_syntax)
    return list(answers.values()), accepted


def accept_pdu(
    request: Request,
    answers: Iterable[ContextResult],
    roles: dict[str, Role],
    extended: Mapping[str, bytes] | None = None,
) -> bytes:
    """Encode the A-ASSOCIATE-AC that answers `request`; `roles` are those we grant, for the SOP classes that asked.

    `extended`: what we agree to of the extended negotiation, by SOP class.
    """
    items = b"".join(
        _item(
            CONTEXT_AC,
            bytes([each.id, 0, each.result, 0])
            + _uid_item(TRANSFER_SYNTAX, each.transfer_syntax or "1.2.840.10008.1.2"),
        )
        for each in answers
    )
    return _associate(pdu.A_ASSOCIATE_AC, request, items, roles, extended or {})


def request_pdu(request: Request) -> bytes:
    """Encode an A-ASSOCIATE-RQ; `request.max_pdu` is not used: we announce our own."""
    items = b"".join(
        _item(
            CONTEXT_RQ,
            bytes([each.id, 0, 0, 0])
            + _uid_item(ABSTRACT_SYNTAX, each.abstract_syntax)
            + b"".join(_uid_item(TRANSFER_SYNTAX, syntax) for syntax in each.transfer_syntaxes),
        )
        for each in request.contexts
    )
    return _associate(pdu.A_ASSOCIATE_RQ, request, items, request.roles, request.extended)


def _associate(
    kind: int, request: Request, contexts: bytes, roles: dict[str, Role], extended: Mapping[str, bytes]
) -> bytes:
    titles = (each.encode("latin-1", "replace")[:16].ljust(16) for each in (request.called_ae, request.calling_ae))
    user = _item(MAXIMUM_LENGTH, struct.pack(">L", MAX_PDU_IN))
    user += _uid_item(IMPLEMENTATION_UID, IMPLEMENTATION_CLASS_UID)
    for sop_class, role in roles.items():
        uid = sop_class.encode("latin-1", "replace")
        user += _item(ROLE_SELECTION, struct.pack(">H", len(uid)) + uid + bytes([role.scu, role.scp]))
    for sop_class, information in extended.items():
        uid = sop_class.encode("latin-1", "replace")
        user += _item(EXTENDED_NEGOTIATION, struct.pack(">H", len(uid)) + uid + information)
    user += _uid_item(VERSION_NAME, IMPLEMENTATION_VERSION)
    body = (
        b"\0\1\0\0"
        + (request.echoed or b"".join(titles) + bytes(32))
        + _uid_item(APPLICATION_ITEM, APPLICATION_CONTEXT)
    )
    body += contexts + _item(USER_INFORMATION, user)
    return struct.pack(">BxL", kind, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _uid_item(kind: int, text: str) -> bytes:
    return _item(kind, text.encode("latin-1", "replace"))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return struct.pack(">BxLxBBB", pdu.A_ASSOCIATE_RJ, 4, result, source, reason)


# -- what others answer -----------------------------------------------------------------------------------------------


def parse_accept(accept: bytes) -> Accepted:
    """Read an A-ASSOCIATE-AC. Raises ProtocolError when it cannot be read or answers no presentation context at all."""
    items, user = _Items(accept), _User()
    contexts: dict[int, str] = {}
    refused: dict[int, int] = {}
    for kind, start, end in items.split_items(74, len(accept), "the A-ASSOCIATE-AC"):
        if kind == CONTEXT_AC and end - start >= 4:
            number, result = accept[start], accept[start + 2]
            if result == ACCEPTED:
                contexts[number] = next(iter(_context(items, start, end).transfer_syntaxes), "")
            else:
                refused[number] = result
        elif kind == USER_INFORMATION:
            user.read(items, start, end)
    if not contexts and not refused:
        raise ProtocolError("an A-ASSOCIATE-AC that answers no presentation context (PS3.8 section 9.3.3)")
    return Accepted(user.max_pdu, contexts, refused, user.extended)


def parse_reject(pdu: bytes) -> AssociationRejected:
    """Read an A-ASSOCIATE-RJ into the error that it means, in words."""
    if len(pdu) < 10:
        raise ProtocolError("an A-ASSOCIATE-RJ that ends too early")
    result, source, reason = pdu[7], pdu[8], pdu[9]
    text = REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
    lasting = "for good" if result == 1 else "for now"
    return AssociationRejected(f"the association was rejected {lasting}: {text}", result, source, reason)


#: A-ASSOCIATE-RJ (source, reason) in words (PS3.8 table 9-21).
REJECTIONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "it does not know our AE title (calling AE title not recognized); have it added there",
    (1, 7): "it does not answer to that AE title (called AE title not recognized); check the destination's ae_title",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
