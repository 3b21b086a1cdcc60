"""The one writer: durable, shared by those who wait together, and silent for ever after a failed sync."""

from __future__ import annotations

import sqlite3
import threading
from importlib import resources
from pathlib import Path

import pytest

from edge.errors import CatalogError, StorageFull, StorageUnhealthy
from edge.store import database, sqlite_file
from edge.store.database import Store, Transaction, connect, migrate


@pytest.fixture
def db(tmp_path: Path) -> Store:
    database = Store(tmp_path / "catalog.db")
    database.write(lambda conn: conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)").rowcount)
    return database


def insert(value: int):
    return lambda conn: conn.execute("INSERT INTO t VALUES (?)", (value,)).rowcount


def values(db: Store) -> list[int]:
    with db.reading() as conn:
        return [row[0] for row in conn.execute("SELECT a FROM t ORDER BY a")]


def test_the_pragmas_that_the_promise_needs(db: Store) -> None:
    assert db._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_write_is_seen_by_readers_and_returns_its_result(db: Store) -> None:
    assert db.write(insert(1)) == 1
    assert values(db) == [1]


def test_work_that_raises_is_rolled_back_alone(db: Store) -> None:
    def half(conn: Transaction) -> None:
        conn.execute("INSERT INTO t VALUES (2)")
        raise KeyError("no")

    with pytest.raises(KeyError):
        db.write(half)
    db.write(insert(3))
    assert values(db) == [3]


class Gate:
    """A barrier that lets the test decide when its sync ends."""

    def __init__(self) -> None:
        self.entered, self.leave, self.syncs = threading.Event(), threading.Event(), 0

    def sync(self) -> None:
        self.syncs += 1
        self.entered.set()
        assert self.leave.wait(60)


def test_those_who_wait_together_share_one_commit_and_one_sync(db: Store) -> None:
    gate, shared = Gate(), Gate()
    shared.leave.set()
    commits: list[str] = []
    db._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    first = threading.Thread(target=db.write, args=(insert(0), gate))
    first.start()
    assert gate.entered.wait(60)
    others = [threading.Thread(target=db.write, args=(insert(n), shared)) for n in range(1, 9)]
    for thread in others:
        thread.start()
    while len(db._waiting) < len(others):
        threading.Event().wait(0.001)
    gate.leave.set()
    for thread in [first, *others]:
        thread.join(60)
    assert values(db) == list(range(9))
    assert shared.syncs == 1
    assert len(commits) == 2


def test_one_failing_work_does_not_hurt_its_group(db: Store) -> None:
    gate = Gate()
    errors: list[BaseException] = []

    def fail() -> None:
        try:
            db.write(insert(5))
            db.write(insert(5))
        except CatalogError as error:
            errors.append(error)

    blocker = threading.Thread(target=db.write, args=(insert(0), gate))
    blocker.start()
    assert gate.entered.wait(60)
    threads = [threading.Thread(target=fail), threading.Thread(target=db.write, args=(insert(6),))]
    for thread in threads:
        thread.start()
    gate.leave.set()
    for thread in [blocker, *threads]:
        thread.join(60)
    assert values(db) == [0, 5, 6]
    assert len(errors) == 1


@pytest.mark.parametrize("has_reserve", [True, False])
def test_what_is_committed_stays_done_where_the_disk_is_full_for_another_of_its_group(
    tmp_path: Path, has_reserve: bool
) -> None:
    def make_room() -> bool:
        if has_reserve:
            db._writer.execute("PRAGMA max_page_count = 1073741823")
        return has_reserve

    def fail(conn: Transaction) -> int:
        raise KeyError("a fault of this one alone")

    def fill(conn: Transaction) -> int:
        return conn.execute("INSERT INTO t VALUES (zeroblob(100000))").rowcount

    db = Store(tmp_path / "catalog.db", make_room)
    db.write(lambda conn: conn.execute("CREATE TABLE t (a)").rowcount)
    db._writer.execute("PRAGMA max_page_count = 1")  # as many as there are
    jobs = [database._Write(work, None) for work in (insert(1), fail, fill)]
    db._waiting.extend(jobs)
    db._commit_all()
    assert jobs[0].error is None
    assert isinstance(jobs[1].error, KeyError)
    assert isinstance(jobs[2].error, StorageFull) is not has_reserve
    assert db.read(lambda conn: conn.execute("SELECT count(*) FROM t").fetchone()[0]) == 1 + has_reserve
    db.close()


class Broken:
    def sync(self) -> None:
        raise StorageUnhealthy("sync of the directory failed (Input/output error)")


def test_after_a_failed_sync_nothing_is_written_any_more(db: Store) -> None:
    with pytest.raises(StorageUnhealthy, match="directory"):
        db.write(insert(1), Broken())
    with pytest.raises(StorageUnhealthy, match="directory"):
        db.write(insert(2))
    assert values(db) == []
    assert db.failure is not None


