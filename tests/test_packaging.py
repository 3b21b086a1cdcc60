"""The Debian package, as a site meets it: built, installed on a booted machine, used, removed. Data stays."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.machine import Machine
from tests.objects import ct_files, new_uid
from tests.peers import REPOSITORY, Run, requires, run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: The sample configuration knows no such caller.
CALLER = '[modality.packaging-test]\nae_title = "PACKTEST"\nhosts = ["192.0.2.1"]\n'

#: pydicom's own test files: RLE, JPEG 2000, JPEG-LS, JPEG.
COMPRESSED = ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm"]
SENT = len(COMPRESSED) + 1


def build() -> Path:
    requires("dpkg-deb")
    if not Path("/usr/bin/python3").exists():
        pytest.skip("NOT TESTED HERE: the package is built for /usr/bin/python3, which is absent")
    done = run(["make", "--no-print-directory", "-C", str(REPOSITORY), "deb"], timeout=200)
    return REPOSITORY / done.stdout.splitlines()[-1]


def digest(package: Path) -> str:
    return hashlib.sha256(package.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, in a directory with what the test sends: a slice, and an object for each codec."""
    files = tmp_path_factory.mktemp("files")
    ct_files(files, 1)
    for name in COMPRESSED:
        ds = pydicom.dcmread(get_testdata_file(name, download=False))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
        ds.save_as(files / name)
    return Path(shutil.copy(build(), files / "edge.deb"))


def test_the_package_holds_what_it_should(package: Path) -> None:
    listing = run(["dpkg-deb", "--contents", str(package)]).stdout
    names = {line.split()[5] for line in listing.splitlines()}
    assert {"./usr/bin/edge", "./usr/lib/systemd/system/edge.service"} <= names
    assert {f"./etc/edge/conf.d/{sample.name}" for sample in (REPOSITORY / "conf.d").glob("*.toml")} <= names
    assert any(name.endswith("edge/migrations/0001_initial.sql") for name in names)
    assert any(name.endswith("edge/ops/heartbeat.schema.json") for name in names)
    assert "./usr/share/doc/edge-gateway/grafana/edge-dashboard.json" in names
    assert not [name for name in names if name.endswith(".pyc") or "/pynetdicom/apps/" in name]
    assert all(line.split()[1] == "root/root" for line in listing.splitlines())


def test_the_same_source_gives_the_same_package(package: Path) -> None:
    first = digest(package)
    assert digest(build()) == first


def test_install_use_remove(package: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"  # on a real disk
    data.mkdir()
    with Machine(tmp_path / "machine", {"/mnt": package.parent, "/var/lib/edge": data}) as machine:
        machine.run("dpkg", "--install", "/mnt/edge.deb", timeout=200)
        assert unit(machine, "ActiveState", "UnitFileState", "NRestarts") == ["active", "enabled", "0"], journal(
            machine
        )
        assert status(machine)["state"] == "running"

        start_archive(machine)
        a_new_caller_is_let_in(machine)
        everything_arrives(machine)
        assert unit(machine, "ActiveState", "NRestarts") == ["active", "0"], journal(machine)
        kept = spool(machine)
        assert len(kept) == SENT

        machine.run("dpkg", "--remove", "edge-gateway")
        assert unit(machine, "ActiveState") == ["inactive"], journal(machine)
        assert not any(exists(machine, path) for path in ("/usr/bin/edge", "/usr/lib/edge-gateway"))
        assert spool(machine) == kept

        said = machine.run("dpkg", "--purge", "edge-gateway").stdout
        assert "stay in /var/lib/edge" in said
        assert not exists(machine, "/etc/edge")
        assert spool(machine) == kept


def start_archive(machine: Machine) -> None:
    """The archive of the sample configuration; it takes nothing compressed: most of our objects must be converted."""
    machine.run("mkdir", "/archive")
    machine.run("systemd-run", "--unit=archive", "storescp", "--aetitle", "ARCHIVE", "-od", "/archive", "11113")


def a_new_caller_is_let_in(machine: Machine) -> None:
    """The sample lets in this machine alone. Another address is named in a file of the site's own, and then served."""
    machine.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    assert send(machine).returncode != 0
    machine.run("sh", "-c", f"printf '%s' '{CALLER}' > /etc/edge/conf.d/90-packaging-test.toml")
    machine.run("edge", "check")
    machine.run("systemctl", "reload", "edge")
    wait_until(lambda: send(machine).returncode == 0, 20, "the reloaded gateway takes the caller", interval=0.2)


def everything_arrives(machine: Machine) -> None:
    def at_rest() -> bool:
        queue = status(machine)["queue"]
        return not queue["pending"] and not queue["active"]

    wait_until(at_rest, 60, "nothing is under way", interval=0.5)
    told = status(machine)
    assert told["instances"]["stored"] == SENT
    assert told["destinations"]["archive"]["sent"] == SENT, f"{told}\n{journal(machine)}"
    assert len(machine.run("find", "/archive", "-type", "f").stdout.split()) == SENT


def send(machine: Machine) -> Run:
    to = ["--aetitle", "PACKTEST", "--call", "EDGE", "192.0.2.1", "11112"]
    return machine.run("dcmsend", *to, "--scan-directories", "--scan-pattern", "*.dcm", "/mnt", check=False)


def status(machine: Machine) -> Any:
    """Asked with no option: the command finds the installed configuration by itself."""
    return json.loads(machine.run("edge", "status", "--json", check=False).stdout)


def unit(machine: Machine, *names: str) -> list[str]:
    return [machine.run("systemctl", "show", "--value", f"--property={name}", "edge").stdout.strip() for name in names]


def journal(machine: Machine) -> str:
    return machine.run("journalctl", "--unit=edge", "--no-pager", "--lines=60", check=False).stdout


def exists(machine: Machine, path: str) -> bool:
    return machine.run("test", "-e", path, check=False).returncode == 0


def spool(machine: Machine) -> list[str]:
    """The objects kept."""
    return sorted(machine.run("find", "/var/lib/edge", "-name", "*.dcm").stdout.split())
