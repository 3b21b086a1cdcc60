"""Room on the disk: nothing that is not proved elsewhere ever goes, and what may go goes in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import worker
from edge.config.sections import Config, ConsoleSection, Hold, Listen, SiteSection, StorageSection
from edge.config.sections import RetentionSection as Keep
from edge.errors import StorageFull
from edge.model import Assignment, AttemptResult, ContextKey, Disk, InstanceHeader, Origin, Outcome, Priority
from edge.spool import Spool
from edge.spool.room import DiskGuard, disk_of
from edge.storage import recovery, retention
from edge.storage.reserve import ReserveFile
from edge.storage.retention import BELOW_WARN, Retention, apply_holds, plan, to_free
from edge.store import catalog, database, deliveries, eviction, leases, ledger, operator_actions
from edge.store.database import Store, Transaction
from edge.store.eviction import Candidate
from tests.support.ledger_rows import with_words
from tests.support.objects import new_uid
from tests.support.peers import absent, run, wait_until

CT = ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
T0 = 1_000_000.0
DAY = 86_400.0


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


def config(warn: float = 0.80, refuse: float = 0.95, keep: float = 0.0, **holds: Hold) -> Config:
    site, listen = SiteSection("0067", "Test", Path("data")), Listen()
    return Config(site, listen, {}, {}, {}, holds, StorageSection(warn, refuse), Keep(keep), ConsoleSection())


class StoredObjects:
    """Spool, catalog and retention without the rest: objects come and are proved by the test's hand."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.config = Clock(), config()
        self.directory = directory
        self.disk: Callable[[], Any] = lambda: disk_of(directory)
        self.gate = DiskGuard(lambda: self.config, self._disk)
        self.spool = Spool(directory, self.gate.check_room, self.clock)
        self.db = Store(directory / "catalog.db")
        self.doubts_clock = False
        self.retention = Retention(
            self.db,
            self.spool,
            lambda: self.config,
            self._disk,
            doubts_clock=lambda: self.doubts_clock,
            clock=self.clock,
        )

    def _disk(self) -> Any:
        return self.disk()

    def close(self) -> None:
        self.db.close()
        self.spool.close()

    def take(self, size: int = 1000, study: str = "1.2.3", hold: str = "", to: tuple[str, ...] = ("archive",)) -> int:
        """An object arrives, for some destinations. Returns the instance's number."""
        uid = new_uid()
        origin = Origin("CT1", "EDGE", "127.0.0.1", self.clock())
        self.gate.check_room()
        partial = self.spool.begin(CT, uid, origin)
        try:
            partial.write([memoryview(os.urandom(size))])
        except StorageFull:
            partial.discard()
            raise
        stored = partial.finish()
        facts = InstanceHeader(CT.sop_class_uid, uid, CT.transfer_syntax_uid, origin, {"StudyInstanceUID": (study,)})

        def work(conn: Transaction) -> int:
            added = catalog.add(conn, facts, stored, hold)
            assignments = [Assignment(each, Priority.ROUTINE, "all") for each in to]
            deliveries.enqueue(conn, added.instance_id, added.kind_id, stored.size, assignments, self.clock())
            return added.instance_id

        return self.db.write(work, stored.bucket)

    def prove(self, count: int, destination: str = "archive") -> None:
        """The destination confirms the oldest that are queued, now."""

        def work(conn: Transaction) -> None:
            works = leases.lease(conn, destination, "node", self.clock(), count, 1 << 50)
            settled = [AttemptResult(each, Outcome.SENT, status=0) for each in works]
            deliveries.record_attempts(conn, settled, self.clock(), proved_by_status=True)

        self.db.write(work)

    def proved(self, count: int = 1, size: int = 1000, **more: Any) -> list[int]:
        """Objects that came and were confirmed, one a second."""
        made = []
        for _ in range(count):
            made.append(self.take(size, **more))
            self.clock.now += 1
            self.prove(1)
        return made

    def rows(self, column: str = "state") -> dict[int, Any]:
        with self.db.reading() as conn:
            return dict(conn.execute(f"SELECT id, {column} FROM instance").fetchall())

    def evicted(self) -> list[int]:
        return [number for number, state in self.rows().items() if state == "evicted"]

    def files(self) -> set[str]:
        return {name for bucket in self.spool.bucket_names() for name, _ in self.spool.files(bucket)}

    def stored_paths(self) -> set[str]:
        states = self.rows()
        return {path for number, path in self.rows("path").items() if states[number] == "stored"}

    def evictions(self) -> list[tuple[str, str]]:
        """(instances, detail) of the ledger's rows."""
        with self.db.reading() as conn:
            assert ledger.check(conn) is None
            found = with_words(conn).execute(
                "SELECT instances, words(event, detail, payload) FROM ledger WHERE event = 'evicted' ORDER BY seq"
            )
            return [tuple(row) for row in found]

    def pretend(self, used: float, total: int = 100_000) -> None:
        """The disk is so full, whatever is done."""
        self.disk = lambda: Disk(total, round(total * (1 - used)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoredObjects]:
    made = StoredObjects(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 48 MB."""
    if os.geteuid() != 0:
        absent("root, to mount a small file system")
    image, mount = tmp_path / "disk.img", tmp_path / "disk"
    mount.mkdir()
    if request.param == "tmpfs":
        run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(mount)])
    else:
        with image.open("wb") as file:
            file.truncate(48 << 20)
        run(["mkfs.ext4", "-q", "-m", "0", str(image)])
        run(["mount", "-o", "loop", str(image), str(mount)])
    yield mount
    run(["umount", "--lazy", str(mount)])


# -- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "warn", "expected"),
    [
        (0.10, 0.80, 0),
        (0.80, 0.80, 0),
        (0.81, 0.80, 6000),
        (0.99, 0.80, 24_000),
        (0.06, 0.03, 6000),  # never below nothing
    ],
)
def test_how_much_is_to_be_freed(used: float, warn: float, expected: int) -> None:
    assert to_free(Disk(100_000, round(100_000 * (1 - used))), warn) == pytest.approx(expected, abs=1)


CANDIDATES = st.builds(
    Candidate,
    instance_id=st.integers(1, 10_000),
    study_id=st.none() | st.integers(1, 9),
    path=st.just("b/x.dcm"),
    size=st.integers(0, 5_000),
    open_deliveries=st.sampled_from([0, 0, 0, 1, 2]),
    hold=st.sampled_from(["", "", "", "hold.trial"]),
    confirmed_at=st.none() | st.floats(0, 1000),
)


@given(st.lists(CANDIDATES, max_size=40), st.integers(-10, 30_000), st.floats(0, 1000))
def test_the_plan_never_names_what_must_stay(candidates: list[Candidate], needed: int, before: float) -> None:
    chosen = plan(candidates, needed, before)
    may_go = [
        each
        for each in candidates
        if each.open_deliveries == 0 and not each.hold and each.confirmed_at is not None and each.confirmed_at <= before
    ]
    assert all(each in may_go for each in chosen)
    assert sum(each.size for each in chosen[:-1]) < max(needed, 1)  # no more than needed
    assert sum(each.size for each in chosen) >= needed or len(chosen) == len(may_go)  # and no less, where it can be
    ages = [each.confirmed_at for each in chosen]
    assert ages == sorted(each.confirmed_at for each in may_go)[: len(chosen)]  # the oldest


# -- evicting ---------------------------------------------------------------------------------------------------------


def test_what_a_note_says_is_expired_goes_first_and_young_but_only_once_it_is_proved(store: StoredObjects) -> None:
    store.config = config(keep=30 * DAY)
    store.proved(2, size=3000)  # old enough to go
    store.clock.now += 31 * DAY
    young, owed = store.proved(2, size=3000), store.take(size=3000)
    uids = store.rows("sop_instance_uid")
    rejected = [(uids[each],) for each in (*young, owed)]
    sql = "INSERT INTO rejected_instance VALUES (?, '113039', '1.2', 1, 1.0)"
    store.db.write(lambda conn: conn.executemany(sql, rejected))
    store.pretend(0.801)  # 5,100 bytes are to go: two objects
    assert store.retention.make_room() == 2
    assert store.evicted() == young


def test_the_oldest_confirmed_goes_first_down_to_the_low_mark(store: StoredObjects) -> None:
    numbers = store.proved(20, size=1000)
    size = store.rows("size")[numbers[0]]
    store.pretend(0.81)  # of 100,000 bytes: 6,000 are to go
    expected = numbers[: -(-6000 // size)]
    assert store.retention.make_room() == len(expected)
    assert store.evicted() == expected
    assert store.files() == store.stored_paths()


def test_the_order_is_that_of_confirmation_not_of_arrival(store: StoredObjects) -> None:
    first, second = store.take(to=("slow",)), store.take()
    store.prove(1)
    store.clock.now += 1
    store.prove(1, "slow")
    store.pretend(0.81, total=10_000)
    store.retention.make_room()
    assert store.evicted() == [second] != [first]


def test_up_to_the_mark_nothing_goes_however_old(store: StoredObjects) -> None:
    store.proved(3)
    store.clock.now += 1000 * DAY
    store.pretend(0.80)
    assert store.retention.make_room() == 0


@pytest.mark.parametrize("why", ["unconfirmed", "sent", "half", "held", "young", "unroutable"])
def test_what_must_stay_stays_and_receiving_stops_instead(store: StoredObjects, why: str) -> None:
    if why == "unconfirmed":
        store.take()
    elif why == "sent":  # answered with success, but not yet proved
        store.take()
        store.db.write(_send_all)
    elif why == "half":  # one of two destinations
        store.take(to=("archive", "other"))
        store.prove(1)
    elif why == "held":
        store.proved(hold="hold.trial")
    elif why == "unroutable":
        store.take(to=(deliveries.UNROUTABLE,))
    else:
        store.proved()
        store.config = config(keep=30 * DAY)
        store.clock.now += 30 * DAY - 1
    store.pretend(0.99)
    assert store.retention.make_room() == 0
    assert store.evicted() == []
    assert len(store.files()) == 1
    store.clock.now += 0.5
    with pytest.raises(StorageFull, match=r"99\.0% full"):
        store.take()
    if why == "young":
        store.clock.now += 1
        assert store.retention.make_room() == 1


def _send_all(conn: Transaction) -> None:
    works = leases.lease(conn, "archive", "node", T0, 100, 1 << 40)
    deliveries.record_attempts(
        conn, [AttemptResult(each, Outcome.SENT, status=0) for each in works], T0, proved_by_status=False
    )


def test_what_is_kept_does_not_stand_in_the_way(store: StoredObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVICT_AT_ONCE", 1)
    store.proved(2, hold="hold.trial")
    store.take(to=("other",))
    [number] = store.proved()
    store.pretend(0.99)
    assert store.retention.make_room() == 1
    assert store.evicted() == [number]


@pytest.mark.parametrize("what", ["a new delivery", "an open one", "a hold", "lost", "too young"])
def test_what_happens_between_the_look_and_the_commit_counts(
    store: StoredObjects, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The guard of the UPDATE itself: here the plan is wrong."""
    [number] = store.proved()
    with store.db.reading() as conn:
        seen = eviction.oldest_confirmed(conn, 10)
    changes = {
        "a new delivery": "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
        " VALUES (?, 'new', 1, 1, 2, 'pending', 1)",
        "an open one": "UPDATE instance SET open_deliveries = 1 WHERE id = ?",
        "a hold": "UPDATE instance SET hold = 'hold.x' WHERE id = ?",
        "lost": "UPDATE instance SET state = 'lost' WHERE id = ?",
        "too young": "UPDATE instance SET confirmed_at = confirmed_at + 10 WHERE id = ?",
    }
    store.db.write(lambda conn: conn.execute(changes[what], (number,)).rowcount)
    monkeypatch.setattr(retention, "plan", lambda *_: seen)
    store.pretend(0.99)
    assert store.retention.make_room() == 0
    assert store.rows()[number] == ("lost" if what == "lost" else "stored")
    assert len(store.files()) == 1


def test_an_eviction_is_on_record_by_study(store: StoredObjects) -> None:
    a, b = store.proved(2, study="1.1"), store.proved(1, study="1.2")
    store.pretend(0.99)
    assert store.retention.make_room() == 3
    assert store.evictions() == [
        (str(a), "every destination has confirmed it; the disk was 99.0% full"),
        (str(b), "every destination has confirmed it; the disk was 99.0% full"),
    ]


def test_many_go_in_batches(store: StoredObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVICT_AT_ONCE", 4)
    store.proved(10, size=10)
    store.pretend(0.99, total=1 << 30)
    assert store.retention.make_room() == 10
    assert [len(numbers.split(",")) for numbers, _ in store.evictions()] == [4, 4, 2]
    assert store.files() == set()


@pytest.mark.parametrize(
    "meanwhile",
    {
        "released": "UPDATE instance SET state = 'stored', discarded_at = NULL",
        "received again": "UPDATE instance SET state = 'stored', path = '2.dcm', discarded_at = NULL",
        "held": "UPDATE instance SET hold = 'legal:'",
    }.items(),
    ids=lambda each: each[0],
)
def test_what_is_kept_after_all_while_discarded_files_are_deleted_stays(
    store: StoredObjects, monkeypatch: pytest.MonkeyPatch, meanwhile: tuple[str, str]
) -> None:
    store.take()
    store.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'discarded', discarded_at = -1e9").rowcount)
    listed = operator_actions.discarded_before

    def decide(*args: Any) -> list[operator_actions.Discarded]:
        found = listed(*args)
        store.db.write(lambda conn: conn.execute(meanwhile[1]).rowcount)
        return found

    monkeypatch.setattr(operator_actions, "discarded_before", decide)
    assert store.retention.delete_discarded() == 0
    assert len(store.files()) == 1
    with store.db.reading() as conn:
        assert conn.execute("SELECT count(*) FROM ledger WHERE event = 'deleted'").fetchone()[0] == 0
    assert list(store.rows("deleted_at").values()) == [None]


class Crash(BaseException):
    """The power goes."""


def test_a_crash_between_commit_and_unlink_leaves_what_the_next_start_removes(
    store: StoredObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.proved(3)

    def power_cut(_: str) -> None:
        assert store.evicted()  # committed before the first file goes
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(store.spool, "remove", power_cut)
        store.pretend(0.99)
        with pytest.raises(Crash):
            store.retention.make_room()
    files = store.files()
    assert len(files) == 3
    with store.db.reading() as conn:
        buckets = catalog.buckets(conn)
    found = [recovery.compare(*recovery.read_bucket(store.db, store.spool, each, 1e12)) for each in buckets]
    assert [(each.orphans, each.lost) for each in found] == [((), ())] * len(buckets)
    assert {name for each in found for name in each.leftovers} == set(files)


def test_a_crash_before_a_discarded_file_is_removed_leaves_what_the_next_start_removes(
    store: StoredObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.take()
    store.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'discarded', discarded_at = -1e9").rowcount)
    with monkeypatch.context() as patch:
        patch.setattr(store.spool, "remove", Mock(side_effect=Crash))
        with pytest.raises(Crash):
            store.retention.delete_discarded()
    (file,) = store.files()
    found = recovery.compare(*recovery.read_bucket(store.db, store.spool, file.partition("/")[0], 1e12))
    assert found == recovery.Differences((), (file,), ())


def test_the_comparison_goes_on_where_files_are_evicted_meanwhile(store: StoredObjects) -> None:
    """The oldest go first, in both."""
    store.proved(3)
    (bucket,) = store.spool.bucket_names()
    listing = store.spool.files(bucket)
    first, _ = next(listing)
    for name in store.files() - {first}:
        store.spool.remove(name)
    assert list(listing) == []
    assert list(store.spool.files("1999010100")) == [], "its folder has gone"


def test_a_file_that_cannot_be_removed_stops_nothing(
    store: StoredObjects, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.proved(2)
    real = store.spool.remove
    stuck = sorted(store.files())[0]

    def remove(name: str) -> None:
        if name == stuck:
            raise PermissionError(1, "Operation not permitted")
        real(name)

    monkeypatch.setattr(store.spool, "remove", remove)
    store.pretend(0.99)
    assert store.retention.make_room() == 2
    assert store.files() == {stuck}
    assert "stays until the next start" in caplog.text


def test_empty_directories_go_now_and_then(store: StoredObjects) -> None:
    store.proved(2)
    store.clock.now += 3 * 3600
    store.pretend(0.99)
    assert len(store.spool.bucket_names()) == 1
    store.retention.step()
    store.spool.drop_empty_buckets()
    assert store.spool.bucket_names() == []


# -- the gate ---------------------------------------------------------------------------------------------------------


def test_the_gate_closes_at_refuse_and_opens_a_little_below(store: StoredObjects) -> None:
    woken: list[bool] = []
    store.gate.on_refusing = lambda: woken.append(True)
    told = []
    for used in (0.949, 0.95, 0.96, 0.949, 0.946, 0.944, 0.949):
        store.pretend(used)
        store.clock.now += 1
        told.append(store.gate.refusing)
    assert told == [False, True, True, True, True, False, False]
    assert woken == [True]


def test_the_gate_looks_anew_at_each_object(store: StoredObjects) -> None:
    store.disk = lambda: Disk(100, 100)
    store.gate.check_room()
    store.disk = lambda: Disk(100, 1)
    with pytest.raises(StorageFull):
        store.gate.check_room()


def test_on_a_disk_that_is_full_to_the_last_byte_what_was_sent_is_noted_and_evicted(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "lay_out_log", lambda path: None)  # the log has no room of its own
    store = StoredObjects(small_disk)
    ballast = ReserveFile(small_disk, lambda: disk_of(small_disk))
    ballast.keep()
    store.db._on_full = ballast.drop
    for _ in range(20):
        store.take(size=200_000)
    exhaust(small_disk / "others")
    store.prove(20)
    store.clock.now += 86400.0 * 400
    assert store.retention.make_room() > 0
    (small_disk / "others").unlink()
    assert ballast.drop() is False
    ballast.keep()
    assert ballast.drop() is True


def exhaust(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(repeat(bytes(4096)))


def test_a_reload_moves_the_mark(store: StoredObjects) -> None:
    store.pretend(0.90)
    assert not store.gate.refusing
    store.config = config(refuse=0.85)
    store.clock.now += 1
    with pytest.raises(StorageFull, match=r"the disk is 90\.0% full, storage\.refuse is 85\.0%"):
        store.gate.check_room()


def test_a_disk_that_cannot_be_read_takes_nothing(store: StoredObjects) -> None:
    def disk() -> Disk:
        raise OSError(5, "Input/output error")

    store.disk = disk
    with pytest.raises(StorageFull, match="cannot be read"):
        store.gate.check_room()


# -- holds ------------------------------------------------------------------------------------------------------------


def test_holds_follow_the_configuration(store: StoredObjects) -> None:
    by_study, by_rule, other = (
        store.proved(study="1.1")[0],
        store.proved(study="1.2", hold="hold.rule")[0],
        store.proved(study="1.3", hold="asked for by the court")[0],
    )

    def after(*holds: Hold) -> list[str]:
        new = config(**{hold.name: hold for hold in holds})
        store.db.write(lambda conn: apply_holds(conn, new))
        found = store.rows("hold")
        return [found[number] for number in (by_study, by_rule, other)]

    court = "asked for by the court"
    rule = Hold("rule", when={"Modality": "CT"})
    assert after(Hold("trial", ("1.1", "1.9")), rule) == ["hold.trial", "hold.rule", court]
    assert after(Hold("trial", ("1.1", "1.2")), replace(rule, studies=("1.1",))) == ["hold.trial", "hold.rule", court]
    assert after(Hold("trial", ("1.2",))) == ["", "hold.trial", court]  # the rule is gone, the study is listed
    assert after(Hold("second", ("1.1",)), Hold("trial", ("1.2",))) == ["hold.second", "hold.trial", court]
    assert after() == ["", "", court]
    store.pretend(0.99)
    store.retention.make_room()
    assert store.evicted() == [by_study, by_rule]


def test_a_study_that_two_holds_keep_stays_when_one_ends(store: StoredObjects) -> None:
    [number] = store.proved(study="1.1")
    both = config(a=Hold("a", ("1.1",)), b=Hold("b", ("1.1",)))
    store.db.write(lambda conn: apply_holds(conn, both))
    store.db.write(lambda conn: apply_holds(conn, config(b=Hold("b", ("1.1",)))))
    assert store.rows("hold")[number] == "hold.b"


# -- on a real disk ---------------------------------------------------------------------------------------------------


def fill(store: StoredObjects, size: int, *, proved: bool = False) -> list[int]:
    """Take objects until one is refused; `proved`: each is confirmed at once."""
    taken = []
    while True:
        store.clock.now += 1
        try:
            taken.append(store.take(size))
        except StorageFull:
            return taken
        if proved:
            store.prove(1)


def test_a_disk_fills_refuses_and_recovers_by_itself(small_disk: Path) -> None:
    store = StoredObjects(small_disk)
    store.config = config(warn=0.60, refuse=0.90)
    store.gate.on_refusing = store.retention.worker.wake
    taken = fill(store, 256 << 10)
    assert disk_of(small_disk).used_fraction < 0.92  # refused before it was full
    assert store.retention.make_room() == 0
    assert store.gate.refusing

    kept = taken[len(taken) * 3 // 4 :]
    store.prove(len(taken) - len(kept))
    store.clock.now += 1
    store.retention.step()
    used = disk_of(small_disk).used_fraction
    assert 0.60 - BELOW_WARN - 0.02 < used <= 0.60 - BELOW_WARN + 0.01  # the low mark
    assert store.evicted() == taken[: len(store.evicted())]  # the oldest
    assert not set(kept) & set(store.evicted())
    assert store.files() == store.stored_paths()
    for number, path in store.rows("path").items():
        if number in kept:
            assert store.spool.digest(path, store.rows("dataset_offset")[number]) == store.rows("sha256")[number]
    store.clock.now += 1
    assert not store.gate.refusing
    store.take(256 << 10)
    store.close()


def test_a_long_object_is_refused_on_the_way(small_disk: Path) -> None:
    store = StoredObjects(small_disk)
    store.config = config(refuse=0.50)
    store.gate = DiskGuard(lambda: store.config, lambda: disk_of(small_disk))
    store.spool.check_room = store.gate.check_room
    partial = store.spool.begin(CT, "1.2.3", Origin("CT1", "EDGE", "::1", T0))
    megabytes = [memoryview(bytes(1 << 20))] * 48

    def receive() -> None:
        for megabyte in megabytes:
            partial.write([megabyte])

    with pytest.raises(StorageFull):
        receive()
    assert partial.size <= 33 << 20  # looked at every 8 MiB
    partial.discard()
    store.close()


def test_the_thread_makes_room_when_the_gate_calls(small_disk: Path) -> None:
    store = StoredObjects(small_disk)
    store.config = config(warn=0.30, refuse=0.50)
    store.gate.on_refusing = store.retention.worker.wake
    store.retention.worker.start()
    fill(store, 512 << 10, proved=True)
    wait_until(lambda: disk_of(small_disk).used_fraction < 0.30, 4, "room, without waiting for the next round")
    store.retention.worker.stop()
    assert store.files() == store.stored_paths()
    store.close()


def test_the_thread_outlives_a_fault(store: StoredObjects, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(worker, "FIRST_PAUSE_SECONDS", 0.001)
    rounds: list[int] = []

    def make_room() -> int:
        rounds.append(1)
        raise KeyError("a fault of ours")

    monkeypatch.setattr(store.retention, "make_room", make_room)
    store.retention.worker.start()
    wait_until(lambda: len(rounds) > 2, 5, "it goes on")
    store.retention.worker.stop()
    assert "a fault of ours" in caplog.text


def test_a_clock_that_may_be_ahead_lets_nothing_expire_before_scanners_would_be_refused(store: StoredObjects) -> None:
    store.config = config(keep=30 * 86400.0)
    store.proved(3)
    store.clock.now += 730 * 86400.0
    store.doubts_clock = True
    store.pretend(0.90)
    assert store.retention.make_room() == 0, "above warn, but the ages are doubtful"
    store.pretend(0.95)
    assert store.retention.make_room() == 3, "all of it is proved, and scanners come first"
