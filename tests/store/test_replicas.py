"""A copy for a second site: what it has not got in its time is owed to it no longer, once others have proved it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.storage.replicas import SiteReplicas
from edge.store import ledger, operator_actions
from tests.support.filled import CONFIG, Filled
from tests.support.ledger_rows import with_words

DAY = 86400.0
SECOND = """
[destination.second-site]
ae_title = "SITE2"
host = "127.0.0.1"
port = 105
confirm = "query"
keep_last = "30d"
"""


class TwoSites(Filled):
    """A gateway whose second site is away, and a clock that the test moves."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path, CONFIG + SECOND)
        self.now, self.doubts_clock = time.time(), False
        self.replicas = SiteReplicas(
            self.db, lambda: self.config, clock=lambda: self.now, doubts_clock=lambda: self.doubts_clock
        )

    def owed(self) -> int:
        return int(self.one("SELECT count(*) FROM delivery WHERE destination = 'second-site' AND state = 'pending'"))

    def step_at(self, days: float) -> int:
        self.now = time.time() + days * DAY
        self.replicas.step()
        return self.owed()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[TwoSites]:
    with TwoSites(tmp_path) as made:
        yield made


def test_an_old_copy_is_released_and_may_be_evicted(sites: TwoSites) -> None:
    sites.receive(2)
    sites.settle("archive", 10)
    assert sites.step_at(29) == 2
    sites.doubts_clock = True
    assert sites.step_at(31) == 2
    sites.doubts_clock = False
    assert sites.step_at(31) == 0
    evictable = "SELECT count(*) FROM instance WHERE open_deliveries = 0 AND confirmed_at IS NOT NULL"
    assert sites.one(evictable) == 2
    with sites.db.reading() as conn:
        assert ledger.check(conn) is None
        sql = "SELECT words(event, detail, payload) FROM ledger WHERE event = 'cancelled'"
        ((said,),) = [tuple(row) for row in with_words(conn).execute(sql)]
    assert said == "older than what is copied there, and proved elsewhere"


def test_what_nobody_else_has_proved_stays_owed(sites: TwoSites) -> None:
    sites.receive(1)
    assert sites.step_at(400) == 1


def test_what_was_cancelled_elsewhere_stays_owed(sites: TwoSites) -> None:
    sites.receive(1)
    number = sites.one("SELECT id FROM delivery WHERE destination = 'archive'")
    sites.db.write(lambda conn: operator_actions.cancel(conn, [number], time.time(), "anna", "not there"))
    assert sites.step_at(400) == 1


def test_what_another_has_without_identity_stays_owed(sites: TwoSites) -> None:
    """A project has a pseudonymous copy: the second site would be the only one with the original."""
    sites.receive(1)
    sites.settle("archive", 10)
    sites.db.write(
        lambda conn: conn.execute(
            "INSERT INTO sent_copy SELECT id, instance_id, 1.0, x'', '1.2', '', '2.25.1', '2.25.2', '2.25.3', 1, 1"
            " FROM delivery WHERE destination = 'archive'"
        )
    )
    assert sites.step_at(400) == 1
