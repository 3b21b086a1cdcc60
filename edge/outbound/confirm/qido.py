"""QIDO-RS (PS3.18 section 10.6) as proof: does the archive find what it was sent? In place of a C-FIND."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from edge.config.sections import Destination
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.errors import PeerError
from edge.network.http_client import HttpResult
from edge.outbound.transport.stow import WebDestination, WebSession

_SOP_INSTANCE_UID = "00080018"
#: Instances in one answer; where it holds as many, the next ones are asked for.
PAGE = 1000
MOST_PAGES = 100
_MOST_BYTES = 32 << 20
_JSON = "application/dicom+json"
#: What says that asking again soon is of no use.
_LASTING = frozenset({401, 403, 404, 405, 406, 410, 501})


class QidoQuery:
    """One connection to an archive that is asked which instances it has."""

    def __init__(self, session: WebSession) -> None:
        self._session = session

    def has(self, uids: Collection[str], study_uid: str, series_uid: str, *, one_by_one: bool) -> set[str]:
        """Find the instances that the archive has in their series. Raises EdgeError."""
        where = f"/studies/{study_uid}/series/{series_uid}/instances"
        if one_by_one:
            asked = (self._find(f"{where}?SOPInstanceUID={uid}") for uid in uids)
            return {uid for found in asked for uid in found} & set(uids)
        found: set[str] = set()
        for page in range(MOST_PAGES):
            more = self._find(f"{where}?limit={PAGE}&offset={page * PAGE}")
            if not more - found:
                break
            found |= more
            if len(more) < PAGE:
                break
        return found & set(uids)

    def _find(self, path: str) -> set[str]:
        answer = self._session.get(path, _JSON, _MOST_BYTES)
        if answer.status in (204, 404):
            return set()  # nothing is found; a series that is not there is 404 at some servers
        if answer.status != 200:
            raise _failure(answer)
        try:
            found = json.loads(answer.body or b"[]")
            return {_uid(each) for each in found}
        except (RecursionError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise PeerError("an answer to QIDO-RS that cannot be read") from None


def _uid(data_set: Any) -> str:
    return str(data_set[_SOP_INSTANCE_UID]["Value"][0])


def _failure(answer: HttpResult) -> Exception:
    text = f"QIDO-RS failed: it answers {answer.phrase}"
    return ServiceRefused(text) if answer.status in _LASTING else RequestFailed(text, answer.status)


@contextmanager
def open_qido(destination: Destination) -> Iterator[QidoQuery]:
    """Raises PeerError."""
    session = WebSession(WebDestination(destination))
    try:
        yield QidoQuery(session)
    finally:
        session.close()
