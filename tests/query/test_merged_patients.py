"""A patient is found by every number and name, and shown as the feeds say today: queries, lists, audit report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.intake.hl7_entry import enter_message, read_frame
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.messaging.audit.report import ReportRequest, report
from edge.query.catalog import CatalogSource
from edge.query.levels import Level, read_retrieval
from edge.store import assignments
from edge.store.audit_trail import studies_of_patient
from edge.store.imports import find_patients
from edge.store.orders import list_orders
from edge.store.patient_search import list_same_numbers
from edge.store.studies import Search, find_studies, latest_studies
from edge.store.waiting import study_facts
from tests.query.test_catalog_answers import find, identifier, texts
from tests.support.filled import CONFIG, Filled
from tests.support.hl7 import adt, merge, order, update


def hear(filled: Filled, *messages: bytes) -> None:
    for number, data in enumerate(messages):
        frame = Hl7Frame("his", "10.10.9.5", time.time(), "MTF0067")
        for each in read_frame(f"record{time.time_ns()}{number}", frame, data):
            filled.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Studies under A, B and C, which are one patient today; X of two authorities; a study that a person assigned."""
    with Filled(tmp_path_factory.mktemp("merged"), CONFIG) as made:
        for number, accession in (("PAT-A", "S1"), ("PAT-B", "S2"), ("PAT-C", "S3"), ("PAT-X", "S4"), ("WRONG", "S5")):
            made.receive(2, PatientID=number, PatientName=f"OLD^{number}", AccessionNumber=accession)
        made.receive(1, PatientID="PAT-B", IssuerOfPatientID="OTHER", PatientName="ELSE^SOMEBODY", AccessionNumber="S6")
        names = {"PAT-A": "OLD^PAT-A", "PAT-B": "OLD^PAT-B", "PAT-C": "OLD^PAT-C", "PAT-X": "OLD^PAT-X"}
        hear(made, *(update(f"u{number}", number, name) for number, name in names.items()))
        hear(made, adt("A08", "other", "PID|1||PAT-X^^^OTHER^MR||OTHER^X||19800101|M"))
        other_y = "PID|1||PAT-Y^^^OTHER^MR||OTHER^X||19800101|M"
        hear(made, adt("A08", "y", other_y), adt("A40", "xy", other_y, "MRG|PAT-X^^^OTHER^MR"))
        hear(made, merge("m1", "PAT-A", "PAT-B"), merge("m2", "PAT-B", "PAT-C"), update("u9", "PAT-C", "MARRIED^NAME"))

        def decide(conn: Any) -> None:
            ((identifier_id, _),) = assignments.find_identifiers(conn, "PAT-C", "MTF0067")
            (study,) = conn.execute("SELECT study_id FROM study_facts WHERE accession = 'S5'").fetchone()
            assignments.assign(conn, study, identifier_id, "anna", "wrong number at the scanner", time.time())

        made.db.write(decide)
        same = {"StudyInstanceUID": TWICE, "PatientID": "PAT-D", "PatientName": "NAME^D"}
        same |= {"PatientBirthDate": "19700101", "PatientSex": "F"}
        made.receive(1, **same)
        made.receive(1, IssuerOfPatientID="MTF0067", **same)
        hear(made, update("d", "PAT-D", "NAME^D"))
        yield made


ALL = ["S1", "S2", "S3", "S5"]
TWICE = "1.2.826.0.1.3680043.8.498.5"  # a study whose images spell their patient in two ways


@pytest.mark.parametrize("number", ["PAT-A", "PAT-B", "PAT-C"])
def test_a_query_finds_all_studies_by_each_number_and_answers_the_patient_of_today(filled: Filled, number: str) -> None:
    answers = find(filled, "STUDY", PatientID=number, PatientName="", AccessionNumber="", IssuerOfPatientID="")
    ours = [each for each in texts(answers, "AccessionNumber", "PatientID", "PatientName") if each[0] != "S6"]
    assert ours == [(each, "PAT-C", "MARRIED^NAME") for each in ALL]
    others = texts(answers, "AccessionNumber", "PatientID", "PatientName")
    assert [each for each in others if each[0] == "S6"] == ([("S6", "PAT-B", "ELSE^SOMEBODY")] * (number == "PAT-B"))


def test_the_patient_is_one_answer_with_the_studies_of_all_numbers(filled: Filled) -> None:
    answers = find(filled, "PATIENT", PatientID="PAT-A", PatientName="", NumberOfPatientRelatedStudies="")
    keywords = ("PatientID", "PatientName", "NumberOfPatientRelatedStudies")
    assert texts(answers, *keywords) == [("PAT-C", "MARRIED^NAME", "4")]


@pytest.mark.parametrize("name", ["MARRIED^NAME", "married*", "*NAME"])
def test_a_query_by_the_name_of_today_finds_what_came_under_the_old_one(filled: Filled, name: str) -> None:
    answers = find(filled, "STUDY", PatientName=name, AccessionNumber="")
    assert [each[0] for each in texts(answers, "AccessionNumber")] == ALL
    assert not find(filled, "STUDY", PatientName="OLD^PAT-A")


