"""The package over 0.1.0's, and 0.1.0's over it, on a booted machine: what came before and meanwhile arrives.

The package of 0.1.0 has its own code, unit and scripts, and the libraries of today with what it needs beside.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pynetdicom
import pytest

from tests.acceptance.test_packaging import journal, packages, status
from tests.acceptance.test_upgrade import unpack_0_1_0
from tests.support.machine import Machine
from tests.support.objects import ct_files
from tests.support.peers import run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CALLER = '[modality.packaging-test]\nae_title = "PACKTEST"\nhosts = ["127.0.0.1"]\n'


def build_0_1_0(today: Path, central: Path, folder: Path) -> Path:
    source, root = folder / "source", folder / "root"
    source.mkdir()
    unpack_0_1_0(source)
    run(["dpkg-deb", "--raw-extract", str(today), str(root)])
    lib = root / "usr/lib/edge-gateway"
    shutil.rmtree(lib / "edge")
    shutil.copytree(source / "edge", lib / "edge")
    run(["dpkg-deb", "--extract", str(central), str(folder / "central")])  # its `edge` loads SQLAlchemy, too
    shutil.copytree(folder / "central/usr/lib/edge-central", lib, dirs_exist_ok=True)
    for each in Path(pynetdicom.__file__).parents[1].glob("pynetdicom*"):
        shutil.copytree(each, lib / each.name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(source / "packaging/deb/edge", root / "usr/bin/edge")
    for sample in (source / "conf.d").glob("*.toml"):
        text = re.sub("(?m)^data_dir = .*", 'data_dir = "/var/lib/edge"', sample.read_text())
        (root / "etc/edge/conf.d" / sample.name).write_text(text)
    samples = sorted(path.name for path in (source / "conf.d").glob("*.toml"))
    (root / "DEBIAN/conffiles").write_text("".join(f"/etc/edge/conf.d/{name}\n" for name in samples))
    for unit in ("edge.service", "edge.socket"):
        shutil.copy(source / "systemd" / unit, root / "usr/lib/systemd/system" / unit)
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(source / "packaging/deb" / name, root / "DEBIAN" / name)
        (root / "DEBIAN" / name).chmod(0o755)
    control = root / "DEBIAN/control"
    lines = ["Version: 0.1.0" if line.startswith("Version:") else line for line in control.read_text().splitlines()]
    control.write_text("\n".join([*lines, ""]))
    (root / "DEBIAN/md5sums").unlink()
    package = folder / "old.deb"
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(package)])
    return package


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    shared, data = folder / "files", folder / "data"
    shared.mkdir()
    data.mkdir()
    for name, many in (("before", 5), ("queued", 6), ("meanwhile", 4), ("after", 3)):
        ct_files(shared / name, many, 20_000)
    gateway, central = packages(tmp_path_factory)
    build_0_1_0(gateway, central, shared)
    shutil.copy(gateway, shared / "new.deb")
    with Machine(folder / "machine", {"/mnt": shared, "/var/lib/edge": data}) as machine:
        yield machine


def installed(machine: Machine, name: str) -> str:
    machine.run("dpkg", "--install", f"/mnt/{name}.deb", timeout=900)
    try:
        wait_until(lambda: machine.run("edge", "status", "--json", check=False).stdout, 30, "it answers", interval=0.5)
    except AssertionError as error:
        raise AssertionError(machine.run("edge", "status", check=False).stderr + journal(machine)) from error
    assert status(machine)["state"] == "running", journal(machine)
    return machine.run("edge", "version").stdout.split()[1]


def arrived(machine: Machine) -> int:
    return len(machine.run("find", "/archive", "-type", "f").stdout.split())


def verified(machine: Machine) -> str:
    done = machine.run("runuser", "-u", "edge", "--", "edge", "ledger", "verify", check=False)
    return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}{journal(machine)}"


def test_there_and_back_by_the_package(machine: Machine) -> None:
    archive = ["systemd-run", "--unit=archive", "storescp", "--aetitle", "ARCHIVE", "-od", "/archive", "11113"]
    machine.run("mkdir", "/archive")
    machine.run(*archive)
    assert installed(machine, "old") == "0.1.0"
    machine.write("/etc/edge/conf.d/90-packaging-test.toml", CALLER)
    machine.run("systemctl", "reload", "edge")
    wait_until(lambda: deliver(machine, "before"), 20, "the reloaded gateway takes the caller", interval=0.5)
    wait_until(lambda: arrived(machine) == 5, 30, "all are at the archive", interval=0.5)
    machine.run("systemctl", "stop", "archive")
    assert deliver(machine, "queued")

    assert installed(machine, "new") != "0.1.0"
    assert "Whole:" in verified(machine)
    assert deliver(machine, "meanwhile")

    assert installed(machine, "old") == "0.1.0"
    assert "BROKEN" not in verified(machine)
    assert deliver(machine, "after")
    machine.run(*archive)
    wait_until(lambda: arrived(machine) == 18, 60, "all are at the archive", interval=0.5)
    assert status(machine)["instances"]["lost"] == 0

    assert installed(machine, "new") != "0.1.0"
    assert "Whole:" in verified(machine)
    assert status(machine)["instances"]["stored"] == 18


def deliver(machine: Machine, what: str) -> bool:
    to = ["--aetitle", "PACKTEST", "--call", "EDGE", "127.0.0.1", "11112"]
    return machine.run("dcmsend", *to, "--scan-directories", f"/mnt/{what}", check=False).returncode == 0
