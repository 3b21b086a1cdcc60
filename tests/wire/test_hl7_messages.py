"""Each message of tests.support.hl7_messages over a real socket: its answer, and what has changed afterwards."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.hl7.connection import DoorLimits
from edge.hl7.framing import FrameReader, frame
from edge.identity.today import PatientToday
from edge.store import orders, resolved_patients
from tests.support.hl7 import Answer, Hl7Receiving, cases, read_answers
from tests.support.hl7_messages import ENDS, Case

LIMITS = DoorLimits(outside_seconds=0.3, frame_seconds=0.3, fs_seconds=0.1)
NAMES = [f"{number:03d}-{each.name}" for number, each in enumerate(cases(), 1)]


@pytest.fixture(scope="module")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hl7Receiving]:
    with Hl7Receiving(tmp_path_factory.mktemp("hl7"), limits=LIMITS) as gateway:
        yield gateway


@pytest.mark.parametrize("case", cases(), ids=NAMES)
def test_message_comes_to_what_it_must(receiving: Hl7Receiving, case: Case) -> None:
    """In the order of the list: each begins where the one before has ended."""
    _play(receiving, case)


#: Line ends, MSH-18, its codec, and a name that only this set (or one like it) can write.
_VARIANTS = [
    ("LF", "UNICODE UTF-8", "utf-8", "TËSTPATIENT"),
    ("CRLF", "8859/1", "latin-1", "TËSTPATIENT"),
    ("CRCR", "~ISO IR87", "iso2022_jp", "試験患者"),
]


@pytest.mark.parametrize(("ends", "declared", "codec", "name"), _VARIANTS, ids=[each[0] for each in _VARIANTS])
def test_all_messages_in_other_line_ends_and_character_sets(
    tmp_path: Path, ends: str, declared: str, codec: str, name: str
) -> None:
    varied = [_vary(each, ENDS[ends], declared, codec, name) for each in cases() if each.kind != "stream"]
    assert sum(name in each.afterwards for each in varied) > 20
    with Hl7Receiving(tmp_path, limits=LIMITS) as gateway:
        for case in varied:
            _play(gateway, case)


def _vary(case: Case, ends: str, declared: str, codec: str, name: str) -> Case:
    """The same message with other line ends, and patients' names in another set; one that says what it is stays."""
    if case.well_formed != "yes" or case.ends != "CR" or case.charset != "ascii":
        return case
    lines = case.data.decode("ascii").split("\r")
    if not case.msh18 and "TESTPATIENT" in case.data.decode("ascii"):
        lines = [_declare(each, declared) if each.startswith("MSH|^~\\&|") else each for each in lines]
    if any(declared in each for each in lines):
        lines = [each.replace("TESTPATIENT", name) for each in lines]
        case = replace(case, afterwards=case.afterwards.replace("TESTPATIENT", name))
    return replace(case, data=ends.join(lines).encode(codec))


def _declare(head: str, declared: str) -> str:
    fields = (head.split("|") + [""] * 17)[:17]
    return "|".join((*fields, declared))


def _play(receiving: Hl7Receiving, case: Case) -> None:
    answers = _exchange(receiving.port, case)
    assert " ".join(each.code for each in answers) == ("" if case.answer == "-" else case.answer)
    if case.answer != "CA AA":
        assert " ".join(filter(None, (each.control_id for each in answers))) == (case.msa2 if answers else "")
    assert [each.error for each in answers if each.error] == ([case.error] if case.error else [])
    assert not [each for each in answers if b"PATIENT" in each.data], "an answer names the place, and no value"
    for statement in case.afterwards.split("; "):
        _check(receiving, case, statement)


def _exchange(port: int, case: Case) -> list[Answer]:
    """All that comes back until the other side closes, or is silent once it has answered."""
    data = case.data if case.kind == "stream" else frame(case.data)
    reader, found = FrameReader(1 << 20), list[Answer]()
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(data)
        if case.kind != "stream":
            sock.shutdown(socket.SHUT_WR)  # the end of the stream ends the answers
        expected = len(case.answer.split()) if case.answer != "-" else -1
        while len(found) != expected:
            part = sock.recv(1 << 20)
            if not part:
                break
            found += [answer for each in reader.feed(part) for answer in read_answers(each)]
    return found


