"""A commitment request on its way from the journal into the catalog (see edge.intake.entries)."""

from __future__ import annotations

import logging
from dataclasses import replace

from edge.dicom.commitment_data import AskedCommitment, parse_commitment_request
from edge.errors import Unreadable
from edge.journal.kinds import commitment_request
from edge.journal.kinds.commitment_request import CommitmentRequest
from edge.journal.replay import BodyDamaged, JournalRecord
from edge.journal.segment import storage_errors
from edge.store import commitment_requests, ledger
from edge.store.database import Transaction

log = logging.getLogger(__name__)


class CommitmentEntry:
    """The rows of one request. One that cannot be entered is recorded in the ledger: the modality gets no report."""

    def __init__(self, name: str, request: CommitmentRequest, asked: AskedCommitment | None) -> None:
        self._name, self._request, self._asked = name, request, asked

    def work(self, conn: Transaction, nearby: object) -> None:
        """Make its rows. May be repeated after a rollback."""
        request = self._request
        if self._asked is not None:
            return commitment_requests.enter_request(conn, self._name, request, self._asked)
        payload = {"transaction_uid": request.transaction_uid, "failures": [0x0110], "count": 0}
        ledger.append(conn, request.origin.received_at, ledger.NOT_COMMITTED, ledger.EDGE, [], payload=payload)
        log.critical("a request for storage commitment of %r cannot be entered", request.origin.calling_ae)

    def finish(self) -> None:
        """Do nothing: edge.outbound.commitment_reports examines the rows."""

    def as_odd(self) -> CommitmentEntry:
        return CommitmentEntry(self._name, self._request, None)


def make_commitment_entry(record: JournalRecord) -> CommitmentEntry:
    """Raises BodyDamaged, Hindered or StorageUnhealthy."""
    request = commitment_request.decode(record.head.facts)
    try:
        asked = parse_commitment_request(read_small_body(record), request.transfer_syntax_uid)
    except Unreadable:
        asked = None
    return CommitmentEntry(record.identity.name, request, asked)


def read_small_body(record: JournalRecord) -> bytes:
    """The body of a small record: from the receive buffer, or from the segment where that is gone or damaged."""
    with storage_errors("read the journal"):
        try:
            return b"".join(map(bytes, record.bodies()))
        except BodyDamaged as error:
            if record.memory is None:
                raise
            log.error("%s: it is read from the disk", error)
            return b"".join(map(bytes, replace(record, memory=None).bodies()))
