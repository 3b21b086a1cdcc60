"""The decision whether an instance may be committed to (PS3.4 section J.3, PS3.3 section C.14.1.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge.dicom.command import PROCESSING_FAILURE
from edge.dicom.commitment_data import CLASS_CONFLICT, CLASS_NOT_SUPPORTED, DUPLICATE_TRANSACTION, NO_SUCH_INSTANCE
from edge.dicom.uids import is_storage
from edge.model import DeliveryState, InstanceState
from edge.store.commitment_requests import NamedInstance, OpenRequest, StoredVersion

#: What is not here yet is waited for until its modality has stored nothing for this time,
LATE_SECONDS = 10.0
#: but no longer than this after the request.
LATEST_SECONDS = 3600.0
#: The proof of every destination is waited for no longer than this.
PROOF_SECONDS = 14 * 86_400.0
#: A request that waits is examined again after this part of its age, within these bounds.
LOOK_PART, LOOK_SOONEST_SECONDS, LOOK_LATEST_SECONDS = 0.1, 0.5, 60.0


@dataclass(frozen=True, slots=True)
class CommitmentOutcome:
    """`failure` 0: committed; None: not known yet. `kept_by`: the destination that has it, where it is not here."""

    failure: int | None
    kept_by: str = ""


IS_COMMITTED, NOT_KNOWN_YET, HAS_FAILED = (
    CommitmentOutcome(0),
    CommitmentOutcome(None),
    CommitmentOutcome(PROCESSING_FAILURE),
)


def may_still_come(request: OpenRequest, last_stored_at: float, applied_until: float) -> bool:
    """May an instance that is not here still come? `applied_until`: what came before is in the catalog."""
    waited_for = min(max(request.requested_at, last_stored_at) + LATE_SECONDS, request.requested_at + LATEST_SECONDS)
    return applied_until < waited_for


def next_look_at(request: OpenRequest, now: float) -> float:
    """When a request that waits is examined again."""
    wait = (now - request.requested_at) * LOOK_PART
    return now + min(max(wait, LOOK_SOONEST_SECONDS), LOOK_LATEST_SECONDS)


def decide_outcome(
    named: NamedInstance, request: OpenRequest, policy: str, *, is_awaited: bool, is_overdue: bool
) -> CommitmentOutcome:
    """What the report says of one instance. `policy`: `[modality] commit`. `is_awaited`: it may still come.

    A report that was given once is given again, except for what has been lost since.
    """
    if named.failure:
        return CommitmentOutcome(named.failure)
    if request.is_duplicate:
        return CommitmentOutcome(DUPLICATE_TRANSACTION)
    found = _decide(named, policy, is_awaited=is_awaited, is_overdue=is_overdue)
    if named.failure == 0 and (found.failure is None or not named.versions):
        return IS_COMMITTED
    return found


def _decide(named: NamedInstance, policy: str, *, is_awaited: bool, is_overdue: bool) -> CommitmentOutcome:
    if not is_storage(named.sop_class_uid):
        return CommitmentOutcome(CLASS_NOT_SUPPORTED)
    if not named.versions:
        return NOT_KNOWN_YET if is_awaited else CommitmentOutcome(NO_SUCH_INSTANCE)
    latest = named.versions[-1]
    is_undecided = any(each.state is InstanceState.CONFLICT for each in named.versions)
    if is_undecided or latest.state not in (InstanceState.STORED, InstanceState.EVICTED):
        return HAS_FAILED  # quarantined, discarded, lost, or a person has to decide which one it is
    if named.is_ambiguous or latest.sop_class_uid != named.sop_class_uid:
        return CommitmentOutcome(CLASS_CONFLICT)
    if policy == "local" and latest.state is InstanceState.STORED:
        return IS_COMMITTED
    return _decide_by_proof(latest, policy, is_overdue=is_overdue)


def _decide_by_proof(version: StoredVersion, policy: str, *, is_overdue: bool) -> CommitmentOutcome:
    """Decide by what the destinations have confirmed."""
    proved = [name for name, state in version.deliveries.items() if state is DeliveryState.CONFIRMED]
    states = set(version.deliveries.values())
    if policy == "archive" and DeliveryState.CANCELLED in states:
        return HAS_FAILED
    if proved and states <= {DeliveryState.CONFIRMED, DeliveryState.CANCELLED}:
        return CommitmentOutcome(0, proved[0])
    return HAS_FAILED if is_overdue or version.state is InstanceState.EVICTED else NOT_KNOWN_YET
