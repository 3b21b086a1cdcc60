"""`edge recover`: a catalog made anew of the damaged one, the journal of the custody ledger, and the spool.

The damaged catalog is moved aside and kept. The ledger is restored row by row, from whichever copy follows from the
row before; from it, what became of every instance and delivery. The other rows come from the journal, or from the
damaged catalog as far as they can be read. What a delivery's last word was, it is again: what is proved is not sent
again. A file that no row is left for is adopted by its own head and routed as if it came now: an archive may get that
once more. Files are compared by name and length; the scrub reads them all again within a week.

Interrupted at any moment, it can be run again: until it is done a marker keeps the gateway from starting.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

from edge.errors import Unreadable
from edge.identity import Standing
from edge.intake import Intake, Policy, fill, told_destinations
from edge.model import Assignment, ContextKey, InstanceHeader, InstanceState, Priority, ReasonCode
from edge.routing.rules import IMAGELESS
from edge.spool import Bucket, Spool
from edge.storage.repair import DAMAGED
from edge.storage.salvage import Row, Salvage
from edge.store import catalog, deliveries, ledger, patients
from edge.store.database import Connection, Database
from edge.store.ledger_copy import ARRIVALS, Entry, File, Journal
from edge.store.patients import Header
from edge.store.wal import lost_commits

CATALOG = "catalog.db"
#: Where the catalog is made anew; while it is there, the gateway does not start.
MARKER = "catalog.db.recovering"
SUFFIXES = ("", "-wal", "-shm")
#: Rows of one transaction.
BATCH = 1000
#: Tables that are copied as they are, where they can be read; what triggers keep is not among them.
MADE = frozenset({"tally", "instance_tally", "ledger", "study", "kind", "instance", "delivery", "commitment"})
#: What headers say, each after what it refers to.
SAID = ("patient", "study_patient", "study_facts", "series")
#: What a delivery, and an instance, is after the ledger's last word on it.
_DONE = {
    ledger.SENT: "sent",
    ledger.CONFIRMED: "confirmed",
    ledger.HELD: "held",
    ledger.CANCELLED: "cancelled",
}
_STATES = {
    ledger.RECEIVED: "stored",
    ledger.ADOPTED: "stored",
    ledger.CONFLICT: "conflict",
    ledger.QUARANTINED: "quarantined",
    ledger.EVICTED: "evicted",
    ledger.RELEASED: "stored",
    ledger.DISCARDED: "discarded",
    ledger.ADMITTED: "discarded",
}


@dataclass(slots=True)
class Told:
    """What a recovery did, in numbers."""

    kept: str = ""  # where the damaged catalog lies
    ledger_rows: int = 0
    ledger_missing: int = 0  # rows that neither the catalog nor the journal has any more
    studies: int = 0
    instances: int = 0  # restored from the damaged catalog or the journal
    adopted: int = 0  # files that nothing but their own head tells of
    lost: int = 0  # instances whose file is gone or damaged
    unreadable: int = 0  # files that are left where they are
    deliveries: int = 0
    queued: int = 0  # deliveries of which nothing was left: they begin anew
    other: dict[str, int] = field(default_factory=dict)  # rows of other tables


Tick = Callable[[str, int], None]


def recover(data_dir: Path, policy: Policy, who: str, tick: Tick = lambda _what, _n: None) -> Told:
    """Make the catalog anew. The caller holds the lock of the data directory. `tick` hears what has been done."""
    aside = _move_aside(data_dir)
    new = data_dir / MARKER
    told = Told(kept=str(aside))
    _leave_out_a_damaged_log(aside / CATALOG)
    spool, salvage = Spool(data_dir), Salvage(aside / CATALOG)
    db = Database(new)
    try:
        _Rebuild(db, spool, salvage, Journal(data_dir), policy, told, tick).run(who)
    finally:
        salvage.close()
        spool.close()
        db.close()
    for suffix in SUFFIXES[1:]:
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    _sync_file(new)
    os.rename(new, data_dir / CATALOG)
    Bucket(data_dir).sync()
    return told


def _move_aside(data_dir: Path) -> Path:
    """The damaged catalog's files into a directory of their own; one that was interrupted goes on with its own."""
    marker = data_dir / MARKER
    folders = sorted((data_dir / DAMAGED).glob("catalog-*"))
    if marker.exists() and folders:
        aside = folders[-1]
    else:
        now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        aside = data_dir / DAMAGED / f"catalog-{now}-{time.time_ns() % 1_000_000_000:09}"
        aside.mkdir(mode=0o700, parents=True)
        marker.touch(mode=0o600)
        Bucket(data_dir).sync()
    for suffix in SUFFIXES:
        source = data_dir / f"{CATALOG}{suffix}"
        if source.exists():
            os.rename(source, aside / source.name)
    Bucket(aside).sync()
    for suffix in SUFFIXES[1:]:
        Path(f"{marker}{suffix}").unlink(missing_ok=True)
    os.truncate(marker, 0)  # never removed before the end: it says that there is something to go on with
    Bucket(data_dir).sync()
    return aside


