"""The meaning of a target's answer to a message of a performed step (PS3.4 section F.7.2, PS3.7 annex C). Pure."""

from __future__ import annotations

from enum import Enum

from edge.dicom.failures import GENERAL
from edge.dicom.performed_step import DUPLICATE_STEP, MAY_NOT_BE_UPDATED, NO_SUCH_STEP
from edge.store.performed_steps import CREATE, SET
from edge.store.step_deliveries import DueMessage

#: A failure that may pass is tried again this often before a person decides.
MOST_TRIES = 5
#: Warnings of N-CREATE and N-SET: the message is taken (PS3.7 annex C).
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
#: Failures that say nothing of the message: processing failure, resource limitation.
_PASSING = frozenset({0x0110})


class StepOutcome(Enum):
    """What follows."""

    TAKEN = "taken"
    LATER = "later"  # this message again, after a while
    CREATE_FIRST = "create-first"  # the target lacks the step: its N-CREATE again, then this one
    HELD = "held"  # a person decides
    TARGET_LATER = "target-later"  # the target as a whole takes nothing now


def decide_step_outcome(message: DueMessage, status: int) -> StepOutcome:
    """What an answer means. A lost acknowledgement shows as a second N-CREATE, or as an N-SET that comes too late."""
    if status == 0 or status in _WARNINGS:
        return StepOutcome.TAKEN
    if message.kind == CREATE and status == DUPLICATE_STEP:
        return StepOutcome.TAKEN
    if message.kind == SET and status == MAY_NOT_BE_UPDATED and message.is_final and message.unanswered:
        return StepOutcome.TAKEN
    if status in GENERAL:
        return StepOutcome.TARGET_LATER
    if message.tries + 1 >= MOST_TRIES:
        return StepOutcome.HELD
    if message.kind == SET and status == NO_SUCH_STEP:
        return StepOutcome.CREATE_FIRST
    return StepOutcome.LATER if status in _PASSING else StepOutcome.HELD
