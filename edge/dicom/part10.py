"""The file that the spool keeps: DICOM Part 10 (PS3.10 section 7.1), the data set exactly as it came.

The preamble is always zero. The File Meta Information carries, as private information under our own UID, who sent the
object and when, so that a lost catalog can be rebuilt from the files alone.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache

from edge import __version__
from edge.errors import Unreadable
from edge.model import ContextKey, Origin, Priority

#: Our Private Information Creator UID (0002,0100); also the root of the implementation class UID.
PRIVATE_CREATOR = "2.25.190146791043182537444806132342625375407"
IMPLEMENTATION_CLASS_UID = PRIVATE_CREATOR
#: Extended negotiation under this UID says that the peer is an Edge, and of which site.
EDGE_UID = PRIVATE_CREATOR
IMPLEMENTATION_VERSION = f"EDGE_{__version__}"[:16]
MAX_META = 65_536

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2s2xL")
_LONG_VRS = frozenset({b"OB", b"UN", b"UT", b"UC", b"UR", b"OW", b"SQ"})


@dataclass(frozen=True, slots=True)
class Meta:
    """The File Meta Information of a spooled file; `origin` is None in a file that is not ours."""

    context_key: ContextKey
    sop_instance_uid: str
    origin: Origin | None
    dataset_offset: int
    version: str  # the implementation version name of what wrote it


def _uid(element: int, value: str) -> bytes:
    raw = value.encode("ascii")
    raw += b"\0" * (len(raw) & 1)
    return _SHORT.pack(2, element, b"UI", len(raw)) + raw


def _text(element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    raw += b" " * (len(raw) & 1)
    return _SHORT.pack(2, element, vr, len(raw)) + raw


def _bytes(element: int, raw: bytes) -> bytes:
    raw += b" " * (len(raw) & 1)
    return _LONG.pack(2, element, b"OB", len(raw)) + raw


_PREAMBLE = bytes(128) + b"DICM"
_VERSION = _bytes(0x0001, b"\0\1")
_CREATOR = _uid(0x0100, PRIVATE_CREATOR)


@lru_cache(maxsize=64)
def _constant(
    context_key: ContextKey, calling_ae: str, called_ae: str, address: str, version: str
) -> tuple[bytes, bytes, str]:
    """What the objects of one kind and association share: before the SOP Instance UID, behind it, and who sent it."""
    before = _VERSION + _uid(0x0002, context_key.sop_class_uid)
    implementation = _uid(0x0012, IMPLEMENTATION_CLASS_UID) + _text(0x0013, b"SH", version)
    titles = _text(0x0016, b"AE", calling_ae) + _text(0x0018, b"AE", called_ae)
    behind = _uid(0x0010, context_key.transfer_syntax_uid) + implementation + titles + _CREATOR
    return before, behind, json.dumps({"calling": calling_ae, "called": called_ae, "address": address})[:-1]


def preamble_and_meta(
    context_key: ContextKey, sop_instance_uid: str, origin: Origin, version: str = IMPLEMENTATION_VERSION
) -> bytes:
    """Everything before the data set; its length is the data set's offset. `version`: of the Edge that wrote it."""
    before, behind, sender = _constant(context_key, origin.calling_ae, origin.called_ae, origin.address, version)
    fetched = f', "fetched_from": {json.dumps(origin.fetched_from)}' if origin.fetched_from else ""
    fetched += f', "passed": {json.dumps(origin.passed)}, "priority": {origin.priority:d}' if origin.passed else ""
    sent_by = _bytes(0x0102, f'{sender}, "received_at": {origin.received_at!r}{fetched}}}'.encode())
    body = b"".join((before, _uid(0x0003, sop_instance_uid), behind, sent_by))
    return b"".join((_PREAMBLE, _SHORT.pack(2, 0, b"UL", 4), struct.pack("<L", len(body)), body))


def plain_head(context_key: ContextKey, sop_instance_uid: str) -> bytes:
    """Everything before the data set of a copy that leaves: nothing in it says where it came from."""
    before, implementation = _VERSION + _uid(0x0002, context_key.sop_class_uid), _uid(0x0012, IMPLEMENTATION_CLASS_UID)
    version = _text(0x0013, b"SH", IMPLEMENTATION_VERSION)
    body = b"".join(
        (before, _uid(0x0003, sop_instance_uid), _uid(0x0010, context_key.transfer_syntax_uid), implementation, version)
    )
    return b"".join((_PREAMBLE, _SHORT.pack(2, 0, b"UL", 4), struct.pack("<L", len(body)), body))


def parse_meta(head: bytes) -> Meta:
    """Read the File Meta Information at the start of a Part 10 file; Unreadable when it is none."""
    if head[128:132] != b"DICM" or len(head) < 144:
        raise Unreadable("not a DICOM Part 10 file: no DICM prefix at byte 128")
    elements: dict[int, bytes] = {}
    at = 132
    while at + 8 <= len(head):
        group, element, vr, length = _SHORT.unpack_from(head, at)
        if group != 2:
            break
        at += 8
        if vr in _LONG_VRS:
            if at + 4 > len(head):
                raise Unreadable("the File Meta Information ends inside an element")
            (length,) = struct.unpack_from("<L", head, at)
            at += 4
        if length > len(head) - at:
            raise Unreadable(f"element (0002,{element:04X}) is longer than the File Meta Information may be")
        elements[element] = head[at : at + length]
        at += length
    context_key = ContextKey(_read(elements, 0x0002), _read(elements, 0x0010))
    return Meta(context_key, _read(elements, 0x0003), _origin(elements), at, _read(elements, 0x0013))


def _read(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").strip("\0 ")


def _origin(elements: dict[int, bytes]) -> Origin | None:
    if _read(elements, 0x0100) != PRIVATE_CREATOR:
        return None
    try:
        fields = json.loads(elements[0x0102])
        sender, received_at = (fields["calling"], fields["called"], fields["address"]), float(fields["received_at"])
        passed, priority = str(fields.get("passed", "")), Priority(fields.get("priority", Priority.ROUTINE))
        return Origin(*sender, received_at, str(fields.get("fetched_from", "")), passed, priority)
    except (KeyError, ValueError, TypeError):
        return None
