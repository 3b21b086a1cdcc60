"""Performed procedure steps (PS3.4 annex F): their states and messages, as modalities report them.

What targets have of them is in edge.store.step_deliveries; what was performed is compared with what arrived in
edge.store.step_images. Functions of a connection, as those of edge.store.deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge.journal.kinds.performed_step import RecordedStep
from edge.store import ledger
from edge.store.database import CatalogRow, Transaction
from edge.store.listing import Listing, ListSql

if TYPE_CHECKING:
    from edge.dicom.performed_step import StepMessage

CREATE, SET, AVAILABLE = "create", "set", "available"
IN_PROGRESS = "IN PROGRESS"


# -- what modalities report -------------------------------------------------------------------------------------------


def find_state(conn: Transaction, uid: str) -> tuple[str, bytes] | None:
    """The state of a step and the digest of its N-CREATE; None where it is not in the catalog."""
    row = conn.execute("SELECT state, digest FROM performed_step WHERE sop_instance_uid = ?", (uid,)).fetchone()
    return (row[0], row[1]) if row else None


def list_step_bodies(conn: Transaction, uid: str) -> list[tuple[str, bytes]]:
    """Transfer syntax and data set of each message of a step, in their order."""
    sql = (
        "SELECT m.transfer_syntax, m.body FROM step_message AS m JOIN performed_step AS p ON p.id = m.step_id"
        " WHERE p.sop_instance_uid = ? AND m.kind IN ('create', 'set') ORDER BY m.id"
    )
    return [(row[0], row[1]) for row in conn.execute(sql, (uid,))]


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
    if row is None or row["state"] != IN_PROGRESS or is_known_message(conn, record):
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


def is_known_message(conn: Transaction, name: str) -> bool:
    """Is a message of this name entered?"""
    return conn.execute("SELECT 1 FROM step_message WHERE record = ?", (name,)).fetchone() is not None


def enter_notification(
    conn: Transaction, step_id: int, name: str, uid: str, syntax: str, body: bytes, now: float
) -> None:
    """Enter an Instance Availability Notification of ours; `name`: what it is for, so that it is entered once."""
    conn.execute(
        "INSERT OR IGNORE INTO step_message (step_id, kind, is_final, record, sop_instance_uid, transfer_syntax, body,"
        " received_at) VALUES (?, 'available', 1, ?, ?, ?, ?, ?)",
        (step_id, name, uid, syntax, body, now),
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
_IS_OPEN = "p.id IN (SELECT o.step_id FROM step_delivery AS o WHERE o.state NOT IN ('sent', 'cancelled'))"
_LIST = ListSql(
    "p.id",
    "FROM performed_step AS p",
    f"{_IS_OPEN} DESC, p.created_at DESC, p.id DESC",
    {
        "equipment": ("p.calling_ae",),
        "state": ("p.state",),
        "begun": ("p.created_at",),
        "accession": ("p.accession_number",),
        "missing": ("p.missing",),
    },
)
STEP_COLUMNS = _LIST.orders.keys()


def list_steps(conn: Transaction, *, only_open: bool = False, state: str = "") -> Listing[ListedStep]:
    """List steps: those first of which a target lacks something, then the newest."""

    def make(row: CatalogRow) -> ListedStep:
        return _make_listed_step(conn.execute(_LISTED + "WHERE p.id = ?", (row[0],)).fetchone())

    return Listing(conn, _LIST, make, {_IS_OPEN: only_open, "p.state = :state": state}, {"state": state})


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
