"""Whose image it is: images against orders, patients and merges, in whatever order they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import Dataset
from pydicom.sequence import Sequence

from edge.cli import cli
from edge.config.sections import Relay
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS
from edge.errors import EdgeError
from edge.intake.hl7_entry import enter_message, read_frame
from edge.intake.rechecks import Rechecks
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.model import Disk
from edge.monitor import engine, health
from edge.monitor.live import Live
from edge.storage.backfill import Backfill
from edge.storage.release import Releaser
from edge.store import alert_records, hl7_messages, identity_checks, todays_facts
from tests.support.filled import CONFIG, Filled
from tests.support.hl7 import adt, merge, order, update
from tests.support.objects import ct_files, new_uid

ALICE = {"PatientID": "T1", "PatientName": "TEST^ALICE", "PatientBirthDate": "19700101", "PatientSex": "F"}
BOB = {"PatientID": "T2", "PatientName": "TEST^BOB", "PatientBirthDate": "19820202", "PatientSex": "F"}


class Clinic(Filled):
    """Images and HL7 of one clinic."""

    def send(self, study: str, patient: dict[str, str], **attributes: Any) -> int:
        self._made += 1
        given = {"StudyInstanceUID": study, "AccessionNumber": "", **patient, **attributes}
        (path,) = ct_files(self.tmp_path / f"image{self._made}", 1, 1024, **given)
        assert self.accept(path.read_bytes()).status == 0
        return int(self.one("SELECT max(id) FROM instance"))

    def hear(self, *messages: bytes) -> None:
        """Messages over HL7, and the checks that follow."""
        for data in messages:
            self._made += 1
            frame = Hl7Frame("his", "10.10.9.5", time.time(), "MTF0067")
            for each in read_frame(f"record{self._made}", frame, data):
                self.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]
        self.recheck()

    def recheck(self) -> None:
        self.woken: list[str] = []
        Rechecks(self.db, lambda: self.intake.policy, self.woken.extend).step()

    def states(self) -> list[tuple[str, str]]:
        sql = "SELECT state, reason_code FROM delivery WHERE destination = 'archive' ORDER BY instance_id"
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql)]

    def checks(self) -> list[tuple[str, str, str]]:
        sql = "SELECT result, differs_in, notes FROM identity_check ORDER BY study_facts_id"
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql)]

    def notes(self) -> set[str]:
        return {note for _, _, notes in self.checks() for note in notes.split(",") if note}

    def snapshot(self, later: float = 0.0) -> Any:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.config, Disk(100, 50), Live("running"), time.time() + later)

    def alerts(self, later: float = 0.0) -> dict[str, str]:
        return {each.kind: each.subject for each in self.snapshot(later).alerts}

    def acknowledge(self, kind: str) -> None:
        found = next(each for each in self.snapshot(2 * 86400.0).alerts if each.kind == kind)
        now = time.time()

        def work(conn: Any) -> None:
            record = engine.notice_new(found, now)
            number = alert_records.keep(conn, record)
            engine.acknowledge_alert(conn, number, "anna", "seen", now)

        self.db.write(work)

    def decide(self, study: str, decision: str, **fields: str) -> Any:
        releaser = Releaser(self.db, self.spool, self.intake, lambda _: None)
        request = {"study_uid": study, "decision": decision, "who": "anna", "reason": "says CT", **fields}
        return RELEASER_DECISIONS["study-decide"](releaser, request)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with Clinic(tmp_path) as made:
        yield made


# -- results ----------------------------------------------------------------------------------------------------------


def test_without_orders_there_is_no_result(clinic: Clinic) -> None:
    """No feed, no verdict; nor where a feed brings patients alone."""
    clinic.send(new_uid(), ALICE)
    clinic.hear(update("M1", "T1", "TEST^ALICE"))
    clinic.send(new_uid(), ALICE)
    assert clinic.checks() == []
    assert "order-missing" not in clinic.alerts(2 * 86400.0)
    assert clinic.snapshot().identity.matched_share is None


def test_matched_by_accession(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    assert clinic.checks() == [("matched", "", "")]
    assert clinic.states() == [("pending", "")]
    clinic.recheck()
    assert clinic.snapshot().identity.matched_share == 1.0
    assert clinic.snapshot().identity.misdirected_share == 0.0


def test_matched_by_study_uid(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1", "2.999.1"))
    clinic.send("2.999.1", ALICE)
    assert clinic.checks()[0][0] == "matched"


REQUESTED = Dataset()
REQUESTED.RequestedProcedureID, REQUESTED.AccessionNumber = "RP1001", "A1001"


@pytest.mark.parametrize("keyword", ["RequestedProcedureID", "AccessionNumber"])
@pytest.mark.parametrize("is_late", [False, True])
def test_matched_by_what_the_request_in_the_image_says(clinic: Clinic, keyword: str, is_late: bool) -> None:
    """(0040,0275) is read with the whole header, behind the answer; an order that comes later is found, too."""
    request = Dataset()
    setattr(request, keyword, REQUESTED[keyword].value)
    message = order("M1", "NW", "1001", "T1")
    clinic.hear(order("M0", "NW", "9", "T1"), *([] if is_late else [message]))  # the patient is known
    clinic.send(new_uid(), ALICE, RequestAttributesSequence=Sequence([request]))
    assert clinic.checks()[0][0] == "no-order"
    Backfill(clinic.db, clinic.intake).step()
    clinic.recheck()
    clinic.hear(*([message] if is_late else []))
    assert clinic.checks()[0][0] == "matched"


@pytest.mark.parametrize(
    ("issuer", "result", "state"),
    [("OTHERRIS", "no-order", ("pending", "")), ("RIS", "differs", ("held", "mismatch"))],
)
def test_the_same_accession_number_of_another_issuer_is_another_order(
    clinic: Clinic, issuer: str, result: str, state: tuple[str, str]
) -> None:
    """What was held for an order of another issuer goes, once the whole header (0008,0051) is read."""
    clinic.hear(order("M1", "NW", "1001", "T1").replace(b"|A1001|", b"|A1001^RIS|"), update("M2", "T2", "TEST^BOB"))
    named = Dataset()
    named.LocalNamespaceEntityID = issuer
    clinic.send(new_uid(), BOB, AccessionNumber="A1001", IssuerOfAccessionNumberSequence=Sequence([named]))
    assert clinic.states() == [("held", "mismatch")]
    Backfill(clinic.db, clinic.intake).step()
    clinic.recheck()
    assert (clinic.checks()[0][0], clinic.states()) == (result, [state])


def test_never_matched_by_a_name(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1", name="TEST^ALICE"))
    clinic.send(new_uid(), ALICE)
    assert clinic.checks()[0][0] == "no-order"


def test_late_order_clears_its_alert(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "9", "T9"))
    clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    assert "order-missing" not in clinic.alerts()
    assert clinic.alerts(2 * 86400.0)["order-missing"] == "studies"
    clinic.hear(order("M2", "NW", "1001", "T1"))
    assert "order-missing" not in clinic.alerts(2 * 86400.0)
    assert clinic.states() == [("pending", "")]


def test_acknowledged_missing_order_ends_its_alert(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "9", "T9"))
    clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    clinic.acknowledge("order-missing")
    assert "order-missing" not in clinic.alerts(2 * 86400.0)


def test_another_patient_than_the_orders_is_held(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"), update("M2", "T2", "TEST^BOB"))
    clinic.send(new_uid(), BOB, AccessionNumber="A1001")
    assert clinic.checks() == [("differs", "id", "")]
    assert clinic.states() == [("held", "mismatch")]
    assert clinic.alerts()["patient-mismatch"] == "held"
    clinic.recheck()
    assert clinic.snapshot().identity.misdirected_share == 1.0


def test_a_stat_image_is_forwarded_and_alarmed(tmp_path: Path) -> None:
    text = CONFIG.replace("[route.everything]", '[route.everything]\npriority = "stat"')
    with Clinic(tmp_path, text) as clinic:
        clinic.hear(order("M1", "NW", "1001", "T1"))
        clinic.send(new_uid(), BOB, AccessionNumber="A1001")
        assert clinic.states() == [("pending", "")]
        assert clinic.alerts()["patient-mismatch"] == "order"
        clinic.acknowledge("patient-mismatch")
        assert "patient-mismatch" not in clinic.alerts()


def test_forwarded_where_the_site_says_so(tmp_path: Path) -> None:
    with Clinic(tmp_path, CONFIG + '[identity]\nmismatch = "forward"\n') as clinic:
        clinic.hear(order("M1", "NW", "1001", "T1"))
        clinic.send(new_uid(), BOB, AccessionNumber="A1001")
        assert clinic.states() == [("pending", "")]
        assert clinic.alerts()["patient-mismatch"] == "order"


def test_an_order_that_comes_late_holds_what_has_not_gone(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "9", "T9"))
    clinic.send(new_uid(), BOB, AccessionNumber="A1001")
    assert clinic.states() == [("pending", "")]
    clinic.hear(order("M2", "NW", "1001", "T1"))
    assert clinic.states() == [("held", "mismatch")]


def test_a_merge_that_comes_late_lets_go_what_it_explains(clinic: Clinic) -> None:
    """The order names C, the scanner still has A: held, until the merge says that they are one."""
    clinic.hear(order("M1", "NW", "1001", "T3"))
    clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    assert clinic.states() == [("held", "mismatch")]
    clinic.hear(merge("M2", "T1", "T2"))
    assert clinic.states() == [("held", "mismatch")]
    clinic.hear(merge("M3", "T2", "T3"))
    assert clinic.states() == [("pending", "")]
    assert clinic.woken == ["archive"]
    assert clinic.checks()[0][0] == "matched"


def test_cancelled_order_still_matches(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"), order("M2", "CA", "1001", "T1"))
    clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    assert clinic.checks() == [("matched", "", "order-cancelled")]
    assert clinic.states() == [("pending", "")]


def test_reused_accession_is_judged_by_the_patient(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"), order("M2", "NW", "1001", "T2"))
    clinic.send(new_uid(), BOB, AccessionNumber="A1001")
    assert clinic.checks() == [("matched", "", "accession-reused")]
    assert clinic.alerts()["accession-reused"] == "his"
    clinic.acknowledge("accession-reused")
    assert "accession-reused" not in clinic.alerts()


def test_notes_hold_nothing(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    odd = {"PatientID": "T 1", "PatientName": "ALICE", "PatientBirthDate": ""}
    clinic.send(new_uid(), odd)
    assert clinic.notes() == {"id-malformed", "name-malformed", "no-birth-date"}
    assert clinic.states() == [("pending", "")]


def test_same_procedure_twice_on_a_day_is_noted(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    for _ in range(2):
        clinic.send(new_uid(), ALICE, StudyDate="20260106", StudyDescription="CHEST")
    assert clinic.notes() == {"duplicate-exam"}


def test_an_animal_makes_no_alarm(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    rex = {"PatientID": "D1", "PatientName": "REX", "PatientBirthDate": "", "ResponsiblePerson": "TEST^OWNER"}
    clinic.send(new_uid(), rex, PatientSpeciesDescription="Canine")
    assert clinic.notes() == set()


def test_several_authorities_are_never_chosen_from(clinic: Clinic) -> None:
    other = update("M2", "T1", "TEST^OTHER").replace(b"MTF0067", b"OTHERHOSP")
    clinic.hear(order("M1", "NW", "1001", "T1"), other)
    number = clinic.send(new_uid(), ALICE, AccessionNumber="A1001")
    assert clinic.checks() == [("matched", "", "issuer-ambiguous")]
    with clinic.db.reading() as conn:
        assert todays_facts.read_today(conn, number).patient is None


# -- within a study ---------------------------------------------------------------------------------------------------


def test_two_patients_in_a_study_are_a_mismatch_until_they_are_merged(clinic: Clinic) -> None:
    study = new_uid()
    clinic.send(study, ALICE)
    clinic.send(study, BOB)
    assert clinic.states() == [("pending", ""), ("held", "mismatch")]
    clinic.hear(merge("M1", "T2", "T1"))
    assert clinic.states() == [("pending", ""), ("pending", "")]


def test_merged_numbers_agree_when_they_come(clinic: Clinic) -> None:
    clinic.hear(merge("M1", "T2", "T1"))
    study = new_uid()
    clinic.send(study, ALICE)
    clinic.send(study, BOB)
    assert clinic.states() == [("pending", ""), ("pending", "")]


def test_a_name_that_the_feed_has_said_is_the_same_patient(clinic: Clinic) -> None:
    """A study whose patient marries between two series; a name that nobody has said is a mismatch."""
    clinic.hear(update("M1", "T1", "TEST^ALICE"), update("M2", "T1", "MARRIED^ALICE"))
    study = new_uid()
    clinic.send(study, ALICE)
    clinic.send(study, {**ALICE, "PatientName": "MARRIED^ALICE"})
    clinic.send(study, {**ALICE, "PatientName": "STRANGE^ALICE"})
    assert clinic.states() == [("pending", ""), ("pending", ""), ("held", "mismatch")]


# -- decisions --------------------------------------------------------------------------------------------------------


def test_it_is_this_patient(clinic: Clinic) -> None:
    """Released, and leaves with the facts of the patient that a person named; those that come later as well."""
    clinic.hear(order("M1", "NW", "1001", "T1", name="TEST^ALICE"))
    study = new_uid()
    number = clinic.send(study, BOB, AccessionNumber="A1001")
    assert clinic.decide(study, "assign", patient="T1") == {"images": 1, "done": 1}
    assert clinic.states() == [("pending", "")]
    clinic.recheck()
    clinic.send(study, BOB, AccessionNumber="A1001")
    assert clinic.states() == [("pending", ""), ("pending", "")]
    with clinic.db.reading() as conn:
        found = todays_facts.read_today(conn, number)
    assert found.patient is not None
    assert (found.patient.patient_id, found.patient.name, found.assigned_at > 0) == ("T1", "TEST^ALICE", True)
    payload = clinic.one("SELECT payload FROM ledger WHERE event = 'overridden'")
    assert json.loads(payload)["decision"] == "assign"


def test_send_as_it_is(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    study = new_uid()
    clinic.send(study, BOB, AccessionNumber="A1001")
    assert clinic.decide(study, "as-is")["done"] == 1
    clinic.send(study, BOB, AccessionNumber="A1001")
    assert clinic.states() == [("pending", ""), ("pending", "")]
    assert "patient-mismatch" not in clinic.alerts()


def test_do_not_send(clinic: Clinic) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    study = new_uid()
    clinic.send(study, BOB, AccessionNumber="A1001")
    assert clinic.decide(study, "do-not-send") == {"images": 1, "done": 1}
    assert clinic.states() == [("cancelled", "cancelled")]


@pytest.mark.parametrize(
    ("decision", "fields", "why"),
    [
        ("assign", {"patient": "NOBODY"}, "no feed knows this Patient ID"),
        ("assign", {"patient": "T1", "authority": "ELSEWHERE"}, "no feed knows"),
        ("as-is", {"reason": " "}, "say why"),
        ("as-is", {"study_uid": "1.2.3"}, "no study 1.2.3"),
    ],
)
def test_decisions_that_cannot_be(clinic: Clinic, decision: str, fields: dict[str, str], why: str) -> None:
    clinic.hear(order("M1", "NW", "1001", "T1"))
    study = new_uid()
    clinic.send(study, BOB, AccessionNumber="A1001")
    with pytest.raises(EdgeError, match=why):
        clinic.decide(**{"study": study, "decision": decision, **fields})
    assert clinic.states() == [("held", "mismatch")]


# -- what messages change ----------------------------------------------------------------------------------------------


def test_a_message_with_several_pairs_is_applied_whole_or_not_at_all(clinic: Clinic) -> None:
    """The second pair would close a circle: the first is not merged either, and nothing is on record."""
    clinic.hear(update("M1", "T1", "TEST^ONE"), update("M2", "T5", "TEST^FIVE"))
    clinic.hear(merge("M3", "T2", "T3"), merge("M4", "T3", "T4"))
    before = clinic.one("SELECT count(*) FROM patient_event")
    pid = "PID|1||{}^^^MTF0067^MR||TEST^BOTH||19700101|F"
    clinic.hear(adt("A40", "M5", pid.format("T5"), "MRG|T1^^^MTF0067^MR", pid.format("T2"), "MRG|T4^^^MTF0067^MR"))
    assert clinic.one("SELECT state || ' ' || reason FROM hl7_message WHERE id = 5") == "parked merge-cycle"
    assert clinic.one("SELECT count(*) FROM known_patient WHERE survivor_id IS NOT NULL") == 2
    assert clinic.one("SELECT count(*) FROM patient_event") == before


def test_every_change_is_on_record_with_its_message_and_what_was_before(clinic: Clinic) -> None:
    clinic.hear(update("M1", "T1", "TEST^ONE"), update("M2", "T1", "TEST^TWO"), update("M3", "T1", "TEST^TWO"))
    clinic.hear(merge("M4", "T1", "T2"))
    sql = "SELECT message_id, kind, before, after FROM patient_event ORDER BY id"
    with clinic.db.reading() as conn:
        found = [(row[0], row[1], json.loads(row[2]), json.loads(row[3])) for row in conn.execute(sql)]
    assert [each[:2] for each in found] == [(1, "created"), (2, "updated"), (4, "created"), (4, "merged")]
    assert (found[1][2]["name"], found[1][3]["name"]) == ("TEST^ONE", "TEST^TWO")
    assert found[3][2:] == ({"patient": 1}, {"patient": 2})


@pytest.mark.parametrize("old", ["T1^^^MTF0067^MR~T2^^^MTF0067^MR", "T2^^^MTF0067^MR~T1^^^MTF0067^MR"])
def test_a_merge_may_name_numbers_that_were_merged_before(clinic: Clinic, old: str) -> None:
    """T1 is T2 already, and both become T3: whichever is named first."""
    clinic.hear(merge("M1", "T1", "T2"), merge("M2", "T2", "T3").replace(b"T2^^^MTF0067^MR", old.encode()))
    assert clinic.one("SELECT state FROM hl7_message WHERE id = 2") == "applied"
    sql = "SELECT count(DISTINCT coalesce(p.survivor_id, p.id)) FROM known_patient p"
    assert clinic.one(sql) == 1


# -- parked -----------------------------------------------------------------------------------------------------------


def parked(clinic: Clinic) -> list[tuple[int, str, str]]:
    sql = "SELECT id, state, reason FROM hl7_message WHERE id >= 3 ORDER BY id"
    with clinic.db.reading() as conn:
        return [tuple(row) for row in conn.execute(sql)]


@pytest.fixture
def circle(clinic: Clinic) -> Clinic:
    """Message 3 would close a circle; 4 and 5 wait behind it, 6 is of another patient."""
    clinic.hear(merge("M1", "T1", "T2"), merge("M2", "T2", "T3"), merge("M3", "T3", "T1"))
    clinic.hear(update("M4", "T1", "BEHIND^ONE"), update("M5", "T3", "BEHIND^TWO"), update("M6", "T9", "TEST^OTHER"))
    return clinic


def test_parked_with_all_later_messages_of_the_patient(circle: Clinic) -> None:
    assert parked(circle) == [
        (3, "parked", "merge-cycle"),
        (4, "parked", "behind-another"),
        (5, "parked", "behind-another"),
        (6, "applied", ""),
    ]
    assert circle.alerts()["hl7-parked"] == "messages"
    assert circle.snapshot().hl7.parked.count == 3


def test_discarded_and_those_behind_go_on_in_order(circle: Clinic) -> None:
    request = {"id": 3, "who": "anna", "reason": "a mistake"}
    assert CHANGES["hl7-discard"](circle.db, request)["state"] == "discarded"
    assert [each[1] for each in parked(circle)] == ["discarded", "unchanged", "applied", "applied"]
    assert circle.one("SELECT name FROM known_patient WHERE name LIKE 'BEHIND%'") == "BEHIND^TWO"
    assert circle.snapshot().hl7.parked.count == 0


def test_replayed_while_it_still_contradicts_it_stays(circle: Clinic) -> None:
    assert CHANGES["hl7-replay"](circle.db, {"id": 3, "who": "anna"}) == {
        "state": "parked", "reason": "merge-cycle", "behind": None,
    }  # fmt: skip
    assert [each[1] for each in parked(circle)] == ["parked", "parked", "parked", "applied"]


def test_replayed_once_the_contradiction_is_gone(clinic: Clinic) -> None:
    both = b"T1^^^MTF0067^MR~T2^^^MTF0067^MR"
    clinic.hear(update("M1", "T1", "TEST^ONE"), update("M2", "T2", "TEST^ONE"))
    clinic.hear(update("M3", "T1", "TEST^BOTH").replace(b"T1^^^MTF0067^MR", both), update("M4", "T1", "TEST^LAST"))
    assert [each[1:] for each in parked(clinic)] == [("parked", "identifier-in-use"), ("parked", "behind-another")]
    clinic.hear(merge("M5", "T2", "T1"))
    assert clinic.one("SELECT state FROM hl7_message WHERE id = 5") == "parked"  # it names T1
    CHANGES["hl7-discard"](clinic.db, {"id": 3, "who": "anna", "reason": "two numbers"})
    assert [each[1] for each in parked(clinic)] == ["discarded", "applied", "applied"]


def test_a_name_in_doubt_is_read_again(clinic: Clinic) -> None:
    """MSH-18 says UTF-8, the bytes are Latin-1: shown and not written out, until the site says what it is."""
    data = update("M1", "T1", "TEST^ONE").replace(b"|2.5.1\r", b"|2.5.1||||||UNICODE UTF-8\r")
    clinic.hear(data.replace(b"TEST^ONE", "MÜLLER^RENÉ".encode("latin-1")))
    number = clinic.send(new_uid(), {**ALICE, "PatientName": "MUELLER^RENE"})
    with clinic.db.reading() as conn:
        assert todays_facts.read_today(conn, number).patient.is_in_doubt  # type: ignore[union-attr]
    assert clinic.alerts()["charset-wrong"] == "his"
    CHANGES["hl7-replay"](clinic.db, {"id": 1, "who": "anna", "charsets": {"his": "8859/1"}})
    with clinic.db.reading() as conn:
        patient = todays_facts.read_today(conn, number).patient
    assert patient is not None
    assert (patient.name, patient.is_in_doubt) == ("MÜLLER^RENÉ", False)


def test_what_was_read_again_never_returns_over_a_newer_name(clinic: Clinic) -> None:
    data = update("M1", "T1", "TEST^ONE").replace(b"|2.5.1\r", b"|2.5.1||||||8859/99\r")
    clinic.hear(data.replace(b"TEST^ONE", "MÜLLER^RENÉ".encode("latin-1")), update("M2", "T1", "NEWER^NAME"))
    CHANGES["hl7-replay"](clinic.db, {"id": 1, "who": "anna", "charsets": {"his": "8859/1"}})
    assert clinic.one("SELECT name FROM known_patient") == "NEWER^NAME"


def test_each_name_that_is_read_again_is_its_own_patients(clinic: Clinic) -> None:
    """Several pairs in one A40, all in doubt: none gets the name of the first."""
    pairs = [("T1", "T2", "MÜLLER^RENÉ"), ("T3", "T4", "GRÜN^ANNE")]
    segments = [
        each
        for old, new, name in pairs
        for each in (f"PID|1||{new}^^^MTF0067^MR||{name}||19700101|F", f"MRG|{old}^^^MTF0067^MR")
    ]
    clinic.hear(adt("A40", "M1", *segments).decode().replace("|2.5.1\r", "|2.5.1||||||8859/99\r").encode("latin-1"))
    CHANGES["hl7-replay"](clinic.db, {"id": 1, "who": "anna", "charsets": {"his": "8859/1"}})
    sql = (
        "SELECT i.number, p.name, p.is_in_doubt FROM known_patient p JOIN patient_identifier i ON i.patient_key = p.id"
    )
    with clinic.db.reading() as conn:
        known = {row[0]: tuple(row)[1:] for row in conn.execute(sql)}
    assert (known["T2"], known["T4"]) == (("MÜLLER^RENÉ", 0), ("GRÜN^ANNE", 0))


def test_an_order_in_doubt_is_read_again(clinic: Clinic) -> None:
    data = order("M1", "NW", "1", "T1").replace(b"|2.3.1\r", b"|2.3.1||||||8859/99\r")
    clinic.hear(data.replace(b"TEST PROCEDURE", "SCHÄDEL".encode("latin-1")))
    assert clinic.one("SELECT is_in_doubt FROM imaging_order") == 1
    CHANGES["hl7-replay"](clinic.db, {"id": 1, "who": "anna", "charsets": {"his": "8859/1"}})
    assert clinic.one("SELECT procedure_text FROM imaging_order") == "SCHÄDEL"
    assert clinic.one("SELECT is_in_doubt FROM imaging_order") == 0


def test_those_that_waited_are_read_in_the_set_of_their_own_feed(clinic: Clinic) -> None:
    clinic.hear(merge("M1", "T1", "T2"), merge("M2", "T2", "T3"), merge("M3", "T3", "T1"))
    frame = Hl7Frame("ris", "10.10.9.6", time.time(), "MTF0067", "8859/2")
    for each in read_frame("other", frame, update("R1", "T3", "TEST").replace(b"TEST", "ŁĄKA^JAN".encode("iso8859-2"))):
        clinic.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]
    CHANGES["hl7-discard"](
        clinic.db, {"id": 3, "who": "anna", "reason": "a mistake", "charsets": {"his": "8859/1", "ris": "8859/2"}}
    )
    assert clinic.one("SELECT name FROM known_patient WHERE name LIKE '%JAN'") == "ŁĄKA^JAN"


def steps_of(number: str, control: str, *steps: str, study: str = "") -> bytes:
    """One order with several scheduled steps (IHE RAD-4): a pair of ORC and OBR each, and one ZDS behind them."""
    first, *rest = order(number, control, "1", "T1").decode().split("ORC|")
    pairs = ["ORC|" + rest[0].replace("SP1", step) for step in steps]
    return "".join([first, *pairs, f"ZDS|{study}^RIS^Application^DICOM\r" if study else ""]).encode()


def test_steps_of_one_order_have_the_study_that_is_named_behind_them(clinic: Clinic) -> None:
    study = new_uid()
    clinic.hear(steps_of("M1", "NW", "S1", "S2", study=study))
    with clinic.db.reading() as conn:
        found = {tuple(row) for row in conn.execute("SELECT step_id, study_uid FROM imaging_order")}
    assert found == {("S1", study), ("S2", study)}


def test_an_order_that_is_cancelled_without_a_step_is_cancelled_with_all_its_steps(clinic: Clinic) -> None:
    clinic.hear(steps_of("M1", "NW", "S1", "S2", "S3"), steps_of("M2", "CA", "S2"))
    sql = "SELECT step_id, status FROM imaging_order ORDER BY step_id"
    with clinic.db.reading() as conn:
        assert [tuple(row) for row in conn.execute(sql)] == [("S1", "open"), ("S2", "cancelled"), ("S3", "open")]
    clinic.hear(steps_of("M3", "CA", ""))
    with clinic.db.reading() as conn:
        assert {row["status"] for row in conn.execute(sql)} == {"cancelled"}
    assert clinic.one("SELECT count(*) FROM imaging_order") == 3


def test_of_several_orders_under_one_placer_number_that_of_the_filler_number_is_cancelled(clinic: Clinic) -> None:
    both = [steps_of(f"M{at}", "NW", f"S{at}").replace(b"F1", f"F{at}".encode()) for at in (1, 2)]
    clinic.hear(*both, steps_of("M3", "CA", "").replace(b"F1", b"F2"))
    sql = "SELECT filler_number, status FROM imaging_order ORDER BY filler_number"
    with clinic.db.reading() as conn:
        assert [tuple(row) for row in conn.execute(sql)] == [("F1", "open"), ("F2", "cancelled")]


# -- for people -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["A35", "A36", "A44", "A45"])
def test_an_account_that_moves_waits_for_a_person_where_images_are_here(clinic: Clinic, event: str) -> None:
    """Which orders and images go along, no message says; where there are none, it only goes on."""
    move = ("PID|1||T9^^^MTF0067^MR||TEST^NINE", "MRG|T1^^^MTF0067^MR||ACC1")
    clinic.hear(adt(event, "M1", *move))
    assert clinic.one("SELECT state FROM hl7_message") == "relay-only"
    clinic.send(new_uid(), ALICE)
    clinic.hear(adt(event, "M2", *move))
    assert clinic.one("SELECT state || ' ' || reason FROM hl7_message WHERE id = 2") == "parked account-moved"
    assert clinic.one("SELECT count(*) FROM patient_merge") == 0


def test_what_the_relays_are_owed(clinic: Clinic) -> None:
    """By type and feed; also what is parked here, for the archive judges for itself; never what was refused."""
    all_types, orders_alone, of_another = (
        Relay(name, "10.0.0.9", 2575, **more)
        for name, more in (("all", {}), ("orders", {"messages": ("ORM",)}), ("lab", {"feeds": ("lab",)}))
    )
    targets = {each.name: each for each in (all_types, orders_alone, of_another)}
    refused = adt("A08", "M5", "PID|1||||NOBODY")
    cycle = [merge(f"M{n}", old, new) for n, (old, new) in enumerate((("T1", "T2"), ("T2", "T3"), ("T3", "T1")))]
    for number, data in enumerate([*cycle, order("M4", "NW", "1001", "T7"), refused]):
        for each in read_frame(f"record{number}", Hl7Frame("his", "10.10.9.5", 1.0, "MTF0067"), data):
            clinic.db.write(lambda conn, each=each: enter_message(conn, each, targets))  # type: ignore[misc]
    with clinic.db.reading() as conn:
        owed = [tuple(row) for row in conn.execute("SELECT relay, message_id FROM hl7_relay ORDER BY relay, id")]
        states = [row[0] for row in conn.execute("SELECT state FROM hl7_message ORDER BY id")]
    assert states[2:] == ["parked", "applied", "refused"]
    assert owed == [("all", 1), ("all", 2), ("all", 3), ("all", 4), ("orders", 4)]


def test_commands(circle: Clinic) -> None:
    circle.hear(order("M7", "NW", "1001", "T9", "2.999.1"))
    circle.send("2.999.1", BOB)

    def run(*args: str) -> Any:
        done = CliRunner().invoke(cli, [*args, "--json", "--config", str(circle.directory)])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert [each["control_id"] for each in run("hl7", "list", "--state", "parked")] == ["M5", "M4", "M3"]
    assert {"control_id", "feed", "state"} <= run("hl7", "list")[0].keys()
    assert run("hl7", "show", "3")["segments"][2] == "MRG|T3^^^MTF0067^MR"
    (found,) = run("orders", "list")
    assert (found["accession"], found["patient_id"], found["patient_name"]) == ("A1001", "T9", "TEST^ORDER")
    assert [each["patient_id"] for each in run("orders", "differing")] == ["T2"]
    assert run("orders", "missing") == []
    circle.send(new_uid(), {"PatientID": "T8", "PatientName": "TEST^8"}, AccessionNumber="NONE")
    assert [each["patient_id"] for each in run("orders", "missing")] == ["T8"]
    heads = {}
    for which in ("differing", "missing"):
        text = CliRunner().invoke(cli, ["orders", which, "--config", str(circle.directory)], env={"COLUMNS": "200"})
        heads[which] = text.stdout.splitlines()[0]
    assert "order's ID" in heads["differing"]
    assert "order" not in heads["missing"]
    done = CliRunner().invoke(cli, ["hl7", "replay", "3", "4", "--config", str(circle.directory)])
    assert (done.exit_code, done.stdout.count("is still parked")) == (1, 2)
    text = CliRunner().invoke(cli, ["hl7", "list", "--config", str(circle.directory)]).stdout
    assert "its merge would make a circle" in text


def test_a_check_takes_as_long_among_many_orders_as_among_few(clinic: Clinic) -> None:
    """No look-up walks through patients or orders: the engine's steps are counted, of 50 patients and of 20,000."""
    clinic.hear(order("M1", "NW", "4", "P5"))
    clinic.send(new_uid(), {"PatientID": "P5", "PatientName": "TEST^5"}, AccessionNumber="A4")
    few = count_steps(clinic)
    clinic.db.write(lambda conn: add_orders(conn, 100, 20_000))
    assert count_steps(clinic) < 1.2 * few
    assert clinic.checks()[0][0] == "matched"


