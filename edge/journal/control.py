"""The memory that the running processes share: each segment's state, generation, what is written and applied; and
whether anything may be received.

Memory that is shared by its descriptor, or a file that is mapped by all; made new at each start and never trusted
after one. Each word is an aligned eight bytes, written by one side at a time: a segment's writer while it is OPEN, the
daemon otherwise.
"""

from __future__ import annotations

import mmap
import operator
import os
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from edge.errors import Cause, Shortage
from edge.journal.record import BLOCK

CONTROL_FILE = "control"
_WORDS = 7
_STATE, _GENERATION, _WRITTEN, _APPLIED, _WRITTEN_END, _SPOOLED, _SPOOLED_END = range(_WORDS)
#: Behind the words of the segments: of all.
_FAILED, _WAITING_SINCE, _CAUSE, _SEGMENT_BYTES = range(4)
_NOTHING = memoryview(bytes((_WORDS - _WRITTEN) * 8)).cast("Q")
_CAUSES: tuple[Cause | None, ...] = (None, *Cause)


class SegmentState(IntEnum):
    ABSENT = 0
    REPLAY = 1  # of an earlier run; not all of it is applied
    FREE = 2
    OPEN = 3
    CLOSED = 4
    POISONED = 5  # a flush has failed: never appended to again
    BROKEN = 6  # it could not be recycled, is damaged, or is gone


class Owed(NamedTuple):
    """What is answered and not in the spool yet: it will take this number of files, and of bytes, at most."""

    files: int
    bytes: int


