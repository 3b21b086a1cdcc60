"""The decisions that forwarding makes about time, without any time passing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.outbound import pace
from edge.outbound.pace import UP, Circuit, Loan, Meter, Tuner
from edge.outbound.suspects import CHECK_AFTER, MANY, Suspicion, again_after, must_hold
from edge.worker.backoff import backoff

MIDDLE = 0.5  # chance that neither stretches nor shrinks a delay


@pytest.mark.parametrize(
    ("tries", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (20, 60.0), (5000, 60.0)]
)
def test_backoff_doubles_up_to_its_longest(tries: int, expected: float) -> None:
    assert backoff(tries, 1.0, 60.0, MIDDLE) == pytest.approx(expected)


def test_backoff_is_spread_by_a_fifth() -> None:
    assert backoff(1, 10.0, 60.0, 0.0) == pytest.approx(8.0)
    assert backoff(1, 10.0, 60.0, 0.999999) == pytest.approx(12.0, abs=0.01)


def test_an_up_destination_gets_all_associations() -> None:
    assert UP.is_up
    assert UP.allows(0.0, 5) == 5


def test_a_failure_closes_and_one_probe_opens() -> None:
    down = UP.with_failure(100.0, "refused", MIDDLE)
    assert (down.is_up, down.reason, down.retry_at) == (False, "refused", 101.0)
    assert [down.allows(now, 5) for now in (100.0, 100.9, 101.0, 500.0)] == [0, 0, 1, 1]
    assert down.with_answer() is UP


def test_probes_become_ever_more_seldom() -> None:
    circuit, now, delays = UP, 0.0, []
    for _ in range(9):
        circuit = circuit.with_failure(now, "refused", MIDDLE)
        delays.append(circuit.retry_at - now)
        now = circuit.retry_at
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_rejection_for_good_is_asked_about_even_more_seldom() -> None:
    circuit, now = UP, 0.0
    for _ in range(20):
        circuit = circuit.with_failure(now, "rejected", MIDDLE, pace.REJECTED_LONGEST)
        now = circuit.retry_at
    assert circuit.with_failure(now, "rejected", MIDDLE, pace.REJECTED_LONGEST).retry_at - now == pytest.approx(300.0)


def test_associations_that_break_together_count_once() -> None:
    first = UP.with_failure(100.0, "reset", MIDDLE)
    assert first.with_failure(100.0, "reset too", MIDDLE) is first
    assert first.with_failure(100.5, "reset too", MIDDLE) is first
    assert first.with_failure(101.0, "again", MIDDLE).failures == 2


def test_a_destination_without_resources_is_down_after_five_answers() -> None:
    circuit = UP
    for _ in range(4):
        circuit = circuit.with_refusal(0.0, "A700", MIDDLE)
        assert circuit.is_up
    assert circuit.with_answer() is UP, "any other answer begins the count anew"
    circuit = circuit.with_refusal(0.0, "A700", MIDDLE)
    assert (circuit.is_up, circuit.reason) == (False, "A700")
    assert circuit.with_refusal(1.0, "A700", MIDDLE).failures == 2, "a probe that is refused keeps it down"


def test_a_full_destination_is_probed_with_objects_one_that_fails_with_c_echo() -> None:
    full = Circuit(refusals=4).with_refusal(0.0, "A700", MIDDLE)
    assert (full.is_up, full.is_full) == (False, True)
    assert full.refuses
    silent = full.with_failure(full.retry_at, "reset", MIDDLE)
    assert not silent.is_full
    assert not silent.refuses
    assert Circuit(refusals=4).with_refusal(0.0, "A700", MIDDLE, 10).is_up, (
        "where it takes others, more in a row are needed"
    )


# -- objects with which associations end ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "first", "last_answer", "held"),
    [
        (1, None, 50.0, False),
        (2, 10.0, 50.0, False),
        (3, 10.0, 50.0, True),
        (3, 60.0, 50.0, False),
        (5, 60.0, None, False),
        (6, 60.0, 50.0, True),
        (6, 60.0, None, True),
    ],
)
def test_when_an_object_is_held(breaks: int, first: float | None, last_answer: float | None, held: bool) -> None:
    assert must_hold(breaks, first, last_answer) is held


def test_a_suspect_waits_ever_longer_and_a_late_one_behind_the_others() -> None:
    assert [again_after(n, MIDDLE) for n in (1, 2, 3, 20)] == [2, 4, 8, 900]
    assert [again_after(n, MIDDLE, is_late=True) for n in (1, 5, 6)] == [30, 32, 64]


def test_several_in_a_row_ask_for_c_echo_and_very_many_go_slowly() -> None:
    seen = Suspicion()
    for _ in range(CHECK_AFTER):
        assert not seen.wants_check
        seen.note_fresh_break(100.0, MIDDLE)
    assert seen.wants_check
    seen.note_echo()
    assert not seen.wants_check
    assert seen.fresh_at == 0.0
    for _ in range(MANY):
        seen.note_fresh_break(100.0, MIDDLE)
    assert seen.is_slow
    assert seen.fresh_at > 100.0
    seen.note_answer()
    assert (seen.is_slow, seen.wants_check, seen.fresh_at) == (False, False, 0.0)


def test_suspects_go_slowly_while_nothing_is_stored() -> None:
    seen, waits = Suspicion(), []
    for _ in range(8):
        seen.note_alone_break(100.0, MIDDLE)
        waits.append(seen.alone_at - 100.0)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


# -- a place is lent --------------------------------------------------------------------------------------------------


def test_an_unknown_destination_may_turn_out_to_be_slow() -> None:
    loan, seen = Loan(), []
    for _ in range(7):
        seen.append(loan.seconds(0.0))
        loan.note_late(0.0)
    assert seen == [2, 4, 8, 16, 32, 60, 60]


def test_what_is_late_costs_less_each_time_but_never_less_than_the_destination_needs() -> None:
    loan = Loan()
    loan.note_answer(0.005)
    seen = []
    for _ in range(6):
        seen.append(loan.seconds(10.0))
        loan.note_late(10.0)
    assert seen == [2, 1, 0.5, 0.25, 0.125, 0.1]
    assert loan.seconds(10.0 + Loan.MEMORY + 1) == 2, "a pause is forgotten"
    loan.note_answer(3.0)
    assert loan.seconds(10.0) == 12
    assert loan.seconds(10.0, alone=True) == Loan.ALONE


def test_the_meter_asks_for_a_second_of_work() -> None:
    meter = Meter()
    assert meter.lease_size(1) == (pace.FIRST_INSTANCES, pace.FIRST_BYTES)
    for _ in range(50):
        meter.add(0.05, 1 << 20)
    assert meter.lease_size(1) == (20, 20 << 20)
    assert meter.lease_size(2) == (40, 40 << 20)
    assert meter.bytes_per_second(2) == pytest.approx(40 << 20)


def test_what_is_leased_has_bounds() -> None:
    small, fast, slow = Meter(), Meter(), Meter()
    for _ in range(50):
        small.add(0.0, 10_000)
        fast.add(0.0, 1 << 20)
        slow.add(60.0, 1 << 30)
    assert small.lease_size(8) == (pace.MOST_INSTANCES, pace.MOST_BYTES)
    assert fast.lease_size(8) == (64, pace.MOST_BYTES), "no more rows than the bytes allow are read"
    assert slow.lease_size(1)[0] == 1


def test_the_meter_follows_a_change() -> None:
    meter = Meter()
    for seconds in (*[1.0] * 100, *[0.1] * 30):
        meter.add(seconds, 1000)
    assert meter.lease_size(1)[0] in (8, 9, 10)


def run(
    tuner: Tuner, seconds: float, rate: Callable[[int], float], start: float = 1000.0, size: int = 100_000
) -> float:
    """Send for so long over a link that carries `rate(associations)` bytes a second; the time then."""
    now = start
    while now < start + seconds:
        now += size / rate(tuner.limit(now))
        tuner.note_sent(now, size, pressed=True)
    return now


def test_a_link_that_one_association_fills_keeps_one() -> None:
    tuner = Tuner()
    run(tuner, 20, lambda n: 5e6)
    assert tuner.limit(1020.0) == 1


def test_a_long_link_gets_as_many_as_pay() -> None:
    tuner = Tuner()
    run(tuner, 25, lambda n: min(n, 4) * 1e6)
    assert tuner.limit(1025.0) == 4


def test_on_a_long_line_enough_is_on_the_way_at_once() -> None:
    tuner = Tuner()
    tuner.note_association(0.08, 512 * 1024)
    assert tuner.limit(1000.0) == 8
    tuner.note_association(0.08, 10_000)
    assert tuner.limit(1000.0) == 8, "what the first association shows counts"


def test_a_short_line_gets_two_once_the_first_is_open() -> None:
    tuner = Tuner()
    assert tuner.limit(1000.0) == 1, "nobody knows yet how many it takes"
    tuner.note_association(0.0005, 0)
    assert tuner.limit(1000.0) == 2
    tuner.note_failure(1000.0, 1)
    tuner.note_association(0.0005, 512 * 1024)
    assert tuner.limit(1000.0) == 1


def test_a_long_line_waits_for_what_is_to_go() -> None:
    tuner = Tuner()
    tuner.note_association(0.08, 0)
    tuner.note_association(0.08, 512 * 1024)
    assert tuner.limit(1000.0) == 8


def test_a_configured_number_counts_from_the_start() -> None:
    tuner = Tuner(1)
    tuner.note_association(0.0005, 512 * 1024)
    assert tuner.limit(1000.0) == 1


def test_small_objects_on_a_long_line_get_many_associations_within_seconds() -> None:
    tuner = Tuner()
    tuner.note_association(0.08, 10_000)
    run(tuner, 3, lambda n: n * 10_000 / 0.08, size=10_000)
    assert tuner.limit(1003.0) == Tuner.MOST


def test_twice_as_many_are_tried_only_while_that_pays_in_full() -> None:
    tuner, seen = Tuner(), []
    run(tuner, 30, lambda n: seen.append(n) or min(n, 5) * 1e6)
    assert tuner.limit(1030.0) == 8
    assert max(seen) == 9, "after the step to eight, which paid in part, one more was tried"


def test_there_is_an_end_to_growing() -> None:
    tuner = Tuner()
    run(tuner, 60, lambda n: n * 1e6)
    assert tuner.limit(1060.0) == Tuner.MOST


def test_after_a_rest_it_tries_again() -> None:
    tuner = Tuner()
    now = run(tuner, 20, lambda n: 5e6)
    run(tuner, 40 + Tuner.REST, lambda n: n * 1e6, now)
    assert tuner.limit(now + 40 + Tuner.REST) == Tuner.MOST


def test_without_pressure_nothing_is_measured() -> None:
    tuner = Tuner()
    for tick in range(10_000):
        tuner.note_sent(1000 + tick / 100, 100_000, pressed=False)
    assert tuner.limit(2000.0) == 1


def test_a_destination_that_refuses_one_more_is_not_asked_soon_again() -> None:
    tuner = Tuner()
    now = run(tuner, 5, lambda n: n * 1e6)
    tuner.note_failure(now, 2)
    assert tuner.limit(now) == 2
    run(tuner, 60, lambda n: n * 1e6, now)
    assert tuner.limit(now + 60) == 2


def test_a_configured_number_is_used() -> None:
    tuner = Tuner(3)
    run(tuner, 20, lambda n: 5e6)
    assert tuner.limit(1020.0) == 3
    tuner.note_failure(1020.0, 1)
    assert tuner.limit(1020.0) == 1
    assert tuner.limit(1020.0 + Tuner.LONG_REST) == 3
    assert Circuit().allows(0.0, tuner.limit(1020.0)) == 1
