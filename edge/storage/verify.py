"""Is what lies on the disk still what was received? Looks only, changes nothing.

A file is whole when its data set has the SHA-256 and its head has the bytes that follow from the catalog. The catalog
is whole when SQLite finds its pages and indexes in order, its counts agree, and each row says what the ledger says.

Limits: what nothing vouches for (a destination's last error, when a peer called) is not covered.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge import hindrance
from edge.dicom import header, part10
from edge.errors import Unreadable
from edge.model import ContextKey, InstanceState, Origin
from edge.store import catalog, ledger
from edge.store.database import Connection

CHUNK = 1 << 20
#: So many problems of the catalog are named; more say nothing more.
MOST = 100


class Part(Enum):
    """What of an instance is not as it should be."""

    MISSING = "missing"  # the file is gone or cannot be read
    DATA_SET = "data set"
    HEAD = "head"  # the File Meta Information; the data set is whole
    ROW = "row"  # the file is whole, but the catalog says something else of it


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the catalog says of one spooled file."""

    instance_id: int
    sop_instance_uid: str
    sha256: bytes
    kind: ContextKey
    study_id: int | None
    study_uid: str
    series_uid: str
    state: InstanceState
    reason: str
    path: str  # below the spool
    size: int
    dataset_offset: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what was received."""

    row: FileRow
    part: Part
    text: str


_ROWS = """
SELECT i.id, i.sop_instance_uid, i.sha256, k.sop_class_uid, k.transfer_syntax_uid, i.study_id,
       coalesce(s.study_uid, ''), i.series_uid, i.state, i.reason, i.path, i.size, i.dataset_offset,
       i.calling_ae, i.called_ae, i.address, i.received_at
