"""The meaning of an acknowledgement for a relayed message, and the time of the next attempt. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Seconds between tries, the first and the longest.
FIRST_RELAY_SECONDS, LONGEST_RELAY_SECONDS = 1.0, 60.0
#: A receiver that rejects (AR, CR) is tried again for this long: it may have no room, or be starting.
RELAY_REJECTED_SECONDS = 3600.0


class RelayStep(Enum):
    """What follows."""

    DONE = "done"
    RETRY = "retry"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """MSA-1 and the receiver's words (MSA-3, ERR-8)."""

    code: str
    text: str = ""


def decide_step(answer: ReceiverAnswer, first_at: float | None, now: float) -> RelayStep:
    """AA and CA end it; AR and CR are tried again for an hour; AE, CE and what is no code wait for a person."""
    if answer.code in ("AA", "CA"):
        return RelayStep.DONE
    if answer.code in ("AR", "CR") and now - (now if first_at is None else first_at) < RELAY_REJECTED_SECONDS:
        return RelayStep.RETRY
    return RelayStep.HOLD
