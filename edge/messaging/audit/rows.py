"""The ledger's rows as the audit trail reads them: in groups, each with what the catalog knows of it.

Rows of the same event, study, who and destination that follow one another closely are one group, and one message: a
study of 600 slices is a message on its way in and one on its way out, not 1,200.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge.store import audit_trail, ledger, patients
from edge.store.database import CatalogRow, Transaction
from edge.store.ledger import Payload
from edge.store.ledger_text import payload_of_row, render_row

#: A pause after which the same event of the same study is a new message.
NEAR_SECONDS = 60.0
#: Each of these rows has the digest of its own image.
ARRIVAL_EVENTS = frozenset({ledger.RECEIVED, ledger.FETCHED, ledger.ADOPTED, ledger.CONFLICT})


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One row of the ledger."""

    seq: int
    at: float
    event: str
    who: str
    study_id: int | None
    instances: tuple[int, ...]
    destination: str
    payload: Payload
    words: str  # what it says, for people
    patient: Person | None = None  # whose the instances are; None: there are none, or it is not known of each


@dataclass(frozen=True, slots=True)
class Person:
    """A patient as people read of him."""

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


def neighbours(rows: Iterable[TrailRow]) -> list[list[TrailRow]]:
    """Rows that are one story, each list in order, the lists by their first row."""
    groups: list[list[TrailRow]] = []
    newest: dict[tuple[object, ...], list[TrailRow]] = {}
    for row in rows:
        words = "" if row.event in ARRIVAL_EVENTS else row.words
        key = (row.event, row.study_id, row.who, row.destination, words, row.patient)
        group = newest.get(key)
        if group is None or abs(row.at - group[-1].at) > NEAR_SECONDS or not row.instances:
            newest[key] = group = []
            groups.append(group)
        group.append(row)
    return groups


def read_ledger(conn: Transaction, after: int, limit: int) -> list[TrailRow]:
    """The ledger's rows behind a watermark."""
    return by_patient(conn, [row_of(row) for row in audit_trail.trail_rows(conn, after, limit)])


def by_patient(conn: Transaction, rows: Sequence[TrailRow]) -> list[TrailRow]:
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


def row_of(row: CatalogRow) -> TrailRow:
    """`row`: seq and ledger.COLUMNS."""
    seq, at, event, who, study_id, instances, destination, _, _ = row
    numbers = tuple(json.loads(instances))
    return TrailRow(seq, at, event, who, study_id, numbers, destination, payload_of_row(row), render_row(row))


def look_up(conn: Transaction, rows: Sequence[TrailRow]) -> StudyContext:
    """What the catalog knows of a group's study and instances."""
    ids = {each for row in rows for each in row.instances}
    origins: dict[PeerNode, dict[str, int]] = defaultdict(dict)
    classes: dict[str, int] = defaultdict(int)
    for title, address, uid, n in audit_trail.origin_counts(conn, ids):
        origins[PeerNode(title, address)][uid] = n
        classes[uid] += n
    queued: dict[str, dict[str, int]] = defaultdict(dict)
    for destination, uid, n in audit_trail.destination_counts(conn, ids):
        queued[destination][uid] = n
    known: dict[str, Any] = dict(audit_trail.study_columns(conn, rows[0].study_id, ids))
    first = Person(known.pop("patient_id"), known.pop("patient_name")) if known else None
    known_patient = rows[0].patient
    people = (known_patient,) if known_patient is not None else _people(conn, rows[0], first)
    series = audit_trail.series_uids(conn, ids)
    return StudyContext(patients=people, classes=classes, origins=origins, queued=queued, series=series, **known)


def _people(conn: Transaction, row: TrailRow, first: Person | None) -> tuple[Person, ...]:
    """Whose a study is as a whole: for what is about no instance, or about those of which nothing is kept."""
    found = dict.fromkeys([first] if first is not None else [])
    if not row.instances:
        found |= dict.fromkeys(Person(*each) for each in audit_trail.study_patients(conn, row.study_id))
    by_id = {each.patient_id: each for each in reversed(found)}  # one spelling is enough
    return tuple(each for each in found if by_id[each.patient_id] is each)
