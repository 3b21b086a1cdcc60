"""STOW-RS (PS3.18 section 10.5): the parts of a request become records of the journal, in constant memory.

Promise: a part is named as stored only once its record is on stable storage; many parts share a flush. What fails
fails alone. Of a body that is cut, parts that were complete are kept, and the answer is no success. What is behind the
answer is as with C-STORE (edge.intake.apply): the same object again is that object, other bytes under its UID are a
conflict.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace

from edge.dicom.part10 import MAX_META, parse_meta
from edge.dicom.uids import usable_uid
from edge.errors import Cause, Hindered, Shortage, StorageUnhealthy, Unreadable, hindrance
from edge.model import ContextKey, InstanceHeader, Origin, Priority
from edge.network.sites import PASSED_HEADER, PRIORITY_HEADER, read_passed
from edge.scp.dicomweb.report import StoredPart
from edge.scp.recorder import Examined, Recorder, Recording
from edge.scp.response import CANNOT_UNDERSTAND, StoreResponse, answer_for
from edge.scp.services.store import refuse_object

#: Failure Reason (PS3.18 table I.2-2; those are the statuses of C-STORE).
OTHER_STUDY = 0xA900
#: Parts, and their bytes, that share a flush.
FLUSH_PARTS, FLUSH_BYTES = 50, 4 << 20
_META_LENGTH = struct.Struct("<HH2sHL")


class UnsupportedPart(Exception):
    """A part is no DICOM file: the whole request asks for what is not offered."""


@dataclass(slots=True)
class _Part:
    """The part that is being received."""

    head: bytearray = field(default_factory=bytearray)  # up to the data set
    recording: Recording | None = None
    context_key: ContextKey | None = None
    uid: str = ""
    origin: Origin | None = None
    passed: str = ""  # what another Edge says of it
    priority: Priority = Priority.ROUTINE
    failure: StoreResponse | None = None  # then the rest is discarded


class StowReceiver:
    """The sink of one request's parts (edge.network.multipart.PartSink)."""

    def __init__(
        self,
        recorder: Recorder,
        check_room: Callable[[], None],
        origin: Origin,
        pool: Executor,
        study_uid: str = "",
        refuse: Callable[[str], StoreResponse | None] = lambda _: None,
    ) -> None:
        """`study_uid`: of the request's address; instances of another study fail. Empty: any.

        `refuse`: why an instance is not taken, by its UID.
        `pool`: what was received is flushed there, while what follows is received.
        """
        self._pool, self._refuse = pool, refuse
        self._flushing: tuple[Future[list[StoreResponse]], list[Examined]] | None = None
        self._recorder, self._check_room, self._origin, self._study = recorder, check_room, origin, study_uid
        self.done: list[StoredPart] = []
        self._part = _Part()
        self._group: list[Examined] = []
        self._group_bytes = 0

    # -- parts --------------------------------------------------------------------------------------------------------

    def begin(self, headers: dict[str, str]) -> None:
        media = headers.get("content-type", "application/dicom").partition(";")[0].strip().lower()
        if media != "application/dicom" or headers.get("content-transfer-encoding", "binary").lower() not in _PLAIN:
            raise UnsupportedPart("each part must be application/dicom")
        self._part = _Part(
            passed=read_passed(headers.get(PASSED_HEADER.lower(), "")),
            priority=_PRIORITIES.get(headers.get(PRIORITY_HEADER.lower(), ""), Priority.ROUTINE),
        )

    def write(self, data: memoryview) -> None:
        part = self._part
        if part.failure is not None:
            return
        if part.recording is None:
            data = self._take_head(part, data)
        if part.recording is not None and data:
            self._record(part, part.recording, data)

    def _take_head(self, part: _Part, data: memoryview) -> memoryview:
        """Preamble and File Meta Information; what is behind them is the data set."""
        wanted = _meta_end(part.head)
        while wanted > len(part.head) and data:
            count = wanted - len(part.head)
            part.head += data[:count]
            data, wanted = data[count:], _meta_end(part.head)
        if len(part.head) >= wanted:
            self._open(part)
        return data

    def _open(self, part: _Part) -> None:
        try:
            meta = parse_meta(bytes(part.head))
            part.context_key, part.uid = meta.context_key, meta.sop_instance_uid
            part.failure = _refusal(meta.context_key, meta.sop_instance_uid) or self._refuse(meta.sop_instance_uid)
            if part.failure is None:
                self._check_room()
                priority = part.priority if part.passed else Priority.ROUTINE
                origin = replace(self._origin, received_at=time.time(), passed=part.passed, priority=priority)
                part.origin = origin
                part.recording = self._begin_recording(meta.context_key, meta.sop_instance_uid, origin)
                part.recording.write([memoryview(part.head)[meta.dataset_offset :]])
        except Unreadable as error:
            part.failure = StoreResponse(CANNOT_UNDERSTAND, str(error))
        except (Hindered, StorageUnhealthy, MemoryError) as error:
            part.failure = answer_for(error)

    def _begin_recording(self, context_key: ContextKey, uid: str, origin: Origin) -> Recording:
        """Flush those that wait where buffers are short, so that two requests cannot wait for each other."""
        if self._group:
            try:
                return self._recorder.begin(context_key, uid, origin, patience=0.0)
            except Shortage:
                self.flush()
        return self._recorder.begin(context_key, uid, origin)

    def _record(self, part: _Part, recording: Recording, data: memoryview) -> None:
        try:
            recording.write([data])
        except (Hindered, StorageUnhealthy, MemoryError) as error:
            part.failure = answer_for(error)

    def end(self) -> None:
        part, self._part = self._part, _Part()
        if part.recording is None and part.failure is None:
            self._open(part)  # a short one, or without the length of its File Meta Information
        if part.recording is None or part.context_key is None or part.failure is not None:
            found = part.failure or StoreResponse(CANNOT_UNDERSTAND, "not a DICOM file")
            if part.recording is not None:
                part.recording.discard()
            self.done.append(_outcome(part.context_key, part.uid, None, found))
            return
        self._examine(part.recording, part.context_key, part.uid, part.origin or self._origin)

    def note_unreadable(self, sop_class_uid: str, sop_instance_uid: str) -> None:
        """An object that could not be put together."""
        context_key = ContextKey(sop_class_uid, "")
        self.done.append(
            _outcome(context_key, sop_instance_uid, None, StoreResponse(CANNOT_UNDERSTAND, "not complete"))
        )

    def _examine(self, recording: Recording, context_key: ContextKey, uid: str, origin: Origin) -> None:
        try:
            found = self._recorder.examine(recording, context_key, uid, origin)
        except (Hindered, MemoryError) as error:
            recording.discard()
            self.done.append(_outcome(context_key, uid, None, answer_for(error)))
            return
        if self._study and found.facts.first("StudyInstanceUID") != self._study and not found.reason:
            recording.discard()
            why = StoreResponse(OTHER_STUDY, "not of the study that the address names")
            self.done.append(_outcome(context_key, uid, found.facts, why))
            return
        self._group.append(found)
        self._group_bytes += recording.size
        if len(self._group) >= FLUSH_PARTS or self._group_bytes >= FLUSH_BYTES:
            self._begin_flush()

    def flush(self) -> None:
        """Make durable what was received, and note what became of it."""
        self._begin_flush()
        self._end_flush()

    def _begin_flush(self) -> None:
        """One at a time: what is received meanwhile is the next one's."""
        self._end_flush()
        group, self._group, self._group_bytes = self._group, [], 0
        if not group:
            return
        future = hindrance.submit(self._pool, self._recorder.accept_all, group)
        if future is None:  # the system gives no thread
            future = Future()
            future.set_result(self._recorder.accept_all(group))
        self._flushing = future, group

    def _end_flush(self) -> None:
        if self._flushing is None:
            return
        (future, group), self._flushing = self._flushing, None
        for found, response in zip(group, future.result(), strict=True):
            facts = found.facts
            context_key = ContextKey(facts.sop_class_uid, facts.transfer_syntax_uid)
            self.done.append(_outcome(context_key, facts.sop_instance_uid, facts, response))

    def close(self) -> None:
        """Discard what is left of a part that was not complete: the request has ended, in whatever way."""
        self._end_flush()
        if self._part.recording is not None:
            self._part.recording.discard()
        for found in self._group:
            found.recording.discard()


