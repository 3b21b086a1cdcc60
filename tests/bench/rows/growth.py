"""A catalog that has grown for years, against a new one; and urgent work behind a long queue.

The catalog is filled by SQL, its triggers keeping the tallies. Old instances are confirmed and evicted, so that they
need no files; those that are queued have theirs, hard links to one slice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from edge.store import figures, header_progress, leases
from edge.store.database import Store
from tests.bench.peers import EDGE, STORESCU, Gateway, Place, archive_at, file_times, send
from tests.bench.row import Figures, Target
from tests.bench.rows.overwan import far_archive
from tests.bench.stage import KIB, Stage
from tests.bench.wan import Line, Wan
from tests.support.objects import dataset, read_meta, sop_instance_uid
from tests.support.peers import free_port, wait_until

EMPTY = "edge, empty"
INTAKE, LEASE, READY, STATUS = "s, intake", "ms, lease", "s, start to ready", "s, edge status"
INTAKE_COUNT = 2000
FIRST = "s, first image"
BUSY = Line(0.020, 100)
#: Instances in the catalog, and how many of them are queued.
YEARS = (2_000_000, 100_000)
#: So many leases are timed, of so many instances each.
LEASES, LEASED = 40, 64
#: One inode has no more than 65,000 names on ext4.
NAMES = 50_000
NAME = "catalog.db"

_KIND = "INSERT INTO kind VALUES (1, ?, ?)"
_STUDIES = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :studies)
INSERT INTO study (id, study_uid, patient_id, modality, first_received, last_received)
SELECT n + 1, printf('2.25.2%037d', n), printf('P%07d', n), 'CT', :began, :began FROM number
"""
# An hour's bucket for every 2,000.
_INSTANCES = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :instances - 1)
INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, series_uid, state, path, size, dataset_offset,
                      calling_ae, called_ae, address, received_at, confirmed_at)
SELECT n + 1, printf('2.25.1%037d', n), :sha256, 1, n / 1000 + 1, printf('2.25.3%037d', n / 1000),
       iif(n < :old, 'evicted', 'stored'),
       strftime('%Y%m%d%H', :began + n / 2000 * 3600, 'unixepoch') || '/' || printf('%032x', n) || '.dcm',
       :size, :offset, 'CT1', 'EDGE', '127.0.0.1', :began + n * 1.8, iif(n < :old, :began + n * 1.8 + 60, NULL)
FROM number
"""
_DELIVERIES = """
INSERT INTO delivery
    (instance_id, destination, kind_id, bytes, priority, state, route, queued_at, sent_at, confirmed_at)
SELECT id, 'archive', 1, size, 2, iif(state = 'evicted', 'confirmed', 'pending'), 'everything', received_at,
       confirmed_at, confirmed_at
