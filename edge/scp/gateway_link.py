"""The requests of doors to the daemon, which alone knows: places, callers, reports, refusals.

`LocalLink` is the gateway's side, one for each door. A door in a process of its own asks it over a socket
(edge.scp.remote_link).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge.dicom.performed_step import StepAnswer
from edge.errors import Cause
from edge.model import Origin
from edge.network.answer_times import AnswerTally
from edge.query.asking import NotedQuery
from edge.scp.admission import Admission, Caller
from edge.scp.capacity import AssociationPlace, Associations, Limit

#: Presentation contexts as they are remembered: abstract syntax, transfer syntaxes.
Proposed = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class MadeCopy:
    """A copy of an object, in a file of the daemon's; without a path it cannot be made."""

    path: str = ""
    dataset_offset: int = 0
    size: int = 0
    sop_instance_uid: str = ""  # where it differs from the object's: the copy is de-identified


class Copies(Protocol):
    """Makes copies of objects, for retrievals."""

    def start(self, path: str, target_syntax: str, destination: str) -> int: ...
    def find(self, token: int) -> MadeCopy | None: ...
    def drop(self, token: int) -> None: ...


class Readers(Protocol):
    """What is read by retrievals, so that nothing of it is evicted; and what is fetched for them, once."""

    def note(self, studies: Sequence[int], is_begun: bool) -> None: ...
    def begin_fetch(self, study_uid: str) -> bool: ...
    def end_fetch(self, study_uid: str) -> None: ...


class GatewayLink(Protocol):
    """See the module's docstring. Thread-safe."""

    def take_place(self, title: str, address: str) -> int | Limit:
        """A place for an association, for a connection that was handed on to this door."""

    def give_back_place(self, place: int) -> None:
        """Give back the place of an association that has ended."""

    def note_left(self) -> None:
        """Note that a connection that was handed on to this door has ended without asking for a place."""

    def note_call(self, caller: Caller, admission: Admission, proposed: Proposed, stored: int) -> None:
        """See edge.scp.callers."""

    def note_answers(self, modality: str, tally: AnswerTally) -> None:
        """How long the answers to a modality took (edge.network.answer_times)."""

    def note_refusal(self, address: str, title: str, why: str) -> None:
        """See edge.scp.rejections."""

    def note_query(self, query: NotedQuery) -> None:
        """Count and record a question that was answered."""

    def note_reading(self, studies: Sequence[int], is_begun: bool) -> None:
        """A retrieval reads, or has read, files of these studies."""

    def begin_fetch(self, study_uid: str) -> bool:
        """Begin to fetch a study from an archive. False: another retrieval does."""

    def end_fetch(self, study_uid: str) -> None:
        """What this retrieval fetches of a study is here, or does not come."""

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        """Have a copy made of an object of the spool, as `destination` gets it; the copy's number."""

    def find_copy(self, token: int) -> MadeCopy | None:
        """None: it is not made yet."""

    def drop_copy(self, token: int) -> None:
        """Let the copy's file go."""

    def note_damaged(self, path: str) -> None:
        """Have a file of the spool examined that cannot be read, or is not what was received."""

    def note_hindrance(self, cause: Cause) -> None:
        """Note that something was refused because of the gateway itself."""

    def keeps_unreadable(self, origin: Origin, size: int) -> bool:
        """Take of the sender's share of quarantine; False: it is used up."""

    def take_report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: Caller
    ) -> bool:
        """An archive's storage commitment report. False: the transaction is not ours. Raises ReportRefused."""

    def is_forbidden(self, sop_instance_uid: str) -> bool:
        """Does a rejection note forbid that this instance comes again?"""

    def fail(self, reason: str) -> None:
        """Accept nothing more: a write has failed."""


class KnownRequests(Protocol):
    """Which requests for storage commitment are known, of a caller and its Transaction UIDs."""

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        """What was asked under this Transaction UID."""

    def is_full(self, modality: str) -> bool:
        """Are as many reports owed to a modality as are kept?"""

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        """Note a request that is on record, and may not be in the catalog yet."""


class KnownSteps(Protocol):
    """Which performed procedure steps are known, and their states."""

    def begin(self, uid: str, operation: str, state: str, digest: bytes, has_series: bool | None = None) -> StepAnswer:
        """May this message follow on what is on record? Then it must be ended, unless it is a repeat."""

    def end(self, uid: str, *, is_recorded: bool) -> None:
        """End a message: it is on record, or not."""


