"""Studies, as lists for people: who and what each is about, and where its instances stand. Reads only."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial

from edge.model import Guessed
from edge.store import todays_facts
from edge.store.database import CatalogRow, Transaction
from edge.store.identity import Likeness, compare_names
from edge.store.listing import Listing, ListSql
from edge.store.patient_search import NUMBERS_OF_HIT
from edge.store.rejection_order import NOT_HIDDEN
from edge.store.study_patients import StudyPatient, patients_of_study

#: destination -> state -> number of instances
Counts = dict[str, dict[str, int]]


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
    instances: int  # without those that are rejected and hidden
    bytes: int
    rejected: int  # those
    cached: int  # fetched from an archive, and kept as long as there is room
    guessed: tuple[str, ...]  # the fields whose character set is not certain, such as "patient_name"
    deliveries: Counts
    patients: tuple[StudyPatient, ...] = ()  # the first first; empty where its images are not filled in yet
    #: PatientID and PatientName as the feeds say them today, where the images say otherwise.
    patient_today: dict[str, str] = field(default_factory=dict)

    @property
    def marks(self) -> list[str]:
        """What of its images is not like the others, in words."""
        found = []
        if self.cached:
            found.append("cached" if self.cached >= self.instances + self.rejected else f"{self.cached:,} cached")
        return found + ([f"{self.rejected:,} rejected"] if self.rejected else [])


_IMAGES = f"(SELECT count(*) FROM instance i WHERE i.study_id = s.id AND {NOT_HIDDEN})"
_STUDY = f"""
SELECT s.id, s.study_uid, s.patient_id, s.patient_name, s.accession, s.study_date, s.description, s.modality,
       s.first_received, s.last_received,
       coalesce((SELECT fields FROM study_guess WHERE study_id = s.id), 0) AS guessed,
       {_IMAGES} AS instances,
       (SELECT coalesce(sum(size), 0) FROM instance WHERE study_id = s.id) AS bytes,
       (SELECT count(*) FROM instance i CROSS JOIN rejected_instance x ON x.sop_instance_uid = i.sop_instance_uid
        WHERE i.study_id = s.id AND x.is_hidden = 1) AS rejected,
       (SELECT count(*) FROM instance WHERE study_id = s.id AND state = 'stored' AND fetched_from <> '') AS cached