def add_orders(conn: Any, first: int, last: int) -> None:
    numbers = f"WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    conn.execute(f"INSERT INTO known_patient (id, name, changed_at) {numbers} SELECT i, 'TEST^' || i, 1.0 FROM n")
    columns = "(id, number, authority_id, patient_key)"
    conn.execute(f"INSERT INTO patient_identifier {columns} {numbers} SELECT i, 'N' || i, 1, i FROM n")
    conn.execute(
        "INSERT INTO imaging_order (patient_key, identifier_id, accession, issuer, placer_number, filler_number,"
        " study_uid, procedure_id, procedure_code, procedure_scheme, procedure_text, step_id, station_ae,"
        " station_name, modality, scheduled_at, priority, status, physician, referring_physician, feed, created_at,"
        f" changed_at) {numbers} SELECT i, i, 'B' || i, '', 'O' || i, '', '1.2.' || i, 'RP' || i, '', '', '', '', '',"
        " '', 'CT', '', 2, 'open', '', '', 'his', 1.0, 1.0 FROM n"
    )


def count_steps(clinic: Clinic) -> int:
    """Steps of the database's virtual machine for one check, in tens."""
    steps: list[int] = []

    def check(conn: Any) -> None:
        facts = conn.execute("SELECT max(id) FROM study_facts").fetchone()[0]
        conn.set_progress_handler(lambda: steps.append(10), 10)
        try:
            identity_checks.check_study_facts(conn, facts, 1.0)
        finally:
            conn.set_progress_handler(None, 0)

    clinic.db.write(check)
    return sum(steps)


