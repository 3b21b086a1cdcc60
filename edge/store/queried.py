"""The catalog as queries read it: studies by what an index finds, and what is known of each. Reads only.

Visible is an instance that is stored (and, where an archive is asked as well, one that was evicted or lost, for it has
that), whose patient is its study's by all that is known. What is in quarantine, discarded, rejected, an undecided
conflict or of another patient is never answered as if it were the study.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.identity.today import is_as_today
from edge.store import patient_search, todays_facts
from edge.store.database import CatalogRow, Transaction
from edge.store.patient_search import NUMBERS_OF_HIT, SPELLINGS_OF_HIT, STUDIES_OF_NUMBERS
from edge.store.patients import PATIENT_COLUMNS, SERIES_COLUMNS, STUDY_COLUMNS
from edge.store.rejection_order import NOT_HIDDEN

#: What of `instance.state` is answered: what is here, and what an archive is known to have.
STORED_HERE: tuple[str, ...] = ("stored",)
HERE_AND_THERE: tuple[str, ...] = ("stored", "evicted", "lost")
#: Rows that are read at once where no index helps.
SCAN_ROWS = 20_000
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What of a query an index can find. None and empty: it does not narrow."""

    instance_uids: tuple[str, ...] | None = None
    series_uids: tuple[str, ...] | None = None
    study_uids: tuple[str, ...] | None = None
    patient_ids: tuple[str, ...] | None = None
    accessions: tuple[str, ...] | None = None
    name_prefix: str = ""  # folded
    name_part: str = ""  # folded; anywhere in the name
    dates: tuple[str, str] | None = None  # the first and the last, YYYYMMDD
    texts: tuple[tuple[str, str], ...] = ()  # keyword of TEXT_COLUMNS, and what its value has somewhere
    # What narrows all studies where nothing above does; a value that is written oddly passes.
    sexes: tuple[str, ...] | None = None
    birth_dates: tuple[str, str] | None = None  # the first and the last, YYYYMMDD
    hours: tuple[str, str] | None = None  # of Study Time, the first and the last
    physician_part: str = ""  # folded; anywhere in the Referring Physician's Name

    @property
    def is_empty(self) -> bool:
        """Does nothing narrow what is to be examined?"""
        return self == Lookup()


@dataclass(slots=True)
class SeriesRows:
    """One series: its rows of the catalog, and what they say."""

    series_uid: str
    row_ids: list[int] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)  # keyword -> text, or item of a sequence; the first that has one
    modalities: list[str] = field(default_factory=list)
    outdated: set[int] = field(default_factory=set)  # rows whose patient the feeds describe otherwise today


@dataclass(slots=True)
class StudyRows:
    """One study with its patient and its visible series."""

    study_id: int
    study_uid: str
    said: dict[str, str] = field(default_factory=dict)  # of patient and study
    series: dict[str, SeriesRows] = field(default_factory=dict)


# -- which studies ----------------------------------------------------------------------------------------------------

