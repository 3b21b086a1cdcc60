"""Integrity of the catalog. Reads only.

It is whole when SQLite finds its pages and indexes in order, its counts agree, and each row says what the ledger says.
Limits: what nothing vouches for (a destination's last error, when a peer called) is not covered.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from edge.store import folded_ledger, folding, ledger, unfolding
from edge.store.database import CatalogRow, Transaction
from edge.store.folded_files import DamagedFold, FoldedFiles
from edge.store.kept_files import FileRow
from edge.store.ledger_text import payload_of_row

#: This number of problems of the catalog is named; more say nothing more.
MOST = 100

#: What must not be found, and what it means.
_CONTRADICTIONS = (
    (
        "an instance in no known state",
        "SELECT id FROM instance WHERE state NOT IN ('stored', 'conflict', 'quarantined', 'evicted', 'lost',"
        " 'discarded')",
    ),
    (
        "a delivery in no known state",
        "SELECT instance_id FROM delivery"
        " WHERE state NOT IN ('pending', 'active', 'deferred', 'held', 'sent', 'confirmed', 'cancelled')",
    ),
    (
        "a tally of the instances that is not the count",
        "WITH folded_and_here AS (SELECT state, sum(n) AS n, sum(bytes) AS bytes FROM"
        " (SELECT state, 1 AS n, size AS bytes FROM instance UNION ALL SELECT * FROM folded_instance_tally) GROUP BY 1)"
        " SELECT 0 FROM (SELECT state, n, bytes FROM instance_tally WHERE n <> 0 OR bytes <> 0"
        " EXCEPT SELECT * FROM folded_and_here)"
        " UNION ALL SELECT 0 FROM (SELECT * FROM folded_and_here WHERE n <> 0"
        " EXCEPT SELECT state, n, bytes FROM instance_tally)",
    ),
    ("an instance without its kind", "SELECT id FROM instance WHERE kind_id NOT IN (SELECT id FROM kind)"),
    (
        "an instance without its study",
        "SELECT id FROM instance WHERE study_id IS NOT NULL AND study_id NOT IN (SELECT id FROM study)",
    ),
    (
        "an instance with the facts of another study",
        "SELECT i.id FROM instance i LEFT JOIN series r ON r.id = i.series_id"
        " LEFT JOIN study_facts f ON f.id = r.study_facts_id LEFT JOIN study_patient w ON w.study_id = f.study_id"
        " AND w.patient_key = f.patient_key WHERE i.series_id IS NOT NULL AND w.study_id IS NOT i.study_id",
    ),
    (
        "a delivery that is not as its instance",
        "SELECT d.instance_id FROM delivery d LEFT JOIN instance i ON i.id = d.instance_id"
        " WHERE i.id IS NULL OR i.kind_id <> d.kind_id",
    ),
    (
        "a wrong count of open deliveries",
        "SELECT i.id FROM instance i WHERE i.open_deliveries <>"
        " (SELECT count(*) FROM delivery d WHERE d.instance_id = i.id AND d.state NOT IN ('confirmed', 'cancelled'))",
    ),
    (
        "an instance that nobody has to get",
        "SELECT i.id FROM instance i WHERE i.state IN ('stored', 'conflict')"
        " AND i.fetched_from = '' AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = i.id)",
    ),
    (
        "a tally that is not the count",
        "WITH folded_and_here AS (SELECT destination, state, kind_id, priority, sum(n) AS n, sum(bytes) AS bytes FROM"
        " (SELECT destination, state, kind_id, priority, 1 AS n, bytes FROM delivery UNION ALL"
        "  SELECT * FROM folded_tally) GROUP BY 1, 2, 3, 4)"
        " SELECT 0 FROM (SELECT destination, state, kind_id, priority, n, bytes FROM tally WHERE n <> 0 OR bytes <> 0"
        " EXCEPT SELECT * FROM folded_and_here)"
        " UNION ALL SELECT 0 FROM (SELECT * FROM folded_and_here WHERE n <> 0"
        " EXCEPT SELECT destination, state, kind_id, priority, n, bytes FROM tally)",
    ),
)


def check_pages(conn: Transaction) -> list[str]:
    """SQLite's own check of every page, row and index of the catalog."""
    try:
        found = [row[0] for row in conn.execute(f"PRAGMA integrity_check({MOST})")]
        found += [f"row {row[1]} of {row[0]} refers to nothing" for row in conn.execute("PRAGMA foreign_key_check")]
    except sqlite3.DatabaseError as error:
        return [f"the catalog cannot be read: {error}"]
    return [text for text in found if text != "ok"][:MOST]


