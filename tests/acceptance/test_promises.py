"""The promises, on the daemon as a process: large objects, a stop, kills, an archive that flaps.

Each runs for seconds, with load in and out; what a scanner was told is compared with what the archive holds.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from edge.dicom.scu import Association, plan_contexts
from edge.errors import PeerError
from edge.model import ContextKey
from edge.store.database import connect
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until

EXPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
CT = "1.2.840.10008.5.1.4.1.1.2"
MB = 1_000_000


class Scanner:
    """An association of ours that stores what it is given, and knows what was answered with success."""

    def __init__(self, port: int) -> None:
        plan = plan_contexts([ContextKey(CT, EXPLICIT), ContextKey(CT, JPEG_2000)])
        self._association = Association.open("127.0.0.1", port, "CT1", "EDGE", plan.contexts)
        self._contexts = {syntax: context for context, syntax in self._association.accepted.items()}
        self.comments: list[str] = []  # the Error Comments of the answers

    def store(self, path: Path, uid: str = "", syntax: str = EXPLICIT) -> int:
        """The status; PeerError where none came."""
        size, length = len(dataset(path)), path.stat().st_size
        with path.open("rb") as file:
            status, comment = self._association.store(
                self._contexts[syntax], CT, uid or sop_instance_uid(path), file.fileno(), length - size, size, None, 0
            )
        self.comments.append(comment)
        return status

    def close(self) -> None:
        self._association.abort()


@contextmanager
def scanner(port: int) -> Iterator[Scanner]:
    each = Scanner(port)
    try:
        yield each
    finally:
        each.close()


def digests(files: list[Path]) -> set[bytes]:
    return {sha256(dataset(path)).digest() for path in files}


# -- a large object ----------------------------------------------------------------------------------------------------


@contextmanager
def most_memory(pid: int) -> Iterator[list[int]]:
    """The largest resident set of a process so far, in bytes, as the only item."""
    process, over = psutil.Process(pid), threading.Event()
    most = [process.memory_info().rss]

    def watch() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def large_file(path: Path, size: int) -> Path:
    """A CT object of `size` bytes of pixels, most of them a hole in the file."""
    (small,) = ct_files(path, 1, 1024)
    blob = small.read_bytes()
    at = blob.rindex(b"\xe0\x7f\x10\x00OW\x00\x00")
    with small.open("r+b") as file:
        file.seek(at + 8)
        file.write(struct.pack("<I", size) + b"begin")
        file.seek(at + 12 + size - 3)
        file.write(b"end")
    return small


def digest_of(path: Path) -> str:
    """SHA-256 of the data set of a file that may be large."""
    found = sha256()
    with path.open("rb") as file:
        found.update(dataset(file.read(16_384)))
        while piece := file.read(MB):
            found.update(piece)
    return found.hexdigest()


@pytest.mark.slow
def test_a_large_object_passes_in_little_memory(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    first = large_file(tmp_path / "first", 100 * MB)
    second = large_file(tmp_path / "second", 300 * MB)
    storescu(ct_files(tmp_path / "warm", 20, 65_536), edge.port)
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 20, 20, "all is loaded")
    before = psutil.Process(edge.pid).memory_info().rss
    with most_memory(edge.pid) as most:
        storescu([first, second], edge.port)  # the first goes out while the second comes in
        wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 22, 300, "both are there")
    assert most[0] - before < 64 * MB
    there = {path.stat().st_size // MB: path for path in archive.files()}
    assert [digest_of(there[100]), digest_of(there[300])] == [digest_of(first), digest_of(second)]


# -- stop --------------------------------------------------------------------------------------------------------------


def test_a_stop_in_the_midst_of_a_study_loses_nothing(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    study = ct_files(tmp_path / "ct", 60, 128 * 1024)
    stored: list[Path] = []
    stopped = threading.Event()
    with scanner(edge.port) as ct:
        paced = threading.Thread(target=lambda: send_paced(ct, study, stored, stopped))
        paced.start()
        wait_until(lambda: len(stored) >= 20, 20, "some are stored")
        assert edge.stop() == 0, "the study goes on, but not without a pause"
        stopped.set()
        paced.join(60)
    assert 20 <= len(stored) < 60
    told = edge.log.read_text()
    assert f"'CT1' at 127.0.0.1: {len(stored)} stored, 0 not; the gateway is stopping" in told
    assert "edge has stopped in order" in told
    assert edge.status()["instances"]["received"] == len(stored)
    edge.start()
    storescu(study, edge.port)
    wait_until(lambda: len(archive.files()) == 60, 30, "with the rest, all are at the archive")
    assert digests(archive.files()) == digests(study)


def send_paced(ct: Scanner, study: list[Path], stored: list[Path], stopped: threading.Event) -> None:
    """As a scanner that pauses after 20 slices, and after 20 more until the gateway has stopped; ends with that."""
    try:
        for number, path in enumerate(study, 1):
            assert ct.store(path) == 0
            stored.append(path)
            if number % 20 == 0:
                stopped.wait(2 if number == 20 else 100)
    except PeerError:
        pass  # an abort between two objects: what came of it is looked at later


# -- kill --------------------------------------------------------------------------------------------------------------

ROUNDS = 15


@pytest.mark.slow
def test_killed_at_any_moment_what_was_answered_arrives(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    chance = random.Random(20261121)
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    sent = ct_files(tmp_path / "ct", 3_000, 48 * 1024)
    left = iter(sent)
    answered: list[Path] = []
    for round_ in range(ROUNDS):
        enough = len(answered) + chance.randrange(1, 150)
        killer = threading.Thread(target=kill_when, args=(edge, answered, enough, chance.uniform(0.0, 0.02)))
        with scanner(edge.port) as ct:
            killer.start()
            send_until_it_breaks(ct, left, answered)
        killer.join()
        edge.start()
        assert edge.api_status()["state"] == "running", f"round {round_}"
    assert len(answered) >= 10 * ROUNDS
    wait_until(lambda: waiting(edge) == 0, 60, "nothing is left to send")
    wanted = set(map(sop_instance_uid, answered))
    assert wanted <= archive.uids()
    assert digests(archive.files()) <= digests(sent)
    status = edge.api_status()
    assert (status["instances"]["lost"], status["queue"]["held"]) == (0, 0)
    assert list((edge.data_dir / "incoming").iterdir()) == []


def test_the_log_of_one_that_is_killed_again_and_again_does_not_grow(tmp_path: Path, running: ExitStack) -> None:
    """What it has is in the catalog's own file as soon as it is ready: no start has to read what the last one read."""
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(StoreScp(tmp_path / "archive"))))
    catalog = edge.data_dir / "catalog.db"
    with closing(connect(catalog, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM instance").fetchone()  # while it reads, all stays in the log
        storescu(ct_files(tmp_path / "ct", 20, 8192), edge.port)
        edge.kill()
    edge.start()
    edge.pause()
    shutil.copy(catalog, tmp_path / "without-log.db")
    edge.resume()
    with closing(sqlite3.connect(tmp_path / "without-log.db")) as conn:
        assert conn.execute("SELECT count(*) FROM instance").fetchone() == (20,)


def kill_when(edge: Edge, answered: list[Path], enough: int, after: float) -> None:
    """So many are answered, and a moment has passed: in the midst of whatever it does then."""
    wait_until(lambda: len(answered) >= enough, 60, f"{enough} are answered", interval=0.001)
    time.sleep(after)
    edge.kill()


def send_until_it_breaks(ct: Scanner, left: Iterator[Path], answered: list[Path]) -> None:
    for path in left:
        try:
            assert ct.store(path) == 0
        except PeerError:
            return
        answered.append(path)


def waiting(edge: Edge) -> int:
    queue = edge.api_status()["queue"]
    return int(queue["pending"] + queue["active"] + queue["deferred"])


def test_a_damaged_catalog_is_made_anew_from_the_spool(tmp_path: Path, running: ExitStack) -> None:
    archive = StoreScp(tmp_path / "archive")
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    sent = ct_files(tmp_path / "ct", 20, 8192)
    storescu(sent, edge.port)
    edge.kill()
    for path in edge.data_dir.glob("catalog.db*"):
        path.unlink()  # with the log, from which SQLite would mend it
    (edge.data_dir / "catalog.db").write_bytes(b"no catalog " * 1000)
    done = edge.cli("run")
    assert done.returncode == 1
    assert "edge recover" in done.stderr
    recovered = edge.cli("recover")
    assert recovered.returncode in (0, 1), recovered.stderr
    running.enter_context(archive)
    edge.start()
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 20, 30, "all are sent")
    assert digests(archive.files()) == digests(sent)


# -- an archive that comes and goes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_archive_that_comes_and_goes_gets_everything(tmp_path: Path, running: ExitStack) -> None:
    archive = StoreScp(tmp_path / "archive")
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    sent = ct_files(tmp_path / "ct", 400, 128 * 1024)
    batches = iter([sent[at : at + 50] for at in range(0, 400, 50)])
    for batch, phase in itertools.zip_longest(batches, range(8)):
        storescu(batch, edge.port)
        archive.start() if phase % 2 == 0 else archive.kill()
        time.sleep(1.5)
    running.enter_context(archive)
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 400, 90, "all are there")
    assert len(archive.files()) == 400
    assert digests(archive.files()) == digests(sent)
