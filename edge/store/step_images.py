"""The images that performed steps name, compared with arrivals and with what archives have proved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edge.store.database import CatalogRow, Transaction
from edge.store.rejection_order import NOT_HIDDEN

#: Versions that count as arrived.
_ARRIVED = "('stored', 'evicted', 'conflict')"
#: Steps that are compared in one go.
_MOST_COMPARED = 50


def list_due_comparisons(conn: Transaction, now: float) -> list[tuple[int, float]]:
    """List steps that are to be compared now, and when each ended."""
    rows = conn.execute(
        "SELECT id, ended_at FROM performed_step WHERE compare_at <= ? ORDER BY compare_at LIMIT ?",
        (now, _MOST_COMPARED),
    )
    return [(row[0], row[1]) for row in rows]


def count_missing_images(conn: Transaction, step: int) -> int:
    """How many instances a step names that are not here."""
    row = conn.execute(
        "SELECT count(*) FROM performed_instance AS p WHERE step_id = ? AND NOT EXISTS (SELECT 1 FROM instance AS i"
        f" WHERE i.sop_instance_uid = p.sop_instance_uid AND i.state IN {_ARRIVED})",
        (step,),
    ).fetchone()
    return int(row[0])


def note_comparison(conn: Transaction, step: int, missing: int, compare_at: float | None) -> None:
    """`compare_at` None: it is not compared again."""
    conn.execute("UPDATE performed_step SET missing = ?, compare_at = ? WHERE id = ?", (missing, compare_at, step))


@dataclass(frozen=True, slots=True)
class MissingImages:
    """A step whose images have not all come. `study_id`: of the catalog, where one of them has."""

    step_id: int
    study_id: int | None
    calling_ae: str
    named: int
    missing: int
    ended_at: float


def list_missing_images(conn: Transaction, ended_before: float) -> list[MissingImages]:
    """List steps that ended before this time and whose images have not all come, the oldest first."""
    rows = conn.execute(
        "SELECT p.id, coalesce((SELECT s.id FROM study AS s WHERE s.study_uid = p.study_uid),"
        "  (SELECT max(a.study_id) FROM performed_instance AS n JOIN instance AS a"
        "   ON a.sop_instance_uid = n.sop_instance_uid WHERE n.step_id = p.id)), p.calling_ae,"
        " (SELECT count(*) FROM performed_instance AS i WHERE i.step_id = p.id), p.missing, p.ended_at"
        " FROM performed_step AS p WHERE p.compare_at IS NOT NULL AND p.missing > 0 AND p.ended_at < ?"
        " ORDER BY p.ended_at LIMIT 100",
        (ended_before,),
    )
    return [MissingImages(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class ProvedInstance:
    """An instance of a step that is here.

    `kept_by`: a destination that has proved it, under its own UID. `is_open`: for another one it is on its way.
    `is_held`: none has it, and a person decides about one.
    """

    study_uid: str  # as that destination has it
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    kept_by: str
    is_open: bool
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class OwedNotification:
    """A step of which an availability notification is owed."""

    step_id: int
    sop_instance_uid: str
    ended_at: float
    is_reported: bool  # by a modality


def list_owed_notifications(conn: Transaction, after: int, limit: int) -> list[OwedNotification]:
    """List some, beginning behind a step: those that wait long hold no others up."""
    rows = conn.execute(
        "SELECT id, sop_instance_uid, ended_at, is_reported FROM performed_step WHERE notify = 1 AND id > ?"
        " ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [OwedNotification(*row) for row in rows]


def list_proved_instances(conn: Transaction, step: int) -> list[ProvedInstance]:
    """List what a step names and is here, with its proof; what was rejected or goes to nobody is left out.

    A copy without identity, under a UID of its own, proves nothing of the instance.
    """
    states: dict[str, list[CatalogRow]] = defaultdict(list)
    rows = conn.execute(
        "SELECT i.sop_instance_uid, d.destination, d.state, c.study_uid, coalesce(c.sop_instance_uid, '') AS other_uid"
        " FROM performed_instance AS p JOIN instance AS i ON i.sop_instance_uid = p.sop_instance_uid"
        " JOIN delivery AS d ON d.instance_id = i.id LEFT JOIN sent_copy AS c ON c.delivery_id = d.id"
        f" WHERE p.step_id = ? AND i.state IN {_ARRIVED}",
        (step,),
    )
    for row in rows:
        states[row["sop_instance_uid"]].append(row)
    rows = conn.execute(
        "SELECT DISTINCT s.study_uid, p.series_uid, p.sop_class_uid, p.sop_instance_uid FROM performed_instance AS p"
        " JOIN instance AS i ON i.sop_instance_uid = p.sop_instance_uid JOIN study AS s ON s.id = i.study_id"
        f" WHERE p.step_id = ? AND i.state IN {_ARRIVED} AND {NOT_HIDDEN}",
        (step,),
    )
    found = (_make_proved(row, states[row[3]]) for row in rows)
    return [each for each in found if each.kept_by or each.is_open or each.is_held]


def _make_proved(row: Sequence[str], states: Sequence[CatalogRow]) -> ProvedInstance:
    proof = next((each for each in states if each["state"] == "confirmed" and not each["other_uid"]), None)
    is_open = any(each["state"] not in ("confirmed", "cancelled", "held") for each in states)
    is_held = proof is None and any(each["state"] == "held" for each in states)
    study_uid = proof["study_uid"] or row[0] if proof is not None else row[0]
    return ProvedInstance(study_uid, row[1], row[2], row[3], proof["destination"] if proof else "", is_open, is_held)


@dataclass(frozen=True, slots=True)
class NotificationWait:
    """What an owed notification waits for, in images: that have not come, are on their way, or are held everywhere."""

    missing: int
    open: int
    held: int


def find_notification_wait(conn: Transaction, step: int) -> NotificationWait | None:
    """None: no notification of the step is owed."""
    if conn.execute("SELECT 1 FROM performed_step WHERE id = ? AND notify = 1", (step,)).fetchone() is None:
        return None
    found = list_proved_instances(conn, step)
    is_open, is_held = sum(each.is_open for each in found), sum(each.is_held for each in found)
    return NotificationWait(count_missing_images(conn, step), is_open, is_held)


def end_notification(conn: Transaction, step: int) -> None:
    """End a step's notification: nothing of it can be notified any more, or nobody wants it."""
    conn.execute("UPDATE performed_step SET notify = 0 WHERE id = ?", (step,))