FROM instance ORDER BY id
"""


def fill_catalog(path: Path, slice_: Path, instances: int, queued: int) -> None:
    """A new catalog with so many instances, the last of them queued."""
    Store(path).close()
    blob = slice_.read_bytes()
    meta, offset = read_meta(blob)
    given = {
        "instances": instances,
        "old": instances - queued,
        "studies": instances // 1000,
        "sha256": hashlib.sha256(dataset(blob)).digest(),
        "size": len(blob),
        "offset": offset,
        "began": int(time.time()) - instances * 9 // 5 - 86400,
    }
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA synchronous = OFF")  # it is synced whole afterwards
    conn.execute("BEGIN")
    conn.execute(_KIND, [meta[number].rstrip(b"\0").decode() for number in (0x0002, 0x0010)])
    for statement in (_STUDIES, _INSTANCES, _DELIVERIES):
        conn.execute(statement, given)
    conn.execute("COMMIT")
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    store = Store(path)  # headers were read and counted as the objects came, years ago
    store.write(lambda work: header_progress.keep_place(work, instances))
    store.write(lambda work: figures.keep_counted(work, instances))
    store.close()


def settle_in(data_dir: Path, catalog: Path, slice_: Path) -> None:
    """A data directory with a copy of a filled catalog, and the files of what it has queued."""
    shutil.copyfile(catalog, data_dir / NAME)
    conn = sqlite3.connect(catalog)
    paths = [row[0] for row in conn.execute("SELECT path FROM instance WHERE state = 'stored'")]
    conn.close()
    for bucket in {Path(path).parent for path in paths}:
        (data_dir / "spool" / bucket).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        target = data_dir / "spool" / path
        if number % NAMES == 0:
            source = target
            shutil.copyfile(slice_, source)
        else:
            os.link(source, target)
    os.sync()


@dataclass(frozen=True)
class Growth:
    name: str
    instances: int
    queued: int
    peers: tuple[str, ...] = (EDGE, EMPTY)
    targets: tuple[Target, ...] = (
        Target(INTAKE, (EMPTY,), 0.95),
        Target(LEASE, (EMPTY,), 0.95),
        Target(READY, at_least=3),
        Target(STATUS, at_least=0.3),
    )

    @property
    def what(self) -> str:
        return f"{self.instances:,} catalogued, {self.queued:,} queued"

    def measure(self, peer: str, stage: Stage) -> Figures:
        few = LEASES * LEASED
        catalog = grown(stage, self.instances, self.queued) if peer == EDGE else grown(stage, few, few)
        objects = stage.objects(stage.few(INTAKE_COUNT, 200), 10 * KIB)
        with stage.directory() as directory:
            gateway = Gateway(directory, archive_at(free_port()))
            settle_in(gateway.data_dir, catalog, _slice(stage))
            began = time.monotonic()
            with gateway:
                ready = time.monotonic() - began
                intake = send(STORESCU, objects.folders, gateway.port, gateway.ae_title).seconds
                began = time.monotonic()
                said = gateway.cli("status")
                status = time.monotonic() - began
                assert said.returncode in (0, 1), f"edge status ended with {said.returncode}:\n{said.stderr}"
                gateway.stop()
            return {INTAKE: intake, LEASE: 1000 * _lease(gateway.data_dir), READY: ready, STATUS: status}


def _slice(stage: Stage) -> Path:
    return stage.objects(1, 512 * KIB).files()[0]


def grown(stage: Stage, instances: int, queued: int) -> Path:
    """A catalog with so many instances, the last of them queued; made once."""
    queued = max(LEASES * LEASED, stage.few(queued, queued // 100))
    instances = max(queued, stage.few(instances, instances // 100))
    slice_ = _slice(stage)
    name = f"catalog-{instances}-{queued}"
    return stage.once(name, lambda path: fill_catalog(path / NAME, slice_, instances, queued)) / NAME


def _lease(data_dir: Path) -> float:
    """Median seconds of a lease."""
    db, times = Store(data_dir / NAME), []
    for _ in range(LEASES):
        began = time.monotonic()
        taken = db.write(lambda conn: leases.lease(conn, "archive", "node", time.time(), LEASED, 1 << 40))
        times.append(time.monotonic() - began)
        assert len(taken) == LEASED, f"{len(taken)} leased instead of {LEASED}"
    db.close()
    return statistics.median(times)


@dataclass(frozen=True)
class Stat:
    """A stat study comes while a long queue keeps the line busy."""

    name: str = "stat"
    what: str = "stat behind 100,000 queued, 20 ms, 100 Mbit/s"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(FIRST, at_least=2),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        study, port, catalog = stage.objects(20, 512 * KIB), free_port(), grown(stage, *YEARS)
        with stage.directory() as directory, Wan(BUSY) as wan, far_archive(wan, directory, port) as archive:
            urgent = '[route.urgent]\nto = ["archive"]\npriority = "stat"\nwhen = { CallingAETitle = "STAT" }\n'
            gateway = Gateway(directory / "gateway", archive_at(port, wan.far.address, urgent)).at(Place(wan.near))
            settle_in(gateway.data_dir, catalog, _slice(stage))
            with gateway:
                wait_until(lambda: archive.stored() >= stage.few(100, 20), 60, "the line is busy")
                began = time.time()
                send(STORESCU, study.folders, gateway.port, gateway.ae_title, place=gateway.place, calling="STAT")
                uids = tuple(sop_instance_uid(path) for path in study.files())
                arrivals = wait_until(lambda: _born(archive.store, uids), 60, "a stat image at the archive")
                return {FIRST: min(arrivals) - began}


def _born(folder: Path, uids: tuple[str, ...]) -> list[float]:
    """When the files of some instances were made; storescp names a file by its instance."""
    return [born for name, (born, _) in file_times(folder).items() if name.endswith(uids)]


ROWS = (
    Growth("growth", *YEARS),
    Growth("growth-500k", 500_000, 25_000),
    Growth("growth-100k", 100_000, 5_000),
    Stat(),
)