def _leave_out_a_damaged_log(path: Path) -> None:
    """What SQLite can still read of it is older than what the last checkpoint has brought into the file itself."""
    try:
        damaged = path.exists() and lost_commits(path) > 1
    except sqlite3.DatabaseError:
        return
    if damaged:
        os.rename(f"{path}-wal", f"{path}-wal.damaged")
        Path(f"{path}-shm").unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Rebuild:
    """One recovery, step by step."""

    def __init__(
        self, db: Database, spool: Spool, salvage: Salvage, journal: Journal, policy: Policy, told: Told, tick: Tick
    ) -> None:
        self._db, self._spool, self._salvage, self._journal, self._policy = db, spool, salvage, journal, policy
        self._told, self._tick = told, tick
        self._intake = Intake(db, spool, policy)
        self._past = _Past()
        self._kept: set[int] = set()  # instances that have a row again
        self._series: set[int] = set()  # rows of `series` that could be read

    def run(self, who: str) -> None:
        self._restore_ledger()
        self._restore_instances()
        self._restore_deliveries()
        self._restore_the_rest()
        self._queue_what_is_missing()
        self._adopt_files()
        told = self._told
        text = (
            f"catalog made anew: {told.instances} instances restored, {told.adopted} adopted, {told.lost} lost;"
            f" {told.ledger_missing} rows of the ledger are missing"
        )

        def work(conn: Connection) -> None:
            patients.begin_backfill(conn)
            ledger.append(conn, time.time(), ledger.RECOVERED, who, [], detail=text)

        self._db.write(work)

    # -- the ledger ---------------------------------------------------------------------------------------------------

    def _restore_ledger(self) -> None:
        salvaged = (entry for row in self._salvage.rows("ledger") if (entry := _entry_of(row)))
        merged = heapq.merge(self._journal.entries(), salvaged, key=lambda entry: entry.seq)
        before, last = bytes(32), 0
        batch: list[Entry] = []
        for seq, group in groupby(merged, key=lambda entry: entry.seq):
            entry = _chosen(list(group), before, is_next=seq == last + 1)
            if entry is None or seq <= last:
                continue
            self._told.ledger_missing += seq - last - 1
            before, last = entry.hash, seq
            self._past.learn(entry)
            batch.append(entry)
            if len(batch) == BATCH:
                self._insert_ledger(batch)
                batch = []
        self._insert_ledger(batch)

    def _insert_ledger(self, entries: list[Entry]) -> None:
        rows = [(e.seq, *e.told, e.hash) for e in entries]
        sql = (
            "INSERT INTO ledger (seq, at, event, who, study_id, instances, destination, detail, hash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self._db.write(lambda conn: conn.executemany(sql, rows).rowcount)
        self._told.ledger_rows += len(entries)
        self._tick("rows of the custody ledger", self._told.ledger_rows)

    # -- studies and instances ----------------------------------------------------------------------------------------

    def _restore_instances(self) -> None:
        studies = {row["id"]: row for row in self._salvage.rows("study") if _is_id(row["id"])}
        kinds = {row["id"]: row for row in self._salvage.rows("kind")}
        self._insert_all("study", studies.values())
        self._told.studies = len(studies)
        for table in SAID:
            self._insert_all(table, self._salvage.rows(table))
        with self._db.reading() as conn:
            self._series = {row[0] for row in conn.execute("SELECT id FROM series")}
        files, holds, study_ids = dict(self._past.files), {}, dict(self._past.study_ids)
        states: dict[int, str] = {}
        for row in self._salvage.rows("instance"):
            file = _file_of(row, kinds, studies)
            if file is None:
                continue
            holds[file.instance_id], states[file.instance_id] = row["hold"], row["state"]
            known = files.get(file.instance_id)
            if known is None:
                files[file.instance_id] = file
                study_ids[file.instance_id] = row["study_id"]
            elif file.series_id is not None:  # it may have been filled in since
                series, number = file.series_id, file.instance_number
                files[file.instance_id] = replace(known, series_id=series, instance_number=number)
        for chunk in _chunks(sorted(files)):
            lines = [
                self._line(files[each], study_ids.get(each), states.get(each, ""), holds.get(each, ""))
                for each in chunk
            ]
            self._db.write(lambda conn, lines=lines: [line(conn) for line in lines])  # type: ignore[misc]
            self._tick("instances", self._told.instances)

    def _line(self, file: File, study_id: int | None, state: str, hold: object) -> Callable[[Connection], None]:
        """What enters one instance: looked at before the transaction, so that this is short."""
        text, state = self._state_of(file, state)
        self._told.instances += 1
        self._told.lost += state == InstanceState.LOST

        def work(conn: Connection) -> None:
            study = _study(conn, file, study_id)
            series = self._series_of(conn, file, study)
            kind = catalog.kind_id(conn, ContextKey(file.sop_class_uid, file.transfer_syntax_uid))
            conn.execute(
                "INSERT OR IGNORE INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, series_uid, state,"
                " reason, path, size, dataset_offset, calling_ae, called_ae, address, received_at, hold, companion,"
                " series_id, instance_number, discarded_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    file.instance_id, file.sop_instance_uid, file.sha256, kind, study, file.series_uid, state, text,
                    file.path, file.size, file.dataset_offset, file.calling_ae, file.called_ae, file.address,
                    file.received_at, hold if isinstance(hold, str) else "", int(file.sop_class_uid in IMAGELESS),
                    series, file.instance_number,
                    time.time() if state == InstanceState.DISCARDED else None,
                ),
            )  # fmt: skip
            self._kept.add(file.instance_id)
            if state == InstanceState.LOST and file.instance_id not in self._past.lost:
                ids = [file.instance_id]
                ledger.append(conn, time.time(), ledger.LOST, ledger.EDGE, ids, study_id=study, detail=text)

        return work

    def _series_of(self, conn: Connection, file: File, study: int | None) -> int | None:
        """The row of what an instance's header says: as it was, or made of what the journal has; else it is read again.

        Of what is made anew, a person's decision is known from the ledger.
        """
        if file.series_id is None or study is None or file.series_id in self._series:
            return file.series_id if study is not None else None
        header = self._past.headers.get(file.series_id)
        if header is None:
            return None
        placed = patients.enter(conn, study, header, file.received_at)
        if placed.is_mismatch and file.instance_id in self._past.released:
            patients.accept(conn, placed)
        return placed.series_id

    def _state_of(self, file: File, salvaged: str) -> tuple[str, str]:
        """(reason, state) of an instance, by the ledger and the disk."""
        past = self._past.states.get(file.instance_id, salvaged)
        if past in (InstanceState.EVICTED, InstanceState.DISCARDED):
            return "", past
        try:
            size = self._spool.path_of(file.path).stat().st_size
        except OSError:
            return "its file is gone", InstanceState.LOST.value
        if size != file.size:
            return f"its file has {size} bytes instead of {file.size}", InstanceState.LOST.value
        known = past in (InstanceState.CONFLICT, InstanceState.QUARANTINED)
        return "", past if known else InstanceState.STORED.value

    # -- deliveries ---------------------------------------------------------------------------------------------------

    def _restore_deliveries(self) -> None:
        self._insert_all("commitment", self._salvage.rows("commitment"))
        rows = (row for row in self._salvage.rows("delivery") if row["instance_id"] in self._kept)
        self._told.deliveries = self._insert_all("delivery", map(self._sound, rows))
        for chunk in _chunks(sorted(self._past.done)):
            self._db.write(lambda conn, chunk=chunk: self._enter_done(conn, chunk))  # type: ignore[misc]
        self._db.write(_settle_deliveries)

    def _sound(self, row: Row) -> Row:
        """A delivery as the ledger has it, where it has it."""
        done = self._past.done.get(row["instance_id"], {}).get(row["destination"])
        if done is not None:
            proved = {"confirmed_at": done.at} if done.state == "confirmed" else {}
            sent_at = row["sent_at"] if isinstance(row["sent_at"], float) else done.at
            words = {"reason": done.reason, "reason_code": done.code.value}
            return {**row, "state": done.state, "sent_at": sent_at, "lease_until": None} | words | proved
        stale = row["state"] in ("active", "sent", "confirmed")
        return {**row, "state": "pending" if stale else row["state"], "lease_until": None}

    def _enter_done(self, conn: Connection, instances: Iterable[int]) -> None:
        """What the ledger says was sent or held, and no row says so any more."""
        for instance in instances:
            if instance not in self._kept:
                continue
            for destination, done in self._past.done[instance].items():
                confirmed = done.at if done.state == "confirmed" else None
                self._told.deliveries += conn.execute(
                    "INSERT OR IGNORE INTO delivery (instance_id, destination, kind_id, bytes, priority, state, reason,"
                    " reason_code, queued_at, sent_at, confirmed_at, cancelled_at)"
                    " SELECT id, ?, kind_id, size, 2, ?, ?, ?, received_at, ?, ?, ? FROM instance WHERE id = ?",
                    (
                        destination,
                        done.state,
                        done.reason,
                        done.code.value,
                        done.at,
                        confirmed,
                        done.at if done.state == "cancelled" else None,
                        instance,
                    ),
                ).rowcount

    def _queue_what_is_missing(self) -> None:
        """Deliveries that were decided at the arrival, and of which nothing is left, begin anew."""
        with self._db.reading() as conn:
            rows = conn.execute(
                "SELECT id, path, size, kind_id, study_id, series_id, state, received_at FROM instance"
                " WHERE state IN ('stored', 'conflict') ORDER BY id"
            ).fetchall()
            there: dict[int, set[str]] = defaultdict(set)
            for instance, destination in conn.execute("SELECT instance_id, destination FROM delivery"):
                there[instance].add(destination)
        for row in rows:
            wanted, has = self._past.wanted.get(row["id"]), there[row["id"]]
            if not has or set(wanted or ()) - has:
                self._queue(row, has, wanted)

    def _queue(self, row: sqlite3.Row, has: Collection[str], wanted: Sequence[str] | None) -> None:
        facts: InstanceHeader | None = None
        try:
            facts = self._intake.facts_of(row["path"])
        except (Unreadable, OSError):
            pass  # the scrub finds it
        assigned = self._policy.rules.assign(facts) if facts else ()
        if wanted is not None:
            known = {each.destination: each for each in assigned}
            assigned = tuple(known.get(name, Assignment(name, Priority.ROUTINE, "")) for name in wanted)
        missing = [each for each in assigned if each.destination not in has]
        self._told.queued += self._db.write(lambda conn: self._enqueue(conn, row, facts, missing, has))

    def _enqueue(
        self,
        conn: Connection,
        row: sqlite3.Row,
        facts: InstanceHeader | None,
        missing: Sequence[Assignment],
        has: Collection[str],
    ) -> int:
        if facts is not None and row["series_id"] is None and row["study_id"] is not None:
            fill(conn, row["id"], row["study_id"], facts)
        is_conflict = row["state"] == InstanceState.CONFLICT
        placed = patients.placed(conn, row["id"])
        if placed is not None and row["id"] in self._past.mismatched - self._past.released:
            placed = replace(placed, standing=Standing.DIFFERS)  # another image of the patient was accepted, not this
        held, code = self._policy.waits_for(missing, placed, is_conflict=is_conflict)
        if not missing and not has:
            missing = [Assignment(deliveries.UNROUTABLE, Priority.ROUTINE, "")]
        deliveries.enqueue(conn, row["id"], row["kind_id"], row["size"], missing, row["received_at"], held, code)
        return len(missing)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _adopt_files(self) -> None:
        """Files that no witness is left for."""
        for bucket in self._spool.bucket_names():
            for name, _ in self._spool.files(bucket):
                with self._db.reading() as conn:
                    if catalog.holds_path(conn, name):
                        continue
                if self._intake.adopt(name) is None:
                    self._told.unreadable += 1
                else:
                    self._told.adopted += 1
                    self._tick("files adopted", self._told.adopted)

    def _restore_the_rest(self) -> None:
        for table in self._salvage.tables():
            if table not in MADE and table not in SAID and not table.startswith("sqlite_"):
                self._told.other[table] = self._insert_all(table, self._salvage.rows(table))

    def _insert_all(self, table: str, rows: Iterable[Row]) -> int:
        """Copy rows into a table of the new catalog, as far as its constraints take them. Returns how many."""
        with self._db.reading() as conn:
            columns = [str(row[1]) for row in conn.execute(f"PRAGMA table_info({table})")]
        done = 0
        for chunk in _chunks(rows) if columns else ():
            done += self._db.write(lambda conn, chunk=chunk: _insert(conn, table, columns, chunk))  # type: ignore[misc]
        return done


