"""The patient of every image, and its header's facts of study and series. The caller owns the transaction.

Each object's own words are kept, once for all that say the same: `patient`, `study_facts` and `series` have a row for
each way in which they were said, and an instance names its `series` row. `study` has the Study Instance UID and what
was said of it first. `study_patient` says how each patient of a study stands to those before (edge.store.identity).

None of these rows ever goes or changes its values, so their numbers may be remembered once they are committed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from edge.model import Guessed, GuessedText, InstanceHeader
from edge.store.database import Transaction
from edge.store.folded_study import StudyIsFolded, is_folded
from edge.store.identity import Patient, Standing, classify_patient
from edge.store.resolved_patients import is_same_patient
from edge.text import fold_name

#: Attributes that are kept, by keyword: column of `patient`, `study_facts` and `series`.
PATIENT_COLUMNS = {
    "PatientID": "patient_id",
    "IssuerOfPatientID": "issuer",
    "PatientName": "name",
    "PatientBirthDate": "birth_date",
    "PatientSex": "sex",
    "ResponsiblePerson": "responsible_person",
}
STUDY_COLUMNS = {
    "AccessionNumber": "accession",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "StudyID": "study_number",
    "StudyDescription": "description",
    "ReferringPhysicianName": "referring_physician",
}
SERIES_COLUMNS = {
    "SeriesInstanceUID": "series_uid",
    "Modality": "modality",
    "SeriesNumber": "series_number",
    "SeriesDescription": "description",
    "BodyPartExamined": "body_part",
}
INSTANCE_NUMBER = "InstanceNumber"
_UIDS = frozenset({"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"})
#: Every keyword that the catalog and the checks of identity need from a header.
KEYWORDS = frozenset({*PATIENT_COLUMNS, *STUDY_COLUMNS, *SERIES_COLUMNS, INSTANCE_NUMBER}) | _UIDS
#: Of `study`: what was said first.
_FIRST = ("PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyDescription", "Modality")
#: Of these, texts whose character set may be uncertain.
GUESSABLE = {
    "PatientID": Guessed.PATIENT_ID,
    "PatientName": Guessed.PATIENT_NAME,
    "AccessionNumber": Guessed.ACCESSION,
    "StudyDescription": Guessed.DESCRIPTION,
}
#: Never taken from inside a sequence: there stand other patients' numbers and other studies' facts.
TOP_LEVEL_KEYWORDS = frozenset({*PATIENT_COLUMNS, *_FIRST, "SeriesInstanceUID"}) | _UIDS

#: From an instance `i` to its series `r`, study facts `f`, patient `p` and how that stands in the study, `w`.
JOIN = """
LEFT JOIN series r ON r.id = i.series_id
LEFT JOIN study_facts f ON f.id = r.study_facts_id
LEFT JOIN patient p ON p.id = f.patient_key
LEFT JOIN study_patient w ON w.study_id = f.study_id AND w.patient_key = f.patient_key
"""


@dataclass(frozen=True, slots=True)
class Header:
    """What one object says of its patient, study and series; in the order of the columns."""

    patient: Patient
    study: tuple[str, ...]
    series: tuple[str, ...]

    def flat(self) -> tuple[str, ...]:
        return (*astuple(self.patient), *self.study, *self.series)

    @classmethod
    def from_values(cls, values: Sequence[str]) -> Header:
        """Build it from what `flat` gave; raises ValueError for anything else."""
        ends = len(PATIENT_COLUMNS), len(PATIENT_COLUMNS) + len(STUDY_COLUMNS)
        if len(values) != ends[1] + len(SERIES_COLUMNS) or not all(isinstance(each, str) for each in values):
            raise ValueError("not the facts of a header")
        return cls(Patient(*values[: ends[0]]), tuple(values[ends[0] : ends[1]]), tuple(values[ends[1] :]))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an instance belongs, and how its patient stands there."""

    series_id: int
    study_id: int
    patient_key: int
    standing: Standing
    differs_in: tuple[str, ...] = ()

    @property
    def is_mismatch(self) -> bool:
        return self.standing is Standing.DIFFERS


#: Characters of a text that is kept: an index of PostgreSQL takes 2,700 bytes for all the columns of a row.
MOST_CHARACTERS = 256


