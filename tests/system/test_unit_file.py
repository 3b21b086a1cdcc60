"""The service unit: valid, hardened, and in step with the Debian package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.peers import REPOSITORY, requires, run

UNIT = REPOSITORY / "systemd" / "edge.service"
SOCKET = REPOSITORY / "systemd" / "edge.socket"
CENTRAL = REPOSITORY / "systemd" / "edge-central.service"


def settings(section: str) -> dict[str, list[str]]:
    """The values of each key of one section, in order."""
    found: dict[str, list[str]] = {}
    here = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            here = line.strip("[]")
        elif here == section and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", [UNIT, CENTRAL], ids=lambda unit: unit.stem)
def test_exposure_is_at_most_1_2(unit: Path) -> None:
    """`systemd-analyze security` ends with 1 above the threshold, which counts tenths."""
    run([requires("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=12", str(unit)])


@pytest.mark.parametrize("unit", [UNIT, CENTRAL], ids=lambda unit: unit.stem)
def test_systemd_understands_every_line(tmp_path: Path, unit: Path) -> None:
    """Verified with a command that exists here; whatever systemd would ignore, it says."""
    text = unit.read_text().replace("/usr/bin/edge ", "/bin/true ")
    assert re.search("/bin/true .*run", text)
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = run([requires("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(copy)], check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_promises_what_the_daemon_keeps() -> None:
    service = settings("Service")
    assert service["Type"] == ["notify"]
    assert service["WatchdogSec"] == ["30"]
    assert service["Restart"] == ["always"]
    assert service["User"] == service["StateDirectory"] == service["ConfigurationDirectory"] == ["edge"]
    assert service["StateDirectoryMode"] == ["0700"]
    assert service["UMask"] == ["0077"]
    assert settings("Install") == {"WantedBy": ["multi-user.target"]}


def test_it_starts_what_the_package_installs() -> None:
    program, *arguments = settings("Service")["ExecStart"][0].split()
    assert '"$root/usr/bin/edge"' in (REPOSITORY / "packaging" / "build-deb").read_text()
    assert program == "/usr/bin/edge"
    assert arguments == ["run", "--config", "/etc/edge/conf.d"]


def test_the_ports_of_its_socket_open_before_it_starts(tmp_path: Path) -> None:
    """The socket unit is valid, belongs to the service by its name, and is not enabled by the package."""
    text = SOCKET.read_text()
    (tmp_path / "edge.socket").write_text(text)
    (tmp_path / "edge.service").write_text(UNIT.read_text().replace("/usr/bin/edge ", "/bin/true "))
    verify = [requires("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no"]
    done = run([*verify, str(tmp_path / "edge.socket")], check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "RequiredBy=edge.service" in text
    assert "edge.socket" not in (REPOSITORY / "packaging" / "deb" / "postinst").read_text()
