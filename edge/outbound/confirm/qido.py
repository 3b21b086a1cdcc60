"""QIDO-RS (PS3.18 section 10.6) as proof: does the archive find what it was sent? In place of a C-FIND."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from edge.config.sections import Destination
from edge.outbound.transport.stow import WebDestination, WebSession
from edge.query.web_exchange import QIDO_PAGE, find_page

_SOP_INSTANCE_UID = "00080018"
MOST_PAGES = 100


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
            more = self._find(f"{where}?limit={QIDO_PAGE}&offset={page * QIDO_PAGE}")
            if not more - found:
                break
            found |= more
            if len(more) < QIDO_PAGE:
                break
        return found & set(uids)

    def _find(self, path: str) -> set[str]:
        return set(find_page(self._session, path, _uid))


def _uid(data_set: Any) -> str:
    return str(data_set[_SOP_INSTANCE_UID]["Value"][0])


@contextmanager
def open_qido(destination: Destination) -> Iterator[QidoQuery]:
    """Raises PeerError."""
    session = WebSession(WebDestination(destination))
    try:
        yield QidoQuery(session)
    finally:
        session.close()
