"""After a start, both ways: files that the catalog does not know, and rows whose file is gone.

`at_start` is quick and runs before the door opens: partial files go (no sender had success), leases of the last run
end. `reconcile` walks the whole spool beside the service, one bucket at a time, and rests most of the time:

- a whole file without a row is adopted (a crash came between its name and its commit), or left and reported when
  unreadable;
- a file whose row says evicted is removed (a crash came between the commit and the unlink);
- a row without its file, or with a shorter one, is marked lost: an alarm, never a silence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from edge.intake import Intake
from edge.model import InstanceState
from edge.spool import Spool
from edge.store import catalog, leases
from edge.store.catalog import FileState
from edge.store.database import Store

log = logging.getLogger(__name__)

#: The pause between buckets is longer than the work by this factor, so that the walk never competes with a scanner.
REST = 20.0


@dataclass(frozen=True, slots=True)
class Differences:
    """What one bucket of the spool and the catalog's rows of it do not agree on."""

    orphans: tuple[str, ...]  # files without a row
    leftovers: tuple[str, ...]  # files whose row says evicted
    lost: tuple[tuple[str, FileState, str], ...]  # files that are not there whole, their rows, and why


def compare(files: Mapping[str, int], rows: Mapping[str, FileState]) -> Differences:
    """Pure: `files` is name -> size in bytes."""
    lost = []
    for name, row in rows.items():
        if row.state in (InstanceState.EVICTED, InstanceState.LOST, InstanceState.DISCARDED):
            continue
        if name not in files:
            lost.append((name, row, "its file is gone"))
        elif files[name] != row.size:
            lost.append((name, row, f"its file has {files[name]} bytes instead of {row.size}"))
    return Differences(
        orphans=tuple(sorted(files.keys() - rows.keys())),
        leftovers=tuple(sorted(n for n in files if n in rows and rows[n].state is InstanceState.EVICTED)),
        lost=tuple(lost),
    )


def at_start(db: Store, spool: Spool) -> tuple[int, int]:
    """Clear what a killed run left half-done. Returns (partial files removed, leases ended)."""
    return spool.drop_partials(), db.write(lambda conn: leases.return_all_leases(conn, spool.node))


def reconcile(
    db: Store,
    spool: Spool,
    intake: Intake,
    started_at: float,
    pause_or_stop: Callable[[float], bool],
    clock: Callable[[], float],
    rest: float = REST,
) -> list[Differences]:
    """Walk the whole spool, for what was there before `started_at`; returns what differed and was dealt with.

    `pause_or_stop` waits between two folders, and returns True when the walk is to end.
    """
    with db.reading() as conn:
        buckets = set(catalog.buckets(conn)) | set(spool.bucket_names())
    found = []
    worked = 0.0
    for bucket in sorted(buckets):
        if pause_or_stop(worked * rest):
            break
        began = time.monotonic()
        differences = compare(*read_bucket(db, spool, bucket, started_at))
        worked = time.monotonic() - began
        if differences != Differences((), (), ()):
            found.append(differences)
            _repair_differences(db, spool, intake, differences, clock)
    return found


def read_bucket(
    db: Store, spool: Spool, bucket: str, started_at: float
) -> tuple[Mapping[str, int], Mapping[str, FileState]]:
    """The files of a bucket with their sizes, and the rows that name them or other files that are to be there."""
    with db.reading() as conn:
        rows = catalog.kept_files_of(conn, bucket, started_at)
    files = {name: stat.st_size for name, stat in spool.files(bucket) if stat.st_ctime < started_at or name in rows}
    if unexpected := files.keys() - rows.keys():
        with db.reading() as conn:
            rows |= catalog.states_of(conn, unexpected)
    return files, rows


def _repair_differences(
    db: Store, spool: Spool, intake: Intake, differences: Differences, clock: Callable[[], float]
) -> None:
    for name in differences.orphans:
        with db.reading() as conn:
            if catalog.holds_path(conn, name):
                continue  # its commit came while we looked
        if intake.adopt(name) is None:
            log.critical("spool file %s has no row and cannot be read; it stays where it is", name)
        else:
            log.warning("spool file %s had no row: adopted", name)
    for name in differences.leftovers:
        spool.remove(name)
        log.info("spool file %s was evicted before the crash: removed", name)
    for name, row, reason in differences.lost:
        if db.write(partial(catalog.lose, path=name, fault=reason, now=clock())):
            log.critical("instance %d is lost: %s", row.instance_id, reason)
