"""The snapshot and its alerts: real catalogs, filled as the gateway fills them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge.config.alarms import ALERT_KINDS
from edge.config.sections import StorageSection as Marks
from edge.model import UNNAMED_CALLER, Disk, Outcome, ReasonCode
from edge.monitor import alerts as rules
from edge.monitor.alerts import Observed, alerts
from edge.monitor.alerts.identity import FINDING_KINDS
from edge.monitor.forecast import above_since, drain_seconds, full_in_seconds
from edge.monitor.health import snapshot
from edge.monitor.live import DOWN, Clock, Link, Live
from edge.monitor.snapshot_model import (
    Action,
    Alert,
    ChannelBacklog,
    DestinationStatus,
    ExceptionCount,
    FeedStatus,
    Held,
    Hl7Status,
    Instances,
    ModalityStatus,
    Queue,
    Snapshot,
    Storage,
    UnknownCaller,
    WorklistState,
    advice_of,
)
from edge.monitor.status_document import status_json
from edge.spool.room import disk_of
from edge.store import gateway_values, leases
from edge.store.callers import Calls, remember_peer
from edge.store.clock import Correction
from edge.store.commitment_requests import OwedReports
from edge.store.database import Transaction
from edge.store.destinations import KnownHealth, note_health
from edge.store.downtimes import Downtime
from edge.store.figures import Lossy
from edge.store.hl7_messages import ParkedSummary
from edge.store.identity_figures import IdentityFigures
from edge.store.identity_findings import OpenFindings
from edge.store.imports import WaitingImports
from edge.store.mismatches import Mismatches
from edge.store.prefetch import ForeignPriors
from edge.store.quarantine import Unkept
from edge.store.relays import RelayBacklog
from edge.store.step_deliveries import OwedSteps
from edge.store.step_images import MissingImages
from edge.store.worklist import SourceState
from edge.text import amount, from_iso, iso, size, span
from tests.support.effort import counted_steps
from tests.support.filled import Filled
from tests.support.objects import ct_files

HALF_FULL = Disk(1_000_000, 500_000)
RUNNING = Live("running", uptime_seconds=12.54)
NAME = "CANARY^PATIENT"


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def taken(filled: Filled, live: Live = RUNNING, disk: Disk = HALF_FULL, now: float | None = None) -> Snapshot:
    with filled.db.reading() as conn:
        return snapshot(conn, filled.config, disk, live, now or time.time())


def one(seen: Snapshot, name: str) -> DestinationStatus:
    (found,) = [each for each in seen.destinations if each.name == name]
    return found


def kinds(seen: Snapshot) -> list[str]:
    return [alert.kind for alert in seen.alerts]


# Counting.


def test_an_empty_gateway_is_well_and_tells_its_destinations(filled: Filled) -> None:
    seen = status_json(taken(filled))
    assert seen["instances"]["received"] == 0
    assert list(seen["destinations"]) == ["archive", "teleread"]
    assert seen["destinations"]["archive"] == {
        "kind": "dimse",
        "state": "up",
        "since": None,
        "pending": 0,
        "deferred": 0,
        "held": 0,
        "sent": 0,
        "confirmed": 0,
        "last_success": None,
        "last_error": None,
        "drain_seconds": 0.0,
        "bytes": 0,
        "oldest_seconds": None,
        "changed_copies": 0,
        "saved_bytes": 0,
        "rate_bytes_per_second": None,
        "compression_outpaced_at": None,
        "certificate_expires": None,
        "unconfirmed": 0,
        "confirm_lag_seconds": None,
    }
    assert seen["alerts"] == []


def test_the_json_has_the_keys_of_the_contract(filled: Filled) -> None:
    filled.receive(1)
    seen = json.loads(json.dumps(status_json(taken(filled))))
    assert seen["site"] == {"id": "0067", "name": "Test Clinic"}
    assert seen["state"] == "running"
    assert seen["uptime_seconds"] == 12.5
    assert set(seen) >= {"version", "instances", "queue", "destinations", "storage", "alerts"}
    assert set(seen["instances"]) >= {"received", "stored", "stored_bytes", "evicted"}
    assert set(seen["queue"]) == {"pending", "active", "deferred", "held", "cancelled", "bytes", "oldest_seconds"}
    storage = {"used_fraction": 0.5, "free_bytes": 500_000, "full_in_seconds": None, "total_bytes": 1_000_000}
    assert seen["storage"] == storage


def test_counts_follow_the_deliveries(filled: Filled) -> None:
    filled.receive(10)
    filled.settle("archive", 2, Outcome.SENT, proved=False)
    filled.settle("archive", 3, Outcome.SENT)
    filled.settle("archive", 1, Outcome.DEFER, "busy")
    filled.settle("archive", 1, Outcome.HOLD, "refused")
    seen = taken(filled)
    archive = one(seen, "archive")
    assert (archive.pending, archive.deferred, archive.held) == (3, 1, 1)
    assert (archive.sent, archive.confirmed) == (5, 3)
    to_go = "SELECT sum(bytes) FROM delivery WHERE state IN ('pending', 'deferred', 'held')"
    assert seen.queue.bytes == filled.one(to_go)
    assert (seen.queue.pending, seen.queue.deferred, seen.queue.held) == (3, 1, 1)
    assert (seen.instances.total, seen.instances.stored) == (10, 10)
    assert seen.instances.stored_bytes == filled.one("SELECT sum(size) FROM instance")


def test_what_is_being_sent_is_pending_at_its_destination_and_active_in_the_queue(filled: Filled) -> None:
    filled.receive(3)
    filled.db.write(lambda conn: leases.lease(conn, "archive", "node", time.time(), 2, 1 << 30))
    seen = taken(filled)
    assert (seen.queue.pending, seen.queue.active) == (1, 2)
    assert one(seen, "archive").pending == 3


def test_received_counts_neither_duplicates_nor_quarantined(filled: Filled, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "twice", 1, size=1024)
    blob = path.read_bytes()
    filled.accept(blob)
    filled.accept(blob)
    filled.accept(blob[:-2] + b"\1\2")  # the same UID with other bytes: a conflict
    assert filled.accept(blob[:400]).status == 0xC000
    seen = taken(filled)
    assert seen.instances.total == 2
    assert (seen.instances.stored, seen.instances.conflicts, seen.instances.quarantined) == (1, 1, 1)
    assert {"conflict", "quarantine", "work-held"} == set(kinds(seen))


def test_evicted_and_lost_are_still_received(filled: Filled) -> None:
    filled.receive(4)
    filled.execute("UPDATE instance SET state = 'evicted' WHERE id = 1")
    filled.execute("UPDATE instance SET state = 'lost' WHERE id = 2")
    seen = taken(filled).instances
    assert (seen.total, seen.stored, seen.evicted, seen.lost) == (4, 2, 1, 1)


def test_what_is_cancelled_is_counted_and_owes_no_bytes(filled: Filled) -> None:
    filled.receive(2)
    filled.execute("UPDATE delivery SET state = 'cancelled' WHERE id = 1")
    seen, whole = status_json(taken(filled))["queue"], filled.one("SELECT size FROM instance WHERE id = 2")
    assert (seen["pending"], seen["cancelled"], seen["bytes"]) == (1, 1, whole)


def test_the_oldest_that_moves_by_itself_is_told(filled: Filled) -> None:
    filled.receive(4)
    now = time.time()
    filled.execute("UPDATE delivery SET queued_at = ? - 1000 + 100 * id", now)
    filled.settle("archive", 1, Outcome.HOLD, "no")  # 1: waits for a person
    filled.settle("archive", 1, Outcome.DEFER, "busy")  # 2: the oldest that moves by itself
    assert taken(filled, now=now).queue.oldest_seconds == pytest.approx(800, abs=1)
    filled.execute("UPDATE delivery SET state = 'held' WHERE id = 2")
    assert taken(filled, now=now).queue.oldest_seconds == pytest.approx(700, abs=1)


def test_a_destination_that_is_no_longer_configured_keeps_its_place(filled: Filled) -> None:
    filled.receive(2)
    filled.config = replace(filled.config, destinations={})
    seen = taken(filled)
    assert one(seen, "archive").state == "paused"
    (alert,) = seen.alerts
    assert (alert.kind, alert.subject) == ("destination-removed", "archive")
    filled.settle("archive", 2)
    assert taken(filled).alerts == ()
    assert one(taken(filled), "archive").confirmed == 2


def test_the_daemons_word_counts_before_the_catalogs(filled: Filled) -> None:
    filled.receive(1)
    filled.execute(
        "INSERT INTO destination (name, state, since, last_error) VALUES ('archive', 'down', 5.0, 'refused')"
    )
    assert one(taken(filled, Live(DOWN)), "archive").state == "down"
    live = replace(RUNNING, destinations={"archive": Link("up", rate=1000.0, outpaced_at=5e7)})
    assert status_json(taken(filled, live))["destinations"]["archive"]["compression_outpaced_at"] == 5e7
    archive = one(taken(filled, live), "archive")
    assert archive.state == "up"
    assert archive.drain_seconds == pytest.approx(filled.one("SELECT sum(bytes) FROM delivery") / 1000)


def test_down_since_when_it_was_last_alive(filled: Filled) -> None:
    filled.db.write(lambda conn: gateway_values.remember(conn, "alive_at", "1000.5"))
    assert taken(filled, Live(DOWN)).since == 1000.5
    assert taken(filled).since is None


# Forecasts.


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ([], None),
        ([(0.0, 100)], None),
        ([(0.0, 100), (60.0, 200)], None),  # not watched for long enough
        ([(0.0, 100), (3600.0, 200)], 8 * 3600.0),
        ([(0.0, 100), (1800.0, 150), (3600.0, 200)], 8 * 3600.0),
        ([(0.0, 200), (3600.0, 200)], None),
        ([(0.0, 200), (3600.0, 100)], None),  # shrinking
        ([(0.0, 200), (3600.0, 1000)], 0.0),
        ([(0.0, 1200)], 0.0),
    ],
)
def test_when_the_disk_will_be_full(usage: list[tuple[float, int]], expected: float | None) -> None:
    assert full_in_seconds(usage, 1000) == expected


@pytest.mark.parametrize(
    ("used", "since"), [([], None), ([9], None), ([10], 0), ([10, 9, 10, 11], 2), ([10, 11, 9], None)]
)
def test_since_when_the_disk_is_above_a_mark(used: list[int], since: float | None) -> None:
    assert above_since(list(enumerate(used)), 10) == since


@pytest.mark.parametrize(
    ("backlog", "rate", "expected"), [(0, None, 0.0), (0, 5.0, 0.0), (10, None, None), (10, 0.0, None), (10, 5.0, 2.0)]
)
def test_how_long_a_backlog_takes(backlog: int, rate: float | None, expected: float | None) -> None:
    assert drain_seconds(backlog, rate) == expected


def test_the_disk_is_looked_at_even_before_the_directory_exists(tmp_path: Path) -> None:
    disk = disk_of(tmp_path / "not" / "yet")
    assert 0 < disk.free_bytes < disk.total_bytes


# Alerts.

QUIET = Observed(
    at=10_000.0,
    site_id="EDGE",
    site_name="Edge",
    version="1",
    live=Live("running"),
    since=9_000.0,
    instances=Instances(),
    queue=Queue(),
    destinations=(DestinationStatus("archive"),),
    storage=Storage(0.5, 10**9),
    marks=Marks(warn=0.8, refuse=0.95),
)
#: What the rules read from the daemon itself.
OF_DAEMON = {each.name for each in fields(Live)} - {each.name for each in fields(Observed)}


DAY = 86_400.0
OLD = DestinationStatus("archive", pending=3, oldest_seconds=20_000.0)
UNPROVED = DestinationStatus("archive", sent=5, confirmed=2, proves=True, confirm_lag_seconds=90_000.0)
CT1 = ModalityStatus("ct1", "CT1", "10.0.0.1", 9_000.0, 9_500.0, admitted=True)


def test_an_alert_names_what_breaks_each_exchange_that_asks_for_its_proof() -> None:
    (found,) = alerts(replace(QUIET, destinations=[replace(UNPROVED, breaks_proof=(7, 9))]))
    assert [each.command for each in found.actions if "queue" in each.command] == [
        ("edge", "queue", "show", "7"),
        ("edge", "queue", "show", "9"),
    ]


def raised(**changes: Any) -> list[tuple[str, str, str, float]]:
    live = Live(**{"state": "running"} | {name: changes.pop(name) for name in OF_DAEMON & changes.keys()})
    return [(a.kind, a.subject, a.severity, a.since) for a in alerts(replace(QUIET, live=live, **changes))]


def test_nothing_wrong_nothing_said() -> None:
    assert alerts(QUIET) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"destinations": [DestinationStatus("archive", state="down", since=7.0)]},
            ("destination-down", "archive", "major", 7.0),
        ),
        ({"storage": Storage(0.85, 10**9, None, 8.0)}, ("storage-filling", "storage", "minor", 8.0)),
        ({"storage": Storage(0.85, 10**9, 3600.0, 8.0)}, ("storage-filling", "storage", "major", 8.0)),
        ({"storage": Storage(0.96, 10**9, 0.0, 8.0)}, ("storage-refusing", "storage", "critical", 8.0)),
        ({"state": "refusing", "reasons": ("x",)}, ("storage-refusing", "storage", "critical", 9_000.0)),
        ({"state": "refusing", "unhealthy": "EIO"}, ("storage-unhealthy", "storage", "critical", 9_000.0)),
        ({"held": [Held("archive", 3, 6.0, "no context")]}, ("work-held", "archive", "major", 6.0)),
        ({"held": [Held("", 3, 6.0, "no route")]}, ("unroutable", "route", "major", 6.0)),
        ({"exceptions": [ExceptionCount("conflict", 1, 5.0, True)]}, ("conflict", "instances", "minor", 5.0)),
        ({"mismatches": Mismatches(held=3, held_since=5.0)}, ("patient-mismatch", "held", "major", 5.0)),
        ({"mismatches": Mismatches(studies=1, studies_since=6.0)}, ("patient-mismatch", "not held", "major", 6.0)),
        ({"exceptions": [ExceptionCount("quarantined", 1, 5.0, False)]}, ("quarantine", "instances", "minor", 5.0)),
        ({"exceptions": [ExceptionCount("lost", 1, 5.0, True)]}, ("lost", "instances", "critical", 5.0)),
        ({"exceptions": [ExceptionCount("lost", 1, 5.0, False)]}, ("lost", "instances", "minor", 5.0)),
        ({"unknown_callers": [UnknownCaller("X", "10.0.0.1", 4.0)]}, ("unknown-equipment", "X@10.0.0.1", "minor", 4.0)),
        ({"storage": Storage(0.5, 10**9, 3600.0)}, ("storage-filling", "storage", "major", 10_000.0)),
        ({"disk_faults": ["ext4 has counted 3 errors on sda1"]}, ("disk-failing", "storage", "major", 10_000.0)),
        ({"destinations": [OLD]}, ("backlog-old", "archive", "major", 10_000.0 - 20_000 + 14_400)),
        ({"destinations": [UNPROVED]}, ("unconfirmed", "archive", "major", 10_000.0 - 90_000 + 86_400)),
        ({"clock": Clock(True, -2.5)}, ("clock-skew", "clock", "minor", 10_000.0)),
        ({"clock": Clock(False), "uptime_seconds": 4000.0}, ("clock-skew", "clock", "minor", 10_000.0)),
        ({"certificates": {"vna": 10_000.0 + 20 * DAY}}, ("certificate-expiring", "vna", "minor", 10_000.0 - 10 * DAY)),
        ({"certificates": {"vna": 9_000.0}}, ("certificate-expiring", "vna", "major", 9_000.0 - 30 * DAY)),
        (
            {"caller_certificates": {"client.ai": 9_000.0}},
            ("certificate-expiring", "client.ai", "major", 9_000.0 - 30 * DAY),
        ),
        ({"ledger_broken": "row 7: the row is missing"}, ("ledger-broken", "ledger", "critical", 10_000.0)),
        ({"folds_damaged": "2024.jsonl.gz is cut"}, ("ledger-broken", "yearly files", "critical", 10_000.0)),
        ({"unkept": Unkept(3, 5.0, 9.0, "CT1", "10.0.0.1")}, ("quarantine-full", "quarantine", "major", 5.0)),
        ({"rejected_at": 5.0}, ("configuration-rejected", "configuration", "minor", 5.0)),
        ({"unusable_certificates": (5.0, "no pair")}, ("configuration-rejected", "certificates", "minor", 5.0)),
        (
            {"revocation_ends": 10_000.0 + DAY},
            ("certificate-expiring", "revocation list", "major", 10_000.0 - DAY),
        ),
        (
            {"caller_certificates": {"ct1": 9_000.0}},
            ("certificate-expiring", "modality.ct1", "major", 9_000.0 - 30 * DAY),
        ),
        (
            {"outbox": {"email.mimso": ChannelBacklog(2, 4000.0, "")}},
            ("channel-stuck", "email.mimso", "minor", 9_600.0),
        ),
        ({"outbox": {"audit": ChannelBacklog(0, 0.0, "", parked=1)}}, ("channel-stuck", "audit", "minor", 10_000.0)),
        ({"downtime": Downtime(5.0, 9.0, "power", False)}, ("unscheduled-downtime", "gateway", "minor", 5.0)),
        ({"clock_leap_seconds": 7200.0}, ("clock-skew", "clock", "minor", 10_000.0)),
        ({"correction": Correction(9_990.0, 7, 3600.0)}, ("clock-was-wrong", "clock", "minor", 9_990.0)),
        (
            {"owed_reports": (OwedReports("ct1", 2, 9_000.0 - DAY, "nothing listens there"),)},
            ("commitment-unreported", "ct1", "major", 9_000.0),
        ),
        ({"identity": IdentityFigures(missing=2, missing_since=5.0)}, ("order-missing", "studies", "minor", 5.0)),
        ({"identity": IdentityFigures(differing=1, differing_since=5.0)}, ("patient-mismatch", "order", "major", 5.0)),
        ({"hl7": Hl7Status(parked=ParkedSummary(3, 2, 5.0))}, ("hl7-parked", "messages", "major", 5.0)),
        (
            {"hl7": Hl7Status(relays=(RelayBacklog("vna", 0, 1, None, 0, "", 5.0),))},
            ("relay-held", "vna", "major", 5.0),
        ),
        (
            {"hl7": Hl7Status(relays=(RelayBacklog("vna", 4, 0, 9_000.0 - 1800, 3, "", None),))},
            ("relay-stuck", "vna", "major", 9_000.0 - 900),
        ),
        ({"hl7": Hl7Status(feeds=(FeedStatus("his", 9, 1.0, "by 08:00", 5.0),))}, ("feed-silent", "his", "minor", 5.0)),
        *(
            ({"hl7": Hl7Status(findings=(OpenFindings(kind, "his", 2, 5.0),))}, (kind, "his", "minor", 5.0))
            for kind in FINDING_KINDS
        ),
        (
            {"worklist": WorklistState(3, 500.0, True, "ris", (SourceState("", 1, 500.0, 2, 600.0, "silent"),))},
            ("worklist-stale", "worklist", "major", 600.0),
        ),
        ({"imports": WaitingImports(2, 5.0)}, ("import-waiting", "imports", "minor", 5.0 + 3600)),
        (
            {"missing_images": (MissingImages(3, 7, "CT1", 12, 2, 9_000.0),)},
            ("images-missing", "study 7", "major", 9_000.0),
        ),
        (
            {"foreign_priors": (ForeignPriors("archive", 2, 9_000.0),)},
            ("prior-mismatch", "earlier studies at archive", "major", 9_000.0),
        ),
        (
            {"owed_steps": (OwedSteps("ris", 1, 2, 8_000.0, 9_000.0, "status A777"),)},
            ("work-held", "performed steps for ris", "major", 9_000.0),
        ),
        (
            {"owed_steps": (OwedSteps("ris", 1, 0, 9_000.0 - 14_400.0, None, "nothing listens there"),)},
            ("backlog-old", "performed steps for ris", "major", 9_000.0),
        ),
        ({"modalities": [CT1]}, ("new-modality", "CT1@10.0.0.1", "minor", 9_000.0)),
        (
            {
                "modalities": [
                    replace(CT1, first_seen=-1e9, changed_at=9_000.0, change=("A", *["x"] * 3, "B", *["x"] * 3))
                ]
            },
            ("equipment-changed", "CT1@10.0.0.1", "minor", 9_000.0),
        ),
        ({"untried_since": 9_000.0 - 365 * DAY}, ("restore-untried", "gateway", "minor", 9_000.0)),
        ({"lossy": (Lossy("US1", 9_000.0, 9_500.0, 3, "US", "1.2"),)}, ("lossy-received", "US1", "minor", 9_000.0)),
        ({"dose_missing": (("CT1", 2, 9_000.0),)}, ("dose-report-missing", "CT1", "minor", 9_000.0)),
        (
            {"modalities": [replace(CT1, first_seen=-1e9, missed_at=8_000.0)]},
            ("modality-silent", "CT1", "minor", 8_000.0),
        ),
    ],
)
def test_each_cause_has_its_alert(changes: dict[str, Any], expected: tuple[str, str, str, float]) -> None:
    assert raised(**changes) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"destinations": [replace(OLD, oldest_seconds=14_000.0)]},
        {"destinations": [replace(OLD, oldest_seconds=None)]},
        {"destinations": [replace(UNPROVED, confirm_lag_seconds=80_000.0)]},
        {"destinations": [replace(UNPROVED, proves=False)]},
        {"clock": Clock(True, 0.2)},
        {"clock": Clock(None, None), "uptime_seconds": 4000.0},
        {"clock": Clock(False), "uptime_seconds": 60.0},  # after a boot it takes its time
        {"certificates": {"vna": 10_000.0 + 31 * DAY}},
        {"caller_certificates": {"client.ai": 10_000.0 + 31 * DAY}},
        {"revocation_ends": 10_000.0 + 3 * DAY},  # a list lasts for a month
        {"downtime": Downtime(-2 * DAY, -DAY, "power", False)},
        {"modalities": [replace(CT1, first_seen=9_990.0)]},  # its first objects will tell what it is
        {"modalities": [replace(CT1, first_seen=10_000.0 - 8 * DAY)]},
        {"modalities": [replace(CT1, admitted=False)]},
        {"storage": Storage(0.5, 10**9, 2 * DAY)},
        {"outbox": {"email.mimso": ChannelBacklog(2, 3500.0, "")}},
    ],
)
def test_within_its_threshold_nothing_is_said(changes: dict[str, Any]) -> None:
    assert raised(**changes) == []


@pytest.mark.parametrize(
    ("changes", "kind", "subject"),
    [
        ({"storage": Storage(0.79, 10**9)}, "storage-filling", "storage"),
        ({"storage": Storage(0.5, 10**9, 1.2 * DAY)}, "storage-filling", "storage"),
        ({"clock": Clock(True, 0.9)}, "clock-skew", "clock"),
    ],
)
def test_an_open_alert_stays_a_little_beyond_its_threshold(changes: dict[str, Any], kind: str, subject: str) -> None:
    assert raised(**changes) == []
    assert [each[0] for each in raised(**changes, open=frozenset({(kind, subject)}))] == [kind]


def test_a_site_may_switch_a_kind_off_or_change_its_severity() -> None:
    down = [DestinationStatus("archive", state="down", since=7.0)]
    alarm = ALERT_KINDS["destination-down"]
    assert raised(destinations=down, alarms={**ALERT_KINDS, "destination-down": replace(alarm, enabled=False)}) == []
    (found,) = raised(destinations=down, alarms={**ALERT_KINDS, "destination-down": replace(alarm, fixed="critical")})
    assert found[2] == "critical"


def test_a_scan_of_a_gateway_that_lets_everybody_in_is_told_in_a_few_alerts() -> None:
    scan = [replace(CT1, name=UNNAMED_CALLER, ae_title=f"X{n}", first_seen=5_000.0 + n) for n in range(100)]
    known = [replace(CT1, ae_title=f"CT{n}") for n in range(30)]
    found = raised(modalities=[*scan, *known])
    assert len(found) == 30 + rules.MAX_CALLERS + 1
    later = raised(modalities=[replace(CT1, name=UNNAMED_CALLER, ae_title="NEW", first_seen=9_000.0), *scan, *known])
    assert later == found  # the same news


def test_every_kind_has_a_rule_that_raises_it() -> None:
    tables = test_each_cause_has_its_alert.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {expected[0] for _, expected in tables} | {"destination-removed"} == set(ALERT_KINDS)


def everything() -> tuple[Alert, ...]:
    return alerts(
        replace(
            QUIET,
            storage=Storage(0.85, 10**9, 3600.0, 8.0),
            destinations=(
                DestinationStatus("archive", state="down", pending=1, last_error="refused"),
                DestinationStatus("gone", state="paused", configured=False, held=2),
            ),
            held=(Held("archive", 1, 6.0, "no context"), Held("", 3, 6.0, "no route")),
            exceptions=(
                ExceptionCount("lost", 2, 5.0, True),
                ExceptionCount("conflict", 1, 5.0, True),
                ExceptionCount("quarantined", 1, 5.0, True),
            ),
            mismatches=Mismatches(2, 5.0, 1, 5.0),
            unknown_callers=tuple(UnknownCaller(f"S{n}", "10.0.0.1", float(n)) for n in range(30)),
        )
    )


def test_the_most_severe_comes_first_and_a_port_scan_buries_nothing() -> None:
    found = everything()
    assert found[0].kind == "lost"
    assert [a.severity for a in found] == sorted((a.severity for a in found), key=rules.URGENCY.index)
    strangers = [a for a in found if a.kind == "unknown-equipment"]
    assert len(strangers) == rules.MAX_CALLERS + 1
    assert "20 further unknown callers" in strangers[-1].text


def test_every_alert_is_one_sentence_that_names_what_to_type_or_do() -> None:
    for alert in [*everything(), *alerts(replace(QUIET, live=Live("refusing", reasons=("x",))))]:
        assert alert.text.endswith("."), alert.text
        assert ". " not in alert.text, alert.text
        assert "`" in alert.text or "free" in alert.text, alert.text


@pytest.mark.parametrize(("held", "means"), [(0, "nothing waits for it yet"), (2, "only 2 held images wait for it")])
def test_a_destination_that_is_down_says_what_waits(held: int, means: str) -> None:
    (found, *_) = alerts(replace(QUIET, destinations=[DestinationStatus("archive", state="down", held=held)]))
    assert (found.kind, found.means) == ("destination-down", means)


def test_a_destination_that_answers_and_refuses_is_not_said_to_be_silent(filled: Filled) -> None:
    filled.receive(2)
    why = "the association was rejected for good"
    known = KnownHealth("down", 5.0, last_error=why, refuses=True)
    filled.db.write(lambda conn: note_health(conn, "archive", known))
    seen = taken(filled, replace(RUNNING, destinations={"archive": Link("down")}))
    (found,) = seen.alerts
    assert found.what == f"Destination archive answers, but refuses images ({why})"
    assert found.means == "2 images for it wait safely on disk and are sent automatically when it takes them"
    assert status_json(seen)["destinations"]["archive"]["refuses"] is True


def test_a_new_caller_is_named_by_its_own_table() -> None:
    viewer = replace(CT1, name="client.viewer", ae_title="VIEWER")
    scanner, web = alerts(replace(QUIET, modalities=(CT1, viewer)))
    assert scanner.means.endswith("as [modality.ct1]")
    assert web.means.endswith("as [client.viewer]")


def test_a_caller_that_no_table_names_is_added_by_a_command_without_its_own_words() -> None:
    (found,) = alerts(replace(QUIET, unknown_callers=(UnknownCaller("X;reboot", "10.0.0.1", 4.0),)))
    assert found.do == '`edge modality add AE_TITLE --reason "..."` if it is yours, then let it call again'


def test_a_caller_with_another_certificate_is_not_added_once_more() -> None:
    (found,) = alerts(replace(QUIET, unknown_callers=(UnknownCaller("CT1", "10.0.0.1", 4.0, "it must call over TLS"),)))
    assert found.means == "it must call over TLS, and none of its images is received"
    assert "modality add" not in found.do


def test_a_caller_that_was_refused_before_it_said_its_name_is_told_by_its_address() -> None:
    expired = UnknownCaller("", "10.0.0.1", 4.0, "its certificate has expired", "CT1")
    first, second = alerts(replace(QUIET, unknown_callers=(expired, replace(expired, address="::1", known_there=""))))
    assert first.what == 'A caller at 10.0.0.1, from which "CT1" has sent, was refused'
    assert second.what == "A caller at ::1 was refused"
    assert first.means == "its certificate has expired, and none of its images or messages is received"
    assert first.actions[0].command == ("edge", "alerts", "explain", "unknown-equipment")


def test_our_own_certificate_stops_the_scanners_too() -> None:
    (found,) = alerts(replace(QUIET, live=Live("running", certificates={"listen": 10_000.0 + DAY})))
    assert found.what.startswith("Our TLS certificate ends in 1 d")
    assert found.means.startswith("from then on no TLS succeeds: images stay on the scanners")


def test_choices_are_apart_and_what_follows_is_not() -> None:
    steps = (Action("look"), Action("decide", follows=True), Action("or leave it"))
    assert advice_of(steps) == "look, then decide; or leave it"


def test_what_a_release_decides_names_the_release() -> None:
    held = Held("archive", 1, 5.0, "a note", frozenset({ReasonCode.NOTE_NOT_ALLOWED}))
    (found,) = alerts(replace(QUIET, held=[held]))
    assert ("edge", "queue", "release", "ID", "--reason", "...") in [each.command for each in found.actions]
    assert not any("retry" in each.command for each in found.actions)


def test_the_wires_words_cannot_move_the_cursor() -> None:
    (alert,) = alerts(replace(QUIET, unknown_callers=(UnknownCaller("\x1b[2JX", "10.0.0.1", 4.0),)))
    assert "\x1b" not in alert.text + alert.subject


def test_alerts_come_from_the_catalog(filled: Filled, tmp_path: Path) -> None:
    filled.receive(2)
    filled.settle("archive", 2, Outcome.HOLD, "0xA900: data set does not match")
    filled.receive(1, Modality="OT")
    filled.db.write(lambda conn: remember_peer(conn, "NEW1", "10.0.0.9", Calls("", 50.0, time.time(), 1)))
    filled.db.write(lambda conn: remember_peer(conn, "OLD1", "10.0.0.8", Calls("", 50.0, 60.0, 1)))
    filled.db.write(lambda conn: remember_peer(conn, "CT1", "10.0.0.7", Calls("ct1", 50.0, time.time(), 1)))
    seen = taken(filled)
    assert sorted(kinds(seen)) == ["unknown-equipment", "unroutable", "work-held"]
    held = next(alert for alert in seen.alerts if alert.kind == "work-held")
    assert "2 images for archive" in held.text
    assert "0xA900" in held.text
    (stranger,) = [alert for alert in seen.alerts if alert.kind == "unknown-equipment"]
    assert stranger.subject == "NEW1@10.0.0.9"


def test_nothing_of_the_patient_is_told(filled: Filled) -> None:
    study = filled.receive(2, PatientName=NAME, PatientID="CANARY7", AccessionNumber="CANARY8", Modality="OT")
    filled.execute("UPDATE instance SET state = 'lost' WHERE id = 1")
    told = json.dumps(status_json(taken(filled)))
    assert "CANARY" not in told
    assert study not in told


# Speed.


def test_a_snapshot_does_not_count_rows(filled: Filled) -> None:
    """Twenty thousand instances of one destination: sent, waiting, deferred, held. Time grows with nothing."""
    many = 20_000

    def fill(conn: Transaction) -> None:
        conn.execute("INSERT INTO kind VALUES (1, '1.2', '1.2.1')")
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, state, path, size, dataset_offset,"
            " calling_ae, called_ae, address, received_at)"
            " SELECT i, i, x'00', 1, 'stored', i, 9, 0, 'A', 'B', 'C', i FROM n",
            (many,),
        )
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
            " SELECT id, 'archive', 1, 9, 2, CASE WHEN id < 10000 THEN 'confirmed' WHEN id < 15000 THEN 'pending'"
            " WHEN id < 18000 THEN 'deferred' ELSE 'held' END, id FROM instance"
        )

    filled.db.write(fill)
    statements: list[str] = []
    with filled.db.reading() as conn:
        conn.set_trace_callback(statements.append)
        with counted_steps(conn) as steps:
            seen = snapshot(conn, filled.config, HALF_FULL, RUNNING, time.time())
        conn.set_trace_callback(None)
        plans = [row["detail"] for sql in statements for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert seen.queue.pending == 5_000
    assert seen.queue.oldest_seconds == pytest.approx(time.time() - 10_000, abs=60)
    big = [plan for plan in plans if plan.startswith("SCAN") and plan.split()[1] in ("delivery", "instance")]
    assert all("USING COVERING INDEX delivery_deferred" in plan or "delivery_active" in plan for plan in big), big
    assert steps[0] < 3 * many, "what is deferred is read, in an index of its own, and nothing else"


# Words.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (13_200, "3 h 40 min"),
        (68_400, "19 h"),
        (90_000, "1 d 1 h"),
        (1_641_600, "19 d"),
        (-5, "0 s"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_other_words() -> None:
    assert amount(1, "image") == "1 image"
    assert amount(2000, "image") == "2,000 images"
    assert [size(n) for n in (0, 999, 74_000_000_000, 314_572_800)] == ["0 B", "999 B", "74 GB", "315 MB"]
    assert iso(1_795_291_883.9) == "2026-11-21T20:11:23Z"
    assert from_iso("2026-11-21T20:11:23Z") == 1_795_291_883
