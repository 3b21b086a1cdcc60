"""Checks of images against orders: made as a study's facts are seen first, and again as feeds bring more.

One row of `identity_check` serves all images that say the same of patient and study. The caller owns the transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.identity.checks import CheckNote, CheckResult, IdentityCheck, ImageIdentity, check_identity
from edge.identity.order import Order
from edge.store import gateway_values, orders, resolved_patients
from edge.store.database import CatalogRow, Transaction
from edge.store.identity import Likeness, Patient, compare_patients
from edge.store.listing import Listing, ListSql
from edge.store.study_patients import split_differences

_COUNTED = "identity_counted"  # the last instance whose check has counted it


# -- one check --------------------------------------------------------------------------------------------------------


def find_check(conn: Transaction, series: int) -> IdentityCheck | None:
    """Read the check of a series row, or make it.

    None: no feed has brought an order, or a person has decided about it.
    """
    row = conn.execute(
        "SELECT r.study_facts_id, c.result, c.order_id, c.differs_in, c.settled_at FROM series r"
        " LEFT JOIN identity_check c"
        " ON c.study_facts_id = r.study_facts_id WHERE r.id = ?",
        (series,),
    ).fetchone()
    if row is None or row[4] is not None:
        return None
    if row[1] is not None:
        return IdentityCheck(CheckResult(row[1]), row[2], split_differences(row[3]))
    return check_study_facts(conn, row[0], time.time()) if orders.has_orders(conn) else None


_FACTS = """
SELECT f.study_id, s.study_uid, f.accession, f.study_date, f.study_number, f.description, p.patient_id, p.issuer,
  p.name, p.birth_date, p.sex, p.responsible_person, a.identifier_id
FROM study_facts f JOIN study s ON s.id = f.study_id JOIN patient p ON p.id = f.patient_key
LEFT JOIN study_assignment a ON a.study_id = f.study_id WHERE f.id = ?
"""


def check_study_facts(conn: Transaction, study_facts: int, now: float) -> IdentityCheck:
    """Check what a row of study_facts says, and keep the result."""
    row = conn.execute(_FACTS, (study_facts,)).fetchone()
    image = ImageIdentity(row[6], row[8], row[9], row[2], row[1], row[11])
    patients = _patients_of(conn, row[6], row[7], row[12])
    found = _orders_of(conn, study_facts, row, patients)
    differs_in = () if patients or not found else _differences(Patient(*tuple(row)[6:12]), found[0])
    is_duplicate = _is_duplicate(conn, row)
    check = check_identity(image, patients, found, differs_in, is_duplicate=is_duplicate)
    _keep(conn, study_facts, row[0], check, now)
    return check


def _patients_of(conn: Transaction, patient_id: str, issuer: str, assigned: int | None) -> list[int]:
    """Whose a number is today; where a person has decided, the decision."""
    if assigned is not None:
        row = conn.execute(
            "SELECT coalesce(p.survivor_id, p.id) FROM patient_identifier i JOIN known_patient p"
            " ON p.id = i.patient_key WHERE i.id = ?",
            (assigned,),
        ).fetchone()
        return [row[0]]
    found = resolved_patients.resolve_identifier(conn, patient_id, issuer)
    if not found and issuer:  # an issuer that no feed writes so
        found = resolved_patients.resolve_identifier(conn, patient_id, "")
    return list(dict.fromkeys(each.patient_key for each in found))


def _orders_of(conn: Transaction, study_facts: int, row: Sequence[str], patients: Sequence[int]) -> list[Order]:
    """Find orders by numbers of the first level, then by those of the request (0040,0275), once the header is read."""
    accession, study_uid, study_number = row[2], row[1], row[4]
    by_accession = _of_issuer(conn, study_facts, orders.find_orders(conn, accession=accession))
    if found := by_accession or orders.find_orders(conn, study_uid=study_uid):
        return found
    requested = conn.execute(_REQUESTED, (study_facts,)).fetchall()
    for each in requested if not accession else ():
        if found := orders.find_orders(conn, accession=each[0] or ""):
            return found
    for number in dict.fromkeys((*(each[1] for each in requested), study_number)):
        found = orders.find_orders(conn, procedure_id=number or "")
        if found := [each for each in found if each.patient_key in patients]:
            return found
    return []


_REQUESTED = """
SELECT DISTINCT json_extract(m.facts, '$.RequestAttributesSequence.AccessionNumber'),
  json_extract(m.facts, '$.RequestAttributesSequence.RequestedProcedureID')
