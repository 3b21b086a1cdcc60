"""What a result gets back that comes from a destination of de-identified copies: who it is of, and each UID."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import Shortage
from edge.storage.backfill import Backfill
from edge.store.returned import read_identity
from edge.transform.confidentiality import Deidentification
from tests.support.filled import Filled

PROJECT = Deidentification("T17", b"0123456789abcdef0123456789abcdef")
FRAME, CLOCK = "1.2.826.0.1.999.7", "1.2.826.0.1.999.8"  # of reference, of synchronization
DOE = {"PatientID": "P1", "PatientName": "Doe^Jane"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A study, an earlier one of the same patient, and one of another, which all went to one project."""
    with Filled(tmp_path_factory.mktemp("returned")) as made:
        made.receive(1, **DOE, StudyInstanceUID="1.2.3.1")
        made.receive(2, **DOE, StudyInstanceUID="1.2.3.2", AccessionNumber="A2", FrameOfReferenceUID=FRAME)
        made.receive(
            1, **DOE, StudyInstanceUID="1.2.3.2", AccessionNumber="A2", SynchronizationFrameOfReferenceUID=CLOCK
        )
        made.receive(1, PatientID="P2", StudyInstanceUID="1.2.3.9")
        made.db.write(note_ways_back)
        backfill = Backfill(made.db, made.intake)
        while backfill.step():
            pass
        yield made


def uids(conn: Any, study_uid: str = "") -> list[tuple[str, str, str]]:
    sql = "SELECT i.sop_instance_uid, i.series_uid, s.study_uid FROM instance i JOIN study s ON s.id = i.study_id"
    return [tuple(row) for row in conn.execute(f"{sql} WHERE ? IN ('', s.study_uid)", (study_uid,))]


def note_ways_back(conn: Any) -> None:
    for instance, series, study in uids(conn):
        sent = [PROJECT.map_uid(each) for each in (instance, study, series)]
        row = ("teaching", sent[0], sent[1], instance, study, series, sent[2])
        conn.execute("INSERT INTO deidentified_instance VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def test_every_uid_of_the_study_and_of_the_patients_others_comes_back(filled: Filled) -> None:
    with filled.db.reading() as conn:
        found = read_identity(conn, {"other": None, "teaching": PROJECT.map_uid}, PROJECT.map_uid("1.2.3.2"))
        own, earlier, strange = (
            {uid for row in uids(conn, study) for uid in row} for study in ("1.2.3.2", "1.2.3.1", "1.2.3.9")
        )
    assert found is not None
    assert (found.study_uid, found.attributes["PatientID"], found.attributes["AccessionNumber"]) == (
        "1.2.3.2",
        "P1",
        "A2",
    )
    assert {FRAME, CLOCK} | own | earlier <= set(found.uids.values())
    assert not strange & set(found.uids.values())
    assert all(PROJECT.map_uid(received) == sent for sent, received in found.uids.items())


def test_without_the_key_the_study_alone_comes_back(filled: Filled) -> None:
    with filled.db.reading() as conn:
        found = read_identity(conn, {"teaching": None}, PROJECT.map_uid("1.2.3.2"))
        own = {uid for row in uids(conn, "1.2.3.2") for uid in row}
    assert found is not None
    assert set(found.uids.values()) == own


@pytest.mark.parametrize(("destination", "study"), [("teaching", "1.2.3.4"), ("other", "1.2.3.2")])
def test_of_what_was_not_sent_there_nothing_comes_back(filled: Filled, destination: str, study: str) -> None:
    with filled.db.reading() as conn:
        assert read_identity(conn, {destination: PROJECT.map_uid}, PROJECT.map_uid(study)) is None


def test_a_study_whose_headers_are_not_read_yet_is_waited_for(tmp_path: Path) -> None:
    with Filled(tmp_path) as made:
        made.receive(1, **DOE, StudyInstanceUID="1.2.3.2")
        made.db.write(note_ways_back)
        with made.db.reading() as conn, pytest.raises(Shortage, match="not read yet"):
            read_identity(conn, {"teaching": PROJECT.map_uid}, PROJECT.map_uid("1.2.3.2"))
