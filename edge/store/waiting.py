"""Waiting deliveries by study, one line each, for people. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge.model import DeliveryState, ReasonCode
from edge.store.database import Transaction
from edge.store.queries import DELIVERY, public_words, reason_in_words
from edge.store.reasons import reason_of
from edge.store.studies import read_patient_today

#: Deliveries of one state that a list reads at most, those that are sent first; figures of all are in the status.
MOST_READ = 50_000

_CODES = {DeliveryState.HELD: "d.reason_code"}
QUEUE_STATES = (DeliveryState.HELD, DeliveryState.DEFERRED, DeliveryState.ACTIVE, DeliveryState.PENDING)


def _grouping(state: DeliveryState, source: str) -> str:
    code = _CODES.get(state, "''")
    return f"""
SELECT study_id, destination, code, count(*) AS n, sum(bytes) AS bytes, min(queued_at) AS queued_at,
       min(not_before) AS not_before, min(priority) AS priority, max(attempts) AS attempts, min(id) AS first_id
FROM (SELECT i.study_id, d.destination, {code} AS code, d.bytes, d.queued_at, d.not_before, d.priority, d.attempts, d.id
      FROM {source} AND d.state = '{state.value}' LIMIT :most)
GROUP BY study_id, destination, code
"""


#: State -> its deliveries, grouped. The state is spelled out in each, so that its partial index is used.
_ALL = {each: _grouping(each, "delivery d JOIN instance i ON i.id = d.instance_id WHERE true") for each in QUEUE_STATES}
_OF_DESTINATION = {
    each: _grouping(each, "delivery d JOIN instance i ON i.id = d.instance_id WHERE d.destination = :destination")
    for each in QUEUE_STATES
}
_OF_STUDY = {
    each: _grouping(
        each,
        "instance i JOIN delivery d ON d.instance_id = i.id WHERE i.study_id = :study"
        " AND (:destination IS NULL OR d.destination = :destination)",
    )
    for each in QUEUE_STATES
}


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """The deliveries of one study to one destination that wait in one state, held ones by their reason."""

    study_id: int | None
    destination: str
    state: DeliveryState
    code: ReasonCode
    count: int
    bytes: int
    queued_at: float  # the oldest
    not_before: float | None  # the earliest
    priority: int  # the most urgent
    attempts: int  # the most
    first_id: int  # of one delivery

    @property
    def turn(self) -> tuple[int, int]:
        """What is sent first at its destination has the smallest."""
        return self.priority, self.first_id


@dataclass(frozen=True, slots=True)
class WaitingStudy:
    """What waits of one study."""

    study_id: int | None
    groups: tuple[WaitingGroup, ...]

    @property
    def count(self) -> int:
        return sum(each.count for each in self.groups)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.groups)

    @property
    def queued_at(self) -> float:
        return min(each.queued_at for each in self.groups)

    @property
    def priority(self) -> int:
        return min(each.priority for each in self.groups)

    @property
    def state(self) -> DeliveryState:
        """The state that needs a person most."""
        return min((each.state for each in self.groups), key=QUEUE_STATES.index)


def list_waiting_studies(
    conn: Transaction,
    states: Iterable[DeliveryState],
    destination: str | None = None,
    study_id: int | None = None,
    most: int = MOST_READ,
) -> list[WaitingStudy]:
    """List the studies that have deliveries in these states; what needs a person first, then the oldest.

    `most`: deliveries of each state that are read, those that are sent first.
    """
    found: dict[int | None, list[WaitingGroup]] = {}
    groups = _OF_STUDY if study_id is not None else _ALL if destination is None else _OF_DESTINATION
    for state in (each for each in QUEUE_STATES if each in set(states)):
        for row in conn.execute(groups[state], {"destination": destination, "study": study_id, "most": most}):
            group = WaitingGroup(
                row["study_id"],
                row["destination"],
                state,
                ReasonCode(row["code"]),
                row["n"],
                row["bytes"],
                row["queued_at"],
                row["not_before"],
                row["priority"],
                row["attempts"],
                row["first_id"],
            )
            found.setdefault(group.study_id, []).append(group)
    studies = [WaitingStudy(number, tuple(groups)) for number, groups in found.items()]
    return sorted(studies, key=lambda each: (QUEUE_STATES.index(each.state), each.priority, each.queued_at))


def waiting_ids(conn: Transaction, study: WaitingStudy) -> list[tuple[int, int]]:
    """List (delivery, instance) of everything that waits of a study as it was listed."""
    found = []
    for each in study.groups:
        rows = conn.execute(
            "SELECT d.id, d.instance_id FROM instance i JOIN delivery d ON d.instance_id = i.id"
            " WHERE i.study_id IS :study AND d.destination = :destination AND d.state = :state"
            " AND (:code = '' OR d.reason_code = :code) ORDER BY d.id",
            {
                "study": each.study_id,
                "destination": each.destination,
                "state": each.state.value,
                "code": each.code.value if each.state is DeliveryState.HELD else "",
            },
        )
        found += [(row[0], row[1]) for row in rows]
    return found


@dataclass(frozen=True, slots=True)
class WaitingReason:
    """Why one delivery waits, in words."""

    text: str  # with what a person wrote
    public_text: str  # without


def waiting_reason(conn: Transaction, group: WaitingGroup) -> WaitingReason:
    """Say why a group waits, by one of its deliveries."""
    row = conn.execute(DELIVERY + "WHERE d.id = ?", (group.first_id,)).fetchone()
    if row is None:
        return WaitingReason("", "")
    text, reason = reason_in_words(row), reason_of(row)
    return WaitingReason(text, public_words(text, reason.code, reason.parameters))


_FACTS = "SELECT study_uid, patient_name, patient_id, accession, description, modality FROM study WHERE id = ?"


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """Who and what a study is about, and how many of its deliveries are in which state."""

    study_uid: str = ""
    patient_name: str = ""
    patient_id: str = ""
    accession: str = ""
    description: str = ""
    modality: str = ""
    deliveries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # destination -> state -> number
    patient_today: Mapping[str, str] = field(default_factory=dict)  # what the feeds say otherwise, by keyword


def study_facts(conn: Transaction, study_ids: Sequence[int | None], *, counts: bool) -> dict[int | None, StudyFacts]:
    """Read what studies are about; `counts`: also the patient today, and how many deliveries are in which state."""
    found: dict[int | None, StudyFacts] = {}
    for number in study_ids:
        row = conn.execute(_FACTS, (number,)).fetchone() if number is not None else None
        found[number] = StudyFacts(**dict(row)) if row else StudyFacts()
        if counts and row and number is not None:
            today = read_patient_today(conn, number)
            found[number] = replace(found[number], deliveries=_counts(conn, number), patient_today=today)
    return found


def _counts(conn: Transaction, study_id: int | None) -> Mapping[str, Mapping[str, int]]:
    found: dict[str, dict[str, int]] = {}
    rows = conn.execute(
        "SELECT d.destination, d.state, count(*) FROM instance i JOIN delivery d ON d.instance_id = i.id"
        " WHERE i.study_id = ? GROUP BY d.destination, d.state",
        (study_id,),
    )
    for destination, state, n in rows:
        found.setdefault(destination, {})[state] = n
    return found