_BY_INSTANCE = "SELECT DISTINCT study_id FROM instance WHERE sop_instance_uid IN (SELECT value FROM json_each(:these))"
_BY_SERIES = (
    "SELECT DISTINCT f.study_id FROM series r JOIN study_facts f ON f.id = r.study_facts_id"
    " WHERE r.series_uid IN (SELECT value FROM json_each(:these))"
)
_BY_STUDY = "SELECT id FROM study WHERE study_uid IN (SELECT value FROM json_each(:these)) ORDER BY id DESC"
_BY_ACCESSION = (
    "SELECT DISTINCT study_id FROM study_facts WHERE accession <> ''"
    " AND accession IN (SELECT value FROM json_each(:these)) ORDER BY 1 DESC"
)
#: By what the headers say, and by what the feeds say of the patient today, with the studies a person assigned.
_OF_KNOWN = (
    " UNION SELECT w.study_id FROM (SELECT coalesce(k.survivor_id, k.id) AS survivor FROM known_patient k WHERE"
    f" {{condition}}) hit {SPELLINGS_OF_HIT} JOIN study_patient w ON w.patient_key = p.id"
    " UNION SELECT a.study_id FROM (SELECT coalesce(k.survivor_id, k.id) AS survivor FROM known_patient k WHERE"
    f" {{condition}}) hit {NUMBERS_OF_HIT} JOIN study_assignment a ON a.identifier_id = n.id ORDER BY 1 DESC"
)
_BY_NAME = (
    "SELECT w.study_id FROM (SELECT id FROM patient WHERE folded_name >= :first AND folded_name < :beyond"
    " UNION ALL SELECT id FROM patient WHERE folded_name IS NULL) p"
    " JOIN study_patient w ON w.patient_key = p.id"
) + _OF_KNOWN.format(condition="k.folded_name >= :first AND k.folded_name < :beyond OR k.folded_name IS NULL")
_BY_NAME_PART = (
    "SELECT w.study_id FROM patient p JOIN study_patient w ON w.patient_key = p.id"
    " WHERE p.folded_name IS NULL OR instr(p.folded_name, :part) > 0"
) + _OF_KNOWN.format(condition="k.folded_name IS NULL OR instr(k.folded_name, :part) > 0")
#: The latest first. A study may have said two dates: its number comes twice then, and is answered once.
#: One that is written with points (ACR-NEMA) has no place among the others.
_BY_DATE = (
    "SELECT study_id, study_date, study_time FROM study_facts WHERE study_date BETWEEN :first AND :last"
    " UNION ALL SELECT study_id, study_date, study_time FROM study_facts INDEXED BY study_facts_point_date"
    " WHERE instr(study_date, '.') = 5"
    " ORDER BY 2 DESC, 3 DESC"
)
#: What no index finds is looked for in its column: a million rows take a fraction of a second.
TEXT_COLUMNS = {
    "PatientID": "SELECT w.study_id FROM patient p JOIN study_patient w ON w.patient_key = p.id"
    " WHERE instr(p.patient_id, :part) > 0"
    + _OF_KNOWN.format(
        condition="k.id IN (SELECT i.patient_key FROM patient_identifier i WHERE instr(i.number, :part) > 0)"
    ),
    "AccessionNumber": "SELECT DISTINCT study_id FROM study_facts WHERE instr(accession, :part) > 0 ORDER BY 1 DESC",
    "StudyDescription": "SELECT DISTINCT study_id FROM study_facts WHERE instr(description, :part) > 0 ORDER BY 1 DESC",
    "StudyID": "SELECT DISTINCT study_id FROM study_facts WHERE instr(study_number, :part) > 0 ORDER BY 1 DESC",
}
#: The study after which the next SCAN_ROWS begin.
_LAST_OF_SCAN = "SELECT id FROM study WHERE id < :before ORDER BY id DESC LIMIT 1 OFFSET :most - 1"
_ALL = "SELECT id FROM study WHERE id >= :low AND id < :before ORDER BY id DESC"
#: The feeds say this today of the patient `p`, or of the one that a person assigned the study of `f` to.
_TODAY = (
    "EXISTS (SELECT 1 FROM patient_identifier n JOIN known_patient k ON k.id = n.patient_key JOIN known_patient t"
    " ON t.id = coalesce(k.survivor_id, k.id) WHERE (n.number = p.patient_id OR n.id ="
    " (SELECT a.identifier_id FROM study_assignment a WHERE a.study_id = f.study_id)) AND {condition})"
)


def _said_or_today(condition: str) -> str:
    """A condition on the patient, `{who}`, as the images name it or as the feeds do today: that is what is answered."""
    return f"({condition.format(who='p')} OR {_TODAY.format(condition=condition.format(who='t'))})"


#: Conditions on a patient `p` and on the facts of a study `f`, each of which narrows a scan.
_NARROWS = {
    "sexes": _said_or_today("{who}.sex IN (SELECT value FROM json_each(:sexes))"),
    "birth_first": _said_or_today(
        "({who}.birth_date BETWEEN :birth_first AND :birth_last OR {who}.birth_date LIKE '%.%')"
    ),
    "hour_first": "substr(f.study_time, 1, 2) BETWEEN :hour_first AND :hour_last",
    "physician_part": "instr(folded(f.referring_physician), :physician_part) > 0",
}
_NARROWED = (
    "SELECT DISTINCT f.study_id FROM study_facts f JOIN patient p ON p.id = f.patient_key"
    " WHERE f.study_id >= :low AND f.study_id < :before AND {conditions} ORDER BY 1 DESC"
)


def find_studies_for(conn: Transaction, lookup: Lookup) -> array[int] | None:
    """The numbers of the studies that may match, by the best index; None: none helps, see `list_studies_before`."""
    for sql, given in _ways(lookup):
        return array("q", dict.fromkeys(row[0] for row in conn.execute(sql, given) if row[0] is not None))
    return None


