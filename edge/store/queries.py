"""What the store holds, as lists for people: studies, instances, deliveries. Reads only.

Lists are short because somebody reads them; each query ends at its limit along an index, whatever else the store holds.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice

from edge.model import ContextKey, DeliveryState, Guessed, InstanceState, ReasonCode
from edge.store.database import Connection
from edge.store.study_patients import StudyPatient, patients_of_study

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
    DeliveryState.CANCELLED,
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
    guessed: tuple[str, ...]  # the fields whose character set is not certain, such as "patient_name"
    deliveries: Counts
    patients: tuple[StudyPatient, ...] = ()  # the first first; empty where its images are not filled in yet


_STUDY = """
SELECT s.id, s.study_uid, s.patient_id, s.patient_name, s.accession, s.study_date, s.description, s.modality,
       s.first_received, s.last_received,
       coalesce((SELECT fields FROM study_guess WHERE study_id = s.id), 0) AS guessed,
       (SELECT count(*) FROM instance WHERE study_id = s.id) AS instances,
       (SELECT coalesce(sum(size), 0) FROM instance WHERE study_id = s.id) AS bytes
FROM study s
"""
#: A study is found by whatever any of its objects says.
_LATEST_STUDIES = (
    _STUDY
    + """
WHERE s.last_received >= :since
  AND (:search = '' OR instr(lower(s.study_uid || char(10) || s.patient_id || char(10) || s.patient_name || char(10)
                                   || s.accession || char(10) || s.description), lower(:search))
       OR s.id IN (SELECT w.study_id FROM patient p CROSS JOIN study_patient w ON w.patient_key = p.id
                   WHERE instr(lower(p.patient_id || char(10) || p.name), lower(:search)))
       OR s.id IN (SELECT f.study_id FROM study_facts f
                   WHERE instr(lower(f.accession || char(10) || f.description), lower(:search))))
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


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for; an empty text asks for nothing. Dates as DICOM writes them: YYYYMMDD."""

    patient_id: str = ""
    patient_name: str = ""
    accession: str = ""
    modality: str = ""
    study_uid: str = ""
    date_from: str = ""
    date_to: str = ""

    @property
    def about_patients(self) -> bool:
        return any((self.patient_id, self.patient_name, self.accession, self.date_from, self.date_to))


def _about(patient_id: str, name: str) -> str:
    return (
        f"(:patient_id = '' OR instr(lower({patient_id}), lower(:patient_id))) AND (:patient_name = ''"
        f" OR instr(lower(replace({name}, '^', ' ')), lower(replace(:patient_name, '^', ' '))))"
    )


def _study_says(accession: str, study_date: str) -> str:
    return (
        f"(:accession = '' OR instr(lower({accession}), lower(:accession)))"
        f" AND (:date_from = '' OR {study_date} >= :date_from)"
        f" AND (:date_to = '' OR {study_date} <> '' AND {study_date} <= :date_to)"
    )


_FOUND_STUDIES = (
    _STUDY
    + f"""
WHERE ({_about("s.patient_id", "s.patient_name")}
       OR s.id IN (SELECT w.study_id FROM patient p CROSS JOIN study_patient w ON w.patient_key = p.id
                   WHERE {_about("p.patient_id", "p.name")}))
  AND ({_study_says("s.accession", "s.study_date")}
       OR s.id IN (SELECT f.study_id FROM study_facts f WHERE {_study_says("f.accession", "f.study_date")}))
  AND (:modality = '' OR s.modality = upper(:modality)
       OR EXISTS (SELECT 1 FROM study_facts f JOIN series r ON r.study_facts_id = f.id
                  WHERE f.study_id = s.id AND r.modality = upper(:modality)))
  AND (:study_uid = '' OR s.study_uid = :study_uid)
ORDER BY s.last_received DESC LIMIT :limit
"""
)


def find_studies(conn: Connection, search: Search, limit: int) -> list[Study]:
    """Studies that meet all that is asked, the latest received first."""
    rows = conn.execute(_FOUND_STUDIES, asdict(search) | {"limit": limit}).fetchall()
    return [_study(conn, row) for row in rows]


def study_numbered(conn: Connection, number: int) -> Study | None:
    """One study by the catalog's own number, or None."""
    row = conn.execute(_STUDY + "WHERE s.id = ?", (number,)).fetchone()
    return _study(conn, row) if row else None


