"""Instances and their deliveries, as lists for people. Reads only.

Lists are short because somebody reads them; each query ends at its limit along an index, whatever else the store holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from edge.model import DeliveryState, InstanceState, Parameter, Reason, ReasonCode
from edge.store.database import Transaction
from edge.store.reasons import reason_of, words
from edge.store.rejection_notes import REJECTION_WORDS

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
    discarded_at: float | None = None
    deleted_at: float | None = None  # it was discarded, and its file is gone; the digest stays
    released_as: int | None = None  # out of quarantine: the instance that it has become
    fetched_from: str = ""  # cached: the destination that gave it back
    rejected: str = ""  # by a rejection note: its code (PS3.16 CID 7011)
    deliveries: dict[str, Delivery] = field(default_factory=dict)

    @property
    def marks(self) -> list[str]:
        """What sets it apart from what was received and is in use, in words."""
        found = [f"cached, from {self.fetched_from}"] if self.fetched_from else []
        return found + ([f"rejected {REJECTION_WORDS.get(self.rejected, '')}".rstrip()] if self.rejected else [])


_INSTANCE = """
SELECT i.id, coalesce(s.study_uid, '') AS study_uid, i.series_uid, k.sop_class_uid, i.sop_instance_uid,
       k.transfer_syntax_uid, lower(hex(i.sha256)) AS sha256, i.state, i.reason, i.hold, i.path, i.size, i.received_at,
       i.calling_ae, i.called_ae, i.address, i.discarded_at, i.deleted_at, i.released_as, i.fetched_from,
       coalesce(x.code, '') AS rejected
FROM instance i
JOIN kind k ON k.id = i.kind_id
LEFT JOIN study s ON s.id = i.study_id
LEFT JOIN rejected_instance x ON x.sop_instance_uid = i.sop_instance_uid
"""
_TROUBLED = (
    _INSTANCE
    + "WHERE i.state = ? AND i.state IN ('conflict', 'quarantined', 'lost') ORDER BY i.received_at DESC LIMIT ?"
)


def instances_of(conn: Transaction, study_id: int) -> list[Instance]:
    """The instances of a study in the order of their arrival, with their deliveries."""
    rows = conn.execute(_INSTANCE + "WHERE i.study_id = ? ORDER BY i.id", (study_id,)).fetchall()
    found = {row["id"]: _instance(row) for row in rows}
    for each in _of_study(conn, study_id):
        found[each.instance_id].deliveries[each.destination] = each
    return list(found.values())


def list_exceptions(conn: Transaction, state: InstanceState, limit: int) -> list[Instance]:
    """Conflicts, quarantined or lost instances, the latest first."""
    return list(_complete(conn, conn.execute(_TROUBLED, (state.value, limit)).fetchall()))


def instances(conn: Transaction, numbers: Iterable[int]) -> list[Instance]:
    """Some instances by the catalog's own numbers, with their deliveries."""
    rows = (conn.execute(_INSTANCE + "WHERE i.id = ?", (number,)).fetchone() for number in numbers)
    return list(_complete(conn, filter(None, rows)))


def list_object_versions(conn: Transaction, number: int) -> list[Instance]:
    """Every object kept under the SOP Instance UID of one, in the order of arrival."""
    where = "WHERE i.sop_instance_uid = (SELECT sop_instance_uid FROM instance WHERE id = ?) ORDER BY i.id LIMIT 8"
    return list(_complete(conn, conn.execute(_INSTANCE + where, (number,)).fetchall()))


def instance(conn: Transaction, number: int) -> Instance | None:
    """One instance with its deliveries, or None."""
    return next(iter(instances(conn, [number])), None)


