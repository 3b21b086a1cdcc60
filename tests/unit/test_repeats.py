"""A line that comes again and again is said a few times, then counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.errors.repeats import BURST, MAX_LINES, SUMMARY_SECONDS, Repeats
from tests.support.objects import ct_files
from tests.support.peers import Edge, http_get, storescu, wait_until
from tests.support.small_disk import fill_bytes, small_disk


class Log:
    """A logger with the filter, and what it has said."""

    def __init__(self) -> None:
        self.now, self.lines = 0.0, list[str]()
        self.repeats = Repeats(lambda: self.now)
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        handler.addFilter(self.repeats)
        self.root = logging.getLogger("edge")
        self.root.addHandler(handler)
        self.handler = handler

    def close(self) -> None:
        self.root.removeHandler(self.handler)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


def test_what_fails_over_and_over_is_counted(log: Log) -> None:
    for second in range(3600):
        log.now = float(second)
        logging.getLogger("edge.x").error("the disk is %.1f%% full after %d s", second / 100, second)
        logging.getLogger("edge.x").warning("archive2 at 10.0.0.%d:%d does not answer", 2, second)
    assert len(log.lines) == 2 * (BURST + 3600 / SUMMARY_SECONDS - 1)
    assert log.lines[-1] == "archive2 at 10.0.0.2:3299 does not answer (repeated 300 times in 5 min)"


def test_other_names_and_addresses_are_other_lines(log: Log) -> None:
    for number in range(20):
        logging.getLogger("edge.x").error("archive%d does not answer", number)
        logging.getLogger("edge.x").error("refused: 10.0.0.%d", number)
        logging.getLogger(f"edge.x{number}").error("the same")
    assert len(log.lines) == 60


def test_what_ends_and_comes_again_is_said_as_new(log: Log) -> None:
    for _ in range(10):
        logging.getLogger("edge.x").error("it fails")
    log.now = SUMMARY_SECONDS
    log.repeats.flush()
    assert log.lines == ["it fails"] * BURST + ["it fails (repeated 7 times in 5 min)"]
    log.now = 3 * SUMMARY_SECONDS
    log.repeats.flush()
    logging.getLogger("edge.x").error("it fails")
    assert log.lines[-1] == "it fails"


def test_what_is_no_failure_is_each_said(log: Log) -> None:
    logging.getLogger("edge").setLevel(logging.INFO)
    for _ in range(100):
        logging.getLogger("edge.x").info("released")
        logging.getLogger("edge.scp.rejections").warning("refused: it counts for itself")
    assert len(log.lines) == 200


def test_many_different_lines_are_counted_together(log: Log) -> None:
    for number in range(MAX_LINES + 1000):
        logging.getLogger("edge.x").error("line a%d fails", number)
    assert len(log.lines) == MAX_LINES + BURST
    log.now = SUMMARY_SECONDS
    log.repeats.flush()
    assert log.lines[-1] == "many different lines (repeated 997 times in 5 min)"


def test_when_everything_fails_the_log_stays_short(tmp_path: Path, running: ExitStack) -> None:
    disk = running.enter_context(small_disk(tmp_path))
    routes = [f'[destination.d{n}]\nae_title = "D{n}"\nhost = "127.0.0.1"\nport = {n}\n' for n in range(1, 9)]
    names = ", ".join(f'"d{n}"' for n in range(1, 9))
    edge = running.enter_context(
        Edge(tmp_path / "edge", "".join(routes) + f"[route.all]\nto = [{names}]\n", data_dir=disk / "data")
    )
    files = ct_files(tmp_path / "ct", 3, 20_000)
    storescu(files[:1], edge.port)
    (disk / "data" / "ballast").unlink(missing_ok=True)

    def is_refusing() -> bool:
        fill_bytes(disk)  # again: a segment of the journal that finds no room is removed
        return http_get(edge.url("/readyz"))[0] == 503

    wait_until(is_refusing, 20, "it refuses")
    lines = len(edge.log.read_text().splitlines())
    for _ in range(40):
        storescu(files[1:2], edge.port, check=False)
    more = edge.log.read_text().splitlines()[lines:]
    assert sum("is refused" in line for line in more) == BURST, "\n".join(more)
    assert len(more) < 40, "\n".join(more)
