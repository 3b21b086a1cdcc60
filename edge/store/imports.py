"""Imports: batches of staged files, the studies in them, and what a person decides about each.

Functions of a connection; the caller owns the transaction. Staged files are named by their rows alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edge.errors import EdgeError
from edge.store import ledger
from edge.store.database import CatalogRow, Transaction
from edge.store.listing import Listing, ListSql


class ImportState(str, Enum):
    """Where a study of a batch stands."""

    STAGED = "staged"  # a person must say whose it is
    ASSIGNED = "assigned"  # it is brought in
    IMPORTED = "imported"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class ImportBatch:
    """What was brought at one time."""

    id: int
    source: str
    door: str
    who: str
    began_at: float
    ended_at: float | None
    foreign_files: int
    missing: tuple[str, ...]
    unlisted: int
    objects: int
    skipped: int
    waiting: int  # studies


@dataclass(frozen=True, slots=True)
class DiscPatient:
    """The patient as the files name it; texts are empty where they do not."""

    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True)
class ImportStudy:
    """The objects of one study and patient in a batch."""

    id: int
    batch_id: int
    study_uid: str
    patient: DiscPatient
    study_date: str
    description: str
    modality: str
    accession: str
    state: ImportState
    identity: Mapping[str, str] | None
    decided_by: str
    decided_at: float | None
    reason: str
    objects: Mapping[str, int]  # state -> number


@dataclass(frozen=True, slots=True)
class ImportObject:
    """One staged file."""

    id: int
    study_id: int
    batch_id: int
    name: str
    kind: str
    size: int
    modified: float
    path: str
    sha256: bytes
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    state: str
    note: str


# -- staging -----------------------------------------------------------------------------------------------------------


def begin_batch(conn: Transaction, source: str, door: str, who: str, now: float) -> int:
    """Begin a batch, or go on with one of the same source that broke off. Returns its number."""
    row = conn.execute(
        "SELECT id FROM import_batch WHERE source = ? AND door = ? AND ended_at IS NULL ORDER BY id DESC LIMIT 1",
        (source, door),
    ).fetchone()
    if row is not None:
        return int(row[0])
    sql = "INSERT INTO import_batch (source, door, who, began_at) VALUES (?, ?, ?, ?) RETURNING id"
    return int(conn.execute(sql, (source, door, who, now)).fetchone()[0])


def list_open_batches(conn: Transaction, door: str) -> list[tuple[str, str]]:
    """List the batches of a door that have not been read to their end: (source, who), the oldest first."""
    sql = "SELECT source, who FROM import_batch WHERE door = ? AND ended_at IS NULL ORDER BY id"
    return [(row[0], row[1]) for row in conn.execute(sql, (door,))]


def read_members(conn: Transaction, batch: int) -> dict[str, tuple[int, float]]:
    """Return {name: (size, modified)} of what a batch has already."""
    rows = conn.execute("SELECT name, size, modified FROM import_object WHERE batch_id = ?", (batch,))
    return {row[0]: (row[1], row[2]) for row in rows}


_STUDY_KEYS = ("study_uid", *(field for field in DiscPatient.__dataclass_fields__))
_STUDY_FACTS = ("study_date", "description", "modality", "accession")
_OBJECT_KEYS = (
    "name",
    "kind",
    "size",
    "modified",
    "path",
    "sop_class_uid",
    "sop_instance_uid",
    "transfer_syntax_uid",
    "dataset_offset",
)


def add_objects(conn: Transaction, batch: int, objects: Iterable[Mapping[str, Any]]) -> None:
    """Enter staged files: the columns of their rows, the facts of their study, `sha256` in hexadecimal."""
    for each in objects:
        study = _find_or_add_study(conn, batch, each)
        columns = ", ".join(("study_id", "batch_id", "sha256", "state", *_OBJECT_KEYS))
        values = [study, batch, bytes.fromhex(each["sha256"]), "staged", *(each[key] for key in _OBJECT_KEYS)]
        conn.execute(f"INSERT INTO import_object ({columns}) VALUES ({', '.join('?' * len(values))})", values)


def _find_or_add_study(conn: Transaction, batch: int, facts: Mapping[str, Any]) -> int:
    key = [str(facts.get(name, "")) for name in _STUDY_KEYS]
    where = " AND ".join(f"{name} = ?" for name in _STUDY_KEYS)
    row = conn.execute(f"SELECT id FROM import_study WHERE batch_id = ? AND {where}", (batch, *key)).fetchone()
    if row is not None:
        return int(row[0])
    columns = ("batch_id", "state", *_STUDY_KEYS, *_STUDY_FACTS)
    values = [batch, "staged", *key, *(str(facts.get(name, "")) for name in _STUDY_FACTS)]
    sql = f"INSERT INTO import_study ({', '.join(columns)}) VALUES ({', '.join('?' * len(values))}) RETURNING id"
    return int(conn.execute(sql, values).fetchone()[0])


def add_skipped(conn: Transaction, batch: int, skipped: Iterable[Sequence[str]]) -> None:
    """Enter what was left out: (name, code, detail)."""
    sql = "INSERT OR REPLACE INTO import_skipped (batch_id, name, code, detail) VALUES (?, ?, ?, ?)"
    conn.executemany(sql, [(batch, *each) for each in skipped])


def end_batch(
    conn: Transaction, batch: int, now: float, foreign_files: int, missing: Sequence[str], unlisted: int
) -> None:
    """End a batch whose source is read to its end."""
    conn.execute(
        "UPDATE import_batch SET ended_at = ?, foreign_files = ?, missing = ?, unlisted = ? WHERE id = ?",
        (now, foreign_files, json.dumps(list(missing)), unlisted, batch),
    )


# -- lists -------------------------------------------------------------------------------------------------------------

_BATCH = """
SELECT b.id, b.source, b.door, b.who, b.began_at, b.ended_at, b.foreign_files, b.missing, b.unlisted,
       (SELECT count(*) FROM import_object WHERE batch_id = b.id) AS objects,
       (SELECT count(*) FROM import_skipped WHERE batch_id = b.id) AS skipped,
       (SELECT count(*) FROM import_study WHERE batch_id = b.id AND state = 'staged') AS waiting
