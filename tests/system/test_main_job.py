"""The main job, end to end: real senders, the real daemon as a process, real archives, and what happens to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.objects import ct_files, dataset, read_meta, real_files, sop_instance_uid
from tests.support.peers import (
    Edge,
    Orthanc,
    Run,
    StoreScp,
    absent,
    dcmsend,
    echoscu,
    routes_to,
    run,
    storescu,
    wait_until,
)

FORWARD_CONFLICTS = '[listen]\nconflicts = "forward"\n'


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


Sender = Callable[..., Run]


#: So many files with each run of a sender: a start of DCMTK costs more than what is sent here.
AT_ONCE = 16
#: Neither DCMTK's storescp nor Orthanc takes it.
NOT_TAKEN = "Color Palette Storage"


def send_all(send: Sender, port: int, called: str = "EDGE") -> None:
    """The real files, in groups; what the sender cannot send, or the peer does not take, is left out."""
    files = [file.path for file in real_files() if file.row["sop_class"] != NOT_TAKEN]
    for first in range(0, len(files), AT_ONCE):
        send(files[first : first + AT_ONCE], port, "--no-halt", called=called, check=False)


def by_syntax(files: list[Path]) -> dict[str, set[bytes]]:
    """Transfer syntax -> digests of the data sets."""
    found: dict[str, set[bytes]] = {}
    for path in files:
        blob = path.read_bytes()
        meta, offset = read_meta(blob)
        found.setdefault(meta[0x0010].strip(b"\0 ").decode(), set()).add(sha256(blob[offset:]).digest())
    return found


#: DCMTK's storescp does not take it (JPEG Lossless, any selection value), so a converted copy goes there.
JPEG_LOSSLESS_ANY = "1.2.840.10008.1.2.4.57"
#: Orthanc deflates anew what it gives out.
DEFLATED = "1.2.840.10008.1.2.1.99"
#: dcmsend announces a wrong SOP Instance UID for three real files whose UIDs have the VR UN: kept, but in quarantine.
LYING = {storescu: 0, dcmsend: 3}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("send", [storescu, dcmsend], ids=["storescu", "dcmsend"])
def test_every_real_file_arrives_as_it_was_sent(
    tmp_path: Path, running: ExitStack, send: Sender, edge_port: int
) -> None:
    unique = ["--unique-filenames"]
    reference = running.enter_context(StoreScp(tmp_path / "reference", args=unique, fork=False))
    send_all(send, reference.port)
    assert len(reference.files()) > 190
    archive = running.enter_context(StoreScp(tmp_path / "archive", args=unique))
    # One association: two processes of storescp can give two objects one "unique" name.
    config = FORWARD_CONFLICTS + routes_to(archive, more="associations = 1")
    edge = running.enter_context(Edge(tmp_path / "edge", config))
    send_all(send, edge.port)
    expected = len(digests(reference.files())) - LYING[send]
    status = edge.status()
    assert (status["instances"]["received"], status["instances"]["quarantined"]) == (expected, LYING[send])
    wait_until(lambda: all_are_at(edge, "archive", expected), 60, "all are at the archive")
    kept, arrived = by_syntax(spooled(edge)), by_syntax(archive.files())
    converted = kept.pop(JPEG_LOSSLESS_ANY, set())
    for syntax, data_sets in arrived.items():
        strangers = data_sets - kept.get(syntax, set())
        assert len(strangers) <= len(converted), f"{syntax}: not what was sent"
        converted = set(list(converted)[len(strangers) :])
    assert len(archive.files()) == expected
    assert not converted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_real_file_that_orthanc_takes_arrives_there_as_it_was_sent(
    tmp_path: Path, running: ExitStack, edge_port: int
) -> None:
    direct = running.enter_context(Orthanc(tmp_path / "direct", edge_port))
    send_all(storescu, direct.port, "ORTHANC")
    orthanc = running.enter_context(Orthanc(tmp_path / "orthanc", edge_port))
    edge = running.enter_context(Edge(tmp_path / "edge", FORWARD_CONFLICTS + routes_to(orthanc), port=edge_port))
    send_all(storescu, edge.port)
    wait_until(lambda: orthanc.instances().keys() >= direct.instances().keys(), 60, "all that Orthanc takes is there")
    sent: dict[str, set[bytes]] = {}
    for path in spooled(edge):
        meta, _ = read_meta(path.read_bytes()[:16_384])
        if not meta[0x0010].startswith(DEFLATED.encode()):
            sent.setdefault(sop_instance_uid(path), set()).add(sha256(dataset(path)).digest())
    arrived = {uid: digest for uid, digest in contents(orthanc).items() if uid in sent}
    assert len(arrived) > 150
    assert {uid for uid, digest in arrived.items() if digest not in sent[uid]} == set()


def spooled(edge: Edge) -> list[Path]:
    """Every file of the spool."""
    return sorted((edge.data_dir / "spool").rglob("*.dcm"))


def all_are_at(edge: Edge, name: str, expected: int) -> bool:
    told = edge.api_status()["destinations"][name]
    assert told["held"] == 0, edge.cli("queue", "list", "--state", "held").stdout
    return bool(told["confirmed"] == expected)


def contents(orthanc: Orthanc) -> dict[str, bytes]:
    """SOP Instance UID -> digest of the data set as Orthanc gives it out."""
    found = orthanc.instances().items()
    return {uid: sha256(dataset(orthanc.file(identifier))).digest() for uid, identifier in found}