def attribute_text(facts: InstanceHeader, keyword: str) -> str:
    """All of an attribute as one text, as `bound_text` keeps it."""
    return bound_text("\\".join(facts.attributes.get(keyword, ())))


def bound_text(value: str) -> str:
    """Without NUL, which no database takes, and not too long: a digest keeps apart what differs behind that."""
    value = value.replace("\0", "")
    if len(value) <= MOST_CHARACTERS:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:32]
    return f"{value[: MOST_CHARACTERS - 33]}#{digest}"


def header_of(facts: InstanceHeader) -> Header:
    """What is kept of an object's header."""
    patient, study, series = (
        tuple(attribute_text(facts, keyword) for keyword in columns)
        for columns in (PATIENT_COLUMNS, STUDY_COLUMNS, SERIES_COLUMNS)
    )
    return Header(Patient(*patient), study, series)


# -- entering ---------------------------------------------------------------------------------------------------------


def guessed_flags(facts: InstanceHeader) -> int:
    """Which of the texts that `study` keeps are guesses, as bits of Guessed."""
    return sum(bit for keyword, bit in GUESSABLE.items() if isinstance(facts.first(keyword), GuessedText))


def study_id(conn: Transaction, facts: InstanceHeader) -> int | None:
    """The row of an instance's study, made or brought up to date; None for what belongs to none (a colour palette).

    Raises StudyIsFolded.
    """
    uid, at = bound_text(facts.first("StudyInstanceUID")), facts.origin.received_at
    if not uid:
        return None
    row = conn.execute("SELECT id, last_received FROM study WHERE study_uid = ?", (uid,)).fetchone()
    if (row is None or at > row["last_received"] + 1.0) and is_folded(conn, uid):
        raise StudyIsFolded(uid)
    if row is None:
        columns = [attribute_text(facts, keyword) for keyword in _FIRST]
        row = conn.execute(
            "INSERT INTO study (study_uid, patient_id, patient_name, accession, study_date, description, modality,"
            " first_received, last_received) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) RETURNING id",
            (uid, *columns, at),
        ).fetchone()
        if fields := guessed_flags(facts):
            conn.execute("INSERT INTO study_guess (study_id, fields) VALUES (?, ?)", (row["id"], fields))
    elif at > row["last_received"] + 1.0:  # to the second: not a write for each slice
        conn.execute("UPDATE study SET last_received = ? WHERE id = ?", (at, row["id"]))
    return int(row["id"])


def enter(conn: Transaction, study: int, header: Header, at: float) -> Placement:
    """Find or make the rows of what an object of a study says, and how its patient stands there."""
    patient = enter_patient(conn, header.patient)
    standing, differs_in = _find_standing(conn, study, patient, header.patient, at)
    if standing is Standing.AGREES:
        _complete(conn, study, header)
    facts = find_or_insert(
        conn, "study_facts", ("study_id", "patient_key", *STUDY_COLUMNS.values()), (study, patient, *header.study)
    )
    series = find_or_insert(conn, "series", ("study_facts_id", *SERIES_COLUMNS.values()), (facts, *header.series))
    return Placement(series, study, patient, standing, differs_in)


def enter_patient(conn: Transaction, patient: Patient) -> int:
    def fold() -> dict[str, object]:
        return {"folded_name": fold_name(patient.name)}

    return find_or_insert(conn, "patient", PATIENT_COLUMNS.values(), astuple(patient), fold)


def find_or_insert(
    conn: Transaction,
    table: str,
    columns: Iterable[str],
    values: Sequence[object],
    derived: Callable[[], dict[str, object]] = dict,
) -> int:
    """The row with these values, made where there is none; `derived` columns follow from them."""
    names = list(columns)
    where = " AND ".join(f"{name} = ?" for name in names)
    row = conn.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
    if row is None:
        more = derived()
        names, values = [*names, *more], [*values, *more.values()]
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) RETURNING id"
        row = conn.execute(sql, values).fetchone()
    return int(row[0])


