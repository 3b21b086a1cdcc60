"""What the store holds, as lists for people: studies, instances, deliveries. Reads only.

Lists are short because somebody reads them; each query ends at its limit along an index, whatever else the store holds.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from edge.db import Connection
from edge.model import DeliveryState, InstanceState, Kind

#: destination -> state -> number of instances
Counts = dict[str, dict[str, int]]

#: Those that need a person first, then in the order of what happens next.
BY_INTEREST = (
    DeliveryState.HELD,
    DeliveryState.DEFERRED,
    DeliveryState.ACTIVE,
    DeliveryState.PENDING,
    DeliveryState.SENT,
    DeliveryState.CONFIRMED,
)


# -- studies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Study:
    """One study, and where its instances stand."""

    id: int
    study_uid: str
    patient_id: str
    patient_name: str
    accession: str
    study_date: str
    description: str
    modality: str
    first_received: float
    last_received: float
    instances: int
    bytes: int
    deliveries: Counts


_STUDY = """
SELECT s.id, s.study_uid, s.patient_id, s.patient_name, s.accession, s.study_date, s.description, s.modality,
       s.first_received, s.last_received,
       (SELECT count(*) FROM instance WHERE study_id = s.id) AS instances,
       (SELECT coalesce(sum(size), 0) FROM instance WHERE study_id = s.id) AS bytes
FROM study s
"""
_LATEST_STUDIES = (
    _STUDY
    + """
WHERE s.last_received >= :since
  AND (:search = '' OR instr(lower(s.study_uid || char(10) || s.patient_id || char(10) || s.patient_name || char(10)
                                   || s.accession || char(10) || s.description), lower(:search)))
ORDER BY s.last_received DESC LIMIT :limit
"""
)
_STUDY_COUNTS = """
SELECT d.destination, d.state, count(*)
FROM instance i JOIN delivery d ON d.instance_id = i.id
WHERE i.study_id = ? GROUP BY d.destination, d.state
"""


def studies(conn: Connection, search: str, since: float, limit: int) -> list[Study]:
    """Studies received since a time, the latest first. `search`: part of a UID, of who it is about or what it is."""
    rows = conn.execute(_LATEST_STUDIES, {"search": search, "since": since, "limit": limit}).fetchall()
    return [_study(conn, row) for row in rows]


def study(conn: Connection, study_uid: str) -> Study | None:
    """One study, or None."""
    row = conn.execute(_STUDY + "WHERE s.study_uid = ?", (study_uid,)).fetchone()
    return _study(conn, row) if row else None


def _study(conn: Connection, row: sqlite3.Row) -> Study:
    counts: Counts = defaultdict(dict)
    for destination, state, n in conn.execute(_STUDY_COUNTS, (row["id"],)):
        counts[destination][state] = n
    return Study(**dict(row), deliveries=dict(counts))


# -- instances ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance, with its deliveries by destination."""

    id: int
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str  # of the data set, hexadecimal
    state: InstanceState
    reason: str
    hold: str
    path: str
    size: int
    received_at: float
    calling_ae: str
    called_ae: str
    address: str
    deliveries: dict[str, Delivery] = field(default_factory=dict)


_INSTANCE = """
SELECT i.id, coalesce(s.study_uid, '') AS study_uid, i.series_uid, k.sop_class_uid, i.sop_instance_uid,
       k.transfer_syntax_uid, lower(hex(i.sha256)) AS sha256, i.state, i.reason, i.hold, i.path, i.size, i.received_at,
       i.calling_ae, i.called_ae, i.address
FROM instance i
JOIN kind k ON k.id = i.kind_id
LEFT JOIN study s ON s.id = i.study_id
"""
_TROUBLED = (
    _INSTANCE
    + "WHERE i.state = ? AND i.state IN ('conflict', 'quarantined', 'lost') ORDER BY i.received_at DESC LIMIT ?"
)


def instances_of(conn: Connection, study_id: int) -> list[Instance]:
    """The instances of a study in the order of their arrival, with their deliveries."""
    found = [_instance(row) for row in conn.execute(_INSTANCE + "WHERE i.study_id = ? ORDER BY i.id", (study_id,))]
    return _with_deliveries(found, _of_study(conn, study_id))


def troubled(conn: Connection, state: InstanceState, limit: int) -> list[Instance]:
    """Conflicts, quarantined or lost instances, the latest first."""
    found = [_instance(row) for row in conn.execute(_TROUBLED, (state.value, limit))]
    return [_with_deliveries([each], _of_instance(conn, each.id))[0] for each in found]


def _instance(row: sqlite3.Row) -> Instance:
    given = dict(row)
    given["state"] = InstanceState(given["state"])
    return Instance(**given)


def _with_deliveries(instances: list[Instance], deliveries: Iterable[Delivery]) -> list[Instance]:
    by_id = {each.id: each for each in instances}
    for delivery in deliveries:
        by_id[delivery.instance_id].deliveries[delivery.destination] = delivery
    return instances


