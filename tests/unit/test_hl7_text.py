"""The characters of an HL7 message: which set they are read in, and when a name is in doubt."""

from __future__ import annotations

import pytest

from edge.hl7.extraction import patient_facts
from edge.hl7.message import Hl7Message, parse_message

HEAD = b"MSH|^~\\&|HIS|MTF|EDGE|MTF|20260105080000||ADT^A08|M1|P|2.5.1||||||"
YAMADA = "山田^太郎"
JIS = YAMADA.encode("iso2022_jp")


def message(declared: str, name: bytes, feed: str = "") -> Hl7Message:
    return parse_message(HEAD + declared.encode() + b"\rPID|1||T1^^^MTF0067^MR||" + name + b"||19700101|F\r", feed)


def read_name(found: Hl7Message) -> tuple[str | None, bool]:
    pid = found.first("PID")
    assert pid is not None
    facts = patient_facts(pid, is_in_doubt=found.is_in_doubt)
    return facts.name, facts.is_in_doubt


#: MSH-18, PID-5 as it is written, the name. All bytes are ASCII: the escapes alone say what they stand for.
ESCAPES = [
    ("8859/1", rb"M\XFC\LLER^A", "MüLLER^A"),
    ("UNICODE UTF-8", rb"M\XC3BC\LLER^A", "MüLLER^A"),
    ("UNICODE UTF-8", rb"M\XC3\\XBC\LLER^A", "MüLLER^A"),
    ("8859/2", rb"\XA3\\XF3\D", "ŁóD"),
    ("", rb"M\XC3BC\LLER^A", "MüLLER^A"),
    ("", rb"M\XFC\LLER^A", "MüLLER^A"),
]


@pytest.mark.parametrize(("declared", "written", "name"), ESCAPES)
def test_hexadecimal_escapes_are_of_the_declared_set(declared: str, written: bytes, name: str) -> None:
    assert read_name(message(declared, written)) == (name, False)


def test_what_is_unescaped_is_not_unescaped_again() -> None:
    assert read_name(message("", rb"A\X5C\X42\X5C\^B")) == ("A X42^B", False)


@pytest.mark.parametrize("declared", ["~ISO IR87", "ISO IR14~ISO IR87", "ISO IR100~ISO IR159", ""])
def test_code_extensions_say_themselves_what_they_are(declared: str) -> None:
    found = message(declared, JIS)
    assert read_name(found) == (YAMADA, False)
    assert found.is_guessed == (not declared)


@pytest.mark.parametrize(("declared", "feed"), [("UNICODE UTF-8", ""), ("8859/1", ""), ("", "8859/1")])
def test_code_extensions_under_a_set_without_them_are_in_doubt(declared: str, feed: str) -> None:
    assert read_name(message(declared, JIS, feed)) == (YAMADA, True)


def test_an_escape_character_alone_contradicts_nothing() -> None:
    assert read_name(message("UNICODE UTF-8", "MÜLLER\x1b^A".encode())) == ("MÜLLER^A", False)
