"""The audit trail: what each event of the ledger gives, valid by the standard's schema, none lost and none twice."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from lxml import etree

from edge.config.audit import Audit
from edge.config.sections import Config
from edge.daemon.reload import change_payload
from edge.dicom import items
from edge.messaging.audit import (
    MAX_ROWS,
    REPORTED_AGAIN_SECONDS,
    STUDY_PATIENCE_SECONDS,
    STUDY_QUIET_SECONDS,
    AuditTrailProjector,
)
from edge.messaging.audit import message as dicom
from edge.messaging.audit.events_to_messages import REPORTERS
from edge.messaging.audit.message import AuditMessage, Participant, Source, to_xml
from edge.messaging.audit.rows import read_ledger
from edge.store import ledger, outbox
from edge.store.database import Store, Transaction
from tests.support.audit import SCHEMA, Told
from tests.support.gateway import configuration
from tests.support.ledger_rows import append_0_1_0
from tests.support.peers import REPOSITORY

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
STUDY = "1.2.3.4"
HOSTILE = 'Weird^<b>&"\x00\x1b[31m\ud800\nName\ufffe'


class Office:
    """A clerk with a catalog of one study of three images, a clock of its own, and what it has posted."""

    def __init__(self, tmp_path: Path) -> None:
        self.config = replace(configuration(tmp_path), audit=Audit("repository.example.org"))
        self.db = Store(tmp_path / "catalog.db")
        self.now = 0.0
        self.clerk = AuditTrailProjector(self.db, lambda: self.config, tmp_path, lambda: self.now)
        self.at = 1_750_000_000.0
        self.db.write(self._study)

    def _study(self, conn: Transaction) -> None:
        conn.execute(
            "INSERT INTO study VALUES (1, ?, 'PID-1', 'Doe^Jane', 'ACC-1', '20260101', 'Head', 'CT', 0, 0)", (STUDY,)
        )
        for number, kind, sop_class in ((1, 1, CT), (2, 1, CT), (3, 2, MR)):
            conn.execute("INSERT OR IGNORE INTO kind VALUES (?, ?, '1.2.840.10008.1.2.1')", (kind, sop_class))
            conn.execute(
                "INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, series_uid, state, path, size,"
                " dataset_offset, calling_ae, called_ae, address, received_at)"
                " VALUES (?1, '1.2.' || ?1, x'00', ?2, 1, '1.2.3', 'stored', 'a/' || ?1, 1, 0, 'CT1', 'EDGE',"
                " '10.1.1.1', 0)",
                (number, kind),
            )
            conn.execute(
                "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
                " VALUES (?, 'archive', ?, 1, 2, 'pending', 0)",
                (number, kind),
            )

    def record(
        self,
        event: str,
        who: str = "edge",
        instances: tuple[int, ...] = (1, 2, 3),
        study: int | None = 1,
        destination: str = "",
        **payload: object,
    ) -> None:
        self.at += 0.25

        def work(conn: Transaction) -> None:
            append = partial(ledger.append, conn, self.at, event, who, instances)
            append(study_id=study, destination=destination, payload=payload)

        self.db.write(work)

    def told(self) -> list[Told]:
        """What stands in the outbox, and is taken from it."""
        self.clerk.flush()
        with self.db.reading() as conn:
            found = outbox.oldest(conn, "audit", 100_000)
        self.db.write(lambda conn: outbox.remove_delivered(conn, [each.id for each in found]))
        return [Told(each.body) for each in found]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    made.clerk.begin()
    yield made
    made.db.close()


# -- what is told ------------------------------------------------------------------------------------------------------


def arrival(sha256: str) -> dict[str, object]:
    return {"address": "10.1.1.1", "destinations": ["archive"], "sha256": sha256}


def test_an_arrival_is_a_transfer_to_us_and_the_intent_to_send_on(office: Office) -> None:
    office.record(ledger.RECEIVED, "CT1", (1,), **arrival("00"))
    office.record(ledger.RECEIVED, "CT1", (2,), **arrival("11"))
    office.record(ledger.RECEIVED, "CT1", (3,), **arrival("22"))
    came, begins = office.told()
    assert (came.event, came.action, came.outcome) == ("DICOM Instances Transferred", "C", 0)
    assert came.who == [("CT1*", "Source Role ID"), ("edge", "Destination Role ID")]
    assert came.address("CT1") == "10.1.1.1"
    assert came.counts == {CT: 2, MR: 1}
    assert (came.id_of("Study Instance UID"), came.id_of("Patient Number")) == (STUDY, "PID-1")
    assert came.root.find(".//Accession").get("Number") == "ACC-1"
    assert came.at == "2025-06-15T15:06:40.750000Z"  # the last image
    assert begins.at == "2025-06-15T15:06:40.250000Z"  # the first
    assert "ledger rows 1 to 3" in came.description
    assert (begins.event, begins.action) == ("Begin Transferring DICOM Instances", "E")
    assert begins.who == [("edge*", "Source Role ID"), ("ARCHIVE", "Destination Role ID")]
    assert begins.counts == {CT: 2, MR: 1}


def test_two_addresses_under_one_ae_title_are_two_sources(office: Office) -> None:
    office.db.write(lambda conn: conn.execute("UPDATE instance SET address = '10.9.9.9' WHERE id = 3"))
    office.record(ledger.RECEIVED, "CT1")
    came = [each for each in office.told() if each.event == "DICOM Instances Transferred"]
    assert [(each.address("CT1"), each.counts) for each in came] == [("10.1.1.1", {CT: 2}), ("10.9.9.9", {MR: 1})]


def test_what_waits_for_a_person_is_not_on_its_way(office: Office) -> None:
    office.db.write(lambda conn: conn.execute("UPDATE delivery SET state = 'held'"))
    office.record(ledger.CONFLICT, "CT1")
    assert [each.event for each in office.told()] == ["DICOM Instances Transferred"]


def test_a_query_is_told_with_what_was_asked(office: Office) -> None:
    identifier = items.encode_items(items.item({0x00100020: "PID-1"}), "1.2.840.10008.1.2")
    office.record(
        ledger.QUERIED, "VIEWER", (), None,
        address="10.1.1.9", what="find", model="STUDY", syntax="1.2.840.10008.1.2", called="EDGE", answers=1,
        status=0, left_out=[], identifier=base64.b64encode(identifier).decode(),
    )  # fmt: skip
    (told,) = office.told()
    assert (told.event, told.action, told.outcome) == ("Query", "E", 0)
    assert told.address("VIEWER") == "10.1.1.9"
    assert base64.b64encode(identifier).decode() in told.xml
    with office.db.reading() as conn:
        words = [row.words for row in read_ledger(conn, 0, 10)]
    assert words == ["find: 1 answers, status 0000, from 10.1.1.9"]


def test_a_retrieval_is_told_with_who_got_it(office: Office) -> None:
    office.record(ledger.RETRIEVED, "VIEWER", (), 1, address="10.1.1.9", to="WORKSTATION", objects=3)
    (told,) = office.told()
    assert (told.event, told.action) == ("DICOM Instances Transferred", "R")
    assert told.id_of("Study Instance UID") == STUDY
    assert {name for name, _ in told.who} >= {"WORKSTATION", "VIEWER*"}


#: One row of each event, and what is told of it: (event, type, action, outcome).
CASES = {
    ledger.STARTED: [("Application Activity", "Application Start", "E", 0), ("Network Entry", "Attach", "E", 0)],
    ledger.STOPPED: [("Application Activity", "Application Stop", "E", 0), ("Network Entry", "Detach", "E", 0)],
    ledger.SENT: [("DICOM Instances Transferred", None, "R", 0)],
    ledger.ROUTED: [("Begin Transferring DICOM Instances", None, "E", 0)],
    ledger.DENIED: [("DICOM Instances Transferred", None, "R", 4)],
    ledger.HELD: [("DICOM Instances Transferred", None, "R", 8)],
    ledger.QUARANTINED: [("DICOM Instances Transferred", None, "C", 4)],
    ledger.EVICTED: [("DICOM Instances Accessed", None, "D", 0)],
    ledger.DELETED: [("DICOM Instances Accessed", None, "D", 0)],
    ledger.CHANGED: [("DICOM Instances Accessed", None, "U", 0)],
    ledger.LOST: [("Security Alert", "Object Security Attributes Changed", "E", 8)],
    ledger.RECOVERED: [("Security Alert", "Software Configuration", "E", 0)],
    ledger.STEP_SENT: [("Procedure Record", None, "R", 0)],
    ledger.CONFIRMED: [],
}


@pytest.mark.parametrize("event", CASES)
def test_what_the_gateway_does_is_reported(office: Office, event: str) -> None:
    office.record(event, destination="archive")
    assert [(each.event, each.type, each.action, each.outcome) for each in office.told()] == CASES[event]


def test_a_corrected_copy_is_reported_with_the_rules_that_corrected_it(office: Office) -> None:
    syntax = "1.2.840.10008.1.2.1"
    for rules in (["demographics", "institution"], ["demographics"]):
        office.record(
            ledger.CHANGED, destination="archive", transfer_syntax_uid=syntax, received_in=syntax, rules=rules
        )
    first, second = office.told()
    assert first.description.endswith("; a copy corrected by demographics, institution")
    assert second.description.endswith("; a copy corrected by demographics")


HERE = {"address": "10.2.2.2"}
HANDLED = [("DICOM Instances Accessed", None, "U", 0)]
RESTRICTED = [("Security Alert", "Use of Restricted Function", "E", 0)]
BEGINS = [("Begin Transferring DICOM Instances", None, "E", 0)]
#: The same of what a person does, or a caller.
PERSONAL: list[tuple[str, dict[str, object], list[tuple[str, str | None, str, int]]]] = [
    (ledger.HELD, {"reason_code": "person", "reason": "x"}, HANDLED),
    (ledger.RETRIED, {}, HANDLED + BEGINS),
    (ledger.DISCARDED, {"reason": "wrong patient", "sha256": "00"}, HANDLED),
    (ledger.ADMITTED, {"instance": 4, "reason": "x"}, HANDLED),
    (ledger.EXPORTED, {"path": "/media/usb/instance-1.dcm", "sha256": "00"}, [("Export", None, "R", 0)]),
    (ledger.VIEWED, {"access": "edge studies show"}, [("DICOM Instances Accessed", None, "R", 0)]),
    (ledger.CANCELLED, {"retired": "teleread", "reason": "it is broken"}, RESTRICTED),
    (
        ledger.OVERRIDDEN,
        {"action": "redirect", "instead_of": "teleread", "reason": "it is broken"},
        RESTRICTED + BEGINS,
    ),
    (ledger.OVERRIDDEN, {"action": "priority", "priority": "stat", "reason": "instead of x"}, RESTRICTED),
    (ledger.SETTLED, {"reason": "seen"}, RESTRICTED),
    (ledger.IMPORTED, {"action": "assign", "batch": 3, "count": 12, "reason": "seen"}, RESTRICTED),
    (ledger.COMMITTED, {"transaction_uid": "1.2.3", "policy": "local"}, [("DICOM Instances Accessed", None, "R", 0)]),
    (
        ledger.NOT_COMMITTED,
        {"transaction_uid": "1.2.3", "failures": [0x110], "count": 1},
        [("DICOM Instances Accessed", None, "R", 4)],
    ),
    (ledger.PERFORMED, {"state": "IN PROGRESS", "study_uid": "1.2"} | HERE, [("Procedure Record", None, "C", 0)]),
    (ledger.PERFORMED, {"state": "COMPLETED", "study_uid": "1.2"} | HERE, [("Procedure Record", None, "U", 0)]),
    (ledger.STEP_DECIDED, {"action": "retry", "reason": "x"}, RESTRICTED),
    (ledger.REJECTED, {"code": "113037", "count": 2, "allowed": True}, [("DICOM Instances Accessed", None, "D", 0)]),
    (ledger.REJECTED, {"code": "113037", "count": 2, "allowed": False}, [("DICOM Instances Accessed", None, "D", 4)]),
    (ledger.REPORTED, {}, [("Audit Log Used", None, "R", 0)]),
    (ledger.VIEWED, {"access": "study page"} | HERE, [("DICOM Instances Accessed", None, "R", 0)]),
    (ledger.SIGNED_IN, {"action": "sign-in"} | HERE, [("User Authentication", "Login", "E", 0)]),
    (ledger.REFUSED, {"action": "sign-in"} | HERE, [("User Authentication", "Login", "E", 4)]),
    (ledger.SIGNED_IN, {"action": "sign-out"} | HERE, [("User Authentication", "Logout", "E", 0)]),
    (
        ledger.REFUSED,
        {"fault": "unknown equipment", "times": 1} | HERE,
        [("Security Alert", "Node Authentication", "E", 4)],
    ),
    (
        ledger.CONFIGURED,
        {"action": "change", "keys": ["retention.keep"], "sections": ["modality", "retention"]},
        [("Security Alert", "Security Configuration", "E", 0)],
    ),
    (
        ledger.CONFIGURED,
        {"action": "change", "keys": ["retention.keep"], "sections": ["retention"]},
        [("Security Alert", "Software Configuration", "E", 0)],
    ),
    (
        ledger.CONFIGURED,
        {"action": "account", "account": "berta", "change": "viewer"},
        [("Security Alert", "User Security Attributes Changed", "E", 0)],
    ),
    (ledger.LEGAL_HOLD, {"reason": "case", "study_uid": "1.2"}, RESTRICTED),
    (ledger.LEGAL_RELEASE, {"reason": "closed", "study_uid": "1.2"}, RESTRICTED),
    (ledger.DRILLED, {"reason": "12 images"}, RESTRICTED),
    (ledger.CONFIGURED, {"action": "reject", "faults": 2}, [("Security Alert", "Software Configuration", "E", 4)]),
]


@pytest.mark.parametrize(("event", "payload", "expected"), PERSONAL)
def test_what_people_and_callers_do_is_reported_with_the_actor(
    office: Office, event: str, payload: dict[str, object], expected: list[tuple[str, str | None, str, int]]
) -> None:
    office.record(event, "anna", destination="archive" * (event == ledger.OVERRIDDEN), **payload)
    told = office.told()
    assert [(each.event, each.type, each.action, each.outcome) for each in told] == expected
    (user,) = [each.rstrip("*") for each, _ in told[0].who if each.startswith("anna")]
    assert told[0].address(user) == payload.get("address")


#: What a person may type, and what it would have been taken for.
TYPED = [
    "the ward asked: resend from 10.1.2.3",
    "from 10.1.2.3: it is right",
    "sign-in at the console, from 10.1.2.3",
    "instead of teleread: it is broken",
    "rejected: 2 faults",
    "routed to pacs2: from 10.1.2.3",
    "by C-FIND",
]


@pytest.mark.parametrize("reason", TYPED)
@pytest.mark.parametrize(
    "event",
    [ledger.HELD, ledger.RELEASED, ledger.RETRIED, ledger.CANCELLED, ledger.OVERRIDDEN, ledger.DISCARDED,
     ledger.ADMITTED, ledger.SETTLED, ledger.REPORTED],
)  # fmt: skip
def test_what_a_person_types_changes_nothing_but_the_words(office: Office, event: str, reason: str) -> None:
    values: dict[str, object] = {
        "sha256": "00", "instance": 4, "action": ledger.SET_PRIORITY, "priority": "stat", "reason_code": "person",
    }  # fmt: skip
    seen = []
    for typed in ("ordinary", reason):
        office.record(event, "anna", destination="archive", reason=typed, **values)
        seen.append(office.told())
    plain, told = ([(each.event, each.type, each.action, each.outcome, each.who) for each in some] for some in seen)
    assert told == plain
    assert not any('NetworkAccessPointID="10.1.2.3"' in each.xml for each in seen[1])
    assert any(reason in each.description for each in seen[1])


def test_a_change_of_security_is_one_however_much_else_has_changed(office: Office) -> None:
    keys = [*(f"destination.d{n}.host" for n in range(500)), "tls.min-version"]
    office.record(ledger.CONFIGURED, instances=(), study=None, **change_payload(keys))
    (told,) = office.told()
    assert told.type == "Security Configuration"
    with office.db.reading() as conn:
        assert len(conn.execute("SELECT payload FROM ledger").fetchone()[0]) < 2_000


def test_rows_of_0_1_0_are_told_by_their_text(office: Office) -> None:
    old = [
        (ledger.REFUSED, "from 10.2.2.2: unknown equipment", "Node Authentication", 4, "10.2.2.2"),
        (ledger.REFUSED, "sign-in at the console, from 10.2.2.2", "Login", 4, "10.2.2.2"),
        (ledger.SIGNED_IN, "signed out at the console, from 10.2.2.2", "Logout", 0, "10.2.2.2"),
        (ledger.VIEWED, "the page of the study, from 10.2.2.2", None, 0, "10.2.2.2"),
        (ledger.CONFIGURED, "changed: modality.ct1.hosts, retention.keep", "Security Configuration", 0, None),
        (ledger.CONFIGURED, "rejected: 2 faults, the running one stays", "Software Configuration", 4, None),
        (ledger.CONFIGURED, "account berta: viewer", "User Security Attributes Changed", 0, None),
        (ledger.OVERRIDDEN, "instead of teleread: from 10.2.2.2", "Use of Restricted Function", 0, None),
        (ledger.CANCELLED, "the ward asked: resend from 10.2.2.2", "Use of Restricted Function", 0, None),
        (ledger.REPORTED, "complaint, from 10.2.2.2", None, 0, None),
    ]
    for event, text, kind, outcome, address in old:
        office.at += 100
        office.db.write(lambda conn, event=event, text=text: append_0_1_0(conn, office.at, event, "anna", text))  # type: ignore[misc]
        told = office.told()[0]
        assert (told.type, told.outcome) == (kind, outcome), text
        (user,) = [each.rstrip("*") for each, _ in told.who if each.startswith("anna")]
        assert told.address(user) == address, text
        assert text in told.description
    with office.db.reading() as conn:
        assert ledger.check(conn) is None


def test_a_proof_that_was_looked_for_is_a_query_with_its_identifier(office: Office) -> None:
    office.record(ledger.CONFIRMED, "archive", destination="archive", method=ledger.BY_QUERY)
    (asked,) = office.told()
    assert (asked.event, asked.who) == (
        "Query",
        [("edge*", "Source Role ID"), ("ARCHIVE", "Destination Role ID")],
    )
    assert asked.id_of("SOP Class UID") == "1.2.840.10008.5.1.4.1.2.2.1"
    import base64

    identifier = base64.b64decode(asked.root.findtext(".//ParticipantObjectQuery"))
    assert STUDY.encode() in identifier
    assert b"IMAGE" in identifier


def test_a_study_of_which_nothing_is_left_is_deleted(office: Office) -> None:
    office.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'evicted'"))
    office.record(ledger.EVICTED)
    (told,) = office.told()
    assert (told.event, told.action, told.who) == ("DICOM Study Deleted", "D", [("edge*", None)])


def test_what_belongs_to_no_study_is_told_as_such(office: Office) -> None:
    office.record(ledger.RECEIVED, "CT1", (1,), study=None)
    came = office.told()[0]
    assert (came.id_of("Study Instance UID"), came.id_of("Patient Number")) == ("<none>", "<none>")


@pytest.mark.parametrize("event", REPORTERS)
def test_hostile_words_make_no_invalid_message(office: Office, event: str) -> None:
    hostile = HOSTILE.encode("utf-8", "replace").decode()
    office.db.write(lambda conn: conn.execute("UPDATE study SET patient_name = ?, description = ?", (hostile, " \n")))
    office.record(event, hostile, destination="nowhere", reason=hostile, fault=hostile, access=hostile)
    for told in office.told():
        assert "\n" not in told.xml


def test_characters_that_xml_does_not_know_are_replaced() -> None:
    message = AuditMessage(dicom.SECURITY_ALERT, "E", 0.0, participants=(Participant(HOSTILE),))
    told = Told(to_xml(message, Source("0067", "EDGE")))
    assert told.who == [('Weird^<b>&"\ufffd\ufffd[31m\ufffd Name\ufffd', None)]


def test_the_schema_refuses_what_the_standard_does(office: Office) -> None:
    office.record(ledger.SENT, destination="archive")
    (told,) = office.told()
    for path, name, value in [
        ("EventIdentification", "EventActionCode", "X"),
        ("EventIdentification", "EventOutcomeIndicator", "1"),
        ("EventIdentification", "EventDateTime", "2026-01-01T00:00:00"),
        ("ActiveParticipant", "UserIsRequestor", "maybe"),
        ("ActiveParticipant", "Unknown", "x"),
    ]:
        broken = etree.fromstring(told.xml)
        broken.find(path).set(name, value)
        assert not SCHEMA.validate(broken), name


def test_the_manual_says_which_events_are_told(office: Office) -> None:
    manual = (REPOSITORY / "docs" / "manual.md").read_text("utf-8")
    documented = {
        event: set(re.split(r", (?=[A-Z])", told))
        for line, told in re.findall(r"^\| (`[a-z`, -]+`) \| ([A-Z][^|]*) \|", manual, re.MULTILINE)
        for event in re.findall(r"`([a-z-]+)`", line)
    }
    known: dict[str, set[str]] = {event: {row[0] for row in rows} for event, rows in CASES.items() if rows}
    for event, _, rows in PERSONAL:
        known.setdefault(event, set()).update(row[0] for row in rows)
    both = {"DICOM Instances Transferred", "Begin Transferring DICOM Instances"}
    known |= dict.fromkeys((ledger.RECEIVED, ledger.FETCHED, ledger.ADOPTED, ledger.CONFLICT), both)
    known[ledger.RELEASED] = known[ledger.RETRIED]
    known[ledger.REPAIRED] = known[ledger.CHANGED]
    known[ledger.CONFIRMED] = {"Query"}
    for event in (ledger.EVICTED, ledger.DELETED):
        known[event] |= {"DICOM Study Deleted"}
    known |= {ledger.QUERIED: {"Query"}, ledger.RETRIEVED: {"DICOM Instances Transferred"}}
    assert documented == known
    assert documented.keys() == REPORTERS.keys()


# -- the clerk ---------------------------------------------------------------------------------------------------------


def test_a_study_gathers_until_it_is_quiet_or_patience_ends(office: Office) -> None:
    def waiting() -> int:
        office.clerk.look()
        with office.db.reading() as conn:
            return len(outbox.oldest(conn, "audit", 100))

    office.record(ledger.SENT, destination="archive")
    assert waiting() == 0
    office.now += STUDY_QUIET_SECONDS - 0.5
    assert waiting() == 0
    office.record(ledger.SENT, destination="archive")
    assert waiting() == 0
    office.now += STUDY_QUIET_SECONDS - 0.5
    assert waiting() == 0
    office.now += 0.5
    assert waiting() == 1
    for _ in range(int(STUDY_PATIENCE_SECONDS) + 1):  # never quiet
        office.record(ledger.SENT, destination="archive")
        told = waiting()
        office.now += 1.0
    assert told == 2
    office.record(ledger.SENT, destination="teleread")
    assert waiting() == 2
    office.record(ledger.REFUSED, "STRANGER", fault="unknown equipment", times=1, **HERE)
    assert waiting() == 4  # at once, and what came before it first


def test_a_pause_or_another_event_begins_a_new_message(office: Office) -> None:
    office.record(ledger.SENT, destination="archive")
    office.record(ledger.SENT, destination="archive")
    office.record(ledger.SENT, destination="teleread")
    office.record(ledger.SENT, destination="archive")
    office.at += 3600
    office.record(ledger.SENT, destination="archive")
    assert [each.description for each in office.told()] == [
        "sent; ledger rows 1 to 4",
        "sent; ledger row 3",
        "sent; ledger row 5",
    ]


class Crash(BaseException):
    """Ends the daemon at once."""


@pytest.mark.parametrize("where", ["before", "within", "behind"])
def test_a_crash_loses_none_and_tells_none_twice(
    office: Office, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        office.record(ledger.VIEWED, "anna")
        office.at += 100
    write, post, left = office.db.write, outbox.post, [2]

    def crash(*args: object) -> object:
        if where == "before":
            raise Crash
        result = write(*args)  # type: ignore[arg-type]
        if where == "behind":
            raise Crash
        return result

    def crash_within(*args: object) -> object:
        left[0] -= 1
        if where == "within" and left[0] == 0:
            raise RuntimeError
        return post(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(office.db, "write", crash)
    monkeypatch.setattr("edge.messaging.audit.outbox.post", crash_within)
    with pytest.raises((Crash, RuntimeError)):
        office.clerk.flush()
    monkeypatch.undo()
    office.clerk = AuditTrailProjector(office.db, lambda: office.config, tmp_path, lambda: office.now)
    office.clerk.begin()
    assert len(office.told()) == 3
    assert office.told() == []


def test_more_rows_than_one_transaction_takes(office: Office) -> None:
    def fill(conn: Transaction) -> None:
        for number in range(MAX_ROWS + 10):
            ledger.append(conn, office.at, ledger.SENT, "edge", [1], study_id=1, destination=f"d{number % 7}")

    office.db.write(fill)
    told = office.told()
    assert sum(sum(each.counts.values()) for each in told) == len(told) == 14
    numbers = [re.findall(r"\d+", each.description) for each in told]
    assert numbers[0][0] == "1"
    assert max(int(each[-1]) for each in numbers) == MAX_ROWS + 10


def test_without_audit_nothing_is_posted_and_a_first_time_begins_with_now(tmp_path: Path) -> None:
    office = Office(tmp_path)
    configured, office.config = office.config, replace(office.config, audit=Audit())
    office.clerk.begin()
    office.record(ledger.VIEWED, "anna")
    assert office.told() == []
    office.config = configured
    assert office.told() == []
    office.clerk.begin()
    office.record(ledger.VIEWED, "berta")
    assert [each.who[0][0].partition("@")[0] for each in office.told()] == ["berta"]
    office.config = replace(configured, audit=Audit())
    office.record(ledger.VIEWED, "carla")
    assert office.told() == []
    office.config = configured  # back again: what happened meanwhile is told, late
    office.clerk.begin()
    assert [each.who[0][0].partition("@")[0] for each in office.told()] == ["carla"]
    office.db.close()


def test_after_a_recovery_the_last_week_is_told_again(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.record(ledger.VIEWED, "long ago")
    office.at += REPORTED_AGAIN_SECONDS
    office.record(ledger.VIEWED, "of late")
    office.record(ledger.RECOVERED)
    office.clerk.begin()
    told = office.told()
    assert [each.event for each in told] == ["DICOM Instances Accessed", "Security Alert"]
    assert told[0].who[0][0].startswith("of late@")
    office.record(ledger.STARTED)
    office.db.write(lambda conn: conn.execute("DELETE FROM gateway"))
    office.clerk.begin()  # first configured some time after a recovery
    assert office.told() == []
    office.db.close()


def test_changes_of_a_configuration_are_named(tmp_path: Path) -> None:
    from edge.config import changes

    old: Config = configuration(tmp_path)
    text = (tmp_path / "conf.d" / "site.toml").read_text()
    new = configuration(tmp_path, text.replace("port = 104", "port = 105") + '[modality.ct2]\nae_title = "CT2"\n')
    assert changes(old, new) == ["modality.ct2", "destination.archive.port"]
    assert changes(old, old) == []