# -- deliveries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """One (instance, destination), as the queue has it."""

    id: int
    instance_id: int
    destination: str  # "" where no route matched
    state: DeliveryState
    priority: int
    route: str
    reason: str
    status: int | None
    attempts: int
    bytes: int
    queued_at: float
    not_before: float | None
    sent_at: float | None
    confirmed_at: float | None
    sop_instance_uid: str
    study_uid: str


_DELIVERY = """
SELECT d.id, d.instance_id, d.destination, d.state, d.priority, d.route,
       CASE WHEN d.state = 'pending' AND d.reason = '' AND p.state = 'down'
            THEN 'the destination is down: ' || coalesce(p.last_error, 'no reason noted') ELSE d.reason END AS reason,
       d.status, d.attempts, d.bytes, d.queued_at, d.not_before, d.sent_at, d.confirmed_at, i.sop_instance_uid,
       coalesce(s.study_uid, '') AS study_uid
FROM delivery d
JOIN instance i ON i.id = d.instance_id
LEFT JOIN study s ON s.id = i.study_id
LEFT JOIN destination p ON p.name = d.destination
"""
#: The state is spelled out in each, so that its partial index is used; in the order in which they are next in turn.
_IN_STATE = {
    DeliveryState.HELD: "WHERE d.state = 'held' AND d.destination = ? ORDER BY d.id",
    DeliveryState.DEFERRED: "WHERE d.state = 'deferred' AND d.destination = ? ORDER BY d.not_before",
    DeliveryState.ACTIVE: "WHERE d.state = 'active' AND d.destination = ? ORDER BY d.lease_until",
    DeliveryState.PENDING: "WHERE d.state = 'pending' AND d.destination = ? ORDER BY d.priority, d.id",
    DeliveryState.SENT: "WHERE d.state = 'sent' AND d.destination = ? ORDER BY d.id",
    DeliveryState.CONFIRMED: "WHERE d.state = 'confirmed' AND d.destination = ? ORDER BY d.id",
}


def delivery(conn: Connection, delivery_id: int) -> Delivery | None:
    """One delivery, or None."""
    row = conn.execute(_DELIVERY + "WHERE d.id = ?", (delivery_id,)).fetchone()
    return _delivery(row) if row else None


def deliveries(
    conn: Connection, states: Iterable[DeliveryState], destination: str | None, study_uid: str | None, limit: int | None
) -> Iterator[Delivery]:
    """Deliveries in some states, by interest; those of one destination or study where that is given."""
    wanted = [state for state in BY_INTEREST if state in set(states)]
    if study_uid is not None:
        found: Iterator[Delivery] = iter(_deliveries_of_study(conn, wanted, destination, study_uid))
    else:
        found = _deliveries_by_state(conn, wanted, destination)
    return islice(found, limit)


def _deliveries_of_study(
    conn: Connection, states: list[DeliveryState], destination: str | None, study_uid: str
) -> list[Delivery]:
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    if row is None:
        return []
    found = [each for each in _of_study(conn, row[0]) if each.state in states]
    return sorted(
        (each for each in found if destination in (None, each.destination)), key=lambda d: states.index(d.state)
    )


def _deliveries_by_state(conn: Connection, states: list[DeliveryState], destination: str | None) -> Iterator[Delivery]:
    for state in states:
        rows = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = ? AND n > 0", (state.value,))
        for name in [row[0] for row in rows]:
            if destination in (None, name):
                yield from map(_delivery, conn.execute(_DELIVERY + _IN_STATE[state], (name,)))


def _of_study(conn: Connection, study_id: int) -> Iterator[Delivery]:
    return map(_delivery, conn.execute(_DELIVERY + "WHERE i.study_id = ? ORDER BY d.id", (study_id,)))


def _of_instance(conn: Connection, instance_id: int) -> Iterator[Delivery]:
    return map(_delivery, conn.execute(_DELIVERY + "WHERE d.instance_id = ? ORDER BY d.id", (instance_id,)))


def _delivery(row: sqlite3.Row) -> Delivery:
    given = dict(row)
    given["state"] = DeliveryState(given["state"])
    return Delivery(**given)


# -- for `edge check` and `edge echo` ----------------------------------------------------------------------------------


def senders(conn: Connection) -> set[str]:
    """AE titles, and names of modalities, that have ever stored something."""
    rows = conn.execute("SELECT ae_title, modality FROM peer WHERE last_stored IS NOT NULL")
    return {name for row in rows for name in row if name}


def daily_bytes(conn: Connection, now: float) -> float | None:
    """What an average day has brought since the first study; None within the first day."""
    (first,) = conn.execute("SELECT min(first_received) FROM study").fetchone()
    if first is None or now - first < 86400:
        return None
    (received,) = conn.execute("SELECT coalesce(sum(bytes), 0) FROM instance_tally").fetchone()
    return float(received / (now - first) * 86400)


def kinds(conn: Connection) -> list[Kind]:
    """Every kind of object that has been received."""
    rows = conn.execute(
        "SELECT sop_class_uid, transfer_syntax_uid FROM kind ORDER BY sop_class_uid, transfer_syntax_uid"
    )
    return [Kind(*row) for row in rows]