def study(conn: Connection, study_uid: str) -> Study | None:
    """One study, or None."""
    row = conn.execute(_STUDY + "WHERE s.study_uid = ?", (study_uid,)).fetchone()
    return _study(conn, row) if row else None


def _study(conn: Connection, row: sqlite3.Row) -> Study:
    counts: Counts = defaultdict(dict)
    for destination, state, n in conn.execute(_STUDY_COUNTS, (row["id"],)):
        counts[destination][state] = n
    guessed = tuple(bit.name.lower() for bit in Guessed if bit & row["guessed"] and bit.name)
    patients = patients_of_study(conn, row["id"], row["instances"])
    return Study(**{**dict(row), "guessed": guessed}, deliveries=dict(counts), patients=patients)


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
    deliveries: dict[str, Delivery] = field(default_factory=dict)


_INSTANCE = """
SELECT i.id, coalesce(s.study_uid, '') AS study_uid, i.series_uid, k.sop_class_uid, i.sop_instance_uid,
       k.transfer_syntax_uid, lower(hex(i.sha256)) AS sha256, i.state, i.reason, i.hold, i.path, i.size, i.received_at,
       i.calling_ae, i.called_ae, i.address, i.discarded_at, i.deleted_at, i.released_as
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


def instances(conn: Connection, numbers: Iterable[int]) -> list[Instance]:
    """Some instances by the catalog's own numbers, with their deliveries."""
    rows = [conn.execute(_INSTANCE + "WHERE i.id = ?", (number,)).fetchone() for number in numbers]
    return [_with_deliveries([each], _of_instance(conn, each.id))[0] for each in map(_instance, filter(None, rows))]


def versions(conn: Connection, number: int) -> list[Instance]:
    """Every object kept under the SOP Instance UID of one, in the order of arrival."""
    where = "WHERE i.sop_instance_uid = (SELECT sop_instance_uid FROM instance WHERE id = ?) ORDER BY i.id LIMIT 8"
    found = [_instance(row) for row in conn.execute(_INSTANCE + where, (number,))]
    return [_with_deliveries([each], _of_instance(conn, each.id))[0] for each in found]


def instance(conn: Connection, number: int) -> Instance | None:
    """One instance with its deliveries, or None."""
    row = conn.execute(_INSTANCE + "WHERE i.id = ?", (number,)).fetchone()
    return _with_deliveries([_instance(row)], _of_instance(conn, number))[0] if row else None


def study_numbers(conn: Connection, instances: Iterable[Instance]) -> dict[str, int]:
    """The catalog's own numbers of the studies of some instances, by Study Instance UID."""
    uids = {each.study_uid for each in instances if each.study_uid}
    found = (conn.execute("SELECT study_uid, id FROM study WHERE study_uid = ?", (uid,)).fetchone() for uid in uids)
    return {row[0]: row[1] for row in found if row is not None}


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


def series_since(conn: Connection, since: float, limit: int) -> Iterator[tuple[Instance, int, int, dict[str, str]]]:
    """The first object of each series and sender received since then, the latest first: with how many it stands for,
    its study's number, and what the catalog kept of its header, by keyword."""
    for row in conn.execute(_SERIES, (since, limit)).fetchall():
        instance = _instance(conn.execute(_INSTANCE + "WHERE i.id = ?", (row["first_id"],)).fetchone())
        known = {keyword: row[column] for keyword, column in _KEPT.items()} | {"StudyInstanceUID": instance.study_uid}
        yield instance, row["images"], row["study_id"], known | {"SeriesInstanceUID": instance.series_uid}


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
    reason_code: ReasonCode
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


