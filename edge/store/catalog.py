"""What is known of every study and instance. Functions of a connection: the caller owns the transaction.

Identity is (SOP Instance UID, SHA-256 of the data set): the same bytes again are a duplicate, other bytes a conflict.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from edge.model import ContextKey, InstanceHeader, InstanceState, Origin
from edge.spool import Stored
from edge.store import patients
from edge.store.database import Connection
from edge.store.patients import Placed


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
    placed: Placed | None = None  # None: it belongs to no study, or nothing was entered


#: Callers that were refused and have alerts of their own (edge.monitor.alerts.equipment).
ALERTED_CALLERS = 10


def kind_id(conn: Connection, kind: ContextKey) -> int:
    """The row of a kind, made when it is new."""
    row = conn.execute(
        "SELECT id FROM kind WHERE sop_class_uid = ? AND transfer_syntax_uid = ?",
        (kind.sop_class_uid, kind.transfer_syntax_uid),
    ).fetchone()
    if row is None:
        row = conn.execute(
            "INSERT INTO kind (sop_class_uid, transfer_syntax_uid) VALUES (?, ?) RETURNING id",
            (kind.sop_class_uid, kind.transfer_syntax_uid),
        ).fetchone()
    return int(row[0])


def add(conn: Connection, facts: InstanceHeader, stored: Stored, hold: str, known: Placed | None = None) -> Added:
    """Enter a readable object. A duplicate changes nothing: the caller removes the new file.

    `known`: where an earlier object was placed that said the same, if that is committed.
    """
    same_uid = conn.execute(
        "SELECT id, sha256, state, study_id, kind_id, path FROM instance WHERE sop_instance_uid = ?",
        (facts.sop_instance_uid,),
    ).fetchall()
    for row in same_uid:
        if row["sha256"] == stored.sha256:
            if row["state"] in (InstanceState.STORED, InstanceState.CONFLICT):
                return Added(Arrival.DUPLICATE, row["id"], row["study_id"], row["kind_id"], row["path"])
            return _return(conn, row, facts, stored, known)
    kind = kind_id(conn, ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid))
    study, placed = _place(conn, facts, known)
    conflict = has_rival(conn, facts.sop_instance_uid, stored.sha256)
    state = InstanceState.CONFLICT if conflict else InstanceState.STORED
    reason = OTHER_BYTES if conflict else ""
    instance = _insert(conn, facts.sop_instance_uid, kind, study, facts, stored, state, reason, hold, placed)
    return Added(Arrival.CONFLICT if conflict else Arrival.NEW, instance, study, kind, stored.path, placed)


def _place(conn: Connection, facts: InstanceHeader, known: Placed | None) -> tuple[int | None, Placed | None]:
    study = patients.study_id(conn, facts)
    if study is None or known is not None:
        return study, known
    return study, patients.enter(conn, study, patients.header_of(facts), facts.origin.received_at)


OTHER_BYTES = "other bytes were received before under the same SOP Instance UID"
#: Other bytes under the same UID that count: came first and were not refused, or are at a destination already.
_RIVAL = """
SELECT 1 FROM instance AS other WHERE other.sop_instance_uid = ?1 AND other.sha256 <> ?2
AND (other.id < ?3 AND other.state NOT IN ('quarantined', 'discarded')
     OR EXISTS (SELECT 1 FROM delivery WHERE instance_id = other.id AND state IN ('sent', 'confirmed'))) LIMIT 1