_SERIES = """
SELECT first.id AS first_id, first.images, s.id AS study_id, coalesce(p.patient_id, s.patient_id) AS patient_id,
       coalesce(p.name, s.patient_name) AS patient_name, coalesce(f.accession, s.accession) AS accession,
       coalesce(f.study_date, s.study_date) AS study_date, coalesce(f.description, s.description) AS description,
       coalesce(r.modality, s.modality) AS modality
FROM (SELECT min(i.id) AS id, count(*) AS images, i.study_id
      FROM study AS recent CROSS JOIN instance i ON i.study_id = recent.id
      WHERE recent.last_received >= ?1 AND i.received_at >= ?1
      GROUP BY i.study_id, i.series_uid, i.series_id, i.kind_id, i.calling_ae, i.called_ae, i.address) AS first
JOIN study s ON s.id = first.study_id
JOIN instance i ON i.id = first.id
LEFT JOIN series r ON r.id = i.series_id
LEFT JOIN study_facts f ON f.id = r.study_facts_id
LEFT JOIN patient p ON p.id = f.patient_key
ORDER BY first.id DESC LIMIT ?2
"""
_KEPT = {
    "PatientID": "patient_id",
    "PatientName": "patient_name",
    "AccessionNumber": "accession",
    "StudyDate": "study_date",
    "StudyDescription": "description",
    "Modality": "modality",
}


def series_since(conn: Transaction, since: float, limit: int) -> Iterator[tuple[Instance, int, int, dict[str, str]]]:
    """The first object of each series and sender received since then, the latest first: with how many it stands for,
    its study's number, and what the catalog kept of its header, by keyword."""
    for row in conn.execute(_SERIES, (since, limit)).fetchall():
        instance = _instance(conn.execute(_INSTANCE + "WHERE i.id = ?", (row["first_id"],)).fetchone())
        known = {keyword: row[column] for keyword, column in _KEPT.items()} | {"StudyInstanceUID": instance.study_uid}
        yield instance, row["images"], row["study_id"], known | {"SeriesInstanceUID": instance.series_uid}


def _complete(conn: Transaction, rows: Iterable[sqlite3.Row]) -> Iterator[Instance]:
    for instance in map(_instance, rows):
        instance.deliveries.update({each.destination: each for each in _of_instance(conn, instance.id)})
        yield instance


def _instance(row: sqlite3.Row) -> Instance:
    given = dict(row)
    given["state"] = InstanceState(given["state"])
    return Instance(**given)


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
    reason: str  # in words, with what a person wrote
    reason_code: ReasonCode
    reason_parameters: Mapping[str, Parameter]
    peer_text: str  # the peer's own words: only for those who may see patients
    status: int | None
    attempts: int
    bytes: int
    queued_at: float
    not_before: float | None
    sent_at: float | None
    confirmed_at: float | None
    sop_instance_uid: str
    study_uid: str

    @property
    def public_reason(self) -> str:
        """The reason in words, without what a person wrote."""
        return public_words(self.reason, self.reason_code, self.reason_parameters)


def public_words(said: str, code: ReasonCode, parameters: Mapping[str, Parameter]) -> str:
    return words(Reason(code, parameters, "" if parameters else said), with_quotes=False)


DELIVERY = """
SELECT d.id, d.instance_id, d.destination, d.state, d.priority, d.route, d.reason, d.reason_code, d.reason_parameters,
       d.peer_text, d.status, d.attempts, d.bytes, d.queued_at, d.not_before, d.sent_at, d.confirmed_at,
       i.sop_instance_uid, coalesce(s.study_uid, '') AS study_uid,
       CASE WHEN d.state = 'pending' AND p.state = 'down' THEN coalesce(p.last_error, 'no reason noted') END AS down,
       p.refuses
FROM delivery d
JOIN instance i ON i.id = d.instance_id
LEFT JOIN study s ON s.id = i.study_id
LEFT JOIN destination p ON p.name = d.destination
"""
#: Those that need a person first, then in the order of what happens next.
BY_INTEREST = (
    DeliveryState.HELD,
    DeliveryState.DEFERRED,
    DeliveryState.ACTIVE,
    DeliveryState.PENDING,
    DeliveryState.SENT,
    DeliveryState.CONFIRMED,
    DeliveryState.CANCELLED,
)
#: The state is spelled out in each, so that its partial index is used; in the order in which they are next in turn.
IN_STATE = {
    DeliveryState.HELD: "WHERE d.state = 'held' AND d.destination = ? ORDER BY d.id",
    DeliveryState.DEFERRED: "WHERE d.state = 'deferred' AND d.destination = ? ORDER BY d.not_before",
    DeliveryState.ACTIVE: "WHERE d.state = 'active' AND d.destination = ? ORDER BY d.lease_until",
    DeliveryState.PENDING: "WHERE d.state = 'pending' AND d.destination = ? ORDER BY d.priority, d.id",
    DeliveryState.SENT: "WHERE d.state = 'sent' AND d.destination = ? ORDER BY d.id",
    DeliveryState.CONFIRMED: "WHERE d.state = 'confirmed' AND d.destination = ? ORDER BY d.id",
    DeliveryState.CANCELLED: "WHERE d.state = 'cancelled' AND d.destination = ? ORDER BY d.id",
}


