"""Performed procedure steps (PS3.4 annex F): their states, and the messages that targets still have to get.

A message goes to each target strictly behind the messages of its step before it; other steps do not wait for it. One
that is `held` was refused for good, and a person decides. Functions of a connection, as those of edge.store.deliveries.
What was performed is compared with what arrived in edge.store.step_images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge.journal.kinds.performed_step import RecordedStep
from edge.store import ledger
from edge.store.database import CatalogRow, Transaction

if TYPE_CHECKING:
    from edge.dicom.performed_step import StepMessage  # which loads pydicom

CREATE, SET, AVAILABLE = "create", "set", "available"
IN_PROGRESS = "IN PROGRESS"
#: Steps that are handed to a target in one go.
_MOST_DUE = 200


# -- what modalities report -------------------------------------------------------------------------------------------


def find_state(conn: Transaction, uid: str) -> tuple[str, bytes] | None:
    """The state of a step and the digest of its N-CREATE; None where it is not in the catalog."""
    row = conn.execute("SELECT state, digest FROM performed_step WHERE sop_instance_uid = ?", (uid,)).fetchone()
    return (row[0], row[1]) if row else None


def enter_created(
    conn: Transaction, record: str, step: RecordedStep, message: StepMessage, digest: bytes, body: bytes
) -> None:
    """Enter a step that begins. A replay, or the same N-CREATE again, changes nothing."""
    origin, first = step.origin, message.scheduled[0]
    found = conn.execute(
        "INSERT INTO performed_step (sop_instance_uid, state, digest, calling_ae, called_ae, address, modality_name,"
        " station_ae, modality, step_id, study_uid, accession_number, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
        (
            step.sop_instance_uid,
            IN_PROGRESS,
            digest,
            origin.calling_ae,
            origin.called_ae,
            origin.address,
            step.modality,
            message.station_ae,
            message.modality,
            message.step_id,
            first.study_uid,
            first.accession_number,
            origin.received_at,
        ),
    ).fetchone()
    if found is None:
        return
    conn.executemany(
        "INSERT OR IGNORE INTO performed_scheduled_step VALUES (?, ?, ?, ?)",
        [(found[0], each.study_uid, each.scheduled_step_id, each.accession_number) for each in message.scheduled],
    )
    _enter_message(conn, found[0], record, step, body, is_final=False)
    _record(conn, step, IN_PROGRESS)


def enter_set(conn: Transaction, record: str, step: RecordedStep, message: StepMessage, body: bytes) -> None:
    """Enter what an N-SET says. A final state is not left again; a replay changes nothing."""
    row = conn.execute(
        "SELECT id, state FROM performed_step WHERE sop_instance_uid = ?", (step.sop_instance_uid,)
    ).fetchone()
    is_known = conn.execute("SELECT 1 FROM step_message WHERE record = ?", (record,)).fetchone()
    if row is None or row["state"] != IN_PROGRESS or is_known:
        return
    is_final = message.state is not None and message.state.is_final
    _enter_message(conn, row["id"], record, step, body, is_final=is_final)
    if message.objects:
        conn.execute("DELETE FROM performed_instance WHERE step_id = ?", (row["id"],))
        conn.executemany(
            "INSERT OR IGNORE INTO performed_instance VALUES (?, ?, ?, ?)",
            [(row["id"], each.sop_instance_uid, each.sop_class_uid, each.series_uid) for each in message.objects],
        )
    if is_final and message.state is not None:
        at = step.origin.received_at
        conn.execute(
            "UPDATE performed_step SET state = ?, ended_at = ?, compare_at = ?, notify = 1 WHERE id = ?",
            (message.state.value, at, at, row["id"]),
        )
        _record(conn, step, message.state.value)


def _enter_message(
    conn: Transaction, step_id: int, record: str, step: RecordedStep, body: bytes, *, is_final: bool
) -> None:
    conn.execute(
        "INSERT OR IGNORE INTO step_message (step_id, kind, is_final, record, sop_instance_uid, transfer_syntax, body,"
        " received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            step_id,
            step.operation,
            int(is_final),
            record,
            step.sop_instance_uid,
            step.transfer_syntax_uid,
            body,
            step.origin.received_at,
        ),
    )


def _record(conn: Transaction, step: RecordedStep, state: str) -> None:
    payload = {"step_uid": step.sop_instance_uid, "state": state, "address": step.origin.address}
    sql = "SELECT study_uid, accession_number FROM performed_step WHERE sop_instance_uid = ?"
    study_uid, accession = conn.execute(sql, (step.sop_instance_uid,)).fetchone()
    payload |= {"study_uid": study_uid, "accession": accession}
    ledger.append(conn, step.origin.received_at, ledger.PERFORMED, step.origin.calling_ae, [], payload=payload)


def enter_notification(
    conn: Transaction, step_id: int, name: str, uid: str, syntax: str, body: bytes, now: float
) -> None:
    """Enter an Instance Availability Notification of ours; `name`: what it is for, so that it is entered once."""
    conn.execute(
        "INSERT OR IGNORE INTO step_message (step_id, kind, is_final, record, sop_instance_uid, transfer_syntax, body,"
        " received_at) VALUES (?, 'available', 1, ?, ?, ?, ?, ?)",
        (step_id, name, uid, syntax, body, now),
    )
    conn.execute("UPDATE performed_step SET notify = 0 WHERE id = ?", (step_id,))


# -- what targets have to get -----------------------------------------------------------------------------------------


def has_unassigned(conn: Transaction) -> bool:
    """Is there a message whose targets are not decided yet?"""
    return conn.execute("SELECT 1 FROM step_message WHERE is_assigned = 0 LIMIT 1").fetchone() is not None


def assign_targets(conn: Transaction, targets: Sequence[str], notified: Sequence[str]) -> set[str]:
    """Give each new message its targets: `targets` of steps, `notified` of notifications. Returns those with work.

    What follows a message that a person has cancelled for a target is cancelled there as well.
    """
    rows = conn.execute(
        "SELECT id, step_id, kind, received_at FROM step_message WHERE is_assigned = 0 ORDER BY id LIMIT 1000"
    ).fetchall()
    found: set[str] = set()
    for number, step, kind, at in rows:
        for name in notified if kind == AVAILABLE else targets:
            conn.execute(
                "INSERT OR IGNORE INTO step_delivery (message_id, step_id, destination, not_before, state)"
                " SELECT :message, :step, :name, :at, CASE WHEN :kind <> 'available' AND EXISTS (SELECT 1"
                " FROM step_delivery WHERE step_id = :step AND destination = :name AND state = 'cancelled')"
                " THEN 'cancelled' ELSE 'pending' END",
                {"message": number, "step": step, "name": name, "at": at, "kind": kind},
            )
            found.add(name)
    conn.executemany("UPDATE step_message SET is_assigned = 1 WHERE id = ?", [(row[0],) for row in rows])
    return found


@dataclass(frozen=True, slots=True)
class DueMessage:
    """The first message of a step that a target lacks."""

    message_id: int
    step_id: int
    kind: str
    is_final: bool
    sop_instance_uid: str
    transfer_syntax_uid: str
    body: bytes
    tries: int
    unanswered: bool  # an earlier try has no answer


def list_targets_with_work(conn: Transaction, now: float) -> list[str]:
    """List the targets for which something is due."""
    rows = conn.execute(
        "SELECT DISTINCT destination FROM step_delivery WHERE state IN ('pending', 'sending') AND not_before <= ?",
        (now,),
    )
    return [row[0] for row in rows]


_DUE = """
SELECT d.message_id, d.step_id, m.kind, m.is_final, m.sop_instance_uid, m.transfer_syntax, m.body, d.tries,
       d.unanswered OR d.state = 'sending'