FROM instance i LEFT JOIN kind k ON k.id = i.kind_id LEFT JOIN study s ON s.id = i.study_id
"""
_KEPT = "i.state IN ('stored', 'conflict', 'quarantined')"


def _row(r: sqlite3.Row) -> FileRow:
    kind, origin = ContextKey(r[3] or "", r[4] or ""), Origin(r[13], r[14], r[15], r[16])
    return FileRow(r[0], r[1], r[2], kind, r[5], r[6], r[7], InstanceState(r[8]), r[9], r[10], r[11], r[12], origin)


def file_row(conn: Connection, instance: int) -> FileRow | None:
    """One instance, in whatever state."""
    row = conn.execute(_ROWS + "WHERE i.id = ?", (instance,)).fetchone()
    return _row(row) if row else None


def kept_after(conn: Connection, instance: int, limit: int) -> list[FileRow]:
    """The next instances whose files the spool keeps, in the order of their numbers."""
    return [
        _row(r) for r in conn.execute(_ROWS + f"WHERE i.id > ? AND {_KEPT} ORDER BY i.id LIMIT ?", (instance, limit))
    ]


def kept_of_study(conn: Connection, study_uid: str) -> list[FileRow]:
    return [_row(r) for r in conn.execute(_ROWS + f"WHERE s.study_uid = ? AND {_KEPT} ORDER BY i.id", (study_uid,))]


def lost(conn: Connection) -> list[FileRow]:
    """Instances whose file is gone or damaged."""
    return [_row(r) for r in conn.execute(_ROWS + "WHERE i.state = 'lost' ORDER BY i.id")]


def kept_count(conn: Connection) -> tuple[int, int]:
    """How many files the spool keeps, and their bytes."""
    row = conn.execute(
        "SELECT coalesce(sum(n), 0), coalesce(sum(bytes), 0) FROM instance_tally"
        " WHERE state IN ('stored', 'conflict', 'quarantined')"
    ).fetchone()
    return int(row[0]), int(row[1])


_VERSIONS = "versions"


def versions(conn: Connection) -> frozenset[str]:
    """The versions of Edge that have written here, as they call themselves in the files."""
    row = conn.execute("SELECT value FROM gateway WHERE name = ?", (_VERSIONS,)).fetchone()
    return frozenset(json.loads(row[0]) if row else ()) | {part10.IMPLEMENTATION_VERSION}


def remember_version(conn: Connection) -> None:
    """This version writes here from now on."""
    catalog.remember(conn, _VERSIONS, json.dumps(sorted(versions(conn))))


# -- files ------------------------------------------------------------------------------------------------------------


def check_file(path: Path, row: FileRow, versions: Collection[str]) -> Damage | None:
    """Read the whole file, from the disk rather than from memory where the kernel lets us, and compare.

    `versions`: those of Edge that have written here. Raises Shortage where this machine cannot read anything just now.
    """
    try:
        fd = hindrance.patiently(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        hindrance.raise_passing(error)
        return Damage(row, Part.MISSING, f"its file cannot be opened ({error.strerror})")
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(fd).st_size
        head = os.pread(fd, row.dataset_offset, 0)
        digest = _digest(fd, row.dataset_offset)
        wrong = check_row(fd, row) if digest == row.sha256 else ""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        hindrance.raise_passing(error)
        return Damage(row, Part.MISSING, f"its file cannot be read ({error.strerror})")
    finally:
        os.close(fd)
    if digest != row.sha256:
        told = f"its file has {size} bytes instead of {row.size}" if size != row.size else "the SHA-256 differs"
        return Damage(row, Part.DATA_SET, f"the data set is not what was received: {told}")
    text = check_head(head, row, versions)
    if text:
        return Damage(row, Part.HEAD, text)
    return Damage(row, Part.ROW, wrong) if wrong else None


def _digest(fd: int, offset: int) -> bytes:
    digest = hashlib.sha256()
    while chunk := os.pread(fd, CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.digest()


def check_head(head: bytes, row: FileRow, versions: Collection[str]) -> str:
    """What is wrong with a file's first bytes, up to its data set; empty when nothing is."""
    try:
        meta = part10.parse_meta(head)
    except Unreadable as error:
        return f"the File Meta Information is damaged: {error}"
    if meta.origin is None and not row.origin.calling_ae:
        return ""  # not written by us: a person put it there, and it was adopted
    if meta.version not in versions:
        return f"the File Meta Information is of a version that never ran here ({meta.version})"
    if head != part10.preamble_and_meta(row.kind, row.sop_instance_uid, row.origin, meta.version):
        return "the File Meta Information is not what the catalog says of the object"
    return ""


_STUDY, _SERIES = 0x0020000D, 0x0020000E


def check_row(fd: int, row: FileRow) -> str:
    """Does the catalog know the length of the file, and the study and series that it names? Empty when it does."""
    size, offset = os.fstat(fd).st_size, row.dataset_offset
    if size != row.size:
        return f"the catalog says that its file has {row.size} bytes; it has {size}"
    if row.state is InstanceState.QUARANTINED:
        return ""
    length = size - offset
    try:
        found = header.scan(
            lambda at, n: os.pread(fd, n, offset + at),
            length,
            row.kind.transfer_syntax_uid,
            frozenset((_STUDY, _SERIES)),
        )
    except Unreadable as error:
        return f"the catalog says that its header can be read, but {error}"
    told = tuple(next(iter(found.get(tag, ())), "") for tag in (_STUDY, _SERIES))
    return "" if told == (row.study_uid, row.series_uid) else "the catalog has it under another study or series"


# -- the catalog ------------------------------------------------------------------------------------------------------

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
        "SELECT 0 FROM (SELECT state, n, bytes FROM instance_tally WHERE n <> 0 OR bytes <> 0"
        " EXCEPT SELECT state, count(*), sum(size) FROM instance GROUP BY 1)"
        " UNION ALL SELECT 0 FROM (SELECT state, count(*), sum(size) FROM instance GROUP BY 1"
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
        " AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = i.id)",
    ),
    (
        "a tally that is not the count",
        "SELECT 0 FROM (SELECT destination, state, kind_id, priority, n, bytes FROM tally WHERE n <> 0 OR bytes <> 0"
        " EXCEPT SELECT destination, state, kind_id, priority, count(*), sum(bytes) FROM delivery GROUP BY 1, 2, 3, 4)"
        " UNION ALL SELECT 0 FROM (SELECT destination, state, kind_id, priority, count(*), sum(bytes) FROM delivery"
        " GROUP BY 1, 2, 3, 4 EXCEPT SELECT destination, state, kind_id, priority, n, bytes FROM tally)",
    ),
)


