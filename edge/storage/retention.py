"""Room on the disk: above `storage.refuse` nothing more is taken, above `storage.warn` goes what is proved elsewhere.

Promise: only instances that every destination has confirmed, at least `retention.keep` ago, and that no hold keeps, are
ever evicted, those confirmed longest ago first. Above `warn`, so many go that use falls to five points (of the whole
file system) below it. Each batch is committed, with its ledger rows, before its files are removed: a crash in between
leaves files whose rows say evicted, and the walk after the next start removes them.

Room is bytes and inodes: each has both marks, and the one that is nearer to its end decides. When nothing may go,
nothing goes: `Gate` then refuses new objects, and opens again by itself when there is room.

What a person has discarded is deleted after `[quarantine] keep`; its digest stays in the ledger.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from edge.config.sections import Config
from edge.errors import Cause, EdgeError, StorageFull, place_of
from edge.hindrance import Hindrance, words_of
from edge.model import Disk
from edge.spool import Spool
from edge.storage.reserve import ReserveFile
from edge.store import catalog, ledger, operator_actions
from edge.store.catalog import Candidate, Evicted
from edge.store.database import Connection, Database

log = logging.getLogger(__name__)

#: Evicting goes on until use is so much of the file system below `storage.warn`: not a little at every arrival.
BELOW_WARN = 0.05
#: Once refusing, objects are taken again only this much below `storage.refuse`: no flapping at the mark.
HYSTERESIS = 0.005
#: Instances evicted in one transaction: short, for receivers wait while it runs.
BATCH = 200
TICK_SECONDS = 5.0
REFUSING_TICK_SECONDS = 1.0
SWEEP_SECONDS = 3600.0


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


def plan(
    candidates: Iterable[Candidate], needed: int, confirmed_before: float, needed_files: int = 0
) -> list[Candidate]:
    """What to evict for `needed` bytes and so many files, the oldest confirmation first.

    Never what is unconfirmed, held or too young.
    """
    chosen: list[Candidate] = []
    for each in sorted(filter(_is_proved, candidates), key=lambda c: c.confirmed_at or 0.0):
        if (needed <= 0 and needed_files <= 0) or each.confirmed_at is None or each.confirmed_at > confirmed_before:
            break
        chosen.append(each)
        needed, needed_files = needed - each.size, needed_files - 1
    return chosen


def _is_proved(candidate: Candidate) -> bool:
    return candidate.confirmed_at is not None and candidate.open_deliveries == 0 and not candidate.hold


# -- the gate ---------------------------------------------------------------------------------------------------------


class DiskGuard:
    """May bytes be taken? Asked before every object, and again within long ones; from any thread."""

    def __init__(
        self,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._disk, self._clock = config, disk, clock
        self._lock = threading.Lock()
        self._found: Hindrance | None = None  # why nothing is taken
        self.on_refusing: Callable[[], None] = lambda: None  # called when it begins: retention is to look at once

    def check_room(self) -> None:
        """Raises StorageFull while the file system is too full."""
        if found := self.hindrance:
            raise StorageFull(found.text, found.cause)

    @property
    def refusing(self) -> bool:
        return self.hindrance is not None

    @property
    def hindrance(self) -> Hindrance | None:
        """Why nothing is taken. Asked each time: statvfs(2) takes microseconds, a disk fills in a second."""
        with self._lock:
            before, found = self._found, self._look()
            if found and before and found.cause is before.cause:
                found = replace(found, since=before.since)
            self._found = found
        if found and not before:
            log.error("nothing more is accepted: %s", found.text)
            self.on_refusing()
        elif before and not found:
            log.warning("there is room again: objects are accepted")
        return found

    def _look(self) -> Hindrance | None:
        mark, now = self._config().storage.refuse, self._clock()
        try:
            disk = self._disk()
        except OSError as error:
            text = f"the file system cannot be looked at ({error.strerror or error})"
            return Hindrance(Cause.UNKNOWN_ROOM, now, text=text)
        if disk.is_read_only:
            return Hindrance(Cause.READ_ONLY, now, text=f"the gateway is {words_of(Cause.READ_ONLY)}")
        limit = mark - (HYSTERESIS if self._found else 0.0)
        if (used := disk.used_fraction) >= limit:
            return Hindrance(Cause.BYTES, now, used, mark, f"the disk is {used:.1%} full, storage.refuse is {mark:.1%}")
        if (used := disk.used_inodes_fraction) >= limit:
            text = f"{used:.1%} of the inodes are used, storage.refuse is {mark:.1%}"
            return Hindrance(Cause.INODES, now, used, mark, text)
        return None


# -- the thread -------------------------------------------------------------------------------------------------------


class Retention:
    """Keeps room on the disk. See the module's promise."""

    def __init__(
        self,
        db: Database,
        spool: Spool,
        config: Callable[[], Config],
        disk: Callable[[], Disk],
        *,
        ballast: ReserveFile | None = None,
        doubts_clock: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`config` gives the configuration of the moment; `doubts_clock`: may the clock be ahead?"""
        self._doubts_clock = doubts_clock
        self._db, self._spool, self._config, self._disk, self._clock = db, spool, config, disk, clock
        self._ballast = ballast
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._swept_at = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look at once."""
        self._woken.set()

    def stop(self, timeout: float = 10.0) -> None:
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            wait = TICK_SECONDS
            try:
                wait = self.step()
            except EdgeError as error:
                log.error("making room on the disk: %s", error)
            except Exception as error:  # noqa: BLE001 - the thread must outlive a fault, and say so
                log.error("making room on the disk: %s", place_of(error))
            self._woken.wait(wait)

    def step(self) -> float:
        """Make room where it is wanted; returns the seconds until the next look."""
        self.make_room()
        self.delete_discarded()
        if not 0 <= self._clock() - self._swept_at < SWEEP_SECONDS:
            self._swept_at = self._clock()
            self._spool.drop_empty_buckets()
        if self._ballast is not None:
            self._ballast.keep()
        refuse = self._config().storage.refuse
        return REFUSING_TICK_SECONDS if self._disk().fullest >= refuse - HYSTERESIS else TICK_SECONDS

    def make_room(self) -> int:
        """Evict what the disk's use asks for and the rules allow. Returns how many instances went."""
        config, disk, now = self._config(), self._disk(), self._clock()
        # Ages by a clock that may be ahead free room only where scanners would be refused otherwise.
        mark = config.storage.refuse - HYSTERESIS if self._doubts_clock() else config.storage.warn
        needed, files = to_free(disk, mark), inodes_to_free(disk, mark)
        confirmed_before = now - config.retention.keep
        count = 0
        while (needed > 0 or files > 0) and not self._stopping.is_set():
            with self._db.reading() as conn:
                candidates = catalog.oldest_confirmed(conn, BATCH)
            gone = self._evict(plan(candidates, needed, confirmed_before, files), confirmed_before, now, disk)
            if not gone:
                break
            count += len(gone)
            needed, files = needed - sum(each.size for each in gone), files - len(gone)
        if count:
            log.info("evicted %d instances: %s", count, _how_full(disk))
        return count

    def delete_discarded(self) -> int:
        """Delete what was discarded long ago. Returns how many files went.

        The file goes before its row: a crash in between leaves a row whose file is deleted again, which is none.
        """
        if self._doubts_clock():
            return 0
        now = self._clock()
        with self._db.reading() as conn:
            found = operator_actions.discarded_before(conn, now - self._config().quarantine.keep, BATCH)
        for each in found:
            self._spool.remove(each.path)
        if found:
            self._db.write(lambda conn: operator_actions.note_deleted(conn, found, now))
            log.info("deleted %d discarded instances", len(found))
        return len(found)

    def _evict(self, chosen: list[Candidate], confirmed_before: float, now: float, disk: Disk) -> list[Evicted]:
        if not chosen:
            return []
        detail = f"every destination has confirmed it; {_how_full(disk)}"

        def work(conn: Connection) -> list[Evicted]:
            gone = [e for each in chosen if (e := catalog.evict(conn, each.instance_id, confirmed_before))]
            _record(conn, gone, now, detail)
            return gone

        gone = self._db.write(work)
        for each in gone:
            self._remove(each)
        return gone

    def _remove(self, evicted: Evicted) -> None:
        try:
            self._spool.remove(evicted.path)
        except OSError as error:
            log.error("%s stays until the next start: %s", evicted.path, error.strerror or error)


def _how_full(disk: Disk) -> str:
    if disk.used_inodes_fraction > disk.used_fraction:
        return f"{disk.used_inodes_fraction:.1%} of the inodes were used"
    return f"the disk was {disk.used_fraction:.1%} full"


def _record(conn: Connection, gone: list[Evicted], now: float, detail: str) -> None:
    """One ledger row for each study."""
    studies: dict[int | None, list[int]] = defaultdict(list)
    for each in gone:
        studies[each.study_id].append(each.instance_id)
    for study_id, instances in studies.items():
        ledger.append(conn, now, ledger.EVICTED, ledger.EDGE, instances, study_id=study_id, detail=detail)


# -- holds ------------------------------------------------------------------------------------------------------------


def apply_holds(conn: Connection, config: Config) -> None:
    """Make the catalog follow [hold]: at the start, and after a reload.

    What a rule kept at arrival stays kept as long as a hold of that name has a rule. Studies that are listed are kept
    from now on, and let go when they no longer are. What is kept for another reason than a [hold] stays so.
    """
    for reason in catalog.holds(conn):
        table, _, name = reason.partition(".")
        hold = config.holds.get(name)
        if table == "hold" and hold is None:
            catalog.unhold(conn, reason)
        elif table == "hold" and hold is not None and not hold.when:
            catalog.unhold(conn, reason, but_studies=hold.studies)
    for hold in config.holds.values():
        for study_uid in hold.studies:
            catalog.hold_study(conn, study_uid, f"hold.{hold.name}")