class RingControl:
    """See the module's docstring. Segments are numbered from 0 on."""

    def __init__(self, folder: Path | None, segments: int = 0, segment_bytes: int = 0) -> None:
        """`segments`: a new file for this number, each of `segment_bytes`; 0: map the one that is there.

        No folder: memory without a file.
        """
        self._map_words(_open_file(folder, segments) if folder is not None else _create_memory(segments))
        if segments:
            self._words[self._of_all + _SEGMENT_BYTES] = segment_bytes

    @classmethod
    def attach(cls, fd: int) -> RingControl:
        """Map the control file of another process, by its descriptor."""
        found = cls.__new__(cls)
        found._map_words(fd)
        return found

    def _map_words(self, fd: int) -> None:
        self.fd, self._map = fd, mmap.mmap(fd, 0)
        self._words = memoryview(self._map).cast("Q")
        self.segments = len(self._words) // _WORDS - 1
        self._of_all = self.segments * _WORDS

    @property
    def has_failed(self) -> bool:
        """Has a write failed, so that nothing may be written until a restart?"""
        return bool(self._words[self._of_all + _FAILED])

    def fail(self) -> None:
        self._words[self._of_all + _FAILED] = 1

    @property
    def waiting_since(self) -> float | None:
        """Since when the oldest record waits to be applied; time.monotonic(), the same for all processes."""
        return self._words[self._of_all + _WAITING_SINCE] / 1e6 or None

    def set_waiting_since(self, moment: float | None) -> None:
        self._words[self._of_all + _WAITING_SINCE] = int((moment or 0.0) * 1e6)

    @property
    def cause(self) -> Cause | None:
        """Why the current batch could not be applied yet."""
        return _CAUSES[self._words[self._of_all + _CAUSE]]

    def set_cause(self, cause: Cause | None) -> None:
        self._words[self._of_all + _CAUSE] = _CAUSES.index(cause)

    def why_late(self, text: str) -> Shortage:
        """Build the error of a door that has waited for apply in vain: what hinders that, or else it is only behind."""
        return Shortage(text, self.cause or Cause.BUSY)

    def state(self, number: int) -> SegmentState:
        return SegmentState(self._words[number * _WORDS + _STATE])

    def set_state(self, number: int, state: SegmentState) -> None:
        self._words[number * _WORDS + _STATE] = state

    def generation(self, number: int) -> int:
        return self._words[number * _WORDS + _GENERATION]

    def written_count(self, number: int) -> int:
        """Records that were appended with success."""
        return self._words[number * _WORDS + _WRITTEN]

    def set_written(self, number: int, records: int, end: int) -> None:
        """`end`: of these records, in the segment. It is written after their number: see `set_spooled`."""
        self._words[number * _WORDS + _WRITTEN] = records
        self._words[number * _WORDS + _WRITTEN_END] = end

    def applied_count(self, number: int) -> int:
        """Records whose transaction is durable."""
        return self._words[number * _WORDS + _APPLIED]

    def set_applied(self, number: int, records: int) -> None:
        self._words[number * _WORDS + _APPLIED] = records

    def set_spooled(self, number: int, records: int, end: int) -> None:
        """`end`: of these records, in the segment; 0 where that is not known, for the last one is damaged."""
        place = number * _WORDS
        written_end, written = self._words[place + _WRITTEN_END], self._words[place + _WRITTEN]
        self._words[place + _SPOOLED] = min(records, written)  # of an earlier run nothing is known to be written
        if records >= written or end:
            self._words[place + _SPOOLED_END] = written_end if records >= written else min(end, written_end)

    def owed_to_spool(self) -> Owed:
        """The number of records of this run that the spool lacks. A start waits for those of an earlier run."""
        spooled, written, spooled_end, written_end = (
            sum(self._column(word)) for word in (_SPOOLED, _WRITTEN, _SPOOLED_END, _WRITTEN_END)
        )
        return Owed(max(0, written - spooled), max(0, written_end - spooled_end))

    @property
    def most_owed(self) -> Owed:
        """What `owed_to_spool` is never above: a ring that is full of records of one block."""
        size = self.segments * self._words[self._of_all + _SEGMENT_BYTES]
        return Owed(size // BLOCK, size)

    def begin(self, number: int, generation: int, state: SegmentState) -> None:
        """A segment with a new generation; its state is said last."""
        self.set_state(number, SegmentState.ABSENT)
        self._words[number * _WORDS + _GENERATION] = generation
        self._words[number * _WORDS + _WRITTEN : (number + 1) * _WORDS] = _NOTHING
        self.set_state(number, state)

    def numbers(self, *states: SegmentState) -> list[int]:
        """The segments in one of these states, the oldest generation first."""
        found = (number for number, state in enumerate(self._column(_STATE)) if state in states)
        return sorted(found, key=self.generation)

    def count(self, state: SegmentState) -> int:
        """The number of segments in a state."""
        return self._column(_STATE).count(state)

    @property
    def has_unapplied(self) -> bool:
        """Is any record appended that is not applied?"""
        # In this order: what is written meanwhile, or recycled, makes no record seem applied that is not.
        written, applied = self._column(_WRITTEN), self._column(_APPLIED)
        return any(map(operator.lt, applied, written))

    def _column(self, word: int) -> list[int]:
        """One word of every segment: the daemon asks often, and there are hundreds."""
        return self._words[word : self._of_all : _WORDS].tolist()

    def close(self) -> None:
        self._words.release()
        self._map.close()
        self.close_descriptor()

    def close_descriptor(self) -> None:
        """No other process is to map it; this one goes on."""
        os.close(self.fd)


def _bytes_for(segments: int) -> int:
    return (segments + 1) * _WORDS * 8


def _create_memory(segments: int) -> int:
    fd = os.memfd_create("ring", os.MFD_CLOEXEC)
    os.ftruncate(fd, _bytes_for(segments))
    return fd


def _open_file(folder: Path, segments: int) -> int:
    path, flags = folder / CONTROL_FILE, os.O_RDWR | os.O_CLOEXEC
    if segments:
        path.unlink(missing_ok=True)
        flags |= os.O_CREAT | os.O_EXCL
    fd = os.open(path, flags, 0o600)
    if segments:
        os.ftruncate(fd, _bytes_for(segments))
    return fd