FROM import_batch b
"""


_WAITS = "b.id IN (SELECT batch_id FROM import_study WHERE state = 'staged')"
_LIST = ListSql(
    "b.id",
    "FROM import_batch b",
    f"{_WAITS} DESC, b.id DESC",
    {"source": ("lower(b.source)",), "read": ("b.began_at",), "who": ("lower(b.who)",), "state": (f"1 - ({_WAITS})",)},
)
BATCH_COLUMNS = _LIST.orders.keys()


def list_batches(conn: Transaction, *, only_waiting: bool = False) -> Listing[ImportBatch]:
    """List batches, the latest first; those with something to decide before others."""

    def make(row: CatalogRow) -> ImportBatch:
        return _batch_of(conn.execute(f"{_BATCH} WHERE b.id = ?", (row[0],)).fetchone())

    return Listing(conn, _LIST, make, {_WAITS: only_waiting})


def find_batch(conn: Transaction, number: int) -> ImportBatch | None:
    row = conn.execute(f"{_BATCH} WHERE b.id = ?", (number,)).fetchone()
    return _batch_of(row) if row else None


def _batch_of(row: CatalogRow) -> ImportBatch:
    return ImportBatch(**{**dict(row), "missing": tuple(json.loads(row["missing"]))})


def list_import_studies(conn: Transaction, batch: int) -> list[ImportStudy]:
    """List the studies of a batch in the order in which they were found."""
    rows = conn.execute("SELECT * FROM import_study WHERE batch_id = ? ORDER BY id", (batch,)).fetchall()
    return [_study_of(conn, row) for row in rows]


def find_import_study(conn: Transaction, number: int) -> ImportStudy | None:
    row = conn.execute("SELECT * FROM import_study WHERE id = ?", (number,)).fetchone()
    return _study_of(conn, row) if row else None


def list_assigned(conn: Transaction, limit: int = 10) -> list[ImportStudy]:
    """List the studies that are to be brought in, in the order of the decisions."""
    rows = conn.execute(
        "SELECT * FROM import_study WHERE state = 'assigned' ORDER BY decided_at, id LIMIT ?", (limit,)
    ).fetchall()
    return [_study_of(conn, row) for row in rows]


@dataclass(frozen=True, slots=True)
class WaitingImports:
    """Staged studies that wait until a person says whose they are. `since`: when the oldest was read."""

    count: int = 0
    since: float | None = None


def read_waiting_imports(conn: Transaction) -> WaitingImports:
    row = conn.execute(
        "SELECT count(*), min(b.began_at) FROM import_study s JOIN import_batch b ON b.id = s.batch_id"
        " WHERE s.state = 'staged'"
    ).fetchone()
    return WaitingImports(row[0], row[1])


def _study_of(conn: Transaction, row: CatalogRow) -> ImportStudy:
    given = {name: row[name] for name in ImportStudy.__dataclass_fields__ if name not in ("patient", "objects")}
    patient = DiscPatient(*(row[name] for name in DiscPatient.__dataclass_fields__))
    counts = conn.execute("SELECT state, count(*) FROM import_object WHERE study_id = ? GROUP BY state", (row["id"],))
    given |= {"state": ImportState(row["state"]), "patient": patient, "objects": {each[0]: each[1] for each in counts}}
    given["identity"] = json.loads(row["identity"]) if row["identity"] else None
    return ImportStudy(**given)


def list_import_objects(conn: Transaction, study: int, *, state: str = "", limit: int = 1000) -> list[ImportObject]:
    """List the files of a study of a batch, in order."""
    columns = ", ".join(ImportObject.__dataclass_fields__)
    rows = conn.execute(
        f"SELECT {columns} FROM import_object WHERE study_id = ? AND (?2 = '' OR state = ?2) ORDER BY id LIMIT ?3",
        (study, state, limit),
    )
    return [ImportObject(*row) for row in rows]


def find_import_object(conn: Transaction, number: int) -> ImportObject | None:
    columns = ", ".join(ImportObject.__dataclass_fields__)
    row = conn.execute(f"SELECT {columns} FROM import_object WHERE id = ?", (number,)).fetchone()
    return ImportObject(*row) if row else None


def list_skipped(conn: Transaction, batch: int) -> list[tuple[str, str, str]]:
    """List what was left out of a batch: (name, code, detail)."""
    sql = "SELECT name, code, detail FROM import_skipped WHERE batch_id = ? ORDER BY name"
    return [tuple(row) for row in conn.execute(sql, (batch,))]


# -- decisions ---------------------------------------------------------------------------------------------------------


def assign_import(
    conn: Transaction,
    study: int,
    identity: Mapping[str, str],
    differs_in: Sequence[str],
    now: float,
    who: str,
    why: str,
) -> None:
    """Decide whose a staged study is. Raises EdgeError where it is not staged."""
    found = require_staged(conn, study)
    conn.execute(
        "UPDATE import_study SET state = 'assigned', identity = ?, decided_by = ?, decided_at = ?, reason = ?"
        " WHERE id = ?",
        (json.dumps(dict(identity)), who, now, why, study),
    )
    payload = {"action": ledger.ASSIGN_IMPORT, "batch": found.batch_id, "count": _count(found), "reason": why}
    ledger.append(conn, now, ledger.IMPORTED, who, [], payload=payload | {"differs_in": list(differs_in)})


def discard_import(conn: Transaction, study: int, now: float, who: str, why: str) -> list[str]:
    """Decide that a staged study is not imported. Returns the files to remove. Raises EdgeError."""
    found = require_staged(conn, study)
    conn.execute(
        "UPDATE import_study SET state = 'discarded', decided_by = ?, decided_at = ?, reason = ? WHERE id = ?",
        (who, now, why, study),
    )
    rows = conn.execute("SELECT path FROM import_object WHERE study_id = ? AND path <> ''", (study,)).fetchall()
    conn.execute("UPDATE import_object SET state = 'discarded', path = '' WHERE study_id = ?", (study,))
    payload = {"action": ledger.DISCARD_IMPORT, "batch": found.batch_id, "count": _count(found), "reason": why}
    ledger.append(conn, now, ledger.IMPORTED, who, [], payload=payload)
    return [row[0] for row in rows]


def _count(study: ImportStudy) -> int:
    return sum(study.objects.values())


def require_staged(conn: Transaction, study: int) -> ImportStudy:
    """Return a study that waits for a decision. Raises EdgeError where there is none, or it is decided."""
    found = find_import_study(conn, study)
    if found is None:
        raise EdgeError(f"there is no staged study {study}; `edge import list` shows those that wait")
    if found.state is not ImportState.STAGED:
        raise EdgeError(f"study {study} of the import is {found.state.value} already")
    return found


def settle_objects(conn: Transaction, ended: Iterable[tuple[int, str, str]]) -> None:
    """Enter what has become of staged files: (object, state, note); those that are in keep no staged file."""
    for number, state, note in ended:
        gone = state in ("imported", "known")
        conn.execute(
            "UPDATE import_object SET state = ?, note = ?, path = CASE WHEN ? THEN '' ELSE path END WHERE id = ?",
            (state, note, gone, number),
        )


def end_study(conn: Transaction, study: int) -> None:
    """Every file of an assigned study has been brought in, or cannot be."""
    conn.execute("UPDATE import_study SET state = 'imported' WHERE id = ? AND state = 'assigned'", (study,))


def is_imported(conn: Transaction, sha256: bytes, patient_id: str, issuer: str, accession: str) -> bool:
    """Check whether the same file was imported for the same patient and order before."""
    rows = conn.execute(
        "SELECT s.identity FROM import_object o JOIN import_study s ON s.id = o.study_id"
        " WHERE o.sha256 = ? AND o.state IN ('imported', 'known')",
        (sha256,),
    )
    wanted = {"patient_id": patient_id, "issuer": issuer, "accession": accession}
    return any(wanted.items() <= json.loads(row[0] or "{}").items() for row in rows)


def is_received(conn: Transaction, sop_instance_uid: str, sha256: bytes) -> bool:
    """Check whether the very data set is here already, whatever way it came, and was not lost since."""
    row = conn.execute(
        "SELECT 1 FROM instance WHERE sop_instance_uid = ? AND sha256 = ? AND state <> 'lost'",
        (sop_instance_uid, sha256),
    ).fetchone()
    return row is not None


# -- patients ----------------------------------------------------------------------------------------------------------


def find_patients(conn: Transaction, text: str, limit: int = 20) -> list[DiscPatient]:
    """Find patients known here by their number or a part of their name: first those that HL7 names, then of images.

    A number under which images have several names is several patients: a person chooses. HL7's word ends that.
    """
    known = conn.execute(
        "SELECT i.number AS patient_id, a.namespace AS issuer, coalesce(s.name, p.name) AS patient_name,"
        " coalesce(s.birth_date, p.birth_date) AS birth_date, coalesce(s.sex, p.sex) AS sex"
        " FROM patient_identifier i JOIN assigning_authority a ON a.id = i.authority_id"
        " JOIN known_patient p ON p.id = i.patient_key LEFT JOIN known_patient s ON s.id = p.survivor_id"
        " WHERE p.survivor_id IS NULL AND (i.number = :text"
        " OR instr(lower(replace(p.name, '^', ' ')), lower(replace(:text, '^', ' ')))) LIMIT :limit",
        {"text": text, "limit": limit},
    ).fetchall()
    of_images = conn.execute(
        "SELECT patient_id, issuer, name AS patient_name, birth_date, sex FROM patient"
        " WHERE patient_id <> '' AND (patient_id = :text"
        " OR instr(lower(replace(name, '^', ' ')), lower(replace(:text, '^', ' '))))"
        " LIMIT :limit",
        {"text": text, "limit": limit},
    ).fetchall()
    named = [DiscPatient(*row) for row in known]
    sure = {(each.patient_id, each.issuer) for each in named}
    others = [each for each in (DiscPatient(*row) for row in of_images) if (each.patient_id, each.issuer) not in sure]
    return list(dict.fromkeys([*named, *others]))[:limit]
