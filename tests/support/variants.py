"""A-ASSOCIATE-RQ in the shapes that equipment sends, legal and less so, byte by byte (PS3.8 section 9.3.2).

DCMTK 3.6.7 (storescp, dcmqrscp) and Orthanc 1.10.1 were asked all of them: what one of them accepts, and some that
they do not, is in `ACCEPTED`; what none of them accepts, and no gateway can make sense of, in `REFUSED`.
"""

from __future__ import annotations

import socket
import struct

VERIFICATION = b"1.2.840.10008.1.1"
CT = b"1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = b"1.2.840.10008.1.20.1"
FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT = b"1.2.840.10008.1.2"
EXPLICIT = b"1.2.840.10008.1.2.1"
OUR_CLASS = b"1.2.276.0.7230010.3.0.3.6.7"
APPLICATION = b"1.2.840.10008.3.1.1.1"


def item(kind: int, value: bytes, reserved: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, reserved, len(value) if length is None else length) + value


def context(
    number: int = 1, abstract: bytes = VERIFICATION, *syntaxes: bytes, reserved: int = 0, extra: bytes = b""
) -> bytes:
    """A presentation context item (PS3.8 table 9-13)."""
    subs = item(0x30, abstract, reserved) + b"".join(item(0x40, each, reserved) for each in syntaxes or (IMPLICIT,))
    return item(0x20, bytes([number, reserved, reserved, reserved]) + subs + extra, reserved)


def max_length(value: int = 16_384) -> bytes:
    return item(0x51, struct.pack(">L", value))


def user(*subs: bytes, max_pdu: bytes | None = None, reserved: int = 0) -> bytes:
    """The user information item (PS3.8 table 9-16, PS3.7 annex D)."""
    usual = max_length() if max_pdu is None else max_pdu
    return item(0x50, usual + item(0x52, OUR_CLASS) + b"".join(subs), reserved)


def role(uid: bytes, scu: int, scp: int) -> bytes:
    """SCP/SCU role selection (PS3.7 table D.3-9)."""
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp]))


def identity(kind: int = 1, answer: int = 0, first: bytes = b"ann", second: bytes = b"") -> bytes:
    """User identity (PS3.7 table D.3-14)."""
    value = bytes([kind, answer]) + struct.pack(">H", len(first)) + first + struct.pack(">H", len(second)) + second
    return item(0x58, value)


def extended(uid: bytes, information: bytes = b"\x02\x00\x00\x00\x01\x00") -> bytes:
    """SOP class extended negotiation (PS3.7 table D.3-11)."""
    return item(0x56, struct.pack(">H", len(uid)) + uid + information)


def common(uid: bytes, service: bytes = b"1.2.840.10008.4.2", related: bytes = b"") -> bytes:
    """SOP class common extended negotiation (PS3.7 table D.3-12)."""
    value = struct.pack(">H", len(uid)) + uid + struct.pack(">H", len(service)) + service
    return item(0x57, value + struct.pack(">H", len(related)) + related)


APP = item(0x10, APPLICATION)


def pdu(
    *items: bytes,
    called: bytes = b"EDGE            ",
    calling: bytes = b"CT1             ",
    version: int = 1,
    reserved: bytes = bytes(32),
    between: bytes = bytes(2),
    head: int = 0,
) -> bytes:
    body = struct.pack(">H", version) + between + called.ljust(16)[:16] + calling.ljust(16)[:16] + reserved
    body += b"".join(items)
    return struct.pack(">BBL", 1, head, len(body)) + body


def usual(*subs: bytes, **other: bytes | int) -> bytes:
    return pdu(APP, context(), user(*subs), **other)  # type: ignore[arg-type]


def with_user(information: bytes) -> bytes:
    return pdu(APP, context(), information)


