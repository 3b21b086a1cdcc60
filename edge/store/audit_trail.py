"""The input of the audit trail: rows of the ledger, and the studies that they are about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from edge.store import gateway_values, ledger
from edge.store.database import CatalogRow, Transaction
from edge.store.patient_search import ASSIGNED_STUDIES, PATIENT_ROWS

#: The value of the gateway that has the last row which has been reported.
WATERMARK = "audited"

_ROWS = f"SELECT seq, {ledger.COLUMNS} FROM ledger WHERE seq > :after"
_IN_TIME = " AND at BETWEEN :since AND :until ORDER BY seq LIMIT :limit"
_OF_STUDIES = f"{_ROWS} AND study_id IN (SELECT value FROM json_each(:studies)){_IN_TIME}"
#: A study is every patient's who has an image in it. What is not filled in yet has its first patient alone.
_CHOSEN = f"""
SELECT s.id FROM study s
WHERE (:asks_patient = 0 OR s.patient_id IN (SELECT value FROM json_each(:numbers))
       OR s.id IN (SELECT w.study_id FROM ({PATIENT_ROWS}) r JOIN study_patient w ON w.patient_key = r.id)
       OR s.id IN ({ASSIGNED_STUDIES}))
AND (:study IS NULL OR s.study_uid = :study) AND (:asks_patient OR :study IS NOT NULL) ORDER BY s.id
"""
#: The ledger's end, or what came before a catalog that was just rebuilt, less ?1 seconds.
_FIRST_MARK = """
SELECT coalesce(max(seq), 0) FROM ledger WHERE at < coalesce(
    (SELECT at - ?1 FROM ledger AS rebuilt WHERE event = ?2 AND NOT EXISTS
        (SELECT 1 FROM ledger AS later WHERE later.seq > rebuilt.seq AND later.event = ?3)
     ORDER BY seq DESC LIMIT 1),
    9e999)
"""
_ORIGINS = """
SELECT i.calling_ae, i.address, k.sop_class_uid, count(*)
FROM json_each(?) each JOIN instance i ON i.id = each.value JOIN kind k ON k.id = i.kind_id GROUP BY 1, 2, 3
"""
#: What waits only for a person's decision is not on its way.
_QUEUED = """
SELECT d.destination, k.sop_class_uid, count(*)
FROM json_each(?) each JOIN delivery d ON d.instance_id = each.value JOIN instance i ON i.id = d.instance_id
JOIN kind k ON k.id = i.kind_id
WHERE d.destination <> '' AND d.state <> 'cancelled' AND (d.state <> 'held' OR d.attempts > 0) GROUP BY 1, 2
"""
_SERIES = "SELECT DISTINCT i.series_uid FROM json_each(?) each JOIN instance i ON i.id = each.value ORDER BY 1"
#: What the first of a group says of its study: another patient's images may say something else.
_SAID = """
SELECT f.description, f.accession FROM json_each(?) each JOIN instance i ON i.id = each.value
JOIN series r ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id ORDER BY i.id LIMIT 1
"""
_PATIENTS = """
SELECT p.patient_id, p.name FROM study_patient w JOIN patient p ON p.id = w.patient_key WHERE w.study_id = ?
ORDER BY w.first_at, p.id
"""
_STUDY = """
SELECT study_uid, description, accession, patient_id, patient_name,
       (SELECT count(*) FROM instance WHERE study_id = study.id AND state NOT IN ('evicted', 'lost')
            AND deleted_at IS NULL) AS kept
FROM study WHERE id = ?
"""


def watermark(conn: Transaction) -> int | None:
    """The last row that has been reported, or None where audit was never configured."""
    kept = gateway_values.recall(conn, WATERMARK)
    return None if kept is None else int(kept)


def begin(conn: Transaction, reported_again_seconds: float) -> None:
    """Set the watermark, where there is none: the ledger's end, or that time before a catalog that was just rebuilt.

    For with the old catalog it is forgotten what was reported: rather twice than never.
    """
    if watermark(conn) is None:
        given = (reported_again_seconds, ledger.RECOVERED, ledger.STARTED)
        (mark,) = conn.execute(_FIRST_MARK, given).fetchone()
        gateway_values.remember(conn, WATERMARK, str(mark))


def has_event(conn: Transaction, after: int, events: Sequence[str]) -> bool:
    """Is there one of these events behind a row?"""
    sql = "SELECT 1 FROM ledger WHERE seq > ? AND event IN (SELECT value FROM json_each(?)) LIMIT 1"
    return conn.execute(sql, (after, json.dumps(events))).fetchone() is not None


def trail_rows(conn: Transaction, after: int, limit: int) -> Iterator[CatalogRow]:
    """Rows behind a watermark: seq and ledger.COLUMNS."""
    yield from conn.execute(f"{_ROWS} ORDER BY seq LIMIT :limit", {"after": after, "limit": limit})


def report_rows(
    conn: Transaction, studies: Sequence[int], since: float, until: float, after: int, limit: int
) -> Iterator[CatalogRow]:
    """Rows of a time behind a row, about some studies, or about everything where there are none."""
    given = {"since": since, "until": until, "after": after, "limit": limit}
    if studies:
        yield from conn.execute(_OF_STUDIES, {**given, "studies": json.dumps(list(studies))})
    else:
        yield from conn.execute(_ROWS + _IN_TIME, given)


def studies_of_patient(conn: Transaction, patient_ids: Sequence[str] | None, study_uid: str | None) -> list[int]:
    """The studies of a patient by any of these numbers, or that study; none where neither is given."""
    numbers = json.dumps(list(patient_ids or ()))
    given = {"asks_patient": patient_ids is not None, "numbers": numbers, "study": study_uid}
    return [row[0] for row in conn.execute(_CHOSEN, given)]


# -- what the catalog knows of a group of rows -------------------------------------------------------------------------


def study_columns(conn: Transaction, study_id: int | None, instances: Iterable[int]) -> Mapping[str, object]:
    """The columns of _STUDY, as the first of these instances has them; none where there is no study."""
    study = conn.execute(_STUDY, (study_id,)).fetchone()
    said = conn.execute(_SAID, (_as_json(instances),)).fetchone() if study else None
    return {**dict(study or {}), **dict(said or {})}


def origin_counts(conn: Transaction, instances: Iterable[int]) -> list[tuple[str, str, str, int]]:
    """Who sent them: calling AE title, address, SOP class UID and how many."""
    return [tuple(row) for row in conn.execute(_ORIGINS, (_as_json(instances),))]


def destination_counts(conn: Transaction, instances: Iterable[int]) -> list[tuple[str, str, int]]:
    """Where they are to go: destination, SOP class UID and how many."""
    return [tuple(row) for row in conn.execute(_QUEUED, (_as_json(instances),))]


def series_uids(conn: Transaction, instances: Iterable[int]) -> tuple[str, ...]:
    """Their Series Instance UIDs."""
    return tuple(row[0] for row in conn.execute(_SERIES, (_as_json(instances),)))


def study_patients(conn: Transaction, study_id: int | None) -> list[tuple[str, str]]:
    """Patient ID and name of each patient of a study, in the order of arrival."""
    return [tuple(row) for row in conn.execute(_PATIENTS, (study_id,))]


def _as_json(instances: Iterable[int]) -> str:
    return json.dumps(sorted(set(instances)))
