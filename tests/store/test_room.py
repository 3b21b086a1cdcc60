"""Room is more than bytes: inodes, blocks smaller than a page, a start where there is none at all."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from edge.dicom.command import Element
from edge.errors import Cause, StorageFull
from edge.model import Disk
from edge.spool.room import DiskGuard
from tests.store.test_retention import StoredObjects, config
from tests.support.objects import ct_files
from tests.support.peers import Edge, http_get, run, storescu, wait_until
from tests.support.small_disk import fill_bytes, fill_inodes, small_disk
from tests.wire.test_receive import caller, store

ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'
SOON = '[alert.storage-refusing]\nafter = "0s"\nclear = "0s"\n'


# -- inodes -----------------------------------------------------------------------------------------------------------


def test_without_inodes_it_says_why_it_refuses_and_starts_again(tmp_path: Path, running: ExitStack) -> None:
    disk = running.enter_context(small_disk(tmp_path, 64, "ext4", "-N", "128"))
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE + SOON, data_dir=disk / "data"))
    taken, refused = send_until_refused(edge, ct_files(tmp_path / "ct", 128, 2000))
    assert taken >= 50, edge.output()
    wait_until(lambda: edge.api_status()["instances"]["received"] == taken, 60, "each of them is in the spool")
    assert refused == "0xa700"
    status = edge.api_status()
    assert status["state"] == "refusing"
    assert [each["cause"] for each in status["refusing"]] == ["inodes"]
    assert status["storage"]["used_fraction"] < 0.5
    code, body = http_get(edge.url("/readyz"))
    assert (code, b"inodes" in body) == (503, True)
    wait_until(lambda: alert_of(edge, "storage-refusing"), 20, "the alert")
    assert "of the inodes" in alert_of(edge, "storage-refusing")["what"]
    assert "inodes" in edge.cli("check").stdout
    assert "inodes" in edge.output()
    edge.stop()
    fill_inodes(disk)
    edge.start(until="/healthz")  # on the names that it kept for itself
    assert [each["cause"] for each in edge.api_status()["refusing"]] == ["inodes"]


def send_until_refused(edge: Edge, files: list[Path]) -> tuple[int, str]:
    """How many were taken, and the status of the first that was not. The daemon moves none of them into the spool."""
    assert edge.process is not None
    wire = caller(edge.port)
    edge.process.send_signal(signal.SIGSTOP)
    try:
        for count, path in enumerate(files):
            if status := store(wire, path).number(Element.STATUS):
                return count, hex(status)
        return len(files), ""
    finally:
        edge.process.send_signal(signal.SIGCONT)
        wire.close()


def alert_of(edge: Edge, kind: str) -> Any:
    return next((each for each in edge.api_status()["alerts"] if each["kind"] == kind), None)


def test_the_oldest_confirmed_go_for_their_inodes(tmp_path: Path) -> None:
    kept = StoredObjects(tmp_path)
    numbers = kept.proved(20, size=1000)
    kept.disk = lambda: Disk(10**9, 9 * 10**8, 1000, 176)  # 82.4 % of the inodes are used: 74 too many
    assert kept.retention.make_room() == 20
    numbers += kept.proved(20, size=1000)
    kept.disk = lambda: Disk(10**9, 9 * 10**8, 100, 18)  # 82 %: 7 too many
    assert kept.retention.make_room() == 7
    assert kept.evicted() == numbers[:27]
    assert {detail.partition("; ")[2] for _, detail in kept.evictions()} == {
        "82.4% of the inodes were used",
        "82.0% of the inodes were used",
    }
    kept.close()


@pytest.mark.parametrize(
    ("disk", "owed", "cause"),
    [
        (Disk(100, 50), (0, 0), None),
        (Disk(100, 5), (0, 0), Cause.BYTES),
        (Disk(100, 50), (1, 44), None),
        (Disk(100, 50), (1, 45), Cause.BYTES),
        (Disk(100, 50), (1, 60), Cause.BYTES),  # more than there is
        (Disk(100, 50, 1000, 50), (0, 0), Cause.INODES),
        (Disk(100, 50, 1000, 51), (0, 0), None),
        (Disk(100, 50, 1000, 51), (1, 1), Cause.INODES),
        (Disk(100, 50, 0, 0), (9, 1), None),  # a file system without a fixed number of inodes
        (Disk(100, 50, 1000, 900, is_read_only=True), (0, 0), Cause.READ_ONLY),
    ],
)
def test_what_the_gate_refuses_for(disk: Disk, owed: tuple[int, int], cause: Cause | None) -> None:
    gate = DiskGuard(config, lambda: disk, owed=lambda: owed)
    assert (gate.hindrance.cause if gate.hindrance else None) is cause
    if cause is not None:
        with pytest.raises(StorageFull) as refused:
            gate.check_room()
        assert refused.value.cause is cause


@pytest.mark.parametrize(
    ("disk", "is_added_up"),
    [
        (Disk(100, 50, 1000, 500), False),
        (Disk(100, 26, 1000, 500), False),
        (Disk(100, 25, 1000, 500), True),  # a ring full of records would be refused
        (Disk(100, 50, 1000, 70), True),
        (Disk(100, 50, 0, 0), False),
    ],
)
def test_what_is_owed_is_added_up_only_where_it_can_matter(disk: Disk, *, is_added_up: bool) -> None:
    """There are hundreds of segments, and each object asks."""
    owed = Mock(return_value=(0, 0))
    DiskGuard(config, lambda: disk, owed, lambda: (20, 20)).check_room()
    assert owed.called is is_added_up


# -- a start on a full file system ------------------------------------------------------------------------------------

SMALL_BLOCKS = "ext4 with blocks of 1 KiB"
KINDS = {
    "ext4": (48, "ext4"),
    SMALL_BLOCKS: (48, "ext4", "-b", "1024"),
    "xfs": (320, "xfs"),
}


@pytest.mark.parametrize(
    ("kind", "end"),
    [("ext4", "stopped"), ("xfs", "killed"), (SMALL_BLOCKS, "stopped"), (SMALL_BLOCKS, "killed")],
)
def test_it_starts_on_a_file_system_that_is_full_to_the_last_byte(
    tmp_path: Path, running: ExitStack, kind: str, end: str
) -> None:
    disk = running.enter_context(small_disk(tmp_path, *KINDS[kind]))
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE, data_dir=disk / "data"))
    files = ct_files(tmp_path / "ct", 4, 20_000)
    storescu(files[:3], edge.port)
    assert edge.settle(60), "they are in the spool: later there is no room for them"
    wait_until((disk / "data" / "ballast").exists, 20, "the reserve")
    filler = fill_bytes(disk)
    (edge.stop if end == "stopped" else edge.kill)()
    fill_bytes(disk)
    edge.start(until="/healthz")
    wait_until(lambda: edge.api_status()["state"] == "refusing", 20, "it serves")
    status = edge.api_status()
    assert status["instances"]["received"] == 3, edge.output()
    assert [each["cause"] for each in status["refusing"]] == ["bytes"]
    filler.unlink()
    wait_until(lambda: http_get(edge.url("/readyz"))[0] == 200, 20, "objects are accepted again")
    storescu(files[3:], edge.port)


@pytest.mark.parametrize(("kind", "room"), [("ext4", 0), ("xfs", 100_000), (SMALL_BLOCKS, 100_000)])
def test_a_first_start_without_room_leaves_nothing_and_succeeds_later(
    tmp_path: Path, running: ExitStack, kind: str, room: int
) -> None:
    disk = running.enter_context(small_disk(tmp_path, *KINDS[kind]))
    (disk / "data").mkdir()
    edge = Edge(tmp_path / "edge", ROUTE, data_dir=disk / "data")
    filler = fill_bytes(disk)
    os.truncate(filler, filler.stat().st_size - room)
    done = edge.cli("run")
    assert done.returncode == 1
    assert "out of room: the disk is full" in done.stderr
    assert not list((disk / "data").glob("catalog.db*"))
    filler.unlink()
    running.enter_context(edge)
    storescu(ct_files(tmp_path / "ct", 1, 20_000), edge.port)


@pytest.mark.parametrize("kib", [12, 32])
def test_a_start_without_room_and_reserve_ends_in_words_or_serves(tmp_path: Path, running: ExitStack, kib: int) -> None:
    """Where blocks are smaller than a page, the index of the catalog's log lacks some: SIGBUS, with an empty log."""
    disk = running.enter_context(small_disk(tmp_path, *KINDS[SMALL_BLOCKS]))
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE, data_dir=disk / "data"))
    wait_until((disk / "data" / "ballast").exists, 20, "the reserve")
    edge.stop()
    (disk / "data" / "ballast").unlink()
    filler = fill_bytes(disk)
    os.truncate(filler, filler.stat().st_size - kib * 1024)
    try:
        edge.start(until="/healthz")
    except AssertionError as error:
        assert "edge ended with 1 instead of serving" in str(error)  # noqa: PT017
        assert "out of room: the disk is full" in edge.output()


def test_a_file_system_that_is_mounted_read_only_is_named(tmp_path: Path, running: ExitStack) -> None:
    disk = running.enter_context(small_disk(tmp_path))
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE, data_dir=disk / "data"))
    edge.stop()
    run(["mount", "-o", "remount,ro", str(disk)])
    done = edge.cli("run")
    assert done.returncode == 1
    assert "unable to write: the disk is mounted read-only" in done.stderr
    assert "mounted read-only" in edge.cli("check").stdout
    run(["mount", "-o", "remount,rw", str(disk)])
    edge.start()
