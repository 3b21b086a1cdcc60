"""Recording of objects: a door receives one into the journal, and gets the answer for its sender.

Promise: success is returned only when the object's record is on stable storage (edge.journal): the header is read
in the receive buffer, then one flush, then the answer. Everything else follows the answer (edge.intake.apply).

What fails leaves nothing behind but the reason: no room, a shortage, a journal that is full or far behind, and a broken
disk answer 0xA700 (try again later); a header that cannot be read or trusted answers 0xC000, and the object is kept in
quarantine for a person, as far as its sender's share of it goes (edge.store.quarantine).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.dicom.command import SUCCESS
from edge.dicom.header import HeaderSearch, read_header
from edge.dicom.part10 import preamble_and_meta
from edge.errors import Cause, Hindered, StorageUnhealthy, Unreadable, hindrance
from edge.journal.body_file import BodyFile
from edge.journal.door import JournalDoor
from edge.journal.kinds import instance
from edge.journal.kinds.instance import RecordedInstance
from edge.journal.record import HeadTooLong, head_length
from edge.journal.slots import Slot
from edge.journal.writer import Draft, JournalEntry
from edge.model import ContextKey, InstanceHeader, Origin
from edge.scp.response import CANNOT_UNDERSTAND, MAX_COMMENT, StoreResponse, answer_for
from edge.spool.room import ROOM_EVERY

#: A sender waits this long for a receive buffer before it is refused.
BUFFER_WAIT_SECONDS = 10.0
#: Objects are refused while the oldest record has waited this long.
MOST_LAG_SECONDS = 60.0


class Recording:
    """An object that is being received: into a buffer, and what is longer into a file."""

    def __init__(
        self,
        journal: JournalDoor,
        prefix: bytes,
        check_room: Callable[[], None],
        patience: float = BUFFER_WAIT_SECONDS,
    ) -> None:
        """`patience`: how long to wait for a receive buffer, in seconds. Raises Shortage."""
        self._journal, self.prefix, self._check_room = journal, prefix, check_room
        self._slot: Slot | None = journal.take_slot(patience)
        self._used = 0  # of the slot
        self._file: BodyFile | None = None  # once the slot was full
        self._room_at = 0
        self.size = 0  # of the data set
        self.is_appended = False

    def room(self) -> memoryview:
        """Where the next bytes go. Raises Hindered or StorageUnhealthy; then nothing is left of the recording."""
        slot = self._slot
        assert slot is not None
        if self._used == len(slot.body):
            try:
                self._spill(slot)
            except BaseException:
                self.discard()
                raise
        return slot.body[self._used :]

    def took(self, count: int) -> None:
        """Note that `count` bytes of the room are filled."""
        self._used += count
        self.size += count

    def write(self, views: list[memoryview]) -> None:
        """Append fragments. Raises what `room` raises."""
        for view in views:
            while view:
                room = self.room()
                count = min(len(view), len(room))
                room[:count] = view[:count]
                self.took(count)
                view = view[count:]

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
        append_all(self._journal, [(self, draft)])

    def seal(self, draft: Draft) -> JournalEntry:
        """The record that it becomes."""
        slot, file = self._slot, self._file
        assert slot is not None
        if file is not None:
            self._spill(slot)
            file.seal()
        return JournalEntry(slot, self._used, draft, file)

    def hand_over(self) -> None:
        """Leave the slot to apply: the object is durable."""
        self._slot, self.is_appended = None, True

    def discard(self) -> None:
        """Forget what was received."""
        if self._file is not None:
            self._file.discard()
        if self._slot is not None:
            self._journal.slots.give_back(self._slot.number)
            self._slot = None


def append_all(journal: JournalDoor, drafts: Sequence[tuple[Recording, Draft]]) -> None:
    """Make several objects durable, with as few flushes as their segments allow.

    What raises leaves some of them appended: those whose recording `is_appended`.
    """
    entries = [recording.seal(draft) for recording, draft in drafts]
    writer = journal.writers.take()
    try:
        writer.append_all(entries)
    finally:
        journal.writers.give_back(writer)
        for (recording, _), entry in zip(drafts, entries, strict=True):
            if entry.appended is not None:
                recording.hand_over()


@dataclass(frozen=True, slots=True)
class Examined:
    """An object that has been received, and what its sender is answered: once it is durable, where it is `kept`."""

    recording: Recording
    facts: InstanceHeader
    reason: str  # why it goes to quarantine; empty where it is readable
    response: StoreResponse
    searched: str  # which elements its header was read for (HeaderSearch.name)
    kept: bool = True


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

    def begin(
        self, context_key: ContextKey, sop_instance_uid: str, origin: Origin, patience: float = BUFFER_WAIT_SECONDS
    ) -> Recording:
        """Get ready for an object that is about to arrive. Raises Hindered or StorageUnhealthy.

        `patience`: how long to wait for a receive buffer, in seconds; Shortage where there is none.
        """
        if self._journal.has_failed:
            raise StorageUnhealthy("a write has failed: nothing more is accepted until a restart")
        since = self._journal.waiting_since
        if since is not None and time.monotonic() - since > MOST_LAG_SECONDS:
            cause = self._journal.cause or Cause.BUSY
            raise hindrance.error_for(cause, f"what came {MOST_LAG_SECONDS:.0f} s ago is not stored away yet")
        return Recording(
            self._journal, preamble_and_meta(context_key, sop_instance_uid, origin), self._check_room, patience
        )

    def receive(
        self,
        recording: Recording,
        context_key: ContextKey,
        sop_instance_uid: str,
        origin: Origin,
        read_into: Callable[[Callable[[list[memoryview]], None]], None],
    ) -> StoreResponse:
        """Take in an object that `read_into` hands to a sink, and accept it. Raises what `read_into` raises."""
        try:
            read_into(recording.write)
        except BaseException:
            recording.discard()
            raise
        return self.accept(recording, context_key, sop_instance_uid, origin)

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

    def accept(
        self, recording: Recording, context_key: ContextKey, sop_instance_uid: str, origin: Origin
    ) -> StoreResponse:
        """Make a received object ours, durably, and say what to answer. The recording is used up."""
        try:
            return self._accept(recording, context_key, sop_instance_uid, origin)
        except (Hindered, MemoryError) as error:
            return answer_for(error)
        except StorageUnhealthy as error:
            self._fail(str(error))
            return answer_for(error)
        finally:
            recording.discard()

    def _accept(self, recording: Recording, context_key: ContextKey, uid: str, origin: Origin) -> StoreResponse:
        found = self.examine(recording, context_key, uid, origin)
        if found.kept:
            recording.append(self.draft(found))
        return found.response

    def examine(self, recording: Recording, context_key: ContextKey, uid: str, origin: Origin) -> Examined:
        """Read the header of a received object. Raises Hindered."""
        size, search = recording.size, self.search  # another may take its place at any time
        try:
            facts = read_header(recording.read_bytes, size, context_key, uid, origin, search)
            return Examined(recording, facts, "", StoreResponse(SUCCESS), search.name)
        except Unreadable as error:
            facts = InstanceHeader(context_key.sop_class_uid, uid, context_key.transfer_syntax_uid, origin)
            if not self._keeps_unreadable(origin, len(recording.prefix) + size):
                why = f"not kept, quarantine is full: {error}"[:MAX_COMMENT]
                refused = StoreResponse(CANNOT_UNDERSTAND, why)
                return Examined(recording, facts, str(error), refused, search.name, kept=False)
            response = StoreResponse(CANNOT_UNDERSTAND, f"kept in quarantine: {error}")
            return Examined(recording, facts, str(error), response, search.name)

    def draft(self, found: Examined) -> Draft:
        """The record of an object; where its facts do not fit the head, they are read from the body again."""
        reason, name = found.reason, found.searched
        for has_attributes in (True, False):
            said = instance.encode(RecordedInstance(found.facts, not reason, reason, has_attributes, name))
            try:
                head_length(len(said), len(found.recording.prefix))
                break
            except HeadTooLong:
                if not has_attributes:
                    raise
        return Draft(instance.CODE, said, found.recording.prefix)

    def accept_all(self, found: Sequence[Examined]) -> list[StoreResponse]:
        """Make examined objects ours, durably, with as few flushes as there may be; what each sender is answered."""
        kept = [each for each in found if each.kept]
        failure: StoreResponse | None = None
        try:
            append_all(self._journal, [(each.recording, self.draft(each)) for each in kept])
        except (Hindered, MemoryError) as error:
            failure = answer_for(error)
        except StorageUnhealthy as error:
            self._fail(str(error))
            failure = answer_for(error)
        finally:
            lost = {id(each) for each in kept if not each.recording.is_appended}
            for each in found:
                each.recording.discard()
        return [failure if failure and id(each) in lost else each.response for each in found]
