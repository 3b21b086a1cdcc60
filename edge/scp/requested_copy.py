"""Copies of objects of the spool that the daemon makes for a retrieval: no program is started from a door."""

from __future__ import annotations

import time
from types import TracebackType

from edge.scp.gateway_link import GatewayLink, MadeCopy

#: For one copy, and between two questions whether it is made: at first, and at most.
COPY_SECONDS, _SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 300.0, 0.001, 0.02


class RequestedCopy:
    """A copy that is made meanwhile. A context manager, or `drop`: then its file may go."""

    def __init__(self, link: GatewayLink, path: str, transfer_syntax_uid: str, destination: str = "") -> None:
        """Request a copy of the object at a path of the spool; as `destination` gets it, where one is named."""
        self._link, self._token = link, link.start_copy(path, transfer_syntax_uid, destination)

    def wait(self) -> MadeCopy | None:
        """The copy, without a path where it cannot be made; None: that takes too long."""
        end, pause = time.monotonic() + COPY_SECONDS, _SHORTEST_PAUSE_SECONDS
        while time.monotonic() < end:
            if (copy := self._link.find_copy(self._token)) is not None:
                return copy
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return None

    def drop(self) -> None:
        self._link.drop_copy(self._token)

    def __enter__(self) -> RequestedCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
