"""The entries of a rebuild: rows as they were; instances, studies and deliveries by what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge.store.database import CatalogRow, ConstraintError, Transaction, insert_row
from edge.store.ledger import COLUMNS
from edge.store.salvage import SalvagedRow

_LEDGER = ("seq", *COLUMNS.split(", "), "hash")


def list_columns(conn: Transaction, table: str) -> list[str]:
    """The columns of a table; none where there is no such table."""
    return [str(row[1]) for row in conn.execute(f"PRAGMA table_info({table})")]


def insert_rows(conn: Transaction, table: str, columns: Sequence[str], rows: Iterable[SalvagedRow]) -> int:
    """Enter rows as far as the table's constraints take them. Returns how many it took."""
    done = 0
    for row in rows:
        try:
            kept = {name: row[name] for name in columns if name in row}
            done += insert_row(conn, table, kept, known="IGNORE")
        except ConstraintError:
            continue  # damaged, or it refers to what is gone
    return done


def insert_instance(conn: Transaction, row: Mapping[str, object]) -> None:
    """Enter an instance, by the names of its columns; one that has a row keeps it."""
    insert_row(conn, "instance", row, known="IGNORE")


def insert_ledger_rows(conn: Transaction, rows: Iterable[Sequence[object]]) -> None:
    """Enter rows of the ledger: number, values, hash."""
    conn.executemany(f"INSERT INTO ledger ({', '.join(_LEDGER)}) VALUES ({', '.join('?' * len(_LEDGER))})", rows)


def list_series(conn: Transaction) -> set[int]:
    return {row[0] for row in conn.execute("SELECT id FROM series")}


def find_or_enter_study(conn: Transaction, study_uid: str, number: int | None, received_at: float) -> int:
    """The row of a study, made with what is known of it where it is gone."""
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    if row is None:
        row = conn.execute(
            "INSERT INTO study (id, study_uid, first_received, last_received) VALUES (?1, ?2, ?3, ?3) RETURNING id",
            (number, study_uid, received_at),
        ).fetchone()
    return int(row[0])


def insert_delivery(conn: Transaction, instance: int, row: Mapping[str, object]) -> int:
    """Enter a delivery of an instance; what the instance says is taken from its row. Returns how many were entered."""
    sql = (
        f"INSERT OR IGNORE INTO delivery (instance_id, kind_id, bytes, priority, queued_at, {', '.join(row)})"
        f" SELECT id, kind_id, size, 2, received_at, {', '.join('?' * len(row))} FROM instance WHERE id = ?"
    )
    return conn.execute(sql, [*row.values(), instance]).rowcount


def list_kept(conn: Transaction) -> list[CatalogRow]:
    """The instances that deliveries may be due for."""
    return conn.execute(
        "SELECT id, path, size, kind_id, study_id, series_id, state, received_at FROM instance"
        " WHERE state IN ('stored', 'conflict') AND fetched_from = '' ORDER BY id"
    ).fetchall()


def list_destinations(conn: Transaction) -> Iterable[tuple[int, str]]:
    """(instance, destination) of each delivery."""
    return conn.execute("SELECT instance_id, destination FROM delivery")


def settle_confirmations(conn: Transaction) -> None:
    """What the triggers do not know of rows that were entered as confirmed."""
    conn.execute(
        "UPDATE instance SET confirmed_at ="
        " (SELECT max(d.confirmed_at) FROM delivery d WHERE d.instance_id = instance.id)"
        " WHERE open_deliveries = 0 AND EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = instance.id)"
    )
