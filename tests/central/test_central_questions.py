"""What the office answers: on both databases, from heartbeats and from a generated history; and as files."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from edge.central import export, simulate
from edge.central.availability import months_back
from edge.central.monthly import fleet_month, read_month
from edge.central.question_pages import show
from edge.central.reports import QUESTIONS
from edge.monitor import announcement
from edge.monitor.monthly import month_of
from edge.store.central import history
from edge.store.engine import do
from edge.store.equipment import Announcement
from edge.store.samples import DAY
from edge.text import iso, percent_exact
from tests.support.central_office import MORNING, Office, OpenDatabase, status, write_config
from tests.support.effort import count_calls, counted_steps

TB = 10**12
SITES = """
[site.a]
key = "site.key"
equipment = ["CT1", "MR1", "OLD1"]
[site.b]
key = "site.key"
name = "Clinic B"
equipment = ["US1"]
"""


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", SITES), store)
    store.close()


def ask(office: Office, name: str, now: float) -> list[dict[str, Any]]:
    with office.store.reading() as conn:
        return QUESTIONS[name].ask(conn, office.config, now)


def modality(title: str, last_seen: float) -> dict[str, Any]:
    return {"ae_title": title, "address": "10.0.0.1", "last_seen": iso(last_seen), "admitted": True}


def test_the_inventory_marks_what_is_orphaned_unknown_and_misrouted(office: Office) -> None:
    there = [
        modality("CT1", MORNING),
        modality("OLD1", MORNING - 90 * DAY),
        modality("US1", MORNING),
        modality("=NEW", MORNING),
    ]
    office.hear("a", 1, MORNING, status=status(modalities=there))
    found = {(each["site"], each["ae_title"]): each["mark"] for each in ask(office, "inventory", MORNING)}
    assert found == {
        ("a", "CT1"): "",
        ("a", "MR1"): "orphaned",
        ("a", "OLD1"): "orphaned",
        ("a", "US1"): "misrouted",
        ("a", "=NEW"): "unknown",
        ("b", "US1"): "orphaned",
    }
    assert {each["ae_title"] for each in ask(office, "equipment", MORNING)} == {"US1", "=NEW"}


def test_what_a_person_announced_is_in_the_answers_about_equipment_and_capacity(office: Office) -> None:
    made = Announcement(7, "equipment", MORNING, "anna", "2027-03-01", 200 * 10**9, "second CT")
    notice = announcement.announcement_body(made, "a", "Clinic A")
    for number in (1, 2):
        office.hear("a", number, MORNING + number * 60, notices=[notice])
    (row,) = ask(office, "announced", MORNING + DAY)
    assert (row["site"], row["from_date"], row["expected_bytes_per_month"]) == ("a", "2027-03-01", 200 * 10**9)
    (sums,) = ask(office, "capacity", MORNING + DAY)
    assert sums["announced_per_month_bytes"] == 200 * 10**9
    (incident,) = office.incidents()
    assert (incident["kind"], "second CT" in incident["text"]) == ("announced", True)


def test_figures_are_shown_by_sender_beside_those_of_four_weeks_ago(office: Office) -> None:
    def figures(share: float) -> list[dict[str, Any]]:
        return [{"ae_title": "CT1", "objects": 10, "patient_id_share": share, "slow_share": None, "dose_missing": 2}]

    office.hear("a", 1, MORNING, status=status(figures=figures(0.5)))
    office.hear("a", 2, MORNING + 28 * DAY, status=status(figures=figures(0.4)))
    office.hear("a", 3, MORNING + 28 * DAY + 60, status=status(figures=figures(1.0)))
    (row,) = ask(office, "figures", MORNING + 28 * DAY + 120)
    assert (row["ae_title"], row["patient_id_share"], row["patient_id_share_before"]) == ("CT1", 1.0, 0.5)
    assert row["dose_missing"] == 2


def test_exports_are_whole_and_no_formula_runs(office: Office) -> None:
    office.hear("a", 1, MORNING, status=status(modalities=[modality("=1+1", MORNING)]))
    answer = ask(office, "equipment", MORNING)
    (row,) = csv.DictReader(io.StringIO(export.as_csv(QUESTIONS["equipment"].columns, answer)))
    assert (row["ae_title"], row["last_seen"]) == ("'=1+1", iso(MORNING))
    assert json.loads(export.as_json(answer))[0]["ae_title"] == "=1+1"


def test_sites_fill_up_by_their_own_word_or_by_their_week(office: Office) -> None:
    soon = {"used_fraction": 0.9, "free_bytes": 1, "total_bytes": TB, "full_in_seconds": 2 * DAY}
    office.hear("a", 1, MORNING, status=status(storage=soon))
    for day in range(8):
        used = 0.5 + day * 0.06
        told = {"used_fraction": used, "free_bytes": 1, "total_bytes": TB, "full_in_seconds": None}
        office.hear("b", day + 1, MORNING + day * DAY, status=status(storage=told))
    found = ask(office, "filling", MORNING + 7 * DAY)
    assert [(each["site"], round(each["full_in_seconds"] / DAY, 2)) for each in found] == [("b", 1.33), ("a", 2.0)]
    assert found[0]["name"] == "Clinic B"


def test_a_disk_that_was_freed_does_not_fill_up(office: Office) -> None:
    for day, used in enumerate((0.9, 0.9, 0.88, 0.6, 0.6, 0.5, 0.5, 0.5)):
        told = {"used_fraction": used, "free_bytes": 1, "total_bytes": TB, "full_in_seconds": None}
        office.hear("b", day + 1, MORNING + day * DAY, status=status(storage=told))
    assert ask(office, "filling", MORNING + 7 * DAY) == []


def outage(office: Office, site: str, begin: float, end: float, cause: str = "down") -> None:
    sql = """
    INSERT INTO outage (site, silent_from, returned_at, cause, down_from, down_to, why)
    VALUES (:site, :begin, :end, :cause, :begin, :down_to, '')
    """
    with office.store.writing() as conn:
        do(conn, sql, site=site, begin=begin, end=end, cause=cause, down_to=end if cause == "down" else begin)


def test_downtime_by_site_and_month(office: Office) -> None:
    february = months_back(MORNING, -1)
    outage(office, "a", february - 600, february + 1200)
    outage(office, "a", february + 5000, february + 5300, "unreachable")
    found = ask(office, "downtime", february + 10_000)
    rows = [(e["month"], e["outages"], e["down_seconds"], e["unreachable_seconds"]) for e in found]
    assert rows == [("2026-02", 2, 1200.0, 300.0), ("2026-01", 1, 600.0, 0.0)]
    assert found[0]["available"] == pytest.approx(1 - 1200 / 10_000)
    assert percent_exact(0.999999) == "99.999 %"


def test_a_month_of_years_ago_has_its_downtime(office: Office) -> None:
    february, now = months_back(MORNING, -1), MORNING + 800 * DAY
    office.hear("a", 1, february)
    outage(office, "a", february + DAY, february + DAY + 3600)
    month = month_of("2026-02", office.config.calendar, now)
    with office.store.reading() as conn:
        found = fleet_month(read_month(conn, month, now), office.config, month, now)
    (row,) = found.rows
    assert (row["outages"], row["down_seconds"], row["available"]) == (1, 3600.0, pytest.approx(1 - 1 / (28 * 24)))


def test_capacity_is_projected_from_measured_growth(office: Office) -> None:
    """A disk of 4 TB, at 1 TB, that grows by 1 GB a day: full in 3,000 days, at 2.096 TB in three years."""
    with office.store.writing() as conn:
        for day in range(365):
            at = int(MORNING - (364 - day) * DAY) // 86400 * 86400
            used = TB - (364 - day) * 1e9
            row = {
                "heartbeats": 1440,
                "total": 4.0 * TB,
                "backlog": 0,
                "backlog_bytes": 0,
                "oldest": 0.0,
                "received": 1,
            }
            history.add_rows(
                conn, "history_day", [{"site": "a", "at": at, "used": used, "received_bytes": 10**9, **row}]
            )
    office.hear("a", 1, MORNING - 400 * DAY)
    (found,) = ask(office, "capacity", MORNING)
    assert found["used_in_3_years_bytes"] == pytest.approx(TB + 1095.75e9, rel=0.001)
    assert (found["full_at"] - MORNING) / DAY == pytest.approx(3000, rel=0.001)
    assert found["intake_per_day_in_3_years_bytes"] == pytest.approx(1e9, rel=0.001)
    assert found["keeps_in_3_years_days"] == pytest.approx(4000, rel=0.001)


@pytest.mark.parametrize("growth", [0.0, 0.7, 1000.0])
def test_a_disk_that_hardly_grows_is_full_on_no_date_and_shown_all_the_same(office: Office, growth: float) -> None:
    for day in range(20):
        told = {"used_fraction": (TB / 3 + day * growth) / TB, "free_bytes": 1, "total_bytes": TB}
        office.hear("a", day + 1, MORNING + day * DAY, status=status(storage=told))
    (found,) = ask(office, "capacity", MORNING + 20 * DAY)
    assert found["full_at"] is None
    assert "/site/a" in "".join(str(show(each, found)) for each in QUESTIONS["capacity"].columns)
    assert json.loads(export.as_json([found]))[0]["full_at"] is None


def test_thirteen_months_of_history_cost_each_question_few_rows(office: Office, tmp_path: Path) -> None:
    """Ten sites here; `edge central simulate --months 13` times a thousand (docs/central.md has the figures)."""
    lines = "\n".join(f'[site."s{n}"]\nkey = "site.key"' for n in range(10))
    config = write_config(tmp_path / "ten", lines)
    with office.store.writing() as conn:
        for site in config.sites:
            for table, seconds in (("history_day", 86400), ("history_hour", 3600)):
                history.add_rows(conn, table, list(simulate._measurements(site, 13, seconds, MORNING)))
    with office.store.reading() as conn:
        calls, steps = dict[str, int](), dict[str, int]()
        for name, question in QUESTIONS.items():
            driver = conn.conn.connection.driver_connection
            with counted_steps(driver) if isinstance(driver, sqlite3.Connection) else nullcontext([0]) as counter:
                calls[name] = count_calls(lambda asked=question: asked.ask(conn, config, MORNING))  # type: ignore[misc]
            steps[name] = counter[0]
    assert max(calls.values()) < 5_000, "the database adds them up"
    assert max(steps.values()) < 1_000_000, "of each day of thirteen months, not of each hour"
