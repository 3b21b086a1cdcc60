"""A line of the log that comes again and again is said a few times, then counted: a summary each SUMMARY_SECONDS.

A filter for the handler of the process, so that nothing that fails over and over fills the log, whoever writes it.
Lines are the same when they differ in numbers alone, and are warnings or worse; what is below is each said. At most
MOST different ones are counted apart, and what is beyond is counted together.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: So often it is said before it is counted.
BURST = 3
#: A summary comes so often; what has not come again for so long is said as new.
SUMMARY_SECONDS = 300.0
MOST = 500
#: Loggers that count for themselves.
OWN = frozenset({"edge.scp.rejections"})

#: A number of its own: not part of a name (archive2) or an address (10.0.0.1).
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-]*\w)")
_MANY = ("", "many different lines")


@dataclass(slots=True)
class _Line:
    """What is known of one line. `more` came since it was last said."""

    record: logging.LogRecord
    since: float
    times: int = 1
    more: int = 0


class Repeats(logging.Filter):
    """See the module's docstring. Summaries come with the next record, or by `flush`. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], _Line] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Is this record to be said?"""
        if record.levelno < logging.WARNING or record.name in OWN or getattr(record, "is_summary", False):
            return True
        self.flush()
        key, now = (record.name, _NUMBER.sub("#", record.getMessage())), self._monotonic()
        with self._lock:
            if key not in self._lines and len(self._lines) >= MOST:
                key = _MANY
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = _Line(record, now)
                return True
            line.record, line.times = record, line.times + 1
            if line.times <= BURST:
                return True
            line.more += 1
            return False

    def flush(self) -> None:
        """Say what was counted for SUMMARY_SECONDS, and forget what has ended."""
        now = self._monotonic()
        with self._lock:
            due = [(key, line) for key, line in self._lines.items() if now - line.since >= SUMMARY_SECONDS]
            told = []
            for key, line in due:
                if line.more:
                    told.append(_summary(key, line))
                    line.since, line.more = now, 0
                else:
                    del self._lines[key]
        for record in told:
            logging.getLogger(record.name or "edge").handle(record)


def _summary(key: tuple[str, str], line: _Line) -> logging.LogRecord:
    text = _MANY[1] if key == _MANY else line.record.getMessage()
    message = f"{text} (repeated {line.more} times in {SUMMARY_SECONDS / 60:.0f} min)"
    found = logging.LogRecord(line.record.name, line.record.levelno, line.record.pathname, 0, message, None, None)
    found.is_summary = True
    return found


def write_log() -> Repeats:
    """The log of a service: to stderr, for the journal of systemd, without what repeats itself."""
    repeats = Repeats()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(repeats)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    return repeats
