"""What rules and people keep: for years, through a rebuild, and named when it is in the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from edge.cli import cli
from edge.config import conditions, load_config
from edge.errors import EdgeError
from edge.intake.policy import Policy
from edge.model import Disk, InstanceHeader, Origin
from edge.storage import retention_review
from edge.storage.rebuild import recover
from edge.storage.retention import Retention
from edge.storage.retention_review import RetentionReview, bound_files
from edge.store import ledger, legal_holds, patients, retention_rules
from edge.store.database import Store
from edge.store.ledger_copy import Journal
from edge.store.retention_rules import RuledInstance
from tests.support.filled import CONFIG, Filled

DAY, YEAR = 86400.0, 365.25 * 86400.0
RULES = (
    CONFIG
    + """
[retention]
keep = "30d"
[retention.mammography]
when = { Modality = "MG" }
keep = "3650d"
[retention.children]
when = { PatientAge = { to = "017Y" } }
keep = "6000d"
"""
)


class Years(Filled):
    """A gateway whose disk is always fuller than it should be, and whose clock the test moves."""

    def __init__(self, tmp_path: Path, text: str = RULES) -> None:
        super().__init__(tmp_path, text)
        self.now = time.time()
        disk = Disk(10**6, 10**5)
        self.rules = RetentionReview(self.db, self.intake, lambda: self.config)
        self.retention = Retention(
            self.db, self.spool, lambda: self.config, lambda: disk, clock=lambda: self.now, review=self.rules.review
        )

    def configure(self, text: str) -> None:
        (self.directory / "site.toml").write_text(text)
        self.config = load_config(self.directory)
        self.intake.policy = Policy.from_config(self.config)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.retention.step()

    def here(self) -> set[str]:
        with self.db.reading() as conn:
            rows = conn.execute(
                "SELECT DISTINCT modality FROM study s JOIN instance i ON i.study_id = s.id WHERE i.state = 'stored'"
            )
            return {row[0] for row in rows}


@pytest.fixture
def years(tmp_path: Path) -> Iterator[Years]:
    with Years(tmp_path) as made:
        yield made


def receive(site: Filled, **attributes: str) -> str:
    uid = site.receive(1, **attributes)
    site.settle("archive", 10)
    return uid


def edge(site: Filled, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(site.directory), *args])


def test_ten_years_of_rules(years: Years) -> None:
    receive(years, Modality="CT")
    receive(years, Modality="MG")
    receive(years, Modality="CR", PatientAge="004Y")
    receive(years, Modality="US", PatientAge="044Y")
    years.pass_time(29 * DAY)
    assert years.here() == {"CT", "MG", "CR", "US"}
    years.pass_time(2 * DAY)
    assert years.here() == {"MG", "CR"}
    for _ in range(119):
        years.pass_time(30.4 * DAY)
    assert years.here() == {"MG", "CR"}
    years.pass_time(60 * DAY)
    assert years.here() == {"CR"}
    for _ in range(7):
        years.pass_time(YEAR)
    assert years.here() == set()


def test_a_rule_that_is_configured_no_more_keeps_nothing(years: Years) -> None:
    receive(years, Modality="MG")
    years.configure(CONFIG)
    years.pass_time(31 * DAY)
    assert years.here() == set()


DENTAL = '[retention.dental]\nwhen = { Modality = "IO" }\nkeep = "3650d"\n'


def test_a_new_rule_reaches_back_a_few_headers_at_a_time(years: Years, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_review, "REVIEW_BATCH", 2)
    for modality in ("IO", "CT", "IO", "US", "IO"):
        receive(years, Modality=modality)
    while years.rules.step():
        pass
    years.configure(RULES + DENTAL)
    assert years.rules.step()  # two of five
    assert years.one("SELECT count(*) FROM instance WHERE retention = 'dental'") == 1
    again = RetentionReview(years.db, years.intake, lambda: years.config)  # after a restart
    steps = 1
    while again.step():
        steps += 1
    assert (years.one("SELECT count(*) FROM instance WHERE retention = 'dental'"), steps) == (3, 3)
    assert not again.step()
    years.pass_time(31 * DAY)
    assert years.here() == {"IO"}


def test_what_a_new_rule_keeps_is_not_evicted_before_the_pass_has_come_to_it(years: Years) -> None:
    receive(years, Modality="IO")
    receive(years, Modality="CT")
    years.configure(RULES + DENTAL)
    years.pass_time(31 * DAY)
    assert years.here() == {"IO"}


def test_a_file_that_cannot_be_read_keeps_its_rule_and_stops_nothing(years: Years) -> None:
    receive(years, Modality="IO")
    receive(years, Modality="IO")
    path = years.one("SELECT path FROM instance ORDER BY id LIMIT 1")
    years.spool.path_of(path).write_bytes(b"")
    years.configure(RULES + DENTAL)
    while years.rules.step():
        pass
    assert years.one("SELECT group_concat(retention) FROM (SELECT retention FROM instance ORDER BY id)") == ",dental"


ONLY_KEPT = CONFIG + '[retention]\nkeep = "30d"\n' + DENTAL


def test_what_the_catalog_keeps_answers_without_the_file(years: Years) -> None:
    for modality in ("IO", "CT"):
        receive(years, Modality=modality)
    for path in list(years.spool.root.rglob("*.dcm")):
        path.write_bytes(b"")
    years.configure(ONLY_KEPT)
    years.rules.run()
    assert years.one("SELECT group_concat(retention) FROM (SELECT retention FROM instance ORDER BY id)") == "dental,"
    with years.db.reading() as conn:
        place = retention_rules.read_review_place(conn)
    assert place is not None
    assert (place.is_done, place.after, place.last, place.changed) == (True, 2, 2, 1)


SAID: list[dict[str, Any]] = [
    {"BodyPartExamined": "", "SeriesNumber": "", "StudyDescription": ""},
    {"StudyDescription": "A\\B", "PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"},
    {"ReferringPhysicianName": "X" * 300, "BodyPartExamined": "JAW"},
]


@pytest.mark.parametrize("said", SAID)
def test_what_the_catalog_keeps_is_what_the_file_says(years: Years, said: dict[str, Any]) -> None:
    receive(years, **said)
    with years.db.reading() as conn:
        for keyword in sorted(patients.KEYWORDS - conditions.FACTS.keys()):
            asked = frozenset({keyword})
            (found,) = retention_rules.list_ruled(conn, asked, 0, 10)
            if found.header is None:  # too long, or it may stand inside a sequence
                assert len(said.get(keyword, "")) in (0, 300)
                continue
            facts = years.intake.facts_of(found.path)
            assert found.header.attributes[keyword] == facts.attributes.get(keyword, ())
            assert replace(found.header, attributes={}) == replace(facts, attributes={})


def test_what_may_stand_inside_a_sequence_is_looked_for_in_the_file(years: Years) -> None:
    inside = Dataset()
    inside.BodyPartExamined = "JAW"
    years.receive(1, RequestAttributesSequence=[inside])
    years.configure(CONFIG + '[retention.jaws]\nwhen = { BodyPartExamined = "JAW" }\nkeep = "3650d"\n')
    years.rules.run()
    assert years.one("SELECT retention FROM instance") == "jaws"


def test_a_step_opens_few_files() -> None:
    kept = InstanceHeader("1.2", "1.2.3", "1.2", Origin("", "", "", 0.0), {})
    found = [RuledInstance(n, "", "", None if n % 2 else kept) for n in range(10)]
    assert [each.instance_id for each in bound_files(found, 2)] == [0, 1, 2, 3, 4]


def test_the_longest_of_several_rules_counts(years: Years) -> None:
    receive(years, Modality="MG", PatientAge="010Y")
    assert years.one("SELECT retention FROM instance") == "children"


def test_a_legal_hold_keeps_a_study_what_comes_later_too_until_it_is_released(years: Years) -> None:
    uid = receive(years, Modality="CT")
    other = receive(years, Modality="US")
    years.db.write(lambda conn: legal_holds.place_hold(conn, uid, years.now, "anna", "case 17/442"))
    receive(years, Modality="CT", StudyInstanceUID=uid)
    years.pass_time(10 * YEAR)
    assert years.here() == {"CT"}
    assert years.one("SELECT count(*) FROM instance WHERE state = 'stored'") == 2
    with pytest.raises(EdgeError, match="already"):
        years.db.write(lambda conn: legal_holds.place_hold(conn, uid, years.now, "bob", "again"))
    with pytest.raises(EdgeError, match="no legal hold"):
        years.db.write(lambda conn: legal_holds.end_hold(conn, other, years.now, "bob", "none"))
    years.db.write(lambda conn: legal_holds.end_hold(conn, uid, years.now, "bob", "closed"))
    years.pass_time(1.0)
    assert years.here() == set()
    with years.db.reading() as conn:
        assert ledger.check(conn) is None
        rows = conn.execute("SELECT who FROM ledger WHERE event LIKE 'legal%' ORDER BY seq").fetchall()
    assert [row[0] for row in rows] == ["anna", "bob"]


def test_a_hold_ends_by_its_date_and_a_doubtful_clock_ends_none(years: Years) -> None:
    uid = receive(years, Modality="CT")
    years.db.write(lambda conn: legal_holds.place_hold(conn, uid, years.now, "anna", "x", years.now + 40 * DAY))
    years.pass_time(39 * DAY)
    assert years.here() == {"CT"}
    years.retention._doubts_clock = lambda: True
    years.pass_time(400 * DAY)
    assert years.here() == {"CT"}
    years.retention._doubts_clock = lambda: False
    years.pass_time(1.0)
    assert years.here() == set()
    with years.db.reading() as conn:
        (ended,) = legal_holds.list_holds(conn, ended=True)
    assert (ended.ended_by, ended.ended_why) == ("edge", legal_holds.ITS_DATE)


def test_a_hold_of_the_configuration_and_a_legal_one_do_not_end_each_other(years: Years) -> None:
    from edge.storage.retention import apply_holds

    uid = receive(years, Modality="CT")
    with_hold = RULES + f'[hold.trial]\nstudies = ["{uid}"]\n'

    def use(text: str) -> None:
        from edge.config import load_config

        (years.directory / "site.toml").write_text(text)
        years.config = load_config(years.directory)
        years.db.write(lambda conn: apply_holds(conn, years.config))

    years.db.write(lambda conn: legal_holds.place_hold(conn, uid, years.now, "anna", "x"))
    use(with_hold)
    assert years.one("SELECT hold FROM instance") == "legal:hold.trial"
    years.db.write(lambda conn: legal_holds.end_hold(conn, uid, years.now, "anna", "over"))
    years.pass_time(YEAR)
    assert years.here() == {"CT"}
    years.db.write(lambda conn: legal_holds.place_hold(conn, uid, years.now, "anna", "x"))
    use(RULES)
    years.pass_time(YEAR)
    assert years.here() == {"CT"}


def test_commands_hold_list_and_release(years: Years) -> None:
    uid = receive(years, Modality="CT")
    years.db.close()
    assert edge(years, "studies", "hold", "1.2.3", "--reason", "x").exit_code == 1
    done = edge(years, "studies", "hold", uid, "--reason", "case 17", "--until", "2999-12-31")
    assert done.exit_code == 0, done.output
    (listed,) = json.loads(edge(years, "studies", "holds", "--json").stdout)
    assert (listed["study_uid"], listed["reason"], listed["ends_at"][:4]) == (uid, "case 17", "3000")
    assert all(len(line) <= 80 for line in edge(years, "studies", "holds").stdout.splitlines() if uid not in line)
    assert edge(years, "studies", "unhold", uid, "--reason", "closed").exit_code == 0
    assert json.loads(edge(years, "studies", "holds", "--json").stdout) == []
    (past,) = json.loads(edge(years, "studies", "holds", "--all", "--json").stdout)
    assert past["ended_why"] == "closed"
    bad = edge(years, "studies", "hold", uid, "--reason", "x", "--until", "soon")
    assert (bad.exit_code, "2027-03-01" in bad.output) == (2, True)


@pytest.mark.parametrize("catalog", ["damaged", "gone"])
def test_a_rebuild_keeps_holds_and_rules(years: Years, catalog: str) -> None:
    uid = receive(years, Modality="CT")
    ended = receive(years, Modality="US")
    receive(years, Modality="MG")
    for each in (uid, ended):
        years.db.write(lambda conn, each=each: legal_holds.place_hold(conn, each, years.now, "anna", "case"))
    years.db.write(lambda conn: legal_holds.end_hold(conn, ended, years.now + 1, "bob", "closed"))
    with years.db.reading() as conn:
        while Journal(years.data_dir).write(conn):
            pass
    years.db.close()
    path = years.data_dir / "catalog.db"
    if catalog == "gone":
        path.unlink()
        path.with_name("catalog.db-wal").unlink(missing_ok=True)
    recover(years.data_dir, Policy.from_config(years.config), "anna")
    db = Store(path)
    with db.reading() as conn:
        found = conn.execute("SELECT hold, retention FROM instance ORDER BY id").fetchall()
        holds = legal_holds.list_holds(conn, ended=True)
    db.close()
    assert [tuple(row) for row in found] == [("legal:", ""), ("", ""), ("", "mammography")]
    assert {(each.study_uid, each.owner, each.is_active) for each in holds} == {
        (uid, "anna", True),
        (ended, "anna", False),
    }


def test_what_a_removed_archive_has_proved_of_what_is_kept_is_warned_of(years: Years) -> None:
    receive(years, Modality="MG")
    receive(years, Modality="CT")
    years.db.close()
    assert "has proved" not in edge(years, "check").output
    gone = RULES.replace("[destination.archive]", "[destination.vna]").replace('to = ["archive"]', 'to = ["vna"]')
    (years.directory / "site.toml").write_text(gone)
    said = edge(years, "check").output
    assert "destination.archive: it has proved 1 image that retention.mammography keeps" in " ".join(said.split())
    retired = edge(years, "destination", "retire", "archive", "--reason", "old")
    assert "has proved 1 image that retention.mammography keeps" in retired.output


def test_a_rule_that_is_not_longer_is_warned_of(tmp_path: Path) -> None:
    with Filled(tmp_path, RULES.replace('"3650d"', '"10d"')) as site:
        site.db.close()
        assert "retention.mammography.keep: it is not longer" in " ".join(edge(site, "check").output.split())


@pytest.mark.parametrize("text", ['[retention.x]\nwhen = { Modality = "MG" }\n', '[retention]\nkeep = "30d"\nx = 1\n'])
def test_what_is_wrong_with_a_rule_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "site.toml").write_text(CONFIG + text)
    done = CliRunner().invoke(cli, ["--config", str(tmp_path / "conf.d"), "check"])
    assert done.exit_code == 2
    assert "retention.x" in done.output
