"""Instances with the files that the spool keeps for them, as checks and repairs read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.model import ContextKey, InstanceState, Origin
from edge.store.database import CatalogRow, Transaction


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the catalog says of one instance and its spooled file."""

    instance_id: int
    sop_instance_uid: str
    sha256: bytes
    context_key: ContextKey
    kind_id: int
    study_id: int | None
    study_uid: str
    series_uid: str
    state: InstanceState
    reason: str
    path: str  # below the spool
    size: int
    dataset_offset: int
    origin: Origin
    is_deleted: bool  # it was discarded, and its file is gone
    is_owed: bool  # it has deliveries, or is cached: its header was read and trusted


_ROWS = """
SELECT i.id, i.sop_instance_uid, i.sha256, k.sop_class_uid, k.transfer_syntax_uid, i.study_id,
       coalesce(s.study_uid, ''), i.series_uid, i.state, i.reason, i.path, i.size, i.dataset_offset,
       i.calling_ae, i.called_ae, i.address, i.received_at, i.fetched_from, i.kind_id, i.deleted_at IS NOT NULL,
       i.fetched_from <> '' OR EXISTS (SELECT 1 FROM delivery WHERE instance_id = i.id)
FROM instance i LEFT JOIN kind k ON k.id = i.kind_id LEFT JOIN study s ON s.id = i.study_id
"""
_KEPT = "i.state IN ('stored', 'conflict', 'quarantined')"


def _row(r: CatalogRow) -> FileRow:
    context_key, state, rest = ContextKey(r[3] or "", r[4] or ""), InstanceState(r[8]), map(bool, r[19:])
    values: tuple[Any, ...] = (*r[:3], context_key, r[18], *r[5:8], state, *r[9:13], Origin(*r[13:18]), *rest)
    return FileRow(*values)


def file_row(conn: Transaction, instance: int) -> FileRow | None:
    """One instance, in whatever state."""
    row = conn.execute(_ROWS + "WHERE i.id = ?", (instance,)).fetchone()
    return _row(row) if row else None


def instance_at(conn: Transaction, path: str) -> int | None:
    """The instance whose file the spool keeps there."""
    row = conn.execute(f"SELECT i.id FROM instance i WHERE i.path = ? AND {_KEPT}", (path,)).fetchone()
    return int(row[0]) if row else None


def kept_after(conn: Transaction, instance: int, limit: int, upto: int = 1 << 62) -> list[FileRow]:
    """The next instances whose files the spool keeps, in the order of their numbers; `upto`: the last that may be."""
    sql = _ROWS + f"WHERE i.id > ? AND i.id <= ? AND {_KEPT} ORDER BY i.id LIMIT ?"
    return [_row(r) for r in conn.execute(sql, (instance, upto, limit))]


def kept_of_study(conn: Transaction, study_uid: str) -> list[FileRow]:
    return [_row(r) for r in conn.execute(_ROWS + f"WHERE s.study_uid = ? AND {_KEPT} ORDER BY i.id", (study_uid,))]


def lost_files(conn: Transaction) -> list[FileRow]:
    """Instances whose file is gone or damaged."""
    troubled = "i.state IN ('conflict', 'quarantined', 'lost')"  # as the index instance_trouble says it
    return [_row(r) for r in conn.execute(_ROWS + f"WHERE {troubled} AND i.state = 'lost' ORDER BY i.id")]


def kept_count(conn: Transaction) -> tuple[int, int]:
    """How many files the spool keeps, and their bytes."""
    row = conn.execute(
        "SELECT coalesce(sum(n), 0), coalesce(sum(bytes), 0) FROM instance_tally"
        " WHERE state IN ('stored', 'conflict', 'quarantined')"
    ).fetchone()
    return int(row[0]), int(row[1])


def rows_after(conn: Transaction, after: int, limit: int) -> list[CatalogRow]:
    """Number, path, study, series and state of the next instances behind `after`."""
    return conn.execute(
        "SELECT id, path, study_id, series_id, state FROM instance WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()


def newest(conn: Transaction) -> int:
    """The number of the newest instance; 0 where there is none."""
    (number,) = conn.execute("SELECT coalesce(max(id), 0) FROM instance").fetchone()
    return int(number)
