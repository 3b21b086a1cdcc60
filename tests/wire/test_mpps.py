"""N-CREATE and N-SET of performed procedure steps: what is taken, what is refused with which status, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.dicom import items
from edge.dicom.command import Element
from edge.dicom.performed_step import read_set
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import Shortage
from edge.journal.kinds.performed_step import RecordedStep
from edge.model import Origin
from edge.scp.services.mpps_register import StepRegister
from edge.store import performed_steps
from tests.support.gateway import CONFIG, Receiving
from tests.support.performing import CREATED, ended, send_step

MODALITIES = """
[modality.ct1]
ae_title = "CT1"
services = ["echo", "store", "mpps"]
[modality.plain]
ae_title = "PLAIN"
"""


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', MODALITIES)
    with Receiving(tmp_path, text) as receiving:
        receiving.receiver.steps = receiving.link.steps = StepRegister(receiving.db)
        yield receiving


def steps(edge: Receiving) -> list[tuple[Any, ...]]:
    return edge.rows("SELECT sop_instance_uid, state, modality_name, study_uid, accession_number FROM performed_step")


def messages(edge: Receiving) -> list[tuple[Any, ...]]:
    return edge.rows("SELECT kind, is_final, length(body) > 0 FROM step_message ORDER BY id")


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])
def test_a_step_from_its_beginning_to_its_end(edge: Receiving, syntax: str) -> None:
    assert send_step(edge.port, "1.9", CREATED, syntax=syntax).status == 0
    assert steps(edge) == [("1.9", "IN PROGRESS", "ct1", "1.2.3", "A1")]
    assert send_step(edge.port, "1.9", {0x00400254: "Chest"}, is_set=True, syntax=syntax).status == 0
    assert send_step(edge.port, "1.9", {0x00400252: "IN PROGRESS"}, is_set=True, syntax=syntax).status == 0
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True, syntax=syntax).status == 0
    assert steps(edge) == [("1.9", "COMPLETED", "ct1", "1.2.3", "A1")]
    assert messages(edge) == [("create", 0, 1), ("set", 0, 1), ("set", 0, 1), ("set", 1, 1)]
    assert edge.rows("SELECT sop_instance_uid, series_uid FROM performed_instance") == [("1.5", "1.2.3.1")]
    events = edge.rows("SELECT event, who, words(event, detail, payload) FROM ledger")
    assert [each[0] for each in events] == ["performed", "performed"]
    assert events[0][1:] == ("CT1", "step 1.9 is IN PROGRESS, from 127.0.0.1")


def test_the_reason_of_a_discontinuation_goes_on_as_it_came(edge: Receiving) -> None:
    """It is a code that nothing here reads; so are the modality's times, however late they go on."""
    assert send_step(edge.port, "1.9", CREATED).status == 0
    reason = items.item({0x00080100: "110513", 0x00080102: "DCM", 0x00080104: "Discontinued for unspecified reason"})
    data = items.item({**ended([], "DISCONTINUED"), 0x00400281: [reason]})
    body = items.encode_items(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert send_step(edge.port, "1.9", body, is_set=True).status == 0
    assert edge.rows("SELECT body FROM step_message WHERE is_final = 1") == [(body,)]
    assert steps(edge)[0][1] == "DISCONTINUED"


def test_the_state_is_judged_before_anything_is_applied(edge: Receiving) -> None:
    """An N-SET comes 50 ms after its N-CREATE, before the catalog knows of it; a crash loses neither."""
    edge.applier.apply = _hindered  # type: ignore[method-assign]
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0x0112
    assert send_step(edge.port, "1.9", CREATED).status == 0
    assert send_step(edge.port, "1.9", CREATED).status == 0, "the same again"
    assert send_step(edge.port, "1.9", {**CREATED, 0x00100010: "Doe^John"}).status == 0x0111
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0
    late = send_step(edge.port, "1.9", ended(["1.6"], "DISCONTINUED"), is_set=True)
    assert (late.status, late.command.get(Element.ERROR_ID)) == (0x0110, 0xA710)
    edge.crash()
    edge.restart()
    assert steps(edge) == [("1.9", "COMPLETED", "ct1", "1.2.3", "A1")]
    assert messages(edge) == [("create", 0, 1), ("set", 1, 1)], "a repeat is no second record"


def _hindered(*_: object) -> None:
    raise MemoryError


def test_the_catalog_alone_is_enough_after_a_restart(edge: Receiving) -> None:
    assert send_step(edge.port, "1.9", CREATED).status == 0
    assert send_step(edge.port, "1.8", CREATED).status == 0
    assert send_step(edge.port, "1.8", ended(["1.5"], "DISCONTINUED"), is_set=True).status == 0
    edge.settle()
    edge.receiver.steps = StepRegister(edge.db)
    assert send_step(edge.port, "1.9", CREATED).status == 0
    assert send_step(edge.port, "1.9", {**CREATED, 0x00100020: "P2"}).status == 0x0111
    assert send_step(edge.port, "1.8", ended(["1.5"]), is_set=True).status == 0x0110
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0


def _without(tag: int) -> dict[int, Any]:
    return {each: value for each, value in CREATED.items() if each != tag}


@pytest.mark.parametrize(
    ("data", "status", "named"),
    [
        (_without(0x00400252), 0x0120, "PerformedProcedureStepStatus"),
        ({**CREATED, 0x00400252: "COMPLETED"}, 0x0106, "PerformedProcedureStepStatus"),
        (_without(0x00400270), 0x0120, "ScheduledStepAttributesSequence"),
        ({**CREATED, 0x00400270: []}, 0x0120, "ScheduledStepAttributesSequence"),
        ({**CREATED, 0x00400270: [items.item({0x00080050: "A1"})]}, 0x0120, "StudyInstanceUID"),
        ({**CREATED, 0x00400270: [items.item({0x0020000D: "a/b"})]}, 0x0106, "StudyInstanceUID"),
        (_without(0x00400253), 0x0120, "PerformedProcedureStepID"),
        (_without(0x00400241), 0x0120, "PerformedStationAETitle"),
        (_without(0x00400244), 0x0120, "PerformedProcedureStepStartDate"),
        (_without(0x00400245), 0x0120, "PerformedProcedureStepStartTime"),
        (_without(0x00080060), 0x0120, "Modality"),
        (b"", 0x0120, "Status"),
        (b"no data set at all", 0x0106, "damaged"),
    ],
)
def test_a_malformed_creation_names_the_attribute_and_leaves_nothing(
    edge: Receiving, data: dict[int, Any] | bytes, status: int, named: str
) -> None:
    answer = send_step(edge.port, "1.9", data)
    assert answer.status == status
    assert named in answer.comment
    assert "Doe" not in answer.comment
    assert steps(edge) == []
    assert send_step(edge.port, "1.9", CREATED).status == 0, "the step is not spoilt"


@pytest.mark.parametrize(
    ("data", "status", "named"),
    [
        ({0x00400252: "DONE"}, 0x0106, "PerformedProcedureStepStatus"),
        ({0x00400252: ""}, 0x0120, "PerformedProcedureStepStatus"),
        ({0x00400252: "COMPLETED"}, 0x0120, "PerformedSeriesSequence"),
        ({0x00400252: "DISCONTINUED", 0x00400340: []}, 0x0120, "PerformedSeriesSequence"),
        ({0x00400340: [items.item({0x00181030: "CHEST"})]}, 0x0120, "SeriesInstanceUID"),
    ],
)
def test_a_malformed_update(edge: Receiving, data: dict[int, Any], status: int, named: str) -> None:
    assert send_step(edge.port, "1.9", CREATED).status == 0
    answer = send_step(edge.port, "1.9", data, is_set=True)
    assert (answer.status, named in answer.comment) == (status, True)
    assert messages(edge) == [("create", 0, 1)]
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0


@pytest.mark.parametrize("is_known", [True, False])
def test_series_that_came_before_are_those_of_the_final_state(edge: Receiving, is_known: bool) -> None:
    """A modality that reports each series as it ends says of the last message no more than that the step is over."""
    assert send_step(edge.port, "1.9", CREATED).status == 0

    def update(said: dict[int, Any]) -> int:
        if not is_known:
            edge.settle()
            edge.receiver.steps = StepRegister(edge.db)
        return send_step(edge.port, "1.9", said, is_set=True).status

    series, none, over = {0x00400340: ended(["1.5"])[0x00400340]}, {0x00400340: []}, {0x00400252: "COMPLETED"}
    assert [update(each) for each in (series, none, over, series, over)] == [0, 0, 0x0120, 0, 0]
    edge.settle()
    assert steps(edge)[0][1] == "COMPLETED"
    assert edge.rows("SELECT sop_instance_uid FROM performed_instance") == [("1.5",)]


def test_a_step_without_uid_gets_one_and_its_answer_has_it(edge: Receiving) -> None:
    answer = send_step(edge.port, "", CREATED)
    uid = answer.command.text(Element.AFFECTED_SOP_INSTANCE_UID)
    assert answer.status == 0
    assert uid.startswith("2.25.")
    assert [each[0] for each in steps(edge)] == [uid]
    assert send_step(edge.port, uid, ended(["1.5"]), is_set=True).status == 0


def test_an_unknown_step_is_said_before_what_its_message_lacks(edge: Receiving) -> None:
    without = {each: value for each, value in ended(["1.5"]).items() if each != 0x00400340}
    assert send_step(edge.port, "1.9", without, is_set=True).status == 0x0112
    assert send_step(edge.port, "1.9", CREATED).status == 0
    assert send_step(edge.port, "1.9", without, is_set=True).status == 0x0120
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0


@pytest.mark.parametrize("uid", ["a b", "1/2", "9" * 65, "1.2..x", "1.2..3", "1.2.", "1.2.a"])
def test_a_uid_that_is_none(edge: Receiving, uid: str) -> None:
    assert send_step(edge.port, uid, CREATED).status == 0x0117
    assert send_step(edge.port, uid, ended(["1.5"]), is_set=True).status == 0x0112
    assert steps(edge) == []


def test_only_those_whose_services_name_it(edge: Receiving) -> None:
    assert send_step(edge.port, "1.9", CREATED, calling="PLAIN").status == -1


def test_nothing_is_judged_before_the_journal_is_replayed(edge: Receiving) -> None:
    edge.receiver.steps = StepRegister(edge.db, lambda: False)
    answer = send_step(edge.port, "1.9", CREATED)
    assert answer.status == 0x0213
    assert steps(edge) == []


def test_what_could_not_be_recorded_may_come_again(edge: Receiving) -> None:
    begin = edge.recorder.begin
    edge.recorder.begin = _short  # type: ignore[method-assign]
    assert send_step(edge.port, "1.9", CREATED).status == 0x0213
    edge.recorder.begin = begin  # type: ignore[method-assign]
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0x0112
    assert send_step(edge.port, "1.9", CREATED).status == 0


def _short(*_: object) -> None:
    raise Shortage("no buffer")


def test_the_catalog_itself_keeps_a_final_state(edge: Receiving) -> None:
    """A record behind the final one, of a door that judged by less, changes nothing."""
    assert send_step(edge.port, "1.9", CREATED).status == 0
    assert send_step(edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0
    edge.settle()
    origin = Origin("CT1", "EDGE", "127.0.0.1", 9.0)
    step, said = (
        RecordedStep("1.9", "set", EXPLICIT_VR_LITTLE_ENDIAN, origin, "ct1"),
        items.item(ended(["1.6"], "DISCONTINUED")),
    )
    body, message = items.encode_items(said, EXPLICIT_VR_LITTLE_ENDIAN), read_set(said)
    edge.db.write(lambda conn: performed_steps.enter_set(conn, "later", step, message, body))
    assert steps(edge) == [("1.9", "COMPLETED", "ct1", "1.2.3", "A1")]
    assert messages(edge) == [("create", 0, 1), ("set", 1, 1)]
