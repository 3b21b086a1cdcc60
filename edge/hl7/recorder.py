"""Frames become records of the journal. When `record` returns, the frame may be answered AA."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.errors import Cause, StorageUnhealthy, hindrance
from edge.journal.body_file import BodyFile
from edge.journal.door import JournalDoor
from edge.journal.kinds import hl7_frame
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.journal.writer import Draft

#: A frame waits this long for a receive buffer, and for a segment: others wait meanwhile, for all have one order.
SLOT_WAIT_SECONDS = 2.0
#: Frames are not taken while the oldest record has waited this long.
FRAME_LAG_SECONDS = 60.0


class FrameRecorder:
    """One writer for all connections, so that records have the order of arrival, also after a crash."""

    def __init__(self, journal: JournalDoor, check_room: Callable[[], None], fail: Callable[[str], None]) -> None:
        """`check_room` raises StorageFull. `fail` takes the reason when nothing can be written any more."""
        self._journal, self._check_room, self._fail = journal, check_room, fail
        journal.claims.patience = SLOT_WAIT_SECONDS

    def record(self, data: bytes, frame: Hl7Frame) -> None:
        """Make a frame durable. Raises Hindered, StorageUnhealthy or MemoryError: then it may not be answered."""
        self._refuse_late()
        try:
            self._append(data, Draft(hl7_frame.CODE, hl7_frame.encode(frame)))
        except StorageUnhealthy as error:
            self._fail(str(error))
            raise

    def _refuse_late(self) -> None:
        if self._journal.has_failed:
            raise StorageUnhealthy("a write has failed: nothing more is accepted until a restart")
        self._check_room()
        since = self._journal.waiting_since
        if since is not None and time.monotonic() - since > FRAME_LAG_SECONDS:
            cause = self._journal.cause or Cause.BUSY
            raise hindrance.error_for(cause, f"what came {FRAME_LAG_SECONDS:.0f} s ago is not stored away yet")

    def _append(self, data: bytes, draft: Draft) -> None:
        slot = self._journal.take_slot(SLOT_WAIT_SECONDS)
        file: BodyFile | None = None
        is_given = False
        try:
            used = len(data) if len(data) <= len(slot.body) else 0
            slot.body[:used] = data[:used]
            if len(data) > used:
                file = BodyFile(self._journal.folder, b"", self._journal.plan.pool)
                file.write(memoryview(data))
                file.seal()
            writer = self._journal.writers.take()
            try:
                writer.append(slot, used, draft, file)
                is_given = True
            finally:
                self._journal.writers.give_back(writer)
        finally:
            if not is_given:
                self._journal.slots.give_back(slot.number)
                if file is not None:
                    file.discard()
