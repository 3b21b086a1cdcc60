"""The report of a month: from samples and downtimes to tables, CSV and a forecast of years."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge.config.sections import Calendar
from edge.errors import EdgeError
from edge.messaging.monthly_mail import post_due_report
from edge.messaging.notice import LETTER
from edge.model import Disk
from edge.monitor import health
from edge.monitor.live import Live
from edge.monitor.monthly import MonthlyReport, growth_of, latest_months, month_of, monthly_report, project
from edge.monitor.monthly_text import report_csv, report_letter, report_tables, summary_lines
from edge.monitor.sampler import Gauges
from edge.monitor.snapshot_model import Snapshot
from edge.network.answer_times import BOUNDS, AnswerTally
from edge.store import downtimes, outbox, samples
from edge.store.database import Store
from edge.store.downtimes import Downtime
from edge.store.samples import DAY, HOUR
from edge.text import iso
from tests.support.gateway import CONFIG, configuration
from tests.support.zones import CENTRAL_EUROPE, in_zone

UTC = Calendar(time_zone="UTC")
#: 2026-11-01, 00:00 UTC.
NOVEMBER = 1_793_491_200.0
NOW = NOVEMBER + 40 * DAY
DISK = Disk(total_bytes=1000 * 10**9, free_bytes=600 * 10**9)
WORK = '[maintenance.x]\nfrom = "2026-11-10 22:00"\nto = "2026-11-11 02:00"\nreason = "switch"\n'
PLAN = WORK + '[calendar]\ntime_zone = "UTC"\n'


def test_a_month_is_that_of_the_site() -> None:
    november = month_of("2026-11", UTC, NOW)
    assert (november.begin, november.end, november.is_over) == (NOVEMBER, NOVEMBER + 30 * DAY, True)
    assert month_of("", UTC, NOW).name == "2026-11"
    assert month_of("2026-12", UTC, NOW).end == NOW
    for wrong in ("2026-13", "november", "2027-01", "9999-12", "0001-01"):
        with pytest.raises(EdgeError):
            month_of(wrong, UTC, NOW)


def test_a_month_before_the_clocks_changed_begins_and_ends_at_its_own_midnight() -> None:
    april = datetime(2026, 4, 5, 12, tzinfo=timezone.utc).timestamp()
    with in_zone(CENTRAL_EUROPE):
        march = month_of("2026-03", Calendar(), april)
    assert (iso(march.begin), iso(march.end)) == ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z")


def test_the_months_are_those_of_the_site_whatever_the_machine_is_set_to() -> None:
    """Where the machine's month has begun and the site's has not, its report is not offered."""
    first = datetime(2026, 12, 1, 3, tzinfo=timezone.utc).timestamp()
    assert latest_months(Calendar(time_zone="America/Chicago"), first, 3) == ["2026-11", "2026-10", "2026-09"]
    assert latest_months(UTC, first, 12)[::11] == ["2026-12", "2026-01"]


def test_a_sum_that_begins_again_goes_on() -> None:
    assert growth_of([(0, 10.0), (1, 15.0), (2, 3.0), (3, 4.0)]) == 9.0
    assert growth_of([(0, 10.0)]) == 0.0


def test_capacity_is_a_straight_line_and_unknown_at_first() -> None:
    received = [(hour * HOUR, 1e9 * hour / 24 * (1 + hour / 24 / 365)) for hour in range(60 * 24)]
    used = [(at, 4e11 + value / 10) for at, value in received]
    found = project(received, used, DISK)
    assert found.intake_per_day_bytes == pytest.approx(1.32e9, rel=0.05)
    assert [each.years for each in found.ahead] == [1, 2, 3, 4, 5]
    assert found.ahead[4].intake_per_day_bytes > found.ahead[0].intake_per_day_bytes > found.intake_per_day_bytes
    assert project(received[:200], used[:200], DISK).intake_per_day_bytes is None


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MonthlyReport]:
    """A month with a planned and an unplanned downtime, a modality and a destination."""
    folder: Path = tmp_path_factory.mktemp("month")
    config, store = configuration(folder, CONFIG + PLAN), Store(folder / "catalog.db")
    planned = NOVEMBER + 9 * DAY + 22.5 * HOUR
    lost = NOVEMBER + 15 * DAY

    def fill(conn: object) -> None:
        for day in range(40):
            found = {"disk.used": 1e9 * day, "received.bytes": 2e9 * day, "backlog/archive": 10.0 * (day % 7)}
            found |= {"received.answers/ct1": 100.0 * day, "received.answer.seconds/ct1": 2.0 * day}
            found |= {"received.answer.bytes/ct1": 5e7 * day}
            samples.add_sample(conn, NOVEMBER + day * DAY, found)  # type: ignore[arg-type]
        for began, ended, why in ((planned, planned + HOUR, "power"), (lost, lost + 600, "power")):
            downtimes.begin_run(conn, Downtime(began, ended, why, False), "b", ended)  # type: ignore[arg-type]

    store.write(fill)
    with store.reading() as conn:
        yield monthly_report(conn, config, DISK, month_of("2026-11", UTC, NOW), NOW)
    store.close()


def test_planned_downtime_is_no_unavailability(report: MonthlyReport) -> None:
    assert (report.planned_seconds, report.unplanned_seconds) == (HOUR, 600.0)
    assert report.available == pytest.approx(1 - 600 / (30 * DAY))


def test_volumes_answers_and_backlogs_are_those_of_the_month(report: MonthlyReport) -> None:
    (ct1,) = report.received
    assert (ct1.name, ct1.objects, ct1.answer_seconds) == ("ct1", 3000, pytest.approx(0.02))
    assert report.received_bytes == 60 * 10**9
    assert [(each.name, each.most) for each in report.backlogs] == [("archive", 60)]


def test_what_came_before_the_first_sample_of_a_start_counts(tmp_path: Path) -> None:
    """A modality that sends once is sampled with all of it; after a start it may send more than it had before."""
    config, store = configuration(tmp_path), Store(tmp_path / "catalog.db")
    for start in (40, 100):
        tally = AnswerTally([start, *[0] * len(BOUNDS)], start * 0.02, start * 500_000)

        def seen(tally: AnswerTally = tally) -> Snapshot:
            with store.reading() as conn:
                return health.snapshot(conn, config, DISK, Live("running", answers={"ct1": tally}), time.time())

        gauges = Gauges(store, lambda: config, lambda: DISK, seen)
        gauges.sample()
        gauges.sample()
    now = time.time()
    with store.reading() as conn:
        found = monthly_report(conn, config, DISK, month_of(time.strftime("%Y-%m", time.gmtime(now)), UTC, now), now)
    store.close()
    assert [(each.name, each.objects, each.bytes) for each in found.received] == [("ct1", 140, 70_000_000)]


def test_the_month_is_mailed_once_and_first_for_the_month_it_was_asked_in(tmp_path: Path) -> None:
    email = '[email.boss]\nhost = "mail"\nsender = "edge@example.org"\nto = ["a@example.org", "b@example.org"]\n'
    quiet = configuration(tmp_path, CONFIG + PLAN + email)
    config = configuration(tmp_path, CONFIG + PLAN + email + "monthly = true\n")
    december, store = NOVEMBER + 30 * DAY, Store(tmp_path / "catalog.db")
    posted = [
        post_due_report(store, each, now)
        for each, now in (
            (quiet, NOVEMBER + DAY),
            (config, NOVEMBER + DAY),  # asked for in November: October is not mailed
            (config, december + 6 * HOUR),
            (config, december + 7 * HOUR),
            (config, december + 8 * HOUR),
        )
    ]
    assert posted == [False, False, False, True, False]
    with store.reading() as conn:
        waiting = [each for to in "ab" for each in outbox.oldest(conn, f"email.boss/{to}@example.org", 9)]
    assert [each.kind for each in waiting] == [LETTER, LETTER]
    assert "the report of 2026-11" in json.loads(waiting[0].body)["subject"]
    store.close()


def test_a_mail_has_the_tables_of_the_report(report: MonthlyReport) -> None:
    subject, text = report_letter(report)
    assert subject.endswith("the report of 2026-11")
    assert "\nct1       3,000    " in text
    assert "No alert was notified." in text


def test_people_and_spreadsheets_read_the_same(report: MonthlyReport) -> None:
    tables = {each.title: each for each in report_tables(report)}
    assert [row[3] for row in tables["Downtimes"].rows] == ["unplanned", "planned"]
    assert [row[0] for row in tables["Capacity"].rows][-1] == "5 years"
    assert summary_lines(report)[0] == "Available 99.976 %: 10 min of unplanned and 1 h of planned downtime."
    rows = list(csv.DictReader(io.StringIO(report_csv(report))))
    assert {row["value"] for row in rows if row["name"] == "unplanned downtime"} == {"600"}
