"""The comparison of a server's object under a UID with the one that it was sent, by WADO-RS (PS3.18 section 10.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from edge.dicom import header
from edge.dicom.part10 import parse_meta
from edge.errors import PeerError
from edge.model import Lease
from edge.network.http_client import HttpResult
from edge.network.multipart import find_boundary

_SERIES_INSTANCE_UID = 0x0020000E
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
#: Longer than the object: headers of the part, preamble and File Meta Information.
_AROUND = 1 << 20

Get = Callable[[str, str, int], HttpResult]


def has_same_bytes(get: Get, fd: int, offset: int, lease: Lease) -> bool:
    """Compare the data sets, byte by byte. Raises PeerError, and Unreadable for what is no DICOM file."""
    count = lease.size - offset
    found = header.scan(
        header.read_at(fd, offset),
        count,
        lease.context_key.transfer_syntax_uid,
        frozenset({_SERIES_INSTANCE_UID}),
    )
    series = "".join(found.get(_SERIES_INSTANCE_UID, ())[:1])
    path = f"/studies/{lease.study_uid}/series/{series}/instances/{lease.sop_instance_uid}"
    answer = get(path, _ACCEPT, count + _AROUND)
    if answer.status != 200:
        raise PeerError(f"it answers {answer.phrase}")
    data = _single_part(answer)
    theirs = data[parse_meta(data[:_AROUND]).dataset_offset :]
    return len(theirs) == count and hashlib.sha256(theirs).digest() == lease.sha256


def _single_part(answer: HttpResult) -> bytes:
    """The file, whether it comes alone or as the one part of a multipart body."""
    boundary = find_boundary(answer.headers.get("content-type", ""))
    if not boundary:
        return answer.body
    delimiter = b"--" + boundary.encode("ascii")
    begin = answer.body.find(delimiter)
    start, end = answer.body.find(b"\r\n\r\n", begin) + 4, answer.body.rfind(b"\r\n" + delimiter)
    return answer.body[start:end] if 0 <= begin < start < end else b""