def test_messages_are_forgotten_once_nobody_needs_them(circle: Clinic) -> None:
    """Bytes after a week, rows after 90 days; never what is parked, or what a parked message waits for."""
    now = time.time()
    circle.db.write(lambda conn: hl7_messages.forget_old_messages(conn, now + 8 * 86400.0))
    assert circle.one("SELECT count(*) FROM hl7_message WHERE body IS NOT NULL") == 3
    circle.db.write(lambda conn: hl7_messages.forget_old_messages(conn, now + 91 * 86400.0))
    assert circle.one("SELECT group_concat(id) FROM hl7_message") == "3,4,5"


def test_two_names_of_one_authority_become_one_once_a_message_has_both(tmp_path: Path) -> None:
    with Clinic(tmp_path, CONFIG) as clinic:
        clinic.hear(
            adt("A28", "1", "PID|1||N1^^^MTF^MR||TEST^ONE"), adt("A28", "2", "PID|1||N2^^^&1.2.3&ISO^MR||TEST^TWO")
        )
        assert clinic.one("SELECT count(*) FROM assigning_authority") == 2
        clinic.hear(adt("A28", "3", "PID|1||N3^^^MTF&1.2.3&ISO^MR||TEST^THREE"))
        assert clinic.one("SELECT count(*) FROM assigning_authority") == 1
        assert clinic.one("SELECT count(DISTINCT authority_id) FROM patient_identifier") == 1
        clinic.hear(adt("A40", "4", "PID|1||N1^^^MTF^MR||TEST^ONE", "MRG|N2^^^&1.2.3&ISO^MR"))
        assert clinic.one("SELECT survivor_id FROM known_patient WHERE name = 'TEST^TWO'") == 1


