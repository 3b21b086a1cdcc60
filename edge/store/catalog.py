"""Studies and instances. Functions of a connection: the caller owns the transaction.

Identity is (SOP Instance UID, SHA-256 of the data set): the same bytes again are a duplicate, other bytes a conflict.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from edge.model import ContextKey, InstanceHeader, InstanceState, Origin
from edge.spool import Stored
from edge.store import eviction, ledger, legal_holds, patients, prefetch
from edge.store.database import Transaction
from edge.store.patients import Placement


class Arrival(Enum):
    """What an object turned out to be when it met the catalog."""

    NEW = "new"
    RETURNED = "returned"  # known, but its file was gone (evicted, lost) or unreadable: a new custody begins
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Added:
    arrival: Arrival
    instance_id: int
    study_id: int | None
    kind_id: int
    path: str  # of the file that the catalog now names: a duplicate's own file is another
    placed: Placement | None = None  # None: it belongs to no study, or nothing was entered
    former_path: str = ""  # of a file that the catalog names no more: this arrival has replaced it
    is_former_damaged: bool = False  # or may be


def kinds(conn: Transaction) -> list[ContextKey]:
    """Every kind of object that has been received."""
    rows = conn.execute(
        "SELECT sop_class_uid, transfer_syntax_uid FROM kind ORDER BY sop_class_uid, transfer_syntax_uid"
    )
    return [ContextKey(*row) for row in rows]


def kind_id(conn: Transaction, context_key: ContextKey) -> int:
    """The row of a kind, made when it is new."""
    row = conn.execute(
        "SELECT id FROM kind WHERE sop_class_uid = ? AND transfer_syntax_uid = ?",
        (context_key.sop_class_uid, context_key.transfer_syntax_uid),
    ).fetchone()
    if row is None:
        row = conn.execute(
            "INSERT INTO kind (sop_class_uid, transfer_syntax_uid) VALUES (?, ?) RETURNING id",
            (context_key.sop_class_uid, context_key.transfer_syntax_uid),
        ).fetchone()
    return int(row[0])


def add(
    conn: Transaction, facts: InstanceHeader, stored: Stored, hold: str, known: Placement | None = None, rule: str = ""
) -> Added:
    """Enter a readable object. A duplicate changes nothing: the caller removes the new file.

    `known`: where an earlier object was placed that said the same, if that is committed. `rule`: of [retention].
    """
    same_uid = conn.execute(
        "SELECT id, sha256, state, study_id, kind_id, path, size, fetched_from FROM instance"
        " WHERE sop_instance_uid = ?",
        (facts.sop_instance_uid,),
    ).fetchall()
    if facts.origin.fetched_from and (here := _version_here(same_uid, stored.sha256)) is not None:
        return _duplicate(here)
    for row in same_uid:
        if row["sha256"] == stored.sha256:
            if row["state"] in (InstanceState.STORED, InstanceState.CONFLICT) and not _is_replaced(row, facts):
                return _duplicate(row)
            return _return(conn, row, facts, stored, hold, known, rule)
    kind = kind_id(conn, ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid))
    study, placed = _place(conn, facts, known)
    is_cached = bool(facts.origin.fetched_from)
    conflict = bool(same_uid) and not is_cached and has_rival(conn, facts.sop_instance_uid, stored.sha256)
    new = _new_values(facts, stored, study, placed)
    hold = legal_holds.hold_of_arrival(conn, facts.first("StudyInstanceUID"), hold)
    instance = _insert(conn, *new, *_kept_as(conflict), facts.sop_instance_uid, stored.sha256, kind, hold, rule)
    count_fetched(conn, facts.origin.fetched_from, 1, stored.size)
    return Added(Arrival.CONFLICT if conflict else Arrival.NEW, instance, study, kind, stored.path, placed)


def _is_replaced(row: sqlite3.Row, facts: InstanceHeader) -> bool:
    """Is a cached copy here of what now comes from equipment? That is owed, so it takes the copy's place."""
    return row["state"] == InstanceState.STORED and bool(row["fetched_from"]) and not facts.origin.fetched_from


def _duplicate(row: sqlite3.Row) -> Added:
    return Added(Arrival.DUPLICATE, row["id"], row["study_id"], row["kind_id"], row["path"])


