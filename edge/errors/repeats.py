"""Log filter against repetition: a repeated line is written a few times, then counted in a summary.

A filter for the handler of the process, so that no logger fills the log with a repeated failure. It counts warnings and
worse; lines are the same when they differ in numbers alone. At most MAX_LINES different lines are counted separately;
further ones are counted together. A summary comes each SUMMARY_SECONDS.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.errors import place_of

#: Times that a line is written before it is counted.
BURST = 3
#: Seconds between summaries; a line that did not repeat in this time is new again.
SUMMARY_SECONDS = 300.0
MAX_LINES = 500
#: Loggers that count for themselves.
OWN = frozenset({"edge.scp.rejections"})

#: A number of its own: not part of a name (archive2) or an address (10.0.0.1).
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-]*\w)")
_MANY = ("", "many different lines")


@dataclass(slots=True)
class _Line:
    """One line; `more` counts its repetitions since it was last written."""

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
        """Decide whether a record is written."""
        if record.levelno < logging.WARNING or record.name in OWN or getattr(record, "is_summary", False):
            return True
        self.flush()
        key, now = (record.name, _NUMBER.sub("#", record.getMessage())), self._monotonic()
        with self._lock:
            if key not in self._lines and len(self._lines) >= MAX_LINES:
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
        """Write the summaries that are due, and forget lines that did not repeat."""
        now = self._monotonic()
        with self._lock:
            due = [(key, line) for key, line in self._lines.items() if now - line.since >= SUMMARY_SECONDS]
            summaries = []
            for key, line in due:
                if line.more:
                    summaries.append(_summary(key, line))
                    line.since, line.more = now, 0
                else:
                    del self._lines[key]
        for record in summaries:
            logging.getLogger(record.name or "edge").handle(record)


def _summary(key: tuple[str, str], line: _Line) -> logging.LogRecord:
    text = _MANY[1] if key == _MANY else line.record.getMessage()
    message = f"{text} (repeated {line.more} times in {SUMMARY_SECONDS / 60:.0f} min)"
    found = logging.LogRecord(line.record.name, line.record.levelno, line.record.pathname, 0, message, None, None)
    found.is_summary = True
    return found


def write_log() -> Repeats:
    """Log to stderr, for the journal of systemd, through a `Repeats` filter."""
    repeats = Repeats()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(repeats)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    return repeats


def log_faults_by_place() -> None:
    """Log an exception that nothing catches without its words: they could quote an object."""
    log = logging.getLogger("edge")
    sys.excepthook = lambda _kind, error, _trace: log.critical("the process ends: %s", place_of(error))
    threading.excepthook = lambda args: log.critical(
        "the thread %s ends: %s", args.thread and args.thread.name, args.exc_value and place_of(args.exc_value)
    )
