"""The main job, end to end: real senders, the real daemon as a process, real archives, and what happens to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, absent, echoscu, routes_to, run, storescu, wait_until


def digests(files: list[Path]) -> set[bytes]:
    """SHA-256 of every data set."""
    return {sha256(dataset(path)).digest() for path in files}


def test_through_an_outage_a_kill_and_out_with_storage_commitment(
    tmp_path: Path, running: ExitStack, edge_port: int
) -> None:
    orthanc = Orthanc(tmp_path / "orthanc", edge_port)
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(orthanc, confirm="commitment"), port=edge_port))
    sent = ct_files(tmp_path / "ct", 200, 128 * 1024)
    storescu(sent, edge.port)
    status = edge.status()
    assert status["instances"] | {"received": 200, "stored": 200} == status["instances"]
    edge.kill()
    assert edge.status()["state"] == "down"
    edge.start()
    running.enter_context(orthanc)
    wait_until(lambda: edge.api_status()["destinations"]["orthanc"]["confirmed"] == 200, 100, "200 are confirmed")
    assert orthanc.count() == 200
    received = orthanc.instances()
    assert set(received) == set(map(sop_instance_uid, sent))
    assert dataset(orthanc.file(received[sop_instance_uid(sent[0])])) == dataset(sent[0])
    status = edge.status()
    assert status["destinations"]["orthanc"]["sent"] == 200
    assert status["queue"]["pending"] == status["queue"]["active"] == status["queue"]["held"] == 0
    assert edge.cli("prove", study_of(sent[0])).returncode == 0


def study_of(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def test_a_dead_and_a_silent_destination_delay_nobody(tmp_path: Path, running: ExitStack) -> None:
    dead, silent = StoreScp(tmp_path / "dead", "DEAD"), StoreScp(tmp_path / "silent", "SILENT", fork=False)
    alive = running.enter_context(StoreScp(tmp_path / "alive", "ALIVE"))
    running.enter_context(silent).pause()
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(dead, silent, alive)))
    sent = ct_files(tmp_path / "ct", 100, 64 * 1024)
    storescu(sent, edge.port)
    wait_until(lambda: len(alive.files()) == 100, 30, "the living one has everything")
    wait_until(lambda: edge.api_status()["destinations"]["alive"]["confirmed"] == 100, 10, "and it is written down")
    told = edge.api_status()["destinations"]["dead"]
    assert (told["state"], told["pending"] + told["deferred"], told["sent"]) == ("down", 100, 0)
    assert told["last_error"]
    silent.resume()
    running.enter_context(dead)
    wait_until(lambda: len(dead.files()) == 100, 100, "the dead one came back and has everything")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stat_study_overtakes_thousands(tmp_path: Path, running: ExitStack) -> None:
    archive = StoreScp(tmp_path / "archive", fork=False)
    stat = '[route.stat]\nto = ["archive"]\nwhen = { CallingAETitle = "STAT" }\npriority = "stat"\n'
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive) + stat))
    routine = ct_files(tmp_path / "routine", 2_000, 1024)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda start: storescu(routine[start : start + 500], edge.port), range(0, 2_000, 500)))
    urgent = ct_files(tmp_path / "urgent", 20, 1024)
    storescu(urgent, edge.port, calling="STAT")
    assert edge.api_status()["queue"]["pending"] + edge.api_status()["queue"]["deferred"] == 2_020
    running.enter_context(archive)  # it is tried again every 72 s at the latest
    wait_until(lambda: len(archive.files()) >= 200, 100, "the backlog drains")
    order = sorted(archive.files(), key=lambda path: path.stat().st_mtime_ns)
    first = {sop_instance_uid(path) for path in order[:30]}
    assert set(map(sop_instance_uid, urgent)) <= first


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MB of its own."""
    if os.geteuid() != 0:
        absent("root, to mount a small file system")
    image, mount = tmp_path / "disk.img", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(200_000_000)
    run(["mkfs.ext4", "-q", "-m", "0", str(image)])
    run(["mount", "-o", "loop", str(image), str(mount)])
    yield mount
    run(["umount", "--lazy", str(mount)])


def test_a_full_disk_refuses_loses_nothing_and_resumes(tmp_path: Path, small_disk: Path, running: ExitStack) -> None:
    archive = StoreScp(tmp_path / "archive")
    config = routes_to(archive) + '[retention]\nkeep = "0s"\n'
    edge = running.enter_context(Edge(tmp_path / "edge", config, data_dir=small_disk / "data"))
    sent = ct_files(tmp_path / "ct", 500, 512 * 1024)
    done = storescu(sent, edge.port, "--no-halt", "--verbose", check=False)
    assert "Refused: OutOfResources" in done.stdout + done.stderr  # DCMTK's word for 0xA700
    echoscu(edge.port)
    status = wait_until(lambda: refusing(edge), 10, "the gateway says that it refuses, and all that it took is applied")
    taken = status["instances"]["received"]
    assert 0 < taken < 500
    assert status["storage"]["used_fraction"] < 1.0
    assert {alert["kind"] for alert in status["alerts"]} >= {"storage-refusing"}
    running.enter_context(archive)
    wait_until(lambda: len(archive.files()) == taken, 100, "all that was taken is at the archive")
    wait_until(lambda: edge.api_status()["storage"]["used_fraction"] < 0.8, 60, "retention has freed room")
    wait_until(lambda: edge.api_status()["state"] == "running", 10, "receiving resumes by itself")
    assert edge.api_status()["instances"]["evicted"] > 0
    there = archive.uids()
    left = [path for path in sent if sop_instance_uid(path) not in there]
    storescu(left[:50], edge.port)
    wait_until(lambda: set(map(sop_instance_uid, left[:50])) <= archive.uids(), 60, "the next ones arrive too")
    assert digests(archive.files()) <= digests(sent)


def refusing(edge: Edge) -> dict | None:
    status = edge.api_status()
    return status if status["state"] == "refusing" and not status["journal"]["applied_lag_seconds"] else None
