"""`edge check --strict`: what a site with high demands forbids is named, each with a code, and fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.config import load_config
from edge.monitor.encryption import Encryption, encryption_of
from edge.monitor.strict import findings
from tests.support.peers import REPOSITORY

HARD = """
[site]
id = "1"
data_dir = "data"
[listen]
plain = false
[tls]
certificate = "edge.pem"
key = "edge.key"
ca = "ca.pem"
crl = "ca.crl"
[console]
banner = "You are accessing a test system."
[modality.ct1]
ae_title = "CT1"
hosts = ["10.0.0.1"]
certificate = "ct1.example.org"
[destination.archive]
ae_title = "VNA"
host = "10.0.0.9"
port = 2762
tls = true
certificate = "vna.example.org"
confirm = "commitment"
[route.all]
to = ["archive"]
"""


def codes(folder: Path, text: str, encryption: Encryption = Encryption.YES) -> list[str]:
    (folder / "a.toml").write_text(text)
    return [each.code for each in findings(load_config(folder), encryption)]


def test_a_hardened_site_has_nothing_to_forbid(tmp_path: Path) -> None:
    assert codes(tmp_path, HARD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("plain = false", "plain = true", ["plain-dicom", "forgeable-commitment"]),
        ("plain = false", 'plain = false\nunknown = "accept"', ["unknown-callers"]),
        ('hosts = ["10.0.0.1"]\ncertificate = "ct1.example.org"', "", ["title-alone"]),
        ('hosts = ["10.0.0.1"]\ncertificate = "ct1.example.org"', 'hosts = ["0.0.0.0/0"]', ["title-alone"]),
        ('hosts = ["10.0.0.1"]\ncertificate = "ct1.example.org"', 'hosts = ["10.0.0.1"]', []),
        ('tls = true\ncertificate = "vna.example.org"', "", ["clear-destination", "forgeable-commitment"]),
        ('certificate = "vna.example.org"\n', "", ["forgeable-commitment"]),
        ('host = "10.0.0.9"', 'host = "127.0.0.1"', []),
        ('crl = "ca.crl"', "", ["no-revocation"]),
        ("[console]", '[console]\nhost = "0.0.0.0"', ["clear-pages"]),
        ("[console]", '[console]\nhost = "10.0.0.5"\nproxies = ["10.0.0.6"]', ["clear-pages"]),
        ("[console]", '[console]\nhost = "::1"', []),
        ('banner = "You are accessing a test system."', "", ["no-banner"]),
        ("[console]", '[console]\nlock_after = 4\nidle = "16m"\nadmin_idle = "11m"', ["lenient-sign-in"] * 3),
        ("[console]", '[audit]\nhost = "10.0.0.7"\ntransport = "tcp"\n[console]', ["clear-audit"]),
        ("[console]", '[syslog.a]\nhost = "10.0.0.7"\ntransport = "udp"\n[console]', ["clear-syslog"]),
        (
            "[console]",
            '[email.a]\nhost = "10.0.0.7"\nsender = "a@b.org"\nto = ["a@b.org"]\nsecurity = "none"\n[console]',
            ["clear-mail"],
        ),
    ],
)
def test_each_thing_that_is_forbidden_has_its_code(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in HARD
    assert codes(tmp_path, HARD.replace(old, new, 1)) == expected


@pytest.mark.parametrize(
    ("encryption", "expected"),
    [(Encryption.NO, ["data-unencrypted"]), (Encryption.UNKNOWN, ["data-encryption-unknown"])],
)
def test_a_disk_in_clear_or_unknown_is_a_finding(tmp_path: Path, encryption: Encryption, expected: list[str]) -> None:
    assert codes(tmp_path, HARD, encryption) == expected


def device(sys: Path, name: str, number: str, uuid: str = "", slaves: tuple[str, ...] = ()) -> None:
    """A block device as sysfs shows it."""
    folder = sys / "devices" / name
    (folder / "slaves").mkdir(parents=True)
    if uuid:
        (folder / "dm").mkdir()
        (folder / "dm" / "uuid").write_text(f"{uuid}\n")
    for slave in slaves:
        (folder / "slaves" / slave).symlink_to(sys / "devices" / slave)
    (sys / "dev" / "block").mkdir(parents=True, exist_ok=True)
    (sys / "dev" / "block" / number).symlink_to(folder)


def test_dm_crypt_is_found_below_whatever_is_on_it(tmp_path: Path) -> None:
    device(tmp_path, "sda1", "8:1")
    device(tmp_path, "sdb1", "8:17")
    device(tmp_path, "dm-0", "253:0", "CRYPT-LUKS2-abc-edge", ("sda1",))
    device(tmp_path, "dm-1", "253:1", "LVM-xyz", ("dm-0",))
    device(tmp_path, "dm-2", "253:2", "LVM-xyz", ("dm-0", "sdb1"))
    device(tmp_path, "dm-3", "253:3", "LVM-CRYPT-", ("sdb1",))
    found = {number: encryption_of(tmp_path, tmp_path, device=number) for number in ("8:1", "253:0", "253:1", "253:2")}
    assert found == {
        "8:1": Encryption.NO,
        "253:0": Encryption.YES,
        "253:1": Encryption.YES,
        "253:2": Encryption.NO,  # half of it
    }
    assert encryption_of(tmp_path, tmp_path, device="253:3") is Encryption.NO
    assert encryption_of(tmp_path, tmp_path, device="9:9") is Encryption.UNKNOWN
    assert encryption_of(Path("/proc/self")) is Encryption.UNKNOWN  # on no disk at all
    assert encryption_of(tmp_path / "not" / "yet") in Encryption


def test_security_names_every_code() -> None:
    source = (REPOSITORY / "edge" / "monitor" / "strict.py").read_text("utf-8")
    known = re.findall(r'Finding\("([a-z-]+)"', source)
    assert len(known) >= 14
    documented = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    assert [code for code in known if f"`{code}`" not in documented] == []


def test_the_command_names_each_with_its_line_and_fails(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[site]\nid = "1"\ndata_dir = "data"\n[modality.ct1]\nae_title = "CT1"\n[console]\nhost = "0.0.0.0"\n'
        '[destination.archive]\nae_title = "VNA"\nhost = "10.0.0.9"\nport = 104\nconfirm = "commitment"\n'
        '[route.all]\nto = ["archive"]\n'
    )
    relaxed = CliRunner().invoke(cli, ["check", "--config", str(tmp_path)])
    assert relaxed.exit_code == 0
    done = CliRunner().invoke(cli, ["check", "--strict", "--config", str(tmp_path)])
    assert done.exit_code == 1
    for line in (
        "plain-dicom: listen.plain: DICOM is received in clear",
        "title-alone: a.toml:4: modality.ct1: it is known by its AE title alone",
        "clear-pages: a.toml:7: console.host: the pages are served in clear",
        "clear-destination: a.toml:8: destination.archive.tls: DICOM is sent in clear",
        "forgeable-commitment: a.toml:12: destination.archive.confirm: a proof of arrival",
        "no-banner: a.toml:6: console.banner: no notice",
    ):
        assert line in done.stdout.replace("\n", " "), line
    assert "data-" in done.stdout
