"""The ways by which an archive gives objects back, in the order in which they are used (edge.query.fetching).

C-GET and C-MOVE are negotiated; WADO-RS, and C-MOVE to ourselves, are asked for an instance that nobody has: many an
archive that does not know us says so before it searches. What one refuses only when objects really go is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.config.sections import Config, Destination
from edge.dicom.failures import ServiceRefused
from edge.dicom.part10 import EDGE_UID
from edge.dicom.scu import Association
from edge.errors import EdgeError
from edge.network import tls
from edge.query.fetching import GET_CONTEXT, MOVE_CONTEXT, MoveFetcher
from edge.query.located import Located
from edge.query.web_exchange import WebExchange

#: A UID that no object has: below our own root (PS3.5 section 9.1).
NOBODYS_UID = f"{EDGE_UID}.0"
_NOBODYS = Located(NOBODYS_UID, "", "", study_uid=NOBODYS_UID, series_uid=NOBODYS_UID)
_MOVE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class RetrievalWay:
    """`obstacle`: why nothing would come by it as things are; empty: none is known."""

    name: str
    obstacle: str = ""


def find_retrieval_ways(config: Config, destination: Destination) -> tuple[RetrievalWay, ...]:
    """Ask an archive that can be reached. One that fails offers none."""
    try:
        return _ask_web(destination) if destination.is_web else _negotiate(config, destination)
    except EdgeError:
        return ()


def _ask_web(destination: Destination) -> tuple[RetrievalWay, ...]:
    exchange = WebExchange(destination)
    try:
        if (found := exchange.open_object(_NOBODYS)) is not None:
            found.close()
    finally:
        exchange.close()
    return (RetrievalWay("WADO-RS"),)


def _negotiate(config: Config, destination: Destination) -> tuple[RetrievalWay, ...]:
    ours, where = config.listen.ae_title, (destination.host, destination.port)
    secure = tls.secure(config, destination)
    association = Association.open(*where, ours, destination.ae_title, [GET_CONTEXT, MOVE_CONTEXT], secure=secure)
    ways = [RetrievalWay("C-GET")] if GET_CONTEXT.id in association.accepted else []
    try:
        if MOVE_CONTEXT.id in association.accepted:
            mover = MoveFetcher(association, destination.name, ours, _MOVE_SECONDS)
            ways.append(RetrievalWay("C-MOVE", _try_move(mover)))
        association.release()
    except EdgeError:
        association.kill()
    return tuple(ways)


def _try_move(mover: MoveFetcher) -> str:
    """Why nothing would come: it does not know us as a destination."""
    try:
        mover.fetch([_NOBODYS], lambda *_: 0)
    except ServiceRefused as error:
        return str(error)
    return ""