def _version_here(same_uid: Iterable[sqlite3.Row], sha256: bytes) -> sqlite3.Row | None:
    """A version that is in our custody, or these very bytes that a person has refused: neither is fetched beside it."""
    held = (InstanceState.STORED, InstanceState.CONFLICT, InstanceState.LOST)
    for row in same_uid:
        if row["state"] in held or (row["sha256"] == sha256 and row["state"] != InstanceState.EVICTED):
            return row
    return None


def _place(conn: Transaction, facts: InstanceHeader, known: Placement | None) -> tuple[int | None, Placement | None]:
    study = patients.study_id(conn, facts)
    if study is None:
        return None, None
    if known is not None and known.study_id == study:  # else it has been folded since
        return study, known
    return study, patients.enter(conn, study, patients.header_of(facts), facts.origin.received_at)


OTHER_BYTES = "other bytes were received before under the same SOP Instance UID"
#: Other bytes under the same UID that count: came first and were not refused, or are at a destination already.
_RIVAL = """
SELECT 1 FROM instance AS other WHERE other.sop_instance_uid = ?1 AND other.sha256 <> ?2 AND other.fetched_from = ''
AND (other.id < ?3 AND other.state NOT IN ('quarantined', 'discarded')
     OR EXISTS (SELECT 1 FROM delivery WHERE instance_id = other.id AND state IN ('sent', 'confirmed'))) LIMIT 1
"""


def has_rival(conn: Transaction, sop_instance_uid: str, sha256: bytes, instance: int = 1 << 62) -> bool:
    """Is there another version under a SOP Instance UID, in place before this one? Then to send this overwrites it."""
    return conn.execute(_RIVAL, (sop_instance_uid, sha256, instance)).fetchone() is not None


def _return(
    conn: Transaction,
    row: sqlite3.Row,
    facts: InstanceHeader,
    stored: Stored,
    hold: str,
    known: Placement | None,
    rule: str,
) -> Added:
    """The same bytes as an instance whose file was gone, that could not be read then, or that a person had refused.

    A new custody begins, and with it every question that an arrival raises. A hold that it had keeps it on.
    """
    study, placed = _place(conn, facts, known)
    source = facts.origin.fetched_from
    conflict = not source and has_rival(conn, facts.sop_instance_uid, stored.sha256, row["id"])
    if not source and not is_routed(conn, row["id"]):
        count_fetched(conn, row["fetched_from"], -1, -row["size"])
    hold = legal_holds.hold_of_arrival(conn, facts.first("StudyInstanceUID"), hold)
    conn.execute(_RETURN, (*_new_values(facts, stored, study, placed), *_kept_as(conflict), rule, hold, row["id"]))
    conn.execute("DELETE FROM delivery WHERE instance_id = ? AND destination = ''", (row["id"],))
    arrival = Arrival.CONFLICT if conflict else Arrival.RETURNED
    return Added(arrival, row["id"], study, row["kind_id"], stored.path, placed, *_former(row, stored))


def _former(row: sqlite3.Row, stored: Stored) -> tuple[str, bool]:
    """The file that an instance had, and may it be damaged? Empty where it is the same: a record was applied again."""
    return row["path"] if row["path"] != stored.path else "", row["state"] == InstanceState.LOST


def quarantine(
    conn: Transaction, context_key: ContextKey, sop_instance_uid: str, origin: Origin, stored: Stored, reason: str
) -> Added:
    """Enter an object whose header cannot be read or trusted.

    One that a person has decided about, and whose bytes are still here, is that one again. One that was lost in
    quarantine is whole again.
    """
    row = conn.execute(
        "SELECT id, kind_id, path, state, deleted_at IS NOT NULL AND released_as IS NULL OR (state = 'lost'"
        " AND NOT EXISTS (SELECT 1 FROM delivery WHERE instance_id = instance.id)) AS is_gone FROM instance"
        " WHERE sop_instance_uid = ? AND sha256 = ?",
        (sop_instance_uid, stored.sha256),
    ).fetchone()
    if row is not None and row["is_gone"]:
        conn.execute(
            "UPDATE instance SET state = 'quarantined', reason = ?, path = ?, size = ?, dataset_offset = ?,"
            " received_at = ?, discarded_at = NULL, deleted_at = NULL WHERE id = ?",
            (reason, stored.path, stored.size, stored.dataset_offset, origin.received_at, row["id"]),
        )
        return Added(Arrival.NEW, row["id"], None, row["kind_id"], stored.path, None, *_former(row, stored))
    if row is not None:
        return Added(Arrival.DUPLICATE, row["id"], None, row["kind_id"], row["path"])
    number = kind_id(conn, context_key)
    facts = InstanceHeader(context_key.sop_class_uid, sop_instance_uid, context_key.transfer_syntax_uid, origin)
    new = _new_values(facts, stored, None, None)
    instance = _insert(
        conn, *new, InstanceState.QUARANTINED.value, reason, sop_instance_uid, stored.sha256, number, "", ""
    )
    return Added(Arrival.NEW, instance, None, number, stored.path)


