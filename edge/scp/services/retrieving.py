"""C-MOVE and C-GET, what they share (PS3.4 sections C.4.2 and C.4.3): which instances, how many, and how it went.

Promise: the counts of each answer add up to what is wanted by then; the final one names what failed. A cancellation is
met between two objects. Objects go out as they are kept, corrected where their patient is another today, and
losslessly converted where the receiver does not take their transfer syntax; to a [destination] they go as a route would
send them there. A retrieval is no delivery: the queue does not know of it. Nothing is evicted meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import xxhash

from edge.dicom import items
from edge.dicom.command import SUCCESS
from edge.dicom.dialogue import DimseMessage, SubOperations
from edge.dicom.wire import Digest
from edge.errors import PeerError
from edge.query.asking import AnswerBatch, AskedQuery, NoAnswer, QueryEnd
from edge.query.levels import TERMINATED
from edge.query.located import ALL_HERE, Located
from edge.scp.fetch_through import Carrier
from edge.scp.gateway_link import MadeCopy, reading_studies
from edge.scp.requested_copy import RequestedCopy
from edge.scp.response import MAX_COMMENT
from edge.scp.services.service import CALLER_LEAVES, Responder
from edge.spool import digest_from

log = logging.getLogger(__name__)

# Statuses of C-MOVE and C-GET (PS3.4 tables C.4-2 and C.4-3).
SUB_OPERATIONS_CONTINUE, SOME_FAILED = 0xFF00, 0xB000
CANNOT_COUNT, CANNOT_PERFORM, DESTINATION_UNKNOWN = 0xA701, 0xA702, 0xA801
FAILED_UIDS = 0x00080058
#: UIDs that the list of what failed names: its value has 65,534 bytes in Explicit VR.
MOST_FAILED = 1000
#: Instances of one retrieval: their number is a US.
MOST_WANTED = 0xFFFF
#: Between two pending answers.
PENDING_SECONDS = 1.0


@dataclass(slots=True)
class RetrievalProgress:
    """Sub-operations so far."""

    remaining: int = 0
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    sent: Counter[int] = field(default_factory=Counter)  # by the number of the study

    def note(self, instance: Located, status: int | None) -> None:
        """Count a sub-operation that has ended. `status`: None, it could not be sent."""
        self.remaining -= 1
        uid = instance.sop_instance_uid
        if status is None or not (status == SUCCESS or status >> 12 == 0xB):
            self.failed.append(uid)
            return
        self.completed += status == SUCCESS
        self.warned += status != SUCCESS
        if instance.study_id:
            self.sent[instance.study_id] += 1

    def counts(self, *, is_final: bool = False) -> SubOperations:
        return SubOperations(None if is_final else self.remaining, self.completed, len(self.failed), self.warned)

    @property
    def status(self) -> int:
        """The final one. Nothing that matched is a success without sub-operations."""
        if self.failed and not (self.completed or self.warned):
            return CANNOT_PERFORM
        return SOME_FAILED if self.failed or self.warned else SUCCESS


class Retrieval:
    """One C-MOVE or C-GET."""

    def __init__(
        self, request: DimseMessage, responder: Responder, asked: AskedQuery, identifier: bytes, destination: str
    ) -> None:
        """`destination`: the AE title that gets the objects."""
        self._request, self._responder, self._asked, self._identifier = request, responder, asked, identifier
        self._destination = destination
        self.progress = RetrievalProgress()
        self._last_pending, self._begun = 0.0, time.monotonic()
        self._end, self._is_noted = AnswerBatch(), False
        self._obstacle = ""  # why the receiver was not reached any more

    def run(self, carrier: Carrier, fetch: Callable[[list[Located], Carrier, Retrieval], None] | None = None) -> None:
        """Send all that is wanted, and answer. `fetch` has what is not here brought, and carried as it comes.

        Raises CALLER_LEAVES; what it got by then is on record.
        """
        try:
            self._send_wanted(carrier, fetch)
            self._finish()
        except CALLER_LEAVES:
            self._note(CANNOT_PERFORM)
            raise

    def _send_wanted(self, carrier: Carrier, fetch: Callable[[list[Located], Carrier, Retrieval], None] | None) -> None:
        responder = self._responder
        try:
            with closing(responder.asker.ask(self._asked, self._identifier)) as batches:
                found = self._instances(batches)
                here = self._take(found)
                with reading_studies(responder.link, (each.study_id for each in here if each.path)):
                    self._begin(here, carrier)
                    self.carry_all(here, carrier)
                there = self._take(found)
                self.progress.remaining += len(there)
                if there and fetch is not None and not self.is_over:
                    self.tell(is_due=False)
                    fetch(there, carrier, self)
                else:
                    self.fail(there)
        except NoAnswer as error:
            self._end = AnswerBatch(status=CANNOT_COUNT, comment=str(error))
        except _TooMany:
            self._end = AnswerBatch(status=CANNOT_COUNT, comment=f"more than {MOST_WANTED} instances")

    def _instances(self, batches: Iterator[AnswerBatch]) -> Iterator[Located | None]:
        """What is wanted; None where all that is here is known."""
        for batch in batches:
            for answer in batch.answers:
                yield None if answer == ALL_HERE else Located.decode(answer)
            if batch.status is not None:
                self._end = batch

    def _take(self, found: Iterator[Located | None]) -> list[Located]:
        taken: list[Located] = []
        for instance in found:
            if instance is None:
                break
            taken.append(instance)
            if len(taken) > MOST_WANTED:
                raise _TooMany
        return taken

    def _begin(self, here: list[Located], carrier: Carrier) -> None:
        self.progress.remaining = len(here)
        if not here:
            return
        self.tell(is_due=False)
        carrier.prepare(here)

    def carry_all(self, wanted: list[Located], carrier: Carrier) -> None:
        """One after another; what is behind a broken association, or a cancellation, is not. Raises CALLER_LEAVES."""
        left = deque(wanted)
        while left and not self.is_cancelled:
            instance = left.popleft()
            try:
                status = carrier.carry(instance)
            except PeerError as error:
                if self._responder.dialogue.wire.is_closed:
                    raise  # it was the caller's own association
                self._obstacle = f"{self._destination} gets nothing more: {error}"
                log.warning("a retrieval: %s", self._obstacle)
                self.progress.note(instance, None)
                return self.fail(left)
            self.progress.note(instance, status)
            self.tell()
        return None

    def fail(self, instances: deque[Located] | list[Located]) -> None:
        """Note that these are not sent; after a cancellation they remain."""
        if not self.is_cancelled:
            for each in instances:
                self.progress.note(each, None)

    @property
    def is_over(self) -> bool:
        return bool(self._obstacle) or self.is_cancelled

    @property
    def is_cancelled(self) -> bool:
        return self._responder.dialogue.is_cancelled(self._request)

    def tell(self, *, is_due: bool = True) -> None:
        """A pending answer, where one is due."""
        now = time.monotonic()
        if not is_due or now - self._last_pending >= PENDING_SECONDS:
            self._last_pending = now
            self._responder.dialogue.respond(self._request, SUB_OPERATIONS_CONTINUE, counts=self.progress.counts())

    def _finish(self) -> None:
        progress, end = self.progress, self._end
        is_cancelled = progress.remaining > 0 and self.is_cancelled
        status = TERMINATED if is_cancelled else end.status or progress.status
        data = b""
        if progress.failed:
            listed = items.item({FAILED_UIDS: "\\".join(progress.failed[:MOST_FAILED])})
            data = items.encode_items(listed, self._asked.syntax)
        comment = (end.comment or self._obstacle)[:MAX_COMMENT]
        self._note(status, comment)
        counts = progress.counts(is_final=not is_cancelled)
        self._responder.dialogue.respond(self._request, status, comment, data, counts)

    def _note(self, status: int, comment: str = "") -> None:
        """Note for the audit trail what was sent, and how it ended; once."""
        if not self._is_noted:
            self._is_noted = True
            progress, seconds = self.progress, time.monotonic() - self._begun
            sent, left_out = dict(progress.sent), self._end.left_out
            count = progress.completed + progress.warned
            noted = QueryEnd(count, status, left_out, self._destination, sent, seconds, comment=comment)
            self._responder.note_query(self._asked, self._identifier, noted)


class _TooMany(Exception):
    """More is wanted than may be."""


# -- one object -------------------------------------------------------------------------------------------------------


def expected_digest(instance: Located) -> Digest:
    """What the data set must be, as it goes out."""
    if instance.xxh3:
        return Digest(xxhash.xxh3_128, bytes.fromhex(instance.xxh3))
    return Digest(hashlib.sha256, bytes.fromhex(instance.sha256))


def is_intact(fd: int, instance: Located) -> bool:
    """Is the file what was received? Asked before an object goes where an abort would end all."""
    if os.fstat(fd).st_size != instance.size:
        return False
    expected = expected_digest(instance)
    return digest_from(fd, instance.dataset_offset, expected.algorithm()) == expected.value


@dataclass(slots=True)
class Opened:
    """A file with what is sent of it."""

    fd: int
    offset: int
    length: int
    expected: Digest | None
    sop_instance_uid: str


def open_object(instance: Located, syntax: str, responder: Responder, destination: str = "") -> Opened | None:
    """The object of today's patient in this transfer syntax, a copy where it is kept otherwise.

    `destination`: it goes there as a route would send it. None where that cannot be had.
    """
    spool = responder.config_data_dir / "spool"
    try:
        if syntax == instance.transfer_syntax_uid and not instance.is_outdated and not destination:
            fd = os.open(spool / instance.path, os.O_RDONLY | os.O_CLOEXEC)
            length = instance.size - instance.dataset_offset
            return Opened(fd, instance.dataset_offset, length, expected_digest(instance), instance.sop_instance_uid)
        return _open_copy(instance, syntax, responder, destination)
    except OSError:
        responder.link.note_damaged(instance.path)
        return None


def _open_copy(instance: Located, syntax: str, responder: Responder, destination: str) -> Opened | None:
    with RequestedCopy(responder.link, instance.path, syntax, destination) as requested:
        copy = requested.wait()
        return _open_made(copy, instance) if copy is not None and copy.path else None


def _open_made(copy: MadeCopy, instance: Located) -> Opened:
    fd, uid = os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC), copy.sop_instance_uid or instance.sop_instance_uid
    return Opened(fd, copy.dataset_offset, copy.size - copy.dataset_offset, None, uid)
