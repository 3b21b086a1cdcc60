"""A destination whose `confirm` has become "status"."""

from __future__ import annotations

from edge.store import commitments
from edge.store.database import Connection, Database


def accept_status(db: Database, destination: str, now: float, at_once: int = 500) -> int:
    """For a destination whose `confirm` has become "status": the C-STORE status proves what it took before, too.

    Without this, what awaited another proof before the change would await it indefinitely. Returns how many.
    """
    with db.reading() as conn:
        still_open = commitments.overdue(conn, destination, float("inf"))
    for uid in still_open:
        db.write(lambda conn, uid=uid: commitments.end_request(conn, uid, now))  # type: ignore[misc]
    total = 0

    def work(conn: Connection) -> int:
        batch = commitments.unconfirmed(conn, destination, at_once, with_suspects=True)
        commitments.confirm(conn, destination, batch, now, "by the C-STORE status")
        return len(batch)

    while done := db.write(work):
        total += done
    return total
