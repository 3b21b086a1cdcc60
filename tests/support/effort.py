"""What something costs, counted: function calls and steps of SQLite are the same on every machine, seconds are not."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: Steps of SQLite's virtual machine that are counted at a time.
STEPS = 100


def count_calls(work: Callable[[], object]) -> int:
    """How many functions `work` calls in this thread, those of Python and those in C."""
    count = 0

    def note(_frame: FrameType, event: str, _value: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@contextmanager
def counted_steps(conn: sqlite3.Connection) -> Iterator[list[int]]:
    """Yields a list whose only item grows by the steps that SQLite takes for this connection."""
    steps = [0]

    def note() -> int:
        steps[0] += STEPS
        return 0

    conn.set_progress_handler(note, STEPS)
    try:
        yield steps
    finally:
        conn.set_progress_handler(None, 0)
