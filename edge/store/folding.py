"""Folding: long-evicted studies leave the catalog for the yearly files (edge.store.folded_files), one by one.

A study is folded when nothing of it is kept here, nothing of it is to go anywhere, no person has assigned it to a
patient, and no row of the ledger has named it for FOLD_AFTER_SECONDS. Its rows are written to a file first; then the
catalog refers to them there; then they are deleted, a few in each transaction. At every moment each row is in the
catalog, or in a file to which the catalog refers, or in both. edge.store.unfolding brings them back. The caller owns
the transaction.

Numbers are never used twice: the study with the greatest number of any kind stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.store import folded_ledger
from edge.store.database import Transaction
from edge.store.folded_files import Block, FoldedFiles, Record
from edge.store.folded_study import is_folded

__all__ = ["is_folded"]

FOLD_AFTER_SECONDS = 365 * 86400.0
#: Instances deleted in one transaction: receivers wait while it runs.
DROP_CHUNK = 100

#: What else is kept of instances and comes back with them: table -> its column with their numbers.
OF_INSTANCES = {
    "rejection_note": "instance_id",
    "rejection_reference": "note_id",
    "sent_copy": "instance_id",
    "pixel_approval": "instance_id",
}
#: Tables of a record, by the number of its study; in the order in which they come back.
_OF_STUDY = {
    "study": "SELECT * FROM study WHERE id = :study",
    "study_guess": "SELECT * FROM study_guess WHERE study_id = :study",
    "patient": "SELECT * FROM patient WHERE id IN (SELECT patient_key FROM study_patient WHERE study_id = :study"
    " UNION SELECT against_key FROM study_patient WHERE study_id = :study"
    " UNION SELECT patient_key FROM study_facts WHERE study_id = :study)",
    "study_patient": "SELECT * FROM study_patient WHERE study_id = :study",
    "study_facts": "SELECT * FROM study_facts WHERE study_id = :study",
    "series": "SELECT * FROM series WHERE study_facts_id IN (SELECT id FROM study_facts WHERE study_id = :study)",
    "series_facts": "SELECT * FROM series_facts WHERE series_id IN (SELECT r.id FROM series r JOIN study_facts f"
    " ON f.id = r.study_facts_id WHERE f.study_id = :study)",
    "kind": "SELECT * FROM kind WHERE id IN (SELECT kind_id FROM instance WHERE study_id = :study)",
    "instance": "SELECT * FROM instance WHERE study_id = :study ORDER BY id",
    "delivery": "SELECT * FROM delivery WHERE instance_id IN (SELECT id FROM instance WHERE study_id = :study)"
    " ORDER BY id",
    "identity_check": "SELECT * FROM identity_check WHERE study_facts_id IN"
    " (SELECT id FROM study_facts WHERE study_id = :study)",
    **{
        table: f"SELECT * FROM {table} WHERE {key} IN (SELECT id FROM instance WHERE study_id = :study)"
        for table, key in OF_INSTANCES.items()
    },
    "ledger": "SELECT * FROM ledger WHERE study_id = :study ORDER BY seq",
}
_RIPE = """
SELECT s.id FROM study s WHERE s.id IN (SELECT value FROM json_each(:some))
  AND NOT EXISTS (SELECT 1 FROM instance WHERE study_id = s.id AND (open_deliveries > 0 OR hold <> ''
                  OR NOT (state = 'evicted' OR state = 'discarded' AND deleted_at IS NOT NULL)))
  AND EXISTS (SELECT 1 FROM instance WHERE study_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM ledger WHERE study_id = s.id AND at >= :quiet)
  AND NOT EXISTS (SELECT 1 FROM folded_study WHERE study_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM study_assignment WHERE study_id = s.id)
  AND s.id < (SELECT max(id) FROM study)
  AND (SELECT max(id) FROM study_facts WHERE study_id = s.id) IS NOT (SELECT max(id) FROM study_facts)
  AND (SELECT max(r.id) FROM series r JOIN study_facts f ON f.id = r.study_facts_id WHERE f.study_id = s.id)
      IS NOT (SELECT max(id) FROM series)
  AND (SELECT max(id) FROM instance WHERE study_id = s.id) < (SELECT max(id) FROM instance)
  AND (SELECT max(d.id) FROM instance i JOIN delivery d ON d.instance_id = i.id WHERE i.study_id = s.id)
      IS NOT (SELECT max(id) FROM delivery)
  AND (SELECT max(seq) FROM ledger WHERE study_id = s.id) < (SELECT max(seq) FROM ledger)
ORDER BY s.last_received, s.id
"""
_OLDEST = """
SELECT last_received, id FROM study WHERE last_received < :quiet AND (last_received, id) > (:after, :after_id)
ORDER BY last_received, id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Folded:
    """A study that is in a yearly file, wholly or (while it is being folded) with some rows in the catalog."""

    study_uid: str
    study_id: int
    block: Block
    last_seq: int


