"""Behind the answer: records go to an `Applier` in batches, and how far they are applied is kept.

The applier writes the files of a batch, makes them durable, and commits their rows together with "applied up to", in
one transaction. It may get the same record again, after a crash: `record.identity.name` names the file, so that it
overwrites what it wrote before. When it raises, nothing of the batch counts, and the same batch comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge.journal.record import RecordIdentity
from edge.journal.replay import Item, JournalRecord

#: A batch is this long at most.
BATCH_RECORDS, BATCH_BYTES = 256, 64 << 20


class Applier(Protocol):
    """What stands behind the journal: spool and catalog."""

    def read_applied(self) -> Mapping[int, int]:
        """Generation -> records applied, as the last committed transaction says."""

    def prepare(self, item: Item) -> None:
        """Begin what may be done of an item before its batch is whole. Raises EdgeError: then `apply` does it."""

    def await_prepared(self, identity: RecordIdentity) -> None:
        """Return once the memory of a record is not read any more. What `prepare` has failed to do, `apply` does."""

    def apply(self, batch: Sequence[Item], upto: Mapping[int, int]) -> None:
        """Bring a batch into spool and catalog; return when files and rows are on stable storage.

        `upto` is to be committed in the same transaction: generation -> records applied. A damage is entered by its
        name, and its segment kept: behind `upto` nothing reads it again. Raises EdgeError when nothing is to count.
        """


@dataclass(slots=True)
class AppliedProgress:
    """How far each generation is applied, without a gap. Pure. Records may be done in any order."""

    upto: dict[int, int] = field(default_factory=dict)
    _ahead: dict[int, set[int]] = field(default_factory=dict)

    def advance(self, done: Iterable[RecordIdentity]) -> AppliedProgress:
        """The progress once these are done as well."""
        upto, ahead = dict(self.upto), {key: set(value) for key, value in self._ahead.items()}
        for identity in done:
            ahead.setdefault(identity.generation, set()).add(identity.index)
        for generation, indexes in list(ahead.items()):
            count = upto.get(generation, 0)
            while count in indexes:
                indexes.discard(count)
                count += 1
            upto[generation] = count
            indexes.difference_update([index for index in indexes if index < count])
            if not indexes:
                del ahead[generation]
        return AppliedProgress(upto, ahead)

    def keep(self, is_live: Callable[[int], bool]) -> AppliedProgress:
        """The progress of the generations that segments still have: of others no record comes any more."""
        return AppliedProgress({key: count for key, count in self.upto.items() if is_live(key)}, self._ahead)


class Batches:
    """Collects items and applies them.

    `applied` is called with (generation, records) once that is durable; before, `spooled` with each record and its end
    (`RecordHead.end`; 0: unknown), when its file is written. `is_live`: does a segment still have this generation?
    """

    def __init__(
        self,
        applier: Applier,
        applied: Callable[[int, int], None],
        spooled: Callable[[RecordIdentity, int], None] = lambda _identity, _end: None,
        is_live: Callable[[int], bool] = lambda _generation: True,
        most_records: int = BATCH_RECORDS,
    ) -> None:
        self._applier, self._applied, self._spooled, self._is_live = applier, applied, spooled, is_live
        self._most_records = most_records
        self._progress = AppliedProgress(dict(applier.read_applied()))
        self._items: list[Item] = []
        self._bytes = 0

    def add(self, item: Item) -> None:
        """Put an item into the batch; a full batch is applied at once. Raises what the applier raises.

        Its memory is not needed behind `await_prepared`: what has to be done again is read from the segments.
        """
        if isinstance(item, JournalRecord):
            self._items.append(JournalRecord(item.folder, item.head))
            self._bytes += item.head.body_length
        else:
            self._items.append(item)
        self._applier.prepare(item)
        if not isinstance(item, JournalRecord) or item.memory is None:
            self._spooled(item.identity, item.head.end if item.head is not None else 0)
        if len(self._items) >= self._most_records or self._bytes >= BATCH_BYTES:
            self.flush()

    def await_prepared(self, identity: RecordIdentity, end: int) -> None:
        """Return once a record's memory is not needed any more. For each that had memory, in their order."""
        self._applier.await_prepared(identity)
        self._spooled(identity, end)

    @property
    def is_empty(self) -> bool:
        return not self._items

    def flush(self) -> None:
        """Apply what there is. Raises what the applier raises; then the batch is as it was."""
        if not self._items:
            return
        # A whole segment that cannot be read is kept, not counted.
        progress = self._progress.advance(item.identity for item in self._items if item.identity.generation)
        changed = {key: count for key, count in progress.upto.items() if self._progress.upto.get(key, 0) != count}
        self._applier.apply(tuple(self._items), changed)
        self._progress = progress.keep(self._is_live)
        self._items, self._bytes = [], 0
        for generation, records in changed.items():
            self._applied(generation, records)
