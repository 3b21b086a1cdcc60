"""`edge recover`: a catalog rebuilt from the damaged one, the journal of the custody ledger, and the spool.

The damaged catalog is moved aside and kept. The ledger is restored row by row, from whichever copy follows from the
row before; from it, what became of every instance and delivery. The other rows come from the journal, or from the
damaged catalog as far as they can be read. A delivery has the state that the ledger has last: what is proved is not
sent again. A file that no row is left for is adopted by its own head and routed as if it came now: an archive may get
that once more. Files are compared by name and length; the scrub reads them all again within a week.

Interrupted at any moment, it can be run again: until it is done a marker keeps the gateway from starting.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from edge.intake.policy import Policy
from edge.spool import DAMAGED_FOLDER, Bucket, Spool
from edge.storage.rebuild import deliveries, instances, ledger_rows
from edge.storage.rebuild.job import Rebuild, RebuildReport, Tick
from edge.store import header_progress, ledger, legal_holds
from edge.store.database import StatementError, Store, Transaction
from edge.store.identity_copy import COPIED, choose_rows, read_copy
from edge.store.ledger_copy import Journal
from edge.store.salvage import Salvage
from edge.store.sqlite_file import sync_path
from edge.store.wal import lost_commits

CATALOG = "catalog.db"
#: Where the catalog is rebuilt; while it is there, the gateway does not start.
MARKER = "catalog.db.recovering"
SUFFIXES = ("", "-wal", "-shm")
#: Tables that are not copied as they are: what is rebuilt, and what triggers keep.
REBUILT = frozenset(
    {"tally", "instance_tally", "ledger", "study", "kind", "instance", "delivery", "commitment", "legal_hold"}
    | {"series_facts", "instance_header"}  # read again from the files
    | {"folded_block", "folded_study", "folded_patient", "folded_tally", "folded_instance_tally", "folded_ledger"}
)


def recover(data_dir: Path, policy: Policy, who: str, tick: Tick = lambda _what, _n: None) -> RebuildReport:
    """Rebuild the catalog. The caller holds the lock of the data directory. `tick` receives what has been done."""
    aside = _move_aside(data_dir)
    new = data_dir / MARKER
    report = RebuildReport(kept=str(aside))
    _leave_out_a_damaged_log(aside / CATALOG)
    with closing(Store(new)) as db, closing(Spool(data_dir)) as spool, closing(Salvage(aside / CATALOG)) as salvage:
        _run(Rebuild(db, spool, salvage, Journal(data_dir), policy, report, tick), who)
    for suffix in SUFFIXES[1:]:
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    sync_path(new)
    os.rename(new, data_dir / CATALOG)
    Bucket(data_dir).sync()
    return report


def _move_aside(data_dir: Path) -> Path:
    """The damaged catalog's files into a directory of their own; one that was interrupted goes on with its own."""
    marker = data_dir / MARKER
    folders = sorted((data_dir / DAMAGED_FOLDER).glob("catalog-*"))
    if marker.exists() and folders:
        aside = folders[-1]
    else:
        now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        aside = data_dir / DAMAGED_FOLDER / f"catalog-{now}-{time.time_ns() % 1_000_000_000:09}"
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
    except StatementError:
        return
    if damaged:
        os.rename(f"{path}-wal", f"{path}-wal.damaged")
        Path(f"{path}-shm").unlink(missing_ok=True)


def _run(job: Rebuild, who: str) -> None:
    ledger_rows.restore_ledger(job)
    instances.restore_instances(job)
    deliveries.restore_deliveries(job)
    job.db.write(job.folded.refer)
    _copy_other_tables(job)
    deliveries.queue_missing(job)
    instances.adopt_files(job)
    held = [each for known in job.history.legal.values() for each in known]
    job.db.write(lambda conn: legal_holds.restore(conn, held))
    report = job.report
    payload = {
        "instances": report.instances,
        "adopted": report.adopted,
        "lost": report.lost,
        "ledger_missing": report.ledger_missing,
    }

    def work(conn: Transaction) -> None:
        header_progress.begin_backfill(conn)
        ledger.append(conn, time.time(), ledger.RECOVERED, who, [], payload=payload)

    job.db.write(work)


def _copy_other_tables(job: Rebuild) -> None:
    copied = read_copy(job.spool.root.parent)
    changed = {(str(row["table_name"]), str(row["key"])) for row in job.salvage.rows("identity_change")}
    for table in COPIED:
        rows = choose_rows(table, job.salvage.rows(table), copied[table], changed)
        job.report.other[table] = job.copy_rows(table, rows)
    for table in job.salvage.tables():
        if table in COPIED or table == "identity_change":
            continue
        if table not in REBUILT and table not in instances.HEADER_TABLES and not table.startswith("sqlite_"):
            job.report.other[table] = job.copy_rows(table, job.salvage.rows(table))