FROM step_delivery AS d JOIN step_message AS m ON m.id = d.message_id
WHERE d.destination = :destination AND d.state IN ('pending', 'sending') AND d.not_before <= :now
  AND NOT EXISTS (SELECT 1 FROM step_delivery AS b WHERE b.destination = :destination AND b.step_id = d.step_id
                  AND b.message_id < d.message_id AND b.state NOT IN ('sent', 'cancelled'))
ORDER BY d.message_id LIMIT :most
"""


def list_due_messages(conn: Transaction, destination: str, now: float) -> list[DueMessage]:
    """Of each step the first message that a target lacks, where that may be sent now; the oldest first."""
    rows = conn.execute(_DUE, {"destination": destination, "now": now, "most": _MOST_DUE})
    return [_due_message(row) for row in rows]


def _due_message(row: CatalogRow) -> DueMessage:
    message, step, kind, is_final, uid, syntax, body, tries, unanswered = row
    return DueMessage(message, step, kind, bool(is_final), uid, syntax, body, tries, bool(unanswered))


def note_sending(conn: Transaction, message: int, destination: str) -> None:
    """A message is about to be sent: from now on the target may have it."""
    conn.execute(
        "UPDATE step_delivery SET unanswered = (unanswered OR state = 'sending'), state = 'sending'"
        " WHERE message_id = ? AND destination = ? AND state IN ('pending', 'sending')",
        (message, destination),
    )


def note_step_sent(conn: Transaction, message: DueMessage, destination: str, status: int, now: float) -> None:
    """The target has a message."""
    conn.execute(
        "UPDATE step_delivery SET state = 'sent', status = ?, last_error = '', peer_text = '', ended_at = ?"
        " WHERE message_id = ? AND destination = ? AND state IN ('pending', 'sending')",
        (status, now, message.message_id, destination),
    )
    named = "SELECT study_uid, accession_number FROM performed_step WHERE id = ?"
    study_uid, accession = conn.execute(named, (message.step_id,)).fetchone()
    payload = {"step_uid": message.sop_instance_uid, "message": message.kind, "status": status}
    payload |= {"study_uid": study_uid, "accession": accession}
    ledger.append(conn, now, ledger.STEP_SENT, ledger.EDGE, [], destination=destination, payload=payload)


def note_step_failed(
    conn: Transaction, message: int, destination: str, status: int | None, peer_text: str, not_before: float | None
) -> None:
    """The target has refused a message: again at `not_before`; None: a person decides. `peer_text`: its own words."""
    conn.execute(
        "UPDATE step_delivery SET state = CASE WHEN :at IS NULL THEN 'held' ELSE 'pending' END, status = :status,"
        " last_error = :error, peer_text = :text, tries = tries + 1, not_before = coalesce(:at, not_before)"
        " WHERE message_id = :message AND destination = :destination AND state IN ('pending', 'sending')",
        {
            "at": not_before,
            "status": status,
            "error": f"status {status:04X}" if status is not None else "",
            "text": peer_text,
            "message": message,
            "destination": destination,
        },
    )


def note_unreachable(conn: Transaction, message: int, destination: str, error: str) -> None:
    """The target could not be reached, or was lost: the message keeps its place."""
    conn.execute(
        "UPDATE step_delivery SET last_error = ? WHERE message_id = ? AND destination = ?",
        (error, message, destination),
    )


def note_refused_by_target(conn: Transaction, message: int, destination: str, status: int, error: str) -> None:
    """The target takes nothing now: the message has an answer, and keeps its place."""
    conn.execute(
        "UPDATE step_delivery SET state = 'pending', status = ?, last_error = ? WHERE message_id = ?"
        " AND destination = ? AND state IN ('pending', 'sending')",
        (status, error, message, destination),
    )


def repeat_create(conn: Transaction, message: DueMessage, destination: str, status: int, now: float) -> None:
    """The target does not know the step of an N-SET: its N-CREATE goes again first."""
    conn.execute(
        "UPDATE step_delivery SET state = 'pending', not_before = :now, ended_at = NULL WHERE destination = :to"
        " AND message_id = (SELECT min(id) FROM step_message WHERE step_id = :step)",
        {"now": now, "to": destination, "step": message.step_id},
    )
    note_step_failed(conn, message.message_id, destination, status, "", now)


# -- what people decide -----------------------------------------------------------------------------------------------


def retry_steps(conn: Transaction, steps: Collection[int], destination: str, who: str, why: str, now: float) -> int:
    """Send what is held, or waits, now. `destination` "": to every target. Returns how many messages."""
    return _decide(conn, steps, destination, who, why, now, "retry", "state = 'pending', tries = 0")


def cancel_steps(conn: Transaction, steps: Collection[int], destination: str, who: str, why: str, now: float) -> int:
    """A person decides that a target does not get the rest of these steps. Returns how many messages."""
    return _decide(conn, steps, destination, who, why, now, "cancel", "state = 'cancelled', ended_at = :now")


def _decide(
    conn: Transaction,
    steps: Collection[int],
    destination: str,
    who: str,
    why: str,
    now: float,
    action: str,
    change: str,
) -> int:
    count = 0
    for step in steps:
        values = {"now": now, "step": step, "to": destination}
        changed = conn.execute(
            f"UPDATE step_delivery SET {change}, not_before = :now WHERE step_id = :step"
            " AND (:to = '' OR destination = :to) AND state IN ('held', 'pending')",
            values,
        ).rowcount
        if changed:
            uid = conn.execute("SELECT sop_instance_uid FROM performed_step WHERE id = ?", (step,)).fetchone()[0]
            payload = {"action": action, "reason": why, "step_uid": uid, "count": changed}
            ledger.append(conn, now, ledger.STEP_DECIDED, who, [], destination=destination, payload=payload)
        count += changed
    return count


def rename_target(conn: Transaction, old: str, new: str) -> None:
    """Two names are one target."""
    conn.execute("UPDATE OR IGNORE step_delivery SET destination = ? WHERE destination = ?", (new, old))
    conn.execute("DELETE FROM step_delivery WHERE destination = ?", (old,))


def retire_target(conn: Transaction, name: str, now: float) -> None:
    """A target has gone: what it lacks is not sent."""
    conn.execute(
        "UPDATE step_delivery SET state = 'cancelled', ended_at = ? WHERE destination = ?"
        " AND state NOT IN ('sent', 'cancelled')",
        (now, name),
    )


# -- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedStep:
    """A step as people read it. `open`, `held`: messages that targets have not got."""

    id: int
    sop_instance_uid: str
    state: str
    calling_ae: str
    modality: str
    accession_number: str
    study_uid: str
    created_at: float
    ended_at: float | None
    named: int  # instances
    missing: int
    open: int
    held: int
    last_error: str
    is_reported: bool  # by a modality; else it is a study that is announced without a step

    @property
    def state_word(self) -> str:
        return self.state.lower() if self.is_reported else "no step"


_LISTED = """
SELECT p.id, p.sop_instance_uid, p.state, p.calling_ae, p.modality, p.accession_number, p.study_uid, p.created_at,
       p.ended_at, (SELECT count(*) FROM performed_instance AS i WHERE i.step_id = p.id), p.missing,
       (SELECT count(*) FROM step_delivery AS d WHERE d.step_id = p.id AND d.state IN ('pending', 'sending')),
       (SELECT count(*) FROM step_delivery AS d WHERE d.step_id = p.id AND d.state = 'held'),
       coalesce((SELECT max(d.last_error) FROM step_delivery AS d
                 WHERE d.step_id = p.id AND d.state NOT IN ('sent', 'cancelled')), ''), p.is_reported