def test_a_number_of_both_names_keeps_them_two_authorities(tmp_path: Path) -> None:
    with Clinic(tmp_path, CONFIG) as clinic:
        clinic.hear(
            adt("A28", "1", "PID|1||N1^^^MTF^MR||TEST^ONE"), adt("A28", "2", "PID|1||N1^^^&1.2.3&ISO^MR||TEST^TWO")
        )
        clinic.hear(adt("A28", "3", "PID|1||N3^^^MTF&1.2.3&ISO^MR||TEST^THREE"))
        assert clinic.one("SELECT count(*) FROM known_patient WHERE survivor_id IS NULL") == 3
        assert clinic.one("SELECT count(*) FROM assigning_authority") == 2


@pytest.mark.parametrize(("switch", "state"), [("", ("pending", "")), ("hold_stat = true", ("held", "mismatch"))])
def test_a_stat_image_whose_order_comes_later_is_held_only_where_the_site_says_so(
    tmp_path: Path, switch: str, state: tuple[str, str]
) -> None:
    text = CONFIG.replace("[route.everything]", '[route.everything]\npriority = "stat"') + f"[identity]\n{switch}\n"
    with Clinic(tmp_path, text) as clinic:
        clinic.send(new_uid(), ALICE, AccessionNumber="A9")
        clinic.hear(update("1", "T1", "TEST^ALICE"), order("2", "NW", "9", "T2", name="TEST^BOB"))
        assert clinic.states() == [state]
