"""The ledger, row by row, from whichever copy follows from the row before."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import groupby

from edge.storage.rebuild.job import BATCH, Rebuild
from edge.store import restoring
from edge.store.ledger_copy import Entry, entry_of_row
from edge.store.salvage import SalvagedRow


def restore_ledger(job: Rebuild) -> None:
    """Enter the rows of the ledger, and learn from them what became of everything."""
    salvaged = (entry for row in job.salvage.rows("ledger") if (entry := _entry_of(row)))
    witnesses = job.journal.entries(), salvaged, job.folded.entries()
    merged = heapq.merge(*witnesses, key=lambda entry: entry.seq)
    before, last = bytes(32), 0
    batch: list[Entry] = []
    for seq, group in groupby(merged, key=lambda entry: entry.seq):
        if job.folded.range_of(seq) is not None:
            continue
        if seq > last + 1 and (folded := job.folded.range_of(last + 1)) and folded.last == seq - 1:
            before, last = folded.last_hash, folded.last
        entry = _choose(list(group), before, is_next=seq == last + 1)
        if entry is None or seq <= last:
            continue
        job.report.ledger_missing += seq - last - 1
        before, last = entry.hash, seq
        job.history.learn(entry)
        batch.append(entry)
        if len(batch) == BATCH:
            _insert(job, batch)
            batch = []
    _insert(job, batch)


def _choose(entries: Sequence[Entry], before: bytes, *, is_next: bool) -> Entry | None:
    """Choose, of several copies of one row, the one that follows from the row before; behind a gap, any."""
    for entry in entries:
        if entry.follows(before):
            return entry
    return None if is_next else entries[0]


def _insert(job: Rebuild, entries: list[Entry]) -> None:
    rows = [(e.seq, *e.values, e.hash) for e in entries]
    job.db.write(lambda conn: restoring.insert_ledger_rows(conn, rows))
    job.report.ledger_rows += len(entries)
    job.tick("rows of the custody ledger", job.report.ledger_rows)


def _entry_of(row: SalvagedRow) -> Entry | None:
    """A row of the damaged catalog that can be believed; a catalog of 0.1.0 has no payload."""
    sound = isinstance(row["seq"], int) and isinstance(row["hash"], bytes) and isinstance(row["instances"], str)
    return entry_of_row(row) if sound else None
