"""C-FIND as findscu and pynetdicom ask: the table of real peers, statuses, cancel, bounds, what is not applied yet."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as FIND,
)

from edge.dicom.dialogue import Deadline, Dialogue
from edge.errors import PeerError
from edge.query.asking import AnswerBatch
from edge.scp.services.find import serve_find
from tests.support.gateway import CONFIG, Receiving
from tests.support.many_studies import fill_catalog
from tests.support.objects import ct_files, new_uid
from tests.support.peers import storescu, wait_until
from tests.support.querying import QUERY, final_status, find, statuses
from tests.wire.test_dialogue import REQUEST, dialogue_with


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    tmp_path = tmp_path_factory.mktemp("edge")
    with Receiving(tmp_path, CONFIG + QUERY) as receiving:
        doe = {"PatientName": "Doe^Jane", "PatientID": "P1", "StudyTime": "101500", "AccessionNumber": "A1"}
        greek = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Παππά^Άννα", "PatientID": "P2"}
        study = new_uid()
        for number, more in enumerate(
            [
                {"StudyInstanceUID": study, **doe},
                {"StudyInstanceUID": study, **doe, "Modality": "CT", "SeriesDescription": "Thin"},
                {**greek, "StudyDate": "20251128", "AccessionNumber": "A2"},
            ]
        ):
            storescu(ct_files(tmp_path / f"made{number}", 2, 2048, **more), receiving.port)
        receiving.settle()
        yield receiving


def texts(answers: list[Dataset], keyword: str) -> list[str]:
    return sorted(str(each.get(keyword, "")) for each in answers)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["PatientName=doe^jane"], ["A1"]),
        (["PatientName=DOE*"], ["A1"]),
        (["PatientID=p*"], []),
        (["PatientID=P*"], ["A1", "A2"]),
        (["StudyTime=101500.000", "PatientID=P1"], ["A1"]),
        (["ModalitiesInStudy=MR"], []),
        (["ModalitiesInStudy=MR\\CT"], ["A1", "A2"]),
        (["StudyDate=20260101-20260201"], ["A1"]),
        (["StudyDate=-20251231"], ["A2"]),
        (['StudyDescription=""', "PatientID=P1"], ["A1"]),
        (["SpecificCharacterSet=ISO_IR 100", "PatientName=?????^????"], ["A2"]),
    ],
)
def test_the_table_of_what_real_peers_disagree_on(
    edge: Receiving, tmp_path: Path, keys: list[str], expected: list[str]
) -> None:
    answers, said = find(tmp_path / "out", edge.port, "STUDY", "AccessionNumber", *keys)
    assert texts(answers, "AccessionNumber") == expected
    assert final_status(said) == "0000"


@pytest.mark.parametrize(
    ("level", "root", "keys"),
    [
        ("SERIES", "-S", []),
        ("IMAGE", "-S", ["StudyInstanceUID=1.2.3"]),
        ("PATIENT", "-S", []),
        ("", "-S", ["PatientID"]),
        ("STUDY", "-P", ["PatientID"]),
    ],
)
def test_what_lacks_its_levels_keys_is_a900(edge: Receiving, tmp_path: Path, level: str, root: str, keys: list) -> None:
    answers, said = find(tmp_path / "out", edge.port, level, *keys, root=root)
    assert (answers, final_status(said)) == ([], "a900")


def test_all_levels_with_counts(edge: Receiving, tmp_path: Path) -> None:
    related = ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy"]
    (study,), _ = find(tmp_path / "out", edge.port, "STUDY", "PatientID=P1", "StudyInstanceUID", *related)
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 4)
    assert (study.RetrieveAETitle, study.InstanceAvailability) == ("EDGE", "ONLINE")
    uid = f"StudyInstanceUID={study.StudyInstanceUID}"
    series, _ = find(tmp_path / "out", edge.port, "SERIES", uid, "SeriesInstanceUID", "NumberOfSeriesRelatedInstances")
    assert [each.NumberOfSeriesRelatedInstances for each in series] == [2, 2]
    within = [uid, f"SeriesInstanceUID={series[0].SeriesInstanceUID}"]
    images, _ = find(tmp_path / "out", edge.port, "IMAGE", *within, "SOPInstanceUID", "SOPClassUID")
    assert len({each.SOPInstanceUID for each in images}) == 2
    counted = ["NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances"]
    patients, _ = find(tmp_path / "out", edge.port, "PATIENT", "PatientID", *counted, root="-P")
    assert sorted((each.PatientID, each.NumberOfPatientRelatedInstances) for each in patients) == [("P1", 4), ("P2", 2)]


def test_letters_come_in_a_character_set_that_has_them(edge: Receiving, tmp_path: Path) -> None:
    (study,), _ = find(tmp_path / "out", edge.port, "STUDY", "PatientID=P2", "PatientName")
    assert (study.SpecificCharacterSet, str(study.PatientName)) == ("ISO_IR 192", "Παππά^Άννα")


def test_a_key_that_is_not_known_is_empty_and_ff01(edge: Receiving, tmp_path: Path) -> None:
    (study,), said = find(tmp_path / "out", edge.port, "STUDY", "PatientID=P1", "PerformingPhysicianName=X")
    assert str(study.get("PerformingPhysicianName", "?")) == ""
    assert statuses(said) == ["ff01", "0000"]


def test_a_word_that_opens_nothing_without_the_table(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + QUERY.replace("[query]\n", "")) as edge:
        _, said = find(tmp_path / "out", edge.port, "STUDY", "PatientID=P1")
        assert "No Acceptable Presentation Contexts" in said


PATIENT_STUDY_ONLY = "1.2.840.10008.5.1.4.1.2.3.1"


def associate(edge: Receiving, extended: bytes = b"") -> Any:
    ae = AE("VIEWER")
    items = []
    for sop_class in (FIND, PATIENT_STUDY_ONLY) if extended else (FIND,):
        ae.add_requested_context(sop_class, "1.2.840.10008.1.2")
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = sop_class, extended
        items += [item] if extended else []
    association = ae.associate("127.0.0.1", edge.port, ext_neg=items)
    assert association.is_established
    return association


def test_extended_negotiation_is_answered_and_opens_relational_queries(edge: Receiving) -> None:
    association = associate(edge, b"\1\1\1\1")
    assert association.acceptor.sop_class_extended == {FIND: b"\1\1\0\1"}, "and of no class that is not accepted"
    assert [each.abstract_syntax for each in association.rejected_contexts] == [PATIENT_STUDY_ONLY]
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.SeriesInstanceUID, keys.SeriesDescription = "SERIES", "", "Thin"
    found = [identifier for status, identifier in association.send_c_find(keys, FIND) if status.Status == 0xFF00]
    assert [each.SeriesDescription for each in found] == ["Thin"]
    over_midnight = Dataset()
    over_midnight.QueryRetrieveLevel, over_midnight.PatientID = "STUDY", "P1"
    over_midnight.StudyDate, over_midnight.StudyTime = "20260101-20260103", "2200-0600"  # one range, as was agreed
    assert [status.Status for status, _ in association.send_c_find(over_midnight, FIND)] == [0xFF00, 0]
    association.release()
    association = associate(edge)
    assert [status.Status for status, _ in association.send_c_find(over_midnight, FIND)] == [0], "two ranges"
    association.release()


def test_what_cannot_be_read_is_c001_and_what_is_too_long_a700_and_the_association_lives(edge: Receiving) -> None:
    association = associate(edge)
    dul, context = association.dul, association.accepted_contexts[0]
    assert dul is not None
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_FIND

    def ask(number: int, data: bytes) -> int:
        request = C_FIND()
        request.MessageID, request.AffectedSOPClassUID, request.Priority = number, FIND, 2
        request.Identifier = BytesIO(data)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return int(answer.Status)

    assert ask(1, b"\x10\x00\x20\x00\xff\xff\xff\x7fno") == 0xC001
    long = struct.pack("<HHL", 0x0010, 0x0020, 3 << 20) + b"1" * (3 << 20)
    assert ask(2, long) == 0xA700
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientID = "STUDY", "P1"
    assert [status.Status for status, _ in association.send_c_find(keys, FIND)] == [0xFF00, 0]
    association.release()


def test_a_cancel_ends_the_answers(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + QUERY) as edge:
        edge.db.write(lambda conn: fill_catalog(conn, 5000))
        _, said = find(tmp_path / "out", edge.port, "STUDY", "PatientID", options=["--cancel", "1"])
        assert final_status(said) == "fe00"
        assert [each.status for each in edge.noted] == [0xFE00]
        assert edge.noted[0].count < 4000


def ask_for(make: Callable[[Dialogue, list[bytes]], Iterator[AnswerBatch]]) -> tuple[list[int], list[bytes], int]:
    """Statuses and answers of a C-FIND, and how many are on record. `make`: of the asking side, and what has come."""
    responder, statuses, came = MagicMock(extended={}), list[int](), list[bytes]()

    def serve(dialogue: Dialogue) -> None:
        responder.dialogue = dialogue
        responder.respond = lambda request, answer: dialogue.respond(request, answer.status)
        serve_find(dialogue.receive(60.0), responder)

    with dialogue_with(serve) as ours:
        responder.asker.ask.return_value = make(ours, came)
        for answer in ours.request(1, REQUEST, b"keys", deadline=Deadline(60.0)):
            statuses.append(answer.status)
            came.append(ours.read(answer))
    return statuses, came, responder.note_query.call_args.args[2].count


class Cancelling(list[bytes]):
    """Answers in the midst of which the peer sends a C-CANCEL."""

    peer: Dialogue

    def __iter__(self) -> Iterator[bytes]:
        for at, each in enumerate(super().__iter__()):
            if at == 5:
                self.peer.cancel(1)
            yield each


@pytest.mark.parametrize(("size", "count"), [(20, 1), (20_000, 5)])
def test_a_cancel_is_met_before_the_next_answer(size: int, count: int) -> None:
    """Small answers that wait to go together are withdrawn, and large ones go at once: none comes after a C-CANCEL."""

    def make(peer: Dialogue, _: list[bytes]) -> Iterator[AnswerBatch]:
        answers = Cancelling([bytes(size)] * 20)
        answers.peer = peer
        yield AnswerBatch(answers)

    statuses, _, noted = ask_for(make)
    assert statuses == [0xFF00] * count + [0xFE00]
    assert noted == count


def test_a_query_that_is_cancelled_is_on_record_once_though_its_caller_leaves() -> None:
    responder = MagicMock(extended={})

    def leave(_request: object, _answer: object) -> None:
        responder.dialogue.abort()
        raise PeerError("it has gone")

    def serve(dialogue: Dialogue) -> None:
        responder.dialogue, responder.respond = dialogue, leave
        with suppress(PeerError):
            serve_find(dialogue.receive(60.0), responder)

    with dialogue_with(serve) as ours:
        answers = Cancelling([bytes(20)] * 20)
        answers.peer = ours
        responder.asker.ask.return_value = (each for each in [AnswerBatch(answers)])
        with suppress(PeerError):
            for answer in ours.request(1, REQUEST, b"keys", deadline=Deadline(60.0)):
                ours.read(answer)
    assert [each.args[2].status for each in responder.note_query.call_args_list] == [0xFE00]


def test_no_answer_waits_for_what_is_still_to_be_made() -> None:
    """The next answers may take long, for an archive is asked: those that are there have come by then."""

    def make(_: Dialogue, came: list[bytes]) -> Iterator[AnswerBatch]:
        yield AnswerBatch([b"a ", b"b ", b"c "])
        wait_until(lambda: came == [b"a ", b"b ", b"c "], 20, "the first answers")
        yield AnswerBatch([b"d ", b"e "], status=0)

    assert ask_for(make) == ([0xFF00] * 5 + [0], [b"a ", b"b ", b"c ", b"d ", b"e ", b""], 5)


def test_a_limit_is_said(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + QUERY.replace("[query]\n", "[query]\nlimit = 2\n")) as edge:
        for number in range(3):
            storescu(ct_files(tmp_path / f"made{number}", 1, 2048), edge.port)
        edge.settle()
        answers, said = find(tmp_path / "out", edge.port, "STUDY", "PatientID")
        assert (len(answers), final_status(said)) == (2, "a700")


def test_what_was_just_stored_is_found_though_nothing_is_applied(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + QUERY) as edge:
        study = new_uid()
        storescu(ct_files(tmp_path / "a", 1, 2048, StudyInstanceUID=study), edge.port)
        edge.settle()
        apply = edge.applier.apply
        edge.applier.apply = _hindered  # type: ignore[method-assign]
        storescu(ct_files(tmp_path / "b", 2, 2048, StudyInstanceUID=study, Modality="MR"), edge.port)
        keys = ["StudyInstanceUID", "NumberOfStudyRelatedInstances", "ModalitiesInStudy"]
        (found,), _ = find(tmp_path / "out", edge.port, "STUDY", *keys)
        assert (found.NumberOfStudyRelatedInstances, set(found.ModalitiesInStudy)) == (3, {"CT", "MR"})
        edge.applier.apply = apply  # type: ignore[method-assign]
        (found,), _ = find(tmp_path / "out", edge.port, "STUDY", *keys)
        assert found.NumberOfStudyRelatedInstances == 3


def _hindered(*_: object) -> None:
    raise MemoryError


def test_the_audit_trail_has_what_was_asked(edge: Receiving, tmp_path: Path) -> None:
    edge.noted.clear()
    find(tmp_path / "out", edge.port, "STUDY", "PatientID=P1")
    (noted,) = edge.noted
    assert (noted.calling_ae, noted.called_ae, noted.count, noted.status) == ("VIEWER", "EDGE", 1, 0)
