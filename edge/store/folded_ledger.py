"""The ranges of the ledger's rows that are in yearly files: the chain continues across them.

The caller owns the transaction.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.store.database import Transaction, insert_row

LedgerRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Range:
    """Rows `first` to `last` are in files; the next one follows from `last_hash`."""

    first: int
    last: int
    last_hash: bytes


def find_range(conn: Transaction, seq: int) -> Range | None:
    """The range of a row."""
    row = conn.execute(
        "SELECT first_seq, last_seq, last_hash FROM folded_ledger WHERE first_seq <= ? ORDER BY first_seq DESC LIMIT 1",
        (seq,),
    ).fetchone()
    return Range(*row) if row is not None and row[1] >= seq else None


def hash_of(conn: Transaction, seq: int) -> bytes | None:
    """A row's hash, as far as the catalog has it: not of one in the middle of a range."""
    row = conn.execute(
        "SELECT hash FROM ledger WHERE seq = ?1 UNION ALL SELECT last_hash FROM folded_ledger WHERE last_seq = ?1",
        (seq,),
    ).fetchone()
    return bytes(row[0]) if row else None


def hashes_before(conn: Transaction, study: int) -> dict[int, bytes]:
    """The hash before each row about a study that follows a row about something else."""
    seqs = [row[0] for row in conn.execute("SELECT seq FROM ledger WHERE study_id = ? ORDER BY seq", (study,))]
    first = [seq for at, seq in enumerate(seqs) if at == 0 or seqs[at - 1] != seq - 1]
    return {seq: hash_of(conn, seq - 1) or bytes(32) for seq in first}


def drop(conn: Transaction, study: int, last_seq: int, limit: int) -> int:
    """Delete the next rows about a study that are in a file. Returns how many."""
    rows = conn.execute(
        "SELECT seq, hash FROM ledger WHERE study_id = ? AND seq <= ? ORDER BY seq LIMIT ?", (study, last_seq, limit)
    ).fetchall()
    for first, last in _runs([row[0] for row in rows]):
        add_range(conn, Range(first, last, next(row[1] for row in reversed(rows) if row[0] == last)))
    conn.executemany("DELETE FROM ledger WHERE seq = ?", [(row[0],) for row in rows])
    return len(rows)


def _runs(seqs: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1] = found[-1][0], seq
        else:
            found.append((seq, seq))
    return found


def add_range(conn: Transaction, new: Range) -> None:
    """Ranges that touch become one."""
    before, behind = find_range(conn, new.first - 1), find_range(conn, new.last + 1)
    first = before.first if before else new.first
    last, last_hash = (behind.last, behind.last_hash) if behind else (new.last, new.last_hash)
    conn.execute("DELETE FROM folded_ledger WHERE first_seq BETWEEN ? AND ?", (first, last))
    conn.execute("INSERT INTO folded_ledger VALUES (?, ?, ?)", (first, last, last_hash))


def restore_rows(conn: Transaction, rows: Iterable[LedgerRow], before: Mapping[int, bytes]) -> None:
    """Rows that lay in files are in the catalog again."""
    known = dict(before)
    for row in rows:
        seq = row["seq"]
        if (found := find_range(conn, seq)) is not None:
            _take_out(conn, found, seq, known[seq])
            insert_row(conn, "ledger", row)
        known[seq + 1] = row["hash"]


def _take_out(conn: Transaction, found: Range, seq: int, before: bytes) -> None:
    conn.execute("DELETE FROM folded_ledger WHERE first_seq = ?", (found.first,))
    if found.first < seq:
        conn.execute("INSERT INTO folded_ledger VALUES (?, ?, ?)", (found.first, seq - 1, before))
    if found.last > seq:
        conn.execute("INSERT INTO folded_ledger VALUES (?, ?, ?)", (seq + 1, found.last, found.last_hash))


def begin_folded(conn: Transaction, rows: Sequence[LedgerRow]) -> None:
    """Let an empty ledger be one of which everything is in files, so that these rows can be brought back."""
    if rows:
        last = max(rows, key=lambda row: int(row["seq"]))
        add_range(conn, Range(1, last["seq"], last["hash"]))


class RangeSum:
    """Do the rows in the files make up the ranges, each following from the one before it? In little memory.

    Of each row, the number and hash are added on one side; what the next row follows from, on the other.
    """

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = sorted(ranges, key=lambda each: each.first)
        self._starts = [each.first for each in self._ranges]
        self._sums = [0] * len(self._ranges)
        self._counts = [0] * len(self._ranges)

    def add(self, rows: Sequence[LedgerRow], before: Mapping[int, bytes]) -> None:
        """The rows of one record, in order."""
        known = dict(before)
        for row in rows:
            seq = row["seq"]
            at = bisect.bisect_right(self._starts, seq) - 1
            if at >= 0 and seq <= self._ranges[at].last:
                self._counts[at] += 1
                if seq > self._ranges[at].first:
                    self._sums[at] += _number(seq - 1, known.get(seq, b""))
                self._sums[at] -= _number(seq, row["hash"])
            known[seq + 1] = row["hash"]

    def wrong(self) -> list[Range]:
        """Ranges of which rows are missing, or do not follow."""
        found = []
        for each, total, count in zip(self._ranges, self._sums, self._counts, strict=True):
            if count != each.last - each.first + 1 or total + _number(each.last, each.last_hash):
                found.append(each)
        return found


def _number(seq: int, hash_: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"%d:" % seq + hash_).digest(), "big")


def ranges(conn: Transaction) -> list[Range]:
    return [Range(*row) for row in conn.execute("SELECT first_seq, last_seq, last_hash FROM folded_ledger ORDER BY 1")]