def _find_standing(
    conn: Transaction, study: int, key: int, patient: Patient, at: float
) -> tuple[Standing, tuple[str, ...]]:
    row = conn.execute(
        "SELECT standing, differs_in FROM study_patient WHERE study_id = ? AND patient_key = ?", (study, key)
    ).fetchone()
    if row is not None:
        return Standing(row[0]), tuple(filter(None, row[1].split(",")))
    agreeing = _list_known(conn, study, at)
    accepted = _patients(conn, study, Standing.ACCEPTED)
    found = classify_patient(patient, [each for _, each in agreeing], [each for _, each in accepted])
    if found.standing is Standing.DIFFERS:
        agreeing = [each for each in agreeing if not is_same_patient(conn, patient, each[1])]
        found = classify_patient(patient, [each for _, each in agreeing], [each for _, each in accepted])
    against = None if found.against is None else agreeing[found.against][0]
    _add_patient(conn, study, key, found.standing, at, found.differs_in, against)
    return found.standing, found.differs_in


def _add_patient(
    conn: Transaction,
    study: int,
    key: int,
    standing: Standing,
    at: float,
    differs_in: Sequence[str] = (),
    against: int | None = None,
) -> None:
    conn.execute(
        "INSERT INTO study_patient (study_id, patient_key, standing, differs_in, against_key, first_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (study, key, standing.value, ",".join(differs_in), against, at),
    )


_COLUMNS = ", ".join(f"p.{name}" for name in PATIENT_COLUMNS.values())


def _patients(conn: Transaction, study: int, standing: Standing) -> list[tuple[int, Patient]]:
    rows = conn.execute(
        f"SELECT p.id, {_COLUMNS} FROM study_patient w JOIN patient p ON p.id = w.patient_key"
        " WHERE w.study_id = ? AND w.standing = ? ORDER BY w.first_at, w.patient_key",
        (study, standing.value),
    )
    return [(row[0], Patient(*row[1:])) for row in rows.fetchall()]


def _list_known(conn: Transaction, study: int, at: float) -> list[tuple[int, Patient]]:
    """The patient that a study's images are taken to be of, in each spelling, the first first.

    Of a study whose images are not filled in yet, its own row knows the first.
    """
    if found := _patients(conn, study, Standing.AGREES):
        return found
    row = conn.execute(
        "SELECT patient_id, patient_name, first_received FROM study WHERE id = ?"
        " AND EXISTS (SELECT 1 FROM instance WHERE study_id = ?1)",
        (study,),
    ).fetchone()
    if row is None or not (row[0] or row[1]):
        return []
    first = Patient(row[0], name=row[1])
    key = enter_patient(conn, first)
    _add_patient(conn, study, key, Standing.AGREES, min(at, row[2]))
    return [(key, first)]


def _complete(conn: Transaction, study: int, header: Header) -> None:
    """What the first object of a study left empty, a later one of the same patient may know."""
    said = dict(zip(STUDY_COLUMNS.values(), header.study, strict=True))
    given = {
        "study": study,
        "patient_id": header.patient.patient_id,
        "patient_name": header.patient.name,
        "modality": header.series[1],
        **{name: said[name] for name in ("accession", "study_date", "description")},
    }
    nobody = "patient_id = '' AND patient_name = ''"
    empty = ", ".join(
        f"{name} = CASE WHEN {name} = '' THEN :{name} ELSE {name} END"
        for name in ("accession", "study_date", "description", "modality")
    )
    conn.execute(
        f"UPDATE study SET patient_id = CASE WHEN {nobody} THEN :patient_id ELSE patient_id END,"
        f" patient_name = CASE WHEN {nobody} THEN :patient_name ELSE patient_name END, {empty} WHERE id = :study"
        f" AND ({nobody} AND :patient_id || :patient_name <> '' OR accession = '' AND :accession <> ''"
        " OR study_date = '' AND :study_date <> '' OR description = '' AND :description <> ''"
        " OR modality = '' AND :modality <> '')",
        given,
    )


# -- what has been entered --------------------------------------------------------------------------------------------


def find_placed(conn: Transaction, instance: int) -> Placement | None:
    """Where an instance belongs; None where it has no study, or is not filled in yet."""
    row = conn.execute(
        "SELECT i.series_id, f.study_id, f.patient_key, w.standing, w.differs_in FROM instance i JOIN series r ON"
        " r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id JOIN study_patient w ON"
        " w.study_id = f.study_id AND w.patient_key = f.patient_key WHERE i.id = ?",
        (instance,),
    ).fetchone()
    return Placement(row[0], row[1], row[2], Standing(row[3]), tuple(filter(None, row[4].split(",")))) if row else None


