"""Text whose character set is certain is shown as it is, a guess with a mark; the object is never altered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.dicom.charset import decode_bytes
from edge.model import Guessed, GuessedText, InstanceHeader, Origin
from edge.store.database import Store
from edge.store.patients import guessed_flags
from edge.store.studies import Search, find_studies, latest_studies
from tests.support.gateway import Receiving
from tests.support.objects import dataset, object_named
from tests.support.peers import Edge, storescu, wait_until

PN = b"\\^="
MULLER = "Müller^Jürgen"

CERTAIN = [
    ("", b"SMITH^JOHN", "SMITH^JOHN"),
    ("ISO_IR 192", "Müller".encode(), "Müller"),
    ("ISO_IR 192", "王^小東".encode(), "王^小東"),
    ("ISO_IR 100", b"M\xfcller", "Müller"),
    ("ISO_IR 100", b"\xc5ngstr\xf6m^\xc9ric", "Ångström^Éric"),
    ("ISO 2022 IR 100", b"M\xfcller", "Müller"),
    ("ISO_IR_100", b"M\xfcller", "Müller"),  # spelt otherwise, and meant
    ("ISO-IR 100", b"M\xfcller", "Müller"),
    ("iso_ir 100", b"M\xfcller", "Müller"),
    ("ISO 2022 IR100", b"M\xfcller", "Müller"),
    ("ISO_IR 101", "Šťastný".encode("iso8859_2"), "Šťastný"),
    ("ISO_IR 101", "KÓŁ".encode("iso8859_2"), "KÓŁ"),  # as UTF-8 another letter
    ("ISO_IR 144", "Люксембург".encode("iso8859_5"), "Люксембург"),
    ("ISO_IR 144", "\u0422\u0410".encode("iso8859_5"), "\u0422\u0410"),
    ("ISO_IR 126", "Διονυσιος".encode("iso8859_7"), "Διονυσιος"),
    ("ISO_IR 166", "นาม".encode("iso8859_11"), "นาม"),
    ("ISO_IR 203", "Šœ€".encode("iso8859_15"), "Šœ€"),
    ("ISO_IR 13", b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
    ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
    ("\\ISO 2022 IR 87", b"Y^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Y^T=山田^太郎"),
    ("\\ISO 2022 IR 149", b"H^G=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce", "H^G=洪^吉"),
]
GUESSES = [
    ("", MULLER.encode(), MULLER),
    ("ISO_IR 6", MULLER.encode(), MULLER),
    ("ISO 2022 IR 6", MULLER.encode(), MULLER),
    ("", "王^小東".encode(), "王^小東"),
    ("", "Šťastný".encode(), "Šťastný"),
    ("", MULLER.encode("latin-1"), MULLER),
    ("", b"M\xfcller \x96 \x80", "Müller \u2013 €"),  # Windows
    ("", "Jürgen Mü".encode()[:-1], "Jürgen M"),  # cut within a character
    ("ISO_IR 192", b"M\xfcller", "Müller"),
    ("ISO_IR 192", "Jürgen Mü".encode()[:-1], "Jürgen M"),
    ("ISO_IR 192", b"\xff\xfe", "\ufffd\ufffd"),
    ("ISO_IR 100", MULLER.encode(), MULLER),  # declared, and would be "MÃ¼ller"
    ("ISO_IR 100", "Weiß".encode(), "Weiß"),
    ("ISO_IR 100", b"M\xfcller \x96", "Müller \u2013"),
    ("ISO_IR 144", "Weiß\u0160".encode(), "Weiß\u0160"),  # a control character in what is declared
    ("ISO_IR 126", b"\xd2", "\ufffd"),
    ("GB18030", b"M\xfc", "M\ufffd"),
    ("\\ISO 2022 IR 87", b"M\xfcller", "Müller"),  # the first set is the default one
    ("no such thing", MULLER.encode(), MULLER),
    ("zlib_codec", b"A\xe9", "Aé"),
    ("ISO_IR 100", b"A\x1b%/1B\xe9", "A\x1b%/1Bé"),
    ("\\ISO 2022 IR 149", b"\x1b$)C\xfb", "\ufffd"),
]


@pytest.mark.parametrize(("charset", "raw", "text"), CERTAIN)
def test_what_is_certain_is_shown_as_it_is(charset: str, raw: bytes, text: str) -> None:
    assert decode_bytes(raw, tuple(charset.split("\\")) if charset else (), PN) == (text, False)


@pytest.mark.parametrize(("charset", "raw", "text"), GUESSES)
def test_what_is_not_certain_is_guessed_and_said_to_be(charset: str, raw: bytes, text: str) -> None:
    assert decode_bytes(raw, tuple(charset.split("\\")) if charset else (), PN) == (text, True)


def test_whatever_comes_is_text() -> None:
    for seed in range(256):
        raw = bytes((seed * each * 7 + each) % 256 for each in range(60)) + b"\x1b$"
        for charset in ("", "ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "GB18030", "GBK", "ISO 2022 IR 87", "ISO 2022 58"):
            text, _ = decode_bytes(raw, (charset,), PN)
            assert text.encode("utf-8")


def test_the_catalog_s_mark_names_the_texts_that_are_guesses() -> None:
    attributes = {
        "PatientName": (GuessedText("Müller"),),
        "PatientID": ("Nº7",),
        "AccessionNumber": (),
        "StudyDescription": (GuessedText("Schädel"), "x"),
        "Modality": (GuessedText("ÄÄ"),),
    }
    facts = InstanceHeader("1", "2", "3", Origin("", "", "", 0.0), attributes)  # type: ignore[arg-type]
    assert guessed_flags(facts) == Guessed.PATIENT_NAME | Guessed.DESCRIPTION


# -- from the wire to those who read it -------------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path) as receiving:
        yield receiving


def test_an_undeclared_name_is_shown_found_and_marked_and_the_object_is_untouched(
    edge: Receiving, tmp_path: Path
) -> None:
    undeclared = object_named(tmp_path / "a.dcm", MULLER.encode())
    declared = object_named(tmp_path / "b.dcm", b"M\xfcller^Anna ", "ISO_IR 100", 2)
    storescu([undeclared, declared], edge.port)
    assert sorted(map(dataset, edge.files())) == sorted([dataset(undeclared), dataset(declared)])
    with edge.db.reading() as conn:
        for text in ("müller", "MÜLLER", "Mu\u0308ller", "ÜLLER"):
            found = {each.patient_name: each.guessed for each in latest_studies(conn, text, 0.0).read()}
            assert found == {MULLER: ("patient_name",), "Müller^Anna": ()}, text
            found = {each.patient_name: each.guessed for each in find_studies(conn, Search(patient_name=text)).read()}
            assert found == {MULLER: ("patient_name",), "Müller^Anna": ()}, text


def test_the_command_marks_what_is_guessed(tmp_path: Path) -> None:
    path = object_named(tmp_path / "a.dcm", MULLER.encode())
    config = '[destination.a]\nae_title = "A"\nhost = "127.0.0.1"\nport = 1\n'
    config += '[route.mueller]\nto = ["a"]\nwhen = { PatientName = "X*" }\n'
    with Edge(tmp_path / "edge", config) as edge:
        storescu([path], edge.port)
        wait_until(lambda: edge.api_status()["instances"], 20, "it is here")
        assert f"{MULLER} (guessed)" in edge.cli("studies", "list", "--search", "MÜLLER").stdout
        assert f"{MULLER} (guessed) (P1)" in edge.cli("studies", "show", "1.2.4.1").stdout
        assert '"guessed": [' in edge.cli("studies", "list", "--json").stdout
        assert f'found "{MULLER}" (guessed)' in edge.cli("route", "explain", str(path)).stdout


def test_a_catalog_of_before_opens(tmp_path: Path) -> None:
    """A row that was written before has no mark."""
    db = Store(tmp_path / "catalog.db")
    db.write(
        lambda conn: conn.execute("INSERT INTO study (study_uid, first_received, last_received) VALUES ('1', 0, 0)")
    )
    with db.reading() as conn:
        assert [each.guessed for each in latest_studies(conn, "", 0.0).read()] == [()]
    db.close()
