"""A message of a performed procedure step on its way from the journal into the catalog (see edge.intake.entries)."""

from __future__ import annotations

import logging

from edge.dicom import items
from edge.dicom.items import Attributes
from edge.dicom.performed_step import StepFault, StepOperation, digest_data_set, read_create, read_set
from edge.errors import Unreadable
from edge.journal.kinds import performed_step
from edge.journal.kinds.performed_step import RecordedStep
from edge.journal.replay import JournalRecord
from edge.store import performed_steps
from edge.store.commitment_entry import read_small_body
from edge.store.database import Transaction

log = logging.getLogger(__name__)


class StepEntry:
    """The rows of one message. One that cannot be entered is in the log; its record has been verified at the door."""

    def __init__(self, name: str, step: RecordedStep, data_set: Attributes | None, body: bytes) -> None:
        self._name, self._step, self._data_set, self._body = name, step, data_set, body

    def work(self, conn: Transaction, nearby: object) -> None:
        """Make its rows. May be repeated after a rollback."""
        data_set, step = self._data_set, self._step
        if data_set is None:
            log.critical("a message of performed step %s cannot be entered", step.sop_instance_uid)
            return
        if step.operation == StepOperation.CREATE:
            digest = digest_data_set(data_set)
            performed_steps.enter_created(conn, self._name, step, read_create(data_set), digest, self._body)
        else:
            performed_steps.enter_set(conn, self._name, step, read_set(data_set), self._body)

    def finish(self) -> None:
        """Do nothing: edge.outbound.steps finds the rows."""

    def as_odd(self) -> StepEntry:
        return StepEntry(self._name, self._step, None, b"")


def make_step_entry(record: JournalRecord) -> StepEntry:
    """Raises BodyDamaged, Hindered or StorageUnhealthy."""
    step = performed_step.decode(record.head.facts)
    body = read_small_body(record)
    try:
        data_set = items.decode_items(body, step.transfer_syntax_uid)
        (read_create if step.operation == StepOperation.CREATE else read_set)(data_set)
    except (Unreadable, StepFault):
        return StepEntry(record.identity.name, step, None, body)
    return StepEntry(record.identity.name, step, data_set, body)