FROM performed_step AS p
"""
_IS_OPEN = "EXISTS (SELECT 1 FROM step_delivery AS o WHERE o.step_id = p.id AND o.state NOT IN ('sent', 'cancelled'))"


def list_steps(conn: Transaction, *, only_open: bool = False, limit: int = 200) -> list[ListedStep]:
    """List steps: those first of which a target lacks something, then the newest."""
    rows = conn.execute(
        _LISTED + f"WHERE NOT :only_open OR {_IS_OPEN} ORDER BY {_IS_OPEN} DESC, created_at DESC LIMIT :n",
        {"only_open": only_open, "n": limit},
    )
    return [_make_listed_step(row) for row in rows]


def _make_listed_step(row: CatalogRow) -> ListedStep:
    found = ListedStep(*row)
    return replace(found, is_reported=bool(found.is_reported))


@dataclass(frozen=True, slots=True)
class StepMessageRow:
    """A message and how it stands with one target; `destination` "": it has none."""

    message_id: int
    kind: str
    received_at: float
    transfer_syntax_uid: str
    body: bytes
    destination: str
    state: str
    status: int | None
    tries: int
    last_error: str
    peer_text: str


def find_step(conn: Transaction, number: int) -> ListedStep | None:
    row = conn.execute(_LISTED + "WHERE p.id = ?", (number,)).fetchone()
    return _make_listed_step(row) if row else None


def list_step_messages(conn: Transaction, number: int) -> list[StepMessageRow]:
    """List the messages of a step, in order."""
    rows = conn.execute(
        "SELECT m.id, m.kind, m.received_at, m.transfer_syntax, m.body, coalesce(d.destination, ''),"
        " coalesce(d.state, ''), d.status, coalesce(d.tries, 0), coalesce(d.last_error, ''),"
        " coalesce(d.peer_text, '') FROM step_message AS m"
        " LEFT JOIN step_delivery AS d ON d.message_id = m.id WHERE m.step_id = ? ORDER BY m.id, d.destination",
        (number,),
    )
    return [StepMessageRow(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class OwedSteps:
    """What one target has not got."""

    destination: str
    open: int
    held: int
    oldest_at: float
    held_since: float | None
    last_error: str


def summarize_owed_steps(conn: Transaction) -> list[OwedSteps]:
    """Summarize messages that are not sent, by target."""
    rows = conn.execute(
        "SELECT d.destination, sum(d.state <> 'held'), sum(d.state = 'held'), min(m.received_at),"
        " min(CASE d.state WHEN 'held' THEN m.received_at END), max(d.last_error)"
        " FROM step_delivery AS d JOIN step_message AS m ON m.id = d.message_id"
        " WHERE d.state NOT IN ('sent', 'cancelled') GROUP BY d.destination ORDER BY d.destination"
    )
    return [OwedSteps(*row) for row in rows]


def forget_old_steps(conn: Transaction, ended_before: float, limit: int = 50) -> int:
    """Let go of steps that ended long ago and that every target has. Returns how many."""
    old = conn.execute(
        f"SELECT p.id FROM performed_step AS p WHERE coalesce(p.ended_at, p.created_at) < ? AND NOT {_IS_OPEN} LIMIT ?",
        (ended_before, limit),
    ).fetchall()
    for table in ("step_delivery", "step_message", "performed_instance", "performed_scheduled_step"):
        conn.executemany(f"DELETE FROM {table} WHERE step_id = ?", old)
    conn.executemany("DELETE FROM performed_step WHERE id = ?", old)
    return len(old)