#: What an arrival says of an instance, in the order of `_new_values` and `_kept_as`.
_ARRIVED = (
    "path", "size", "dataset_offset", "xxh3", "received_at", "calling_ae", "called_ae", "address", "study_id",
    "series_uid", "series_id", "instance_number", "fetched_from", "passed", "state", "reason",
)  # fmt: skip
_NEW = (*_ARRIVED, "sop_instance_uid", "sha256", "kind_id", "hold", "retention")
_INSERT = f"INSERT INTO instance ({', '.join(_NEW)}) VALUES ({', '.join('?' * len(_NEW))}) RETURNING id"
_RETURN = (
    f"UPDATE instance SET {', '.join(f'{name} = ?' for name in _ARRIVED)},"
    " retention = ?, hold = CASE WHEN hold IN ('', 'legal:') THEN ? ELSE hold END, discarded_at = NULL,"
    " deleted_at = NULL, released_as = NULL WHERE id = ?"
)


def _new_values(
    facts: InstanceHeader, stored: Stored, study: int | None, placed: Placement | None
) -> tuple[object, ...]:
    origin, series = facts.origin, placed.series_id if placed else None
    return (
        *(stored.path, stored.size, stored.dataset_offset, stored.xxh3, origin.received_at),
        *(origin.calling_ae, origin.called_ae, origin.address, study),
        *(patients.bound_text(facts.first("SeriesInstanceUID")), series),
        patients.attribute_text(facts, patients.INSTANCE_NUMBER),
        origin.fetched_from,
        origin.passed,
    )


def _kept_as(conflict: bool) -> tuple[str, str]:
    """State and reason of an instance that can be read."""
    return (InstanceState.CONFLICT.value, OTHER_BYTES) if conflict else (InstanceState.STORED.value, "")


def _insert(conn: Transaction, *values: object) -> int:
    """`values`: of _NEW."""
    return int(conn.execute(_INSERT, values).fetchone()[0])


def is_routed(conn: Transaction, instance: int) -> bool:
    """Is or was an instance owed to anybody? What is only cached is not."""
    return conn.execute("SELECT 1 FROM delivery WHERE instance_id = ? LIMIT 1", (instance,)).fetchone() is not None


def count_fetched(conn: Transaction, source: str, instances: int, size: int) -> None:
    """Count what is cached, by where it was fetched; it is no part of what was received."""
    if source:
        conn.execute(
            "INSERT INTO fetched_tally VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = n + excluded.n, bytes = bytes + excluded.bytes",
            (source, instances, size),
        )


def holds_path(conn: Transaction, path: str) -> bool:
    """Does the catalog know this file of the spool?"""
    return conn.execute("SELECT 1 FROM instance WHERE path = ?", (path,)).fetchone() is not None


@dataclass(frozen=True, slots=True)
class FileState:
    """What the catalog says of one file of the spool."""

    instance_id: int
    state: InstanceState
    size: int


def buckets(conn: Transaction) -> list[str]:
    """The spool's directories that the catalog names, found by skipping along the index of paths."""
    rows = conn.execute(
        "WITH RECURSIVE bucket (name) AS ("
        " SELECT substr(min(path), 1, instr(min(path), '/') - 1) FROM instance"
        " UNION ALL"
        " SELECT (SELECT substr(min(path), 1, instr(min(path), '/') - 1) FROM instance WHERE path > bucket.name || '0')"
        " FROM bucket WHERE bucket.name IS NOT NULL)"  # '0' follows '/' in ASCII
        " SELECT name FROM bucket WHERE name IS NOT NULL"
    )
    return [row[0] for row in rows]