def _insert(conn: Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> int:
    done = 0
    for row in rows:
        names = [name for name in columns if name in row]
        marks = ", ".join("?" * len(names))
        try:
            sql = f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({marks})"
            done += conn.execute(sql, [_start(table, name, row[name]) for name in names]).rowcount
        except sqlite3.IntegrityError:
            continue  # rotten, or it refers to what is gone
    return done


def _start(table: str, name: str, value: object) -> object:
    """A value as a new row begins with it: requests for proof are made anew."""
    return None if (table, name) == ("delivery", "transaction_id") else value


def _settle_deliveries(conn: Connection) -> None:
    """What the triggers do not know of rows that were entered as confirmed."""
    conn.execute(
        "UPDATE instance SET confirmed_at ="
        " (SELECT max(d.confirmed_at) FROM delivery d WHERE d.instance_id = instance.id)"
        " WHERE open_deliveries = 0 AND EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = instance.id)"
    )


# -- what the ledger says of the past ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Done:
    state: str  # of a delivery
    at: float
    reason: str
    code: ReasonCode


class _Past:
    """What has become of every instance, by the rows of the ledger from the first to the last."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.study_ids: dict[int, int | None] = {}
        self.states: dict[int, str] = {}
        self.lost: set[int] = set()
        self.wanted: dict[int, list[str]] = {}
        self.done: dict[int, dict[str, _Done]] = defaultdict(dict)
        self.headers: dict[int, Header] = {}
        self.released: set[int] = set()  # a person let them go
        self.mismatched: set[int] = set()  # another patient than the images before in the study

    def learn(self, entry: Entry) -> None:
        if entry.file is not None:
            self.files[entry.file.instance_id] = replace(entry.file, header=None)
            if entry.file.header is not None and entry.file.series_id is not None:
                self.headers[entry.file.series_id] = entry.file.header
        if entry.event == ledger.RENAMED:
            self._rename(entry.detail, entry.destination)
        for instance in _numbers_of(entry.instances):
            self._learn(instance, entry)

    def _rename(self, old: str, new: str) -> None:
        for wanted in self.wanted.values():
            wanted[:] = dict.fromkeys(new if name == old else name for name in wanted)
        for done in self.done.values():
            if old in done:
                done.setdefault(new, done.pop(old))

    def _learn(self, instance: int, entry: Entry) -> None:
        event = entry.event
        if (wanted := told_destinations(entry.detail)) is not None:
            self.wanted[instance] = wanted
        elif event == ledger.OVERRIDDEN and entry.detail.startswith("instead of "):
            former = re.split("[ :]", entry.detail)[2]
            self.wanted[instance] = [n for n in self.wanted.get(instance, []) if n != former] + [entry.destination]
        elif event == ledger.ROUTED:
            self.wanted.setdefault(instance, []).append(entry.destination)
        if event in _STATES:
            self.states[instance] = _STATES[event]
        if event in ARRIVALS:
            self.lost.discard(instance)
            self.study_ids[instance] = entry.study_id
            if event != ledger.REPAIRED:
                self.done.pop(instance, None)
        elif event in (ledger.LOST, ledger.MISMATCH):
            (self.lost if event == ledger.LOST else self.mismatched).add(instance)
        elif event in _DONE and entry.destination:
            reason, code = _why(entry)
            self.done[instance][entry.destination] = _Done(_DONE[event], entry.at, reason, code)
        elif event in (ledger.DENIED, ledger.RETRIED, ledger.RELEASED):
            for name in [entry.destination] if entry.destination else self.wanted.get(instance, ()):
                self.done[instance].pop(name, None)
            if event == ledger.RELEASED:
                self.released.add(instance)


def _why(entry: Entry) -> tuple[str, ReasonCode]:
    """(words, code) of a delivery that is held or cancelled."""
    if entry.event == ledger.CANCELLED:
        return entry.detail, ReasonCode.CANCELLED
    return (entry.detail, _held_by(entry)) if entry.event == ledger.HELD else ("", ReasonCode.NONE)


def _held_by(entry: Entry) -> ReasonCode:
    """Why a delivery was held, by who did it: a sender, the destination that never commits to it, or a person."""
    if entry.who == ledger.EDGE:
        return ReasonCode.REFUSED
    return ReasonCode.NOT_COMMITTED if entry.who == entry.destination else ReasonCode.PERSON


def _numbers_of(instances: str) -> list[int]:
    try:
        return [each for each in json.loads(instances) if isinstance(each, int)]
    except (ValueError, TypeError):
        return []


def _chosen(entries: Sequence[Entry], before: bytes, *, is_next: bool) -> Entry | None:
    """Of several copies of one row the one that follows from the row before; behind a gap, any."""
    for entry in entries:
        if entry.follows(before):
            return entry
    return None if is_next else entries[0]


def _entry_of(row: Row) -> Entry | None:
    sound = _is_id(row["seq"]) and isinstance(row["hash"], bytes) and isinstance(row["instances"], str)
    return Entry(*(row[name] for name in _LEDGER)) if sound else None


_LEDGER = ("seq", "at", "event", "who", "study_id", "instances", "destination", "detail", "hash")


def _file_of(row: Row, kinds: Mapping[int, Row], studies: Mapping[int, Row]) -> File | None:
    """A row of the damaged catalog that can be believed as far as it goes; None for another."""
    kind, study = kinds.get(row["kind_id"]), studies.get(row["study_id"], {"study_uid": ""})
    if kind is None or not _is_id(row["id"]) or not isinstance(row["sha256"], bytes):
        return None
    return File(
        row["id"], row["path"], row["sha256"], row["sop_instance_uid"], kind["sop_class_uid"],
        kind["transfer_syntax_uid"], study["study_uid"], row["series_uid"], row["size"], row["dataset_offset"],
        row["calling_ae"], row["called_ae"], row["address"], row["received_at"], row.get("series_id"),
        str(row.get("instance_number", "")),
    )  # fmt: skip


def _study(conn: Connection, file: File, number: int | None) -> int | None:
    """The row of an instance's study, made with what is known of it where it is gone."""
    if not file.study_uid:
        return None
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (file.study_uid,)).fetchone()
    if row is None:
        row = conn.execute(
            "INSERT INTO study (id, study_uid, first_received, last_received) VALUES (?1, ?2, ?3, ?3) RETURNING id",
            (number, file.study_uid, file.received_at),
        ).fetchone()
    return int(row[0])


def _is_id(value: object) -> bool:
    return isinstance(value, int)


T = TypeVar("T")


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while chunk := list(islice(left, BATCH)):
        yield chunk
