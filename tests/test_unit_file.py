"""The service unit: valid, hardened, and in step with the Debian package."""

from __future__ import annotations

from pathlib import Path

from tests.peers import REPOSITORY, requires, run

UNIT = REPOSITORY / "systemd" / "edge.service"


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


def test_exposure_is_at_most_1_2() -> None:
    """`systemd-analyze security` ends with 1 above the threshold, which counts tenths."""
    run([requires("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=12", str(UNIT)])


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """Verified with a command that exists here; whatever systemd would ignore, it says."""
    text = UNIT.read_text().replace("/usr/bin/edge ", "/bin/true ")
    assert "/bin/true run" in text
    copy = tmp_path / "edge.service"
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