def many_contexts(contexts: int, syntaxes: int, width: int = 0) -> bytes:
    """Each with its own set of made-up syntaxes behind implicit VR; `width`: the length of a syntax' UID."""

    def uid(n: int) -> bytes:
        found = b"1.2.840.10008.1.2.4.%d" % n
        return found + b".1" * ((width - len(found)) // 2) if width else found

    made = [uid(100 + n) for n in range(syntaxes - 1)]
    return pdu(APP, *(context(2 * n + 1, VERIFICATION, IMPLICIT, *made) for n in range(contexts)), user())


ACCEPTED: dict[str, bytes] = {
    "usual": usual(),
    # AE titles
    "called title padded with NUL": usual(called=b"EDGE" + bytes(12)),
    "calling title padded with NUL": usual(calling=b"CT1" + bytes(13)),
    "both titles padded with NUL": usual(called=b"EDGE" + bytes(12), calling=b"CT1" + bytes(13)),
    "a title with NUL, then blanks": usual(calling=b"CT1\0            "),
    "a title with blanks, then NUL": usual(calling=b"CT1     " + bytes(8)),
    "a title with rubbish behind NUL": usual(calling=b"CT1\0xyz\xff\x01abc     "),
    "leading blanks": usual(calling=b"    CT1         "),
    "called title with leading blanks": usual(called=b"   EDGE         "),
    "title of 16 characters": usual(calling=b"ABCDEFGHIJKLMNOP"),
    "blank called title": usual(called=b" " * 16),
    "called title of NUL alone": usual(called=bytes(16)),
    "blank calling title": usual(calling=b" " * 16),
    "calling title of NUL alone": usual(calling=bytes(16)),
    "title in lower case": usual(calling=b"ct1             "),
    "title with a backslash": usual(calling=b"CT\\1            "),
    "title with Latin-1": usual(calling=b"CT\xfc1           "),
    "title with UTF-8": usual(calling="CTü1".encode()),
    "title with control characters": usual(calling=b"CT\x011\x1b[2J"),
    "title with a tab": usual(calling=b"CT1\t"),
    # reserved bytes
    "reserved byte of the PDU": usual(head=0xFF),
    "reserved bytes behind the version": usual(between=b"\xff\xff"),
    "32 reserved bytes": usual(reserved=bytes(range(32))),
    "32 reserved bytes of FF": usual(reserved=b"\xff" * 32),
    "reserved byte of an item": pdu(item(0x10, APPLICATION, 0xFF), context(reserved=0xFF), user(reserved=0xFF)),
    "reserved byte of a sub-item": with_user(
        item(0x50, item(0x51, struct.pack(">L", 16384), 0xFF) + item(0x52, OUR_CLASS, 7))
    ),
    # protocol version
    "version bit 1 as well": usual(version=3),
    "all version bits": usual(version=0xFFFF),
    # application context
    "application context with NUL": pdu(item(0x10, APPLICATION + b"\0"), context(), user()),
    "application context twice": pdu(APP, APP, context(), user()),
    "application context last": pdu(context(), user(), APP),
    "application context with a blank": pdu(item(0x10, APPLICATION + b" "), context(), user()),
    "another application context": pdu(item(0x10, b"1.2.840.10008.3.1.1.2"), context(), user()),
    "application context of 64": pdu(item(0x10, b"1." + b"2" * 62), context(), user()),
    "application context of 200": pdu(item(0x10, b"1." + b"2" * 198), context(), user()),
    "empty application context": pdu(item(0x10, b""), context(), user()),
    "no application context": pdu(context(), user()),
    # the order of items, and unknown ones
    "user information first": pdu(user(), APP, context()),
    "user information between": pdu(APP, user(), context()),
    "contexts first": pdu(context(), context(3, CT), APP, user()),
    "contexts around user information": pdu(APP, context(), user(), context(3, CT)),
    "sub-items of user information in another order": with_user(item(0x50, item(0x52, OUR_CLASS) + max_length())),
    "transfer syntax before abstract syntax": pdu(
        APP, item(0x20, bytes([1, 0, 0, 0]) + item(0x40, IMPLICIT) + item(0x30, VERIFICATION)), user()
    ),
    "unknown item 60H first": pdu(item(0x60, b"abc"), APP, context(), user()),
    "unknown item 60H between": pdu(APP, item(0x60, b"abc"), context(), user()),
    "unknown item 60H last": pdu(APP, context(), user(), item(0x60, b"abc")),
    "unknown empty item": pdu(APP, context(), user(), item(0x60, b"")),
    "unknown item of type 00": pdu(APP, item(0x00, b"abcd"), context(), user()),
    "unknown item of type FF": pdu(APP, item(0xFF, b"abcd"), context(), user()),
    "unknown item of 4000 bytes": pdu(APP, item(0x61, bytes(4000)), context(), user()),
    "an answer's context item": pdu(APP, item(0x21, bytes([9, 0, 0, 0]) + item(0x40, IMPLICIT)), context(), user()),
    "unknown sub-item of a context": pdu(APP, context(extra=item(0x60, b"abc")), user()),
    "unknown sub-item before the abstract syntax": pdu(
        APP,
        item(0x20, bytes([1, 0, 0, 0]) + item(0x77, b"x") + item(0x30, VERIFICATION) + item(0x40, IMPLICIT)),
        user(),
    ),
    "unknown sub-item of user information": usual(item(0x60, b"abc")),
    "unknown sub-item 59H": usual(item(0x59, b"\0\x02ok")),
    "unknown sub-item, private": usual(item(0xF0, bytes(100))),
    "unknown sub-item first": with_user(item(0x50, item(0x60, b"abc") + max_length() + item(0x52, OUR_CLASS))),
    # presentation contexts
    "even context ID": pdu(APP, context(2), user()),
    "context ID 0": pdu(APP, context(0), user()),
    "context ID 255": pdu(APP, context(255), user()),
    "duplicate context ID": pdu(APP, context(1), context(1, CT), user()),
    "the same context twice": pdu(APP, context(1), context(1), user()),
    "descending context IDs": pdu(APP, context(5), context(3, CT), context(1, CT), user()),
    "odd and even context IDs": pdu(APP, *(context(n) for n in range(1, 129)), user()),
    "128 contexts": pdu(APP, *(context(2 * n + 1) for n in range(128)), user()),
    "no context": pdu(APP, user()),
    "context without a syntax": pdu(APP, context(), item(0x20, bytes([3, 0, 0, 0]) + item(0x30, CT)), user()),
    "context without an abstract syntax": pdu(
        APP, context(), item(0x20, bytes([3, 0, 0, 0]) + item(0x40, IMPLICIT)), user()
    ),
    "empty context": pdu(APP, context(), item(0x20, bytes([3, 0, 0, 0])), user()),
    "a syntax twice": pdu(APP, context(1, VERIFICATION, IMPLICIT, IMPLICIT), user()),
    "60 syntaxes": many_contexts(1, 60),
    "128 contexts with 45 syntaxes": many_contexts(128, 45),
    "128 contexts with 60 syntaxes of 64": many_contexts(128, 60, 64),
    # UIDs
    "abstract syntax with NUL": pdu(APP, context(1, VERIFICATION + b"\0"), user()),
    "abstract syntax with a blank": pdu(APP, context(1, VERIFICATION + b" "), user()),
    "abstract syntax with blanks and NUL": pdu(APP, context(1, VERIFICATION + b" \0 \0"), user()),
    "syntax with NUL": pdu(APP, context(1, VERIFICATION, IMPLICIT + b"\0"), user()),
    "syntax with a blank": pdu(APP, context(1, VERIFICATION, IMPLICIT + b" "), user()),
    "abstract syntax that is no UID": pdu(APP, context(), context(3, b"CT Image Storage"), user()),
    "abstract syntax with bytes beyond ASCII": pdu(APP, context(), context(3, b"1.2.\xfc\xff.3"), user()),
    "abstract syntax of 65": pdu(APP, context(), context(3, b"1." + b"2" * 63), user()),
    "abstract syntax of 300": pdu(APP, context(), context(3, b"1." + b"2" * 298), user()),
    "empty abstract syntax": pdu(APP, context(), context(3, b""), user()),
    "syntax that is no UID": pdu(APP, context(1, VERIFICATION, b"raw!", IMPLICIT), user()),
    "syntax of 100": pdu(APP, context(1, VERIFICATION, b"1." + b"3" * 98, IMPLICIT), user()),
    "empty syntax": pdu(APP, context(1, VERIFICATION, b"", IMPLICIT), user()),
    "UID with leading zeros": pdu(APP, context(), context(3, b"1.02.0840.001"), user()),
    "UID that ends in a dot": pdu(APP, context(), context(3, b"1.2.840."), user()),
    # maximum length
    "maximum length 0": with_user(user(max_pdu=max_length(0))),
    "maximum length 1": with_user(user(max_pdu=max_length(1))),
    "maximum length 12": with_user(user(max_pdu=max_length(12))),
    "maximum length 4097": with_user(user(max_pdu=max_length(4097))),
    "maximum length 2^31": with_user(user(max_pdu=max_length(1 << 31))),
    "maximum length 2^32-1": with_user(user(max_pdu=max_length(0xFFFFFFFF))),
    "maximum length twice": with_user(user(max_length(4096))),
    "no maximum length": with_user(user(max_pdu=b"")),
    # implementation
    "no implementation class": with_user(item(0x50, max_length())),
    "implementation class with NUL": with_user(item(0x50, max_length() + item(0x52, OUR_CLASS + b"\0"))),
    "implementation class that is no UID": with_user(item(0x50, max_length() + item(0x52, b"TOSHIBA"))),
    "empty implementation class": with_user(item(0x50, max_length() + item(0x52, b""))),
    "implementation class of 65": with_user(item(0x50, max_length() + item(0x52, b"1." + b"2" * 63))),
    "implementation version": usual(item(0x55, b"OFFIS_DCMTK_367")),
    "empty implementation version": usual(item(0x55, b"")),
    "implementation version of 17": usual(item(0x55, b"A" * 17)),
    "implementation version of 64": usual(item(0x55, b"A" * 64)),
    "implementation version of 300": usual(item(0x55, b"A" * 300)),
    "implementation version beyond ASCII": usual(item(0x55, b"\xdcBERSCHALL \xff")),
    "implementation version with NUL": usual(item(0x55, b"V1\0\0")),
    "implementation version with control characters": usual(item(0x55, b"V1\r\n\x1b[0m")),
    # the rest of user information
    "asynchronous operations": usual(item(0x53, struct.pack(">HH", 8, 8))),
    "asynchronous operations without limit": usual(item(0x53, bytes(4))),
    "extended negotiation": usual(extended(CT)),
    "extended negotiation of a class that is not proposed": usual(extended(FIND, b"\x01\x01\x01")),
    "extended negotiation without information": usual(extended(CT, b"")),
    "common extended negotiation": usual(common(CT)),
    "common extended negotiation with related classes": usual(common(CT, related=struct.pack(">H", len(CT)) + CT)),
    "role of a proposed class": usual(role(VERIFICATION, 1, 0)),
    "both roles": usual(role(VERIFICATION, 1, 1)),
    "no role": usual(role(VERIFICATION, 0, 0)),
    "role of a class that is not proposed": usual(role(CT, 1, 0)),
    "role with odd values": usual(role(VERIFICATION, 255, 7)),
    "a role twice": usual(role(VERIFICATION, 1, 0), role(VERIFICATION, 0, 1)),
    "role of a UID with NUL": usual(role(VERIFICATION + b"\0", 1, 0)),
    "role of an empty UID": usual(role(b"", 1, 0)),
    "user identity": usual(identity()),
    "user identity with a passcode": usual(identity(2, 0, b"ann", b"secret")),
    "user identity that wants an answer": usual(identity(1, 1)),
    "user identity, Kerberos": usual(identity(3, 0, bytes(500))),
    "user identity, SAML": usual(identity(4, 1, b"<saml/>" * 100)),
    "user identity, JWT": usual(identity(5, 0, b"a.b.c")),
    "user identity of an unknown type": usual(identity(99)),
    "empty user identity": usual(identity(1, 0, b"")),
    "no user information": pdu(APP, context()),
    "empty user information": with_user(item(0x50, b"")),
    "user information twice": pdu(APP, context(), user(), user()),
    # lengths that lie
    "max length of 2 bytes": with_user(item(0x50, item(0x51, b"\x40\0") + item(0x52, OUR_CLASS))),
    "max length of 8 bytes": with_user(item(0x50, item(0x51, struct.pack(">LL", 16384, 0)) + item(0x52, OUR_CLASS))),
    "async of 2 bytes": usual(item(0x53, b"\0\x08")),
    "role that is cut": usual(item(0x54, struct.pack(">H", 100) + CT)),
    "identity that is cut": usual(item(0x58, b"\x01\0\0\x40ann")),
    "extended that is cut": usual(item(0x56, struct.pack(">H", 100) + CT)),
    "common that is cut": usual(item(0x57, struct.pack(">H", 100) + CT)),
    "three bytes behind the last item": pdu(APP, context(), user(), b"\0\0\0"),
    "only the fixed part": pdu(),
}

REFUSED: dict[str, bytes] = {
    "last item too long": pdu(APP, context(), user(), item(0x60, b"abc", length=100)),
    "user information too long": pdu(APP, context(), item(0x50, max_length() + item(0x52, OUR_CLASS), length=200)),
    "last user sub-item too long": usual(item(0x55, b"abc", length=100)),
    "context too long": pdu(APP, item(0x20, context()[4:], length=4000), user()),
    "context sub-item too long": pdu(
        APP, item(0x20, bytes([1, 0, 0, 0]) + item(0x30, VERIFICATION) + item(0x40, IMPLICIT, length=400)), user()
    ),
    "version bit 0 missing": usual(version=2),
    "version 0": usual(version=0),
    "fixed part cut": struct.pack(">BBL", 1, 0, 60) + pdu()[6:66],
    "no bytes": struct.pack(">BBL", 1, 0, 0),
}


def largest() -> bytes:
    """The largest legal request: 128 contexts, and user information, each as long as its length field allows."""

    def full(number: int) -> bytes:
        found = context(number)
        one = item(0x40, b"1.2.840.10008.1.2.4." + b"1." * 21 + b"50")
        room = 0xFFFF - (len(found) - 4)
        return item(0x20, found[4:] + one * (room // len(one)))

    return pdu(APP, *(full(2 * n + 1) for n in range(128)), user(*[item(0x60, bytes(4000))] * 16))


def ask(port: int, request: bytes, seconds: float = 10.0) -> bytes:
    """What a peer answers; empty where it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        try:
            sock.sendall(request)
            answer = b""
            while len(answer) < 6 or len(answer) < 6 + int.from_bytes(answer[2:6], "big"):
                piece = sock.recv(65_536)
                if not piece:
                    break
                answer += piece
            return answer
        except (ConnectionResetError, BrokenPipeError):
            return b"reset"
        except TimeoutError:
            return b"silent"