FROM series r JOIN series_facts m ON m.series_id = r.id WHERE r.study_facts_id = ? AND m.facts LIKE '%"RequestA%'
"""


def _of_issuer(conn: Transaction, study_facts: int, found: list[Order]) -> list[Order]:
    """The orders whose accession number may have the issuer that the images name (0008,0051)."""
    if not any(each.issuer for each in found):
        return found
    row = conn.execute(_ISSUER, (study_facts,)).fetchone()
    named = set(filter(None, row or ()))
    return [each for each in found if not named or each.issuer in {"", *named}]


_ISSUER = """
SELECT json_extract(m.facts, '$.IssuerOfAccessionNumberSequence.LocalNamespaceEntityID'),
  json_extract(m.facts, '$.IssuerOfAccessionNumberSequence.UniversalEntityID')
FROM series r JOIN series_facts m ON m.series_id = r.id WHERE r.study_facts_id = ? AND m.facts LIKE '%"IssuerOfA%'
LIMIT 1
"""


def _differences(image: Patient, order: Order) -> tuple[str, ...]:
    """No feed knows the image's number: its own words decide."""
    known = order.patient
    other = Patient(known.patient_id, "", "" if known.is_in_doubt else known.name, known.birth_date, known.sex)
    found = compare_patients(image, other)
    return found.differs_in if found.likeness is Likeness.DIFFERENT else ()


def _is_duplicate(conn: Transaction, row: Sequence[str]) -> bool:
    """The same patient, description and day under another Study UID."""
    if not (row[3] and row[5] and row[6]):
        return False
    found = conn.execute(
        "SELECT 1 FROM patient p JOIN study_facts f ON f.patient_key = p.id WHERE p.patient_id = ? AND f.study_date = ?"
        " AND f.description = ? AND f.study_id <> ? LIMIT 1",
        (row[6], row[3], row[5], row[0]),
    )
    return found.fetchone() is not None


def _keep(conn: Transaction, study_facts: int, study: int, check: IdentityCheck, now: float) -> None:
    differs = check.result is CheckResult.DIFFERS
    conn.execute(
        "INSERT INTO identity_check (study_facts_id, study_id, result, order_id, differs_in, notes, first_at,"
        " checked_at, has_differed) VALUES (:facts, :study, :result, :order, :differs_in, :notes, :now, :now, :differs)"
        " ON CONFLICT (study_facts_id) DO UPDATE SET result = :result, order_id = :order, differs_in = :differs_in,"
        " notes = :notes, checked_at = :now, has_differed = max(has_differed, :differs),"
        " settled_at = CASE WHEN result = :result THEN settled_at END",
        {
            "facts": study_facts,
            "study": study,
            "result": check.result.value,
            "order": check.order_id,
            "differs_in": ",".join(check.differs_in),
            "notes": ",".join(note.value for note in check.notes),
            "now": now,
            "differs": int(differs),
        },
    )


# -- again ------------------------------------------------------------------------------------------------------------


def queue_order(conn: Transaction, order: int) -> None:
    """Have checked again what an order that has come or changed may concern."""
    conn.execute(
        "INSERT OR IGNORE INTO identity_recheck SELECT f.id FROM imaging_order o JOIN study_facts f"
        " ON f.accession = o.accession AND f.accession <> '' WHERE o.id = :order"
        " UNION SELECT f.id FROM imaging_order o JOIN study s ON s.study_uid = o.study_uid JOIN study_facts f"
        " ON f.study_id = s.id WHERE o.id = :order AND o.study_uid <> ''"
        " UNION SELECT c.study_facts_id FROM identity_check c WHERE c.order_id = :order",
        {"order": order},
    )
    numbers = resolved_patients.list_numbers(conn, conn.execute(_PATIENT_OF_ORDER, (order,)).fetchone())
    conn.execute(_WITHOUT_ORDER, (json.dumps(numbers),))


