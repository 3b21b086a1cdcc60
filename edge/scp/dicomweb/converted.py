"""Copies of objects in another transfer syntax, made by the daemon's transcoder; each is gone once it was sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from edge.scp.dicomweb.exchange import FilePart
from edge.scp.dicomweb.media import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.remote_link import RemoteLink
from edge.store.held import HeldInstance
from edge.transform import possible

#: For one conversion, and between two questions whether it is done.
_MOST_SECONDS, _PAUSE_SECONDS = 300.0, 0.01


class ConvertedCopies:
    """See the module's docstring. Thread-safe."""

    def __init__(self, link: RemoteLink) -> None:
        self._link = link

    @contextmanager
    def open_copy(self, instance: HeldInstance, syntax: str) -> Iterator[FilePart]:
        """The data set in another transfer syntax, for as long as this is open. Raises HttpError."""
        token = self._link.start_copy(instance.path, syntax)
        try:
            yield self._await(token, syntax)
        finally:
            self._link.drop_copy(token)

    def _await(self, token: int, syntax: str) -> FilePart:
        end = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < end:
            copy = self._link.find_copy(token)
            if copy is not None and not copy.path:
                text = f"An object cannot be converted to {syntax}; the gateway's log says why."
                raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)
            if copy is not None:
                return FilePart(Path(copy.path), copy.dataset_offset, copy.size - copy.dataset_offset)
            time.sleep(_PAUSE_SECONDS)
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "A conversion takes too long.", {"Retry-After": "30"})


def choose_syntaxes(accepted: Sequence[MediaType], kept: set[str]) -> Mapping[str, str] | None:
    """In which transfer syntax each object goes, by the one in which it is kept; None: one cannot go at all.

    `accepted`: ranges that allow objects, the dearest first; where several are equally dear, as it is kept. Without a
    transfer syntax a range allows all, so that objects go bit for bit (PS3.18 section 8.7.3.5.2 would have Explicit VR
    Little Endian).
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
