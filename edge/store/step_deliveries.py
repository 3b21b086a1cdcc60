"""The messages of performed procedure steps that targets still have to get, and what people decide about them.

A message goes to each target strictly behind the messages of its step before it; other steps do not wait for it. One
that is `held` was refused for good, and a person decides. Functions of a connection, as those of edge.store.deliveries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge.store import ledger
from edge.store.database import CatalogRow, Transaction
from edge.store.performed_steps import AVAILABLE

#: Steps that are handed to a target in one go.
_MOST_DUE = 200


# -- what targets have to get -----------------------------------------------------------------------------------------


_IS_NEW = "is_assigned = 0 AND CASE kind WHEN 'available' THEN :notifies ELSE :has_targets END"


def has_unassigned(conn: Transaction, targets: Sequence[str], notified: Sequence[str]) -> bool:
    """Is there a message whose targets are not decided yet? One that nobody is configured for waits."""
    values = {"has_targets": bool(targets), "notifies": bool(notified)}
    return conn.execute(f"SELECT 1 FROM step_message WHERE {_IS_NEW} LIMIT 1", values).fetchone() is not None


def assign_targets(conn: Transaction, targets: Sequence[str], notified: Sequence[str]) -> set[str]:
    """Give each new message its targets: `targets` of steps, `notified` of notifications. Returns those with work.

    What follows a message that a person has cancelled for a target is cancelled there as well.
    """
    rows = conn.execute(
        f"SELECT id, step_id, kind, received_at FROM step_message WHERE {_IS_NEW} ORDER BY id LIMIT 1000",
        {"has_targets": bool(targets), "notifies": bool(notified)},
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
    """List, of each step, the first message that a target lacks, where it may be sent now; the oldest first."""
    rows = conn.execute(_DUE, {"destination": destination, "now": now, "most": _MOST_DUE})
    return [_due_message(row) for row in rows]


def _due_message(row: CatalogRow) -> DueMessage:
    message, step, kind, is_final, uid, syntax, body, tries, unanswered = row
    return DueMessage(message, step, kind, bool(is_final), uid, syntax, body, tries, bool(unanswered))


def note_sending(conn: Transaction, message: int, destination: str) -> None:
    """Note that a message is about to be sent: from now on the target may have it."""
    conn.execute(
        "UPDATE step_delivery SET unanswered = (unanswered OR state = 'sending'), state = 'sending'"
        " WHERE message_id = ? AND destination = ? AND state IN ('pending', 'sending')",
        (message, destination),
    )


def note_step_sent(conn: Transaction, message: DueMessage, destination: str, status: int, now: float) -> None:
    """Record that the target has a message."""
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
    """Record a target's refusal: again at `not_before`; None: a person decides. `peer_text`: the target's own words."""
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
    """Cancel what a target that has gone still lacks."""
    conn.execute(
        "UPDATE step_delivery SET state = 'cancelled', ended_at = ? WHERE destination = ?"
        " AND state NOT IN ('sent', 'cancelled')",
        (now, name),
    )


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
