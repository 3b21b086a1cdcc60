"""The identity of a study, as `edge studies show` prints it: checks against orders, a person's decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.cli.tables import Cell, print_table, say
from edge.identity.checks import CheckResult
from edge.store import assignments, identity_checks
from edge.store.assignments import StudyAssignment
from edge.store.database import Transaction
from edge.store.identity_checks import ListedCheck
from edge.store.patients import words_for
from edge.text import iso, moment_text


@dataclass(frozen=True, slots=True)
class ShownIdentity:
    checks: Sequence[ListedCheck]
    assignment: StudyAssignment | None


def read_study_identity(conn: Transaction, study: int) -> ShownIdentity:
    return ShownIdentity(
        identity_checks.list_checks(conn, study_id=study).read(), assignments.find_assignment(conn, study)
    )


def study_identity_json(identity: ShownIdentity) -> dict[str, Any]:
    """`checks` and `assignment` (null where no person has decided)."""
    times = ("first_at", "checked_at", "settled_at")
    checks = [asdict(each) for each in identity.checks]
    for check in checks:
        check |= {name: iso(check[name]) if check[name] is not None else None for name in times}
        check.pop("order_id")
    decided = identity.assignment
    found = asdict(decided) | {"assigned_at": iso(decided.assigned_at)} if decided is not None else None
    return {"checks": checks, "assignment": found}


def print_identity(identity: ShownIdentity) -> None:
    if identity.checks:
        say("")
        columns = ["check", "images", "patient ID", "order", "order's patient", "notes"]
        print_table(columns, map(_row, identity.checks))
    if (decided := identity.assignment) is not None:
        who = f"{decided.patient_id} of {decided.issuer}" if decided.issuer else decided.patient_id
        when = moment_text(decided.assigned_at, seconds=True)
        say(f"{decided.person} decided at {when} that it is of patient {who}: {decided.reason}", "bold")


def _row(each: ListedCheck) -> list[Cell]:
    result = {
        CheckResult.MATCHED.value: "matched",
        CheckResult.NO_ORDER.value: "no order",
        CheckResult.DIFFERS.value: f"another {words_for(each.differs_in)}",
    }[each.result]
    settled = "; settled" if each.settled_at is not None else ""
    return [
        f"{result}{settled}",
        each.images,
        each.patient_id,
        each.order_accession,
        each.order_patient_id,
        each.notes_text,
    ]
