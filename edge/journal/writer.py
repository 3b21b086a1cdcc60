"""Append to the journal. `Writer.append` returns when the record is durable: its return is the acknowledgement.

One association uses a writer at a time; a writer has a segment of its own, so no lock is shared with others. What
fails raises, and never becomes a success: StorageFull when no segment is free or the disk has no room, Shortage, and
StorageUnhealthy after a failed flush. The segment of a failed flush is poisoned, for nobody knows what its end is;
after StorageUnhealthy the writer stops.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge.errors import Permanent, StorageUnhealthy
from edge.journal import record, segment
from edge.journal.body_file import BodyFile
from edge.journal.control import SegmentState
from edge.journal.record import BLOCK, NO_EARLIER, Earlier, RecordHead
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
    """Where a record lies now. `slot`: its bytes are there as well, and it is apply's to give back."""

    head: RecordHead
    slot: int


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
        if self._has_failed:
            raise StorageUnhealthy("the journal could not be written: nothing more is accepted until a restart")
        algorithm, checksum = record.checksum(slot.body[:length])
        claimed = self._room_for(record.head_length(len(draft.facts), len(draft.prefix)) + record.pad_to_block(length))
        head = RecordHead(
            draft.kind, claimed.header.generation, claimed.header.salt, claimed.header.number, self._index, self._at,
            length, checksum, algorithm, draft.facts, draft.prefix, earlier=self._earlier,
        )  # fmt: skip
        if file is not None:
            head = replace(head, body_length=file.length, checksum=file.checksum, algorithm=record.XXH3, file=file.id)
            file.hand_over()
        self._flush(claimed, slot.place_head(record.encode_head(head), length))
        self._at, self._index = self._at + head.record_length, self._index + 1
        self._claims.control.set_written(claimed.header.number, self._index)
        appended = Appended(head, slot.number)
        self._notify(appended)
        return appended

    def _room_for(self, length: int) -> Claimed:
        """The segment that takes a record of this number of bytes."""
        claimed = self._claimed
        if claimed is not None and self._at + length > claimed.header.size - BLOCK:
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

    def _flush(self, claimed: Claimed, view: memoryview) -> None:
        try:
            with segment.storage_errors("write the journal", is_flush=True):
                write_durably(claimed.fd, view, self._at)
        except BaseException as error:
            self._has_failed = isinstance(error, StorageUnhealthy)
            self._leave(SegmentState.POISONED)
            raise

    def close(self) -> None:
        """In order: the segment is closed, and is recycled once it is applied."""
        self._leave(SegmentState.CLOSED)


def write_durably(fd: int, view: memoryview, offset: int) -> None:
    """Returns when the bytes are on stable storage. Raises OSError: what the disk holds there is then unknown."""
    end = offset + len(view)
    while offset < end:
        try:
            count = os.pwritev(fd, [view], offset, os.RWF_DSYNC)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            segment.write_all(fd, view, offset)
            os.fdatasync(fd)
            return
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view, offset = view[count:], offset + count


class Writers:
    """The writers of one door: an association takes one for its time. Thread-safe."""

    def __init__(self, claims: Claims, notify: Callable[[Appended], None] = lambda _appended: None) -> None:
        self._claims, self._notify, self._lock = claims, notify, threading.Lock()
        self._idle: list[SegmentWriter] = []

    def take(self) -> SegmentWriter:
        with self._lock:
            return self._idle.pop() if self._idle else SegmentWriter(self._claims, self._notify)

    def give_back(self, writer: SegmentWriter) -> None:
        """For another association."""
        with self._lock:
            self._idle.append(writer)

    def close(self) -> None:
        with self._lock:
            for writer in self._idle:
                writer.close()
            self._idle.clear()
