"""The custody ledgers at the centre: each heartbeat shows what was acknowledged, or an incident says so."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from edge.central import prune
from edge.central.ledgers import UNPROVED_SECONDS, acknowledged_head, list_ledger_states
from edge.store import ledger
from edge.store.central import incidents
from edge.store.central.ledgers import list_heads, list_ledgers
from tests.support.central_office import (
    MORNING,
    CentralOffice,
    Office,
    OpenDatabase,
    key_of,
    some_sites,
    write_config,
    write_secret,
)
from tests.support.peers import Edge, wait_until

MINUTE, DAY = 60.0, 86400.0


@pytest.fixture
def office(tmp_path: Path, database: str) -> Iterator[Office]:
    store = OpenDatabase(database)
    yield Office(write_config(tmp_path / "conf.d", some_sites(2)), store)
    store.close()


class Gateway:
    """A site whose ledger is a list of heads; it shows what it was asked for, as a real one does."""

    def __init__(self, office: Office) -> None:
        self.office, self.number, self.at = office, 0, MORNING
        self.ledger: list[str] = []
        self.asked: dict[str, Any] | None = None
        self.boot = "first"

    def grow(self, word: str, count: int = 1) -> None:
        self.ledger += [f"{word}{len(self.ledger)}".encode().hex().rjust(64, "0") for _ in range(count)]

    def head(self, seq: int) -> str:
        return self.ledger[seq - 1] if 1 <= seq <= len(self.ledger) else ""

    def beat(self, seconds: float = MINUTE, answered: bool = True) -> None:
        """A heartbeat; `answered`: the site gets the answer."""
        self.number, self.at = self.number + 1, self.at + seconds
        shown = self.asked and {**self.asked, "head": self.head(self.asked["seq"])}
        told = {"seq": len(self.ledger), "head": self.head(len(self.ledger)), "proof": shown}
        self.office.hear("1", self.number, self.at, ledger=told, boot=self.boot)
        if answered:
            self.asked = self.acknowledged()

    def acknowledged(self) -> dict[str, Any] | None:
        with self.office.store.reading() as conn:
            return acknowledged_head(conn, "1")

    def state(self) -> dict[str, Any]:
        with self.office.store.reading() as conn:
            (found,) = list_ledger_states(list_ledgers(conn), self.office.config, self.at)
        return found

    def heads(self) -> list[tuple[int, int, str]]:
        with self.office.store.reading() as conn:
            return [(each["era"], each["seq"], each["head"]) for each in list_heads(conn, "1")]

    def kinds(self) -> list[str]:
        return [each["kind"] for each in self.office.incidents(open_only=True)]


@pytest.fixture
def site(office: Office) -> Gateway:
    site = Gateway(office)
    site.grow("a", 3)
    for _ in range(3):
        site.beat()
        site.grow("a")
    return site


def test_each_heartbeat_proves_what_was_acknowledged(site: Gateway) -> None:
    assert (site.state()["state"], site.state()["proved_seq"], site.state()["acknowledged_seq"]) == ("proved", 4, 5)
    assert not site.kinds()


@pytest.mark.parametrize("longer", [0, 7], ids=["as long", "longer"])
def test_a_past_that_was_rewritten_is_seen_however_the_ledger_goes_on(site: Gateway, longer: int) -> None:
    site.beat()
    before = site.acknowledged()
    site.ledger = site.ledger[:2]
    site.grow("forged", 4 + longer)
    site.beat()
    site.beat()
    (incident,) = site.office.incidents(open_only=True)
    assert (incident["kind"], incident["site"], incident["severity"]) == ("ledger-rewritten", "1", "critical")
    assert site.state()["state"] == "contradicted"
    assert before is not None
    assert (1, before["seq"], before["head"]) in site.heads(), "the head that convicts it is kept"
    assert site.acknowledged() == before, "nothing is acknowledged until a person has looked"


def test_an_older_copy_of_the_catalog_is_seen(site: Gateway) -> None:
    copy, asked = list(site.ledger), site.asked
    for _ in range(4):
        site.grow("a")
        site.beat()
    site.ledger, site.asked = copy, asked
    site.grow("b", 20)
    site.beat()
    site.beat()
    assert site.kinds() == ["ledger-rewritten"]


def test_what_waited_in_an_outage_is_no_contradiction(site: Gateway) -> None:
    for _ in range(30):
        site.grow("a")
        site.beat(answered=False)
    site.beat()
    site.beat()
    assert not site.kinds()
    assert site.state()["state"] == "proved"


def test_heads_outlive_a_new_count_and_the_old_ledger_is_asked_for(site: Gateway) -> None:
    site.beat()
    kept = set(site.heads())
    last = site.acknowledged()
    site.ledger, site.asked, site.number, site.boot = [], None, 0, "second"
    site.grow("new")
    site.beat()
    assert site.kinds() == ["history-restarted"]
    site.beat()
    assert set(site.kinds()) == {"history-restarted", "ledger-rewritten"}, "the catalog is gone, and so is the ledger"
    assert last is not None
    assert set(site.heads()) == kept | {(1, last["seq"], last["head"])}
    accept(site)
    site.grow("new", 3)
    site.beat()
    site.beat()
    assert (site.state()["era"], site.state()["state"]) == (2, "proved")
    assert set(site.heads()) > kept
    site.ledger[0] = "f" * 64
    site.grow("forged", 2)
    site.ledger[3:] = ["e" * 64] * len(site.ledger[3:])
    site.beat()
    assert "ledger-rewritten" in site.kinds(), "era after era"


def test_a_recovered_catalog_counts_anew_and_its_ledger_goes_on(site: Gateway) -> None:
    site.asked, site.number, site.boot = None, 0, "second"
    site.grow("a")
    for _ in range(3):
        site.beat()
    assert site.kinds() == ["history-restarted"]
    assert (site.state()["era"], site.state()["state"]) == (1, "proved")


def test_a_ledger_of_an_ended_era_does_not_come_back(site: Gateway) -> None:
    old, asked = list(site.ledger), site.asked
    site.ledger = []
    site.grow("new", 9)
    site.beat()
    accept(site)
    site.beat()
    assert site.state()["era"] == 2
    site.ledger, site.asked = [*old, *site.ledger], asked
    site.beat()
    site.beat()
    assert site.kinds() == ["ledger-rewritten"]


def accept(site: Gateway) -> None:
    """A person closes the incident."""
    with site.office.store.writing() as conn:
        for each in site.office.incidents(open_only=True):
            incidents.close_by_hand(conn, each["id"], site.at, "anna", "we know why")


def test_a_site_that_stops_proving_is_named_and_healed_by_a_proof(site: Gateway) -> None:
    asked, site.asked = site.asked, None
    for _ in range(3):
        site.beat(UNPROVED_SECONDS / 2, answered=False)
    assert site.kinds() == ["ledger-unproved"]
    site.asked = asked
    site.beat()
    assert not site.kinds()


def test_a_site_of_an_older_version_proves_nothing_and_steps_back_in_sight(office: Office) -> None:
    for number in range(1, 4):
        office.hear("1", number, MORNING + number * MINUTE)
    with office.store.reading() as conn:
        (found,) = list_ledger_states(list_ledgers(conn), office.config, MORNING)
    assert (found["state"], found["acknowledged_seq"]) == ("not proved", 3)
    office.hear("1", 1, MORNING + 10 * MINUTE, boot="second")
    with office.store.reading() as conn:
        assert [(each["era"], each["seq"]) for each in list_heads(conn, "1")] == [(2, 1), (1, 3), (1, 1)]


def test_a_head_a_day_is_kept_for_good(site: Gateway) -> None:
    for _ in range(48):
        site.grow("a")
        site.beat(DAY / 24)
    kept = site.heads()
    assert len(kept) == 3
    site.office.store.on_loop(lambda store: prune.prune_sites(store, site.at + 3000 * DAY))
    assert site.heads() == kept


def test_the_heads_of_before_are_those_of_the_first_era(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    folder = Path(ledger.__file__).parent / "central" / "migrations"
    with closing(sqlite3.connect(path)) as conn:
        for name in ("0001_first.sql", "0002_accounts.sql"):
            text = (folder / name).read_text("utf-8")
            conn.executescript(text.replace("$ID", "INTEGER PRIMARY KEY").replace("$CLUSTERED", "WITHOUT ROWID"))
        conn.execute("CREATE TABLE migration (number INTEGER PRIMARY KEY)")
        conn.execute("INSERT INTO migration VALUES (2)")
        conn.execute("INSERT INTO head VALUES ('1', 7, 'ab', 1.0)")
        conn.commit()
    store = OpenDatabase(f"sqlite:///{path}")
    with store.reading() as conn:
        assert [tuple(each.values()) for each in list_heads(conn, "1")] == [(1, 7, "ab", 1.0)]
    store.close()


# -- a real gateway, a real centre -------------------------------------------------------------------------------------


def test_a_ledger_rewritten_at_a_site_is_named_at_the_centre(tmp_path: Path, running: ExitStack) -> None:
    central = running.enter_context(CentralOffice(tmp_path / "central", '[site."0067"]\nkey = "0067.key"\n'))
    (tmp_path / "edge").mkdir()
    key = write_secret(tmp_path / "edge" / "site.key", key_of("0067"))
    heartbeat = f'[heartbeat]\nurl = "{central.url}/heartbeat"\nevery = "1s"\nkey = "{key}"\n'
    edge = running.enter_context(Edge(tmp_path / "edge", heartbeat + f'ca = "{central.directory / "ca.pem"}"\n'))
    wait_until(lambda: central.ask("SELECT 1 FROM ledger WHERE proved_seq > 0"), 30, "the ledger is proved")
    (found,) = central.cli("ledgers")
    assert (found["site"], found["state"], found["era"]) == ("0067", "proved", 1)
    edge.stop()
    rewrite(edge.data_dir / "catalog.db")
    shutil.rmtree(edge.data_dir / "journal")  # which would not let it start
    edge.start()
    wait_until(lambda: central.ask("SELECT 1 FROM incident WHERE kind = 'ledger-rewritten'"), 30, "it is named")
    (incident,) = [each for each in central.cli("incidents") if each["kind"] == "ledger-rewritten"]
    assert (incident["site"], incident["severity"]) == ("0067", "critical")
    (found,) = central.cli("ledgers")
    assert (found["state"], found["incident"]) == ("contradicted", incident["id"])
    kept = central.cli("heads", "0067")
    verified = edge.cli("ledger", "verify", "--head", kept[0]["verify"])
    assert (verified.returncode, "earlier rows were rewritten" in verified.stdout) == (1, True)


def rewrite(path: Path) -> None:
    """Change the first row and make the chain anew, as one would who knows how it is made."""
    with closing(sqlite3.connect(path)) as conn:
        triggers = conn.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger'")
        kept = triggers.fetchall()
        for name, _ in kept:
            conn.execute(f"DROP TRIGGER {name}")
        conn.execute("UPDATE ledger SET who = 'somebody else' WHERE seq = 1")
        before = bytes(32)
        for seq, *row in conn.execute(f"SELECT seq, {ledger.COLUMNS} FROM ledger ORDER BY seq").fetchall():
            before = ledger.row_hash(before, *row)
            conn.execute("UPDATE ledger SET hash = ? WHERE seq = ?", (before, seq))
        for _, sql in kept:
            conn.execute(sql)
        conn.commit()
