"""A line: who waits for something scarce gets it in the order of arrival, and no other thread is woken for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Line:
    """Thread-safe; for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()  # the first one's lock is open

    @property
    def length(self) -> int:
        return len(self._waiting)

    @contextmanager
    def stand(self, patience: float) -> Iterator[bool]:
        """Stand in the line until the end of the block, which the first one enters; False: not so in these seconds."""
        turn = threading.Lock()
        with self._lock:
            if self._waiting:
                turn.acquire()
            self._waiting.append(turn)
        try:
            yield turn.acquire(timeout=max(0.0, patience))
        finally:
            with self._lock:
                is_first = self._waiting[0] is turn
                self._waiting.remove(turn)
                if is_first and self._waiting:
                    self._waiting[0].release()