"""


def has_rival(conn: Connection, sop_instance_uid: str, sha256: bytes, instance: int = 1 << 62) -> bool:
    """Is there another version under a SOP Instance UID, in place before this one? Then to send this overwrites it."""
    return conn.execute(_RIVAL, (sop_instance_uid, sha256, instance)).fetchone() is not None


def _return(conn: Connection, row: sqlite3.Row, facts: InstanceHeader, stored: Stored, known: Placed | None) -> Added:
    """The same bytes as an instance whose file was gone, that could not be read then, or that a person had refused.

    A new custody begins, and with it every question that an arrival raises.
    """
    study, placed = _place(conn, facts, known)
    conflict = has_rival(conn, facts.sop_instance_uid, stored.sha256, row["id"])
    conn.execute(
        "UPDATE instance SET state = ?, reason = ?, path = ?, size = ?, dataset_offset = ?, received_at = ?,"
        " study_id = ?, series_uid = ?, series_id = ?, instance_number = ?, calling_ae = ?, called_ae = ?,"
        " address = ?, discarded_at = NULL, deleted_at = NULL, released_as = NULL WHERE id = ?",
        (
            (InstanceState.CONFLICT if conflict else InstanceState.STORED).value,
            OTHER_BYTES if conflict else "",
            stored.path,
            stored.size,
            stored.dataset_offset,
            facts.origin.received_at,
            study,
            facts.first("SeriesInstanceUID"),
            placed.series_id if placed else None,
            patients.text(facts, patients.INSTANCE_NUMBER),
            facts.origin.calling_ae,
            facts.origin.called_ae,
            facts.origin.address,
            row["id"],
        ),
    )
    conn.execute("DELETE FROM delivery WHERE instance_id = ? AND destination = ''", (row["id"],))
    arrival = Arrival.CONFLICT if conflict else Arrival.RETURNED
    return Added(arrival, row["id"], study, row["kind_id"], stored.path, placed)


def quarantine(
    conn: Connection, kind: ContextKey, sop_instance_uid: str, origin: Origin, stored: Stored, reason: str
) -> Added:
    """Enter an object whose header cannot be read or trusted.

    One that a person has decided about, and whose bytes are still here, is that one again.
    """
    row = conn.execute(
        "SELECT id, kind_id, path, deleted_at IS NOT NULL AND released_as IS NULL AS is_gone FROM instance"
        " WHERE sop_instance_uid = ? AND sha256 = ?",
        (sop_instance_uid, stored.sha256),
    ).fetchone()
    if row is not None and row["is_gone"]:
        conn.execute(
            "UPDATE instance SET state = 'quarantined', reason = ?, path = ?, size = ?, dataset_offset = ?,"
            " received_at = ?, discarded_at = NULL, deleted_at = NULL WHERE id = ?",
            (reason, stored.path, stored.size, stored.dataset_offset, origin.received_at, row["id"]),
        )
        return Added(Arrival.NEW, row["id"], None, row["kind_id"], stored.path)
    if row is not None:
        return Added(Arrival.DUPLICATE, row["id"], None, row["kind_id"], row["path"])
    number = kind_id(conn, kind)
    facts = InstanceHeader(kind.sop_class_uid, sop_instance_uid, kind.transfer_syntax_uid, origin)
    state = InstanceState.QUARANTINED
    instance = _insert(conn, sop_instance_uid, number, None, facts, stored, state, reason, "")
    return Added(Arrival.NEW, instance, None, number, stored.path)


def _insert(
    conn: Connection,
    sop_instance_uid: str,
    kind: int,
    study: int | None,
    facts: InstanceHeader,
    stored: Stored,
    state: InstanceState,
    reason: str,
    hold: str,
    placed: Placed | None = None,
) -> int:
    origin = facts.origin
    row = conn.execute(
        "INSERT INTO instance (sop_instance_uid, sha256, kind_id, study_id, series_uid, state, reason, path, size,"
        " dataset_offset, calling_ae, called_ae, address, received_at, hold, series_id, instance_number)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            sop_instance_uid,
            stored.sha256,
            kind,
            study,
            facts.first("SeriesInstanceUID"),
            state.value,
            reason,
            stored.path,
            stored.size,
            stored.dataset_offset,
            origin.calling_ae,
            origin.called_ae,
            origin.address,
            origin.received_at,
            hold,
            placed.series_id if placed else None,
            patients.text(facts, patients.INSTANCE_NUMBER),
        ),
    ).fetchone()
    return int(row[0])


def holds_path(conn: Connection, path: str) -> bool:
    """Does the catalog know this file of the spool?"""
    return conn.execute("SELECT 1 FROM instance WHERE path = ?", (path,)).fetchone() is not None


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the catalog says of one file of the spool."""

    instance_id: int
    study_id: int | None
    state: InstanceState
    size: int


