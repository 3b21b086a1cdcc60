"""What release 0.1.0 leaves, under this release and under 0.1.0 again: nothing is lost there and back.

0.1.0 itself makes it, and runs again on what goes back to it: its code is in the history of this repository.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from edge.dicom.command import Element
from edge.errors import EdgeError, NewerCatalog
from edge.storage.putting_back import put_back
from edge.store import database
from edge.store.database import Store
from edge.store.kept_catalog import kept_in
from edge.store.sqlite_file import migrations
from tests.support.objects import ct_files, dataset, new_uid, sop_instance_uid
from tests.support.peers import REPOSITORY, Edge, StoreScp, free_port, group_lives, routes_to, storescu, wait_until
from tests.wire.test_receive import caller, store_rq

pytestmark = pytest.mark.timeout(600)

#: What 0.1.0 was: its code, units, scripts and sample configuration.
RELEASE = REPOSITORY / "tests/support/releases/edge-0.1.0.tar.xz"
OLD_SCHEMA, SCHEMA = 8, max(migrations())
KEPT = "catalog.db"


class OldEdge(Edge):
    """0.1.0, from its own code."""

    code: Path

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.code)}

    def cli(self, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        command, cwd = (
            [sys.executable, "-m", "edge", *args],
            self.directory,
        )  # `-m` searches the current directory first
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=self.environment(), check=False, cwd=cwd
        )

    def settle(self, seconds: float = 0) -> None:
        """It answers when all is in its catalog."""


class Site:
    """A data directory, its archives, and all that was answered with success."""

    def __init__(self, folder: Path, code: Path) -> None:
        self.folder, self.code, self.number = folder, code, 0
        self.archive = StoreScp(folder / "archive")
        self.vna = StoreScp(folder / "vna", "VNA")  # never commits: what it has stays `sent`
        self.config = routes_to(self.archive) + routes_to(self.vna, confirm="commitment").partition("[route")[0]
        self.config = self.config.replace('to = ["archive"]', 'to = ["archive", "vna"]')
        self.data_dir = folder / "data"
        self.port = free_port()
        self.sent: dict[str, bytes] = {}
        self.studies: set[str] = set()

    def edge(self, *, old: bool = False) -> Edge:
        self.number += 1
        OldEdge.code = self.code
        return (OldEdge if old else Edge)(
            self.folder / f"edge{self.number}", self.config, data_dir=self.data_dir, port=self.port
        )

    def send(self, edge: Edge, many: int) -> list[Path]:
        files = ct_files(self.folder / f"ct-{new_uid()[-8:]}", many, 8192)
        storescu(files, edge.port)
        self.note(files)
        return files

    def note(self, files: list[Path]) -> None:
        for file in files:
            ds = pydicom.dcmread(file)
            self.sent[str(ds.SOPInstanceUID)] = ds.PixelData
            self.studies.add(str(ds.StudyInstanceUID))

    def copy(self, folder: Path) -> Site:
        folder.mkdir()
        shutil.copytree(self.data_dir, folder / "data", ignore=shutil.ignore_patterns("control.sock"))
        for name in ("archive", "vna"):
            shutil.copytree(self.folder / name, folder / name)
        other = Site(folder, self.code)
        other.sent, other.studies = dict(self.sent), set(self.studies)
        return other

    def everything_arrives(self, edge: Edge) -> None:
        for peer in (self.archive, self.vna):
            wait_until(lambda peer=peer: self.sent.keys() <= peer.uids(), 60, f"everything is at {peer.ae_title}")
            for file in peer.files():
                assert pydicom.dcmread(file).PixelData == self.sent[sop_instance_uid(file)]

    def everything_is_proved(self, edge: Edge) -> None:
        """By the release that runs: the catalog, the files, the ledger, each study at the archive that proves."""
        for command in (["verify"], ["ledger", "verify"]):
            done = edge.cli(*command, timeout=60)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{edge.output()}"
        for study in self.studies:
            done = edge.cli("prove", study)
            assert "archive" in done.stdout, done.stderr
            assert "lost" not in done.stdout
        assert edge.status()["instances"]["lost"] == 0


def unpack_0_1_0(folder: Path) -> None:
    """The code, unit, scripts and sample configuration of the release, as they were."""
    with tarfile.open(RELEASE) as packed:
        packed.extractall(folder, filter="data")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    unpack_0_1_0(folder)
    return folder


@pytest.fixture(scope="module")
def installation(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Confirmed, sent, queued, in quarantine, half received, and in the spool without a row; then killed."""
    site = Site(tmp_path_factory.mktemp("site"), code)
    with site.edge(old=True) as edge:
        with site.archive, site.vna:
            site.send(edge, 5)
            site.everything_arrives(edge)
        (lying,) = ct_files(site.folder / "lying", 1, 8192)
        wire = caller(edge.port)
        wire.send_message(1, store_rq(new_uid()), b"\x08\x00\x05\x00ZZ\xff\xff" + dataset(lying))
        assert wire.read_command(60)[1].number(Element.STATUS) == 0xC000
        wire.close()
        assert edge.status()["instances"]["quarantined"] == 1
        site.send(edge, 7)
        edge.kill()
    spooled = next(path for path in site.data_dir.glob("spool/*/*.dcm") if sop_instance_uid(path) in site.sent)
    whole = spooled.read_bytes()
    orphan, uid = spooled.with_name(f"{time.time_ns():016x}{'ab' * 8}.dcm"), new_uid()
    orphan.write_bytes(whole.replace(sop_instance_uid(spooled).encode(), uid.encode()))
    site.note([orphan])
    (site.data_dir / "incoming" / f"{time.time_ns():016x}{'cd' * 8}.part").write_bytes(whole[: len(whole) // 2])
    return site


@pytest.fixture
def site(installation: Site, tmp_path: Path) -> Site:
    return installation.copy(tmp_path / "site")


def test_an_upgrade_killed_again_and_again_loses_nothing(site: Site) -> None:
    chance = random.Random(1)
    for _ in range(5):
        edge = site.edge()
        process = subprocess.Popen(
            edge.command(), env=edge.environment(), start_new_session=True, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.3, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda pid=process.pid: not group_lives(pid), 60, "its children have ended")  # type: ignore[misc]
    with site.archive, site.vna, site.edge() as edge:
        site.send(edge, 3)
        site.everything_arrives(edge)
        site.everything_is_proved(edge)
        assert edge.status()["instances"]["quarantined"] == 1
        assert not list((site.data_dir / "incoming").glob("*.part"))


def old_catalog(site: Site, folder: Path) -> Path:
    """Its catalog in one file, whose log needs no 64 MiB."""
    path = folder / "data" / KEPT
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(site.data_dir / KEPT)) as conn, closing(sqlite3.connect(path)) as copy:
        conn.backup(copy)
    return path


def rows_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as conn:
        return int(conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def schema_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return int(conn.execute("PRAGMA user_version").fetchone()[0])


def open_and_die(path: Path, at: int) -> int:
    """Open the catalog in a process that dies before its n-th statement; how many there were, where it did not."""
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        left, real = at, database.connect

        def connect(path: Path, **options: bool) -> sqlite3.Connection:
            conn = real(path, **options)

            def count(_sql: str) -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            conn.set_trace_callback(count)
            return conn

        database.connect, database.lay_out_log = connect, lambda _path: None
        Store(path)
        os.write(tells, str(at - left).encode())
        os._exit(0)
    os.close(tells)
    with open(told, "rb") as pipe:
        count = int(pipe.read() or 0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]) == (count == 0)
    return count


def test_killed_at_any_statement_the_catalog_is_the_old_one_or_the_new_one(installation: Site, tmp_path: Path) -> None:
    original = old_catalog(installation, tmp_path / "original")
    path = tmp_path / "data" / KEPT
    path.parent.mkdir()
    shutil.copy(original, path)
    count, seen = open_and_die(path, 0), set()
    assert count > 200
    # Of those inside the one transaction each seventh will do.
    for at in sorted({*range(1, 40), *range(40, count, 7), *range(count - 20, count + 2)}):
        for each in path.parent.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.copy(original, path)
        is_killed = not open_and_die(path, at)
        kept = kept_in(path.parent) / KEPT
        seen.add((schema_of(path), kept.exists()))
        if kept.exists():
            assert schema_of(kept) == OLD_SCHEMA
            assert rows_of(kept, "ledger") == rows_of(original, "ledger")
        assert rows_of(path, "instance") == rows_of(original, "instance")
        assert is_killed == (at <= count)
    assert seen == {(OLD_SCHEMA, False), (OLD_SCHEMA, True), (SCHEMA, True)}


def test_without_room_for_a_copy_the_upgrade_goes_on(
    installation: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = old_catalog(installation, tmp_path)
    monkeypatch.setattr("edge.store.kept_catalog.ROOM_TIMES", 1 << 40)
    Store(path).close()
    assert schema_of(path) == SCHEMA
    assert "no room to keep a copy" in caplog.text
    with pytest.raises(EdgeError, match="no catalog from before"):
        put_back(path)


def test_what_came_meanwhile_arrives_under_0_1_0_again_and_under_this_release_after_it(site: Site) -> None:
    with site.edge() as edge:
        site.send(edge, 4)
        assert edge.cli("recover", "--back-to", "0.1.0").returncode == 1  # it runs
        assert edge.stop() == 0
    done = edge.cli("recover", "--back-to", "0.1.0")
    assert done.returncode == 0, done.stderr
    assert schema_of(site.data_dir / KEPT) == OLD_SCHEMA
    with site.archive, site.vna:
        with site.edge(old=True) as edge:
            site.send(edge, 2)
            site.everything_arrives(edge)
            site.everything_is_proved(edge)
            edge.stop()
        with site.edge() as edge:
            site.send(edge, 3)
            site.everything_arrives(edge)
            site.everything_is_proved(edge)


def test_a_journal_that_is_not_applied_is_not_left_behind(site: Site) -> None:
    with site.edge() as edge, closing(sqlite3.connect(site.data_dir / KEPT, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")  # nothing is applied
        site.send(edge, 2)
        edge.kill()
    done = edge.cli("recover", "--back-to", "0.1.0")
    assert done.returncode == 1
    assert "start this release, stop it" in done.stderr
    assert schema_of(site.data_dir / KEPT) == SCHEMA
    with site.edge() as edge:
        assert edge.stop() == 0
    assert edge.cli("recover", "--back-to", "0.1.0").returncode == 0


def test_a_release_that_reads_this_catalog_needs_nothing_put_back(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "edge")
    for release, code, text in (("0.2.0", 0, "as it is"), ("0.2.1~rc1", 0, "as it is"), ("x", 2, "not a version")):
        done = edge.cli("recover", "--back-to", release)
        assert done.returncode == code
        assert text in done.stdout + done.stderr


def test_a_catalog_of_a_newer_release_is_refused_in_words_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / KEPT
    Store(path).close()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 999")
    with pytest.raises(NewerCatalog):
        Store(path)
    edge = Edge(tmp_path / "edge", data_dir=tmp_path)
    done = edge.cli("run", "--config", str(edge.config_dir))
    assert done.returncode == 1
    assert "written by a newer release" in done.stderr
    assert "edge recover --back-to" in done.stderr
