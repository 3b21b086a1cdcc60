"""A refusal is said once and then counted; a flood of them stays small."""

from __future__ import annotations

import logging

import pytest

from edge.network.shares import DISTINCT_REFUSALS
from edge.scp.rejections import Refusals


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_same_again_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    book = Refusals(clock)
    with caplog.at_level(logging.WARNING):
        for number in range(500):
            book.note_refused("10.0.0.9", "X", f"its A-ASSOCIATE-RQ claims {number} bytes")
        (first,) = book.take()
        assert (first.address, first.calling_ae, first.times) == ("10.0.0.9", "X", 1)
        clock.now += 30
        assert book.take() == []
        clock.now += 31
        (rest,) = book.take()
        assert (rest.times, rest.first, rest.last) == (499, 1000.0, 1000.0)
        clock.now += 61
        assert book.take() == []
        book.note_refused("10.0.0.9", "X", "its A-ASSOCIATE-RQ claims 7 bytes")
        assert [refusal.times for refusal in book.take()] == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "refused: 'X' at 10.0.0.9: its A-ASSOCIATE-RQ claims 0 bytes",
        "refused: 'X' at 10.0.0.9, 499 times more: its A-ASSOCIATE-RQ claims 0 bytes",
        "refused: 'X' at 10.0.0.9: its A-ASSOCIATE-RQ claims 7 bytes",
    ]


def test_those_that_differ_are_kept_apart_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    book = Refusals(Clock())
    for number in range(100):
        book.note_refused("10.0.0.9", f"AE{number}", "unknown equipment")
    book.note_refused("10.0.0.8", "CT", "unknown equipment")
    told = book.take()
    assert len(told) == len(caplog.records) == DISTINCT_REFUSALS.each + 2
    assert (told[-2].address, told[-2].why) == ("10.0.0.9", "many different refusals of one caller")
    assert (told[-1].address, told[-1].calling_ae) == ("10.0.0.8", "CT")
    for number in range(1_000):
        book.note_refused(f"10.1.{number // 250}.{number % 250}", "X", "unknown equipment")
    told = book.take()
    assert told[-1].why.startswith("many different callers")
    assert len(caplog.records) <= DISTINCT_REFUSALS.all + 3


def test_titles_from_the_wire_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    Refusals(Clock()).note_refused("10.0.0.9", "X\nINFO all is well", "unknown equipment")
    assert "\n" not in caplog.records[0].getMessage()
