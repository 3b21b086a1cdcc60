"""Patients by every number that they have or had: merged numbers find the same studies. Functions of a connection."""

from __future__ import annotations

import json
from collections.abc import Iterable

from edge.store.database import Transaction

#: The known patients of `hit` (survivors) with all that were merged into them, and their numbers.
NUMBERS_OF_HIT = """
JOIN known_patient q ON q.id = hit.survivor OR q.survivor_id = hit.survivor
JOIN patient_identifier n ON n.patient_key = q.id
"""
_SURVIVORS = (
    "SELECT DISTINCT coalesce(k.survivor_id, k.id) AS survivor FROM json_each(:numbers) each"
    " JOIN patient_identifier i ON i.number = each.value JOIN known_patient k ON k.id = i.patient_key"
)
#: From `hit` to the rows of `patient` that spell one of its numbers. One number of two authorities is two patients: a
#: header must name that authority, or none where one patient alone has the number.
SPELLINGS_OF_HIT = f"""
{NUMBERS_OF_HIT} JOIN assigning_authority a ON a.id = n.authority_id
JOIN patient p ON p.patient_id = n.number AND (p.issuer IN (a.namespace, a.universal_id) AND p.issuer <> ''
  OR p.issuer = '' AND 1 = (SELECT count(DISTINCT coalesce(o.survivor_id, o.id)) FROM patient_identifier m
                            JOIN known_patient o ON o.id = m.patient_key WHERE m.number = n.number))
"""
#: The rows of `patient` that these numbers mean, as the headers spell them.
PATIENT_ROWS = f"""
SELECT p.id FROM patient p WHERE p.patient_id IN (SELECT value FROM json_each(:numbers))
UNION
SELECT p.id FROM ({_SURVIVORS}) hit {SPELLINGS_OF_HIT}
"""
#: Studies that a person assigned to one of them.
ASSIGNED_STUDIES = f"""
SELECT a.study_id FROM ({_SURVIVORS}) hit {NUMBERS_OF_HIT} JOIN study_assignment a ON a.identifier_id = n.id
"""


def list_same_numbers(conn: Transaction, numbers: Iterable[str]) -> list[str]:
    """List these numbers and all others of the patients that they resolve to, those that were merged among them."""
    given = list(dict.fromkeys(numbers))
    rows = conn.execute(
        f"SELECT DISTINCT n.number FROM ({_SURVIVORS}) hit {NUMBERS_OF_HIT} ORDER BY 1", {"numbers": json.dumps(given)}
    )
    return list(dict.fromkeys([*given, *(row[0] for row in rows)]))


def list_spellings(conn: Transaction, survivor: int) -> list[int]:
    """List the rows of `patient` that are this known patient's."""
    sql = f"SELECT DISTINCT p.id FROM (SELECT :survivor AS survivor) hit {SPELLINGS_OF_HIT} ORDER BY 1"
    return [row[0] for row in conn.execute(sql, {"survivor": survivor})]


#: The studies with images of these patients, and those that a person assigned to them, the latest first.
STUDIES_OF_NUMBERS = f"""
SELECT w.study_id FROM ({PATIENT_ROWS}) r JOIN study_patient w ON w.patient_key = r.id
UNION {ASSIGNED_STUDIES} ORDER BY 1 DESC
"""
