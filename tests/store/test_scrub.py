"""Bits rot: in spooled files, in the catalog, in its log. All of it is found, and what can be mended is."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from edge.dicom.part10 import IMPLEMENTATION_VERSION
from edge.errors import CatalogDamaged, StorageFull, StorageUnhealthy
from edge.model import ContextKey, Origin
from edge.storage import verify
from edge.storage.repair import Repairer
from edge.storage.scrub import Place, Scrub, place, rate, seconds_behind
from edge.storage.verify import DamageKind
from edge.store import database as store
from edge.store import integrity, kept_files, ledger, wal
from edge.store.database import Store
from edge.store.ledger_copy import Journal
from tests.support.filled import CONFIG, Filled
from tests.support.objects import ct_files, dataset
from tests.support.peers import (
    Edge,
    Orthanc,
    Peer,
    StoreScp,
    free_port,
    listens,
    requires,
    routes_to,
    storescu,
    wait_until,
)
from tests.support.web_archive import Said, WebArchive

#: Flips that `make test` makes in the catalog and in its log; the torture makes a thousand.
FLIPS = int(os.environ.get("EDGE_FLIPS", "50"))
SEED = os.environ.get("EDGE_SEED", "9")
PAGE_BYTES = 4096  # of the catalog
OURS = {IMPLEMENTATION_VERSION}


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as filled:
        yield filled


def rows(filled: Filled) -> list[verify.FileRow]:
    with filled.db.reading() as conn:
        return kept_files.kept_after(conn, 0, 1000)


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_whole_spool_is_found_whole(filled: Filled) -> None:
    filled.receive(5)
    filled.accept(b"".join((bytes(128), b"DICM", _no_header())), Origin("CT1", "EDGE", "::1", 1.5))
    assert [verify.check_file(filled.spool.path_of(row.path), row, OURS) for row in rows(filled)] == [None] * 6
    with filled.db.reading() as conn:
        assert integrity.check_pages(conn) == []
        assert list(integrity.check_rows(conn)) == []


def _no_header() -> bytes:
    from edge.dicom import part10

    meta = part10.preamble_and_meta(
        ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"), "1.2.3", Origin("", "", "", 0)
    )
    return meta[132:] + b"no data set at all"


def test_every_flipped_bit_of_a_file_is_found(filled: Filled) -> None:
    filled.receive(10)
    dice, kept = random.Random(SEED), rows(filled)
    for _ in range(1000):
        row = dice.choice(kept)
        path, bit = filled.spool.path_of(row.path), dice.randrange(row.size * 8)
        flip(path, bit)
        damage = verify.check_file(path, row, OURS)
        assert damage is not None, f"bit {bit} of {row.size} bytes, data set from byte {row.dataset_offset}"
        assert damage.part is (DamageKind.HEAD if bit // 8 < row.dataset_offset else DamageKind.DATA_SET)
        flip(path, bit)


def test_a_file_that_is_gone_short_or_long_is_found(filled: Filled) -> None:
    filled.receive(3)
    gone, short, long = rows(filled)
    filled.spool.path_of(gone.path).unlink()
    with filled.spool.path_of(short.path).open("r+b") as file:
        file.truncate(short.size - 2)
    with filled.spool.path_of(long.path).open("ab") as file:
        file.write(b"\0\0")
    found = [verify.check_file(filled.spool.path_of(row.path), row, OURS) for row in (gone, short, long)]
    assert [damage.part for damage in found if damage] == [DamageKind.MISSING, DamageKind.DATA_SET, DamageKind.DATA_SET]


def test_a_damaged_head_is_written_anew_from_the_catalog(filled: Filled) -> None:
    filled.receive(1)
    (row,) = rows(filled)
    path = filled.spool.path_of(row.path)
    whole = path.read_bytes()
    flip(path, 8 * 200)
    mended = Repairer(filled.db, filled.spool, lambda: filled.config).repair(row.instance_id)
    assert mended.whole, mended.text
    (now,) = rows(filled)
    assert filled.spool.path_of(now.path).read_bytes() == whole
    assert (filled.data_dir / "damaged" / path.name).read_bytes() != whole, "the damaged one is kept"
    assert events(filled)[-1] == ("repaired", "edge")
    assert verify.check_file(filled.spool.path_of(now.path), now, OURS) is None


def events(filled: Filled) -> list[tuple[str, str]]:
    with filled.db.reading() as conn:
        return [tuple(row) for row in conn.execute("SELECT event, who FROM ledger ORDER BY seq")]


def test_what_nobody_has_is_lost_and_said_so(filled: Filled) -> None:
    filled.receive(1)
    (row,) = rows(filled)
    flip(filled.spool.path_of(row.path), 8 * (row.dataset_offset + 100))
    mended = Repairer(filled.db, filled.spool, lambda: filled.config).repair(row.instance_id)
    assert not mended.whole
    assert "no destination has it yet" in mended.text
    assert filled.one("SELECT state FROM instance") == "lost"
    assert events(filled)[-1] == ("lost", "edge")


def test_an_instance_that_gets_another_file_while_the_first_is_examined_is_not_lost(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same object from equipment takes the place of a cached copy, for one."""
    filled.receive(1)
    (row,) = rows(filled)
    really, other = verify.check_file, row.path.replace(".dcm", "-2.dcm")

    def check_file(path: Path, *rest: Any) -> verify.Damage | None:
        os.rename(path, filled.spool.path_of(other))
        filled.execute("UPDATE instance SET path = ?", other)
        return really(path, *rest)

    monkeypatch.setattr(verify, "check_file", check_file)
    assert Repairer(filled.db, filled.spool, lambda: filled.config).repair(row.instance_id).whole
    assert filled.one("SELECT state FROM instance") == "stored"
    assert "lost" not in dict(events(filled))


