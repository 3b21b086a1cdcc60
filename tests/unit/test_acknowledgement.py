"""What an acknowledgement says, byte for byte: in separators, version and character set of the message (HL7 2.9)."""

from __future__ import annotations

import pytest

from edge.hl7.acknowledgement import list_codes, write_acknowledgement
from edge.hl7.form import find_fault
from edge.hl7.message import parse_message

NOW = 1_767_600_000.0  # 2026-01-05 08:00 UTC
PID = "PID|1||T1^^^MTF0067^MR||TESTPATIENT^ANNA||19700101|F"


def answer(*segments: str) -> list[str]:
    """The segments of the last acknowledgement that a message is owed."""
    message = parse_message("".join(each + "\r" for each in segments).encode())
    fault = find_fault(message)
    code = list_codes(message, fault)[-1]
    return write_acknowledgement(message, code, fault, NOW, 7).decode("latin-1").split("\r")[:-1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "MSH|^~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT^A08|M1|T|2.3.1",
            ["MSH|^~\\&|EDGE|CLINIC|HIS|MTF|20260105080000+0000||ACK|E1767600000000007|T|2.3.1", "MSA|AA|M1"],
        ),
        (
            "MSH|^~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT^A08^ADT_A01|M1|P|2.5.1||||||8859/1",
            [
                "MSH|^~\\&|EDGE|CLINIC|HIS|MTF|20260105080000+0000||ACK^A08^ACK|E1767600000000007|P|2.5.1||||||8859/1",
                "MSA|AA|M1",
            ],
        ),
        (
            "MSH|$~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT$A08|M1|P|2.4$USA",
            [
                "MSH|$~\\&|EDGE|CLINIC|HIS|MTF|20260105080000+0000||ACK$A08$ACK|E1767600000000007|P|2.4$USA",
                "MSA|AA|M1",
            ],
        ),
    ],
    ids=["before version 2.4", "with a character set", "other separators"],
)
def test_sender_and_receiver_change_places_and_the_rest_is_as_in_the_message(header: str, expected: list[str]) -> None:
    assert answer(header, PID.replace("^", header[4])) == expected


def test_an_error_names_the_place_as_its_version_does() -> None:
    """ERR-1 before 2.5, then ERR-2 to ERR-4 and ERR-8; the words are in MSA-3, too."""
    words = "PID-3 is required and empty"
    empty = "PID|1||||TESTPATIENT^ANNA||19700101|F"
    old = answer("MSH|^~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT^A08|M1|P|2.3.1", empty)
    assert old[1:] == [f"MSA|AE|M1|{words}", "ERR|PID^1^3^101&Required field missing&HL70357"]
    new = answer("MSH|^~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT^A08|M1|P|2.5.1", empty)
    assert new[1:] == [
        f"MSA|AE|M1|{words}",
        f"ERR||PID^1^3|101^Required field missing^HL70357|E||||{words}",
    ]


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("", "", ["AA"], ["AE"]),
        ("AL", "AL", ["CA", "AA"], ["CE"]),
        ("AL", "NE", ["CA"], ["CE"]),
        ("SU", "ER", ["CA"], ["AE"]),
        ("ER", "AL", ["AA"], ["CE"]),
        ("NE", "NE", [], []),
        ("", "AL", ["AA"], ["AE"]),
        ("AL", "", ["CA", "AA"], ["CE"]),
    ],
)
def test_what_is_owed_by_what_the_message_asks_for(
    accept: str, application: str, good: list[str], bad: list[str]
) -> None:
    """MSH-15 and MSH-16 (table 0155): always, never, on error, on success."""
    head = f"MSH|^~\\&|HIS|MTF|EDGE|CLINIC|20260105||ADT^A08|M1|P|2.5.1|||{accept}|{application}\r"
    for segment, codes in ((PID, good), ("PID|1", bad)):
        message = parse_message((head + segment + "\r").encode())
        assert list_codes(message, find_fault(message)) == codes
