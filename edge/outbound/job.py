"""What the stations of the way out hand to each other: jobs, the stock of them, results, and the clerk's turns."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.dicom.uids import name_of
from edge.model import AttemptResult, ContextKey, Lease


class Killable(Protocol):
    """A sender, as far as its dispatch knows one."""

    def kill(self) -> None: ...

    def moved(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A converted copy of an object; it can be made again."""

    transfer_syntax_uid: str
    path: Path
    dataset_offset: int
    size: int  # of the file, in bytes


#: What counts as moving on: fewer bytes between two looks are none.
STEP_BYTES = 1024


@dataclass(slots=True, eq=False)
class Job:
    """Leased work on its way."""

    work: Lease
    lease: int  # the number of the lease that brought it
    copy: Copy | None = None
    carrier: Killable | None = None  # the sender, while it is under way
    alone: bool = False  # it has broken associations: it goes as the only one on an association
    sample: bool = False  # taken from elsewhere in the queue, to be tried next
    returned: bool = False  # an association ended with it that had served others: the next time it counts
    late: bool = False  # still for longer than its place was lent
    cut: str = ""  # why its place was taken from it
    begun: float = 0.0  # monotonic
    still_since: float = 0.0  # monotonic
    _moved: int | None = None  # None: nobody has looked yet

    def notice(self, now: float) -> None:
        """Has it moved on since the last look?"""
        moved = self.carrier.moved() if self.carrier else 0
        if self._moved is None:
            self._moved = moved
        elif moved >= self._moved + STEP_BYTES:
            self._moved, self.still_since = moved, now

    def begin(self, carrier: Killable, now: float) -> None:
        self.carrier, self.begun, self.still_since = carrier, now, now
        self._moved, self.late, self.cut = None, False, ""

    def has(self, transfer_syntax_uid: str) -> bool:
        """Is there something to send in this syntax?"""
        there = self.copy.transfer_syntax_uid if self.copy else self.work.kind.transfer_syntax_uid
        return there == transfer_syntax_uid

    def change(self) -> str:
        """How what is sent differs from what was received, for the ledger; empty where it does not."""
        if self.copy is None:
            return ""
        received, sent = self.work.kind.transfer_syntax_uid, self.copy.transfer_syntax_uid
        return f"a copy in {name_of(sent)}, received in {name_of(received)}"

    def drop_copy(self) -> None:
        if self.copy is not None:
            self.copy.path.unlink(missing_ok=True)
            self.copy = None


class PendingJobs:
    """Jobs that nobody carries yet, the most urgent first."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        bisect.insort(self._jobs, job, key=lambda p: (not p.sample, p.work.priority, p.work.delivery_id))

    def take(self, kinds: Collection[ContextKey]) -> Job | None:
        """The first of these kinds.

        But nothing passes one of another kind if it is less urgent or was leased later: that one would wait for ever
        for an association of its own.
        """
        passed: Job | None = None
        for index, job in enumerate(self._jobs):
            if passed and (job.lease > passed.lease or job.work.priority > passed.work.priority):
                continue
            if job.work.kind in kinds:
                return self._jobs.pop(index)
            passed = passed or job
        return None

    def clear(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a destination. Times are seconds since 1970."""

    state: str = "up"  # "up" | "down"
    since: float = 0.0
    retry_at: float | None = None  # while down
    last_success: float | None = None
    last_error: str | None = None
    associations: int = 0
    rate: float | None = None  # bytes a second while it sends; None: not measured


@dataclass(frozen=True, slots=True)
class JobResult:
    """How one job ended, until it is written down."""

    settlement: AttemptResult
    lost: bool = False  # our file is not what was received
    changed: str = ""  # how the copy that was sent differs from what was received


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """What the clerk is to do in one transaction."""

    at: float  # the time that is written down, seconds since 1970
    results: Sequence[JobResult] = ()
    back: Sequence[Lease] = ()  # untried: pending again
    renew: Sequence[Lease] = ()  # still under way: leased on
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
    """What one turn brought."""

    works: Sequence[Lease] = ()
    sample: Sequence[Lease] = ()
    suspect: Sequence[Lease] = ()
    next_suspect: float | None = None  # when the next one is due, seconds since 1970
