"""Read the journal: what a run has left, record by record in the order of writing, with damage by name.

Promise: a record that was answered is yielded whole, or as a Damage; what is dropped without one is a tail that nobody
had an answer for, and what was applied before. Nothing is written. A body in a file is verified when it is read.
Raises UnknownFormat, and OSError for what says nothing of the disk (descriptors, memory).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from edge.errors import EdgeError
from edge.journal import body_file, record, segment
from edge.journal.record import BLOCK, RecordHead, RecordIdentity
from edge.journal.segment import SegmentHeader

T = TypeVar("T")

#: Bytes that are read at once.
READ_BYTES = 1 << 20
#: What the disk cannot read is tried this often before it counts as damage: a fault of a cable or a path passes.
READ_TRIES, READ_PAUSE_SECONDS = 3, 0.5


class DamagedPart(str, Enum):
    """What is damaged. A code."""

    HEADER = "segment-header"
    HEAD = "head"
    BODY = "body"
    MISSING = "missing"  # a later segment says that the record was there


class BodyDamaged(EdgeError):
    """The bytes that were read are not those that were recorded."""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One whole record. `memory`: its body, while it is in a receive buffer."""

    folder: Path
    head: RecordHead
    memory: memoryview | None = None

    @property
    def identity(self) -> RecordIdentity:
        return self.head.identity

    @property
    def segment(self) -> Path:
        return self.folder / segment.file_name(self.head.segment)

    @property
    def part10(self) -> tuple[Path, int, int]:
        """(path, offset, length) of prefix and body: of a whole Part 10 file, where the record is of an object."""
        head, prefix = self.head, len(self.head.prefix)
        if head.file:
            return self.folder / body_file.body_file_name(head.file), 0, prefix + head.body_length
        return self.segment, head.offset + head.length - prefix, prefix + head.body_length

    def bodies(self, moved: Path | None = None) -> Iterator[memoryview]:
        """The body, in parts, each good until the next; at the end it is verified. Raises BodyDamaged or OSError.

        `moved`: where its file is by now.
        """
        if self.memory is None:
            path, offset, _ = self.part10
            yield from _read_body(self.head, moved or path, offset)
        elif record.is_whole(self.head, self.memory):
            yield self.memory
        else:
            raise BodyDamaged(f"record {self.identity.name} is damaged in memory")


@dataclass(frozen=True, slots=True)
class RecordDamage:
    """A record that was answered, and is not whole. `head`: what it was, where that can still be read."""

    identity: RecordIdentity
    segment: Path
    offset: int
    where: DamagedPart
    head: RecordHead | None = None


@dataclass(slots=True)
class Left:
    """What was found beside records and damage."""

    torn: int = 0  # unfinished records at the end of a segment: nobody had an answer
    torn_at: list[tuple[int, int]] = field(default_factory=list)  # (segment, offset) of each


Item = JournalRecord | RecordDamage


def _read_body(head: RecordHead, path: Path, offset: int) -> Iterator[memoryview]:
    """The body of a record whose prefix begins at this place of a file. See `JournalRecord.bodies`."""
    buffer = memoryview(bytearray(min(READ_BYTES, head.body_length)))
    found, left = record.Checksum(head.algorithm), head.body_length
    try:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(offset)
            is_whole = file.read(len(head.prefix)) == head.prefix
            is_whole &= not head.file or size == len(head.prefix) + head.body_length
            while is_whole and left and (count := file.readinto(buffer[:left])):
                found.update(buffer[:count])
                yield buffer[:count]
                left -= count
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ENOENT):
            raise
        is_whole = False
    if not is_whole or left or found.digest() != head.checksum:
        raise BodyDamaged(f"record {head.identity.name} is damaged")


