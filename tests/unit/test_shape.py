"""The compiled schema says what JSON Schema says: the same documents fit, by another reader of the same file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.central.shape import Misfit, compile_schema
from edge.monitor.heartbeat import pick, schema
from tests.support.central_office import MORNING, document, status
from tests.support.schemas import validator

WORD = "2026-01-05T09:00:00Z"
PROOF = {"era": 1, "seq": 3, "head": "a" * 64}
FULL = document(
    "1",
    7,
    MORNING,
    covers=[5, 7],
    ledger={"seq": 3, "head": "a" * 64, "proof": PROOF},
    notices=[{"notice": 1, "event": "opened", "kind": "lost", "subject": "x", "severity": "major", "text": "t"}
             | {"since": WORD, "at": WORD, "alert": "a", "ended": None, "site": {"id": "1", "name": "x"}}],
    status=status(
        destinations={"archive": {"state": "up", "since": None, "pending": 1, "rate_bytes_per_second": 1.5}},
        alerts=[{"kind": "lost", "subject": "x", "severity": "minor", "since": WORD, "text": "t", "id": 4}],
        modalities=[{"ae_title": "CT1", "stored": 3, "silent": None, "admitted": True}],
        versions={"kernel": "6.1"},
        outbox={"email.x": {"waiting": 1, "oldest_seconds": None}},
    ),
)  # fmt: skip
check = compile_schema(schema())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from paths(each, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**53 - 1, 2**53, 10**30, -0.0, 0.5, 1.5, 1e300, -(10**15) - 1, "x" * 257, "x" * 4097, "a" * 64]),
    st.sampled_from([WORD, f"{WORD}x", "2026-02-30T09:00:00Z", "2026-13-01T00:00:00Z", "major", "up", "opened", ""]),
    st.sampled_from([[], {}, [1, 2], [1], {"a": 1}, [[]], [{}]]),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([each for each in paths(FULL) if each]), VALUES), max_size=3))
def test_it_takes_and_refuses_what_json_schema_does(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    made = copy.deepcopy(FULL)
    for path, value in changes:
        place: Any = made
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    try:
        taken = check(made)
    except Misfit:
        assert not validator().is_valid(made)
    else:
        assert validator().is_valid(made)
        assert validator().is_valid(taken)
        assert check(taken) == taken


def test_what_it_does_not_know_is_left_out() -> None:
    told = {**FULL, "later": [[[1]]], "status": {**FULL["status"], "later": 10**400}}
    assert check(told) == check(FULL) == FULL


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"number": True}, "$.number"),
        ({"number": 1.0}, "$.number"),
        ({"boot": "x" * 65}, "$.boot"),
        ({"at": f"{WORD}\n"}, "$.at"),
        ({"notices": [{}]}, "$.notices[0].notice"),
        ({"status": {**FULL["status"], "destinations": {"secret": {"state": "x"}}}}, "$.status.destinations.*.state"),
        ({"ledger": {"seq": 1, "head": "", "proof": {}}}, "$.ledger.proof"),
    ],
)
def test_it_names_the_place_and_no_value(change: dict[str, Any], place: str) -> None:
    with pytest.raises(Misfit) as caught:
        check({**FULL, **change})
    assert caught.value.place == place


@pytest.mark.parametrize(
    "shape",
    [
        {"type": "string", "format": "date"},
        {"type": "array", "items": {"type": "null"}},
        {"type": "string", "pattern": "a"},
        {"type": "object", "additionalProperties": {"type": "null"}},
        {"type": "text"},
        {"minimum": 1},
        {"$ref": "#/$defs/nobody"},
    ],
)
def test_a_schema_that_it_does_not_understand_or_that_bounds_nothing_is_an_error(shape: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        compile_schema(shape)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.floats(),
    st.integers(),
    st.text(max_size=300),
    st.lists(st.sampled_from(["x\0", "\ud800", "plain"]), max_size=3),
)
def test_whatever_a_site_has_measured_it_sends_what_the_centre_takes(
    number: float, count: int, text: str, words: list[str]
) -> None:
    made = copy.deepcopy(FULL)
    made["status"]["storage"]["full_in_seconds"] = number
    made["status"]["queue"]["bytes"] = abs(count)
    made["status"]["versions"] = {str(n): text for n in range(1200)}
    made["status"]["reasons"] = words * 60
    sent = json.loads(json.dumps(pick(made, schema())))
    assert check(sent)
    assert "NaN" not in json.dumps(sent)
    assert "Infinity" not in json.dumps(sent)