def _check(receiving: Hl7Receiving, case: Case, statement: str) -> None:
    """One statement of `afterwards`; what follows a colon explains it."""
    if match := re.match(r"(\S+)@(\S+) -> (\S+?)@(\S+?)(:|$)", statement):
        found = _resolve(receiving, match[1], match[2])
        assert (found.patient_id, found.issuer) == (match[3], match[4])
    elif match := re.match(r"(\S+)@(\S+) == (\S+)@(\S+)$", statement):
        assert (
            _resolve(receiving, match[1], match[2]).patient_key == _resolve(receiving, match[3], match[4]).patient_key
        )
    elif match := re.match(r"(\S+)@(\S+) name[= ]", statement):
        _check_facts(receiving, match[1], match[2], statement)
    elif statement.startswith("order "):
        _check_order(receiving, statement)
    elif match := re.match(r"alert (\S+?)(,|$)", statement):
        rows = receiving.rows("SELECT subject FROM identity_finding WHERE kind = ? AND settled_at IS NULL", match[1])
        assert len(rows) == 1
    elif match := re.match(r"parked (\S+)", statement):
        assert _last(receiving, "state, reason") == ("parked", match[1])
    elif match := re.match(r"counted (duplicate|relay-only|ignored|refused)", statement):
        assert receiving.rows("SELECT n FROM hl7_tally WHERE feed = 'his' AND state = ?", match[1])[0][0] > 0
    elif match := re.match(r"note (\S+?)(:|$)", statement):
        assert match[1] in _last(receiving, "notes")[0].split(",")
    elif statement.startswith("nothing") and case.kind != "stream":
        assert _last(receiving, "state")[0] == "refused"


def _last(receiving: Hl7Receiving, columns: str) -> tuple[object, ...]:
    return receiving.rows(f"SELECT {columns} FROM hl7_message ORDER BY id DESC LIMIT 1")[0]


def _resolve(receiving: Hl7Receiving, number: str, authority: str) -> PatientToday:
    with receiving.db.reading() as conn:
        (found,) = resolved_patients.resolve_identifier(conn, number, authority)
    return found


def _check_facts(receiving: Hl7Receiving, number: str, authority: str, statement: str) -> None:
    found = _resolve(receiving, number, authority)
    said = re.search(r"name=(.+?)(?: birth=|: | in doubt|$)", statement)
    if "name in doubt" in statement:
        assert found.is_in_doubt
        assert found.name
    else:
        assert said is not None
        assert (found.name, found.is_in_doubt) == (said[1].rstrip(":"), False)
    for key, value in (("birth", found.birth_date), ("sex", found.sex)):
        if match := re.search(rf"{key}=([^\s:]+)", statement):
            assert value == ("" if match[1] == "-" else match[1])


def _check_order(receiving: Hl7Receiving, statement: str) -> None:
    words = re.match(r"order (\S+) (of \S+ unchanged|open|in progress|completed|cancelled)", statement)
    assert words is not None
    with receiving.db.reading() as conn:
        found = orders.find_orders(conn, accession=words[1])
    if words[2].startswith("of "):
        found = [each for each in found if f"{each.patient.patient_id}@{each.patient.issuer}" == words[2].split()[1]]
        assert [each.status.label for each in found] == ["completed"]
        return
    assert {each.status.label for each in found} == {words[2]}
    for uid in re.findall(r"2\.999\.10\.\d+", statement):
        assert uid in {each.study_uid for each in found}
    if "no study UID" in statement:
        assert {each.study_uid for each in found} == {""}
    if match := re.search(r"(TCHEST|TABDOMEN)", statement):
        assert {each.procedure_code for each in found} == {match[1]}
    if match := re.search(r"at (\d{8}) (\d\d):(\d\d)", statement):
        assert {each.scheduled_at for each in found} == {"".join(match.groups())}
    if match := re.search(r"for (CT1)", statement):
        assert {(each.station_ae, each.priority) for each in found} == {(match[1], 0)}
    if "two requested procedures" in statement:
        assert len(found) == 2
    elif "one order, not two" in statement:
        assert len(found) == 1
