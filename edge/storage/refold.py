"""`edge recover` and the yearly files: it refers to what is there alone; what is in use is compared with them."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator
from typing import Any

from edge.store import folded_ledger, folding, unfolding
from edge.store.database import Transaction
from edge.store.folded_files import Block, FoldedFiles
from edge.store.folded_ledger import Range
from edge.store.ledger_copy import Entry, entry_of_row


class FoldedPast:
    """What the yearly files have; of several records of a study, the newest counts."""

    def __init__(self, files: FoldedFiles, live: Collection[str]) -> None:
        """`live`: studies of which the damaged catalog has rows."""
        self._files, self._live = files, live
        self._blocks: list[Block] = []
        newest: dict[str, tuple[int, Block]] = {}
        for year in files.years():
            for block, records in files.blocks(year):
                self._blocks.append(block)
                for record in records:
                    found = folding.last_seq_of(record), block
                    newest[record["study_uid"]] = max(newest.get(record["study_uid"], found), found, key=lambda x: x[0])
        self._where = {uid: block for uid, (_, block) in newest.items()}
        self._ranges = self._join()
        self._starts = [each.first for each in self._ranges]

    def _records(self, *, live: bool) -> Iterator[tuple[Block, dict[str, Any]]]:
        for block in self._blocks:
            for record in self._files.read(block):
                uid = record["study_uid"]
                if self._where[uid] == block and (uid in self._live) is live:
                    yield block, record

    def _join(self) -> list[Range]:
        runs: list[Range] = []
        for _, record in self._records(live=False):
            runs += [Range(row["seq"], row["seq"], row["hash"]) for row in folding.rows_of(record, "ledger")]
        found: list[Range] = []
        for each in sorted(runs, key=lambda each: each.first):
            if found and found[-1].last == each.first - 1:
                found[-1] = Range(found[-1].first, each.last, each.last_hash)
            else:
                found.append(each)
        return found

    def range_of(self, seq: int) -> Range | None:
        """The range of a row that only the files need to have."""
        at = bisect.bisect_right(self._starts, seq) - 1
        return self._ranges[at] if at >= 0 and seq <= self._ranges[at].last else None

    def entries(self) -> list[Entry]:
        """The ledger's rows about studies that are in use, by number."""
        found = []
        for _, record in self._records(live=True):
            for row in folding.rows_of(record, "ledger"):
                found.append(entry_of_row(row))
        return sorted(found, key=lambda each: each.seq)

    def refer(self, conn: Transaction) -> None:
        """Let a catalog that was rebuilt know all of it; what it has rows of is brought back."""
        known: dict[Block, list[dict[str, Any]]] = {block: [] for block in self._blocks}
        for block, record in self._records(live=False):
            known[block].append(record)
        for block, records in known.items():
            folding.refer(conn, block, records, is_whole=True)
        for each in self._ranges:
            folded_ledger.add_range(conn, each)
        for _, record in self._records(live=True):
            unfolding.unfold(conn, record, was_counted=False)
        for folded in folding.in_the_way(conn):
            unfolding.unfold(conn, folding.record_in(self._files, folded), was_counted=False)
        for _, record in self._records(live=False):
            if folding.is_folded(conn, record["study_uid"]):
                unfolding.count_in(conn, record)
