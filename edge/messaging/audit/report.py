"""The access report: the ledger about a patient, a study or a time, as lines for people.

Rows that tell one story (edge.messaging.audit.rows) are one line. The same is asked after a breach, so it reads in
pieces: the whole ledger of a busy site passes in little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from edge.messaging.audit.events_to_messages import address_of
from edge.messaging.audit.rows import StudyContext, TrailRow, by_patient, look_up, neighbours, row_of
from edge.store import audit_trail, folding, ledger, unfolding
from edge.store.database import Transaction
from edge.store.folded_files import files_beside
from edge.store.folding import Folded

#: Rows of the ledger at a time: a story that crosses the border has two lines.
PIECE = 20_000

#: Ledger event -> what the report calls it.
WORDS = {
    ledger.RECEIVED: "received",
    ledger.ADOPTED: "received, found again after a crash",
    ledger.CONFLICT: "received, other bytes under a known UID",
    ledger.MISMATCH: "found to be of another patient than the study's images before",
    ledger.FETCHED: "fetched from an archive",
    ledger.QUARANTINED: "received into quarantine",
    ledger.SENT: "sent",
    ledger.CONFIRMED: "confirmed",
    ledger.DENIED: "denied",
    ledger.COMMITTED: "committed to the equipment",
    ledger.NOT_COMMITTED: "not committed to the equipment",
    ledger.CHANGED: "converted on the way out",
    ledger.REPAIRED: "fetched again, the file was damaged",
    ledger.EVICTED: "deleted here",
    ledger.LOST: "lost",
    ledger.QUERIED: "queried",
    ledger.RETRIEVED: "retrieved",
    ledger.REPORTED: "audit trail read",
}


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What is asked for. Times in seconds since 1970; of patient and study whole identifiers."""

    patient_ids: Sequence[str] | None = None  # every number of the patient
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


def report(conn: Transaction, asked: ReportRequest, chosen: Sequence[int]) -> Iterator[ReportRow]:
    """The lines about some studies, or about everything where none is chosen, in the order of the ledger.

    Where a patient is asked for, what is about another patient's images of the same study is left out.
    """
    after, of_time = 0, (asked.since, asked.until)
    while rows := [row_of(row) for row in audit_trail.report_rows(conn, chosen, *of_time, after, PIECE)]:
        for group in neighbours(by_patient(conn, rows)):
            whose = group[0].patient
            if asked.patient_ids is None or whose is None or whose.patient_id in asked.patient_ids:
                yield report_row(group, look_up(conn, group), asked.patient_ids)
        after = rows[-1].seq


def folded_studies(conn: Transaction, asked: ReportRequest) -> list[Folded]:
    """What is asked for and is in the yearly files."""
    return folding.look_for(conn, asked.patient_ids, asked.study_uid, asked.since, asked.until)


def folded_report(conn: Transaction, asked: ReportRequest, folded: Sequence[Folded]) -> Iterator[ReportRow]:
    """The lines about studies in the yearly files, study by study. Raises DamagedFold."""
    files = files_beside(conn)
    for each in folded:
        with unfolding.open_in_memory([folding.record_in(files, each)]) as known:
            yield from report(known, asked, [each.study_id])


def report_row(group: Sequence[TrailRow], facts: StudyContext, asked_for: Sequence[str] | None = None) -> ReportRow:
    """One group as a line; of a study's patients it names the one that was asked for."""
    first, last = group[0], group[-1]
    people = [each for each in facts.patients if asked_for is None or each.patient_id in asked_for]
    return ReportRow(
        first_at=first.at,
        last_at=last.at,
        who=first.who,
        what=WORDS.get(first.event, first.event),
        images=sum(len(row.instances) for row in group),
        source=", ".join(sorted({address_of(row.payload) for row in group} - {""})),
        destination=first.destination or ", ".join(facts.queued if first.event in _INWARD else ()),
        study_uid=facts.study_uid,
        patient_id=", ".join(filter(None, (each.patient_id for each in people))),
        patient_name=", ".join(filter(None, (each.name for each in people))),
        detail="" if first.event in _INWARD else first.words,
        first_row=first.seq,
        last_row=last.seq,
    )


_INWARD = frozenset({ledger.RECEIVED, ledger.ADOPTED})
