"""Room on the disk: above `storage.refuse` nothing more is taken, above `storage.warn` goes what is proved elsewhere.

Promise: only instances that every destination has confirmed, at least `retention.keep` ago (or the longer time of a
rule [retention.NAME] that they meet), and that no hold keeps, of the configuration or a legal one, are ever evicted,
those confirmed longest ago first. An original that others have as corrected copies alone stays, unless
`retention.corrected` says otherwise. Above `warn`, as many go as needed so that use falls to five points (of the whole
file system) below it. Each batch is committed, with its ledger rows, before its files are removed: a crash in between
leaves files whose rows say evicted, and the walk after the next start removes them.

What is cached (fetched from an archive, owed to no destination) is evicted before anything else, at any age; then what
a rejection note says is expired (113039), once it is proved.

Room is bytes and inodes: each has both marks, and the one that is nearer to its end decides. When nothing may go,
nothing goes: `edge.spool.room.DiskGuard` then refuses new objects, and opens again by itself when there is room.

What a person has discarded is deleted after `[quarantine] keep`; its digest stays in the ledger.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf

from edge.config.sections import HOLD_PREFIX, Config
from edge.model import Disk
from edge.spool import Spool
from edge.spool.room import HYSTERESIS
from edge.store import eviction, ledger, ledger_text, legal_holds, operator_actions, rejection_notes, tallies
from edge.store.database import Store, Transaction
from edge.store.eviction import Candidate, Evicted
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

#: Evicting goes on until use is so much of the file system below `storage.warn`: not a little at every arrival.
BELOW_WARN = 0.05
#: Instances evicted in one transaction: short, for receivers wait while it runs.
EVICT_AT_ONCE = 200
_TICK_SECONDS = 5.0
REFUSING_TICK_SECONDS = 1.0
RETENTION_THREAD = ThreadSpec(
    "retention", __name__, "instances, ledger; deletes spooled files", "after the batch that it evicts"
)


# -- decisions --------------------------------------------------------------------------------------------------------


def to_free(disk: Disk, warn: float) -> int:
    """Bytes to free now: none up to `warn`, above it as many as lead to the low mark."""
    if disk.used_fraction <= warn:
        return 0
    return int((disk.used_fraction - max(warn - BELOW_WARN, 0.0)) * disk.total_bytes)


def inodes_to_free(disk: Disk, warn: float) -> int:
    """Files to let go of now, by the same marks: each has an inode."""
    if disk.used_inodes_fraction <= warn:
        return 0
    return round((disk.used_inodes_fraction - max(warn - BELOW_WARN, 0.0)) * disk.total_inodes)


@dataclass(frozen=True, slots=True)
class Ages:
    """The times before which an instance must be confirmed to be evicted: in general, and by rule."""

    general: float
    rules: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config, now: float) -> Ages:
        """A rule keeps longer than [retention] keep, never shorter; one that is configured no more keeps nothing."""
        keep = config.retention.keep
        return cls(now - keep, {each.name: now - max(keep, each.keep) for each in config.retention_rules.values()})

    def confirmed_before(self, rule: str) -> float:
        return self.rules.get(rule, self.general)


def plan(candidates: Iterable[Candidate], needed: int, ages: Ages | float, needed_files: int = 0) -> list[Candidate]:
    """What to evict for `needed` bytes and files, the oldest confirmation first.

    Never what is unconfirmed, held or too young. `ages`: a moment stands for one without rules.
    """
    ages = ages if isinstance(ages, Ages) else Ages(ages)
    chosen: list[Candidate] = []
    for each in sorted(filter(_is_proved, candidates), key=lambda c: c.confirmed_at or 0.0):
        if needed <= 0 and needed_files <= 0:
            break
        if each.confirmed_at is None or each.confirmed_at > ages.confirmed_before(each.retention):
            continue
        chosen.append(each)
        needed, needed_files = needed - each.size, needed_files - 1
    return chosen


def _is_proved(candidate: Candidate) -> bool:
    return candidate.confirmed_at is not None and candidate.open_deliveries == 0 and not candidate.hold


# -- the thread -------------------------------------------------------------------------------------------------------


class Retention:
    """Keeps room on the disk. See the module's promise."""

    def __init__(
        self,
        db: Store,
        spool: Spool,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        *,
        doubts_clock: Callable[[], bool] = lambda: False,
        is_read: Callable[[int | None], bool] = lambda _: False,
        review: Callable[[Sequence[int]], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`config` gives the current configuration; `doubts_clock`: may the clock be ahead?

        `is_read`: does a retrieval read files of this study now? `review` applies rules of now to some instances, and
        says whether one has another rule.
        """
        self._doubts_clock, self._is_read, self._review = doubts_clock, is_read, review
        self._db, self._spool, self._config, self._disk, self._clock = db, spool, config, disk, clock
        self.worker = Worker(RETENTION_THREAD, self.step, longest_pause_seconds=_TICK_SECONDS)

    def step(self) -> float:
        """Make room where it is wanted; returns the seconds until the next look."""
        self.end_legal_holds()
        self.make_room()
        self.delete_discarded()
        refuse = self._config().storage.refuse
        return REFUSING_TICK_SECONDS if self._disk().fullest >= refuse - HYSTERESIS else _TICK_SECONDS

    def make_room(self) -> int:
        """Evict what the disk's use asks for and the rules allow. Returns how many instances went."""
        config, disk, now = self._config(), self._disk(), self._clock()
        # Ages by a clock that may be ahead free room only where scanners would be refused otherwise.
        mark = config.storage.refuse - HYSTERESIS if self._doubts_clock() else config.storage.warn
        needed, files = to_free(disk, mark), inodes_to_free(disk, mark)
        ages = Ages.from_config(config, now)
        count, needed, files = self._drop_first(eviction.oldest_cached, eviction.evict_cached, needed, files, disk)
        corrected = config.retention.corrected
        more, needed, files = self._drop_first(
            lambda conn, most: rejection_notes.oldest_rejected(conn, most, corrected=corrected),
            lambda conn, instance: eviction.evict(conn, instance, now, corrected=corrected),
            needed,
            files,
            disk,
        )
        count += more
        while (needed > 0 or files > 0) and not self.worker.is_stopping:
            with self._db.reading() as conn:
                rules = tallies.first_evictable(conn)
                found = [eviction.oldest_confirmed(conn, EVICT_AT_ONCE, rule, corrected=corrected) for rule in rules]
            free = [each for each in chain.from_iterable(found) if not self._is_read(each.study_id)]
            chosen = plan(free, needed, ages, files)[:EVICT_AT_ONCE]
            if self._review([each.instance_id for each in chosen]):
                continue  # a new rule keeps one of them
            gone = self._evict(chosen, _evict_by_age(chosen, ages, corrected=corrected), disk)
            if not gone:
                break
            count += len(gone)
            needed, files = needed - sum(each.size for each in gone), files - len(gone)
        if count:
            log.info("evicted %d instances: %s", count, ledger_text.render_payload(ledger.EVICTED, _usage(disk)))
        return count

    def end_legal_holds(self) -> int:
        """End the legal holds whose date has come; a clock that may be ahead ends none. Returns how many."""
        if self._doubts_clock():
            return 0
        now = self._clock()
        with self._db.reading() as conn:
            is_due = legal_holds.has_due(conn, now)
        return self._db.write(lambda conn: legal_holds.end_due(conn, now)) if is_due else 0

    def _drop_first(
        self,
        list_oldest: Callable[[Transaction, int], list[Candidate]],
        evict: Callable[[Transaction, int], Evicted | None],
        needed: int,
        files: int,
        disk: Disk,
    ) -> tuple[int, int, int]:
        """Evict of these, at any age, what room is needed for. Returns how many went, and what is still needed."""
        count = 0
        while (needed > 0 or files > 0) and not self.worker.is_stopping:
            with self._db.reading() as conn:
                candidates = list_oldest(conn, EVICT_AT_ONCE)
            free = [each for each in candidates if not self._is_read(each.study_id)]
            gone = self._evict(plan(free, needed, inf, files), evict, disk)
            if not gone:
                break
            count += len(gone)
            needed, files = needed - sum(each.size for each in gone), files - len(gone)
        return count, needed, files

    def delete_discarded(self) -> int:
        """Delete what was discarded long ago, as what is evicted. Returns how many files went."""
        if self._doubts_clock():
            return 0
        now = self._clock()
        with self._db.reading() as conn:
            found = operator_actions.discarded_before(conn, now - self._config().quarantine.keep, EVICT_AT_ONCE)
        gone = self._db.write(lambda conn: operator_actions.note_deleted(conn, found, now)) if found else []
        for each in gone:
            self._remove(each.path)
        if gone:
            log.info("deleted %d discarded instances", len(gone))
        return len(gone)

    def _evict(
        self, chosen: list[Candidate], evict: Callable[[Transaction, int], Evicted | None], disk: Disk
    ) -> list[Evicted]:
        if not chosen:
            return []
        payload, now = _usage(disk), self._clock()

        def work(conn: Transaction) -> list[Evicted]:
            gone = [e for each in chosen if (e := evict(conn, each.instance_id))]
            _record(conn, gone, now, payload)
            return gone

        gone = self._db.write(work)
        for each in gone:
            self._remove(each.path)
        return gone

    def _remove(self, path: str) -> None:
        try:
            self._spool.remove(path)
        except OSError as error:
            log.error("%s stays until the next start: %s", path, error.strerror or error)


def _evict_by_age(
    chosen: Iterable[Candidate], ages: Ages, *, corrected: bool
) -> Callable[[Transaction, int], Evicted | None]:
    """Evicts one of them, unless something has happened that keeps it."""
    before = {each.instance_id: ages.confirmed_before(each.retention) for each in chosen}
    return lambda conn, instance: eviction.evict(conn, instance, before[instance], corrected=corrected)


def _usage(disk: Disk) -> ledger.Payload:
    """What of the disk is nearer to its end."""
    is_inodes = disk.used_inodes_fraction > disk.used_fraction
    return {
        "used": round(disk.used_inodes_fraction if is_inodes else disk.used_fraction, 4),
        "is_inodes": is_inodes,
    }


def _record(conn: Transaction, gone: list[Evicted], now: float, payload: ledger.Payload) -> None:
    """One ledger row for each study."""
    studies: dict[int | None, list[int]] = defaultdict(list)
    for each in gone:
        studies[each.study_id].append(each.instance_id)
    for study_id, instances in studies.items():
        ledger.append(conn, now, ledger.EVICTED, ledger.EDGE, instances, study_id=study_id, payload=payload)


# -- holds ------------------------------------------------------------------------------------------------------------


def apply_holds(conn: Transaction, config: Config) -> None:
    """Make the catalog follow [hold]: at the start, and after a reload.

    What a rule kept at arrival stays kept as long as a hold of that name has a rule. Studies that are listed are kept
    from now on, and let go when they no longer are. What is kept for another reason than a [hold] stays so.
    """
    known = {HOLD_PREFIX + name: hold for name, hold in config.holds.items()}
    for key in eviction.holds(conn, HOLD_PREFIX):
        hold = known.get(key)
        if hold is None or not hold.when:
            eviction.unhold(conn, key, but_studies=hold.studies if hold else ())
    for key, hold in known.items():
        for study_uid in hold.studies:
            eviction.hold_study(conn, study_uid, key)