_PATIENT_OF_ORDER = """
SELECT coalesce(p.survivor_id, p.id) FROM imaging_order o JOIN known_patient p ON p.id = o.patient_key WHERE o.id = ?
"""
#: Images of a patient that have no order: their request (0040,0275), or their Study ID, may name this one.
_WITHOUT_ORDER = """
INSERT OR IGNORE INTO identity_recheck SELECT f.id FROM json_each(?) each JOIN patient p ON p.patient_id = each.value
JOIN study_facts f ON f.patient_key = p.id JOIN identity_check c ON c.study_facts_id = f.id WHERE c.result = 'no-order'
"""


def queue_series(conn: Transaction, series: int) -> None:
    """Have a series checked again whose whole header is read: it may mean another order."""
    conn.execute(
        "INSERT OR IGNORE INTO identity_recheck SELECT c.study_facts_id FROM series r JOIN identity_check c"
        " ON c.study_facts_id = r.study_facts_id WHERE r.id = ? AND c.result <> 'matched'",
        (series,),
    )


def queue_patients(conn: Transaction, patients: Iterable[int]) -> None:
    """Facts or identifiers of these survivors have changed."""
    numbers = resolved_patients.list_numbers(conn, patients)
    if numbers:
        conn.execute(
            "INSERT OR IGNORE INTO identity_recheck SELECT f.id FROM json_each(?) each JOIN patient p"
            " ON p.patient_id = each.value JOIN study_facts f ON f.patient_key = p.id",
            (json.dumps(numbers),),
        )


def queue_study(conn: Transaction, study: int) -> None:
    conn.execute("INSERT OR IGNORE INTO identity_recheck SELECT id FROM study_facts WHERE study_id = ?", (study,))


@dataclass(frozen=True, slots=True)
class Rechecked:
    """A check that was made again."""

    study_facts: int
    study_id: int
    before: CheckResult | None
    after: IdentityCheck


def recheck_some(conn: Transaction, now: float, limit: int = 100) -> list[Rechecked]:
    """Make the checks again that are queued. Without orders of any feed nothing is kept."""
    rows = conn.execute(
        "SELECT q.study_facts_id, c.result, f.study_id FROM identity_recheck q JOIN study_facts f"
        " ON f.id = q.study_facts_id LEFT JOIN identity_check c ON c.study_facts_id = q.study_facts_id LIMIT ?",
        (limit,),
    ).fetchall()
    found = []
    for study_facts, before, study in rows:
        conn.execute("DELETE FROM identity_recheck WHERE study_facts_id = ?", (study_facts,))
        has_orders = orders.has_orders(conn)
        after = check_study_facts(conn, study_facts, now) if has_orders else IdentityCheck(CheckResult.NO_ORDER)
        found.append(Rechecked(study_facts, study, CheckResult(before) if before else None, after))
    return found


def list_instances(conn: Transaction, study_facts: int) -> list[int]:
    """List the instances that a check is about."""
    rows = conn.execute(
        "SELECT i.id FROM series r JOIN instance i ON i.series_id = r.id WHERE r.study_facts_id = ? ORDER BY i.id",
        (study_facts,),
    )
    return [row[0] for row in rows]


def list_wrongly_held(conn: Transaction, study: int) -> list[int]:
    """List the instances of a study that are held as a mismatch, and do not differ any more."""
    rows = conn.execute(
        "SELECT DISTINCT i.id FROM instance i JOIN delivery d ON d.instance_id = i.id JOIN series r"
        " ON r.id = i.series_id JOIN study_facts f ON f.id = r.study_facts_id"
        " LEFT JOIN study_patient w ON w.study_id = f.study_id AND w.patient_key = f.patient_key"
        " LEFT JOIN identity_check c ON c.study_facts_id = f.id"
        " WHERE i.study_id = ? AND i.state = 'stored' AND d.state = 'held' AND d.reason_code = 'mismatch'"
        " AND coalesce(w.standing, '') <> 'differs' AND coalesce(c.result, '') <> 'differs' ORDER BY i.id",
        (study,),
    )
    return [row[0] for row in rows]