FROM study s
"""


def _of_known_patients(condition: str) -> str:
    """The studies of known patients, by each number `i` that they have or had; `v`: who it is today."""
    hit = (
        "SELECT DISTINCT v.id AS survivor FROM patient_identifier i JOIN known_patient k ON k.id = i.patient_key"
        f" JOIN known_patient v ON v.id = coalesce(k.survivor_id, k.id) WHERE {condition}"
    )
    return (
        f"SELECT w.study_id FROM ({hit}) hit {NUMBERS_OF_HIT} JOIN patient p ON p.patient_id = n.number"
        f" JOIN study_patient w ON w.patient_key = p.id UNION SELECT a.study_id FROM ({hit}) hit {NUMBERS_OF_HIT}"
        " JOIN study_assignment a ON a.identifier_id = n.id"
    )


#: A study is found by whatever any of its objects says, and by what the feeds say of its patient today.
_SAYS = (
    """(instr(lower(s.study_uid || char(10) || s.patient_id || char(10) || s.patient_name || char(10)
                                   || s.accession || char(10) || s.description), lower(:search))
       OR s.id IN (SELECT w.study_id FROM patient p CROSS JOIN study_patient w ON w.patient_key = p.id
                   WHERE instr(lower(p.patient_id || char(10) || p.name), lower(:search)))
       OR s.id IN (SELECT f.study_id FROM study_facts f
                   WHERE instr(lower(f.accession || char(10) || f.description), lower(:search)))
       OR s.id IN ("""
    + _of_known_patients("instr(lower(i.number || char(10) || v.name), lower(:search))")
    + "))"
)
_STUDY_COUNTS = """
SELECT d.destination, d.state, count(*)
FROM instance i JOIN delivery d ON d.instance_id = i.id
WHERE i.study_id = ? GROUP BY d.destination, d.state
"""


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


def _patient_terms(patient_id: str, name: str) -> str:
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


_IS_FOUND = f"""({_patient_terms("s.patient_id", "s.patient_name")}
       OR s.id IN (SELECT w.study_id FROM patient p CROSS JOIN study_patient w ON w.patient_key = p.id
                   WHERE {_patient_terms("p.patient_id", "p.name")})
       OR s.id IN ({_of_known_patients(_patient_terms("i.number", "v.name"))}))
  AND ({_study_says("s.accession", "s.study_date")}
       OR s.id IN (SELECT f.study_id FROM study_facts f WHERE {_study_says("f.accession", "f.study_date")}))
  AND (:modality = '' OR s.modality = upper(:modality)
       OR EXISTS (SELECT 1 FROM study_facts f JOIN series r ON r.study_facts_id = f.id
                  WHERE f.study_id = s.id AND r.modality = upper(:modality)))
  AND (:study_uid = '' OR s.study_uid = :study_uid)
"""
_LIST = ListSql(
    "s.id",
    "FROM study s",
    "s.last_received DESC, s.id DESC",
    {
        "received": ("s.last_received",),
        "patient": ("lower(s.patient_name)", "s.patient_id"),
        "description": ("lower(s.description)",),
        "date": ("s.study_date",),
        "accession": ("s.accession",),
        "modality": ("s.modality",),
        "images": (_IMAGES,),
    },
)
STUDY_LIST_COLUMNS = _LIST.orders.keys()


def find_studies(conn: Transaction, search: Search) -> Listing[Study]:
    """Find studies that meet all that is asked, the latest received first."""
    is_narrowed = search != Search()
    return Listing(conn, _LIST, partial(_read_study, conn), {_IS_FOUND: is_narrowed}, asdict(search))


def latest_studies(conn: Transaction, text: str, since: float) -> Listing[Study]:
    """List studies received since a time, the latest first. `text`: part of a UID, of who or what it is about."""
    conditions = {"s.last_received >= :since": since, _SAYS: text}
    return Listing(conn, _LIST, partial(_read_study, conn), conditions, {"search": text, "since": since})


def _read_study(conn: Transaction, row: CatalogRow) -> Study:
    return _study(conn, conn.execute(_STUDY + "WHERE s.id = ?", (row[0],)).fetchone())


def study_numbered(conn: Transaction, number: int) -> Study | None:
    """One study by the catalog's own number, or None."""
    row = conn.execute(_STUDY + "WHERE s.id = ?", (number,)).fetchone()
    return _study(conn, row) if row else None


def study_by_uid(conn: Transaction, study_uid: str) -> Study | None:
    """One study, or None."""
    row = conn.execute(_STUDY + "WHERE s.study_uid = ?", (study_uid,)).fetchone()
    return _study(conn, row) if row else None


def _study(conn: Transaction, row: sqlite3.Row) -> Study:
    counts: Counts = defaultdict(dict)
    for destination, state, n in conn.execute(_STUDY_COUNTS, (row["id"],)):
        counts[destination][state] = n
    guessed = tuple(bit.name.lower() for bit in Guessed if bit & row["guessed"] and bit.name)
    patients = patients_of_study(conn, row["id"], row["instances"] + row["rejected"])
    said = {**dict(row), "guessed": guessed, "patient_today": _patient_today(conn, row, patients)}
    return Study(**said, deliveries=dict(counts), patients=patients)


def _patient_today(conn: Transaction, row: sqlite3.Row, patients: tuple[StudyPatient, ...]) -> dict[str, str]:
    """Read what the feeds say today of a study's first patient otherwise than its images."""
    issuer = next((each.issuer for each in patients if each.patient_id == row["patient_id"]), "")
    said = {row["id"]: {"PatientID": row["patient_id"], "IssuerOfPatientID": issuer}}
    today = todays_facts.read_today_of_studies(conn, said).get(row["id"], {})
    number, name = today.get("PatientID", ""), today.get("PatientName", "")
    found = {"PatientID": number} if number and number != row["patient_id"] else {}
    is_new_name = bool(name) and compare_names(name, row["patient_name"]) is not Likeness.SAME
    return found | ({"PatientName": name} if is_new_name else {})


def read_patient_today(conn: Transaction, study_id: int) -> dict[str, str]:
    """Read what the feeds say today of a study's first patient otherwise than its images, by keyword."""
    row = conn.execute("SELECT id, patient_id, patient_name FROM study WHERE id = ?", (study_id,)).fetchone()
    return _patient_today(conn, row, patients_of_study(conn, study_id, 0)) if row is not None else {}


def numbers_of(conn: Transaction, study_uids: Iterable[str]) -> dict[str, int]:
    """The catalog's own numbers of some studies, by Study Instance UID."""
    found = (
        conn.execute("SELECT study_uid, id FROM study WHERE study_uid = ?", (uid,)).fetchone()
        for uid in set(study_uids)
    )
    return {row[0]: row[1] for row in found if row is not None}
