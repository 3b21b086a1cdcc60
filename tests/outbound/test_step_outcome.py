"""What a target's answer to a message of a performed step means: a table."""

from __future__ import annotations

import pytest

from edge.outbound.steps.outcome import MOST_TRIES, StepOutcome, decide_step_outcome
from edge.store.step_deliveries import DueMessage

TAKEN, LATER, HELD = StepOutcome.TAKEN, StepOutcome.LATER, StepOutcome.HELD
CREATE_FIRST, TARGET_LATER = StepOutcome.CREATE_FIRST, StepOutcome.TARGET_LATER


def message(kind: str, is_final: bool = False, tries: int = 0, unanswered: bool = False) -> DueMessage:
    return DueMessage(1, 1, kind, is_final, "1.2", "1.2.840.10008.1.2.1", b"", tries, unanswered)


@pytest.mark.parametrize(
    ("sent", "status", "outcome"),
    [
        (message("create"), 0x0000, TAKEN),
        (message("create"), 0x0001, TAKEN),  # requested optional attributes are not supported
        (message("set"), 0x0107, TAKEN),  # attribute list warning
        (message("create"), 0x0111, TAKEN),  # it has it: an acknowledgement was lost
        (message("set", True, unanswered=True), 0x0110, TAKEN),  # the same
        (message("set", True), 0x0110, LATER),  # it never was answered before: a failure
        (message("set", unanswered=True), 0x0110, LATER),  # not the final one: it could have been taken again
        (message("set", True, tries=MOST_TRIES - 1), 0x0110, HELD),
        (message("set"), 0x0112, CREATE_FIRST),
        (message("set", tries=MOST_TRIES - 1), 0x0112, HELD),
        (message("create"), 0x0112, HELD),
        (message("create"), 0xA777, HELD),
        (message("create"), 0x0106, HELD),
        (message("create"), 0x0120, HELD),
        (message("available"), 0x0111, HELD),
        (message("create"), 0xA700, TARGET_LATER),
        (message("create"), 0x0213, TARGET_LATER),
        (message("create"), 0x0122, TARGET_LATER),
        (message("create"), 0x0124, TARGET_LATER),
        (message("create"), 0x0211, TARGET_LATER),
        (message("create", tries=99), 0x0213, TARGET_LATER),  # indefinitely
    ],
)
def test_outcomes(sent: DueMessage, status: int, outcome: StepOutcome) -> None:
    assert decide_step_outcome(sent, status) is outcome
