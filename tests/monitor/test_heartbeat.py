"""Heartbeats: what is in them, what never is, their numbers, and what is left of a week without a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.config.channels import HEARTBEAT_CHANNEL, NOTICES
from edge.monitor import heartbeat
from edge.monitor.heartbeat import (
    document,
    post_heartbeat,
    schema,
    sign,
    verify,
)
from edge.store import ledger, outbox
from edge.store.database import Store, Transaction
from edge.store.ledger import Head
from edge.text import from_iso
from tests.support.schemas import validator

MONDAY = 1_800_000_000.0
STATUS: dict[str, Any] = {
    "site": {"id": "0067", "name": "Test Clinic"},
    "version": "0.1.0",
    "state": "running",
    "since": "2027-01-15T08:00:00Z",
    "reasons": [],
    "uptime_seconds": 12.5,
    "instances": {"received": 600, "stored": 600, "stored_bytes": 314572800, "evicted": 0},
    "queue": {"pending": 0, "active": 0, "deferred": 0, "held": 0, "bytes": 0, "oldest_seconds": None},
    "destinations": {"archive": {"state": "up", "sent": 600, "last_success": None, "last_error": "refused"}},
    "storage": {"used_fraction": 0.31, "free_bytes": 74000000000, "full_in_seconds": None},
    "alerts": [
        {"kind": "work-held", "subject": "archive", "severity": "major", "since": "2027-01-15T08:00:00Z", "text": "x"}
    ],
}
NOTICE = {
    "notice": 7,
    "event": "opened",
    "kind": "work-held",
    "subject": "archive",
    "severity": "major",
    "since": "2027-01-15T08:00:00Z",
    "at": "2027-01-15T08:05:00Z",
    "ended": None,
    "duration_seconds": None,
    "text": "x",
    "means": "y",
    "do": "z",
    "site": {"id": "0067", "name": "Test Clinic"},
    "version": "0.1.0",
}


def check(told: dict[str, Any]) -> dict[str, Any]:
    validator().validate(told)
    return told


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "catalog.db")
    yield made
    made.close()


def post(db: Store, at: float) -> int:
    return db.write(lambda conn: post_heartbeat(conn, STATUS, "boot-1", at, 60.0))


def waiting(db: Store) -> list[dict[str, Any]]:
    with db.reading() as conn:
        return [check(json.loads(each.body)) for each in outbox.oldest(conn, HEARTBEAT_CHANNEL, 100_000)]


def test_the_schema_is_one_and_describes_every_key() -> None:
    validator().check_schema(schema())
    assert schema()["properties"]["schema"]["const"] == heartbeat.HEARTBEAT_SCHEMA


def test_a_document_is_what_the_schema_names_and_nothing_else() -> None:
    secret = {"patient": "CANARY^PATIENT", "studies": [{"name": "CANARY^PATIENT"}]}
    status = STATUS | secret | {"queue": STATUS["queue"] | secret, "modalities": [{"ae_title": "CT1"} | secret]}
    status["destinations"] = {"archive": STATUS["destinations"]["archive"] | secret}
    status["held"] = [{"destination": "archive", "count": 1, "reason": "it answers C000"} | secret]
    told = check(document(status, 1, "boot", MONDAY, Head(3, b"\xab" * 32), [NOTICE | secret]))
    assert "CANARY" not in json.dumps(told)
    assert told["status"]["held"][0]["reason"] == "it answers C000"
    assert told["status"]["destinations"]["archive"]["last_error"] == "refused"
    assert told["ledger"] == {"seq": 3, "head": "ab" * 32}
    assert told["notices"] == [NOTICE]


def test_words_are_cut_to_what_the_schema_takes() -> None:
    alert = STATUS["alerts"][0] | {"text": "x" * 100_000, "subject": "y" * 1000}
    told = check(document(STATUS | {"alerts": [alert]}, 1, "boot", MONDAY, Head(0, b"")))
    assert len(told["status"]["alerts"][0]["text"]) == 4096


def test_a_signature_holds_for_its_key_and_body_alone() -> None:
    signature = sign(b"key", b"body")
    assert signature.startswith("sha256=")
    assert verify(b"key", b"body", signature)
    for key, body, told in [(b"Key", b"body", signature), (b"key", b"Body", signature), (b"key", b"body", "sha256=é")]:
        assert not verify(key, body, told)


def test_numbers_are_consecutive_and_the_ledger_is_in_it(db: Store) -> None:
    db.write(lambda conn: ledger.append(conn, MONDAY, ledger.RECEIVED, "CT1", [1]))
    assert [post(db, MONDAY + 60 * n) for n in range(3)] == [1, 2, 3]
    told = waiting(db)
    assert [each["number"] for each in told] == [1, 2, 3]
    assert [from_iso(each["at"]) for each in told] == [MONDAY, MONDAY + 60, MONDAY + 120]
    assert told[0]["ledger"]["seq"] == 1
    assert len(told[0]["ledger"]["head"]) == 64


def test_notices_travel_with_the_next_heartbeat_once(db: Store) -> None:
    db.write(lambda conn: outbox.post(conn, NOTICES, "notice", MONDAY, json.dumps(NOTICE)))
    post(db, MONDAY + 60)
    post(db, MONDAY + 120)
    assert [each["notices"] for each in waiting(db)] == [[NOTICE], []]
    with db.reading() as conn:
        assert NOTICES not in outbox.backlogs(conn)


def test_a_week_without_a_line_is_thinned_and_every_number_accounted_for(db: Store) -> None:
    end = MONDAY + 7 * 86400
    noted = MONDAY + 3 * 86400 + 17 * 60

    def week(conn: Transaction) -> None:
        for minute in range(7 * 1440 + 1):
            at = MONDAY + 60 * minute
            if at == noted:
                outbox.post(conn, NOTICES, "notice", at, json.dumps(NOTICE))
            post_heartbeat(conn, STATUS, "boot-1", at, 60.0)

    db.write(week)
    told = waiting(db)
    ages = [end - from_iso(each["at"]) for each in told]
    assert ages == sorted(ages, reverse=True)
    assert sum(age <= 3600 for age in ages) == 61
    assert sum(3600 < age <= 86400 for age in ages) == pytest.approx(138, abs=10)
    assert sum(age > 86400 for age in ages) == pytest.approx(6 * 24, abs=3)
    assert [each["number"] for each in told if each["notices"]] == [3 * 1440 + 17 + 1]
    expected = 1
    for each in told:
        first, last = each.get("covers", (each["number"], each["number"]))
        assert (first, last) == (expected, each["number"])
        expected = last + 1
    assert expected == 7 * 1440 + 2


def test_what_waits_is_bounded_and_notices_go_last(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    db.write(lambda conn: outbox.post(conn, NOTICES, "notice", MONDAY, json.dumps(NOTICE)))
    monkeypatch.setattr(heartbeat, "MOST_QUEUED_BYTES", 5000)
    for minute in range(50):
        post(db, MONDAY + 60 * minute)
    told = waiting(db)
    assert sum(len(json.dumps(each)) for each in told[:-1]) < 6000
    assert told[0]["notices"] == [NOTICE]
    assert told[-1]["number"] == 50
    assert told[1]["covers"] == [2, told[1]["number"]]
