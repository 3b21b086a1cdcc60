"""Fetches of the daemon itself, through the journal as what doors receive: one record, one flush."""

from __future__ import annotations

from collections.abc import Callable

from edge.journal.door import JournalDoor
from edge.model import ContextKey, Origin
from edge.scp.recorder import Recorder

#: Receive buffers: one object at a time, and one that apply still has.
FETCH_SLOTS = 2


class FetchedObjects:
    """The daemon's own door of the journal. One thread at a time."""

    def __init__(self, door: JournalDoor, recorder: Recorder) -> None:
        self._door, self.recorder = door, recorder

    def store(
        self,
        context_key: ContextKey,
        sop_instance_uid: str,
        origin: Origin,
        read_into: Callable[[Callable[[list[memoryview]], None]], None],
    ) -> int:
        """Receive an object and record it. Returns the C-STORE status. Raises Hindered or StorageUnhealthy.

        `read_into` hands its data set to a sink.
        """
        recording = self.recorder.begin(context_key, sop_instance_uid, origin)
        return self.recorder.receive(recording, context_key, sop_instance_uid, origin, read_into).status

    def close(self) -> None:
        """Close its segments in order."""
        self._door.close()
