"""Planned work: its window, what it explains, and a downtime that lies in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edge.config import load_config
from edge.config.alarms import ALERT_KINDS
from edge.config.maintenance import EXPLAINED, Maintenance, explains, windows_of
from edge.config.sections import Calendar
from edge.errors import ConfigError
from edge.monitor.downtime import POWER, apply_plan
from edge.monitor.engine import _list_changes
from edge.monitor.escalation import OPENED
from edge.monitor.snapshot_model import Alert
from edge.store.downtimes import Downtime

BEGIN, END = (datetime.fromisoformat(each) for each in ("2026-12-05 22:00", "2026-12-06 02:00"))


def window(**more: Any) -> Any:
    given = {"from_": BEGIN, "to": END, "reason": "new core switch"} | more
    return windows_of([Maintenance("switch", **given)], "UTC")[0]


def test_a_window_is_local_time_of_the_site() -> None:
    (chicago,) = windows_of([Maintenance("switch", BEGIN, END, "x")], "America/Chicago")
    assert chicago.begin - window().begin == 6 * 3600
    assert (chicago.end - chicago.begin) == 4 * 3600


def test_a_time_with_an_offset_is_that_moment_in_any_zone() -> None:
    begin = datetime.fromisoformat("2026-12-05 22:00+00:00")
    for zone in ("America/Chicago", "UTC", None):
        assert windows_of([Maintenance("switch", begin, END, "x")], zone)[0].begin == begin.timestamp()


@pytest.mark.parametrize(
    ("begins", "lasts", "planned"),
    [(0, 3600, True), (3600, 3 * 3600, True), (-60, 3600, True), (3600, 5 * 3600, False), (-3600, 7200, False)],
)
def test_a_downtime_in_the_window_is_planned(begins: float, lasts: float, planned: bool) -> None:
    began = window().begin + begins
    found = apply_plan(Downtime(began, began + lasts, POWER, planned=False), [window()])
    assert found is not None
    assert (found.planned, found.why) == (planned, POWER)


def test_what_planned_work_explains_is_notified_after_it_alone() -> None:
    plan = window()
    alert = Alert("destination-down", "archive", "major", plan.begin + 60, "archive does not answer")
    loud = Alert("storage-refusing", "storage", "critical", plan.begin + 60, "full")

    def events(now: float) -> set[str]:
        steps = list(_list_changes([alert, loud], [], ALERT_KINDS, Calendar(), now, [plan]))
        again = [step.record for _, step in steps if step.record]
        later = _list_changes([alert, loud], again, ALERT_KINDS, Calendar(), now + 600, [plan])
        return {f"{step.event} {record.kind}" for record, step in [*steps, *later] if step.event == OPENED}

    assert events(plan.begin + 120) == {"opened storage-refusing"}
    assert events(plan.end) == {"opened destination-down", "opened storage-refusing"}


def test_every_kind_that_it_explains_exists() -> None:
    assert set(ALERT_KINDS) >= EXPLAINED
    assert not explains([window()], "lost", window().begin)


@pytest.mark.parametrize(
    ("end", "expected"),
    [("2026-12-05 21:00", "expected a time after from"), ("2027-12-06 02:00", "expected at most 14 days after from")],
)
def test_a_window_that_cannot_be_meant_is_a_fault(tmp_path: Path, end: str, expected: str) -> None:
    text = f'[maintenance.switch]\nfrom = "2026-12-05 22:00"\nto = "{end}"\nreason = "x"\n'
    (tmp_path / "a.toml").write_text('[site]\nid = "1"\ndata_dir = "d"\n' + text)
    with pytest.raises(ConfigError) as found:
        load_config(tmp_path)
    assert found.value.problems[0].startswith(f"a.toml:6: maintenance.switch.to: {expected}")
