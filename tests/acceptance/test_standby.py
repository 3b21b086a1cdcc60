"""A second machine in waiting, on loop devices: A is killed in the midst of receiving, B mounts and loses nothing.

Both "machines" are here; what they share is one block device with an ext4 that has multi-mount protection. Two loop
devices of one file stand for the device as each of them sees it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE

from edge.daemon.standby import has_protection, protection_of
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, absent, dcmsend, echoscu, free_port, routes_to, run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
MIB, OBJECTS = 1 << 20, 600


class SharedDevice:
    """One disk that two machines see."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.image = folder / "shared.img"
        with self.image.open("wb") as file:
            file.truncate(900 * MIB)
        run(["mkfs.ext4", "-q", "-m", "0", *options, str(self.image)])

    def attach(self) -> str:
        return run(["losetup", "--find", "--show", str(self.image)]).stdout.strip()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if os.geteuid() != 0:
        absent("root, to mount a file system")
    with ExitStack() as found:
        yield found


def attach(stack: ExitStack, device: SharedDevice) -> str:
    name = device.attach()
    stack.callback(lambda: run(["losetup", "--detach", name], check=False))
    return name


def mount(stack: ExitStack, device: str, place: Path) -> subprocess.CompletedProcess[str]:
    place.mkdir(exist_ok=True)
    stack.callback(lambda: run(["umount", "--lazy", str(place)], check=False))
    return run(["mount", device, str(place)], check=False)


def test_killed_in_the_midst_of_receiving_the_other_machine_loses_nothing(stack: ExitStack, tmp_path: Path) -> None:
    device = SharedDevice(tmp_path, "-O", "mmp", "-E", "mmp_update_interval=1")
    first, second = attach(stack, device), attach(stack, device)
    archive = stack.enter_context(StoreScp(tmp_path / "archive"))
    config = routes_to(archive)
    assert mount(stack, first, tmp_path / "a").returncode == 0
    assert protection_of(tmp_path / "a").is_protected

    port = free_port()
    a = Edge(tmp_path / "machine-a", config, data_dir=tmp_path / "a" / "edge", port=port)
    require_standby(a)
    a.start()
    stack.callback(a.kill)
    # Mounted twice: the file system refuses, whatever the second machine believes.
    refused = mount(stack, second, tmp_path / "b")
    assert refused.returncode != 0, "multi-mount protection did not refuse"

    acknowledged: set[str] = set()
    objects = [pydicom.dcmread(path) for path in ct_files(tmp_path / "ct", OBJECTS, 64 * 1024)]
    sender = threading.Thread(target=send, args=(port, objects, acknowledged))
    sender.start()
    wait_until(lambda: len(acknowledged) > 20, 180, "it is receiving")

    a.kill()  # the machine is gone: its gateway, and its hold on the device
    sender.join(60)
    run(["umount", str(tmp_path / "a")])
    assert len(acknowledged) < OBJECTS

    assert mount(stack, second, tmp_path / "b").returncode == 0
    b = Edge(tmp_path / "machine-b", config, data_dir=tmp_path / "b" / "edge", port=port)
    require_standby(b)
    stack.enter_context(b)
    assert b.cli("ready").returncode == 0
    assert echoscu(port).returncode == 0
    wait_until(lambda: acknowledged <= archive.uids(), 60, "all that was acknowledged is at the archive", interval=0.2)
    dcmsend(ct_files(tmp_path / "more", 1, 64 * 1024), port)


def require_standby(edge: Edge) -> None:
    base = edge.config_dir / "00-base.toml"
    base.write_text(base.read_text().replace("[site]\n", "[site]\nstandby = true\n"))


def send(port: int, objects: list[Any], acknowledged: set[str]) -> None:
    """A scanner: what is answered with success is no longer its own."""
    entity = AE("CT1")
    entity.dimse_timeout = 120  # a disk may be busy with others
    entity.add_requested_context(objects[0].SOPClassUID, objects[0].file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="EDGE")
    # pynetdicom does not close the socket of a peer that has died.
    with contextlib.closing(association.dul.socket.socket):
        for each in objects:
            try:
                status = association.send_c_store(each)
            except (RuntimeError, OSError):
                break  # the association has ended
            if "Status" not in status:
                break
            if status.Status == 0:
                acknowledged.add(each.SOPInstanceUID)
        association.abort()
        association.join(60)


def test_a_file_system_without_protection_is_refused(stack: ExitStack, tmp_path: Path) -> None:
    device = attach(stack, SharedDevice(tmp_path))
    assert mount(stack, device, tmp_path / "a").returncode == 0
    edge = Edge(tmp_path / "machine", "", data_dir=tmp_path / "a" / "edge")
    require_standby(edge)
    done = run([*edge.command()], check=False)
    assert done.returncode == 1
    assert "has no multi-mount protection" in done.stderr
    assert edge.cli("standby").returncode == 1


def test_the_superblock_is_read_as_ext4_writes_it() -> None:
    block = bytearray(1024)
    assert not has_protection(bytes(block))
    block[0x38:0x3A], block[0x60:0x64] = b"\x53\xef", (0x0100 | 0x0002).to_bytes(4, "little")
    assert has_protection(bytes(block))
    block[0x60:0x64] = (0x0002).to_bytes(4, "little")
    assert not has_protection(bytes(block))
    assert not has_protection(b"short")
