"""Routing: what each condition means, and what holds for all rules and all objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config.sections import (
    Config,
    ConsoleSection,
    Hold,
    Listen,
    RetentionSection,
    Route,
    SiteSection,
    StorageSection,
)
from edge.errors import ConfigError
from edge.intake.routing import RoutingRules, compile_rules
from edge.model import Assignment, InstanceHeader, Origin, Priority, Values
from tests.support.effort import count_calls
from tests.support.zones import in_zone

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.50"
NOON = datetime(2026, 1, 31, 12, 0, 59, tzinfo=timezone.utc).timestamp()


@pytest.fixture(autouse=True, scope="module")
def _in_utc() -> Iterator[None]:
    with in_zone("UTC0"):
        yield


def config(*routes: Route, holds: tuple[Hold, ...] = (), lines: dict[str, str] | None = None) -> Config:
    return Config(
        SiteSection("0067", "Clinic", Path("/nowhere")),
        Listen(),
        {},
        {},
        {route.name: route for route in routes},
        {hold.name: hold for hold in holds},
        StorageSection(),
        RetentionSection(),
        ConsoleSection(),
        lines=lines or {},
    )


def facts(received_at: float = NOON, address: str = "10.4.1.9", **attributes: Values | str) -> InstanceHeader:
    origin = Origin("CT1", "EDGE", address, received_at)
    values = {keyword: (value,) if isinstance(value, str) else value for keyword, value in attributes.items()}
    return InstanceHeader(CT, "1.2.3.4", JPEG, origin, values)


def rules(*routes: Route, holds: tuple[Hold, ...] = ()) -> RoutingRules:
    return compile_rules(config(*routes, holds=holds))


def matches(when: dict[str, Any], of: InstanceHeader) -> bool:
    return bool(rules(Route("r", ("archive",), when)).assign(of))


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        # globs: the whole value, in exact case, of any of the values
        ("CT", ("CT",), True),
        ("CT", ("CTA",), False),
        ("ct", ("CT",), False),
        ("C*", ("CT",), True),
        ("?T", ("CT",), True),
        ("[CM]T", ("MT",), True),
        ("[!C]T", ("CT",), False),
        ("AXIAL", ("ORIGINAL", "PRIMARY", "AXIAL"), True),
        ("*", (), False),
        ("*", ("",), True),
        ("A*\nB", ("A\nB",), True),
        # lists: any of
        (["IO", "PX"], ("PX",), True),
        (["IO", "P*"], ("PX",), True),
        (["IO", "PX"], ("CT",), False),
        (["IO", "PX"], (), False),
        # not, also where it is absent
        ({"not": "CT"}, ("CT",), False),
        ({"not": "CT"}, ("MR",), True),
        ({"not": "CT"}, (), True),
        ({"not": ["CT", "M*"]}, ("MR",), False),
        ({"not": {"present": True}}, (), True),
        ({"not": {"not": "CT"}}, ("CT",), True),
        # regular expressions: the whole value
        ({"regex": "C[TR]"}, ("CR",), True),
        ({"regex": "C"}, ("CT",), False),
        ({"regex": "(?i)ct.*"}, ("CTA",), True),
        # presence
        ({"present": True}, ("CT",), True),
        ({"present": True}, ("",), True),
        ({"present": True}, (), False),
        ({"present": False}, (), True),
        ({"present": False}, ("CT",), False),
    ],
)
def test_conditions(condition: Any, values: Values, expected: bool) -> None:
    assert matches({"Modality": condition}, facts(Modality=values)) is expected


@pytest.mark.parametrize(
    ("when", "value", "expected"),
    [
        # numbers are compared as numbers where the attribute is one, else as text
        ({"SliceThickness": 5}, "5.0", True),
        ({"SliceThickness": 5}, "+5E0", True),
        ({"SliceThickness": 0.5}, ".50", True),
        ({"SliceThickness": 5}, "50", False),
        ({"SliceThickness": 5}, "five", False),
        ({"SliceThickness": 5}, "5_0", False),
        ({"Rows": [256, 512]}, "512", True),
        ({"Rows": {"not": 512}}, "512", False),
        ({"PatientID": 7}, "7", True),
        ({"PatientID": 7}, "007", False),
        ({"SliceThickness": {"from": 1, "to": 5}}, "5.0", True),
        ({"SliceThickness": {"from": 1, "to": 5}}, "5.01", False),
        ({"SliceThickness": {"from": 1, "to": 5}}, "10", False),
        ({"SliceThickness": {"from": 1}}, "1e9", True),
        ({"SliceThickness": {"to": 1}}, "-3", True),
        ({"SliceThickness": {"to": 1}}, "thin", False),
        # text
        ({"PatientID": {"from": "A", "to": "M"}}, "Miller", True),
        ({"PatientID": {"from": "A", "to": "M"}}, "Nagel", False),
        # dates
        ({"StudyDate": "2026-01-31"}, "20260131", True),
        ({"StudyDate": "20260131"}, "20260131", True),
        ({"StudyDate": "2026-01"}, "20260131", True),
        ({"StudyDate": "202601*"}, "20260131", True),
        ({"StudyDate": {"from": "2026-01-31"}}, "20260131", True),
        ({"StudyDate": {"from": "2026-01-31"}}, "20260130", False),
        ({"StudyDate": {"from": "2026-01", "to": "2026-01"}}, "20260131", True),
        ({"StudyDate": {"from": "2026-01", "to": "2026-01"}}, "20260201", False),
        ({"StudyDate": {"from": "20250101", "to": "20251231"}}, "2025.06.01", True),
        ({"StudyDate": {"from": "2025"}}, "unknown", False),
        ({"StudyDate": {"from": "2025"}}, "", False),
        ({"AcquisitionDateTime": {"to": "2026-01-31T18:00"}}, "20260131180059.99+0100", True),
        ({"AcquisitionDateTime": {"to": "2026-01-31T18:00"}}, "20260131180100", False),
        ({"AcquisitionDateTime": {"from": "2026-01-31T18:00"}}, "20260131", False),
        # times
        ({"StudyTime": {"from": "18:00", "to": "19:30"}}, "180000.000", True),
        ({"StudyTime": {"from": "18:00", "to": "19:30"}}, "193059", True),
        ({"StudyTime": {"from": "18:00", "to": "19:30"}}, "1931", False),
        ({"StudyTime": {"from": "18:00"}}, "18", True),
        ({"StudyTime": {"from": "8:00", "to": "0900"}}, "083000", True),
        ({"StudyTime": {"from": "18:00", "to": "07:00"}}, "233000", True),
        ({"StudyTime": {"from": "18:00", "to": "07:00"}}, "065959", True),
        ({"StudyTime": {"from": "18:00", "to": "07:00"}}, "120000", False),
        # ages
        ({"PatientAge": {"to": "17Y"}}, "030M", True),
        ({"PatientAge": {"to": "17Y"}}, "018Y", False),
        ({"PatientAge": {"from": "018Y"}}, "018Y", True),
        ({"PatientAge": {"from": "018Y"}}, "018", False),
        # UIDs by name
        ({"SOPClassUID": "CT Image Storage"}, "", True),
        ({"SOPClassUID": "CTImageStorage"}, "", True),
        ({"SOPClassUID": "* Image Storage"}, "", True),
        ({"SOPClassUID": "MR Image Storage"}, "", False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.*"}, "", True),
        ({"TransferSyntaxUID": "JPEG*"}, "", True),
        ({"SOPInstanceUID": "1.2.3.4"}, "", True),
        ({"SOPInstanceUID": "1.2.3"}, "", False),
    ],
)
def test_values_are_compared_as_what_they_are(when: dict[str, Any], value: Any, expected: bool) -> None:
    (keyword,) = when
    assert matches(when, facts(**{keyword: value})) is expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"CallingAETitle": "CT*"}, True),
        ({"CallingAETitle": "MR*"}, False),
        ({"CalledAETitle": "EDGE"}, True),
        ({"RemoteAddress": "10.4.1.9"}, True),
        ({"RemoteAddress": "10.4.0.0/16"}, True),
        ({"RemoteAddress": "10.5.0.0/16"}, False),
        ({"RemoteAddress": "10.4.*"}, True),
        ({"RemoteAddress": ["10.5.0.0/16", "10.4.1.0/24"]}, True),
        ({"RemoteAddress": {"not": "10.0.0.0/8"}}, False),
        ({"RemoteAddress": "fd00::/8"}, False),
        ({"CallingAETitle": "CT*", "RemoteAddress": "10.5.0.0/16"}, False),
    ],
)
def test_facts_of_the_association(when: dict[str, Any], expected: bool) -> None:
    assert matches(when, facts()) is expected


def test_addresses_of_ipv6_sockets() -> None:
    assert matches({"RemoteAddress": "10.4.0.0/16"}, facts(address="::ffff:10.4.1.9"))
    assert matches({"RemoteAddress": "fd00::1"}, facts(address="fd00:0::1"))
    assert not matches({"RemoteAddress": "fd00::1"}, facts(address=""))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"from": "12:00", "to": "13:00"}, True),
        ({"from": "12:00:00", "to": "12:00"}, True),
        ({"from": "12:01"}, False),
        ({"from": "18:00", "to": "07:00"}, False),
        ({"from": "11:00", "to": "07:00"}, True),
        ({"from": "2026-01-31", "to": "2026-01-31"}, True),
        ({"from": "2026-01-31T12:01"}, False),
        ({"to": "2026-01-30"}, False),
        ("2026-01-31T*", True),
        ("*T18:*", False),
    ],
)
def test_the_time_of_receiving(condition: Any, expected: bool) -> None:
    assert matches({"ReceivedAt": condition}, facts(NOON)) is expected


def test_clock_times_are_local() -> None:
    night = {"ReceivedAt": {"from": "18:00", "to": "07:00"}}
    assert not matches(night, facts(NOON))
    with in_zone("XYZ-8"):  # eight hours east
        assert matches(night, facts(NOON))


# -- routes ------------------------------------------------------------------------------------------------------------

ARCHIVE = Route("everything", ("archive",))
STAT = Route("trauma", ("reader", "archive"), {"StationName": "ER*"}, Priority.STAT)
DENTAL = Route("dental", ("reader",), {"Modality": ["IO", "PX"]}, Priority.URGENT)


def test_every_matching_route_adds_and_the_most_urgent_priority_wins() -> None:
    of = facts(StationName="ER1", Modality="IO")
    expected = (Assignment("reader", Priority.STAT, "trauma"), Assignment("archive", Priority.STAT, "trauma"))
    assert rules(ARCHIVE, STAT, DENTAL).assign(of) == expected
    assert rules(DENTAL, STAT, ARCHIVE).assign(of) == expected
    assert rules(ARCHIVE, STAT, DENTAL).assign(facts(Modality="CT")) == (
        Assignment("archive", Priority.ROUTINE, "everything"),
    )


def test_equal_priorities_are_decided_by_name() -> None:
    assert rules(Route("b", ("x",)), Route("a", ("x",))).assign(facts()) == (Assignment("x", Priority.ROUTINE, "a"),)


def test_what_no_route_matches_goes_nowhere() -> None:
    assert rules(STAT, DENTAL).assign(facts()) == ()
    assert rules().assign(facts()) == ()


def test_wanted_are_the_keywords_that_only_the_header_has() -> None:
    when = {"CallingAETitle": "*", "SOPClassUID": "*", "TransferSyntaxUID": "*", "ReceivedAt": "*", "Modality": "CT"}
    hold = Hold("trial", when={"ClinicalTrialProtocolID": "T7"})
    assert rules(Route("r", ("x",), when), holds=(hold,)).wanted == {"Modality", "ClinicalTrialProtocolID"}
    assert rules(holds=(Hold("court", studies=("1.2",)),)).wanted == {"StudyInstanceUID"}
    assert rules(ARCHIVE).wanted == frozenset()


def test_holds() -> None:
    asked = rules(
        holds=(
            Hold("trial-7", when={"ClinicalTrialProtocolID": "T7"}),
            Hold("court", studies=("1.2.3", "1.2.4")),
            Hold("both", studies=("9.9",), when={"Modality": "PX"}),
        )
    )
    assert asked.hold_reason(facts()) == ""
    assert asked.hold_reason(facts(ClinicalTrialProtocolID="T7")) == "hold.trial-7"
    assert asked.hold_reason(facts(StudyInstanceUID="1.2.4")) == "hold.court"
    assert asked.hold_reason(facts(StudyInstanceUID="9.9", Modality="CT")) == "hold.both"
    assert asked.hold_reason(facts(StudyInstanceUID="1", Modality="PX")) == "hold.both"
    # A rule comes first: it cannot be found again when the hold of the study ends.
    assert asked.hold_reason(facts(StudyInstanceUID="1.2.4", ClinicalTrialProtocolID="T7")) == "hold.trial-7"


def test_an_explanation_names_each_condition_and_what_was_found() -> None:
    when = {"Modality": ["IO", "PX"], "StationName": {"not": "X*"}, "ReceivedAt": {"from": "18:00", "to": "07:00"}}
    (told,) = rules(Route("dental-night", ("reader",), when, Priority.STAT)).explain(facts(Modality="IO"))
    assert (told.route, told.to, told.priority, told.matched) == ("dental-night", ("reader",), Priority.STAT, False)
    assert [(each.keyword, each.expected, each.found, each.ok) for each in told.findings] == [
        ("Modality", '"IO" or "PX"', ("IO",), True),
        ("StationName", 'not "X*"', (), True),
        ("ReceivedAt", "from 18:00 to 07:00", ("2026-01-31T12:00:59",), False),
    ]


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ({"Modality": []}, "found an empty list"),
        ({"Modality": True}, "found true"),
        ({"Modality": {}}, "exactly one of not, regex, from/to or present, found none"),
        ({"Modality": {"not": "CT", "present": True}}, "found not and present"),
        ({"Modality": {"regex": "("}}, "expected a regular expression"),
        ({"Modalty": "CT"}, "not a DICOM keyword"),
        ({"RemoteAddress": "10.4.0.0/33"}, "is not a network"),
        ({"RemoteAddress": {"from": "10.4.0.1"}}, "write a network"),
        ({"SOPClassUID": "CT Image Storge"}, 'did you mean "CT Image Storage"?'),
        ({"Rows": {"from": "1", "to": "9"}}, "write the bounds without quotes"),
        ({"Rows": {"from": 1, "to": "9"}}, "both bounds as numbers or both as text"),
        ({"Rows": {"from": 9, "to": 1}}, "`from` is after `to`"),
        ({"StudyDate": {"from": "2026-02", "to": "2026-01-31"}}, "`from` is after `to`"),
        ({"StudyDate": {"from": "31.1.2026"}}, "cannot be compared"),
        ({"StudyTime": {"from": "25:00"}}, "cannot be compared"),
        ({"PatientAge": {"from": 18}}, "in quotes"),
        ({"PatientAge": {"from": "18"}}, "cannot be compared"),
        ({"ReceivedAt": {"from": "evening"}}, "cannot be compared"),
    ],
)
def test_what_cannot_be_compiled_is_named(when: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules(Route("r", ("x",), when))
    (problem,) = caught.value.problems
    (keyword,) = when
    assert problem.startswith(f"route.r.when.{keyword}")
    assert why in problem


def test_all_faults_are_told_at_once_with_their_places() -> None:
    faulty = config(
        Route("a b", ("x",), {"Modality": [], "Rows": {"regex": "["}}),
        holds=(Hold("h", when={"StudyDate": {"from": "yesterday"}}),),
        lines={'route."a b".when.Modality': "10-site.toml:6", "hold.h.when.StudyDate": "10-site.toml:9"},
    )
    with pytest.raises(ConfigError) as caught:
        compile_rules(faulty)
    first, second, third = caught.value.problems
    assert first.startswith('10-site.toml:6: route."a b".when.Modality: expected text')
    assert second.startswith('route."a b".when.Rows.regex: expected a regular')
    assert third.startswith('10-site.toml:9: hold.h.when.StudyDate: "yesterday"')


# -- properties --------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["CT", "MR", "IO", "C*", "?R", "[CI]*", "5", "20260131", "*"])
SCALARS = WORDS | st.integers(0, 9)
CONDITIONS: st.SearchStrategy[Any] = st.recursive(
    SCALARS
    | st.lists(SCALARS, min_size=1, max_size=3)
    | st.booleans().map(lambda present: {"present": present})
    | st.sampled_from([{"regex": "C.|5"}, {"from": "CT", "to": "MR"}, {"from": "D"}, {"to": "5"}]),
    lambda inner: inner.map(lambda condition: {"not": condition}),
    max_leaves=4,
)
VALUES = st.lists(st.sampled_from(["", "CT", "MR", "CR", "IO", "5", "05", "20260131"]), max_size=3).map(tuple)
KEYWORDS = st.sampled_from(["Modality", "PatientID", "StationName"])
FACTS = st.dictionaries(KEYWORDS, VALUES).map(lambda attributes: replace(facts(), attributes=attributes))
WHENS = st.dictionaries(KEYWORDS, CONDITIONS, max_size=3)
ROUTES = st.builds(
    Route,
    st.sampled_from("abcdefgh"),
    st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, unique=True).map(tuple),
    WHENS,
    st.sampled_from(Priority),
)
ROUTE_LISTS = st.lists(ROUTES, max_size=6, unique_by=lambda route: route.name)


@given(CONDITIONS, FACTS)
def test_not_inverts(condition: Any, of: InstanceHeader) -> None:
    assert matches({"Modality": {"not": condition}}, of) is not matches({"Modality": condition}, of)


@given(st.lists(SCALARS, min_size=1), FACTS)
def test_a_list_is_any_of_its_items(items: list[Any], of: InstanceHeader) -> None:
    assert matches({"Modality": items}, of) is any(matches({"Modality": each}, of) for each in items)


@given(WHENS, FACTS)
def test_all_conditions_of_a_route_must_hold(when: dict[str, Any], of: InstanceHeader) -> None:
    assert matches(when, of) is all(matches({keyword: value}, of) for keyword, value in when.items())


@given(ROUTE_LISTS, FACTS, st.randoms(use_true_random=False))
def test_the_order_of_the_routes_does_not_matter(routes: list[Route], of: InstanceHeader, dice: Any) -> None:
    shuffled = dice.sample(routes, len(routes))
    assert rules(*routes).assign(of) == rules(*shuffled).assign(of)


@given(ROUTE_LISTS, FACTS)
def test_assignments_are_the_union_of_what_each_route_gives(routes: list[Route], of: InstanceHeader) -> None:
    best: dict[str, Priority] = {}
    for route in routes:
        for given_alone in rules(route).assign(of):
            name = given_alone.destination
            best[name] = min(best.get(name, Priority.ROUTINE), given_alone.priority)
    assigned = rules(*routes).assign(of)
    assert {each.destination: each.priority for each in assigned} == best
    assert [each.priority for each in assigned] == sorted(each.priority for each in assigned)


@given(ROUTE_LISTS, FACTS)
def test_the_explanation_agrees_with_the_assignment(routes: list[Route], of: InstanceHeader) -> None:
    asked = rules(*routes)
    told = asked.explain(of)
    assert {each.route for each in told} == {route.name for route in routes}
    assert all(each.matched == all(finding.ok for finding in each.findings) for each in told)
    assert {name for each in told if each.matched for name in each.to} == {
        each.destination for each in asked.assign(of)
    }
    assert {each.route for each in asked.assign(of)} <= {each.route for each in told if each.matched}


@given(WHENS, FACTS)
def test_only_wanted_attributes_are_looked_at(when: dict[str, Any], of: InstanceHeader) -> None:
    asked = rules(Route("r", ("x",), when))
    known = {keyword: values for keyword, values in of.attributes.items() if keyword in asked.wanted}
    assert asked.assign(of) == asked.assign(replace(of, attributes=known))


@given(st.text(max_size=8), st.text(max_size=8))
def test_text_without_wildcards_matches_itself_alone(text: str, value: str) -> None:
    if text and not set(text) & set("*?["):
        assert matches({"StationName": text}, facts(StationName=value)) is (text == value)
        assert matches({"StationName": text}, facts(StationName=text))


def test_ten_routes_are_asked_in_few_steps() -> None:
    routes = [
        Route(f"r{number}", ("archive",), {"Modality": ["IO", "P*"], "CallingAETitle": f"CT{number}*"})
        for number in range(9)
    ]
    night = {"ReceivedAt": {"from": "18:00", "to": "07:00"}, "RemoteAddress": "10.0.0.0/8"}
    asked = rules(*routes, Route("night", ("reader",), night))
    of = facts(Modality="PX")
    asked.assign(of)
    assert count_calls(lambda: asked.assign(of)) < 400, "what the configuration says was read before"