def check_pages(conn: Connection) -> list[str]:
    """SQLite's own check of every page, row and index of the catalog."""
    try:
        found = [row[0] for row in conn.execute(f"PRAGMA integrity_check({MOST})")]
        found += [f"row {row[1]} of {row[0]} refers to nothing" for row in conn.execute("PRAGMA foreign_key_check")]
    except sqlite3.DatabaseError as error:
        return [f"the catalog cannot be read: {error}"]
    return [text for text in found if text != "ok"][:MOST]


def check_rows(conn: Connection) -> Iterator[str]:
    """Rows of the catalog that contradict each other, or the custody ledger."""
    try:
        for what, sql in _CONTRADICTIONS:
            found = [str(row[0]) for row in conn.execute(f"{sql} LIMIT {MOST}")]
            if found:
                yield f"{what}: instance {', '.join(found)}" if found != ["0"] * len(found) else what
        yield from _against_the_ledger(conn)
    except sqlite3.DatabaseError as error:
        yield f"the catalog cannot be read: {error}"


def _against_the_ledger(conn: Connection) -> Iterator[str]:
    """Whatever custody means: who sent it, its digest, and who has confirmed it; study by study."""
    for (study,) in conn.execute("SELECT id FROM study UNION ALL SELECT NULL").fetchall():
        arrived, confirmed = _told(conn, study)
        for row in conn.execute(
            "SELECT id, received_at, calling_ae, lower(hex(sha256)) FROM instance WHERE study_id IS ?", (study,)
        ):
            told = arrived.get(row[0])
            if told is None:
                yield f"instance {row[0]} has no row of the ledger that says how it came"
            elif told[:2] != (row[1], row[2]) or ("sha256 " in told[2] and not told[2].endswith(row[3])):
                yield f"instance {row[0]} is not what the ledger says was received"
        for instance, destination in conn.execute(
            "SELECT d.instance_id, d.destination FROM instance i JOIN delivery d ON d.instance_id = i.id"
            " WHERE i.study_id IS ? AND d.state = 'confirmed'",
            (study,),
        ):
            if (instance, destination) not in confirmed:
                yield f'instance {instance} is confirmed at "{destination}", but the ledger has no row that says so'


_CAME = (ledger.RECEIVED, ledger.ADOPTED, ledger.CONFLICT, ledger.QUARANTINED)


def _told(conn: Connection, study: int | None) -> tuple[dict[int, tuple[float, str, str]], set[tuple[int, str]]]:
    """By the ledger: how each instance of a study last came (when, from whom, detail), and who has confirmed it."""
    arrived: dict[int, tuple[float, str, str]] = {}
    confirmed: set[tuple[int, str]] = set()
    for at, event, who, instances, destination, detail in conn.execute(
        "SELECT at, event, who, instances, destination, detail FROM ledger WHERE study_id IS ? ORDER BY seq", (study,)
    ):
        if event in _CAME:
            arrived |= dict.fromkeys(json.loads(instances), (at, who, detail))
        elif event == ledger.CONFIRMED:
            confirmed |= {(instance, destination) for instance in json.loads(instances)}
    return arrived, confirmed


def received_digest(conn: Connection, row: FileRow) -> bytes:
    """The SHA-256 that the ledger has of an instance, where it has it: a second witness; else empty."""
    detail = _told(conn, row.study_id)[0].get(row.instance_id, (0.0, "", ""))[2]
    _, found, digest = detail.partition("sha256 ")
    try:
        return bytes.fromhex(digest) if found else b""
    except ValueError:
        return b""