# -- from the catalog into a file --------------------------------------------------------------------------------------


#: A study by its last reception: where a pass through all of them continues.
StudyPlace = tuple[float, int]
FIRST_PLACE: StudyPlace = (0.0, 0)


def find_foldable(conn: Transaction, now: float, after: StudyPlace, limit: int) -> tuple[list[int], StudyPlace | None]:
    """Find which of the next `limit` studies after a place may be folded; and the next place, None at the end."""
    quiet = now - FOLD_AFTER_SECONDS
    given = {"quiet": quiet, "after": after[0], "after_id": after[1], "limit": limit}
    oldest = [(row[0], row[1]) for row in conn.execute(_OLDEST, given)]
    some = json.dumps([each for _, each in oldest])
    found = [row[0] for row in conn.execute(_RIPE, {"quiet": quiet, "some": some})]
    return found, oldest[-1] if len(oldest) == limit else None


def record_of(conn: Transaction, study: int) -> dict[str, Any]:
    """All rows of a study, as they go into a file."""
    tables = {}
    for name, sql in _OF_STUDY.items():
        cursor = conn.execute(sql, {"study": study})
        columns = [each[0] for each in cursor.description]
        tables[name] = {"columns": columns, "rows": [[_to_json(value) for value in row] for row in cursor]}
    (uid,) = conn.execute("SELECT study_uid FROM study WHERE id = ?", (study,)).fetchone()
    before = folded_ledger.hashes_before(conn, study)
    hashes = {str(seq): value.hex() for seq, value in before.items()}
    return {"study_uid": uid, "study_id": study, "before": hashes, "tables": tables}


def _to_json(value: object) -> object:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def rows_of(record: Record, table: str) -> list[dict[str, Any]]:
    """The rows of one table in a record, each by column."""
    found = record["tables"].get(table, {"columns": [], "rows": []})
    return [dict(zip(found["columns"], map(_read, row), strict=True)) for row in found["rows"]]


