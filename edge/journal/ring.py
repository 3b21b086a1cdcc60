"""The ring of segments: the daemon lays out and recycles (`Ring`), the doors' writers claim (`Claims`).

Promise: a segment is recycled only after `mark_applied` has said that all its records are applied, which the caller
does after the transaction is durable; a segment that is claimed has durable headers and blocks, and one writer.
Raises StorageFull, Shortage or StorageUnhealthy; what fails here never touches what was answered.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.journal import segment
from edge.journal.control import RingControl, SegmentState
from edge.journal.record import RecordIdentity
from edge.journal.segment import RingSize, SegmentHeader

JOURNAL_FOLDER = "journal"
#: Files beside the segments: files of longer objects, and what is kept as damaged.
BESIDE_SUFFIXES = (".part", segment.DAMAGED_SUFFIX)
#: A writer waits this long for a free segment, and so slows its sender, as it does for a receive buffer.
CLAIM_WAIT_SECONDS = 10.0
#: It asks again after this time whether one has become free.
RECYCLE_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class RingUsage:
    """Sizes of the ring in bytes; segments of an earlier run and such as are not recycled yet count as used.

    So do the files of longer objects, and what is kept as damaged; these are beside the ring's size.
    """

    size_bytes: int
    used_bytes: int


class Ring:
    """The daemon's side. One instance, one thread at a time."""

    def __init__(
        self,
        folder: Path,
        size: RingSize,
        floor: int = 0,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        *,
        ahead: int | None = None,
        has_file: bool = True,
    ) -> None:
        """`floor`: the highest generation that the catalog knows. Segments of an earlier run are in State.REPLAY.

        `ahead`: lay out no more than this number of free segments, so that the ring grows as it is needed; None: all.
        `has_file`: other programs map its control words, not only processes that are forked.
        """
        self.folder, self.size, self._clock_us = folder, size, clock_us
        self._ahead, self._has_file = size.segments if ahead is None else ahead, has_file
        self._generation = floor
        self._number_of: dict[int, int] = {}  # generation -> segment
        with segment.storage_errors("open the journal"):
            self.control = self._open()

    def _open(self) -> RingControl:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.glob(f"*{segment.NEW_SUFFIX}"):
            path.unlink()
        there = {
            segment.number_of(path): segment.read_segment_header(path) for path in segment.list_segments(self.folder)
        }
        segments = max([self.size.segments - 1, *there]) + 1
        control = RingControl(self.folder if self._has_file else None, segments, self.size.segment_bytes)
        for number, header in there.items():
            generation = header.generation if header else 0
            self._generation = max(self._generation, generation)
            control.begin(number, generation, SegmentState.REPLAY)
            self._number_of[generation] = number
        return control

    def _next_generation(self) -> int:
        self._generation = max(self._generation + 1, self._clock_us())
        return self._generation

    def path_of(self, number: int) -> Path:
        return self.folder / segment.file_name(number)

    def mark_replayed(self, number: int) -> None:
        """All that an earlier run has left in this segment is applied: it may be recycled."""
        if self.control.state(number) is SegmentState.REPLAY:
            self.control.set_state(number, SegmentState.CLOSED)

    def mark_applied(self, generation: int, records: int) -> None:
        """Note how many records of a generation are applied, durably."""
        number = self._number_of.get(generation)
        if number is not None and self.control.generation(number) == generation:
            self.control.set_applied(number, records)

    def mark_spooled(self, identity: RecordIdentity, end: int) -> None:
        """Mark that the file of a record is written. `end`: of the record, in its segment; 0: unknown."""
        number = self._number_of.get(identity.generation)
        if number is not None and self.control.generation(number) == identity.generation:
            self.control.set_spooled(number, identity.index + 1, end)

    def close_abandoned(self) -> int | None:
        """Close a segment whose writer has died: apply may not have heard of its last records. None: there is none.

        Raises OSError.
        """
        for number in self.control.numbers(SegmentState.OPEN):
            try:
                fd, _ = segment.open_for_append(self.path_of(number))
            except BlockingIOError:  # a writer has it
                continue
            except FileNotFoundError:  # a person has deleted it; its writer may live, for the lock was in the file
                if self.control.applied_count(number) < self.control.written_count(number):
                    raise
                continue  # nothing of it is needed: only its place is, until the next start
            is_open = self.control.state(number) is SegmentState.OPEN
            if is_open:
                self.control.set_state(number, SegmentState.CLOSED)
            os.close(fd)
            if is_open:
                return number
        return None

    def prepare(self, ahead: int = 0) -> bool:
        """Recycle or lay out one segment; False when there is nothing to do. For a task of low priority.

        `ahead`: have this number of free segments, where that is more.
        """
        for number in self.control.numbers(SegmentState.CLOSED, SegmentState.POISONED):
            if self.control.applied_count(number) < self.control.written_count(number):
                continue
            if self.control.state(number) is SegmentState.POISONED or not self._is_reusable(number):
                self._drop(number)
            else:
                self._recycle(number)
            return True
        if self.free_segments >= max(ahead, self._ahead):
            return False
        for number in self.control.numbers(SegmentState.ABSENT):
            if number < self.size.segments:
                generation = self._next_generation()
                segment.lay_out_segment(self.folder, number, self.size.segment_bytes, generation)
                self._begin(number, generation)
                return True
        return False

    @property
    def free_segments(self) -> int:
        return self.control.count(SegmentState.FREE)

    def _is_reusable(self, number: int) -> bool:
        """Has it the size of the ring's segments, and is it not kept under another name as damaged?"""
        try:
            found = self.path_of(number).stat()
        except FileNotFoundError:  # a person has deleted it: nothing of it is needed
            return False
        return number < self.size.segments and found.st_size == self.size.segment_bytes and found.st_nlink == 1

    def _recycle(self, number: int) -> None:
        generation = self._next_generation()
        try:
            segment.recycle(self.path_of(number), generation)
        except EdgeError:
            self.control.set_state(number, SegmentState.BROKEN)  # which header it has, the next start will see
            raise
        self._begin(number, generation)

    def _begin(self, number: int, generation: int) -> None:
        self._number_of.pop(self.control.generation(number), None)
        self._number_of[generation] = number
        self.control.begin(number, generation, SegmentState.FREE)

    def _drop(self, number: int) -> None:
        with segment.storage_errors("remove a segment of the journal"):
            self.path_of(number).unlink(missing_ok=True)
            segment.sync_folder(self.folder)
        self.control.set_state(number, SegmentState.ABSENT)

    def has_generation(self, generation: int) -> bool:
        """Has a segment this generation, or had it last?"""
        return generation in self._number_of

    def live_generations(self) -> frozenset[int]:
        """The generations that a start would replay from: the catalog may forget its progress with others."""
        numbers = (
            number for number in range(self.control.segments) if self.control.state(number) is not SegmentState.ABSENT
        )
        return frozenset(self.control.generation(number) for number in numbers)

    def usage(self) -> RingUsage:
        free = self.free_segments
        there = self.control.segments - self.control.count(SegmentState.ABSENT)
        size = self.size.segment_bytes
        files = 0
        for path in self.folder.iterdir():
            if path.suffix in BESIDE_SUFFIXES:
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    files += path.stat().st_size
        return RingUsage(self.size.segments * size, (there - free) * size + files)

    def close(self) -> None:
        self.control.close()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A segment of one's own, until `fd` is closed."""

    fd: int
    is_direct: bool
    header: SegmentHeader
    path: Path