@contextmanager
def reading_studies(link: GatewayLink, studies: Iterable[int]) -> Iterator[None]:
    """Inside, nothing of these studies is evicted."""
    if not (read := sorted(set(studies))):
        yield
        return
    link.note_reading(read, True)
    try:
        yield
    finally:
        link.note_reading(read, False)


@dataclass(eq=False)
class LocalLink:
    """See GatewayLink."""

    associations: Associations
    note_call: Callable[[Caller, Admission, Proposed, int], None]
    note_refusal: Callable[[str, str, str], None]
    note_hindrance: Callable[[Cause], None]
    keeps_unreadable: Callable[[Origin, int], bool]
    take_report: Callable[[str, Sequence[str], Mapping[str, int], Caller], bool]
    fail: Callable[[str], None]
    commitments: KnownRequests
    steps: KnownSteps
    read_worklist: Callable[[str, str, int], dict[str, Any]]
    copies: Copies
    readers: Readers
    note_query: Callable[[NotedQuery], None] = lambda _: None
    note_answers: Callable[[str, AnswerTally], None] = lambda _name, _tally: None
    is_forbidden: Callable[[str], bool] = lambda _: False
    note_damaged: Callable[[str], None] = lambda _: None
    more: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # what edge.scp.dicomweb asks beside these
    connections: int = field(default=0, init=False)  # that were handed on and have not ended

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[int, AssociationPlace] = {}
        self._number = 0
        self._begun_steps: set[str] = set()
        self._tokens: set[int] = set()
        self._reading: Counter[int] = Counter()
        self._fetching: set[str] = set()

    def note_handed_on(self) -> None:
        """Count a connection that goes to this door."""
        with self._lock:
            self.connections += 1

    def note_left(self) -> None:
        with self._lock:
            self.connections -= 1

    def take_place(self, title: str, address: str) -> int | Limit:
        place = self.associations.take(title, address)
        if isinstance(place, Limit):
            self.note_left()
            return place
        with self._lock:
            self._number += 1
            self._places[self._number] = place
            return self._number

    def give_back_place(self, place: int) -> None:
        with self._lock:
            found = self._places.pop(place)
            self.connections -= 1
        self.associations.give_back(found)

    def note_reading(self, studies: Sequence[int], is_begun: bool) -> None:
        self.readers.note(studies, is_begun)
        for study in studies:
            self._reading[study] += 1 if is_begun else -1

    def begin_fetch(self, study_uid: str) -> bool:
        is_ours = self.readers.begin_fetch(study_uid)
        if is_ours:
            self._fetching.add(study_uid)
        return is_ours

    def end_fetch(self, study_uid: str) -> None:
        if study_uid in self._fetching:
            self._fetching.discard(study_uid)
            self.readers.end_fetch(study_uid)

    def start_copy(self, path: str, target_syntax: str, destination: str = "") -> int:
        token = self.copies.start(path, target_syntax, destination)
        self._tokens.add(token)
        return token

    def find_copy(self, token: int) -> MadeCopy | None:
        return self.copies.find(token) if token in self._tokens else MadeCopy()

    def drop_copy(self, token: int) -> None:
        if token in self._tokens:
            self._tokens.discard(token)
            self.copies.drop(token)

    def close(self) -> None:
        """Give back all that the door's associations held: it has ended."""
        for token in list(self._tokens):
            self.drop_copy(token)
        for study_uid in list(self._fetching):
            self.end_fetch(study_uid)
        for study in list((+self._reading).elements()):
            self.note_reading([study], False)
        for place in list(self._places):
            self.give_back_place(place)
        for uid in list(self._begun_steps):
            self.end_step(uid, is_recorded=False)

    def begin_step(self, uid: str, operation: str, state: str, digest: bytes, has_series: bool | None) -> StepAnswer:
        """See KnownSteps; what this door has begun ends with it."""
        answer = self.steps.begin(uid, operation, state, digest, has_series)
        if not answer.status and not answer.is_repeat:
            self._begun_steps.add(uid)
        return answer

    def end_step(self, uid: str, *, is_recorded: bool) -> None:
        self._begun_steps.discard(uid)
        self.steps.end(uid, is_recorded=is_recorded)