def buckets(conn: Connection) -> list[str]:
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


def files_of(conn: Connection, bucket: str, before: float) -> dict[str, FileRow]:
    """The rows of one bucket's files that were received before a time; what was deleted counts as evicted."""
    rows = conn.execute(
        "SELECT path, id, study_id, CASE WHEN deleted_at IS NULL THEN state ELSE 'evicted' END, size"
        " FROM instance WHERE path > ? AND path < ? AND received_at < ?",
        (f"{bucket}/", f"{bucket}0", before),
    )
    return {row[0]: FileRow(row[1], row[2], InstanceState(row[3]), row[4]) for row in rows}


def mark_lost(conn: Connection, instance: int, reason: str) -> bool:
    """The file of an instance is gone or not whole. False when that is no news: evicted, discarded, lost before."""
    sql = (
        "UPDATE instance SET state = 'lost', reason = ? WHERE id = ? AND state IN ('stored', 'conflict', 'quarantined')"
    )
    return bool(conn.execute(sql, (reason, instance)).rowcount)


def mark_found(conn: Connection, instance: int) -> bool:
    """A lost instance has its whole file again. False when it was not lost."""
    row = conn.execute(
        "SELECT sop_instance_uid, sha256, EXISTS (SELECT 1 FROM delivery WHERE instance_id = instance.id) AS is_owed"
        " FROM instance WHERE id = ? AND state = 'lost'",
        (instance,),
    ).fetchone()
    if row is None:
        return False
    conflict = row["is_owed"] and has_rival(conn, row["sop_instance_uid"], row["sha256"], instance)
    state = InstanceState.CONFLICT if conflict else InstanceState.STORED
    if not row["is_owed"]:
        state = InstanceState.QUARANTINED  # nothing else is owed to nobody
    reason = OTHER_BYTES if conflict else ""
    conn.execute("UPDATE instance SET reason = ?, state = ? WHERE id = ?", (reason, state.value, instance))
    return True


def replace_file(conn: Connection, instance: int, stored: Stored) -> None:
    """An instance's data set lies in another file from now on."""
    sql = "UPDATE instance SET path = ?, size = ?, dataset_offset = ? WHERE id = ?"
    conn.execute(sql, (stored.path, stored.size, stored.dataset_offset, instance))


@dataclass(slots=True)
class Calls:
    """What was heard of one (AE title, address) since it was last written down."""

    modality: str  # the configured name, or empty for a stranger
    first_seen: float
    last_seen: float
    calls: int = 0
    last_stored: float | None = None
    refused: str = ""  # why, where it was
    certificate_expires: float | None = None
    stored: int = 0  # objects
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (abstract syntax, transfer syntaxes), as proposed