def _ways(lookup: Lookup) -> Iterator[tuple[str, dict[str, str]]]:
    """The best first."""
    for sql, these in (
        (_BY_INSTANCE, lookup.instance_uids),
        (_BY_SERIES, lookup.series_uids),
        (_BY_STUDY, lookup.study_uids),
        (_BY_ACCESSION, lookup.accessions),
        (STUDIES_OF_NUMBERS, lookup.patient_ids),
    ):
        if these is not None:
            yield sql, {"these": json.dumps(these), "numbers": json.dumps(these)}
    if lookup.name_prefix:
        yield _BY_NAME, {"first": lookup.name_prefix, "beyond": lookup.name_prefix + _LAST}
    if lookup.dates is not None:
        yield _BY_DATE, {"first": lookup.dates[0], "last": lookup.dates[1]}
    if lookup.name_part:
        yield _BY_NAME_PART, {"part": lookup.name_part}
    for keyword, part in lookup.texts:
        yield TEXT_COLUMNS[keyword], {"part": part}


def list_studies_before(conn: Transaction, lookup: Lookup, before: int) -> tuple[array[int], int]:
    """List, of the next studies, the latest first, those that may match; and where the next ones begin, 0 at the end.

    To begin with, `before` is beyond all numbers.
    """
    row = conn.execute(_LAST_OF_SCAN, {"before": before, "most": SCAN_ROWS}).fetchone()
    values = _narrowing_values(lookup) | {"low": row[0] if row else 0, "before": before}
    conditions = " AND ".join(sql for name, sql in _NARROWS.items() if name in values)
    rows = conn.execute(_NARROWED.format(conditions=conditions) if conditions else _ALL, values)
    return array("q", (each[0] for each in rows)), values["low"]


def _narrowing_values(lookup: Lookup) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if lookup.sexes is not None:
        values["sexes"] = json.dumps(lookup.sexes)
    if lookup.birth_dates is not None:
        values["birth_first"], values["birth_last"] = lookup.birth_dates
    if lookup.hours is not None:
        values["hour_first"], values["hour_last"] = lookup.hours
    if lookup.physician_part:
        values["physician_part"] = lookup.physician_part
    return values


_PATIENTS_OF = (
    "SELECT DISTINCT patient_key FROM study_patient WHERE standing <> 'differs'"
    " AND study_id IN (SELECT value FROM json_each(:studies))"
    " AND study_id NOT IN (SELECT study_id FROM study_assignment)"
)
_SAME_SPELLINGS = (
    "SELECT p.id FROM patient a JOIN patient p ON p.patient_id = a.patient_id AND p.issuer = a.issuer"
    " AND (a.patient_id <> '' OR p.folded_name IS a.folded_name) WHERE a.id = :patient"
)
_STUDIES_OF_SPELLINGS = (
    "SELECT DISTINCT study_id FROM study_patient WHERE standing <> 'differs'"
    " AND patient_key IN (SELECT value FROM json_each(:patients))"
    " AND study_id NOT IN (SELECT study_id FROM study_assignment)"
)
#: Of an assigned study the survivor whose it is, and a row of a patient of its images.
_ASSIGNED = (
    "SELECT a.study_id, coalesce(k.survivor_id, k.id) AS survivor, (SELECT min(w.patient_key) FROM study_patient w"
    " WHERE w.study_id = a.study_id AND w.standing <> 'differs') FROM study_assignment a JOIN patient_identifier i"
    " ON i.id = a.identifier_id JOIN known_patient k ON k.id = i.patient_key"
)


def list_patients_of(conn: Transaction, studies: Sequence[int]) -> list[int]:
    """The patients of some studies: of each the row of the first spelling."""
    given = {"studies": json.dumps(list(studies))}
    found = {row[0] for row in conn.execute(_PATIENTS_OF, given)}
    of_studies = " WHERE a.study_id IN (SELECT value FROM json_each(:studies))"
    for _, survivor, own in conn.execute(_ASSIGNED + of_studies, given).fetchall():
        found.add((patient_search.list_spellings(conn, survivor) or [own])[0])
    first: set[int] = set()
    while found:
        spellings, _ = _list_spellings(conn, min(found))
        first.add(spellings[0])
        found.difference_update(spellings)
    return sorted(first)