def test_an_instance_that_comes_again_while_it_is_fetched_keeps_that_file(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.receive(1)
    (row,) = rows(filled)
    blob = filled.spool.path_of(row.path).read_bytes()
    flip(filled.spool.path_of(row.path), 8 * (row.dataset_offset + 100))

    def get(repairer: Repairer, row: verify.FileRow, _destination: Any) -> Any:
        partial = repairer._spool.begin(row.context_key, row.sop_instance_uid, row.origin)
        partial.write([memoryview(blob)[row.dataset_offset :]])
        assert filled.accept(blob).status == 0
        return partial.finish()

    monkeypatch.setattr(Repairer, "_get", get)
    monkeypatch.setattr(Repairer, "_holders", lambda *_: [filled.config.destinations["archive"]])
    assert Repairer(filled.db, filled.spool, lambda: filled.config).repair(row.instance_id).whole
    (now,) = rows(filled)
    assert [name for bucket in filled.spool.bucket_names() for name, _ in filled.spool.files(bucket)] == [now.path]
    assert verify.check_file(filled.spool.path_of(now.path), now, OURS) is None
    assert "repaired" not in dict(events(filled))


def test_a_digest_that_rotted_in_the_catalog_does_not_condemn_the_file(filled: Filled) -> None:
    filled.receive(1)
    filled.execute("UPDATE instance SET sha256 = ?", bytes(32))
    (row,) = rows(filled)
    mended = Repairer(filled.db, filled.spool, lambda: filled.config).repair(row.instance_id)
    assert not mended.whole
    assert "edge recover" in mended.text
    assert filled.one("SELECT state FROM instance") == "stored"


def test_a_quick_checksum_that_rotted_is_forgotten(filled: Filled) -> None:
    """It is not whole for a sender; by SHA-256 it is, and is sent by that."""
    filled.receive(1)
    filled.execute("UPDATE instance SET xxh3 = zeroblob(16), state = 'lost'")
    instance = filled.one("SELECT id FROM instance")
    assert Repairer(filled.db, filled.spool, lambda: filled.config).repair(instance).whole
    assert filled.one("SELECT state FROM instance WHERE xxh3 IS NULL") == "stored"


# -- the thread -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_the_scrub_goes_round_once_a_week_and_knows_its_place(filled: Filled) -> None:
    filled.receive(4)
    clock = Clock()
    scrub = Scrub(
        filled.db, filled.spool, Repairer(filled.db, filled.spool, lambda: filled.config), lambda: False, clock
    )
    flip(filled.spool.path_of(rows(filled)[2].path), 8 * 1000)
    scrub.step()
    scrub.step()
    assert (scrub.place.files, scrub.place.damaged, scrub.place.finished_at) == (4, 1, clock.now)
    assert filled.one("SELECT count(*) FROM instance WHERE state = 'lost'") == 1
    with filled.db.reading() as conn:
        assert place(conn) == scrub.place
    clock.now += 3 * 86_400
    assert scrub.step() > 0
    assert scrub.place.files == 4, "not again so soon"
    clock.now += 5 * 86_400
    scrub.step()
    assert scrub.place == Place(clock.now, instance_id=4, files=3, bytes=scrub.place.bytes)


def test_what_a_retrieval_found_damaged_is_examined_before_the_round(filled: Filled) -> None:
    """A cached file is forgotten: its archive gives it again."""
    filled.receive(1)
    filled.receive(1, origin=Origin("VNA", "EDGE", "10.0.0.9", 0.0, fetched_from="archive"))
    ours, cached = rows(filled)
    repairer = Repairer(filled.db, filled.spool, lambda: filled.config)
    scrub = Scrub(filled.db, filled.spool, repairer, lambda: False, Clock())
    scrub.place = Place(1_000_000.0, finished_at=1_000_000.0)
    for row in (ours, cached):
        flip(filled.spool.path_of(row.path), 8 * (row.dataset_offset + 100))
        scrub.examine(row.path)
    scrub.examine("nobody/knows.dcm")
    scrub.step()
    with filled.db.reading() as conn:
        states = [row[0] for row in conn.execute("SELECT state FROM instance ORDER BY id")]
    assert states == ["lost", "evicted"]
    assert not filled.spool.path_of(cached.path).exists()
    assert events(filled)[-2:] == [("lost", "edge"), ("evicted", "edge")]


def test_what_a_retrieval_found_damaged_is_examined_once_nothing_hinders_that(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.receive(1)
    (row,) = rows(filled)
    repairer = Repairer(filled.db, filled.spool, lambda: filled.config)
    scrub = Scrub(filled.db, filled.spool, repairer, lambda: False, Clock())
    scrub.place = Place(1_000_000.0, finished_at=1_000_000.0)
    flip(filled.spool.path_of(row.path), 8 * (row.dataset_offset + 100))
    scrub.examine(row.path)
    with monkeypatch.context() as patch:
        patch.setattr(filled.db, "write", Mock(side_effect=StorageFull("no room")))
        with pytest.raises(StorageFull):
            scrub.step()
    scrub.step()
    assert filled.one("SELECT state FROM instance") == "lost"


def test_the_scrub_waits_while_the_gateway_is_busy_but_not_for_ever(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.storage.scrub._QUIET_SECONDS", 0.0)
    filled.receive(2)
    clock, looks = Clock(), 0

    def busy() -> bool:
        nonlocal looks
        looks += 1
        clock.now += 3600
        return True

    repairer = Repairer(filled.db, filled.spool, lambda: filled.config)
    scrub = Scrub(filled.db, filled.spool, repairer, busy, clock)
    scrub.step()
    assert looks > 20, "it waited for a day"
    assert scrub.place.files == 2, "then it went on"


def test_the_rate_makes_a_round_a_week() -> None:
    terabytes = 2 << 40
    assert rate(terabytes) == pytest.approx(terabytes / (7 * 86_400))
    assert rate(0) == 256 << 10
    assert seconds_behind(Place(0.0, bytes=terabytes // 2), terabytes, 3.5 * 86_400) == pytest.approx(0, abs=1)


# -- the catalog ------------------------------------------------------------------------------------------------------

#: What custody rests on, in one row for each fact: a flip that changes none of it is no damage.
CUSTODY = (
    "SELECT id, sop_instance_uid, hex(sha256), kind_id, study_id, series_uid, state, path, size, dataset_offset,"
    " calling_ae, received_at, open_deliveries FROM instance",
    "SELECT instance_id, destination, kind_id, state FROM delivery",
    "SELECT * FROM kind",
    "SELECT id, study_uid FROM study",
    "SELECT seq, at, event, who, study_id, instances, destination, detail, payload, hex(hash) FROM ledger",
    "SELECT * FROM tally WHERE n <> 0 OR bytes <> 0",
)


def custody(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as conn:
        return [sorted(map(repr, conn.execute(sql))) for sql in CUSTODY]


def found_in(data_dir: Path) -> list[str]:
    """What `edge verify` finds in a catalog and the files that it speaks of."""
    found = []
    try:
        with closing(store.connect(data_dir / "catalog.db", read_only=True)) as conn:
            found = integrity.check_pages(conn) or list(integrity.check_rows(conn))
            if not found and (broken := ledger.check(conn)):
                found.append(broken.text)
            if not found:
                root = data_dir / "spool"
                damaged = (
                    verify.check_file(root / row.path, row, OURS) for row in kept_files.kept_after(conn, 0, 1000)
                )
                found = [damage.text for damage in damaged if damage]
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        found.append(str(error))
    return found


@pytest.fixture
def history(filled: Filled) -> Path:
    """A catalog with some past, closed; its data directory."""
    for _ in range(4):
        filled.receive(10)
    filled.settle("archive", 25)
    filled.close()
    return filled.data_dir


def test_every_flipped_bit_of_the_catalog_that_matters_is_found(history: Path) -> None:
    catalog = history / "catalog.db"
    before, whole, dice = custody(catalog), catalog.read_bytes(), random.Random(SEED)
    assert found_in(history) == []
    # Of tables and indexes that nothing is in there are many.
    used = [at for at in range(0, len(whole), PAGE_BYTES) if PAGE_BYTES - whole.count(0, at, at + PAGE_BYTES) > 32]
    mattered = 0
    for _ in range(2 * FLIPS):
        bit = dice.choice(used) * 8 + dice.randrange(PAGE_BYTES * 8)
        flip(catalog, bit)
        found = found_in(history)
        if not found:
            unseen = [set(now) ^ set(then) for now, then in zip(custody(catalog), before, strict=True)]
            assert not any(unseen), f"bit {bit % 8} of byte {bit // 8} changes custody, and nobody sees it: {unseen}"
        mattered += bool(found)
        catalog.write_bytes(whole)
    assert mattered > FLIPS / 5, "most of a page is free or holds what nothing rests on"


def test_a_page_that_cannot_be_read_stops_the_gateway(history: Path) -> None:
    with closing(sqlite3.connect(history / "catalog.db")) as conn:
        (root,) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'delivery'").fetchone()
    with (history / "catalog.db").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    with pytest.raises(CatalogDamaged):
        wal.quick_check(history / "catalog.db", 10.0)
    for use in (_read, _write):
        database = Store(history / "catalog.db")
        with pytest.raises(StorageUnhealthy, match="edge recover"):
            use(database)
        assert database.failure is not None
        database.close()


def _read(database: Store) -> None:
    with database.reading() as conn:
        conn.execute("SELECT * FROM delivery").fetchall()


def _write(database: Store) -> None:
    database.write(lambda conn: conn.execute("UPDATE delivery SET reason = 'x'").rowcount)


# -- its log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def killed(filled: Filled, tmp_path: Path) -> Path:
    """The data directory of a gateway that was killed: much of the catalog is in its log alone."""
    filled.receive(10)
    filled.db.checkpoint()
    filled.receive(5)
    filled.settle("archive", 5)
    with filled.db.reading() as conn:
        assert Journal(filled.data_dir).write(conn) > 15
    shutil.copytree(filled.data_dir, tmp_path / "killed")
    (tmp_path / "killed" / "catalog.db-shm").unlink()
    return tmp_path / "killed"


def live_bytes(data_dir: Path) -> int:
    """How much of the log counts."""
    with closing(store.connect(data_dir / "catalog.db", read_only=True)) as conn:
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
        frames = int.from_bytes((data_dir / "catalog.db-shm").read_bytes()[16:20], "little")
    (data_dir / "catalog.db-shm").unlink()
    return 32 + frames * (24 + 4096)


def test_every_flipped_bit_of_the_log_is_found(killed: Path) -> None:
    catalog, log = killed / "catalog.db", killed / "catalog.db-wal"
    bits, whole, dice = 8 * live_bytes(killed), log.read_bytes(), random.Random(SEED)
    assert wal.lost_commits(catalog) == 0
    assert wal.damaged_frame(catalog, in_use=True) == 0
    for _ in range(FLIPS):
        bit = dice.randrange(bits)
        flip(log, bit)
        assert wal.damaged_frame(catalog, in_use=True), f"byte {bit // 8}: not found by verify"
        (killed / "catalog.db-shm").unlink(missing_ok=True)
        assert wal.lost_commits(catalog) > 1 or journal_sees(killed), f"byte {bit // 8}: not found at the start"
        log.write_bytes(whole)


def journal_sees(data_dir: Path) -> str:
    with closing(store.connect(data_dir / "catalog.db", read_only=True)) as conn:
        return Journal(data_dir).find_vanished(conn)


def test_a_last_transaction_that_a_crash_has_torn_is_no_rot(killed: Path) -> None:
    end = live_bytes(killed)
    with (killed / "catalog.db-wal").open("r+b") as log:
        log.truncate(end - 100)
    assert wal.lost_commits(killed / "catalog.db") <= 1, "more would keep the gateway from starting"
    assert wal.damaged_frame(killed / "catalog.db", in_use=False) == 0


def test_a_log_that_was_only_laid_out_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Store(path).close()
    store.lay_out_log(path)
    assert not wal.is_gone(path)
    assert wal.lost_commits(path) == 0
    Store(path).close()


def test_a_log_without_its_catalog_is_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    assert not wal.is_gone(path), "a first start"
    Store(path).close()
    store.lay_out_log(path)
    path.unlink()
    assert wal.is_gone(path)


def test_a_catalog_that_is_gone_is_missed_by_its_log(killed: Path) -> None:
    (killed / "catalog.db").unlink()
    assert wal.is_gone(killed / "catalog.db")


# -- the journal ------------------------------------------------------------------------------------------------------


def test_a_failed_sync_of_the_journal_is_a_failure_of_the_storage(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    filled.receive(1)
    monkeypatch.setattr("edge.store.ledger_copy.os.fsync", fail)
    with filled.db.reading() as conn, pytest.raises(StorageUnhealthy, match=r"sync of .*jsonl failed"):
        Journal(filled.data_dir).write(conn)


def test_the_journal_goes_on_behind_a_torn_line(filled: Filled) -> None:
    filled.receive(3)
    with filled.db.reading() as conn:
        assert Journal(filled.data_dir).write(conn) == 3
    (path,) = (filled.data_dir / "journal").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    filled.receive(2)
    journal = Journal(filled.data_dir)
    with filled.db.reading() as conn:
        assert journal.write(conn) == 3
        assert [entry.seq for entry in journal.entries()] == [1, 2, 3, 4, 5]
        assert journal.find_vanished(conn) == ""
    before = bytes(32)
    for entry in journal.entries():
        assert entry.follows(before)
        before = entry.hash


# -- with real peers --------------------------------------------------------------------------------------------------


class QrScp(Peer):
    """DCMTK `dcmqrscp`: stores, and gives back by C-GET. Two associations at once may choose one file name."""

    name = "dcmqrscp"
    ae_title = "QRSCP"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        (directory / "store").mkdir()
        (directory / "qr.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            "HostTable BEGIN\nedge = (EDGE, localhost, 104)\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nQRSCP {directory}/store RW (200, 1024mb) ANY\nAETable END\n"
        )

    def command(self) -> list[str]:
        return [requires("dcmqrscp"), "-v", "-c", str(self.directory / "qr.cfg")]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port)


@pytest.mark.parametrize("kind", ["Orthanc", "dcmqrscp"])
def test_a_rotten_file_is_fetched_again_from_where_it_was_sent(kind: str, tmp_path: Path, running: ExitStack) -> None:
    port = free_port()
    archive: Any = Orthanc(tmp_path / "archive", port) if kind == "Orthanc" else QrScp(tmp_path / "archive")
    running.enter_context(archive)
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive, more="associations = 1"), port=port))
    sent = ct_files(tmp_path / "ct", 4, 200_000)
    storescu(sent, edge.port)
    name = archive.ae_title.lower()
    wait_until(lambda: edge.api_status()["destinations"][name]["confirmed"] == 4, 20, "all are sent")
    rotten, gone, *_ = sorted((edge.data_dir / "spool").rglob("*.dcm"))
    whole = {dataset(path) for path in sent}
    flip(rotten, 8 * 100_000)
    gone.unlink()
    found = edge.cli("verify", "--json")
    assert found.returncode == 1
    assert sorted(each["part"] for each in json.loads(found.stdout)["damaged"]) == ["data set", "missing"]
    repaired = edge.cli("verify", "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert f"fetched from {name}" in repaired.stdout
    assert {dataset(path) for path in (edge.data_dir / "spool").rglob("*.dcm")} == whole
    assert [path.name for path in (edge.data_dir / "damaged").iterdir()] == [rotten.name]
    assert edge.cli("verify").returncode == 0
    assert edge.cli("ledger", "verify").returncode == 0
    assert edge.api_status()["instances"]["lost"] == 0


def test_a_rotten_file_is_fetched_again_by_wado_rs(tmp_path: Path) -> None:
    whole: list[bytes] = []
    server = WebArchive(lambda _: Said(200, whole[0], {"Content-Type": "application/dicom"}) if whole else Said(404))
    cloud = f'[destination.archive]\nkind = "dicomweb"\nurl = "{server.url}"\n'
    dimse = '[destination.archive]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = 104\n'
    with closing(server), Filled(tmp_path, CONFIG.replace(dimse, cloud)) as filled:
        filled.receive(1)
        filled.settle("archive", 1)
        (row,) = rows(filled)
        path = filled.spool.path_of(row.path)
        blob = path.read_bytes()
        flip(path, 8 * (row.dataset_offset + 100))
        repairer = Repairer(filled.db, filled.spool, lambda: filled.config)
        assert "archive: it does not have it" in repairer.repair(row.instance_id).text
        whole.append(blob)
        assert repairer.repair(row.instance_id).text == "fetched from archive"
        assert filled.one("SELECT state FROM instance") == "stored"


def test_only_what_was_received_is_taken_back(tmp_path: Path, running: ExitStack) -> None:
    """The archive's own copy has rotted as well: no repair, but an alarm."""
    archive = running.enter_context(QrScp(tmp_path / "archive"))
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    storescu(ct_files(tmp_path / "ct", 1, 200_000), edge.port)
    wait_until(lambda: edge.api_status()["destinations"]["qrscp"]["confirmed"] == 1, 20, "it is sent")
    (ours,) = (edge.data_dir / "spool").rglob("*.dcm")
    (theirs,) = (path for path in (tmp_path / "archive" / "store").iterdir() if path.name != "index.dat")
    flip(ours, 8 * 100_000)
    flip(theirs, 8 * 100_000 + 1)
    done = edge.cli("verify", "--repair", "--json")
    assert done.returncode == 1
    (damaged,) = json.loads(done.stdout)["damaged"]
    assert not damaged["repair"]["whole"]
    assert "qrscp: it gives back another data set than it was sent (SHA-256 differs)" in damaged["repair"]["text"]
    status = edge.api_status()
    assert status["instances"]["lost"] == 1
    assert "lost" in {alert["kind"] for alert in status["alerts"]}
    assert ours.exists(), "what is damaged stays until it is repaired"


def test_a_rotten_file_is_never_sent_as_good_and_goes_on_when_it_is_whole_again(
    tmp_path: Path, running: ExitStack
) -> None:
    """Two destinations: one has it; to the other it goes only after the first has given it back."""
    port = free_port()
    first, second = Orthanc(tmp_path / "orthanc", port), StoreScp(tmp_path / "archive")
    running.enter_context(first)
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(first, second), port=port))
    sent = ct_files(tmp_path / "ct", 1, 200_000)
    storescu(sent, edge.port)
    wait_until(lambda: edge.api_status()["destinations"]["orthanc"]["confirmed"] == 1, 20, "the first has it")
    (path,) = (edge.data_dir / "spool").rglob("*.dcm")
    flip(path, 8 * 100_000)
    running.enter_context(second)
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["held"] == 1, 90, "the rot is seen at sending")
    assert second.files() == []
    assert edge.cli("verify", "--repair").returncode == 0
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 1, 30, "it goes on by itself")
    assert [dataset(each) for each in second.files()] == [dataset(sent[0])]


