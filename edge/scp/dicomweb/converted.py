"""Objects in another transfer syntax: copies that the daemon makes, each gone once it was sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from edge.scp.dicomweb.exchange import FilePart
from edge.scp.dicomweb.media_types import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.gateway_link import GatewayLink
from edge.scp.requested_copy import RequestedCopy
from edge.store.held import HeldInstance
from edge.transform import possible

#: Copies that are made while one is sent: as many as the daemon makes at a time.
LOOK_AHEAD = 2


class ConvertedCopies:
    """See the module's docstring. Thread-safe."""

    def __init__(self, link: GatewayLink) -> None:
        self._link = link

    @contextmanager
    def open_copy(self, instance: HeldInstance, syntax: str) -> Iterator[FilePart]:
        """The data set in another transfer syntax, for as long as this is open. Raises HttpError."""
        with RequestedCopy(self._link, instance.path, syntax) as copy:
            yield _await(copy, syntax)

    def open_in_order(self, wanted: Sequence[tuple[HeldInstance, str]]) -> Generator[FilePart, None, None]:
        """The data sets, each in the transfer syntax beside it, until the next one is asked for. Raises HttpError."""
        left, requested = iter(wanted), deque[tuple[RequestedCopy, str]]()
        try:
            while True:
                for instance, syntax in islice(left, LOOK_AHEAD + 1 - len(requested)):
                    requested.append((RequestedCopy(self._link, instance.path, syntax), syntax))
                if not requested:
                    return
                yield _await(*requested[0])
                requested.popleft()[0].drop()
        finally:
            for copy, _ in requested:
                copy.drop()


def _await(requested: RequestedCopy, syntax: str) -> FilePart:
    copy = requested.wait()
    if copy is None:
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "A conversion takes too long.", {"Retry-After": "30"})
    if not copy.path:
        text = f"An object cannot be converted to {syntax}; the gateway's log says why."
        raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)
    return FilePart(Path(copy.path), copy.dataset_offset, copy.size - copy.dataset_offset)


def choose_syntaxes(accepted: Sequence[MediaType], kept: set[str]) -> Mapping[str, str] | None:
    """Choose the transfer syntax for each object, by the one in which it is kept; None: one cannot be sent at all.

    `accepted`: ranges that allow objects, the most wanted first; of several that are wanted alike, the kept one. A
    range without a transfer syntax allows all, so that objects go bit for bit (PS3.18 section 8.7.3.5.2 would have
    Explicit VR Little Endian).
    """
    chosen: dict[str, str] = {}
    for syntax in kept:
        ways = [(-each.q, wanted != syntax, at, wanted) for at, each, wanted in _targets(accepted, syntax)]
        if not ways:
            return None
        chosen[syntax] = min(ways)[3]
    return chosen


def _targets(accepted: Sequence[MediaType], syntax: str) -> Iterator[tuple[int, MediaType, str]]:
    """Where each range allows an object to go."""
    for at, each in enumerate(accepted):
        wanted = each.parameters.get("transfer-syntax", "*")
        if wanted in ("*", syntax):
            yield at, each, syntax
        elif possible(syntax, wanted) is None:
            yield at, each, wanted