def _list_spellings(conn: Transaction, patient: int) -> tuple[list[int], int | None]:
    """Every row of the patient of this row, however it is spelt and merged; and which known patient that is."""
    same = {row[0] for row in conn.execute(_SAME_SPELLINGS, {"patient": patient})}
    (number, issuer) = conn.execute("SELECT patient_id, issuer FROM patient WHERE id = ?", (patient,)).fetchone()
    survivors = todays_facts.find_survivors(conn, number, issuer)
    survivor = survivors[0] if len(survivors) == 1 else None
    more = patient_search.list_spellings(conn, survivor) if survivor is not None else []
    return sorted({patient, *same, *more}), survivor


def list_studies_of_patient(conn: Transaction, patient: int) -> list[int]:
    """All studies of the patient of this row, however it is spelt, and those that a person assigned."""
    spellings, survivor = _list_spellings(conn, patient)
    found = {row[0] for row in conn.execute(_STUDIES_OF_SPELLINGS, {"patients": json.dumps(spellings)})}
    for study, owner, own in conn.execute(_ASSIGNED).fetchall():
        if owner == survivor or (own == patient and not patient_search.list_spellings(conn, owner)):
            found.add(study)
    return sorted(found)


# -- what is known of them --------------------------------------------------------------------------------------------

_WHOSE = [f"p.{column} AS {keyword}" for keyword, column in PATIENT_COLUMNS.items()]
_STUDY = [f"f.{column} AS {keyword}" for keyword, column in STUDY_COLUMNS.items()]
_SERIES = [f"r.{column} AS {keyword}" for keyword, column in SERIES_COLUMNS.items()]
_OF_STUDY = (*PATIENT_COLUMNS, *STUDY_COLUMNS)
_VISIBLE = f"i.series_id = r.id AND i.state IN (SELECT value FROM json_each(:states)) AND {NOT_HIDDEN}"
_ROWS = f"""
SELECT f.study_id, s.study_uid, r.id AS row_id, {", ".join(_WHOSE + _STUDY + _SERIES)}, m.facts
FROM study_facts f CROSS JOIN study_patient w ON w.study_id = f.study_id AND w.patient_key = f.patient_key
CROSS JOIN study s ON s.id = f.study_id CROSS JOIN patient p ON p.id = f.patient_key
CROSS JOIN series r ON r.study_facts_id = f.id LEFT JOIN series_facts m ON m.series_id = r.id
WHERE f.study_id IN (SELECT value FROM json_each(:studies)) AND w.standing <> 'differs'
  AND EXISTS (SELECT 1 FROM instance i WHERE {_VISIBLE})
ORDER BY f.study_id, f.id, r.id
"""


def read_studies(conn: Transaction, studies: Sequence[int], states: Sequence[str]) -> list[StudyRows]:
    """What is known of some studies today, in their order; one without a visible instance is left out."""
    found: dict[int, StudyRows] = {}
    rows: dict[int, CatalogRow] = {}
    given = {"studies": json.dumps(list(studies)), "states": json.dumps(states)}
    for row in conn.execute(_ROWS, given):
        study_id, study_uid, row_id, *texts, facts = row
        of_series = dict(zip(SERIES_COLUMNS, texts[len(_OF_STUDY) :], strict=True))
        series_uid, modality = of_series["SeriesInstanceUID"], of_series["Modality"]
        study = found.setdefault(study_id, StudyRows(study_id, study_uid))
        _keep_first(study.said, zip(_OF_STUDY, texts, strict=False))
        series = study.series.setdefault(series_uid, SeriesRows(series_uid))
        series.row_ids.append(row_id)
        rows[row_id] = row
        _keep_first(series.said, of_series.items())
        series.modalities += [modality] if modality and modality not in series.modalities else []
        _keep_first(series.said, json.loads(facts or "{}").items())
    for study_id, today in todays_facts.read_today_of_studies(conn, {each: found[each].said for each in found}).items():
        said = found[study_id].said
        said.update({each: value for each, value in today.items() if not is_as_today(each, said.get(each, ""), value)})
        for series in found[study_id].series.values():
            series.outdated = {
                each
                for each in series.row_ids
                if any(not is_as_today(keyword, rows[each][keyword], value) for keyword, value in today.items())
            }
    return [found[each] for each in studies if each in found]


def _keep_first(said: dict[str, Any], found: Iterable[tuple[str, Any]]) -> None:
    for keyword, value in found:
        if value:
            said.setdefault(keyword, value)


def _of_series(what: str) -> str:
    return (
        f"SELECT r.id, {what} FROM series r CROSS JOIN instance i ON {_VISIBLE}"
        " JOIN kind k ON k.id = i.kind_id WHERE r.id IN (SELECT value FROM json_each(:series))"
    )