def test_after_a_failure_the_log_is_left_as_it_is(db: Store) -> None:
    db.write(insert(1))
    db.fail("the disk is broken")
    before = db.path.read_bytes()
    db.checkpoint()
    assert db.path.read_bytes() == before


def test_a_full_disk_is_not_a_broken_one(db: Store) -> None:
    db._writer.execute("PRAGMA max_page_count = 1")

    def fill(conn: Transaction) -> None:
        conn.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(100_000)])

    with pytest.raises(StorageFull):
        db.write(fill)
    db._writer.execute("PRAGMA max_page_count = 1073741823")
    db.write(insert(7))
    assert values(db) == [7]
    assert db.failure is None


def test_migrations_apply_once_and_keep_what_is_there(tmp_path: Path) -> None:
    conn = connect(tmp_path / "catalog.db")
    migrate(conn)
    conn.execute("INSERT INTO gateway VALUES ('a', 'b')")
    migrate(conn)
    assert conn.execute("SELECT value FROM gateway").fetchone()[0] == "b"
    conn.close()


def test_the_log_has_its_blocks_from_the_first_start_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that overwrites blocks is synced in half the time of one that makes the file longer."""
    monkeypatch.setattr(sqlite_file, "WAL_RESTART_PAGES", database.WAL_RESTART_PAGES)  # as in a clinic
    for start in ("first", "second"):
        db = Store(tmp_path / "catalog.db")
        log = tmp_path / "catalog.db-wal"
        laid_out = log.stat().st_size
        assert laid_out > 1 << 20, start
        db.write(lambda conn: conn.execute("INSERT OR REPLACE INTO gateway VALUES ('a', 'b')"))
        assert log.stat().st_size == laid_out, start
        db.close()


def test_a_long_reader_keeps_no_writer_waiting_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a lock does so for an hour here: it would not come back."""
    monkeypatch.setattr(sqlite_file, "LOCK_SECONDS", 3600.0)
    monkeypatch.setattr(database, "WAL_RESTART_PAGES", 0)
    db = Store(tmp_path / "catalog.db")
    db.write(lambda conn: conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)").rowcount)
    with db.reading() as conn:
        conn.execute("SELECT * FROM t").fetchall()
        db.write(insert(1))
        checkpoint = threading.Thread(target=db.checkpoint, daemon=True)
        checkpoint.start()
        checkpoint.join(60)
        assert not checkpoint.is_alive()
        assert db.write(insert(2)) == 1
    assert values(db) == [1, 2]


def test_checkpoint_keeps_everything(db: Store, tmp_path: Path) -> None:
    db.write(insert(1))
    db.checkpoint()
    db.close()
    conn = sqlite3.connect(tmp_path / "catalog.db")
    assert conn.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    conn.close()


def test_an_older_catalog_gets_codes_for_what_it_held(tmp_path: Path) -> None:
    """The sentences of 0.1.0 become codes once; new states are allowed, unknown ones are not."""
    conn = connect(tmp_path / "catalog.db")
    folder = resources.files("edge.store") / "migrations"
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name < "0009"):
        conn.executescript((folder / name).read_text())
        conn.execute(f"PRAGMA user_version = {int(name[:4])}")
    conn.execute("INSERT INTO kind VALUES (1, '1.2', '1.2')")
    reasons = {
        "a": ("conflict: other bytes came before under the same SOP Instance UID", "conflict"),
        "": ("no route matched: add one, then `edge queue retry`", "unroutable"),
        "b": ("held by ann", "person"),
        "c": ("the spooled file is gone", "damaged"),
        "d": ('the destination cannot understand the object (status C000): "Doe^John"', "refused"),
    }
    conn.execute(
        "INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, state, path, size, dataset_offset, calling_ae,"
        " called_ae, address, received_at) VALUES (1, '1.2.3', x'00', 1, 'stored', 'a/b', 9, 0, '', '', '', 0)"
    )
    for destination, (words, _) in reasons.items():
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, reason, queued_at)"
            " VALUES (1, ?, 1, 9, 2, 'held', ?, 0)",
            (destination, words),
        )
    conn.execute("UPDATE delivery SET status = 49152 WHERE destination = 'd'")
    migrate(conn)
    parted = conn.execute("SELECT reason, peer_text, breaks FROM delivery WHERE destination = 'd'").fetchone()
    assert parted[:] == ("the destination cannot understand the object (status C000)", "Doe^John", 0)
    found = dict(conn.execute("SELECT destination, reason_code FROM delivery").fetchall())
    assert found == {destination: code for destination, (_, code) in reasons.items()}
    conn.execute("UPDATE delivery SET state = 'cancelled', cancelled_at = 7")
    assert conn.execute("SELECT open_deliveries, confirmed_at FROM instance").fetchone()[:] == (0, 7)
    conn.execute("UPDATE instance SET state = 'discarded'")
    for table in ("instance", "delivery"):
        with pytest.raises(sqlite3.IntegrityError):
            conn.execute(f"UPDATE {table} SET state = 'no such state'")
    assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    conn.close()