# -- studies that no modality reports ---------------------------------------------------------------------------------

#: Instances of a study that equipment sent, and of which no step and no notification knows.
_NOT_ANNOUNCED = (
    f"i.state IN {_ARRIVED} AND i.fetched_from = '' AND NOT EXISTS (SELECT 1 FROM performed_instance p"
    " WHERE p.sop_instance_uid = i.sop_instance_uid) AND NOT EXISTS (SELECT 1 FROM rejected_instance x"
    " WHERE x.sop_instance_uid = i.sop_instance_uid)"
)


def list_unreported_studies(conn: Transaction, after: float, until: float) -> list[int]:
    """List studies that received their last instance in this time, and that no performed step names."""
    rows = conn.execute(
        "SELECT s.id FROM study s WHERE s.last_received > :after AND s.last_received <= :until"
        " AND NOT EXISTS (SELECT 1 FROM performed_step p WHERE p.study_uid = s.study_uid AND p.is_reported = 1)"
        " AND NOT EXISTS (SELECT 1 FROM performed_scheduled_step c WHERE c.study_uid = s.study_uid)"
        f" AND EXISTS (SELECT 1 FROM instance i WHERE i.study_id = s.id AND {_NOT_ANNOUNCED})"
        " ORDER BY s.last_received",
        {"after": after, "until": until},
    )
    return [row[0] for row in rows]


def enter_unreported_study(conn: Transaction, study: int, step_uid: str, now: float) -> None:
    """Owe a notification of what a study has and nothing has announced yet, in place of a step that nobody reports."""
    row = conn.execute(
        "INSERT INTO performed_step (sop_instance_uid, state, digest, calling_ae, called_ae, address, modality_name,"
        " station_ae, modality, step_id, study_uid, accession_number, created_at, ended_at, notify, is_reported)"
        " SELECT :uid, 'COMPLETED', x'', i.calling_ae, i.called_ae, i.address, '', i.calling_ae, s.modality, '',"
        " s.study_uid, s.accession, :now, :now, 1, 0 FROM study s JOIN instance i ON i.study_id = s.id"
        " WHERE s.id = :study ORDER BY i.id LIMIT 1 RETURNING id",
        {"uid": step_uid, "study": study, "now": now},
    ).fetchone()
    conn.execute(
        "INSERT OR IGNORE INTO performed_instance SELECT :step, i.sop_instance_uid, k.sop_class_uid, i.series_uid"
        f" FROM instance i JOIN kind k ON k.id = i.kind_id WHERE i.study_id = :study AND {_NOT_ANNOUNCED}",
        {"step": row[0], "study": study},
    )