def headers(conn: Transaction, series: Iterable[int]) -> dict[int, Header]:
    """What was said, by the number of the series row."""
    columns = [f"p.{name}" for name in PATIENT_COLUMNS.values()]
    columns += [f"f.{name}" for name in STUDY_COLUMNS.values()] + [f"r.{name}" for name in SERIES_COLUMNS.values()]
    rows = conn.execute(
        f"SELECT r.id, {', '.join(columns)} FROM json_each(?) each JOIN series r ON r.id = each.value"
        " JOIN study_facts f ON f.id = r.study_facts_id JOIN patient p ON p.id = f.patient_key",
        (json.dumps(sorted(series)),),
    )
    return {row[0]: Header.from_values(tuple(row)[1:]) for row in rows}


def set_series(conn: Transaction, instance: int, find_placed: Placement, instance_number: str) -> None:
    """Give an instance that was there before its facts were kept its series."""
    conn.execute(
        "UPDATE instance SET series_id = ?, instance_number = ? WHERE id = ?",
        (find_placed.series_id, instance_number, instance),
    )


def accept(conn: Transaction, find_placed: Placement) -> None:
    """A person let an image of this patient go on in this study (else a trigger of `delivery` does it)."""
    conn.execute(
        "UPDATE study_patient SET standing = 'accepted'"
        " WHERE study_id = ? AND patient_key = ? AND standing = 'differs'",
        (find_placed.study_id, find_placed.patient_key),
    )


def find_resolved(conn: Transaction, study: int) -> list[int]:
    """Have patients of a study agree that differed, where feeds say by now that they are the same.

    Returns their keys.
    """
    agreeing, found = _patients(conn, study, Standing.AGREES), []
    for key, patient in _patients(conn, study, Standing.DIFFERS):
        others = [each for _, each in agreeing if not is_same_patient(conn, patient, each)]
        if classify_patient(patient, others).standing is Standing.AGREES:
            found.append(key)
    conn.executemany(
        "UPDATE study_patient SET standing = 'agrees', differs_in = '', against_key = NULL, alarmed_at = NULL"
        " WHERE study_id = ? AND patient_key = ?",
        [(study, key) for key in found],
    )
    return found


def alarm(conn: Transaction, find_placed: Placement, now: float) -> None:
    """Images of a patient that differs are here and not held for it: an alert stands until somebody acknowledges it."""
    conn.execute(
        "UPDATE study_patient SET alarmed_at = coalesce(alarmed_at, ?) WHERE study_id = ? AND patient_key = ?",
        (now, find_placed.study_id, find_placed.patient_key),
    )


def settle(conn: Transaction, now: float) -> list[int]:
    """Settle the mismatches that are not held, which a person has acknowledged; returns which instances those are."""
    rows = conn.execute(
        f"SELECT i.id FROM study_patient AS open JOIN instance i ON i.study_id = open.study_id {JOIN}"
        " WHERE open.alarmed_at IS NOT NULL AND open.settled_at IS NULL AND open.standing = 'differs'"
        " AND w.patient_key = open.patient_key ORDER BY i.id"
    ).fetchall()
    conn.execute("UPDATE study_patient SET settled_at = ? WHERE alarmed_at IS NOT NULL AND settled_at IS NULL", (now,))
    return [row[0] for row in rows]


_WORDS = {"id": "ID", "birth-date": "birth date", "responsible-person": "responsible person"}


def words_for(differs_in: Iterable[str]) -> str:
    """`ID and name`, for people."""
    names = [_WORDS.get(each, each) for each in differs_in] or ["patient"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def patients_of(conn: Transaction, instances: Iterable[int]) -> Mapping[int, tuple[int, str, str]]:
    """The patient of each instance that is filled in, by its number: (key, Patient ID, name)."""
    rows = conn.execute(
        "SELECT i.id, p.id, p.patient_id, p.name FROM json_each(?) each JOIN instance i ON i.id = each.value"
        " JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id"
        " JOIN patient p ON p.id = f.patient_key",
        (json.dumps(sorted(instances)),),
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}
