"""The ledger's rows as the audit trail reads them: in groups, each with what the catalog knows of it.

Rows of the same event, study, who and destination that follow one another closely are one group, and one message: a
study of 600 slices is a message on its way in and one on its way out, not 1,200.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge.store import ledger, patients
from edge.store.database import Connection

#: A pause after which the same event of the same study is told anew.
NEAR_SECONDS = 60.0
#: Each of these rows names its own image in its detail.
ARRIVALS = frozenset({ledger.RECEIVED, ledger.ADOPTED, ledger.CONFLICT})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger."""

    seq: int
    at: float
    event: str
    who: str
    study_id: int | None
    instances: tuple[int, ...]
    destination: str
    detail: str
    patient: Person | None = None  # whose the instances are; None: there are none, or it is not known of each


@dataclass(frozen=True, slots=True)
class Person:
    """A patient as people are told of him."""

    patient_id: str
    name: str


@dataclass(frozen=True, slots=True)
class PeerNode:
    """A peer as the network knows it."""

    ae_title: str
    address: str


#: SOP class UID -> number of instances.
Classes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StudyContext:
    """What the catalog knows of a group."""

    study_uid: str = ""
    description: str = ""
    accession: str = ""
    patients: tuple[Person, ...] = ()
    classes: Classes = field(default_factory=dict)
    origins: Mapping[PeerNode, Classes] = field(default_factory=dict)  # who sent them to us
    queued: Mapping[str, Classes] = field(default_factory=dict)  # destination -> what is to go there
    series: tuple[str, ...] = ()
    kept: int = 0  # instances of the study that are still here


def neighbours(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that are one story, each list in order, the lists by their first row."""
    groups: list[list[Row]] = []
    newest: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        detail = "" if row.event in ARRIVALS else row.detail
        key = (row.event, row.study_id, row.who, row.destination, detail, row.patient)
        group = newest.get(key)
        if group is None or abs(row.at - group[-1].at) > NEAR_SECONDS or not row.instances:
            newest[key] = group = []
            groups.append(group)
        group.append(row)
    return groups


def read(conn: Connection, after: int, limit: int) -> list[Row]:
    """The ledger's rows behind a watermark."""
    rows = conn.execute(
        "SELECT seq, at, event, who, study_id, instances, destination, detail FROM ledger WHERE seq > ?"
        " ORDER BY seq LIMIT ?",
        (after, limit),
    )
    return by_patient(conn, [row_of(row) for row in rows])


def by_patient(conn: Connection, rows: Sequence[Row]) -> list[Row]:
    """Each row once for each patient whose instances it is about."""
    known = patients.patients_of(conn, {each for row in rows for each in row.instances})
    people = {each: Person(patient_id, name) for each, (_, patient_id, name) in known.items()}
    found = []
    for row in rows:
        whose: dict[Person | None, list[int]] = {} if row.instances else {None: []}
        for each in row.instances:
            whose.setdefault(people.get(each), []).append(each)
        found += [replace(row, instances=tuple(some), patient=person) for person, some in whose.items()]
    return found


def row_of(row: sqlite3.Row) -> Row:
    seq, at, event, who, study_id, instances, destination, detail = row
    return Row(seq, at, event, who, study_id, tuple(json.loads(instances)), destination, detail)


def look_up(conn: Connection, rows: Sequence[Row]) -> StudyContext:
    """What the catalog knows of a group's study and instances."""
    ids = json.dumps(sorted({each for row in rows for each in row.instances}))
    origins: dict[PeerNode, dict[str, int]] = defaultdict(dict)
    classes: dict[str, int] = defaultdict(int)
    for title, address, uid, n in conn.execute(_ORIGINS, (ids,)):
        origins[PeerNode(title, address)][uid] = n
        classes[uid] += n
    queued: dict[str, dict[str, int]] = defaultdict(dict)
    for destination, uid, n in conn.execute(_QUEUED, (ids,)):
        queued[destination][uid] = n
    series = tuple(row[0] for row in conn.execute(_SERIES, (ids,)))
    study = conn.execute(_STUDY, (rows[0].study_id,)).fetchone()
    known = dict(study) if study else {}
    said = conn.execute(_SAID, (ids,)).fetchone() if study else None
    known |= dict(said) if said else {}
    first = Person(known.pop("patient_id"), known.pop("patient_name")) if study else None
    told = rows[0].patient
    people = (told,) if told is not None else _people(conn, rows[0], first)
    return StudyContext(patients=people, classes=classes, origins=origins, queued=queued, series=series, **known)


def _people(conn: Connection, row: Row, first: Person | None) -> tuple[Person, ...]:
    """Whose a study is as a whole: for what is about no instance, or about those of which nothing is kept."""
    found = dict.fromkeys([first] if first is not None else [])
    if not row.instances:
        found |= dict.fromkeys(Person(*each) for each in conn.execute(_PATIENTS, (row.study_id,)))
    by_id = {each.patient_id: each for each in reversed(found)}  # one spelling is enough
    return tuple(each for each in found if by_id[each.patient_id] is each)


_ORIGINS = """
SELECT i.calling_ae, i.address, k.sop_class_uid, count(*)
FROM json_each(?) each JOIN instance i ON i.id = each.value JOIN kind k ON k.id = i.kind_id GROUP BY 1, 2, 3
"""
#: What waits only for a person's decision is not on its way.
_QUEUED = """
SELECT d.destination, k.sop_class_uid, count(*)
FROM json_each(?) each JOIN delivery d ON d.instance_id = each.value JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = i.kind_id
WHERE d.destination <> '' AND d.state <> 'cancelled' AND (d.state <> 'held' OR d.attempts > 0) GROUP BY 1, 2
"""
_SERIES = "SELECT DISTINCT i.series_uid FROM json_each(?) each JOIN instance i ON i.id = each.value ORDER BY 1"
#: What the first of a group says of its study: another patient's images may say something else.
_SAID = """
SELECT f.description, f.accession FROM json_each(?) each JOIN instance i ON i.id = each.value
JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id ORDER BY i.id LIMIT 1
"""
_PATIENTS = """
SELECT p.patient_id, p.name FROM study_patient w JOIN patient p ON p.id = w.patient_key WHERE w.study_id = ?
ORDER BY w.first_at, p.id
"""
_STUDY = """
SELECT study_uid, description, accession, patient_id, patient_name,
       (SELECT count(*) FROM instance WHERE study_id = study.id AND state NOT IN ('evicted', 'lost')
            AND deleted_at IS NULL) AS kept
FROM study WHERE id = ?
"""
