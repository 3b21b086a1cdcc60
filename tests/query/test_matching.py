"""Keys against values: a table for each rule of PS3.4 section C.2.2.2, and for what Edge promises beyond it."""

from __future__ import annotations

import pytest

from edge.dicom.elements import SINGLE_TEXT
from edge.dicom.items import Attributes, item
from edge.query import matching, moments
from edge.query.matching import MatchRules, compile_key, compile_wildcards, matches

STUDY_DATE, STUDY_TIME, NAME, ID, MODALITIES, ZONE = (
    0x00080020,
    0x00080030,
    0x00100010,
    0x00100020,
    0x00080061,
    0x00080201,
)
REQUEST, ACCESSION, STEP_ID, NUMBER = 0x00400275, 0x00080050, 0x00400009, 0x00200013

#: VR, key, value, does it match?
TABLE = [
    # a person's name: no case, no accents; any component group
    ("PN", "doe^jane", "Doe^Jane", True),
    ("PN", "DOE*", "Doe^Jane", True),
    ("PN", "doe", "Doe^Jane", False),
    ("PN", "doe^*", "Doe", True),
    ("PN", "doe^?*", "Doe", False),
    ("PN", "Doe^Jane^^^", "DOE^JANE", True),
    ("PN", "muller", "Müller", True),
    ("PN", "MÜLLER^A*", "Muller^Änne", True),
    ("PN", "?????*", "Παππά^Άννα", True),  # as an SCU of ISO_IR 100 writes Greek letters
    ("PN", "παππα^αννα", "Παππά^Άννα", True),  # noqa: RUF001
    ("PN", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
    ("PN", "yamada*=山*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
    ("PN", "yamada*=川*", "Yamada^Tarou=山田^太郎=やまだ^たろう", False),
    ("PN", "=山田*", "Yamada^Tarou", False),
    ("PN", "*^jane", "Doe^Jane", True),
    # every other text with case
    ("LO", "p*", "P1", False),
    ("LO", "P*", "P1", True),
    ("LO", "P?", "P1", True),
    ("LO", "P?", "P12", False),
    ("SH", "A*1*9", "A-2019-1-9", True),
    ("SH", "A*1*9", "A-2019-1-8", False),
    ("SH", "A*A", "A", False),
    ("SH", "*A", "BA", True),
    ("SH", "a.c", "abc", False),
    ("CS", "MR\\CT", "CT", True),
    ("CS", "MR", "CT\\MR", True),
    ("CS", "MR", "CT", False),
    ("LT", "a\\b", "a\\b", True),
    ("LT", "a\\b", "a", False),
    # UIDs: a list, no wildcards
    ("UI", "1.2.3\\1.2.4", "1.2.4", True),
    ("UI", "1.2.*", "1.2.4", False),
    # universal
    ("LO", "", "", True),
    ("LO", "", "anything", True),
    ("LO", "*", "", True),
    ("UI", "*", "1.2", True),
    # what has no value
    ("LO", '""', "", True),
    ("LO", '""', "P1", False),
    ("LO", '""\\P1', "P1", True),
    ("LO", "P?", "", False),
    # dates
    ("DA", "20261128", "20261128", True),
    ("DA", "20261128", "2026.11.28", True),
    ("DA", "2026.11.28", "20261128", True),
    ("DA", "20261101-20261130", "20261128", True),
    ("DA", "20261101-20261130", "20261201", False),
    ("DA", "-20261130", "19990101", True),
    ("DA", "20261128-", "20261127", False),
    ("DA", "20261128-", "20261128", True),
    ("DA", "20261128-", "", False),
    ("DA", "20260230", "20260230", True),  # no date, the same text
    ("DA", "20260201-20260301", "20260230", False),
    ("DA", "20260201-20260231", "20260228", True),  # the last day of February, as many write it
    ("DA", "20260201-20260231", "20260301", False),
    ("DA", "20261101\\20261128", "20261128", True),
    # times compare as times
    ("TM", "101500.000", "101500", True),
    ("TM", "101500", "101500.000", True),
    ("TM", "1015", "101530", True),
    ("TM", "10:15:00", "101500", True),
    ("TM", "1000-1015", "101559.9", True),
    ("TM", "1000-1015", "101600", False),
    ("TM", "-1015", "0900", True),
    ("TM", "1015-", "101459", False),
    ("TM", "10", "105959", True),
    ("TM", "2500", "2500", True),
    # date times, with zones
    ("DT", "20261128101500", "20261128101500.000", True),
    ("DT", "2026", "20261128101500", True),
    ("DT", "202612", "20261128101500", False),
    ("DT", "20261128101500+0100", "20261128091500+0000", True),
    ("DT", "20261128-20261129", "20261129235959", True),
    ("DT", "20261128100000-0500-20261128110000-0500", "20261128153000+0000", True),
    ("DT", "-20261128", "20270101", False),
    # numbers as numbers
    ("IS", "1", "01", True),
    ("IS", "+1", "1", True),
    ("IS", "1", "10", False),
    ("DS", "1.50", "1.5", True),
    ("IS", "1*", "10", False),
]


@pytest.mark.parametrize(("vr", "key", "value", "expected"), TABLE)
def test_a_key_meets_a_value(vr: str, key: str, value: str, expected: bool) -> None:
    values = (value,) if vr in SINGLE_TEXT else tuple(value.split("\\"))
    assert compile_key(vr, tuple(key.split("\\")))(values) is expected


def test_a_list_of_a_thousand_uids_is_matched() -> None:
    test = compile_key("UI", tuple(f"1.2.{number}" for number in range(1000)))
    assert test(("1.2.999",))
    assert not test(("1.2.1000",))


def test_no_pattern_takes_long() -> None:
    """Tried one after the other, the ways in which this one may match would take for years."""
    assert not compile_wildcards("*a" * 32 + "b")("a" * 4096)


def entity(**more: str) -> Attributes:
    """A study of a name, an ID and two requests."""
    requests = [item({ACCESSION: "A1", STEP_ID: "S1"}), item({ACCESSION: "A2", STEP_ID: "S2"})]
    values = {NAME: "Doe^Jane", ID: "P1", STUDY_DATE: "20261128", STUDY_TIME: "233000", MODALITIES: "CT\\SR"}
    return item({**values, REQUEST: requests, **{int(tag[1:], 16): text for tag, text in more.items()}})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({NAME: "doe*", ID: "P1"}, True),
        ({NAME: "doe*", ID: "P2"}, False),
        ({MODALITIES: "MR\\CT"}, True),
        ({MODALITIES: "MR"}, False),
        ({REQUEST: []}, True),
        ({REQUEST: [item({})]}, True),
        ({REQUEST: [item({ACCESSION: ""})]}, True),
        ({REQUEST: [item({ACCESSION: "A1"})]}, True),
        ({REQUEST: [item({ACCESSION: "A1", STEP_ID: "S2"})]}, False),  # no one item has both
        ({NUMBER: ""}, True),
        ({NUMBER: "1"}, False),
        ({NUMBER: '""'}, True),
        ({STUDY_DATE: "20261128-20261128", STUDY_TIME: "2200-2359"}, True),
    ],
)
def test_all_keys_must_match(keys: dict, expected: bool) -> None:
    assert matches(item(keys), entity()) is expected


