"""Whose image is this: what makes another patient and what does not, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.store.identity import (
    Judgement,
    Likeness,
    Patient,
    Standing,
    classify_patient,
    compare_names,
    compare_patients,
)

SAME, UNKNOWN, DIFFERENT = Likeness.SAME, Likeness.UNKNOWN, Likeness.DIFFERENT
JOHN = Patient("1", "CLINIC", "DOE^JOHN", "19700101", "M")

NAMES = [
    ("DOE^JOHN", "DOE^JOHN^", SAME),
    ("DOE^JOHN", "doe^john^^^", SAME),
    (" DOE ^ JOHN ", "DOE^JOHN", SAME),
    ("DOE^JOHN\0", "DOE^JOHN", SAME),
    ("DOE^JOHN^^DR", "DOE^JOHN", SAME),
    ("DOE^JOHN^^DR", "DOE^JOHN^^PROF", SAME),
    ("DOE^JOHN^^^JR", "DOE^JOHN", SAME),
    ("DOE^JOHN^^^JR", "DOE^JOHN^^^SR", DIFFERENT),
    ("DOE^JOHN^Q", "DOE^JOHN", SAME),
    ("DOE^JOHN^Q", "DOE^JOHN^QUINCY", SAME),
    ("DOE^JOHN^Q", "DOE^JOHN^PAUL", DIFFERENT),
    ("DOE^J", "DOE^JOHN", UNKNOWN),
    ("DOE^JANE", "DOE^JOHN", DIFFERENT),
    ("DOE", "DOE^JOHN", UNKNOWN),
    ("JOHN DOE", "DOE^JOHN", SAME),
    ("DOE, JOHN", "DOE^JOHN", SAME),
    ("JANE DOE", "DOE^JOHN", DIFFERENT),
    ("O'BRIEN^ANN", "OBRIEN^ANN", SAME),
    ("SMITH-JONES^ANN", "SMITH JONES^ANN", SAME),
    ("Müller^Jörg", "MULLER^JORG", SAME),
    ("Müller^Jörg", "MUELLER^JOERG", SAME),
    ("Mu\u0308ller^Jörg", "Müller^Jörg", SAME),
    ("MÃ¼ller^JÃ¶rg", "Müller^Jörg", SAME),
    ("M\ufffdller^Jörg", "Müller^Jörg", UNKNOWN),
    ("M\ufffdller^Jörg", "Maier^Jörg", DIFFERENT),
    ("Østergård^Bo", "OSTERGARD^BO", SAME),
    ("Łukasz^Jan", "LUKASZ^JAN", SAME),
    ("Straße^Jan", "STRASSE^JAN", SAME),
    ("Δημήτριος^Νίκος", "ΔΗΜΗΤΡΙΟΣ^ΝΙΚΟΣ", SAME),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou", SAME),
    ("Yamada^Tarou=山田^太郎", "YAMADA^TARO=山田^太郎", SAME),
    ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太朗", DIFFERENT),
    ("=山田^太郎", "Yamada^Tarou", UNKNOWN),
    ("山田^太郎", "Yamada^Tarou=山田^太郎", SAME),
    ("==やまだ^たろう", "==ヤマダ^タロウ", SAME),
    ("==ﾔﾏﾀﾞ^ﾀﾛｳ", "==やまだ^たろう", SAME),
    ("", "DOE^JOHN", UNKNOWN),
    ("^^^^", "DOE^JOHN", UNKNOWN),
    ("", "", UNKNOWN),
    ("-", ".", UNKNOWN),
]


@pytest.mark.parametrize(("a", "b", "likeness"), NAMES)
def test_names(a: str, b: str, likeness: Likeness) -> None:
    assert compare_names(a, b) is likeness
    assert compare_names(b, a) is likeness


PATIENTS = [
    (JOHN, JOHN, SAME, ()),
    (JOHN, Patient(" 1 ", "clinic", "Doe^John", "1970.01.01"), SAME, ()),
    (JOHN, Patient("1"), SAME, ()),
    (JOHN, Patient("1", "", "DOE^JOHN"), SAME, ()),
    (JOHN, Patient("1", "CLINIC", "DOE^JOHN", "", "F"), SAME, ()),
    (JOHN, Patient("1", "", "ROE^JOHN", "19700101", "M"), DIFFERENT, ("name",)),
    (JOHN, Patient("1", "", "DOE^JOHN", "19700102"), DIFFERENT, ("birth-date",)),
    (JOHN, Patient("1", "", "DOE^JOHN", "1970"), SAME, ()),
    (JOHN, Patient("1", "", "DOE^JOHN", "00000000"), SAME, ()),
    (JOHN, Patient("2", "CLINIC", "DOE^JOHN", "19700101", "M"), DIFFERENT, ("id",)),
    (JOHN, Patient("01", "CLINIC", "DOE^JOHN", "19700101", "M"), DIFFERENT, ("id",)),
    (JOHN, Patient("1", "USDOD", "DOE^JOHN", "19700101", "M"), DIFFERENT, ("issuer",)),
    (JOHN, Patient("2", "USDOD", "ROE^BOB", "19820202", "M"), DIFFERENT, ("id", "issuer", "name", "birth-date")),
    (JOHN, Patient("", "USDOD", "DOE^JOHN", "19700101"), SAME, ()),
    (JOHN, Patient("", "", "DOE^JOHN", "19700101"), SAME, ()),
    (JOHN, Patient("", "", "DOE^JOHN"), UNKNOWN, ()),
    (JOHN, Patient("", "", "DOE^JOHN", "", "F"), DIFFERENT, ("sex",)),
    (JOHN, Patient("", "", "DOE^JOHN", "", "O"), UNKNOWN, ()),
    (JOHN, Patient("", "", "DOE^JANE"), DIFFERENT, ("name",)),
    (JOHN, Patient("", "", "", "19700101"), UNKNOWN, ()),
    (JOHN, Patient("", "", "", "19700102"), DIFFERENT, ("birth-date",)),
    (JOHN, Patient(), UNKNOWN, ()),
    (Patient(), Patient(), UNKNOWN, ()),
    (
        Patient(name="Rex", responsible_person="Doe^John"),
        Patient(name="Rex", responsible_person="doe^john^"),
        UNKNOWN,
        (),
    ),
    (
        Patient(name="Rex", responsible_person="Doe^John"),
        Patient(name="Rex", responsible_person="Roe^Ann"),
        DIFFERENT,
        ("responsible-person",),
    ),
    (
        Patient("7", name="Rex", responsible_person="Doe^A"),
        Patient("7", name="Rex", responsible_person="Roe^B"),
        SAME,
        (),
    ),
]


@pytest.mark.parametrize(("a", "b", "likeness", "differs_in"), PATIENTS)
def test_patients(a: Patient, b: Patient, likeness: Likeness, differs_in: tuple[str, ...]) -> None:
    found = compare_patients(a, b)
    assert found == compare_patients(b, a)
    assert (found.likeness, found.differs_in) == (likeness, differs_in)


ROE = Patient("2", "", "ROE^BOB")
AGREES, DIFFERS, ACCEPTED = Standing
NAMELESS, ONLY_NAME = Patient("1"), Patient(name="DOE^JOHN", birth_date="19700101")
STUDIES = [
    (JOHN, [], [], Judgement(AGREES)),
    (JOHN, [Patient()], [], Judgement(AGREES)),
    (ROE, [Patient(), JOHN], [], Judgement(DIFFERS, ("id", "name"), 1)),
    (ROE, [Patient(sex="M"), JOHN], [], Judgement(DIFFERS, ("id", "name"), 1)),
    # who has no ID lets nobody pass whose ID is another's
    (Patient("9", "", "DOE^JOHN", "19700101"), [ONLY_NAME, JOHN], [], Judgement(DIFFERS, ("id",), 1)),
    (Patient("9", "", "DOE^JOHN", "19700101"), [JOHN, ONLY_NAME], [], Judgement(DIFFERS, ("id",), 0)),
    (Patient("1", "", "ROE^BOB"), [NAMELESS, JOHN], [], Judgement(DIFFERS, ("name",), 1)),
    (Patient("1", "", "DOE^JANE"), [Patient("1", "", "DOE^J"), JOHN], [], Judgement(DIFFERS, ("name",), 1)),
    # what a person has accepted
    (ROE, [JOHN], [ROE], Judgement(ACCEPTED)),
    (Patient("2", "", "roe^bob^^dr"), [JOHN], [ROE], Judgement(ACCEPTED)),
    (Patient(name="ROE^BOB"), [JOHN], [ROE], Judgement(ACCEPTED)),
    (Patient("3"), [JOHN], [ROE], Judgement(DIFFERS, ("id",), 0)),
    (Patient("3", "", "ROE^BOB"), [JOHN], [Patient(name="ROE^BOB"), ROE], Judgement(DIFFERS, ("id", "name"), 0)),
    (Patient("3", "", "POE^C"), [JOHN], [ROE, Patient("3", "", "POE^C")], Judgement(ACCEPTED)),
    (Patient(), [JOHN], [ROE], Judgement(AGREES)),
    (JOHN, [JOHN], [ROE], Judgement(AGREES)),
]


@pytest.mark.parametrize(("patient", "agreeing", "accepted", "judgement"), STUDIES)
def test_a_patient_among_those_of_a_study(
    patient: Patient, agreeing: list[Patient], accepted: list[Patient], judgement: Judgement
) -> None:
    assert classify_patient(patient, agreeing, accepted) == judgement


TEXT = st.text(max_size=12) | st.sampled_from(["DOE^JOHN", "=山田", "1", "19700101", "^", "=", "\0"])
ANYBODY = st.builds(Patient, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT)


@given(ANYBODY, ANYBODY)
def test_whatever_the_values_are_the_order_does_not_matter(a: Patient, b: Patient) -> None:
    assert compare_patients(a, b) == compare_patients(b, a)
    assert compare_patients(a, a).likeness is not DIFFERENT
