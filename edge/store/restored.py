"""A restore's decisions about deliveries: those that had an instance before are not sent it again.

The caller owns the transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set

from edge.model import DeliveryState
from edge.store import commitments, ledger
from edge.store.commitments import Unconfirmed
from edge.store.database import Transaction
from edge.store.gateway_values import remember
from edge.store.transitions import update_statement

_MARK = update_statement("restore", DeliveryState.SENT, "sent_at = :now")
#: What is restored counts as sent this long ago: a destination that lacks it is not merely slow.
SENT_BEFORE_SECONDS = 3600.0
#: When a restore was last done, in the table gateway.
RESTORED_AT = "restored_at"


def instances_here(conn: Transaction, uids: Sequence[str]) -> set[str]:
    """Which of these SOP Instance UIDs are here."""
    rows = conn.execute(
        "SELECT sop_instance_uid FROM instance WHERE sop_instance_uid IN (SELECT value FROM json_each(?))"
        " AND state IN ('stored', 'conflict')",
        (json.dumps(list(uids)),),
    )
    return {row[0] for row in rows}


def settle_restored(
    conn: Transaction, instance: int, study: int | None, proved: Set[str], asked: Set[str], now: float
) -> list[str]:
    """Settle a restored instance's deliveries: what destinations have is confirmed (`proved`), or awaits it (`asked`).

    Returns the other destinations, to which it is sent.
    """
    rows = conn.execute(
        "SELECT d.id, d.destination, i.sop_instance_uid, k.sop_class_uid, coalesce(s.study_uid, '') AS study_uid,"
        " i.series_uid FROM delivery d JOIN instance i ON i.id = d.instance_id JOIN kind k ON k.id = i.kind_id"
        " LEFT JOIN study s ON s.id = i.study_id WHERE d.instance_id = ? AND d.state = 'pending'",
        (instance,),
    ).fetchall()
    left = []
    for row in rows:
        name = row["destination"]
        if name not in proved and name not in asked:
            left.append(name)
            continue
        conn.execute(_MARK, {"id": row["id"], "now": now - SENT_BEFORE_SECONDS})
        ledger.append(conn, now, ledger.RESTORED, ledger.EDGE, [instance], study_id=study, destination=name)
        if name in proved:
            uids = row["sop_class_uid"], row["sop_instance_uid"], row["study_uid"], row["series_uid"]
            each = Unconfirmed(row["id"], instance, *uids, 0, now, study)
            commitments.confirm(conn, name, [each], now, {"method": ledger.BY_QUERY})
    return left


def note_restored(conn: Transaction, now: float) -> None:
    remember(conn, RESTORED_AT, str(now))
