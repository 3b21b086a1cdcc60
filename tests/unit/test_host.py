"""The machine's facts: the mount of a path, and psutil only where it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge.monitor import host


def mounts(monkeypatch: pytest.MonkeyPatch, *given: tuple[str, str, str]) -> None:
    found = [SimpleNamespace(device=device, mountpoint=point, fstype=kind) for device, point, kind in given]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)


def test_the_deepest_mount_above_a_path_holds_it_and_a_later_one_hides_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts(
        monkeypatch,
        ("/dev/sda1", "/", "ext4"),
        ("server:/x", "/data", "nfs4"),
        ("/dev/sdb1", "/data/spool", "xfs"),
        ("tmpfs", "/data/spool", "tmpfs"),
    )
    assert host.find_mount(Path("/data/other/file")) == ("server:/x", "nfs4")
    assert host.find_mount(Path("/data/spool/a/b")) == ("tmpfs", "tmpfs")
    assert host.find_mount(Path("/database")) == ("/dev/sda1", "ext4")


def test_without_a_mount_the_file_system_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(monkeypatch)
    assert host.find_mount(Path("/data")) == ("", "unknown")


def test_a_command_that_asks_nothing_of_the_host_does_not_load_psutil() -> None:
    script = "import sys, edge.cli.status, edge.cli.check, edge.monitor.sampler; sys.exit('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
