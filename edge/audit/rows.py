"""The ledger's rows as the audit trail reads them: in groups, each with what the catalog knows of it.

Rows of the same event, study, who and destination that follow one another closely are one group, and one message: a
study of 600 slices is a message on its way in and one on its way out, not 1,200.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edge import ledger
from edge.db import Connection

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


@dataclass(frozen=True, slots=True)
class Node:
    """A peer as the network knows it."""

    ae_title: str
    address: str


#: SOP class UID -> number of instances.
Classes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the catalog knows of a group."""

    study_uid: str = ""
    description: str = ""
    accession: str = ""
    patient_id: str = ""
    patient_name: str = ""
    classes: Classes = field(default_factory=dict)
    origins: Mapping[Node, Classes] = field(default_factory=dict)  # who sent them to us
    queued: Mapping[str, Classes] = field(default_factory=dict)  # destination -> what is to go there
    series: tuple[str, ...] = ()
    kept: int = 0  # instances of the study that are still here


def neighbours(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that are one story, each list in order, the lists by their first row."""
    groups: list[list[Row]] = []
    newest: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.event, row.study_id, row.who, row.destination, "" if row.event in ARRIVALS else row.detail)
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
    return [row_of(row) for row in rows]


def row_of(row: sqlite3.Row) -> Row:
    seq, at, event, who, study_id, instances, destination, detail = row
    return Row(seq, at, event, who, study_id, tuple(json.loads(instances)), destination, detail)


def look_up(conn: Connection, rows: Sequence[Row]) -> Facts:
    """What the catalog knows of a group's study and instances."""
    ids = json.dumps(sorted({each for row in rows for each in row.instances}))
    origins: dict[Node, dict[str, int]] = defaultdict(dict)
    classes: dict[str, int] = defaultdict(int)
    for title, address, uid, n in conn.execute(_ORIGINS, (ids,)):
        origins[Node(title, address)][uid] = n
        classes[uid] += n
    queued: dict[str, dict[str, int]] = defaultdict(dict)
    for destination, uid, n in conn.execute(_QUEUED, (ids,)):
        queued[destination][uid] = n
    series = tuple(row[0] for row in conn.execute(_SERIES, (ids,)))
    study = conn.execute(_STUDY, (rows[0].study_id,)).fetchone()
    known = dict(study) if study else {}
    return Facts(classes=classes, origins=origins, queued=queued, series=series, **known)


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
_STUDY = """
SELECT study_uid, description, accession, patient_id, patient_name,
       (SELECT count(*) FROM instance WHERE study_id = study.id AND state NOT IN ('evicted', 'lost')
            AND deleted_at IS NULL) AS kept
FROM study WHERE id = ?
"""