def list_instances_of(conn: Transaction, series: Sequence[int], states: Sequence[str]) -> set[tuple[str, str]]:
    """(SOP Instance UID, SOP Class UID) of what is visible of some series."""
    given = {"series": json.dumps(list(series)), "states": json.dumps(states)}
    return {(row[1], row[2]) for row in conn.execute(_of_series("i.sop_instance_uid, k.sop_class_uid"), given)}


def is_all_here(conn: Transaction, series: Sequence[int]) -> bool:
    """Is every visible instance of some series stored, so that no archive has to give one back?"""
    sql = (
        "SELECT 1 FROM instance i WHERE i.series_id IN (SELECT value FROM json_each(:series))"
        " AND i.state IN ('evicted', 'lost') AND NOT EXISTS (SELECT 1 FROM instance j"
        " WHERE j.sop_instance_uid = i.sop_instance_uid AND j.state = 'stored') LIMIT 1"
    )
    return conn.execute(sql, {"series": json.dumps(list(series))}).fetchone() is None


def count_undelivered(conn: Transaction, series: Sequence[int], states: Sequence[str], destination: str) -> int:
    """How many visible instances of some series a destination does not have yet, by what was sent there."""
    sql = (
        f"SELECT count(DISTINCT i.sop_instance_uid) FROM series r CROSS JOIN instance i ON {_VISIBLE}"
        " WHERE r.id IN (SELECT value FROM json_each(:series)) AND i.fetched_from <> :destination"
        " AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance_id = i.id AND d.destination = :destination"
        " AND d.state IN ('sent', 'confirmed'))"
    )
    given = {"series": json.dumps(list(series)), "states": json.dumps(states), "destination": destination}
    return int(conn.execute(sql, given).fetchone()[0])


_INSTANCE_WHAT = (
    "i.sop_instance_uid, k.sop_class_uid, k.transfer_syntax_uid, i.instance_number, i.state, i.id, i.path, i.size,"
    " i.dataset_offset, i.sha256, i.xxh3, i.study_id, h.pixel_rows, h.pixel_columns, h.frames, h.bits_allocated,"
    " h.content_date, h.content_time, h.title"
)
_INSTANCES = (
    f"SELECT r.series_uid, r.id AS row_id, {_INSTANCE_WHAT} FROM series r CROSS JOIN instance i ON {_VISIBLE}"
    " JOIN kind k ON k.id = i.kind_id LEFT JOIN instance_header h ON h.instance_id = i.id"
    " WHERE r.id IN (SELECT value FROM json_each(:series))"
    " ORDER BY r.series_uid, CAST(i.instance_number AS INTEGER), i.id"
)


def read_instances(conn: Transaction, series: Sequence[int], states: Sequence[str]) -> list[CatalogRow]:
    """The visible instances of some series, one row for each SOP Instance UID: what is stored, and was sent to us."""
    given = {"series": json.dumps(list(series)), "states": json.dumps(states)}
    found: dict[str, CatalogRow] = {}
    for row in conn.execute(_INSTANCES, given):
        known = found.get(row["sop_instance_uid"])
        if known is None or (known["state"] != "stored" and row["state"] == "stored"):
            found[row["sop_instance_uid"]] = row
    return list(found.values())


def read_down_since(conn: Transaction, destinations: Sequence[str]) -> dict[str, float]:
    """Read which of some destinations have an open circuit, and since when (seconds since 1970)."""
    rows = conn.execute("SELECT name, since FROM destination WHERE state = 'down'")
    return {row[0]: row[1] for row in rows if row[0] in destinations}


def known_instances(conn: Transaction, uids: Iterable[str]) -> set[str]:
    """List those of some SOP Instance UIDs that the catalog has, in any state but evicted."""
    sql = (
        "SELECT DISTINCT sop_instance_uid FROM instance WHERE state <> 'evicted'"
        " AND sop_instance_uid IN (SELECT value FROM json_each(?))"
    )
    return {row[0] for row in conn.execute(sql, (json.dumps(list(uids)),))}


def list_hidden(conn: Transaction, uids: Iterable[str]) -> set[str]:
    """List those of some SOP Instance UIDs that a rejection note hides, wherever they are."""
    sql = (
        "SELECT sop_instance_uid FROM rejected_instance"
        " WHERE is_hidden = 1 AND sop_instance_uid IN (SELECT value FROM json_each(?))"
    )
    return {row[0] for row in conn.execute(sql, (json.dumps(list(uids)),))}