def delivery(conn: Transaction, delivery_id: int) -> Delivery | None:
    """One delivery, or None."""
    row = conn.execute(DELIVERY + "WHERE d.id = ?", (delivery_id,)).fetchone()
    return _delivery(row) if row else None


def deliveries(
    conn: Transaction,
    states: Iterable[DeliveryState],
    destination: str | None,
    study_uid: str | None,
    limit: int | None,
    patient_id: str | None = None,
) -> Iterator[Delivery]:
    """Deliveries in some states, by interest; those of one destination, study or patient where that is given."""
    wanted = [state for state in BY_INTEREST if state in set(states)]
    if study_uid is None and patient_id is None:
        return islice(_deliveries_by_state(conn, wanted, destination), limit)
    source = _of_patient(conn, patient_id) if patient_id is not None else _of_study_uid(conn, study_uid or "")
    found = [
        each
        for each in source
        if each.state in wanted and destination in (None, each.destination) and study_uid in (None, each.study_uid)
    ]
    return islice(sorted(found, key=lambda each: wanted.index(each.state)), limit)


def _of_study_uid(conn: Transaction, study_uid: str) -> Iterator[Delivery]:
    row = conn.execute("SELECT id FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return iter(()) if row is None else _of_study(conn, row[0])


def _of_patient(conn: Transaction, patient_id: str) -> Iterator[Delivery]:
    """Select the images that name this Patient ID, whatever their studies' other images name."""
    return map(_delivery, conn.execute(DELIVERY + _OF_PATIENT, (patient_id,)))


_OF_PATIENT = """
WHERE i.series_id IN (
    SELECT r.id FROM patient n
    JOIN study_patient w ON w.patient_key = n.id
    JOIN study_facts f ON f.study_id = w.study_id AND f.patient_key = n.id
    JOIN series r ON r.study_facts_id = f.id
    WHERE n.patient_id = ?
) ORDER BY d.id
"""


def _deliveries_by_state(conn: Transaction, states: list[DeliveryState], destination: str | None) -> Iterator[Delivery]:
    for state in states:
        rows = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = ? AND n > 0", (state.value,))
        for name in [row[0] for row in rows]:
            if destination in (None, name):
                yield from map(_delivery, conn.execute(DELIVERY + IN_STATE[state], (name,)))


def _of_study(conn: Transaction, study_id: int) -> Iterator[Delivery]:
    return map(_delivery, conn.execute(DELIVERY + "WHERE i.study_id = ? ORDER BY d.id", (study_id,)))


def _of_instance(conn: Transaction, instance_id: int) -> Iterator[Delivery]:
    return map(_delivery, conn.execute(DELIVERY + "WHERE d.instance_id = ? ORDER BY d.id", (instance_id,)))


def _delivery(row: sqlite3.Row) -> Delivery:
    given, reason = dict(row), reason_of(row)
    given |= {"state": DeliveryState(given["state"]), "reason_code": reason.code}
    given |= {"reason_parameters": reason.parameters, "reason": reason_in_words(row)}
    del given["down"], given["refuses"]
    return Delivery(**given)


def reason_in_words(row: sqlite3.Row) -> str:
    """Why a delivery is in its state; a pending one waits for its destination to be up."""
    found = words(reason_of(row))
    if found or not row["down"]:
        return found
    return f"the destination {'refuses images' if row['refuses'] else 'is down'}: {row['down']}"


def count_evicted(conn: Transaction, study: int) -> int:
    """How many instances of a study retention has let go."""
    sql = "SELECT count(*) FROM instance WHERE study_id = ? AND state = 'evicted'"
    return int(conn.execute(sql, (study,)).fetchone()[0])
