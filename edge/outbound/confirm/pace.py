"""The times at which a destination is asked for proof, and the meaning of its answers. Pure. Times are seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from edge.store.commitments import Unconfirmed, UnconfirmedSummary


@dataclass(frozen=True, slots=True)
class Pace:
    """Every time that the confirmer keeps, in seconds, and the size of a request."""

    full: int = 300  # instances that are worth a request at once
    most: int = 500  # instances in one request
    patience: float = 5.0  # no instance waits longer for its request to fill
    settled: float = 1.0  # nothing more is being sent since then: the request is as full as it will be
    linger: float = 10.0  # how long to stay for a report on the association of the request
    deadline: float = 600.0  # for the report; doubled each time that none comes
    longest_deadline: float = 3600.0
    first_look: float = 10.0  # query: until the next query for what was not found; then as long again as it is sent
    missing: float = 300.0  # query: archives index late; what is not found this long after sending is not there
    later: float = 3600.0  # an archive may say "later" this long after sending; then it is taken to lack the instance
    resend: float = 60.0  # until the second resending; doubled each time; the first is at once
    longest_resend: float = 3600.0
    retry: float = 5.0  # after a failed exchange; doubled each time
    longest_retry: float = 300.0
    longest_pause: float = 30.0  # after exchanges that broke one after the other, though the destination is there
    refused: float = 900.0  # after the archive has refused the service
    poll: float = 1.0  # between polls of the queue
    breath: float = 0.1  # between two steps, however often we are woken: so that they find batches


class FailureAction(Enum):
    """What becomes of an instance that the archive did not commit to."""

    RESEND = "resend"
    LATER = "later"  # it stays in its request, and is asked about again after the deadline
    HOLD = "hold"  # a person must decide


#: Failure Reason (PS3.3 section C.14.1.1) -> what becomes of the instance; what is not listed is sent again.
FAILURES = {
    0x0110: FailureAction.LATER,
    0x0112: FailureAction.RESEND,
    0x0119: FailureAction.HOLD,
    0x0122: FailureAction.HOLD,
    0x0131: FailureAction.LATER,
    0x0213: FailureAction.LATER,
}


def action_for(reason: int, since_sent: float, pace: Pace) -> FailureAction:
    """What becomes of an instance for which the archive reports a Failure Reason."""
    action = FAILURES.get(reason, FailureAction.RESEND)
    return FailureAction.RESEND if action is FailureAction.LATER and since_sent > pace.later else action


def is_due(waiting: UnconfirmedSummary, now: float, pace: Pace) -> bool:
    """Is it time for a request? Full, complete, or long enough waited."""
    if waiting.count == 0:
        return False
    if waiting.count >= pace.full or now - waiting.oldest >= pace.patience:
        return True
    return not waiting.busy and now - waiting.newest >= pace.settled


def double(first: float, times: int, longest: float) -> float:
    """Backoff: `first`, doubled `times` times, never over `longest`."""
    return min(first * 2.0 ** min(times, 32), longest)


def resend_at(denials: int, now: float, pace: Pace) -> float:
    """When to send again what is denied after that number of denials: at once, later ever more slowly."""
    return now if denials == 0 else now + double(pace.resend, denials - 1, pace.longest_resend)


def by_series(
    batch: Sequence[Unconfirmed], one_by_one: Callable[[Sequence[Unconfirmed]], bool]
) -> list[list[Unconfirmed]]:
    """What is asked about with one C-FIND each: the instances of a series together, or each of them alone."""
    series: dict[tuple[str, str], list[Unconfirmed]] = defaultdict(list)
    for each in batch:
        series[each.study_uid, each.series_uid].append(each)
    groups = []
    for members in series.values():
        groups += [[each] for each in members] if one_by_one(members) else [members]
    return groups