def read_file_bytes(path: Path, offset: int, length: int) -> bytes:
    """Bytes of a segment, fewer at the file's end. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read(fd, offset, length)
    finally:
        os.close(fd)


def _read(fd: int, offset: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        more = os.pread(fd, length - len(found), offset + len(found))
        if not more:
            break
        found += more
    return bytes(found)


def read_again(read: Callable[[], T | None], tries: int = READ_TRIES) -> T | None:
    """What `read` returns; tried again, after a pause, where that is None."""
    while (found := read()) is None and (tries := tries - 1):
        time.sleep(READ_PAUSE_SECONDS)
    return found


def _read_patiently(read: Callable[[], T | None], tries: int = READ_TRIES) -> T | None:
    """`read_again`; what the disk cannot read is None as well. Other errors are raised."""

    def read_once() -> T | None:
        try:
            return read()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None

    return read_again(read_once, tries)


def _read_or_nothing(fd: int, offset: int, length: int, tries: int = READ_TRIES) -> bytes:
    """What the disk cannot read is nothing, for it cannot be a record."""
    return _read_patiently(lambda: _read(fd, offset, length), tries) or b""


def _read_header(path: Path) -> SegmentHeader | None:
    return _read_patiently(lambda: segment.read_segment_header(path))


class SegmentReader:
    """One segment. `expected`: this number of records is known to have been answered from it."""

    def __init__(self, path: Path, header: SegmentHeader, expected: int = 0) -> None:
        self.path, self.header, self._expected = path, header, expected
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.torn_at: int | None = None

    def close(self) -> None:
        os.close(self._fd)

    def head_at(self, offset: int, tries: int = READ_TRIES) -> RecordHead | None:
        """The head at this place, if it is whole and of this segment, generation and place."""
        first = _read_or_nothing(self._fd, offset, BLOCK, tries)
        length = record.declared_length(first)
        if length > BLOCK:
            first += _read_or_nothing(self._fd, offset + BLOCK, length - BLOCK, tries)
        head = record.decode_head(first)
        return head if head is not None and self._is_ours(head, offset) else None

    def _is_ours(self, head: RecordHead, offset: int) -> bool:
        ours = (self.header.generation, self.header.salt, self.header.number, offset)
        return ours == (head.generation, head.salt, head.segment, head.offset)

    def is_body_whole(self, head: RecordHead) -> bool:
        """Is the body whole? Not asked of one in a file: the file was durable before the head was written."""
        body = _read_or_nothing(self._fd, head.offset + head.length, head.body_length)
        return bool(head.file) or record.is_whole(head, body)

    def next_head(self, offset: int) -> RecordHead | None:
        """The first whole head from a place on; to continue after something that is not whole."""
        end = self.header.size - BLOCK
        while offset < end:
            chunk = _read_or_nothing(self._fd, offset, min(READ_BYTES, end - offset), tries=1)
            blocks = range(0, len(chunk), BLOCK) if chunk else range(0, min(READ_BYTES, end - offset), BLOCK)
            for at in blocks:  # where a chunk cannot be read, each block is tried
                if not chunk or chunk.startswith(record.RECORD_MAGIC, at):
                    head = self.head_at(offset + at, tries=1)
                    if head is not None:
                        return head
            offset += READ_BYTES
        return None

    def heads(self) -> Iterator[RecordHead | RecordDamage]:
        """Each record whose head and body are whole, in order, and each damage."""
        offset, index = BLOCK, 0
        while True:
            head = self.head_at(offset)
            if head is not None and head.index == index:
                if self.is_body_whole(head):
                    yield head
                elif index < self._expected or self.next_head(head.end):
                    yield RecordDamage(head.identity, self.path, offset, DamagedPart.BODY, head)
                else:
                    self.torn_at = offset
                    return
                offset, index = head.end, index + 1
                continue
            later = self.next_head(offset + BLOCK)
            upto = later.index if later is not None else self._expected
            for lost in range(index, upto):
                where = DamagedPart.HEAD if lost == index else DamagedPart.MISSING
                yield RecordDamage(RecordIdentity(self.header.generation, lost), self.path, offset, where)
            if later is None:
                if index >= upto:
                    self._note_tail(offset)
                return
            offset, index = later.offset, later.index

    def _note_tail(self, offset: int) -> None:
        """A beginning of a record of this generation that is not whole?"""
        block = _read_or_nothing(self._fd, offset, BLOCK)
        if block.startswith(record.RECORD_MAGIC) and block[24:40] == self.header.salt:
            self.torn_at = offset


class Replay:
    """All that the segments of a directory hold beyond what is applied. Iterate, then ask `left`."""

    def __init__(self, folder: Path, applied: Mapping[int, int]) -> None:
        """`applied`: generation -> records applied, as the last committed transaction says."""
        self._folder, self._applied = folder, applied
        self.left = Left()
        self._headers: list[tuple[Path, SegmentHeader]] = []
        self._unreadable: list[Path] = []
        for path in segment.list_segments(folder):
            header = _read_header(path)
            if header is None:
                self._unreadable.append(path)
            else:
                self._headers.append((path, header))
        self._headers.sort(key=lambda each: each[1].generation)
        self._expected = self._expectations()

    def _expectations(self) -> dict[int, int]:
        """Each segment's first record says what the writer's segment before it held; "applied" says so too."""
        expected = dict(self._applied)
        for path, header in self._headers:
            reader = SegmentReader(path, header)
            try:
                head = reader.head_at(BLOCK) or reader.next_head(2 * BLOCK)
            finally:
                reader.close()
            if head is not None and head.earlier.generation:
                known = expected.get(head.earlier.generation, 0)
                expected[head.earlier.generation] = max(known, head.earlier.records)
        return expected

    def __iter__(self) -> Iterator[Item]:
        for path in self._unreadable:
            yield RecordDamage(RecordIdentity(0, segment.number_of(path)), path, 0, DamagedPart.HEADER)
        for path, header in self._headers:
            yield from self._segment(path, header)

    def _segment(self, path: Path, header: SegmentHeader) -> Iterator[Item]:
        done = self._applied.get(header.generation, 0)
        reader = SegmentReader(path, header, self._expected.get(header.generation, 0))
        try:
            for found in reader.heads():
                if found.identity.index < done:
                    continue
                yield found if isinstance(found, RecordDamage) else JournalRecord(self._folder, found)
        finally:
            reader.close()
        if reader.torn_at is not None:
            self.left.torn += 1
            self.left.torn_at.append((header.number, reader.torn_at))


def unapplied_names(folder: Path, applied: Mapping[int, int]) -> set[str]:
    """The names of the spool files that a replay would write."""
    return {item.identity.name for item in Replay(folder, applied)} if folder.is_dir() else set()


def read_segment(path: Path, first: int, upto: int) -> Iterator[RecordHead | RecordDamage]:
    """Records `first` to before `upto` of a segment of this run: apply has not heard of them, for a door has died."""
    header = _read_header(path)
    if header is None:
        raise BodyDamaged(f"the header of segment {path.name} is damaged")
    reader = SegmentReader(path, header, upto)
    try:
        for found in reader.heads():
            if found.identity.index >= upto:
                return
            if found.identity.index >= first:
                yield found
    finally:
        reader.close()
