"""Notices to apply of appended records: 32 bytes each through a pipe, in the order of each writer.

With the notice the receive buffer changes hands: apply gives it back. A notice that is lost with its door loses
nothing: the daemon finds by `written` what apply has not heard of, and reads it from the segment.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.journal import record, segment
from edge.journal.record import RecordHead, RecordIdentity
from edge.journal.replay import BodyDamaged, JournalRecord, read_file_bytes
from edge.journal.writer import Appended

_NOTICE = struct.Struct("<hBxLQLLQ")
_ENDED = -2  # in the place of a slot
#: As many as are read at once; a pipe takes each whole (PIPE_BUF, pipe(7)).
NOTICES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class RecordNotice:
    """Where a record is. `slot`: a buffer of the `pool`, now the reader's to give back; -1: none."""

    pool: int
    slot: int
    segment: int
    identity: RecordIdentity
    head_length: int
    offset: int

    @property
    def is_last(self) -> bool:
        """No record: the door of this pool has ended, and this is the last notice of it."""
        return self.slot == _ENDED

    def record(self, folder: Path, memory: memoryview | None) -> JournalRecord:
        """The record, from memory that begins with its head or else from its segment. Raises BodyDamaged, OSError."""
        if memory is not None:
            head = self._check_head(record.decode_head(memory[: self.head_length]))
            body = memory[self.head_length : self.head_length + head.body_length]
            return JournalRecord(folder, head, None if head.file else body)
        data = read_file_bytes(folder / segment.file_name(self.segment), self.offset, self.head_length)
        return JournalRecord(folder, self._check_head(record.decode_head(data)))

    def _check_head(self, head: RecordHead | None) -> RecordHead:
        if head is None or head.identity != self.identity:
            raise BodyDamaged(f"the head of record {self.identity.name} is damaged")
        return head


class Notices:
    """The pipe. Doors `send`, one process reads."""

    def __init__(self, writer: int = -1) -> None:
        """`writer`: its end in another process, for a door."""
        self.reader, self.writer = os.pipe() if writer < 0 else (-1, writer)

    def send_end(self, pool: int) -> None:
        """Tell the applying process that the door of this pool has ended: it sends no more."""
        os.write(self.writer, _NOTICE.pack(_ENDED, pool, 0, 0, 0, 0, 0))

    def send(self, appended: Appended, pool: int = 0) -> None:
        head = appended.head
        place = (head.segment, head.generation, head.index, head.length, head.offset)
        os.write(self.writer, _NOTICE.pack(appended.slot, pool, *place))

    def read(self) -> Iterator[RecordNotice]:
        """Read the notices that are there; wait for the first. Ends at once when no door is left."""
        data = os.read(self.reader, NOTICES_AT_ONCE * _NOTICE.size)
        for slot, pool, number, generation, index, length, offset in _NOTICE.iter_unpack(data):
            yield RecordNotice(pool, slot, number, RecordIdentity(generation, index), length, offset)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)