#: What was deleted counts as evicted.
_FILE_STATE = "SELECT path, id, CASE WHEN deleted_at IS NULL THEN state ELSE 'evicted' END, size FROM instance"


def kept_files_of(conn: Transaction, bucket: str, before: float) -> dict[str, FileState]:
    """The rows of one bucket that were received before a time, and whose files are to be there."""
    rows = conn.execute(
        f"{_FILE_STATE} WHERE path > ? AND path < ? AND state IN ('stored', 'conflict', 'quarantined')"
        " AND deleted_at IS NULL AND received_at < ?",
        (f"{bucket}/", f"{bucket}0", before),
    )
    return {row[0]: _file_state(row) for row in rows}


def states_of(conn: Transaction, paths: Iterable[str]) -> dict[str, FileState]:
    """The rows that name these files of the spool, in whatever state."""
    found = (conn.execute(f"{_FILE_STATE} WHERE path = ?", (path,)).fetchone() for path in paths)
    return {row[0]: _file_state(row) for row in found if row is not None}


def _file_state(row: sqlite3.Row) -> FileState:
    return FileState(row[1], InstanceState(row[2]), row[3])


def mark_lost(conn: Transaction, path: str, reason: str) -> bool:
    """Mark the instance whose file was found gone or not whole.

    False when that is no news: evicted, discarded, lost before; or the instance has another file by now.
    """
    sql = (
        "UPDATE instance SET state = 'lost', reason = ?"
        " WHERE path = ? AND state IN ('stored', 'conflict', 'quarantined')"
    )
    return bool(conn.execute(sql, (reason, path)).rowcount)


def lose(conn: Transaction, path: str, fault: str, now: float) -> bool:
    """Mark the instance of a file lost, with a row of the ledger; False when that is no news.

    What is cached is forgotten: nothing is lost, for an archive has it, and gives it again when it is wanted.
    """
    found = conn.execute("SELECT id, study_id FROM instance WHERE path = ?", (path,)).fetchone()
    if found is None:
        return False
    instance, study_id = found
    payload: ledger.Payload = {"fault": fault}
    if eviction.evict_cached(conn, instance) is not None:
        ledger.append(conn, now, ledger.EVICTED, ledger.EDGE, [instance], study_id=study_id, payload=payload)
        row = conn.execute("SELECT study_uid FROM study WHERE id = ?", (study_id,)).fetchone()
        if row is not None:
            prefetch.want_again(conn, row[0])
        return False
    news = mark_lost(conn, path, fault)
    if news:
        ledger.append(conn, now, ledger.LOST, ledger.EDGE, [instance], study_id=study_id, payload=payload)
    return news


def mark_found(conn: Transaction, instance: int) -> bool:
    """Mark that a lost instance has its whole file again, by SHA-256. False when it was not lost.

    Its quick checksum may be what is damaged: it is sent by SHA-256 from now on.
    """
    row = conn.execute(
        "SELECT sop_instance_uid, sha256,"
        " fetched_from <> '' OR EXISTS (SELECT 1 FROM delivery WHERE instance_id = instance.id) AS is_owed"
        " FROM instance WHERE id = ? AND state = 'lost'",
        (instance,),
    ).fetchone()
    if row is None:
        return False
    conflict = row["is_owed"] and has_rival(conn, row["sop_instance_uid"], row["sha256"], instance)
    state, reason = _kept_as(conflict)
    if not row["is_owed"]:
        state = InstanceState.QUARANTINED.value  # nothing else has no destination
    conn.execute("UPDATE instance SET reason = ?, state = ?, xxh3 = NULL WHERE id = ?", (reason, state, instance))
    return True


def replace_file(conn: Transaction, instance: int, stored: Stored) -> None:
    """Record that an instance's data set is in another file from now on."""
    sql = "UPDATE instance SET path = ?, size = ?, dataset_offset = ? WHERE id = ?"
    conn.execute(sql, (stored.path, stored.size, stored.dataset_offset, instance))