def count_images(conn: Transaction, limit: int = 5000) -> bool:
    """Count the images of each check that have come since the last time. Returns whether there may be more."""
    last = int(gateway_values.recall(conn, _COUNTED) or 0)
    row = conn.execute(
        "SELECT max(id), count(*) FROM (SELECT id FROM instance WHERE id > ? ORDER BY id LIMIT ?)", (last, limit)
    ).fetchone()
    if row[0] is None:
        return False
    conn.execute(
        "UPDATE identity_check SET images = images + new.n FROM (SELECT r.study_facts_id AS facts, count(*) AS n"
        " FROM instance i JOIN series r ON r.id = i.series_id WHERE i.id > ? AND i.id <= ? GROUP BY 1) AS new"
        " WHERE identity_check.study_facts_id = new.facts",
        (last, row[0]),
    )
    gateway_values.remember(conn, _COUNTED, str(row[0]))
    return int(row[1]) == limit


def has_orders_or_images(conn: Transaction, numbers: Iterable[str]) -> bool:
    """Is there an order or an image of one of these Patient IDs?"""
    given = json.dumps(list(numbers))
    return (
        conn.execute(
            "SELECT 1 FROM json_each(:n) each JOIN patient p ON p.patient_id = each.value UNION ALL"
            " SELECT 1 FROM json_each(:n) each JOIN patient_identifier i ON i.number = each.value JOIN imaging_order o"
            " ON o.patient_key = i.patient_key LIMIT 1",
            {"n": given},
        ).fetchone()
        is not None
    )


# -- decided and listed -----------------------------------------------------------------------------------------------


def settle_checks(conn: Transaction, result: CheckResult, now: float) -> None:
    """Settle all open checks: a person has acknowledged them."""
    conn.execute(
        "UPDATE identity_check SET settled_at = ? WHERE result = ? AND settled_at IS NULL", (now, result.value)
    )


def settle_study(conn: Transaction, study: int, now: float) -> None:
    """Settle the checks of a study about which a person has decided."""
    conn.execute("UPDATE identity_check SET settled_at = ? WHERE study_id = ? AND settled_at IS NULL", (now, study))


@dataclass(frozen=True, slots=True)
class ListedCheck:
    """A check as people read it."""

    study_uid: str
    accession: str
    patient_id: str
    patient_name: str
    result: str
    differs_in: tuple[str, ...]
    notes: tuple[str, ...]
    images: int
    first_at: float
    checked_at: float
    settled_at: float | None
    order_id: int | None
    order_accession: str
    order_patient_id: str
    order_patient_name: str

    @property
    def notes_text(self) -> str:
        """Its notes, for people."""
        return "; ".join(CheckNote(each).words for each in self.notes)


_LIST = ListSql(
    """s.study_uid, f.accession, p.patient_id, p.name, c.result, c.differs_in, c.notes,
    CASE WHEN :study IS NULL THEN c.images ELSE (SELECT count(*) FROM series r JOIN instance i ON i.series_id = r.id
      WHERE r.study_facts_id = c.study_facts_id) END, c.first_at, c.checked_at, c.settled_at, c.order_id""",
    """FROM identity_check c JOIN study_facts f ON f.id = c.study_facts_id
    JOIN study s ON s.id = c.study_id JOIN patient p ON p.id = f.patient_key""",
    "c.first_at DESC, c.study_facts_id DESC",
    {
        "received": ("c.first_at",),
        "study": ("c.study_id",),
        "accession": ("f.accession",),
        "patient": ("lower(p.name)", "p.patient_id"),
        "images": ("c.images",),
    },
)
CHECK_COLUMNS = _LIST.orders.keys()


def list_checks(
    conn: Transaction, *, result: str = "", study_id: int | None = None, only_open: bool = False
) -> Listing[ListedCheck]:
    """List checks, the latest first."""
    conditions = {
        "c.result = :result": result,
        "c.study_id = :study": study_id is not None,
        "c.settled_at IS NULL AND c.result <> 'matched'": only_open,
    }
    values = {"result": result, "study": study_id}
    return Listing(conn, _LIST, lambda row: _make_listed(conn, row), conditions, values)


def _make_listed(conn: Transaction, row: CatalogRow) -> ListedCheck:
    values = list(row)
    values[5:7] = [split_differences(str(values[5])), split_differences(str(values[6]))]
    order = next(iter(orders.read_orders(conn, [values[11]])), None) if values[11] is not None else None
    of_order = (order.accession, order.patient.patient_id, order.patient.name) if order else ("", "", "")
    return ListedCheck(*[*values, *of_order])
