"""A destination whose `confirm` has become "status"."""

from __future__ import annotations

from edge.store import commitments, ledger
from edge.store.database import Store, Transaction


def accept_status(db: Store, destination: str, now: float, at_once: int = 500) -> int:
    """Confirm by status: where `confirm` has become "status", the C-STORE status proves earlier deliveries, too.

    Without this, what awaited another proof before the change would await it indefinitely. Returns how many.
    """
    with db.reading() as conn:
        still_open = commitments.list_overdue_requests(conn, destination, float("inf"))
    for uid in still_open:
        db.write(lambda conn, uid=uid: commitments.end_request(conn, uid, now))  # type: ignore[misc]
    total = 0

    def work(conn: Transaction) -> int:
        batch = commitments.list_unconfirmed(conn, destination, at_once, with_suspects=True)
        commitments.confirm(conn, destination, batch, now, {"method": ledger.BY_STATUS})
        return len(batch)

    while done := db.write(work):
        total += done
    return total
