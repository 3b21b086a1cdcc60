"""The values that a destination's writer, scheduler and senders exchange: jobs, results, writes of a transaction."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.model import AttemptResult, ContextKey, Lease, SentCopy
from edge.network.answer_times import AnswerTally
from edge.store.destinations import KnownHealth


class Killable(Protocol):
    """A sender, as far as the scheduler knows one."""

    def kill(self) -> None: ...

    def count_moved_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A corrected or converted copy of an object; it can be made again."""

    transfer_syntax_uid: str
    path: Path
    dataset_offset: int
    size: int  # of the file, in bytes
    sha256: bytes = b""  # of its data set
    xxh3: bytes = b""  # XXH3-128 of the same
    rules: tuple[str, ...] = ()  # that changed an attribute
    sop_instance_uid: str = ""  # the UIDs where they differ from the original's
    study_uid: str = ""
    series_uid: str = ""

    @property
    def as_sent(self) -> SentCopy:
        """What is on record of it once it was sent."""
        uids = self.sop_instance_uid, self.study_uid, self.series_uid
        return SentCopy(self.transfer_syntax_uid, self.sha256, self.size - self.dataset_offset, self.rules, *uids)


#: What counts as moving on: fewer bytes between two checks are none.
STEP_BYTES = 1024


@dataclass(slots=True, eq=False)
class Job:
    """A leased delivery that is being sent, or is next."""

    lease: Lease
    batch: int  # the number of the transaction that leased it
    copy: Copy | None = None
    is_prepared: bool = False  # its copy is made, or none is needed
    is_incompressible: bool = False  # it cannot be compressed: it goes as it is
    sender: Killable | None = None  # while it is under way
    alone: bool = False  # it has broken associations: it goes as the only one on an association
    sample: bool = False  # taken from elsewhere in the queue, to be tried next
    returned: bool = False  # an association ended with it that had served others: the next time it counts
    is_on_its_way: bool = False  # its last byte has gone to the socket, with others that still go
    late: bool = False  # still for longer than its place was lent
    silent_seconds: float = 0.0  # after which its place was taken from it; 0: it was not
    begun: float = 0.0  # monotonic
    still_since: float = 0.0  # monotonic
    _moved: int | None = None  # None: not checked yet

    def notice(self, now: float) -> None:
        """Has it moved on since the last check?"""
        moved = self.sender.count_moved_bytes() if self.sender else 0
        if self._moved is None:
            self._moved = moved
        elif moved >= self._moved + STEP_BYTES:
            self._moved, self.still_since = moved, now

    def begin(self, sender: Killable, now: float) -> None:
        self.sender, self.begun, self.still_since = sender, now, now
        self._moved, self.is_on_its_way, self.late, self.silent_seconds = None, False, False, 0.0

    def has(self, transfer_syntax_uid: str) -> bool:
        """Is there something to send in this syntax?"""
        return self.transfer_syntax_uid == transfer_syntax_uid

    def is_ready(self, transfer_syntax_uid: str) -> bool:
        """Is it prepared for being sent in this syntax?"""
        return self.is_prepared and self.has(transfer_syntax_uid)

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax of the data set that is sent."""
        return self.copy.transfer_syntax_uid if self.copy else self.lease.context_key.transfer_syntax_uid

    @property
    def sop_instance_uid(self) -> str:
        """The UID under which it is sent."""
        return (self.copy.sop_instance_uid if self.copy else "") or self.lease.sop_instance_uid

    @property
    def study_uid(self) -> str:
        """The UID of its study, as it is sent."""
        return (self.copy.study_uid if self.copy else "") or self.lease.study_uid

    @property
    def sha256(self) -> bytes:
        """The digest of the data set that is sent."""
        return (self.copy or self.lease).sha256

    @property
    def data_set_bytes(self) -> int:
        """Bytes of the data set that is sent."""
        what = self.copy or self.lease
        return what.size - what.dataset_offset

    def drop_copy(self) -> None:
        """Let go of the copy; it is prepared again before it is sent."""
        self.is_prepared = False
        if self.copy is not None:
            self.copy.path.unlink(missing_ok=True)
            self.copy = None


class PendingJobs:
    """Jobs without a sender yet, the most urgent first."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        bisect.insort(self._jobs, job, key=lambda p: (not p.sample, p.lease.priority, p.lease.delivery_id))

    def take(self, contexts: Collection[ContextKey]) -> Job | None:
        """The first of these presentation contexts.

        But nothing passes one of another context if it is less urgent or was leased later: that one would wait
        indefinitely for an association of its own.
        """
        passed: Job | None = None
        for index, job in enumerate(self._jobs):
            if passed and (job.batch > passed.batch or job.lease.priority > passed.lease.priority):
                continue
            if job.lease.context_key in contexts:
                return self._jobs.pop(index)
            passed = passed or job
        return None

    def clear(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs


@dataclass(frozen=True, slots=True)
class Health(KnownHealth):
    """What is known of a destination that is being sent to."""

    associations: int = 0
    rate: float | None = None  # bytes a second while it sends; None: not measured
    answers: AnswerTally | None = None  # of its C-STORE responses since the start
    outpaced_at: float | None = None  # bytes a second of the encoders, where the line is faster: nothing is compressed


@dataclass(frozen=True, slots=True)
class JobResult:
    """How one job ended, until it is written down."""

    attempt: AttemptResult
    lost: bool = False  # our file is not what was received
    copy: SentCopy | None = None  # what was sent, where that was not the original


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """What is to be written in one transaction."""

    at: float  # the time that is written down, seconds since 1970
    results: Sequence[JobResult] = ()
    back: Sequence[Lease] = ()  # not tried: pending again
    renew: Sequence[Lease] = ()  # still under way
    health: Health | None = None  # where there is something new to note
    limit: int = 0  # instances to lease
    max_bytes: int = 0
    sample: bool = False  # lease one from the other end of the queue
    suspect: bool = False  # lease one that has broken associations

    @property
    def is_empty(self) -> bool:
        return not (self.results or self.back or self.renew or self.health or self.limit or self.sample or self.suspect)


@dataclass(frozen=True, slots=True)
class Leased:
    """What one transaction has leased."""

    leases: Sequence[Lease] = ()
    sample: Sequence[Lease] = ()
    suspect: Sequence[Lease] = ()
    next_suspect: float | None = None  # when the next one is due, seconds since 1970
