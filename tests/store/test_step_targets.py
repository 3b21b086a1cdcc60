"""Several targets of performed steps: each gets the messages of a step in order, whatever another one does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.dicom import items
from edge.dicom.performed_step import read_create, read_set
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.journal.kinds.performed_step import RecordedStep
from edge.model import Origin
from edge.store import performed_steps, step_deliveries
from edge.store.database import Transaction
from edge.store.sqlite_file import open_empty_catalog
from tests.support.performing import CREATED, ended

STEPS = ("1.1", "1.2")


@pytest.fixture
def conn() -> Iterator[Transaction]:
    """Two steps from their beginning to their end, for two targets."""
    conn = open_empty_catalog()
    origin = Origin("CT1", "EDGE", "127.0.0.1", 9.0)
    for uid in STEPS:
        create, final = items.item(CREATED), items.item(ended(["1.5"]))
        step = RecordedStep(uid, "create", EXPLICIT_VR_LITTLE_ENDIAN, origin, "ct1")
        performed_steps.enter_created(conn, f"{uid}c", step, read_create(create), b"", b"create")
        step = RecordedStep(uid, "set", EXPLICIT_VR_LITTLE_ENDIAN, origin, "ct1")
        performed_steps.enter_set(conn, f"{uid}s", step, read_set(final), b"set")
    step_deliveries.assign_targets(conn, ["ris", "billing"], [])
    yield conn
    conn.close()


def due(conn: Transaction, target: str) -> list[tuple[str, str]]:
    found = step_deliveries.list_due_messages(conn, target, 10.0)
    return [(each.sop_instance_uid, each.kind) for each in found]


def take_first(conn: Transaction, target: str) -> None:
    message = step_deliveries.list_due_messages(conn, target, 10.0)[0]
    step_deliveries.note_sending(conn, message.message_id, target)
    step_deliveries.note_step_sent(conn, message, target, 0, 10.0)


def test_each_target_has_its_own_order(conn: Transaction) -> None:
    assert due(conn, "ris") == due(conn, "billing") == [("1.1", "create"), ("1.2", "create")]
    take_first(conn, "ris")
    assert due(conn, "ris") == [("1.1", "set"), ("1.2", "create")]
    assert due(conn, "billing") == [("1.1", "create"), ("1.2", "create")]


def test_a_message_that_one_target_refuses_holds_that_step_there_alone(conn: Transaction) -> None:
    message = step_deliveries.list_due_messages(conn, "ris", 10.0)[0]
    step_deliveries.note_sending(conn, message.message_id, "ris")
    step_deliveries.note_step_failed(conn, message.message_id, "ris", 0xA777, "", None)
    assert due(conn, "ris") == [("1.2", "create")]
    take_first(conn, "billing")
    assert due(conn, "billing") == [("1.1", "set"), ("1.2", "create")]


def test_notifications_go_where_they_are_wanted_though_no_step_goes_anywhere() -> None:
    conn = open_empty_catalog()
    step = RecordedStep("1.1", "create", EXPLICIT_VR_LITTLE_ENDIAN, Origin("CT1", "EDGE", "127.0.0.1", 9.0), "ct1")
    performed_steps.enter_created(conn, "c", step, read_create(items.item(CREATED)), b"", b"create")
    performed_steps.enter_notification(conn, 1, "available 1", "2.25.1", EXPLICIT_VR_LITTLE_ENDIAN, b"", 9.0)
    assert not step_deliveries.has_unassigned(conn, [], [])
    assert step_deliveries.has_unassigned(conn, [], ["ris"])
    step_deliveries.assign_targets(conn, [], ["ris"])
    assert due(conn, "ris") == [("2.25.1", "available")]
    assert not step_deliveries.has_unassigned(conn, [], ["ris"])
    assert step_deliveries.has_unassigned(conn, ["ris"], []), "a step waits for a target to be configured"
    conn.close()