def remember_peer(conn: Connection, ae_title: str, address: str, heard: Calls) -> None:
    """Write down who called."""
    conn.execute(
        "INSERT INTO peer (ae_title, address, admitted, modality, first_seen, last_seen, calls, last_stored, stored,"
        " refused, certificate_expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET last_seen = excluded.last_seen, calls = calls + excluded.calls,"
        " admitted = excluded.admitted, modality = excluded.modality,"
        " last_stored = coalesce(excluded.last_stored, last_stored), stored = stored + excluded.stored,"
        " refused = excluded.refused, certificate_expires = excluded.certificate_expires",
        (
            ae_title,
            address,
            int(bool(heard.modality)),
            heard.modality,
            heard.first_seen,
            heard.last_seen,
            heard.calls,
            heard.last_stored,
            heard.stored,
            heard.refused,
            heard.certificate_expires,
        ),
    )
    if heard.contexts:
        conn.execute(
            "UPDATE peer SET contexts = ?1 WHERE ae_title = ?2 AND address = ?3 AND contexts <> ?1",
            (json.dumps(heard.contexts, separators=(",", ":")), ae_title, address),
        )
    if heard.last_stored is not None:
        hour = int(heard.last_stored // 3600)
        conn.execute("INSERT OR IGNORE INTO heard VALUES (?, ?, ?)", (ae_title, hour, heard.last_stored))


def forget_unknown_callers(conn: Connection, before: float, most: int) -> None:
    """Of callers that were refused, and of those let in that never stored anything, keep the last `most` of each kind.

    The first ALERTED_CALLERS of them stay, too, so that a flood does not make new alerts all the time. Those heard of
    last before a time go. Equipment that has stored something stays.
    """
    for admitted in (0, 1):
        conn.execute(
            "DELETE FROM peer WHERE admitted = ?1 AND last_stored IS NULL AND (last_seen < ?2 OR (ae_title, address) IN"
            " (SELECT ae_title, address FROM peer WHERE admitted = ?1 AND last_stored IS NULL"
            "  AND (ae_title, address) NOT IN (SELECT ae_title, address FROM peer WHERE admitted = ?1"
            "   AND last_stored IS NULL ORDER BY first_seen LIMIT ?4)"
            "  ORDER BY last_seen DESC LIMIT -1 OFFSET ?3))",
            (admitted, before, max(0, most - ALERTED_CALLERS), ALERTED_CALLERS),
        )


def remember(conn: Connection, name: str, value: str) -> None:
    """Keep a small fact about the gateway itself."""
    conn.execute(
        "INSERT INTO gateway VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )


# -- retention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that retention may think about."""

    instance_id: int
    study_id: int | None
    path: str
    size: int  # bytes
    open_deliveries: int
    hold: str
    confirmed_at: float | None


@dataclass(frozen=True, slots=True)
class Evicted:
    """An instance that was let go, and the file that is to be removed once that is committed."""

    instance_id: int
    study_id: int | None
    path: str
    size: int


def oldest_confirmed(conn: Connection, limit: int) -> list[Candidate]:
    """What may be evicted if it is old enough, the oldest confirmation first."""
    rows = conn.execute(
        "SELECT id, study_id, path, size, open_deliveries, hold, confirmed_at FROM instance"
        " WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL"
        " ORDER BY confirmed_at LIMIT ?",
        (limit,),
    )
    return [Candidate(*row) for row in rows]


def evict(conn: Connection, instance: int, confirmed_before: float) -> Evicted | None:
    """Let an instance go, unless something has happened that keeps it: then None."""
    row = conn.execute(
        "UPDATE instance SET state = 'evicted' WHERE id = ? AND state = 'stored' AND open_deliveries = 0"
        " AND hold = '' AND confirmed_at <= ? RETURNING id, study_id, path, size",
        (instance, confirmed_before),
    ).fetchone()
    return Evicted(*row) if row else None


def holds(conn: Connection) -> list[str]:
    """Every reason for which something is kept for ever."""
    return [row[0] for row in conn.execute("SELECT DISTINCT hold FROM instance WHERE hold <> ''")]


def hold_study(conn: Connection, study_uid: str, hold: str) -> None:
    """Keep every instance of a study that is not kept already."""
    conn.execute(
        "UPDATE instance SET hold = ? WHERE hold = '' AND study_id = (SELECT id FROM study WHERE study_uid = ?)",
        (hold, study_uid),
    )


def unhold(conn: Connection, hold: str, but_studies: Iterable[str] = ()) -> None:
    """End a hold, except for some studies."""
    conn.execute(
        "UPDATE instance SET hold = '' WHERE hold = ? AND hold <> '' AND coalesce(study_id, 0) NOT IN"
        " (SELECT id FROM study WHERE study_uid IN (SELECT value FROM json_each(?)))",
        (hold, json.dumps(list(but_studies))),
    )
