"""Folded studies (edge.store.folding) back into a catalog: the gateway's when a study comes again, or one in memory.

Whatever of a study is not in the catalog is brought back; what is there already stays as it is. The caller owns the
transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edge.model import ContextKey
from edge.store import catalog, folded_ledger, patients
from edge.store.database import Transaction, insert_row
from edge.store.folded_files import DamagedFold, FoldedFiles, Record
from edge.store.folding import OF_INSTANCES, Folded, record_in, rows_of
from edge.store.identity import Patient
from edge.store.sqlite_file import open_empty_catalog

log = logging.getLogger(__name__)


@contextmanager
def open_in_memory(records: Sequence[Record]) -> Iterator[Transaction]:
    """A catalog in memory that has these studies and the ledger's rows about them, to be asked like the catalog."""
    with closing(open_empty_catalog()) as conn:
        folded_ledger.begin_folded(conn, [row for each in records for row in rows_of(each, "ledger")])
        for each in records:
            unfold(conn, each)
        yield conn


def hashes_by_seq(records: Iterable[Record]) -> dict[int, bytes]:
    return {int(seq): bytes.fromhex(value) for each in records for seq, value in each["before"].items()}


def unfold(conn: Transaction, record: Record, *, was_counted: bool = True) -> None:
    """Bring back every row of a study that is not in the catalog; what is there already stays as it is.

    `was_counted`: the counts have what is missing already.
    """
    kinds = _kinds(conn, record)
    people = {
        row["id"]: patients.enter_patient(conn, Patient(*(row[name] for name in patients.PATIENT_COLUMNS.values())))
        for row in rows_of(record, "patient")
    }
    _put(conn, "study", rows_of(record, "study"))
    _put(conn, "study_guess", rows_of(record, "study_guess"))
    whose = rows_of(record, "study_patient")
    _put(conn, "study_patient", [_renumber(row, patient_key=people, against_key=people) for row in whose])
    facts, series_rows = rows_of(record, "study_facts"), rows_of(record, "series")
    said = {row["id"]: _again(conn, "study_facts", _renumber(row, patient_key=people)) for row in facts}
    series = {row["id"]: _again(conn, "series", _renumber(row, study_facts_id=said)) for row in series_rows}
    _put(conn, "series_facts", [_renumber(row, series_id=series) for row in rows_of(record, "series_facts")])
    for row in rows_of(record, "instance"):
        if _put(conn, "instance", [_renumber(row, kind_id=kinds, series_id=series)]) and was_counted:
            _count(conn, "folded_instance_tally", "instance_tally", {"state": row["state"]}, row["size"])
    for row in rows_of(record, "delivery"):
        kept = _renumber(row, kind_id=kinds) | {"transaction_id": None}
        if _put(conn, "delivery", [kept]) and was_counted:
            of = {name: kept[name] for name in ("destination", "state", "kind_id", "priority")}
            _count(conn, "folded_tally", "tally", of, kept["bytes"])
    for table in OF_INSTANCES:
        _put(conn, table, (row for row in rows_of(record, table) if _has_delivery(conn, row)))
    checks = [_renumber(row, study_facts_id=said) for row in rows_of(record, "identity_check")]
    _put(conn, "identity_check", [row | {"order_id": _find_order(conn, row["order_id"])} for row in checks])
    folded_ledger.restore_rows(conn, rows_of(record, "ledger"), hashes_by_seq([record]))
    forget_study(conn, record["study_uid"])


def _kinds(conn: Transaction, record: Record) -> dict[int, int]:
    """The numbers that the kinds of a record have here."""
    return {
        row["id"]: catalog.kind_id(conn, ContextKey(row["sop_class_uid"], row["transfer_syntax_uid"]))
        for row in rows_of(record, "kind")
    }


def _has_delivery(conn: Transaction, row: Mapping[str, Any]) -> bool:
    """Is the delivery here that a row is about, if any? A rebuilt catalog may have queued it again."""
    number = row.get("delivery_id")
    return number is None or conn.execute("SELECT 1 FROM delivery WHERE id = ?", (number,)).fetchone() is not None


def _find_order(conn: Transaction, number: int | None) -> int | None:
    """The order of a check, where it is known here: not in a catalog in memory."""
    row = conn.execute("SELECT id FROM imaging_order WHERE id = ?", (number,)).fetchone()
    return row[0] if row else None


def restore_study(conn: Transaction, folded: Folded, data_dir: Path) -> None:
    """Unfold a study; where its file is damaged, the catalog begins with it again, as with a new one."""
    try:
        unfold(conn, record_in(FoldedFiles(data_dir), folded))
    except DamagedFold as error:
        log.critical("a study that comes again cannot be read from its yearly file: %s", error)
        forget_study(conn, folded.study_uid)


def count_in(conn: Transaction, record: Record) -> None:
    """Count what is in a file, in a catalog that has never had its rows."""
    kinds = _kinds(conn, record)
    for row in rows_of(record, "instance"):
        for table in ("instance_tally", "folded_instance_tally"):
            conn.execute(
                f"INSERT INTO {table} VALUES (?, 1, ?)"
                " ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes",
                (row["state"], row["size"]),
            )
    for row in rows_of(record, "delivery"):
        for table in ("tally", "folded_tally"):
            conn.execute(
                f"INSERT INTO {table} VALUES (?, ?, ?, ?, 1, ?)"
                " ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes",
                (row["destination"], row["state"], kinds[row["kind_id"]], row["priority"], row["bytes"]),
            )


def forget_study(conn: Transaction, study_uid: str) -> None:
    """The catalog no longer refers to a study's record."""
    conn.execute("DELETE FROM folded_study WHERE study_uid = ?", (study_uid,))
    conn.execute("DELETE FROM folded_patient WHERE study_uid = ?", (study_uid,))


def _renumber(row: Mapping[str, Any], **numbers: Mapping[int, int]) -> dict[str, Any]:
    """A row with the numbers that its references have here."""
    return {**row, **{name: known.get(row[name]) for name, known in numbers.items()}}


def _put(conn: Transaction, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(insert_row(conn, table, row, known="IGNORE") for row in rows)


def _again(conn: Transaction, table: str, row: Mapping[str, Any]) -> int:
    values = {name: value for name, value in row.items() if name != "id"}
    return patients.find_or_insert(conn, table, values, tuple(values.values()))


def _count(conn: Transaction, folded: str, all_: str, of: Mapping[str, Any], size: int) -> None:
    """Take back what a trigger has counted again of what came back."""
    where = " AND ".join(f"{name} = ?" for name in of)
    for table in (folded, all_):
        conn.execute(f"UPDATE {table} SET n = n - 1, bytes = bytes - ? WHERE {where}", (size, *of.values()))
