"""The trend of the figures at the centre: all senders together, by the number of their objects and studies."""

from __future__ import annotations

import json

import pytest

from edge.central.trends import MOST_DAYS, DayShares, figure_plots, pick_days, share_by_day
from edge.store.central.figures import FIGURE_DAY


def row(day: int, **figures: float | None) -> dict[str, object]:
    return {"day": day, "figures": json.dumps({"objects": 0, "studies": 0, **figures})}


def test_shares_are_weighted_by_objects_and_studies() -> None:
    found = share_by_day([
        row(7, objects=300, patient_id_share=1.0, studies=1, slow_share=1.0),
        row(7, objects=100, patient_id_share=0.0, studies=3, slow_share=0.0),
        row(6, objects=5, patient_id_share=None),
    ])  # fmt: skip
    assert found == [DayShares(7, {"patient_id_share": 0.75, "slow_share": 0.25})]


@pytest.mark.parametrize("reach", [1, 30, 396])
def test_no_reach_reads_more_days_than_a_plot_needs(reach: int) -> None:
    days = pick_days(20_000, reach * FIGURE_DAY)
    assert days[0] == 20_000
    assert len(days) <= MOST_DAYS + 1
    assert days[-1] >= 20_000 - reach


def test_the_last_value_is_named_and_nothing_measured_is_said() -> None:
    now = 20_001 * FIGURE_DAY
    made = {
        title: (last, drawn)
        for title, last, drawn in figure_plots([DayShares(20_000, {"lossy_share": 0.5})], 0.0, now, "x")
    }
    assert made["Lossy objects"][0].startswith("50")
    assert made["Patient ID in form"][0] == ""
    assert "nothing measured yet" in made["Patient ID in form"][1]
