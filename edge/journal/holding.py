"""Records that are answered and not applied: held back while doors are busy, so that a burst has the processors and the
disk to itself; then handed out in the order in which they came.

Held records keep few receive buffers: a short one is copied out of its buffer, and of others only the first of each
door stay there. What gave its buffer back is read from its segment. Where there is much to do, records keep their
buffers, short ones, too, and doors get them back at nearly the rate at which records are done: senders are slowed
evenly, and the backlog shrinks.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge.journal import segment
from edge.journal.notices import RecordNotice
from edge.journal.record import MAX_HEAD_BYTES, body_bytes_in_slot, pad_to_block
from edge.journal.slots import SlotPool

#: Held records are applied when no door has appended for the first of these times, or when the oldest is as old as the
#: second.
HELD_QUIET_SECONDS, MOST_HELD_SECONDS = 0.02, 1.0
#: They are applied, too, when to do so will take this long; what a record and a byte of it take on a slow processor.
MOST_WORK_SECONDS, SECONDS_A_RECORD, SECONDS_A_BYTE = 1.0, 0.0005, 3.5e-9
#: How much longer it takes on a machine that has other work is learnt from about this number of records.
LEARNT_FROM = 32
#: Receive buffers of one door that held records keep; records of a door that has few of them are not held at all.
MOST_SLOTS_HELD, FEW_SLOTS = 128, 32
#: Records with this number of bytes in their buffer are copied out of it.
COPIED_BYTES = 64 << 10
#: Of records that have given theirs back, this share gives another's to its door when it is done.
SHARE_GIVEN_BACK = 0.75


@dataclass(slots=True)
class HeldRecord:
    """One record. Its bytes are in the buffer of its notice, copied, or else in its segment alone."""

    notice: RecordNotice
    body_bytes: int  # behind its head, in its segment
    copied: bytes | None
    has_slot: bool
    since: float = field(default_factory=time.monotonic)
    buffer: mmap.mmap | None = None  # what its segment was read into

    @property
    def end(self) -> int:
        """The place in its segment where the next record begins."""
        return self.notice.offset + self.notice.head_length + pad_to_block(self.body_bytes)


class HeldRecords:
    """See the module's docstring. For one thread."""

    def __init__(self, folder: Path, pools: Mapping[int, SlotPool]) -> None:
        self._folder, self._pools = folder, pools
        self._records: deque[HeldRecord] = deque()
        self._slots: Counter[int] = Counter()  # that records keep, by pool
        self._work_seconds = self._credit = 0.0
        self._slowness, self._taken_at = 1.0, 0.0
        self._buffers: list[mmap.mmap] = []  # that are free
        self.has_thin_door = False  # a record is of a door with few buffers, which soon waits for them

    def __len__(self) -> int:
        return len(self._records)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest came; monotonic."""
        return self._records[0].since if self._records else None

    def add(self, notice: RecordNotice) -> None:
        """Keep a record, with its buffer."""
        if notice.is_last:
            self._records.append(HeldRecord(notice, 0, None, has_slot=False))
            return
        self.has_thin_door |= self._pools[notice.pool].count < FEW_SLOTS
        length = body_bytes_in_slot(self._memory(notice))
        held = HeldRecord(notice, length, None, has_slot=True)
        self._slots[notice.pool] += 1
        self._records.append(held)
        self._work_seconds += _work_of(held)
        if length <= COPIED_BYTES and not self._has_much_to_do:
            self._release(held)

    def free_slots(self) -> None:
        """While records are held: keep no more buffers than may be."""
        if any(count > MOST_SLOTS_HELD for count in self._slots.values()):
            for held in reversed(self._records):  # the first ones will be done first
                if held.has_slot and self._slots[held.notice.pool] > MOST_SLOTS_HELD:
                    self._release(held)

    def is_due(self) -> bool:
        """Are they to be applied now, though doors are busy?"""
        since = self.oldest_at
        is_old = since is not None and time.monotonic() - since > MOST_HELD_SECONDS
        return is_old or self._has_much_to_do or self.has_thin_door

    @property
    def _has_much_to_do(self) -> bool:
        return self._work_seconds * self._slowness > MOST_WORK_SECONDS

    def take(self) -> HeldRecord:
        """The oldest. `memory_of` has its bytes until `let_go`."""
        held = self._records.popleft()
        self.has_thin_door &= bool(self._records)
        self._work_seconds = max(0.0, self._work_seconds - _work_of(held))
        self._taken_at = time.monotonic()
        return held

    def memory_of(self, held: HeldRecord) -> memoryview | None:
        """Head and body of a record; None where its segment cannot be read so. Good until `let_go`."""
        if held.copied is not None:
            return memoryview(held.copied)
        return self._memory(held.notice) if held.has_slot else self._read(held)

    def let_go(self, held: HeldRecord) -> None:
        """Forget a record that is on its way into the spool: its bytes are not needed any more."""
        now = time.monotonic()
        slowness, self._taken_at = (now - self._taken_at) / _work_of(held), now
        self._slowness += (slowness - self._slowness) / LEARNT_FROM
        if held.buffer is not None:
            self._buffers.append(held.buffer)
            held.buffer = None
        if held.has_slot:
            self._give_back(held)
        elif self._slots.total():
            self._credit += SHARE_GIVEN_BACK
            if self._credit >= 1:
                self._credit -= 1
                if (newest := next((each for each in reversed(self._records) if each.has_slot), None)) is not None:
                    self._release(newest)

    def _memory(self, notice: RecordNotice) -> memoryview:
        return self._pools[notice.pool].slot(notice.slot).whole[MAX_HEAD_BYTES - notice.head_length :]

    def _release(self, held: HeldRecord) -> None:
        """Give the buffer of a record back that is to be done later."""
        if held.body_bytes <= COPIED_BYTES:
            held.copied = bytes(self._memory(held.notice)[: held.notice.head_length + held.body_bytes])
        self._give_back(held)

    def _give_back(self, held: HeldRecord) -> None:
        held.has_slot = False
        self._slots[held.notice.pool] -= 1
        self._pools[held.notice.pool].give_back(held.notice.slot)

    def _read(self, held: HeldRecord) -> memoryview | None:
        """Read it from the segment with O_DIRECT: the page cache has other uses."""
        notice = held.notice
        length = notice.head_length + pad_to_block(held.body_bytes)
        buffer = self._buffers.pop() if self._buffers else None
        if buffer is None or len(buffer) < length:
            buffer = mmap.mmap(-1, length)
        held.buffer, view = buffer, memoryview(buffer)[:length]
        try:
            fd = os.open(self._folder / segment.file_name(notice.segment), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return None
        try:
            return view if os.preadv(fd, [view], notice.offset) == length else None
        except OSError:
            return None
        finally:
            os.close(fd)


def _work_of(held: HeldRecord) -> float:
    """Seconds that it takes to apply a record, on a processor that has nothing else to do."""
    return SECONDS_A_RECORD + held.body_bytes * SECONDS_A_BYTE


def hold_back(backlog: HeldRecords, read: Callable[[float], bool], is_urgent: Callable[[], bool]) -> None:
    """Gather records until they are to be applied. `read` adds what comes in some seconds: False, nothing came."""
    is_busy = True
    while is_busy and not backlog.is_due() and not is_urgent():
        is_busy = read(HELD_QUIET_SECONDS)
        backlog.free_slots()