_DELIVERY = """
SELECT d.id, d.instance_id, d.destination, d.state, d.priority, d.route,
       CASE WHEN d.state = 'pending' AND d.reason = '' AND p.state = 'down'
            THEN 'the destination is down: ' || coalesce(p.last_error, 'no reason noted') ELSE d.reason END AS reason,
       d.reason_code, d.peer_text, d.status, d.attempts, d.bytes, d.queued_at, d.not_before, d.sent_at, d.confirmed_at,
       i.sop_instance_uid, coalesce(s.study_uid, '') AS study_uid
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
    DeliveryState.CANCELLED: "WHERE d.state = 'cancelled' AND d.destination = ? ORDER BY d.id",
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
    given["state"], given["reason_code"] = DeliveryState(given["state"]), ReasonCode(given["reason_code"])
    return Delivery(**given)


# -- deliveries of one study to one destination, together --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """What is held, or what waits, of one study for one destination: that is what a person decides about."""

    study_id: int | None
    study_uid: str
    destination: str
    state: DeliveryState  # the most interesting one
    priority: int  # the most urgent
    count: int
    bytes: int
    queued_at: float  # the oldest
    not_before: float | None
    attempts: int
    reason: str  # of one of them
    code: ReasonCode  # where it is held: why, for all of them


#: A backlog may be long: so many rows of it are looked at, in the order in which they are next in turn.
BATCH_ROWS = 5000


def batches(
    conn: Connection, states: Iterable[DeliveryState], destination: str | None, study_id: int | None, limit: int
) -> list[Batch]:
    """What waits, by study and destination; what needs a person first. Bounded by `BATCH_ROWS` and `limit`."""
    rows: dict[tuple[int | None, str, str | None], list[sqlite3.Row]] = {}
    for state in [state for state in BY_INTEREST if state in set(states)]:
        for row in _batch_rows(conn, state, destination, study_id):
            code = row["reason_code"] if state is DeliveryState.HELD else None
            rows.setdefault((row["study_id"], row["destination"], code), []).append(row)
    return [_batch(group) for group in islice(rows.values(), limit)]


def _batch_rows(
    conn: Connection, state: DeliveryState, destination: str | None, study_id: int | None
) -> Iterator[sqlite3.Row]:
    select = _DELIVERY.replace("SELECT d.id,", "SELECT i.study_id, d.id,")
    if study_id is not None:
        where = "WHERE i.study_id = ? AND d.state = ? AND (?3 IS NULL OR d.destination = ?3) ORDER BY d.id LIMIT ?4"
        yield from conn.execute(select + where, (study_id, state.value, destination, BATCH_ROWS))
        return
    names = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = ? AND n > 0", (state.value,)).fetchall()
    for (name,) in names:
        if destination in (None, name):
            yield from conn.execute(f"{select}{_IN_STATE[state]} LIMIT {BATCH_ROWS}", (name,))


def _batch(rows: list[sqlite3.Row]) -> Batch:
    first = rows[0]
    return Batch(
        first["study_id"],
        first["study_uid"],
        first["destination"],
        DeliveryState(first["state"]),
        min(row["priority"] for row in rows),
        len(rows),
        sum(row["bytes"] for row in rows),
        min(row["queued_at"] for row in rows),
        first["not_before"],
        max(row["attempts"] for row in rows),
        first["reason"],
        ReasonCode(first["reason_code"]),
    )


def members(
    conn: Connection, study_id: int, destination: str, *, held: bool, code: str | None = None
) -> list[tuple[int, int]]:
    """The deliveries of a batch, all of them: (delivery, instance). `code`: only what is held for this."""
    rows = conn.execute(
        "SELECT d.id, d.instance_id FROM instance i JOIN delivery d ON d.instance_id = i.id"
        " WHERE i.study_id = ?1 AND d.destination = ?2 AND d.state IN ('held', 'pending', 'active', 'deferred')"
        " AND (d.state = 'held') = ?3 AND (?4 IS NULL OR d.reason_code = ?4) ORDER BY d.id",
        (study_id, destination, held, code),
    )
    return [(row[0], row[1]) for row in rows]


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


def kinds(conn: Connection) -> list[ContextKey]:
    """Every kind of object that has been received."""
    rows = conn.execute(
        "SELECT sop_class_uid, transfer_syntax_uid FROM kind ORDER BY sop_class_uid, transfer_syntax_uid"
    )
    return [ContextKey(*row) for row in rows]
