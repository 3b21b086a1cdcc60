"""Every C-STORE status has its outcome: PS3.4 table B.2-1, PS3.7 annex C."""

from __future__ import annotations

import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from edge.dicom.status import is_out_of_resources, meaning_of
from edge.model import Outcome

SENT, DEFER, HOLD = Outcome.SENT, Outcome.DEFER, Outcome.HOLD

#: Every status whose outcome is not HOLD; all others are.
EXPECTED = {
    0x0000: SENT,
    0x0001: SENT,
    0x0107: SENT,
    0x0110: DEFER,
    0x0111: SENT,
    0x0116: SENT,
    0x0213: DEFER,
    **dict.fromkeys(range(0xA700, 0xA770), DEFER),
    0xA772: DEFER,
    0xA77A: DEFER,
    **dict.fromkeys(range(0xA77C, 0xA800), DEFER),
    **dict.fromkeys(range(0xB000, 0xC000), SENT),
    **dict.fromkeys(range(0xFE00, 0xFF00), DEFER),
}


def test_every_status_has_its_outcome() -> None:
    for status in range(0x10000):
        assert meaning_of(status).outcome is EXPECTED.get(status, HOLD), f"{status:04X}"


def test_only_plain_success_needs_no_words() -> None:
    assert meaning_of(0).text == ""
    for status in range(1, 0x10000):
        assert f"(status {status:04X})" in meaning_of(status).text


def test_every_status_of_the_standard_is_explained() -> None:
    for status, (_, name) in STORAGE_SERVICE_CLASS_STATUS.items():
        assert "not a status that DICOM defines" not in meaning_of(status).text, f"{status:04X} {name}"


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        (0x0111, SENT, "already"),
        (0x0124, HOLD, "not authorized"),
        (0xA700, DEFER, "out of resources"),
        (0xA701, DEFER, "refuses this object"),
        (0xA771, HOLD, "the destination refuses it, in dcm4chee's terms: the object was rejected there"),
        (0xA777, HOLD, "no Patient ID"),
        (0xA77A, DEFER, "being deleted"),
        (0xA900, HOLD, "does not match"),
        (0xB006, SENT, "discarded"),
        (0xBABE, SENT, "warning"),
        (0xC123, HOLD, "cannot understand"),
        (0xFE00, DEFER, "cancelled"),
        (0xFF00, HOLD, "not a status that DICOM defines"),
        (0x1234, HOLD, "not a status that DICOM defines"),
    ],
)
def test_what_a_person_reads(status: int, outcome: Outcome, words: str) -> None:
    verdict = meaning_of(status)
    assert verdict.outcome is outcome
    assert words in verdict.text


def test_what_speaks_of_the_destination_as_a_whole() -> None:
    of_all = {status for status in range(0x10000) if is_out_of_resources(status)}
    assert of_all == {0x0213, 0xA700}