def check_rows(conn: Transaction) -> Iterator[str]:
    """Rows of the catalog that contradict each other, or the custody ledger."""
    try:
        for what, sql in _CONTRADICTIONS:
            found = [str(row[0]) for row in conn.execute(f"{sql} LIMIT {MOST}")]
            if found:
                yield f"{what}: instance {', '.join(found)}" if found != ["0"] * len(found) else what
        yield from _against_the_ledger(conn)
    except sqlite3.DatabaseError as error:
        yield f"the catalog cannot be read: {error}"


def _against_the_ledger(conn: Transaction) -> Iterator[str]:
    """What custody means: who sent it, its digest, and who has confirmed it; study by study."""
    for (study,) in conn.execute("SELECT id FROM study UNION ALL SELECT NULL").fetchall():
        arrived, confirmed = _read_study(conn, study)
        for row in conn.execute(
            "SELECT id, received_at, calling_ae, lower(hex(sha256)) FROM instance WHERE study_id IS ?", (study,)
        ):
            arrival = arrived.get(row[0])
            if arrival is None:
                yield f"instance {row[0]} has no row of the ledger that says how it came"
            elif (arrival["at"], arrival["who"], payload_of_row(arrival).get("sha256", row[3])) != tuple(row[1:]):
                yield f"instance {row[0]} is not what the ledger says was received"
        for instance, destination in conn.execute(
            "SELECT d.instance_id, d.destination FROM instance i JOIN delivery d ON d.instance_id = i.id"
            " WHERE i.study_id IS ? AND d.state = 'confirmed'",
            (study,),
        ):
            if (instance, destination) not in confirmed:
                yield f'instance {instance} is confirmed at "{destination}", but the ledger has no row that says so'


def check_folded(conn: Transaction, files: FoldedFiles) -> Iterator[str]:
    """Yearly files that are not what was written, and rows of the ledger that they lack."""
    total = folded_ledger.RangeSum(folded_ledger.ranges(conn))
    known = {(each.study_uid, each.block) for each in folding.look_for(conn, None, None, -inf, inf)}
    for block in folding.blocks(conn):
        try:
            records = files.read(block)
        except DamagedFold as error:
            yield str(error)
            continue
        for record in records:
            if (record["study_uid"], block) in known:
                known.remove((record["study_uid"], block))
                rows = folding.rows_of(record, "ledger")
                total.add(rows, unfolding.hashes_by_seq([record]))
                yield from _folded_rows(record)
    yield from (f"study {uid} is not in its yearly file, {block.year}" for uid, block in known)
    yield from (f"the yearly files lack rows of the ledger, of {each.first} to {each.last}" for each in total.wrong())


def _folded_rows(record: Mapping[str, Any]) -> Iterator[str]:
    with unfolding.open_in_memory([record]) as conn:
        if (broken := ledger.check(conn)) is not None:
            yield f"the ledger in a yearly file is broken at row {broken.seq}: {broken.text}"


_CAME = (ledger.RECEIVED, ledger.FETCHED, ledger.ADOPTED, ledger.CONFLICT, ledger.QUARANTINED)


def _read_study(conn: Transaction, study: int | None) -> tuple[dict[int, CatalogRow], set[tuple[int, str]]]:
    """Read from the ledger the row of the last arrival of each instance of a study, and who has confirmed it."""
    arrived: dict[int, CatalogRow] = {}
    confirmed: set[tuple[int, str]] = set()
    for row in conn.execute(f"SELECT {ledger.COLUMNS} FROM ledger WHERE study_id IS ? ORDER BY seq", (study,)):
        if row["event"] in _CAME:
            arrived |= dict.fromkeys(json.loads(row["instances"]), row)
        elif row["event"] == ledger.CONFIRMED:
            confirmed |= {(instance, row["destination"]) for instance in json.loads(row["instances"])}
    return arrived, confirmed


def received_digest(conn: Transaction, row: FileRow) -> bytes:
    """The SHA-256 that the ledger has of an instance, where it has it: a second witness; else empty."""
    arrival = _read_study(conn, row.study_id)[0].get(row.instance_id)
    try:
        return bytes.fromhex(payload_of_row(arrival).get("sha256", "")) if arrival is not None else b""
    except ValueError:
        return b""
