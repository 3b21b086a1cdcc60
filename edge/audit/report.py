"""Who touched what: the ledger about a patient, a study or a time, as lines for people.

Rows that tell one story (edge.audit.rows) are one line. The same is asked after a breach, so it reads in pieces: the
whole ledger of a busy site passes in little memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from edge.audit.events_to_messages import address_in
from edge.audit.rows import Row, StudyContext, by_patient, look_up, neighbours, row_of
from edge.store import ledger
from edge.store.database import Connection

#: Rows of the ledger at a time: a story that crosses the border is told in two lines.
PIECE = 20_000

#: Ledger event -> what it means to whom it concerns.
WORDS = {
    ledger.RECEIVED: "received",
    ledger.ADOPTED: "received, found again after a crash",
    ledger.CONFLICT: "received, other bytes under a known UID",
    ledger.MISMATCH: "found to be of another patient than the study's images before",
    ledger.QUARANTINED: "received into quarantine",
    ledger.SENT: "sent",
    ledger.CONFIRMED: "confirmed",
    ledger.DENIED: "denied",
    ledger.CHANGED: "converted on the way out",
    ledger.REPAIRED: "fetched again, the file was damaged",
    ledger.EVICTED: "deleted here",
    ledger.LOST: "lost",
    ledger.REPORTED: "audit trail read",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for. Times in seconds since 1970; of patient and study the whole identifier."""

    patient_id: str | None = None
    study_uid: str | None = None
    since: float = 0.0
    until: float = inf


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One story: who did what to which study, from where, to where."""

    first_at: float
    last_at: float
    who: str
    what: str
    images: int
    source: str  # the address that it came from
    destination: str
    study_uid: str
    patient_id: str
    patient_name: str
    detail: str
    first_row: int
    last_row: int


def studies(conn: Connection, asked: Asked) -> list[int]:
    """The studies that are asked for by name; none where only a time is."""
    return [row[0] for row in conn.execute(_CHOSEN, (asked.patient_id, asked.study_uid))]


#: A study is every patient's who has an image in it. What is not filled in yet has its first patient alone.
_CHOSEN = """
SELECT s.id FROM study s WHERE (?1 IS NULL OR s.patient_id = ?1 OR s.id IN
    (SELECT w.study_id FROM patient p CROSS JOIN study_patient w ON w.patient_key = p.id WHERE p.patient_id = ?1))
AND (?2 IS NULL OR s.study_uid = ?2) AND coalesce(?1, ?2) IS NOT NULL ORDER BY s.id
"""


def report(conn: Connection, asked: Asked, chosen: Sequence[int]) -> Iterator[ReportRow]:
    """The lines about some studies, or about everything where none is chosen, in the order of the ledger.

    Where a patient is asked for, what is about another patient's images of the same study is left out.
    """
    sql = _OF_STUDIES if chosen else _OF_ALL
    told = {"studies": json.dumps(list(chosen)), "since": asked.since, "until": asked.until, "after": 0, "limit": PIECE}
    while rows := [row_of(row) for row in conn.execute(sql, told)]:
        for group in neighbours(by_patient(conn, rows)):
            whose = group[0].patient
            if asked.patient_id is None or whose is None or whose.patient_id == asked.patient_id:
                yield line(group, look_up(conn, group), asked.patient_id)
        told["after"] = rows[-1].seq


_ROWS = "SELECT seq, at, event, who, study_id, instances, destination, detail FROM ledger"
_OF_STUDIES = (
    _ROWS + " WHERE study_id IN (SELECT value FROM json_each(:studies)) AND seq > :after"
    " AND at BETWEEN :since AND :until ORDER BY seq LIMIT :limit"
)
_OF_ALL = _ROWS + " WHERE seq > :after AND at BETWEEN :since AND :until ORDER BY seq LIMIT :limit"


def line(group: Sequence[Row], facts: StudyContext, asked_for: str | None = None) -> ReportRow:
    """One group as a line; of a study's patients it names the one that was asked for."""
    first, last = group[0], group[-1]
    people = [each for each in facts.patients if asked_for in (None, each.patient_id)]
    return ReportRow(
        first_at=first.at,
        last_at=last.at,
        who=first.who,
        what=WORDS.get(first.event, first.event),
        images=sum(len(row.instances) for row in group),
        source=", ".join(sorted({address_in(row.detail) for row in group} - {""})),
        destination=first.destination or ", ".join(facts.queued if first.event in _INWARD else ()),
        study_uid=facts.study_uid,
        patient_id=", ".join(filter(None, (each.patient_id for each in people))),
        patient_name=", ".join(filter(None, (each.name for each in people))),
        detail="" if first.event in _INWARD else first.detail,
        first_row=first.seq,
        last_row=last.seq,
    )


_INWARD = frozenset({ledger.RECEIVED, ledger.ADOPTED})
