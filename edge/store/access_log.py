"""Access to studies, as rows of the ledger: one for each study and user, within LOOK_SECONDS."""

from __future__ import annotations

from collections.abc import Sequence

from edge.store import ledger
from edge.store.database import Transaction

#: Who views a study again within this time has one row.
LOOK_SECONDS = 600.0


def record_view(conn: Transaction, at: float, who: str, studies: Sequence[int], how: str) -> int:
    """Record that studies were shown with their patients; without one, a list of patients. Returns how many are new."""
    if not studies:
        ledger.append(conn, at, ledger.VIEWED, who, [], payload={"access": how})
        return 1
    new = [study for study in studies if not _has_looked(conn, at, who, study)]
    for study in new:
        ledger.append(conn, at, ledger.VIEWED, who, [], study_id=study, payload={"access": how})
    return len(new)


def viewed_instances(conn: Transaction, at: float, who: str, instances: Sequence[int], how: str) -> None:
    """Record that single instances were shown, of whichever study, or of none that is known: one row for each study."""
    studies: dict[int | None, list[int]] = {}
    for instance in instances:
        row = conn.execute("SELECT study_id FROM instance WHERE id = ?", (instance,)).fetchone()
        if row is not None:
            studies.setdefault(row[0], []).append(instance)
    for study, ids in studies.items():
        ledger.append(conn, at, ledger.VIEWED, who, ids, study_id=study, payload={"access": how})


def _has_looked(conn: Transaction, at: float, who: str, study: int) -> bool:
    """A row of a time to come, from a clock that was ahead, does not count."""
    sql = "SELECT 1 FROM ledger WHERE study_id = ? AND event = ? AND who = ? AND at > ? AND at <= ? LIMIT 1"
    return conn.execute(sql, (study, ledger.VIEWED, who, at - LOOK_SECONDS, at)).fetchone() is not None


def record_report(conn: Transaction, at: float, who: str, studies: Sequence[int], reason: str) -> int:
    """Record that the audit trail was read: of some studies, or, where none is named, of a time. Returns the count."""
    about: Sequence[int | None] = studies or [None]
    for study in about:
        ledger.append(conn, at, ledger.REPORTED, who, [], study_id=study, payload={"reason": reason})
    return len(about)
