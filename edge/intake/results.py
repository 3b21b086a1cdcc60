"""Results that come back from a destination of de-identified copies: where each goes, if anywhere.

A result of a study that was sent there goes where the routes send it, and where its original study's images went; never
to where it came from. A copy that comes back, and what belongs to no study that was sent there, goes nowhere: it is
kept, and waits for a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.intake.policy import Policy
from edge.model import EMPTY_REASON, Assignment, InstanceHeader, Reason, ReasonCode
from edge.store import companions
from edge.store.database import Transaction
from edge.store.returned import Returned, find_returned


@dataclass(frozen=True, slots=True)
class ReturnedRoute:
    """Where a returned object goes; with a reason it is held."""

    assignments: tuple[Assignment, ...]
    held_for: Reason = EMPTY_REASON


def route_returned(
    conn: Transaction, facts: InstanceHeader, policy: Policy, assignments: Sequence[Assignment]
) -> ReturnedRoute | None:
    """Decide about an object; None where it did not come from a destination of de-identified copies."""
    origins = policy.anonymous.get(facts.origin.calling_ae)
    if not origins:
        return None
    found = find_returned(conn, origins, facts.sop_instance_uid, facts.first("StudyInstanceUID"))
    if found.kind is not Returned.RESULT:
        return ReturnedRoute((), Reason(ReasonCode.UNKNOWN_STUDY, {"returned": found.kind.value}))
    to = {each.destination: each for each in companions.led_to(conn, found.study_id, policy.routes_without_companions)}
    to |= {each.destination: each for each in assignments}
    return ReturnedRoute(tuple(each for name, each in to.items() if name not in origins))