def _read(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def last_block(conn: Transaction, year: int) -> Block | None:
    """The last block of a year that the catalog refers to."""
    row = conn.execute(
        "SELECT year, position, length, sha256 FROM folded_block WHERE year = ? ORDER BY position DESC LIMIT 1", (year,)
    ).fetchone()
    return Block(*row) if row else None


def blocks(conn: Transaction) -> list[Block]:
    """Every block that the catalog refers to, in order."""
    rows = conn.execute("SELECT year, position, length, sha256 FROM folded_block ORDER BY year, position")
    return [Block(*row) for row in rows]


def refer(conn: Transaction, block: Block, records: Iterable[Record], *, is_whole: bool = False) -> None:
    """Record where some studies are in the yearly files. `is_whole`: none of their rows is in the catalog."""
    number = conn.execute(
        "INSERT INTO folded_block (year, position, length, sha256) VALUES (?, ?, ?, ?) RETURNING id",
        (block.year, block.position, block.length, block.sha256),
    ).fetchone()[0]
    for record in records:
        uid = record["study_uid"]
        at = [row["at"] for row in rows_of(record, "ledger")] or [0.0]
        last = last_seq_of(record)
        last_id = max((row["id"] for row in rows_of(record, "instance")), default=0)
        conn.execute(
            "INSERT INTO folded_study VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (uid, record["study_id"], number, min(at), max(at), last, last_id, int(is_whole)),
        )
        ids = {row["patient_id"] for row in rows_of(record, "patient") + rows_of(record, "study")}
        conn.executemany("INSERT INTO folded_patient VALUES (?, ?)", [(each, uid) for each in sorted(ids)])


def has_changed(conn: Transaction, study: int, last_seq: int) -> bool:
    """Has something happened to a study since its record was made? Whatever happens has a row in the ledger."""
    sql = "SELECT 1 FROM ledger WHERE study_id = ? AND seq > ? LIMIT 1"
    return conn.execute(sql, (study, last_seq)).fetchone() is not None


def last_seq_of(record: Record) -> int:
    return max((row["seq"] for row in rows_of(record, "ledger")), default=0)


def half_folded(conn: Transaction) -> Folded | None:
    """A study that is in a file, and still has rows in the catalog."""
    return _one(conn, "WHERE s.is_whole = 0")


def drop_some(conn: Transaction, folded: Folded) -> bool:
    """Delete the next rows of a study that is in a file; False when none is left."""
    study = folded.study_id
    ids = conn.execute(
        "SELECT id FROM instance WHERE study_id = ? ORDER BY id DESC LIMIT ?", (study, DROP_CHUNK)
    ).fetchall()
    if ids:
        _drop_instances(conn, json.dumps([row[0] for row in ids]))
        return True
    if folded_ledger.drop(conn, study, folded.last_seq, DROP_CHUNK):
        return True
    given = {"study": study}
    said = "SELECT id FROM study_facts WHERE study_id = :study"
    conn.execute(
        f"DELETE FROM series_facts WHERE series_id IN (SELECT id FROM series WHERE study_facts_id IN ({said}))",
        given,
    )
    for table in ("series", "identity_check", "identity_recheck"):
        conn.execute(f"DELETE FROM {table} WHERE study_facts_id IN ({said})", given)
    for table in ("study_facts", "study_patient", "study_guess"):
        conn.execute(f"DELETE FROM {table} WHERE study_id = :study", given)
    conn.execute("DELETE FROM study WHERE id = :study", given)
    conn.execute("UPDATE folded_study SET is_whole = 1 WHERE study_id = :study", given)
    return False


_THESE = "(SELECT value FROM json_each(:ids))"
#: Each behind what it refers to.
_WITH_INSTANCES = {
    **dict.fromkeys(("instance_header", "settled", "delivery"), "instance_id"),
    **OF_INSTANCES,
}


def _drop_instances(conn: Transaction, ids: str) -> None:
    """Counts stay: they are of all that was ever received and sent."""
    given = {"ids": ids}
    for tally in ("tally", "folded_tally"):
        conn.execute(
            f"INSERT INTO {tally} SELECT destination, state, kind_id, priority, count(*), sum(bytes) FROM delivery"
            f" WHERE instance_id IN {_THESE} GROUP BY 1, 2, 3, 4"
            f" ON CONFLICT DO UPDATE SET n = {tally}.n + excluded.n, bytes = {tally}.bytes + excluded.bytes",
            given,
        )
    conn.execute(
        f"INSERT INTO folded_instance_tally SELECT state, count(*), sum(size) FROM instance WHERE id IN {_THESE}"
        " GROUP BY 1 ON CONFLICT DO UPDATE SET n = n + excluded.n, bytes = bytes + excluded.bytes",
        given,
    )
    for table, key in reversed(_WITH_INSTANCES.items()):
        conn.execute(f"DELETE FROM {table} WHERE {key} IN {_THESE}", given)
    conn.execute(f"DELETE FROM instance WHERE id IN {_THESE}", given)


# -- looking for it ----------------------------------------------------------------------------------------------------

_FOLDED = """
SELECT s.study_uid, s.study_id, s.last_seq, b.year, b.position, b.length, b.sha256
FROM folded_study s JOIN folded_block b ON b.id = s.block_id
"""


def find_study(conn: Transaction, study_uid: str) -> Folded | None:
    """Where a study is, if that is in a yearly file."""
    return _one(conn, "WHERE s.study_uid = ?", study_uid)


def _one(conn: Transaction, where: str, *given: object) -> Folded | None:
    row = conn.execute(f"{_FOLDED} {where} LIMIT 1", given).fetchone()
    return _read_folded(row) if row else None


def _read_folded(row: Sequence[Any]) -> Folded:
    return Folded(row[0], row[1], Block(*tuple(row)[3:]), row[2])


def look_for(
    conn: Transaction, patient_ids: Sequence[str] | None, study_uid: str | None, since: float, until: float
) -> list[Folded]:
    """The folded studies of a patient by any of these numbers, under a UID, or with rows of the ledger in a time.

    By their first row.
    """
    rows = conn.execute(
        f"{_FOLDED} WHERE (?1 IS NULL OR s.study_uid IN (SELECT study_uid FROM folded_patient"
        " WHERE patient_id IN (SELECT value FROM json_each(?1))))"
        " AND (?2 IS NULL OR s.study_uid = ?2) AND s.last_at >= ?3 AND s.first_at <= ?4 ORDER BY s.first_at",
        (None if patient_ids is None else json.dumps(list(patient_ids)), study_uid, since, until),
    )
    return [_read_folded(row) for row in rows]


def record_in(files: FoldedFiles, folded: Folded) -> dict[str, Any]:
    """A study's record. Raises DamagedFold."""
    return next(each for each in files.read(folded.block) if each["study_uid"] == folded.study_uid)


def in_the_way(conn: Transaction) -> list[Folded]:
    """Folded studies that the catalog has rows of, and those with numbers that it would use again."""
    used = (("last_id", "id", "instance"), ("study_id", "id", "study"), ("last_seq", "seq", "ledger"))
    greatest = " OR ".join(
        f"s.{name} > (SELECT coalesce(max({number}), 0) FROM {table})"
        f" AND s.{name} = (SELECT max({name}) FROM folded_study)"
        for name, number, table in used
    )
    rows = conn.execute(f"{_FOLDED} WHERE s.study_uid IN (SELECT study_uid FROM study) OR {greatest}").fetchall()
    return [_read_folded(row) for row in rows]
