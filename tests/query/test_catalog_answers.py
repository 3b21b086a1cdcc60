"""What the catalog answers: each level, what an index finds, and that nothing odd is shown as the study."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.dicom.items import Attributes, item
from edge.query import levels
from edge.query.catalog import CatalogSource, lookup_of
from edge.query.levels import Level, QueryRefused, read_question, read_retrieval, tag_of
from edge.query.matching import PLAIN_RULES
from edge.query.unapplied import Overlay
from edge.store.queried import HERE_AND_THERE, list_studies_before
from tests.support.filled import CONFIG, Filled
from tests.support.objects import new_uid


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with Filled(tmp_path_factory.mktemp("filled"), CONFIG) as found:
        doe = {"PatientName": "Doe^Jane", "PatientID": "P1", "AccessionNumber": "A1", "StudyTime": "101500"}
        study = new_uid()
        found.receive(2, StudyInstanceUID=study, StudyDate="20261128", Modality="CT", **doe)
        found.receive(1, StudyInstanceUID=study, StudyDate="20261128", Modality="SR", **doe)
        found.receive(3, StudyDate="20251128", Modality="MR", **{**doe, "AccessionNumber": "A2"})
        anne = {"PatientName": "Müller^Änne", "PatientID": "P2", "PatientSex": "F", "PatientBirthDate": "19600501"}
        found.receive(1, StudyDate="20261101", AccessionNumber="A3", ReferringPhysicianName="Rübezahl^Dr", **anne)
        yield found


def identifier(level: str, **keys: Any) -> Attributes:
    return item({0x00080052: level, **{tag_of(keyword): value for keyword, value in keys.items()}})


def find(filled: Filled, level: str, *, relational: bool = True, **keys: Any) -> list[Attributes]:
    question = read_question(identifier(level, **keys), Level.PATIENT, is_relational=relational)
    found = CatalogSource(filled.db.reading).find(question, PLAIN_RULES)
    return [each.attributes for each in found if each is not None]


def texts(answers: list[Attributes], *keywords: str) -> list[tuple[str, ...]]:
    return sorted(tuple(each.text(tag_of(keyword)) for keyword in keywords) for each in answers)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["A1", "A2", "A3"]),
        ({"PatientName": "doe^jane"}, ["A1", "A2"]),
        ({"PatientName": "DOE*"}, ["A1", "A2"]),
        ({"PatientName": "*jane"}, ["A1", "A2"]),
        ({"PatientName": "muller^a*"}, ["A3"]),
        ({"PatientName": "müller*"}, ["A3"]),
        ({"PatientID": "p*"}, []),
        ({"PatientID": "P1"}, ["A1", "A2"]),
        ({"PatientID": "P1\\P2"}, ["A1", "A2", "A3"]),
        ({"AccessionNumber": "A3"}, ["A3"]),
        ({"AccessionNumber": "A?"}, ["A1", "A2", "A3"]),
        ({"StudyDate": "20261101-20261130"}, ["A1", "A3"]),
        ({"StudyDate": "-20260101"}, ["A2"]),
        ({"StudyDate": "20261101-20261130", "StudyTime": "101500.000"}, ["A1", "A3"]),
        ({"StudyTime": "1016-"}, []),
        ({"ModalitiesInStudy": "MR"}, ["A2"]),
        ({"ModalitiesInStudy": "MR\\SR"}, ["A1", "A2"]),
        ({"NumberOfStudyRelatedInstances": "3"}, ["A1", "A2"]),
        ({"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.2"}, ["A1", "A2", "A3"]),
        ({"StudyDescription": '""'}, ["A1", "A2", "A3"]),
        ({"PatientID": "*2"}, ["A3"]),
        ({"AccessionNumber": "*2"}, ["A2"]),
        ({"StudyID": "1"}, ["A1", "A2", "A3"]),
        ({"StudyID": "?7"}, []),
        ({"StudyTime": "1015"}, ["A1", "A2", "A3"]),
        ({"StudyTime": "09-1014"}, []),
        ({"StudyTime": "-11"}, ["A1", "A2", "A3"]),
        ({"PatientSex": "F"}, ["A3"]),
        ({"PatientSex": "F\\O"}, ["A1", "A2", "A3"]),
        ({"PatientBirthDate": "1970-", "PatientSex": "F"}, []),
        ({"PatientBirthDate": "19600101-19651231"}, ["A3"]),
        ({"PatientBirthDate": "1960.05.01"}, ["A3"]),
        ({"ReferringPhysicianName": "*rube*"}, ["A3"]),
        ({"ReferringPhysicianName": "rübezahl^*"}, ["A3"]),
        ({"ReferringPhysicianName": "nobody"}, []),
    ],
)
def test_studies_by_their_keys(filled: Filled, keys: dict[str, str], expected: list[str]) -> None:
    assert [row[0] for row in texts(find(filled, "STUDY", **keys), "AccessionNumber")] == expected


@pytest.mark.parametrize(("level", "unique"), [("STUDY", "StudyInstanceUID"), ("IMAGE", "SOPInstanceUID")])
def test_a_list_of_a_thousand_uids(filled: Filled, level: str, unique: str) -> None:
    column = "s.study_uid" if level == "STUDY" else "i.sop_instance_uid"
    known = filled.one(f"SELECT {column} FROM instance i JOIN study s ON s.id = i.study_id ORDER BY i.id DESC LIMIT 1")
    listed = "\\".join([*(new_uid() for _ in range(999)), known])
    assert texts(find(filled, level, **{unique: listed}), unique) == [(known,)]


def test_what_nothing_narrows_is_refused_in_words_once_it_has_found_nothing_for_long(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.query.catalog.MOST_FRUITLESS", 2)
    with pytest.raises(QueryRefused) as refused:
        find(filled, "STUDY", PatientComments="nobody says so")
    assert refused.value.status == 0xA700
    assert len(refused.value.comment) <= 64
    assert find(filled, "STUDY", PatientSex="X") == [], "what is narrowed is examined to its end"
    assert len(find(filled, "STUDY")) == 3


def test_counts_and_modalities_of_a_study(filled: Filled) -> None:
    keywords = ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy")
    answers = find(filled, "STUDY", AccessionNumber="A1", **dict.fromkeys(keywords, ""))
    assert texts(answers, *keywords) == [("2", "3", "CT\\SR")]


def test_patients_are_answered_once_with_their_counts(filled: Filled) -> None:
    keywords = ("PatientID", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances")
    answers = find(filled, "PATIENT", **dict.fromkeys(keywords, ""))
    assert texts(answers, *keywords) == [("P1", "2", "6"), ("P2", "1", "1")]


def test_series_and_instances_of_a_study(filled: Filled) -> None:
    (study,) = find(filled, "STUDY", AccessionNumber="A1")
    uid = study.text(tag_of("StudyInstanceUID"))
    series = find(filled, "SERIES", StudyInstanceUID=uid, NumberOfSeriesRelatedInstances="")
    assert texts(series, "Modality", "NumberOfSeriesRelatedInstances") == [("CT", "2"), ("SR", "1")]
    assert texts(find(filled, "SERIES", StudyInstanceUID=uid, Modality="SR"), "PatientID", "Modality") == [("P1", "SR")]
    images = find(filled, "IMAGE", StudyInstanceUID=uid)
    assert len(images) == 3
    assert {each.text(tag_of("AvailableTransferSyntaxUID")) for each in images} == {"1.2.840.10008.1.2.1"}
    one = images[0].text(tag_of("SOPInstanceUID"))
    assert len(find(filled, "IMAGE", SOPInstanceUID=one)) == 1


@pytest.mark.parametrize("state", ["quarantined", "conflict", "discarded"])
def test_what_is_not_the_study_is_not_answered(tmp_path: Path, state: str) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(2)
        filled.execute(f"UPDATE instance SET state = '{state}' WHERE id = 1")
        counted = find(filled, "STUDY", NumberOfStudyRelatedInstances="")
        assert texts(counted, "NumberOfStudyRelatedInstances") == [("1",)]
        filled.execute(f"UPDATE instance SET state = '{state}'")
        for level in ("PATIENT", "STUDY", "SERIES", "IMAGE"):
            assert find(filled, level) == [], level


def test_another_patients_image_is_never_shown_as_the_studys(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        uid = new_uid()
        filled.receive(2, StudyInstanceUID=uid, PatientID="P1", PatientName="Doe^Jane")
        filled.receive(1, StudyInstanceUID=uid, PatientID="P9", PatientName="Roe^Richard", PatientBirthDate="19500101")
        counted = find(filled, "STUDY", PatientID="", NumberOfStudyRelatedInstances="")
        assert texts(counted, "PatientID", "NumberOfStudyRelatedInstances") == [("P1", "2")]
        assert find(filled, "STUDY", PatientID="P9") == []
        assert texts(find(filled, "PATIENT"), "PatientID") == [("P1",)]


def test_what_was_evicted_counts_where_an_archive_has_it(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(3)
        filled.execute("UPDATE instance SET state = 'evicted' WHERE id < 3")
        question = read_question(
            identifier("STUDY", NumberOfStudyRelatedInstances=""), Level.STUDY, is_relational=False
        )
        source = CatalogSource(filled.db.reading, HERE_AND_THERE, ("VNA",))
        (found,) = [each for each in source.find(question, PLAIN_RULES) if each is not None]
        assert found.attributes.text(tag_of("NumberOfStudyRelatedInstances")) == "3"
        assert (found.is_here, found.retrieve_from) == (False, ("VNA",))


@pytest.mark.parametrize(
    ("level", "keys", "top"),
    [
        ("", {}, Level.STUDY),
        ("study", {}, Level.STUDY),
        ("PATIENT", {}, Level.STUDY),
        ("SERIES", {}, Level.STUDY),
        ("SERIES", {"StudyInstanceUID": ""}, Level.STUDY),
        ("SERIES", {"StudyInstanceUID": "*"}, Level.STUDY),
        ("IMAGE", {"StudyInstanceUID": "1.2"}, Level.STUDY),
        ("STUDY", {"PatientID": ""}, Level.PATIENT),
        ("SERIES", {"StudyInstanceUID": "1.2"}, Level.PATIENT),
    ],
)
def test_an_identifier_without_its_levels_keys_is_refused(level: str, keys: dict[str, str], top: Level) -> None:
    with pytest.raises(QueryRefused) as caught:
        read_question(identifier(level, **keys), top, is_relational=False)
    assert caught.value.status == levels.IDENTIFIER_DOES_NOT_MATCH


def test_what_is_not_known_is_returned_empty_and_said(filled: Filled) -> None:
    question = read_question(identifier("STUDY", Modality="CT", SeriesDescription=""), Level.STUDY, is_relational=False)
    assert set(question.unknown) == {tag_of("Modality"), tag_of("SeriesDescription")}


def test_a_retrieval_names_what_it_wants() -> None:
    with pytest.raises(QueryRefused):
        read_retrieval(identifier("STUDY", StudyInstanceUID=""), Level.STUDY, is_relational=False)
    question = read_retrieval(
        identifier("SERIES", StudyInstanceUID="1.2", SeriesInstanceUID="1.3\\1.4", Modality="CT"),
        Level.STUDY,
        is_relational=False,
    )
    assert set(question.keys) == {tag_of("StudyInstanceUID"), tag_of("SeriesInstanceUID")}


def test_the_best_index_is_chosen() -> None:
    def lookup(**keys: str) -> Any:
        return lookup_of(read_question(identifier("STUDY", **keys), Level.STUDY, is_relational=True))

    assert lookup(PatientID="P1").patient_ids == ("P1",)
    assert lookup(PatientID="P*").patient_ids is None
    assert lookup(PatientName="Müller^A*").name_part == "muller^a"
    assert lookup(PatientName="Doe^J*").name_prefix == "doe^j"
    assert lookup(PatientName="*oe^J*").name_prefix == ""
    assert lookup(PatientName="山田*").name_part == "山田"
    assert lookup(StudyDescription="*orax*").texts == (("StudyDescription", "orax"),)
    assert lookup(StudyDescription='""').texts == ()
    assert lookup(StudyDate="20261101-").dates == ("20261101", "99991231")


def test_each_question_is_asked_of_a_catalog_in_memory_as_well() -> None:
    """What is answered and not applied yet is read from one."""
    keys = {"PatientSex": "F", "PatientBirthDate": "19600501", "StudyTime": "10", "ReferringPhysicianName": "*rube*"}
    question = read_question(identifier("STUDY", **keys), Level.PATIENT, is_relational=True)
    with Overlay().reading() as conn:
        assert list_studies_before(conn, lookup_of(question), 1 << 62) == (array("q"), 0)
        assert conn.execute("SELECT lower('ÄRZTE^HÄNS')").fetchone()[0] == "ärzte^häns"


@pytest.mark.parametrize(
    ("dates", "count"), [("20261103", 1), ("20261101-20261130", 1), ("-20261102", 0), ("20261104-", 0)]
)
def test_a_study_is_found_by_a_date_as_acr_nema_wrote_it(tmp_path: Path, dates: str, count: int) -> None:
    with Filled(tmp_path, CONFIG) as made:
        made.receive(1)
        made.execute("UPDATE study_facts SET study_date = '2026.11.03'")
        assert len(find(made, "STUDY", StudyDate=dates)) == count
