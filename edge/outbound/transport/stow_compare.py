"""The comparison of a server's object under a UID with the one that it was sent, by WADO-RS (PS3.18 section 10.4)."""

from __future__ import annotations

import hashlib

from edge.dicom import header
from edge.errors import PeerError
from edge.network.web_service import WebConnection
from edge.outbound.job import Job
from edge.query.web_exchange import ANY_OBJECT, WebObject

_SERIES_INSTANCE_UID = 0x0020000E


def has_same_bytes(connection: WebConnection, fd: int, offset: int, job: Job) -> bool:
    """Compare their data set, as it comes, with that which is sent: a copy, where it is one; by digest.

    `fd`, `offset`: of what is sent. Raises PeerError, and Unreadable for ours.
    """
    left, digest = job.data_set_bytes, hashlib.sha256()
    wanted = frozenset({_SERIES_INSTANCE_UID})
    found = header.scan(header.read_at(fd, offset), left, job.transfer_syntax_uid, wanted)
    series = "".join(found.get(_SERIES_INSTANCE_UID, ())[:1])
    path = f"/studies/{job.study_uid}/series/{series}/instances/{job.sop_instance_uid}"

    def take(pieces: list[memoryview]) -> None:
        nonlocal left
        for piece in pieces:
            digest.update(piece)
            left -= len(piece)
        if left < 0:
            raise _Longer

    answer = connection.open(path, ANY_OBJECT)
    try:
        if answer.status != 200:
            raise PeerError(f"it answers {answer.phrase}")
        WebObject(answer).read_into(take)
    except _Longer:
        return False
    finally:
        answer.close()
    return digest.digest() == job.sha256


class _Longer(Exception):
    """The end of a comparison: the server has a longer object, and the rest of it says nothing."""