def test_what_says_how_a_query_is_meant_is_no_key() -> None:
    assert matches(item({matching.SPECIFIC_CHARACTER_SET: "ISO_IR 100", matching.QUERY_LEVEL: "STUDY"}), entity())


@pytest.mark.parametrize(
    ("combines", "keys", "expected"),
    [
        (True, {STUDY_DATE: "20261127-20261129", STUDY_TIME: "2200-0600"}, True),
        (False, {STUDY_DATE: "20261127-20261129", STUDY_TIME: "2200-0600"}, False),
        (True, {STUDY_DATE: "20261128-20261129", STUDY_TIME: "2340-0600"}, False),
        (True, {STUDY_DATE: "20261128-", STUDY_TIME: "2300-"}, True),
        (True, {STUDY_DATE: "-20261128", STUDY_TIME: "-2300"}, False),
    ],
)
def test_a_date_and_a_time_are_one_range_only_where_that_was_negotiated(
    combines: bool, keys: dict, expected: bool
) -> None:
    assert matches(item(keys), entity(), MatchRules(combines_date_times=combines)) is expected


def test_the_times_of_a_query_mean_its_zone() -> None:
    """23:30 at +0100 is 22:30 UTC, and half past seven the next morning in Tokyo."""
    at = {"_00080201": "+0100"}
    assert matches(item({STUDY_DATE: "20261129", STUDY_TIME: "0730"}), entity(**at), MatchRules(zone=540))
    assert matches(item({STUDY_DATE: "20261128", STUDY_TIME: "2230"}), entity(**at), MatchRules(zone=0))
    assert not matches(item({STUDY_DATE: "20261128", STUDY_TIME: "2330"}), entity(**at), MatchRules(zone=0))
    assert matches(item({STUDY_TIME: "2130"}), entity(), MatchRules(zone=0, stored_zone=120))


@pytest.mark.parametrize(
    ("vr", "key", "expected"),
    [
        ("UI", ("1.2", "1.3"), ("1.2", "1.3")),
        ("SH", ("A1",), ("A1",)),
        ("SH", ("A*",), None),
        ("PN", ("DOE",), None),
        ("DA", ("20261128",), None),
        ("SH", (), None),
        ("SH", ('""',), None),
        ("IS", ("1",), None),
    ],
)
def test_only_what_is_written_one_way_is_looked_up(vr: str, key: tuple[str, ...], expected: object) -> None:
    assert matching.exact_values(vr, key) == expected


def test_an_index_of_dates_is_read_between_bounds() -> None:
    assert matching.date_bounds(("20261101-20261130",)) == ("20261101", "20261130")
    assert matching.date_bounds(("20261101-",)) == ("20261101", "99991231")
    assert matching.date_bounds(("-20261101",)) == ("00010101", "20261101")
    assert matching.date_bounds(("2026.11.01", "20261103")) == ("20261101", "20261103")
    assert matching.date_bounds(("20260201-20260231",)) == ("20260201", "20260228")
    assert matching.date_bounds(("no date",)) is None


@pytest.mark.parametrize("text", ["+0100", "-0330", "+0000", "+1400"])
def test_a_zone_is_read_and_written(text: str) -> None:
    minutes = moments.parse_zone(text)
    assert minutes is not None
    assert moments.zone_text(minutes) == text


@pytest.mark.parametrize("text", ["", "0100", "+1", "UTC"])
def test_what_is_no_zone_is_none(text: str) -> None:
    assert moments.parse_zone(text) is None