_PRIORITIES = {each.name.lower(): each for each in Priority}
_PLAIN = frozenset({"binary", "8bit", "7bit", ""})


def _meta_end(head: bytearray) -> int:
    """Bytes of preamble and File Meta Information, as far as `head` tells; what is still to be read first.

    Where the group has no length (PS3.10 section 7.1 asks for one), as much as there may be.
    """
    first = 132 + _META_LENGTH.size
    if len(head) < first:
        return first
    group, element, _, _, length = _META_LENGTH.unpack_from(head, 132)
    if head[128:132] != b"DICM":
        return first  # parse_meta says what is wrong
    return min(first + length, MAX_META) if (group, element) == (2, 0) else MAX_META


def _refusal(context_key: ContextKey, uid: str) -> StoreResponse | None:
    if not usable_uid(context_key.transfer_syntax_uid):
        return StoreResponse(CANNOT_UNDERSTAND, "no Transfer Syntax UID")
    return refuse_object(context_key, uid)


def _outcome(
    context_key: ContextKey | None, uid: str, facts: InstanceHeader | None, response: StoreResponse
) -> StoredPart:
    study, series = (facts.first(each) if facts else "" for each in ("StudyInstanceUID", "SeriesInstanceUID"))
    cause: Cause | None = response.cause
    return StoredPart(context_key.sop_class_uid if context_key else "", uid, study, series, response.status, cause)
