"""Append to the journal. `SegmentWriter.append` returns when the record is durable: its return is the acknowledgement.

One association uses a writer at a time; a writer has a segment of its own, so no lock is shared with others. What
fails raises, and never becomes a success: Shortage when no segment is free, StorageFull when the disk has no room, and
StorageUnhealthy after a failed flush. The segment of a failed flush is poisoned, for nobody knows what its end is;
after StorageUnhealthy the writer stops.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge.errors import Permanent, StorageUnhealthy
from edge.journal import record, segment
from edge.journal.body_file import BodyFile
from edge.journal.control import SegmentState
from edge.journal.line import Line
from edge.journal.record import BLOCK, NO_EARLIER, XXH3, Earlier, RecordHead
from edge.journal.ring import Claimed, Claims
from edge.journal.slots import Slot


@dataclass(frozen=True, slots=True)
class Draft:
    """What a door wants to have recorded, beside the body. `prefix` comes right before the body."""

    kind: int
    facts: bytes
    prefix: bytes = b""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a record is now. `slot`: its bytes are there as well, and it is apply's to give back."""

    head: RecordHead
    slot: int


@dataclass(slots=True)
class JournalEntry:
    """A record that is to be appended. Its body is `length` bytes in the slot, or else in a sealed file."""

    slot: Slot
    length: int
    draft: Draft
    file: BodyFile | None = None
    appended: Appended | None = None  # once it is durable


@dataclass(frozen=True, slots=True)
class _Placed:
    """A record with its place in the segment; `view`: as it goes to the disk."""

    entry: JournalEntry
    head: RecordHead
    view: memoryview


#: A door's writers have this part of the ring: all doors together leave half of it to what is applied and recycled.
SHARE_OF_A_DOOR = 16
#: And it makes another one only while more than these are free: those that it has are soon full.
SEGMENTS_LEFT = 2
#: An association waits this long for a writer, while others flush.
WRITER_WAIT_SECONDS = 10.0
#: Records of one flush: far below the views that pwritev(2) takes.
MOST_IN_GROUP = 64


class SegmentWriter:
    """See the module's docstring. `notify` is called after each append, before it returns: apply is to know of it."""

    def __init__(self, claims: Claims, notify: Callable[[Appended], None] = lambda _appended: None) -> None:
        self._claims, self._notify = claims, notify
        self._claimed: Claimed | None = None
        self._at = self._index = 0
        self._earlier = NO_EARLIER
        self._has_failed = False

    def append(self, slot: Slot, length: int, draft: Draft, file: BodyFile | None = None) -> Appended:
        """Make a record durable. Its body is `length` bytes in the slot, or else in a file, which is sealed before."""
        entry = JournalEntry(slot, length, draft, file)
        self.append_all([entry])
        assert entry.appended is not None
        return entry.appended

    def append_all(self, entries: Sequence[JournalEntry]) -> None:
        """Make records durable, those of one segment with one flush. What raises leaves those before appended."""
        if self._has_failed:
            raise StorageUnhealthy("the journal could not be written: nothing more is accepted until a restart")
        group, end = list[_Placed](), 0  # contiguous records, and where the next one begins
        for entry in entries:
            draft, checksum = entry.draft, record.checksum(entry.slot.body[: entry.length])
            size = record.head_length(len(draft.facts), len(draft.prefix)) + record.pad_to_block(entry.length)
            if group and (len(group) == MOST_IN_GROUP or not self._fits(end, size)):
                self._append_group(group, end)
                group = []
            if not group:
                self._room_for(size)
                end = self._at
            placed = self._place(entry, checksum, end, self._index + len(group))
            group.append(placed)
            end += placed.head.record_length
        if group:
            self._append_group(group, end)

    def _place(self, entry: JournalEntry, checksum: bytes, at: int, index: int) -> _Placed:
        header, draft = self._open().header, entry.draft
        head = RecordHead(
            draft.kind, header.generation, header.salt, header.number, index, at, entry.length, checksum, XXH3,
            draft.facts, draft.prefix, earlier=self._earlier,
        )  # fmt: skip
        if (file := entry.file) is not None:
            head = replace(head, body_length=file.length, checksum=file.checksum, file=file.id)
        return _Placed(entry, head, entry.slot.place_head(record.encode_head(head), entry.length))

    def _append_group(self, group: Sequence[_Placed], end: int) -> None:
        """Flush contiguous records, and report each."""
        for each in group:
            if each.entry.file is not None:
                each.entry.file.hand_over()
        self._flush(self._open(), [each.view for each in group], self._at)
        self._at, self._index = end, self._index + len(group)
        self._claims.control.set_written(self._open().header.number, self._index, self._at)
        for each in group:
            each.entry.appended = Appended(each.head, each.entry.slot.number)
            self._notify(each.entry.appended)

    @property
    def has_segment(self) -> bool:
        return self._claimed is not None

    def _open(self) -> Claimed:
        """The segment that is written."""
        assert self._claimed is not None
        return self._claimed

    def _fits(self, at: int, length: int) -> bool:
        return at + length <= self._open().header.size - BLOCK

    def _room_for(self, length: int) -> Claimed:
        """The segment that takes a record of this number of bytes."""
        claimed = self._claimed
        if claimed is not None and not self._fits(self._at, length):
            self._leave(SegmentState.CLOSED)
            claimed = None
        if claimed is None:
            claimed = self._claims.claim()
            if BLOCK + length > claimed.header.size - BLOCK:
                self._claims.control.set_state(claimed.header.number, SegmentState.FREE)
                os.close(claimed.fd)
                raise Permanent(f"a record of {length} bytes does not fit a segment: it is to come in a file")
            self._claimed, self._at, self._index = claimed, BLOCK, 0
        return claimed

    def _leave(self, state: SegmentState) -> None:
        claimed = self._claimed
        if claimed is not None:
            self._claimed = None
            if self._index:
                self._earlier = Earlier(claimed.header.generation, self._index)
            self._claims.control.set_state(claimed.header.number, state)
            os.close(claimed.fd)

    def _flush(self, claimed: Claimed, views: list[memoryview], offset: int) -> None:
        try:
            with segment.storage_errors("write the journal", is_flush=True):
                write_durably(claimed.fd, views, offset)
        except BaseException as error:
            self._has_failed = isinstance(error, StorageUnhealthy)
            self._leave(SegmentState.POISONED)
            raise

    def close(self) -> None:
        """Close the segment in order; it is recycled once it is applied."""
        self._leave(SegmentState.CLOSED)