@pytest.mark.parametrize(
    "keys", [{"PatientBirthDate": "19991231"}, {"PatientBirthDate": "19990101-", "PatientSex": "M"}]
)
def test_a_query_by_birth_date_and_sex_of_today_finds_what_says_otherwise(filled: Filled, keys: dict[str, str]) -> None:
    """Also a study that a person assigned to the patient, whose images name another."""
    hear(filled, adt("A08", "born", "PID|1||PAT-C^^^MTF0067^MR||MARRIED^NAME||19991231|M"))
    answers = find(filled, "STUDY", AccessionNumber="", **keys)
    assert [each[0] for each in texts(answers, "AccessionNumber")] == ALL


def test_a_number_of_two_authorities_is_never_chosen(filled: Filled) -> None:
    answers = find(filled, "STUDY", PatientID="PAT-X", PatientName="", IssuerOfPatientID="", AccessionNumber="")
    assert texts(answers, "PatientName", "IssuerOfPatientID", "AccessionNumber") == [("OLD^PAT-X", "", "S4")]
    assert find(filled, "STUDY", PatientID="PAT-Y") == []  # which was merged from PAT-X of one of them


def test_a_retrieval_by_a_merged_number_wants_the_images_of_all(filled: Filled) -> None:
    question = read_retrieval(identifier("PATIENT", PatientID="PAT-A"), Level.PATIENT, is_relational=False)
    wanted = [row for row in CatalogSource(filled.db.reading).locate(question) if row is not None]
    assert len(wanted) == 8
    assert all(is_outdated for _, is_outdated in wanted)


def test_of_a_study_those_images_alone_are_corrected_that_say_otherwise(filled: Filled) -> None:
    question = read_retrieval(identifier("STUDY", StudyInstanceUID=TWICE), Level.STUDY, is_relational=False)
    found = [each for each in CatalogSource(filled.db.reading).locate(question) if each is not None]
    sql = "SELECT p.issuer FROM series r JOIN study_facts f ON f.id = r.study_facts_id"
    sql += " JOIN patient p ON p.id = f.patient_key WHERE r.id = ?"
    issuers = [(filled.one(sql, row["row_id"]), is_outdated) for row, is_outdated in found]
    assert sorted(issuers) == [("", True), ("MTF0067", False)]


@pytest.mark.parametrize("number", ["PAT-A", "pat-b", "PAT-C"])
def test_lists_of_studies_find_them_by_each_number_and_the_name_of_today(filled: Filled, number: str) -> None:
    with filled.db.reading() as conn:
        for found in (
            latest_studies(conn, number, 0.0).read(),
            find_studies(conn, Search(patient_id=number)).read(),
            find_studies(conn, Search(patient_name="married name")).read(),
            find_studies(conn, Search(patient_id=number, patient_name="MARRIED")).read(),
        ):
            assert [each.accession for each in sorted(found, key=lambda each: each.accession)][:4] == ALL


def test_a_list_of_studies_shows_the_patient_of_today_beside_what_the_images_say(filled: Filled) -> None:
    with filled.db.reading() as conn:
        found = {each.accession: each.patient_today for each in latest_studies(conn, "", 0.0).read()}
    assert found["S1"] == {"PatientID": "PAT-C", "PatientName": "MARRIED^NAME"}
    assert found["S3"] == {"PatientName": "MARRIED^NAME"}
    assert found["S5"] == {"PatientID": "PAT-C", "PatientName": "MARRIED^NAME"}  # a person's decision
    assert found["S4"] == found["S6"] == {}  # of two authorities; of one that no feed is of
    with filled.db.reading() as conn:
        numbers = [row[0] for row in conn.execute("SELECT id FROM study")]
        queued = {each.accession: each.patient_today for each in study_facts(conn, numbers, counts=True).values()}
    assert queued == found


@pytest.mark.parametrize("number", ["PAT-A", "PAT-C"])
def test_the_audit_report_of_a_patient_has_the_studies_of_every_number(filled: Filled, number: str) -> None:
    with filled.db.reading() as conn:
        numbers = list_same_numbers(conn, [number])
        chosen = studies_of_patient(conn, [number], None)
        lines = list(report(conn, ReportRequest(numbers), chosen))
    assert {"PAT-A", "PAT-B", "PAT-C"} <= {each.patient_id for each in lines}
    assert len(chosen) >= 4


@pytest.mark.parametrize("text", ["GROSS^ÄNNE", "groß änne", "Groß^Änne", "ß Ä"])
def test_people_find_orders_and_patients_by_a_name_however_they_write_it(tmp_path: Path, text: str) -> None:
    with Filled(tmp_path, CONFIG) as made:
        message = order("o1", "NW", "77", "G1", name="Groß^Änne")
        hear(made, message.replace(b"|2.3.1", b"|2.3.1||||||UNICODE UTF-8"))
        with made.db.reading() as conn:
            assert [each.accession for each in list_orders(conn, text=text).read()] == ["A77"]
            assert [each.patient_id for each in find_patients(conn, text)] == ["G1"]
            assert list_orders(conn, text="G%").count() == 0
