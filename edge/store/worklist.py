"""The modality worklist as it was last read from its source. Functions of a connection.

An item goes only with a complete list that does not have it. A requested procedure without a Study Instance UID gets
one, once, and keeps it from list to list.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge.store.database import Transaction

#: A UID that was made is kept this long after the last list that had its procedure.
UIDS_KEPT_SECONDS = 90 * 86_400.0


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the catalog has it. `body`: explicit VR little endian; `charset`: as its source wrote it."""

    body: bytes
    charset: str
    study_uid: str
    step_id: str
    starts_at: str


def find_study_uid(conn: Transaction, procedure_key: str, now: float) -> str:
    """The Study Instance UID that was made for a procedure; it is made where there is none."""
    conn.execute(
        "INSERT INTO worklist_study VALUES (?, ?, ?)"
        " ON CONFLICT (procedure_key) DO UPDATE SET used_at = excluded.used_at",
        (procedure_key, f"2.25.{uuid.uuid4().int}", now),
    )
    row = conn.execute("SELECT study_uid FROM worklist_study WHERE procedure_key = ?", (procedure_key,)).fetchone()
    return str(row[0])


def replace_items(conn: Transaction, view: str, items: Sequence[StoredItem], now: float) -> None:
    """Replace the list by a complete one that has come."""
    digest = hashlib.sha256()
    for each in items:
        for part in (each.body, each.charset.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    known = conn.execute("SELECT digest FROM worklist_source WHERE view = ?", (view,)).fetchone()
    is_new = known is None or known[0] != digest.digest()
    conn.execute(
        "INSERT INTO worklist_source (view, version, digest, as_of) VALUES (:view, 1, :digest, :now)"
        " ON CONFLICT (view) DO UPDATE SET version = version + :is_new, digest = :digest, as_of = :now, failures = 0,"
        " failed_at = NULL, last_error = ''",
        {"view": view, "digest": digest.digest(), "now": now, "is_new": int(is_new)},
    )
    if not is_new:
        return
    conn.execute("DELETE FROM worklist_item WHERE view = ?", (view,))
    conn.executemany(
        "INSERT INTO worklist_item (view, body, charset, study_uid, step_id, starts_at) VALUES (?, ?, ?, ?, ?, ?)",
        [(view, each.body, each.charset, each.study_uid, each.step_id, each.starts_at) for each in items],
    )


def note_failure(conn: Transaction, view: str, error: str, now: float) -> None:
    """Record that the source has not given a complete list: the last one stays."""
    conn.execute(
        "INSERT INTO worklist_source (view, failures, failed_at, last_error) VALUES (:view, 1, :now, :error)"
        " ON CONFLICT (view) DO UPDATE SET failures = failures + 1, failed_at = coalesce(failed_at, :now),"
        " last_error = :error",
        {"view": view, "now": now, "error": error},
    )


def forget_views(conn: Transaction, views: Collection[str], now: float) -> None:
    """Keep the lists of these views alone: nobody asks for others any more."""
    known = [row[0] for row in conn.execute("SELECT view FROM worklist_source")]
    gone = [(each,) for each in known if each not in views]
    conn.executemany("DELETE FROM worklist_item WHERE view = ?", gone)
    conn.executemany("DELETE FROM worklist_source WHERE view = ?", gone)
    conn.execute("DELETE FROM worklist_study WHERE used_at < ?", (now - UIDS_KEPT_SECONDS,))


# -- what is served ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceState:
    """How it stands with one list. `as_of` None: there has been none."""

    view: str
    version: int
    as_of: float | None
    failures: int
    failed_at: float | None
    last_error: str


def read_sources(conn: Transaction) -> list[SourceState]:
    """List the lists."""
    rows = conn.execute(
        "SELECT view, version, as_of, failures, failed_at, last_error FROM worklist_source ORDER BY view"
    )
    return [SourceState(*row) for row in rows]


def find_source(conn: Transaction, view: str) -> SourceState | None:
    return next((each for each in read_sources(conn) if each.view == view), None)


def read_stamp(conn: Transaction, view: str | None) -> str:
    """A text that changes when anything changes that a query of this view, None: of any, is answered from."""
    row = conn.execute(
        "SELECT coalesce((SELECT sum(version) FROM worklist_source WHERE :view IS NULL OR view = :view), 0),"
        " coalesce((SELECT max(id) FROM step_message), 0)",
        {"view": view},
    ).fetchone()
    return f"{row[0]}.{row[1]}"


@dataclass(frozen=True, slots=True)
class ServedItem:
    """An item, and what a performed step has made of it: "", or the state of that step."""

    body: bytes
    charset: str
    performed: str


def read_items(conn: Transaction, view: str | None, limit: int = -1) -> list[ServedItem]:
    """List the items of a view, the earliest first; None: of all views, each once."""
    rows = conn.execute(
        "SELECT body, charset, coalesce((SELECT max(p.state) FROM performed_scheduled_step AS s"
        " JOIN performed_step AS p ON p.id = s.step_id WHERE s.study_uid = w.study_uid"
        " AND s.scheduled_step_id = w.step_id), '') FROM worklist_item AS w WHERE :view IS NULL OR view = :view"
        " GROUP BY CASE WHEN :view IS NULL THEN body ELSE id END ORDER BY starts_at, id LIMIT :limit",
        {"view": view, "limit": limit},
    )
    return [ServedItem(*row) for row in rows]


def count_items(conn: Transaction) -> int:
    """How many items there are, in whatever list."""
    return int(conn.execute("SELECT count(DISTINCT body) FROM worklist_item").fetchone()[0])
