"""The whole path as under a FIPS-mode OpenSSL: MD5, SHA-1 and whatever else is not approved raise, wherever asked for.

Not a validated module, which Debian does not ship: its refusals, put into every process of the gateway.
"""

from __future__ import annotations

import re
import smtplib
import sqlite3
from contextlib import closing
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from edge.messaging.smtp import _log_in
from tests.support.objects import ct_files, new_uid
from tests.support.peers import REPOSITORY, Edge, StoreScp, http_get, routes_to, storescu, wait_until
from tests.support.visitor import visitor

#: As hashlib behaves on such a system; worker processes import it, too.
SITECUSTOMIZE = """
import functools, hashlib, hmac

APPROVED = {"sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256",
            "sha3_224", "sha3_256", "sha3_384", "sha3_512", "shake_128", "shake_256"}

def refuse(name, usedforsecurity):
    if usedforsecurity and str(name).lower().replace("-", "") not in APPROVED:
        with open(__file__ + ".refused", "a") as file:
            file.write(f"{name}\\n")
        raise ValueError("[digital envelope routines] unsupported")

def guarded(name, real):
    @functools.wraps(real)
    def make(*args, usedforsecurity=True, **options):
        refuse(name, usedforsecurity)
        return real(*args, usedforsecurity=usedforsecurity, **options)
    return make

for name in ("md5", "sha1", "blake2b", "blake2s"):
    setattr(hashlib, name, guarded(name, getattr(hashlib, name)))
real_new = hashlib.new
def new(name, *args, usedforsecurity=True, **options):
    refuse(name, usedforsecurity)
    return real_new(name, *args, usedforsecurity=usedforsecurity, **options)
hashlib.new = new
hmac._hashopenssl = None  # then it asks hashlib
import _hashlib, sys
_hashlib.get_fips_mode = lambda: 1
sys.modules["argon2"] = None  # to import it fails
open(__file__ + ".active", "w").close()
"""


class Approved(Edge):
    """The gateway where only approved hashes are."""

    @property
    def rules(self) -> Path:
        return self.directory / "fips" / "sitecustomize.py"

    def environment(self) -> dict[str, str]:
        self.rules.parent.mkdir(exist_ok=True)
        self.rules.write_text(SITECUSTOMIZE)
        return {**super().environment(), "PYTHONPATH": f"{self.rules.parent}:{REPOSITORY}"}


def test_the_whole_path_needs_no_hash_that_is_not_approved(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("key")
    told = f'[heartbeat]\nurl = "http://127.0.0.1:9/"\nkey = "{key}"\nevery = "1s"\n'
    with StoreScp(tmp_path / "archive", args=["+xe"]) as archive:
        with Approved(tmp_path / "edge", routes_to(archive) + told) as edge:
            storescu(ct_files(tmp_path / "ct", 2), edge.port)
            storescu([compressed(tmp_path)], edge.port, "-xv")
            wait_until(lambda: len(archive.files()) == 3, 40, "all at the archive, one of them converted")
            assert http_get(edge.url("/"))[0] == 200
            study = pydicom.dcmread(archive.files()[0]).StudyInstanceUID
            wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 3, 20, "all are confirmed")
            assert edge.cli("prove", study).returncode == 0
            assert edge.cli("ledger", "verify").returncode == 0
            assert edge.cli("verify").returncode == 0
            sign_in(edge, tmp_path)
        assert edge.rules.with_name("sitecustomize.py.active").exists()
        refused = edge.rules.with_name("sitecustomize.py.refused")
        assert not refused.exists(), refused.read_text()


def sign_in(edge: Edge, folder: Path) -> None:
    """An account is made and signs in: its password is kept as PBKDF2."""
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text("four words will do")
    done = edge.cli("console", "accounts", "add", "anna", "--role", "operator", "--password-file", str(secret))
    assert done.returncode == 0, done.stderr
    with visitor(edge.url(""), follow_redirects=False) as client:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get("/sign-in").text)
        assert found
        given = {"csrf": found[1], "name": "anna", "password": "four words will do"}
        assert client.post("/sign-in", data=given).status_code == 303
        assert client.get("/queue").status_code == 200
    with closing(sqlite3.connect(edge.data_dir / "catalog.db")) as conn:
        assert conn.execute("SELECT password FROM account").fetchone()[0].startswith("$pbkdf2-sha512$")


def compressed(folder: Path) -> Path:
    """An object in JPEG 2000, which the archive does not take."""
    ds = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm", download=False))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    ds.save_as(folder / "compressed.dcm")
    return folder / "compressed.dcm"


class Offering(smtplib.SMTP):
    """A mail server that offers certain ways to log in, and takes the first that is tried."""

    def __init__(self, offered: str) -> None:
        super().__init__()
        self.tried: list[str] = []
        self.helo_resp, self.does_esmtp, self.esmtp_features = b"hello", True, {"auth": offered}

    def auth(self, mechanism: str, *_: object, **__: object) -> tuple[int, bytes]:  # type: ignore[override]
        self.tried.append(mechanism)
        return 235, b"good"


@pytest.mark.parametrize(
    ("offered", "tried"),
    [(" CRAM-MD5 PLAIN LOGIN", ["PLAIN"]), ("LOGIN CRAM-MD5", ["LOGIN"]), ("CRAM-MD5", []), ("", [])],
)
def test_mail_logins_go_without_md5(offered: str, tried: list[str]) -> None:
    server = Offering(offered)
    if tried:
        _log_in(server, "edge", "password")
    else:
        with pytest.raises(smtplib.SMTPNotSupportedError):
            _log_in(server, "edge", "password")
    assert server.tried == tried


def test_no_code_of_ours_asks_for_another() -> None:
    for path in (REPOSITORY / "edge").rglob("*.py"):
        found = re.search(r"\b(md5|sha1|blake2[bs]|md4|ripemd160|uuid[35])\b", path.read_text("utf-8"))
        assert found is None, f"{path}: {found}"