class Claims:
    """A door's side of the ring: it knows the journal's directory, and nothing of the catalog."""

    def __init__(self, folder: Path, patience: float = CLAIM_WAIT_SECONDS, control: RingControl | None = None) -> None:
        """`patience`: seconds that a claim waits for a free segment, while its sender waits. `control`: the ring's."""
        self.folder, self.patience = folder, patience
        self.control = control or RingControl(folder)

    def claim(self) -> Claimed:
        """A free segment, the oldest generation first. Raises Shortage when there is none: the journal is full."""
        end = time.monotonic() + self.patience
        while True:
            for number in self.control.numbers(SegmentState.FREE):
                claimed = self._try(number)
                if claimed is not None:
                    return claimed
            if time.monotonic() >= end:
                raise self.control.why_late("the journal is full: what was received is not stored away yet")
            time.sleep(RECYCLE_PAUSE_SECONDS)

    def _try(self, number: int) -> Claimed | None:
        path = self.folder / segment.file_name(number)
        with segment.storage_errors("open a segment of the journal"):
            try:
                fd, is_direct = segment.open_for_append(path)
            except BlockingIOError:
                return None
            except FileNotFoundError:  # a person has deleted it
                self.control.set_state(number, SegmentState.BROKEN)
                return None
            try:
                header = segment.read_segment_header(path)
            except BaseException:
                os.close(fd)
                raise
        is_free = self.control.state(number) is SegmentState.FREE
        if not is_free or header is None or header.generation != self.control.generation(number):
            os.close(fd)
            if is_free and header is None:
                self.control.set_state(number, SegmentState.BROKEN)
            return None
        self.control.set_state(number, SegmentState.OPEN)
        return Claimed(fd, is_direct, header, path)

    def close(self) -> None:
        self.control.close()
