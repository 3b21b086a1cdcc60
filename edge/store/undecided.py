"""Instances that wait for a person's decision, and what a decision would do. Reads only; lists are short."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from edge.model import DECIDED_BY_INSTANCE, DeliveryState, InstanceState, ReasonCode
from edge.store import queries
from edge.store.database import Transaction
from edge.store.queries import Delivery, Instance
from edge.text import moment_text, printable

_HELD = """
SELECT DISTINCT instance_id FROM delivery WHERE state = 'held' AND destination = ? AND reason_code = ?
ORDER BY id LIMIT ?
"""


def list_held(conn: Transaction, code: ReasonCode, limit: int) -> list[Instance]:
    """List instances with a delivery held for one reason, in order of arrival."""
    return queries.instances(conn, list_held_ids(conn, code, limit))


def list_held_ids(conn: Transaction, code: ReasonCode, limit: int) -> list[int]:
    names = conn.execute("SELECT DISTINCT destination FROM tally WHERE state = 'held' AND n > 0 ORDER BY 1").fetchall()
    rows = (row[0] for name in names for row in conn.execute(_HELD, (name[0], code.value, limit)).fetchall())
    return list(islice(dict.fromkeys(rows), limit))


def held_ids(conn: Transaction, destination: str, code: ReasonCode) -> list[int]:
    """List the instances of all deliveries of one destination that are held for one reason."""
    rows = conn.execute(
        "SELECT instance_id FROM delivery WHERE state = 'held' AND destination = ? AND reason_code = ? ORDER BY id",
        (destination, code.value),
    )
    return [row[0] for row in rows]


def list_discarded(conn: Transaction, limit: int) -> list[Instance]:
    """List discarded instances that are still on the disk, the oldest first."""
    return queries.instances(conn, list_discarded_ids(conn, limit))


def list_discarded_ids(conn: Transaction, limit: int) -> list[int]:
    rows = conn.execute(
        "SELECT id FROM instance WHERE state = 'discarded' AND deleted_at IS NULL ORDER BY discarded_at LIMIT ?",
        (limit,),
    )
    return [row[0] for row in rows]


def overwrites(versions: Sequence[Instance], number: int) -> list[str]:
    """Describe what sending one version replaces: a line for each destination that has or gets another. No PHI."""
    lines = []
    for other in versions:
        what = (
            f"instance {other.id} under this SOP Instance UID (received {moment_text(other.received_at)} from"
            f" {printable(other.calling_ae)}, SHA-256 {other.sha256[:12]})"
        )
        for name, delivery in other.deliveries.items() if other.id != number else ():
            if delivery.state in _THERE:
                when = f" since {moment_text(delivery.sent_at)}" if delivery.sent_at else ""
                lines.append(f"{name} has{when} {what}: instance {number} replaces it there")
            elif delivery.state in _ON_ITS_WAY:
                lines.append(
                    f"{name} gets {what}: of that and instance {number}, the last to arrive replaces the other"
                )
    return lines


_THERE = (DeliveryState.SENT, DeliveryState.CONFIRMED)
_ON_ITS_WAY = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED)


#: What `edge queue release` does, for each reason that it decides; a cancellation does not.
RELEASES = {
    ReasonCode.PERSON: "ends a person's hold",
    ReasonCode.NOTE_NOT_ALLOWED: "lets the note hide the images that it names, and sends it",
    ReasonCode.MAY_NAME_PATIENT: "sends its pixels, or its document, as they are: inspect them before",
    ReasonCode.UNKNOWN_STUDY: "sends it",
}
_WHY = '--reason "..."'


def remedy(found: Delivery) -> str:
    """The command that decides about a delivery that is held."""
    number, cancel = found.instance_id, f"`edge queue cancel {found.id} {_WHY}`"
    either = (
        f"`edge instances release {number} {_WHY}` sends it, or `edge instances discard {number} {_WHY}` refuses it"
    )
    if found.reason_code is ReasonCode.UNROUTABLE:
        return f"add a route, reload, then {either}"
    if found.reason_code in DECIDED_BY_INSTANCE:
        return f"`edge instances show {number}`, then {either}"
    if found.reason_code in RELEASES:
        return f"`edge queue release {found.id} {_WHY}` {RELEASES[found.reason_code]}, or {cancel} does not"
    return f"`edge queue retry {found.id}` tries again, or {cancel} gives it up"


def decided_by(code: ReasonCode) -> str:
    """The commands that decide what waits for a reason; ID stands for what is named."""
    if code not in DECIDED_BY_INSTANCE:
        return "`edge queue release ID` or `edge queue cancel ID`"
    if code is ReasonCode.UNROUTABLE:
        return "`edge instances release ID` (or --unroutable) or `edge instances discard ID`"
    return "`edge instances show ID`, then `edge instances release ID` or `edge instances discard ID`"


def is_undecided(instance: Instance) -> bool:
    """Check whether a person can release or discard an instance."""
    if instance.state in (InstanceState.QUARANTINED, InstanceState.CONFLICT):
        return True
    held = (each for each in instance.deliveries.values() if each.state is DeliveryState.HELD)
    return any(each.reason_code in DECIDED_BY_INSTANCE for each in held)