@pytest.mark.parametrize("how", ["gone", "page", "log"])
def test_a_catalog_is_recovered(how: str, tmp_path: Path, running: ExitStack) -> None:
    archive, late = running.enter_context(StoreScp(tmp_path / "archive")), StoreScp(tmp_path / "late", "LATE")
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive, late)))
    sent = ct_files(tmp_path / "ct", 30, 20_000)
    with closing(store.connect(edge.data_dir / "catalog.db", read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM instance").fetchone()  # while it reads, the log does not begin anew
        storescu(sent, edge.port)
        wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 30, 20, "the archive has all")
        wait_until(lambda: _journaled(edge) == 30, 20, "the journal has it")
        edge.kill()
    _damage(edge.data_dir / "catalog.db", how)
    refused = edge.cli("run")
    assert refused.returncode == 1
    assert "edge recover" in refused.stderr, refused.stderr
    done = edge.cli("recover", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["instances"], told["adopted"], told["lost"], told["ledger_missing"]) == (30, 0, 0, 0), told
    running.enter_context(late)
    edge.start()
    wait_until(lambda: edge.api_status()["destinations"]["late"]["confirmed"] == 30, 100, "the rest is sent")
    assert archive.stores() == 30, "what was there is not sent again"
    assert {dataset(path) for path in late.files()} == {dataset(path) for path in sent}
    verified = edge.cli("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    study = json.loads(edge.cli("studies", "list", "--json").stdout)
    uid = (study["studies"] if isinstance(study, dict) else study)[0]["study_uid"]
    proved = edge.cli("prove", uid)
    assert proved.returncode == 0, proved.stdout


def _journaled(edge: Edge) -> int:
    """How many confirmations the journal has."""
    entries = Journal(edge.data_dir).entries()
    return sum(len(json.loads(entry.instances)) for entry in entries if entry.event == ledger.CONFIRMED)


def _damage(catalog: Path, how: str) -> None:
    log = Path(f"{catalog}-wal")
    if how == "log":
        flip(log, 8 * 50_000)
        return
    if how == "page":
        with closing(sqlite3.connect(catalog)) as conn:  # the log into the file
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (root,) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'instance'").fetchone()
        with catalog.open("r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(random.Random(1).randbytes(4096))
        return
    for path in (catalog, log, Path(f"{catalog}-shm")):
        path.unlink(missing_ok=True)
