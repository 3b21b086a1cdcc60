"""Rows of 0.1.0 beside rows with a payload: both are verified, copied and read; neither passes for the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.intake.policy import Policy
from edge.model import DeliveryState, ReasonCode
from edge.storage.rebuild import recover
from edge.storage.rebuild.history import History
from edge.store import database, ledger, operator_actions
from edge.store.database import Transaction, migrate
from edge.store.ledger_copy import Entry, Journal
from edge.store.ledger_text import payload_of, render_words
from edge.store.sqlite_file import migrations
from tests.support.filled import Filled
from tests.support.ledger_rows import append_0_1_0

DIGEST = "ab" * 32


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Transaction]:
    """A catalog of 0.1.0 with three rows, brought up to date, and two rows of today."""
    conn = database.connect(tmp_path / "catalog.db")
    for number, script in sorted(migrations().items()):
        if number < 20:
            conn.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT")
    append_0_1_0(conn, 1.0, ledger.RECEIVED, "CT1", f"from 10.1.1.1 for archive, pacs; sha256 {DIGEST}", [1])
    append_0_1_0(conn, 2.0, ledger.OVERRIDDEN, "anna", "instead of archive: it is away", [1], destination="other")
    append_0_1_0(conn, 3.0, ledger.HELD, "anna", "the ward asks", [1], destination="other")
    migrate(conn)
    ledger.append(conn, 4.0, ledger.RELEASED, "anna", [1], destination="other", payload={"reason": "routed to pacs"})
    ledger.append(conn, 5.0, ledger.STOPPED, ledger.EDGE, [])
    yield conn
    conn.close()


def test_a_catalog_of_0_1_0_keeps_its_chain_and_goes_on(upgraded: Transaction) -> None:
    assert ledger.check(upgraded) is None
    kept = [row[0] for row in upgraded.execute("SELECT payload FROM ledger ORDER BY seq")]
    assert kept == [None, None, None, '{"reason":"routed to pacs"}', "{}"]


@pytest.mark.parametrize(
    "forged",
    [
        "UPDATE ledger SET payload = NULL WHERE seq = 4",
        "UPDATE ledger SET payload = NULL, detail = payload WHERE seq = 4",
        "UPDATE ledger SET payload = '{}' WHERE seq = 2",
        "UPDATE ledger SET payload = detail, detail = '' WHERE seq = 2",
        'UPDATE ledger SET payload = \'{"reason": "routed to pacs"}\' WHERE seq = 4',
        "UPDATE ledger SET payload = x'7b7d' WHERE seq = 5",
    ],
)
def test_no_row_passes_for_one_of_the_other_form(upgraded: Transaction, forged: str) -> None:
    upgraded.execute("DROP TRIGGER ledger_is_append_only_update")
    upgraded.execute(forged)
    broken = ledger.check(upgraded)
    assert broken is not None
    assert f"seq = {broken.seq}" in forged


def test_the_copy_has_both_forms_and_reads_lines_of_0_1_0(upgraded: Transaction, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.write(upgraded) == 5
    entries = list(journal.entries())
    before = bytes(32)
    for entry in entries:
        assert entry.follows(before)
        before = entry.hash
    assert [each.payload_json is None for each in entries] == [True, True, True, False, False]
    old = f'[1,1.0,"received","CT1",1,"[1]","","from 10.1.1.1","{DIGEST}"]\n'
    assert Entry.read(old.encode()).values == (1.0, "received", "CT1", 1, "[1]", "", "from 10.1.1.1", None)


def test_the_history_of_rows_of_both_forms_is_one(upgraded: Transaction, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(upgraded)
    history, states = History(), []
    for entry in journal.entries():
        history.learn(entry)
        record = history.deliveries[1].get("other")
        states.append((record.state, record.reason.code, record.reason.text) if record else None)
    assert states[2] == (DeliveryState.HELD, ReasonCode.PERSON, "the ward asks")
    assert states[3] is None, "released"
    assert history.destinations[1] == ["pacs", "other"], "what a person typed routes nothing"


@pytest.mark.parametrize(
    ("event", "who", "destination", "text", "expected"),
    [
        (ledger.RECEIVED, "CT1", "", f"from ::1 for nobody: no route matched; sha256 {DIGEST}",
         {"address": "::1", "destinations": [], "sha256": DIGEST}),
        (ledger.RETRIED, "anna", "", "routed to archive, pacs: it is right", {"destinations": ["archive", "pacs"]}),
        (ledger.RETRIED, "anna", "archive", "routed to pacs: it is right", {}),
        (ledger.OVERRIDDEN, "anna", "other", "instead of nowhere", {"action": "redirect", "instead_of": ""}),
        (ledger.OVERRIDDEN, "anna", "other", "priority stat: instead of x", {}),
        (ledger.CONFIRMED, "archive", "archive", "by C-FIND", {"method": "query"}),
        (ledger.REFUSED, "X", "", "from several addresses: many", {}),
        (ledger.DISCARDED, "anna", "", "from 10.1.2.3; sha256 00", {}),
        (ledger.HELD, "archive", "archive", "it does not commit", {"reason_code": "not-committed"}),
        (ledger.RENAMED, "anna", "new", "old", {"former": "old"}),
    ],
)  # fmt: skip
def test_the_texts_of_0_1_0_are_decoded(
    event: str, who: str, destination: str, text: str, expected: dict[str, object]
) -> None:
    assert payload_of(event, who, destination, text, None) == expected
    assert render_words(event, text, None) == text


def test_what_a_person_typed_changes_no_route_of_a_rebuilt_catalog(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(1)
        delivery = filled.one("SELECT id FROM delivery")
        for reason in ("routed to pacs2: from 10.1.2.3", "instead of archive"):
            filled.db.write(lambda conn: operator_actions.hold(conn, [delivery], 5.0, "anna", reason))  # noqa: B023
            filled.db.write(
                lambda conn: operator_actions.release(conn, [delivery], 6.0, "anna", reason, named=True)  # noqa: B023
            )
        filled.db.write(lambda conn: conn.execute("DELETE FROM delivery"))
        config, data_dir = filled.config, filled.data_dir
    recover(data_dir, Policy.from_config(config), "anna")
    with closing(sqlite3.connect(data_dir / "catalog.db")) as conn:
        assert conn.execute("SELECT destination FROM delivery").fetchall() == [("archive",)]


@pytest.mark.parametrize("payload", ['{"x": 1}', "[]", "7", "not JSON", '{"reason_code": "no-such"}'])
@pytest.mark.parametrize("event", [ledger.RECEIVED, ledger.HELD, ledger.CONFIRMED, ledger.CONFIGURED, "no-such-event"])
def test_a_damaged_payload_is_shown_as_it_is(event: str, payload: str) -> None:
    assert isinstance(payload_of(event, "x", "", "", payload), dict)
    assert isinstance(render_words(event, "", payload), str)
