"""Instances that a commitment report does not commit to (PS3.4 section J.3.3): sent again, held, or asked again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from edge.model import Reason, ReasonCode
from edge.outbound.confirm.pace import FailureAction, Pace, action_for, resend_at
from edge.store import commitments
from edge.store.commitments import Unconfirmed
from edge.store.database import Transaction


def find_meant(
    conn: Transaction, destination: str, sop_instance_uids: Collection[str], asked_at: float
) -> list[Unconfirmed]:
    """The deliveries that a report names. One that was sent again since is not meant."""
    return [
        each for uid in sop_instance_uids for each in commitments.find_unconfirmed(conn, destination, uid, asked_at)
    ]


def record_failures(
    conn: Transaction, destination: str, failed: Mapping[str, int], asked_at: float, now: float, pace: Pace
) -> None:
    """Decide by the Failure Reason (PS3.3 section C.14.1.1) of each SOP Instance UID, and write it down."""
    resend: dict[tuple[int, float], list[Unconfirmed]] = defaultdict(list)
    hold: dict[int, list[Unconfirmed]] = defaultdict(list)
    for uid, failure in failed.items():
        for each in find_meant(conn, destination, [uid], asked_at):
            action = action_for(failure, now - each.sent_at, pace)
            if action is FailureAction.RESEND:
                resend[failure, resend_at(each.denials, now, pace)].append(each)
            elif action is FailureAction.HOLD:
                hold[failure].append(each)
    for (failure, retry_at), missing in resend.items():
        reason = Reason(ReasonCode.MISSING, {"failure": failure})
        commitments.mark_missing(conn, destination, missing, now, reason, retry_at)
    for failure, refused in hold.items():
        reason = Reason(ReasonCode.NOT_COMMITTED, {"failure": failure})
        commitments.mark_refused(conn, destination, refused, now, reason)
