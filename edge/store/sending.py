"""A person sends a study to a destination, whatever the routes say."""

from __future__ import annotations

from dataclasses import dataclass

from edge.model import Assignment, Priority
from edge.store import deliveries, ledger
from edge.store.database import Transaction

#: Instances in one transaction: scanners wait while one runs.
SEND_BATCH = 500


@dataclass(frozen=True, slots=True)
class SendProgress:
    """One batch of a study. `after`: the instance to go on behind; None: all is done."""

    after: int | None
    queued: int = 0
    there: int = 0  # has it or gets it already
    undecided: int = 0  # a person must decide about the image first
    gone: int = 0  # its file is not here any more


_MEMBERS = """
SELECT i.id, i.kind_id, i.size, i.state, d.state AS delivery_state
FROM instance i LEFT JOIN delivery d ON d.instance_id = i.id AND d.destination = :destination
WHERE i.study_id = :study AND i.id > :after ORDER BY i.id LIMIT :limit
"""


def send_study(
    conn: Transaction,
    study: int,
    destination: str,
    priority: Priority,
    after: int,
    now: float,
    who: str,
    why: str,
    *,
    again: bool,
) -> SendProgress:
    """Queue a batch of a study's instances for a destination. `again`: also what was sent there before."""
    values = {"study": study, "destination": destination, "after": after, "limit": SEND_BATCH}
    rows = conn.execute(_MEMBERS, values).fetchall()
    counts = {"queued": 0, "there": 0, "undecided": 0, "gone": 0}
    queued = []
    ended = (None, "cancelled", *(("sent", "confirmed") if again else ()))
    for row in rows:
        if row["state"] != "stored":
            counts["gone" if row["state"] in ("evicted", "lost") else "undecided"] += 1
        elif row["delivery_state"] in ended:
            assigned = [Assignment(destination, priority, "")]
            deliveries.enqueue(conn, row["id"], row["kind_id"], row["size"], assigned, now)
            queued.append((study, row["id"]))
        else:
            counts["undecided" if row["delivery_state"] == "held" else "there"] += 1
    counts["queued"] = len(queued)
    if queued:
        deliveries.record_by_study(conn, now, ledger.ROUTED, who, queued, destination, {"reason": why})
    return SendProgress(rows[-1]["id"] if len(rows) == SEND_BATCH else None, **counts)
