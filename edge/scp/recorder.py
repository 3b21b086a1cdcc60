"""What a door does with an object: receive it into the journal, and say what to answer.

Promise: success is returned only when the object's record is on stable storage (edge.journal): the header is read
in the receive buffer, then one flush, then the answer. Everything else comes behind it (edge.apply).

What fails leaves nothing behind but the reason: no room, a shortage, a journal that is full or far behind, and a broken
disk answer 0xA700 (try again later); a header that cannot be read or trusted answers 0xC000, and the object is kept in
quarantine for a person, as far as its sender's share of it goes (edge.store.quarantine).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.dicom.command import SUCCESS
from edge.dicom.header import HeaderSearch, read_header
from edge.dicom.part10 import preamble_and_meta
from edge.errors import Cause, Hindered, StorageUnhealthy, Unreadable, hindrance
from edge.journal.body_file import BodyFile
from edge.journal.door import JournalDoor
from edge.journal.kinds import instance
from edge.journal.kinds.instance import RecordedInstance
from edge.journal.record import HeadTooLong
from edge.journal.slots import Slot
from edge.journal.writer import Draft
from edge.model import ContextKey, InstanceHeader, Origin
from edge.room import ROOM_EVERY
from edge.scp.response import CANNOT_UNDERSTAND, MAX_COMMENT, StoreResponse, answer_for

#: A sender waits this long for a receive buffer before it is refused.
BUFFER_WAIT_SECONDS = 10.0
#: Objects are refused while the oldest record has waited this long.
MOST_LAG_SECONDS = 60.0


class Recording:
    """An object that is being received: into a buffer, and what is longer into a file."""

    def __init__(self, journal: JournalDoor, prefix: bytes, check_room: Callable[[], None]) -> None:
        self._journal, self.prefix, self._check_room = journal, prefix, check_room
        self._slot: Slot | None = journal.slots.take(BUFFER_WAIT_SECONDS)
        self._used = 0  # of the slot
        self._file: BodyFile | None = None  # once the slot was full
        self._room_at = 0
        self.size = 0  # of the data set

    def write(self, views: list[memoryview]) -> None:
        """Append fragments. Raises Hindered or StorageUnhealthy; then nothing is left of the recording."""
        try:
            for view in views:
                while view:
                    slot = self._slot
                    assert slot is not None
                    count = min(len(view), len(slot.body) - self._used)
                    slot.body[self._used : self._used + count] = view[:count]
                    self._used, self.size, view = self._used + count, self.size + count, view[count:]
                    if view:
                        self._spill(slot)
        except BaseException:
            self.discard()
            raise

    def _spill(self, slot: Slot) -> BodyFile:
        if self.size >= self._room_at:
            self._check_room()
            self._room_at = self.size + ROOM_EVERY
        if self._file is None:
            self._file = BodyFile(self._journal.folder, self.prefix, self._journal.plan.pool)
        self._file.write(slot.body[: self._used])
        self._used = 0
        return self._file

    def read_bytes(self, offset: int, count: int) -> bytes:
        """Bytes of the data set that have been received."""
        slot, file = self._slot, self._file
        assert slot is not None
        found = file.read(offset, count) if file is not None and offset < file.length else b""
        at = offset + len(found) - (file.length if file is not None else 0)
        return found + slot.body[at : min(at + count - len(found), self._used)]

    def append(self, draft: Draft) -> None:
        """Make the object durable: when this returns, it may be answered. The recording is used up."""
        slot, file = self._slot, self._file
        assert slot is not None
        if file is not None:
            self._spill(slot)
            file.seal()
        writer = self._journal.writers.take()
        try:
            writer.append(slot, self._used, draft, file)
            self._slot = None  # the slot is apply's
        finally:
            self._journal.writers.give_back(writer)

    def discard(self) -> None:
        """Forget what was received."""
        if self._file is not None:
            self._file.discard()
        if self._slot is not None:
            self._journal.slots.give_back(self._slot.number)
            self._slot = None


class Recorder:
    """See the module's promise. Thread-safe: every association calls it from its own thread."""

    def __init__(
        self,
        journal: JournalDoor,
        search: HeaderSearch,
        check_room: Callable[[], None],
        keeps_unreadable: Callable[[Origin, int], bool],
        fail: Callable[[str], None],
    ) -> None:
        """`check_room` raises StorageFull. `keeps_unreadable` takes of its sender's share of quarantine.

        `fail` is called with the reason when nothing can be written any more. `search` may be replaced at any time.
        """
        self._journal, self.search, self._check_room = journal, search, check_room
        self._keeps_unreadable, self._fail = keeps_unreadable, fail

    def begin(self, kind: ContextKey, sop_instance_uid: str, origin: Origin) -> Recording:
        """Get ready for an object that is about to arrive. Raises Hindered or StorageUnhealthy."""
        if self._journal.has_failed:
            raise StorageUnhealthy("a write has failed: nothing more is accepted until a restart")
        since = self._journal.waiting_since
        if since is not None and time.monotonic() - since > MOST_LAG_SECONDS:
            cause = self._journal.cause or Cause.BUSY
            raise hindrance.error_for(cause, f"what came {MOST_LAG_SECONDS:.0f} s ago is not stored away yet")
        return Recording(self._journal, preamble_and_meta(kind, sop_instance_uid, origin), self._check_room)

    def record(self, recording: Recording, kind: int, facts: bytes) -> None:
        """Make a received message durable: when this returns, it may be answered. The recording is used up.

        `kind`: its code in edge.journal.kinds. Raises Hindered, StorageUnhealthy or MemoryError.
        """
        try:
            recording.append(Draft(kind, facts, recording.prefix))
        except StorageUnhealthy as error:
            self._fail(str(error))
            raise
        finally:
            recording.discard()

    def accept(self, recording: Recording, kind: ContextKey, sop_instance_uid: str, origin: Origin) -> StoreResponse:
        """Make a received object ours, durably, and say what to answer. The recording is used up."""
        try:
            return self._accept(recording, kind, sop_instance_uid, origin)
        except (Hindered, MemoryError) as error:
            return answer_for(error)
        except StorageUnhealthy as error:
            self._fail(str(error))
            return answer_for(error)
        finally:
            recording.discard()

    def _accept(self, recording: Recording, kind: ContextKey, uid: str, origin: Origin) -> StoreResponse:
        search = self.search
        size, reason = recording.size, ""
        try:
            facts = read_header(recording.read_bytes, size, kind, uid, origin, search)
        except Unreadable as error:
            if not self._keeps_unreadable(origin, len(recording.prefix) + size):
                return StoreResponse(CANNOT_UNDERSTAND, f"not kept, quarantine is full: {error}"[:MAX_COMMENT])
            facts = InstanceHeader(kind.sop_class_uid, uid, kind.transfer_syntax_uid, origin)
            reason = str(error)
        self._append(recording, facts, search, reason)
        return StoreResponse(CANNOT_UNDERSTAND, f"kept in quarantine: {reason}") if reason else StoreResponse(SUCCESS)

    @staticmethod
    def _append(recording: Recording, facts: InstanceHeader, search: HeaderSearch, reason: str) -> None:
        for has_attributes in (True, False):
            said = instance.encode(RecordedInstance(facts, not reason, reason, has_attributes, search.name))
            try:
                return recording.append(Draft(instance.CODE, said, recording.prefix))
            except HeadTooLong:
                if not has_attributes:
                    raise
