"""For which appointments earlier studies are fetched, and which: tables."""

from __future__ import annotations

from typing import Any

import pytest

from edge.config.departmental import Prefetch
from edge.dicom.items import Attributes, item
from edge.outbound.prefetch.choice import PrefetchRule, choose_priors, list_prefetch_requests, pause_after
from edge.query.worklist import split_steps
from edge.store.prefetch import PrefetchRequest

REQUEST = PrefetchRequest("ct", "vna", "key", "1.2.0", "P1", "Doe^Jane", "19700101", "20260102101500")
RULE = Prefetch("ct", "vna", priors=2, years=5)


def study(uid: str, date: str, **changed: str) -> Attributes:
    values = {0x0020000D: uid, 0x00080020: date, 0x00100020: "P1", 0x00100010: "DOE^JANE", 0x00100030: "19700101"}
    values[0x00201208] = "3"
    tags = {"id": 0x00100020, "name": 0x00100010, "birth": 0x00100030, "count": 0x00201208}
    return item(values | {tags[name]: value for name, value in changed.items()})


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ([], []),
        ([study("1", "20250101"), study("2", "20250301"), study("3", "20240101")], ["2", "1"]),
        ([study("1.2.0", "20260102")], []),  # the appointment's own
        ([study("1", "20200101"), study("2", "20210102")], ["2"]),  # five years
        ([study("1", "20260103")], []),  # after the day
        ([study("1", "")], []),
        ([study("1", "20250101", id="P2")], []),
        ([study("1", "20250101", id="")], ["1"]),  # it does not say: the query did
        ([study("1", "20250101", name="Smith^Jane")], ["1"]),  # married since
        ([study("1", "20250101", name="", birth="")], ["1"]),
    ],
)
def test_priors(answers: list[Attributes], chosen: list[str]) -> None:
    assert [each.study_uid for each in choose_priors(REQUEST, answers, RULE, "20260102")] == chosen


def test_another_patient_under_the_same_number_is_a_conflict_and_takes_no_place() -> None:
    answers = [
        study("1", "20260101", name="Roe^Rick", birth="19500505"),
        study("2", "20250101"),
        study("3", "20240101"),
    ]
    found = choose_priors(REQUEST, answers, RULE, "20260102")
    assert [(each.study_uid, each.is_conflict) for each in found] == [("2", False), ("3", False), ("1", True)]


@pytest.mark.parametrize(
    ("when", "status", "wanted"),
    [
        ({}, "SCHEDULED", 1),
        ({"Modality": "CT"}, "SCHEDULED", 1),
        ({"Modality": ["MR", "CR"]}, "SCHEDULED", 0),
        ({"ScheduledStationAETitle": "CT*"}, "", 1),
        ({"RequestedProcedureDescription": "Chest*"}, "", 1),
        ({}, "COMPLETED", 0),
        ({}, "CANCELED", 0),
    ],
)
def test_requests(when: dict[str, Any], status: str, wanted: int) -> None:
    step = item({0x00080060: "CT", 0x00400001: "CT1", 0x00400002: "20260102", 0x00400003: "1015", 0x00400020: status})
    data = item({0x00100020: "P1", 0x00100010: "Doe^Jane", 0x00321060: "Chest 2 views", 0x00400100: [step]})
    found = list(list_prefetch_requests(split_steps(data), [PrefetchRule.compile(Prefetch("ct", "vna", when))]))
    assert len(found) == wanted
    assert all(each.starts_at == "20260102101500" for each in found)


def test_a_share_of_the_line_is_a_share_of_the_time() -> None:
    assert pause_after(1.0, 0.2) == pytest.approx(4.0)
    assert pause_after(1.0, 1.0) == 0.0
