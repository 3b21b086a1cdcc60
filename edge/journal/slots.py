"""Receive buffers in memory that a door and the applying process share.

A slot has room for a head in front of the body, so that head and body go to the disk in one write from where the body
was received, and the applying process reads the same bytes. A slot is given back through a pipe, from any process; the
door takes the one that was used last, and waits where none is free, which slows the sender. The memory of free slots
goes back to the machine when the door is quiet.

One pool for each door: when a door dies, its pool goes with it. Limit: 65,536 slots.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from edge.errors import Cause, Shortage
from edge.journal.line import Line
from edge.journal.record import MAX_HEAD_BYTES, pad_to_block
from edge.network.sockets import wait_readable

BODY_BYTES = 4 << 20
_NUMBER = struct.Struct("<H")


class Slot:
    """One buffer. `body` is where to receive to; both views are of the shared memory."""

    __slots__ = ("body", "number", "whole")

    def __init__(self, number: int, whole: memoryview) -> None:
        self.number, self.whole, self.body = number, whole, whole[MAX_HEAD_BYTES:]

    def place_head(self, head: bytes, body_length: int) -> memoryview:
        """Put a head in front of the body, zeros behind it; returns the record, in whole blocks."""
        start, end = MAX_HEAD_BYTES - len(head), MAX_HEAD_BYTES + pad_to_block(body_length)
        self.whole[start:MAX_HEAD_BYTES] = head
        self.whole[MAX_HEAD_BYTES + body_length : end] = bytes(end - MAX_HEAD_BYTES - body_length)
        return self.whole[start:end]


class SlotPool:
    """`count` slots with room for `body_bytes` each. One process takes, any process gives back."""

    def __init__(self, count: int, body_bytes: int = BODY_BYTES, descriptors: Sequence[int] = ()) -> None:
        """`descriptors`: those of a pool of another process, which is then shared."""
        self.count, self._stride = count, MAX_HEAD_BYTES + pad_to_block(body_bytes)
        self.descriptors = tuple(descriptors) or _open_descriptors()
        memory, self._free, self._give = self.descriptors
        os.ftruncate(memory, count * self._stride)
        self._map = mmap.mmap(memory, count * self._stride)
        self._view = memoryview(self._map)
        os.set_blocking(self._free, False)
        self._line, self._lock = Line(), threading.Lock()
        self._idle = list(range(count - 1, -1, -1))  # the last one used is the next
        self._was_used = self._has_memory = False

    def slot(self, number: int) -> Slot:
        return Slot(number, self._view[number * self._stride : (number + 1) * self._stride])

    def take(self, patience: float) -> Slot:
        """A free slot, in the order of arrival. Raises Shortage when there is none for this number of seconds."""
        end = time.monotonic() + patience
        with self._line.stand(patience) as is_first:
            while is_first:
                if (number := self._take()) is not None:
                    return self.slot(number)
                is_first = bool(wait_readable(self._free, seconds=end - time.monotonic()))
        raise Shortage("the gateway is short of receive buffers", Cause.MEMORY)

    def _take(self) -> int | None:
        with self._lock:
            self._was_used = True
            self._take_back()
            return self._idle.pop() if self._idle else None

    def _take_back(self) -> None:
        with suppress(BlockingIOError):
            given = os.read(self._free, self.count * _NUMBER.size)
            self._idle.extend(number for (number,) in _NUMBER.iter_unpack(given))

    def rest(self) -> None:
        """Called now and then: free slots keep no memory where none was taken since the last time."""
        with self._lock:
            if not self._was_used and self._has_memory:
                self._take_back()
                for number in self._idle:
                    self._map.madvise(mmap.MADV_REMOVE, number * self._stride, self._stride)
            self._has_memory, self._was_used = self._was_used, False

    def give_back(self, number: int) -> None:
        os.write(self._give, _NUMBER.pack(number))

    def close(self) -> None:
        """Views of slots stay valid; their memory goes with the last one."""
        for fd in self.descriptors:
            os.close(fd)


def _open_descriptors() -> tuple[int, ...]:
    """The memory and the ends of the pipe; where some cannot be had, none is left open."""
    memory = os.memfd_create("slots", os.MFD_CLOEXEC)
    try:
        return memory, *os.pipe()
    except OSError:
        os.close(memory)
        raise
