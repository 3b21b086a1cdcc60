"""Who touched what: the ledger about a patient, a study or a time, as lines for people.

Rows that tell one story (edge.audit.rows) are one line. The same is asked after a breach, so it reads in pieces: the
whole ledger of a busy site passes in little memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from edge import ledger
from edge.audit.rows import Facts, Row, look_up, neighbours, row_of
from edge.audit.telling import address_in
from edge.db import Connection

#: Rows of the ledger at a time: a story that crosses the border is told in two lines.
PIECE = 20_000

#: Ledger event -> what it means to whom it concerns.
WORDS = {
    ledger.RECEIVED: "received",
    ledger.ADOPTED: "received, found again after a crash",
    ledger.CONFLICT: "received, other bytes under a known UID",
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
class Line:
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
    rows = conn.execute(
        "SELECT id FROM study WHERE (?1 IS NULL OR patient_id = ?1) AND (?2 IS NULL OR study_uid = ?2)"
        " AND coalesce(?1, ?2) IS NOT NULL ORDER BY id",
        (asked.patient_id, asked.study_uid),
    )
    return [row[0] for row in rows]


def report(conn: Connection, asked: Asked, chosen: Sequence[int]) -> Iterator[Line]:
    """The lines about some studies, or about everything where none is chosen, in the order of the ledger."""
    sql = _OF_STUDIES if chosen else _OF_ALL
    told = {"studies": json.dumps(list(chosen)), "since": asked.since, "until": asked.until, "after": 0, "limit": PIECE}
    while rows := [row_of(row) for row in conn.execute(sql, told)]:
        for group in neighbours(rows):
            yield line(group, look_up(conn, group))
        told["after"] = rows[-1].seq


def record(conn: Connection, at: float, who: str, chosen: Sequence[int], reason: str) -> int:
    """Write down that somebody read the trail: for each study, as that is a look at its patient. Returns how many."""
    about: Sequence[int | None] = chosen or [None]
    for study in about:
        ledger.append(conn, at, ledger.REPORTED, who, [], study_id=study, detail=reason)
    return len(chosen)


_ROWS = "SELECT seq, at, event, who, study_id, instances, destination, detail FROM ledger"
_OF_STUDIES = (
    _ROWS + " WHERE study_id IN (SELECT value FROM json_each(:studies)) AND seq > :after"
    " AND at BETWEEN :since AND :until ORDER BY seq LIMIT :limit"
)
_OF_ALL = _ROWS + " WHERE seq > :after AND at BETWEEN :since AND :until ORDER BY seq LIMIT :limit"


def line(group: Sequence[Row], facts: Facts) -> Line:
    """One group as a line."""
    first, last = group[0], group[-1]
    return Line(
        first_at=first.at,
        last_at=last.at,
        who=first.who,
        what=WORDS.get(first.event, first.event),
        images=sum(len(row.instances) for row in group),
        source=", ".join(sorted({address_in(row.detail) for row in group} - {""})),
        destination=first.destination or ", ".join(facts.queued if first.event in _INWARD else ()),
        study_uid=facts.study_uid,
        patient_id=facts.patient_id,
        patient_name=facts.patient_name,
        detail="" if first.event in _INWARD else first.detail,
        first_row=first.seq,
        last_row=last.seq,
    )


_INWARD = frozenset({ledger.RECEIVED, ledger.ADOPTED})
