"""How long until an object is durable: an append to the journal, beside the order of syncs of the spool and a commit.

    python -m tests.bench.journal [ROUNDS] [DIRECTORY]

Each round plays both ways, one after the other, for 1, 2 and 4 processes and objects of 512 KiB and 10 KB. Microseconds
to the return, medians of the rounds; the ratio is taken within a round. The spool's way is that of edge.spool, with one
row committed (WAL, synchronous=FULL); no header is looked at, nothing is routed, and no DICOM is spoken.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edge.journal.control import SegmentState
from edge.journal.ring import Claims, Ring
from edge.journal.segment import RingSize
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft, SegmentWriter
from edge.model import ContextKey, Origin
from edge.spool import Spool
from edge.text import MIB

SIZES = {"512 KiB": (512 << 10, 240), "10 KB": (10_000, 800)}
RING = RingSize(8, 64 * MIB)
KIND = ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
FACTS = b'{"uid":"1.2.3","attributes":{}}' + b" " * 600
Times = list[float]


def to_journal(place: Path, size: int, count: int) -> Times:
    writer, slots = SegmentWriter(Claims(place / "journal")), SlotPool(4)
    body, times = os.urandom(size), []
    for _ in range(count):
        slot = slots.take(1.0)
        slot.body[:size] = body
        began = time.perf_counter()
        writer.append(slot, size, Draft(1, FACTS, bytes(600)))
        times.append(time.perf_counter() - began)
        slots.give_back(slot.number)
    writer.close()
    return times


def to_spool(place: Path, size: int, count: int) -> Times:
    spool = Spool(place)
    conn = sqlite3.connect(place / "rows.db", isolation_level=None, timeout=30.0)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute("CREATE TABLE IF NOT EXISTS instance (path TEXT PRIMARY KEY, sha256 BLOB, size INTEGER) STRICT")
    body, times = memoryview(os.urandom(size)), []
    for _ in range(count):
        began = time.perf_counter()
        partial = spool.begin(KIND, "1.2.3", Origin("CT1", "EDGE", "127.0.0.1", time.time()))
        partial.write([body])
        stored = partial.finish()
        assert stored.bucket is not None
        stored.bucket.sync()
        conn.execute("INSERT INTO instance VALUES (?, ?, ?)", (stored.path, stored.sha256, stored.size))
        times.append(time.perf_counter() - began)
    conn.close()
    spool.close()
    return times


def play(
    way: Callable[[Path, int, int], Times], place: Path, size: int, count: int, processes: int
) -> tuple[float, Times]:
    """(seconds for all, the time of each)."""
    with mp.get_context("fork").Pool(processes) as pool:
        pool.map(time.sleep, [0.01] * processes)
        began = time.perf_counter()
        found = pool.starmap(way, [(place, size, count // processes)] * processes, chunksize=1)
        return time.perf_counter() - began, [each for times in found for each in times]


def recycle(ring: Ring) -> None:
    for number in ring.control.numbers(SegmentState.CLOSED):
        ring.mark_applied(ring.control.generation(number), ring.control.written_count(number))
    while ring.prepare():
        pass


def percentile(times: Times, share: float) -> float:
    return sorted(times)[int(len(times) * share)] * 1e6


def main(rounds: int, directory: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="journal-", dir=directory))
    ring = Ring(place / "journal", RING)
    recycle(ring)
    print("| objects | processes | journal p50 | p99 | a second | spool p50 | p99 | a second | x |\n|---|" + "---|" * 8)
    for name, (size, count) in SIZES.items():
        for processes in (1, 2, 4):
            figures = []
            for _ in range(rounds):
                taken, journal = play(to_journal, place, size, count, processes)
                recycle(ring)
                took, spool = play(to_spool, place, size, count, processes)
                shutil.rmtree(place / "spool")
                figures.append(
                    (percentile(journal, 0.5), percentile(journal, 0.99), len(journal) / taken,
                     percentile(spool, 0.5), percentile(spool, 0.99), len(spool) / took, took / taken)
                )  # fmt: skip
            told = [statistics.median(column) for column in zip(*figures, strict=True)]
            cells = [f"{each:.0f}" for each in told[:-1]]
            print(f"| {name} | {processes} | {' | '.join(cells)} | {told[-1]:.1f} |", flush=True)
    ring.close()
    shutil.rmtree(place)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, Path(sys.argv[2] if len(sys.argv) > 2 else "build"))
