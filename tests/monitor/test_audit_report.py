"""`edge audit report`: who touched what, and that somebody looked."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge.cli import cli
from edge.messaging.audit.refused import Register
from edge.network.shares import DAY_SECONDS, MINUTE_SECONDS, REFUSAL_ROWS, REFUSAL_ROWS_OF_DAY
from edge.scp.rejections import Refusals
from edge.store.database import migrate
from edge.text import quote_formula
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until
from tests.system.test_main_job import study_of

FORMULA = '=HYPERLINK("http://evil.example")'


@pytest.fixture
def edge(tmp_path: Path, archive: StoreScp, running: ExitStack) -> Edge:
    """A gateway that has sent two studies of two patients on."""
    made = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    storescu(ct_files(tmp_path / "a", 12, 2048, PatientID="A1", PatientName="Doe^Jane"), made.port)
    storescu(ct_files(tmp_path / "b", 1, 2048, PatientID=FORMULA, PatientName="+Mal^Ory"), made.port, calling="CT2")
    wait_until(lambda: made.api_status()["destinations"]["archive"]["confirmed"] == 13, 20, "all is sent")
    return made


def command(edge: Edge, *args: str) -> Result:
    """`edge ARGS` in this process: quicker than another one."""
    return CliRunner().invoke(cli, [*args, "--config", str(edge.config_dir)])


def report(edge: Edge, *args: str) -> Result:
    return command(edge, "audit", "report", *args)


def asked(edge: Edge, *args: str) -> list[dict[str, Any]]:
    done = report(edge, *args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def stories(lines: list[dict[str, Any]]) -> list[tuple[str, str, int, str, str]]:
    return [(each["who"], each["what"], each["images"], each["source"], each["destination"]) for each in lines]


def test_who_accessed_a_patients_studies_is_reported_and_who_asked(tmp_path: Path, edge: Edge) -> None:
    lines = asked(edge, "--patient", "A1", "--reason", "complaint")
    told = stories(lines)
    assert told[0] == ("CT1", "received", 12, "127.0.0.1", "archive")
    assert sum(images for _, what, images, _, where in told if (what, where) == ("sent", "archive")) == 12
    assert {each["patient_id"] for each in lines} == {"A1"}
    (looked,) = [each for each in lines if each["what"] == "audit trail read"]
    assert (looked["detail"], looked["study_uid"]) == ("complaint", study_of(next((tmp_path / "a").iterdir())))
    edge.stop()  # from the catalog alone, and that is recorded too
    again = asked(edge, "--study", looked["study_uid"])
    assert [each["what"] for each in again].count("audit trail read") == 2
    for _ in range(2):
        assert command(edge, "studies", "list").exit_code == 0
    assert [each["detail"] for each in asked(edge, "--patient", "A1") if each["what"] == "viewed"] == [
        "edge studies list"
    ]
    everything = asked(edge, "--since", "1h")
    assert {"started", "stopped", "received"} <= {each["what"] for each in everything}
    assert {"A1", FORMULA, ""} == {each["patient_id"] for each in everything}
    assert asked(edge, "--since", "2020-01-01", "--until", "2020-02-01") == []


def test_csv_holds_no_formula_and_the_table_is_readable(edge: Edge) -> None:
    done = report(edge, "--patient", FORMULA, "--csv")
    first = next(csv.DictReader(io.StringIO(done.stdout)))
    assert (first["who"], first["patient_id"], first["patient_name"]) == ("CT2", f"'{FORMULA}", "'+Mal^Ory")
    done = report(edge, "--patient", "A1")
    assert "received" in done.stdout
    assert "127.0.0.1" in done.stdout


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run(text: str) -> None:
    assert quote_formula(text) == f"'{text}"


def test_bad_questions(edge: Edge) -> None:
    assert report(edge).exit_code == 2
    assert report(edge, "--patient", "A1", "--csv", "--json").exit_code == 2
    done = report(edge, "--patient", "nobody")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nobody" not in done.stderr  # it could be somebody


# -- refusals ----------------------------------------------------------------------------------------------------------


class Turned:
    """Refusals with a clock of their own, and the rows that they come to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.refusals = Refusals(lambda: self.now)
        self.register = Register(lambda: self.now)
        self.conn = sqlite3.connect(":memory:", isolation_level=None)
        self.conn.row_factory = sqlite3.Row
        migrate(self.conn)

    def rows(self, *, last: bool = False) -> list[tuple[str, str]]:
        """What is new in the ledger."""
        before = self.conn.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()[0]
        work = self.register.enter(self.refusals.take(), last=last)
        if work is not None:
            work(self.conn)
        sql = "SELECT who, words(event, detail, payload) FROM ledger WHERE seq > ?"
        return [tuple(row) for row in with_words(self.conn).execute(sql, (before,))]


@pytest.fixture
def turned() -> Iterator[Turned]:
    made = Turned()
    yield made
    made.conn.close()


def test_a_caller_that_tries_again_and_again_has_a_row_a_minute(turned: Turned) -> None:
    written = []
    for _ in range(180):
        turned.refusals.note_refused("10.0.0.1", "X", "unknown equipment")
        written += turned.rows()
        turned.now += 1
    assert written[0] == ("X", "from 10.0.0.1: unknown equipment")  # the first at once
    assert len(written) <= 6
    assert all(detail.startswith("from 10.0.0.1: unknown equipment") for _, detail in written)


def test_a_scan_by_ten_thousand_callers_has_eleven_rows_a_minute(turned: Turned) -> None:
    written = []
    for number in range(10_000):
        turned.refusals.note_refused("10.0.0.1", f"X{number}", "unknown equipment")
        turned.now += MINUTE_SECONDS / 10_000
        written += turned.rows() if number % 100 == 0 else []
    written += turned.rows(last=True)
    assert len(written) <= 22  # it may lie across two minutes
    assert any(who == "unknown" and "as in a port scan" in detail for who, detail in written)


def test_a_flood_of_days_has_a_bounded_number_of_rows_and_others_have_theirs(turned: Turned) -> None:
    written = 0
    for step in range(2 * 360):
        for number in range(12):
            turned.refusals.note_refused(f"10.0.{step % 200}.{number}", f"X{step}", "unknown equipment")
        written += len(turned.rows())
        turned.now += 4 * MINUTE_SECONDS
    assert written <= 2 * (REFUSAL_ROWS_OF_DAY + 300), "without a bound of the day it is 2 * 3,960"
    turned.now += DAY_SECONDS
    turned.rows()
    for number in range(100):
        turned.refusals.note_refused("10.0.0.1", f"X{number}", "unknown equipment")
    turned.refusals.note_refused("10.0.0.2", "CT", "unknown equipment")
    assert ("CT", "from 10.0.0.2: unknown equipment") in turned.rows()


def test_a_stop_writes_what_waits(turned: Turned) -> None:
    for number in range(REFUSAL_ROWS.each + 5):
        turned.refusals.note_refused("::1", "", f"nonsense of the kind {chr(97 + number)}")
    assert len(turned.rows()) == REFUSAL_ROWS.each
    assert turned.rows() == []
    assert turned.rows(last=True) == [("unknown", "many callers at once, as in a port scan (5 times)")]