def write_durably(fd: int, views: list[memoryview], offset: int) -> None:
    """Returns when the bytes are on stable storage. Raises OSError: what the disk holds there is then unknown."""
    while views:
        try:
            count = os.pwritev(fd, views, offset, os.RWF_DSYNC)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            for view in views:
                segment.write_all(fd, view, offset)
                offset += len(view)
            os.fdatasync(fd)
            return
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        offset += count
        while views and count >= len(views[0]):
            count -= len(views[0])
            views = views[1:]
        if count:
            views = [views[0][count:], *views[1:]]


class Writers:
    """The writers of one door: an association takes one for its time. Thread-safe.

    Each has a segment of its own, and keeps it: a door has no more than its part of the ring, and no more than segments
    are laid out for, however many associations store at once.
    """

    def __init__(self, claims: Claims, notify: Callable[[Appended], None] = lambda _appended: None) -> None:
        self._claims, self._notify = claims, notify
        self._line, self._given_back = Line(), threading.Condition()
        self._all: list[SegmentWriter] = []
        self._idle: list[SegmentWriter] = []
        self._most = max(1, claims.control.segments // SHARE_OF_A_DOOR)

    def take(self, patience: float = WRITER_WAIT_SECONDS) -> SegmentWriter:
        """A writer, in the order of arrival. Raises Shortage when there is none for this number of seconds."""
        with self._line.stand(patience) as is_first, self._given_back:
            if not (is_first and self._given_back.wait_for(lambda: self._idle or self._may_make(), patience)):
                raise self._claims.control.why_late("the journal is written too slowly")
            if self._idle:
                return self._idle.pop()
            self._all.append(SegmentWriter(self._claims, self._notify))
            return self._all[-1]

    def _may_make(self) -> bool:
        if not self._all:
            return True
        needed = SEGMENTS_LEFT + sum(not each.has_segment for each in self._all)
        return len(self._all) < self._most and self._claims.control.count(SegmentState.FREE) > needed

    def give_back(self, writer: SegmentWriter) -> None:
        """Take a writer back, for another association."""
        with self._given_back:
            self._idle.append(writer)
            self._given_back.notify()

    def close(self) -> None:
        with self._given_back:
            for writer in self._idle:
                writer.close()
                self._all.remove(writer)
            self._idle.clear()
